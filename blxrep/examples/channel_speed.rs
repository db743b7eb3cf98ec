//! Speed of a bulk channel over loopback: `cargo run --release --example channel_speed [GIB]`.
//!
//! The sender and the receiver each have a thread and a runtime of their own, so that what each costs is seen.

use blxrep::io::channel::{Incoming, Listener, connect};
use blxrep::model::encoding::Encoding;
use blxrep::model::ids::StoreId;
use blxrep::wire::frame::{Data, HEADER_BYTES};
use blxrep::wire::hello::{Accepted, Channel, ClientHello, Credentials, Role};
use blxrep::wire::live::{ToAgent, ToDispatcher};
use blxrep::wire::version::SUPPORTED;
use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use std::error::Error;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let gib: u64 = std::env::args().nth(1).map_or(Ok(4), |arg| arg.parse())?;
    println!("{:>9} {:>8} {:>20} {:>20}", "payload", "GB/s", "sender CPU-s/GiB", "receiver CPU-s/GiB");
    for payload in [64 << 10, 256 << 10, 512 << 10, 1 << 20] {
        let (address, wait) = mpsc::channel();
        let receiver = std::thread::spawn(move || block_on(receive(address)));
        let address = wait.recv()?;
        let begun = Instant::now();
        let sender = std::thread::spawn(move || block_on(send(address, payload, gib << 30)));
        let sent = joined(sender)?;
        let received = joined(receiver)?;
        let wall = begun.elapsed().as_secs_f64();
        let (speed, per_gib) =
            ((gib << 30) as f64 / 1e9 / wall, |cpu: Duration| cpu.as_secs_f64() / gib as f64);
        println!("{payload:>9} {speed:>8.2} {:>20.3} {:>20.3}", per_gib(sent), per_gib(received));
    }
    Ok(())
}

fn joined<T>(thread: std::thread::JoinHandle<Outcome<T>>) -> Outcome<T> {
    thread.join().map_err(|_| "a side panicked")?
}

/// Runs one side and returns the CPU time of its thread.
fn block_on(side: impl Future<Output = Outcome<()>>) -> Outcome<Duration> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(side)?;
    Ok(Duration::try_from(clock_gettime(ClockId::ThreadCPUTime))?)
}

async fn send(address: SocketAddr, payload: u32, total: u64) -> Outcome<()> {
    let hello = ClientHello {
        versions: SUPPORTED,
        role: Role::Agent,
        channel: Channel::Live,
        flags: 0,
        session: 1,
        boot_id: [0; 16],
        agent: "speed".parse()?,
        credentials: Credentials(vec![0; 16]),
    };
    let (mut connection, _) = connect::<ToDispatcher, ToAgent>(&address.to_string(), &hello).await?;
    // A few buffers in turn, as a reader would fill them.
    let length = HEADER_BYTES + usize::try_from(payload)?;
    let mut buffers: Vec<Vec<u8>> = (0..8u8).map(|i| vec![i; length]).collect();
    for n in 0..total / u64::from(payload) {
        let mut buffer = std::mem::take(&mut buffers[usize::try_from(n % 8)?]);
        Data { encoding: Encoding::Raw, offset: n * u64::from(payload), raw_length: payload }
            .seal(&mut buffer)?;
        let message = Bytes::from(buffer);
        connection.sender.send_data(message.clone()).await?;
        buffers[usize::try_from(n % 8)?] = message.into();
    }
    connection.sender.send_end().await?;
    connection.receiver.recv().await?;
    Ok(())
}

async fn receive(address: mpsc::Sender<SocketAddr>) -> Outcome<()> {
    let listener = Listener::bind(([127, 0, 0, 1], 0).into()).await?;
    address.send(listener.local_addr()?)?;
    let pending = listener.accept().await?.hello().await?;
    let accepted = Accepted { version: 1, boot_id: [0; 16], store: StoreId(1), session: 1, kept: Vec::new() };
    let mut connection = pending.accept::<ToAgent, ToDispatcher>(accepted).await?;
    while let Incoming::Data { .. } = connection.receiver.recv().await? {}
    connection.close("done").await;
    Ok(())
}
