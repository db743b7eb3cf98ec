//! Transactions of which it is known when each was acknowledged: what a recovery point of a database must have.
//!
//! A client numbers its transactions from 1 and waits for each to be acknowledged. Every one adds a row to `ledger`
//! and counts it in `tally`, so that a copy shows a transaction that is missing, and one that is there in part.

use super::fixture::check_interrupted;
use super::stamper::Random;
use anyhow::{Context, Result, anyhow, ensure};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// Counters of each client: several, so that old pages are changed, too.
const SLOTS: u64 = 64;
/// Rows have up to so many bytes: several on a page.
const LONGEST_ROW: u64 = 1500;
/// Acknowledgements of one client, 16 bytes each: an hour at 1,000 a second.
const MAX_ACKNOWLEDGED: usize = 3_600_000;

/// Number, rows, and what was counted, for each client.
const AUDIT: &str = "SELECT client, count(*), max(n), (SELECT sum(count) FROM tally t WHERE t.client = l.client) \
                     FROM ledger l GROUP BY client ORDER BY client;";

/// Makes the tables for so many clients, in the SQL that SQLite and PostgreSQL share.
pub fn tables(clients: usize) -> String {
    let mut sql = "CREATE TABLE ledger (client integer, n integer, pad text, PRIMARY KEY (client, n));\n\
                   CREATE TABLE tally (client integer, slot integer, count integer, PRIMARY KEY (client, slot));\n\
                   BEGIN;\n"
        .to_owned();
    for client in 0..clients {
        (0..SLOTS).for_each(|slot| sql += &format!("INSERT INTO tally VALUES ({client}, {slot}, 0);\n"));
    }
    sql + "COMMIT;\n"
}

/// Running clients. Dropping it ends them.
#[derive(Debug)]
pub struct Ledger {
    clients: Vec<Client>,
    stop: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Client {
    /// When each transaction was acknowledged, the first at index 0. In memory, so not on any disk that is judged.
    acknowledged: Arc<Mutex<Vec<SystemTime>>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Ledger {
    /// Starts one thread for each of the commands (shells that read SQL and print what it yields), with `pace` after
    /// each transaction.
    pub fn start(shells: Vec<Command>, pace: Duration, logs: &Path) -> Result<Self> {
        let mut ledger = Self { clients: Vec::new(), stop: Arc::default() };
        for (number, mut shell) in shells.into_iter().enumerate() {
            let errors = File::create(logs.join(format!("client-{number}.log")))?;
            let child = shell
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(errors)
                .spawn()
                .with_context(|| format!("client {number}: starting {shell:?}"))?;
            let (acknowledged, stop) = (Arc::default(), Arc::clone(&ledger.stop));
            let noted = Arc::clone(&acknowledged);
            let thread = std::thread::spawn(move || work(child, number, pace, &noted, &stop));
            ledger.clients.push(Client { acknowledged, thread: Some(thread) });
        }
        Ok(ledger)
    }

    /// How many transactions of each client had been acknowledged by then.
    pub fn acknowledged(&self, by: SystemTime) -> Vec<usize> {
        let of = |client: &Client| {
            let times = client.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
            times.partition_point(|time| *time <= by)
        };
        self.clients.iter().map(of).collect()
    }

    /// Judges a copy through a function that runs SQL on it: whole transactions only, from the first without a gap,
    /// and at least `needed` of each client. Returns how many there are.
    pub fn judge(needed: &[usize], sql: impl FnOnce(&str) -> Result<String>) -> Result<usize> {
        let audit = sql(AUDIT)?;
        let mut all = 0;
        for (client, needed) in needed.iter().enumerate() {
            let row = audit.lines().find_map(|line| line.strip_prefix(&format!("{client}|")));
            let numbers: Vec<usize> =
                row.unwrap_or("0|0|0").split('|').map(str::parse).collect::<Result<_, _>>()?;
            let [rows, last, counted] = numbers[..] else {
                return Err(anyhow!("not what was asked for: {audit}"));
            };
            ensure!(
                last >= *needed,
                "client {client}: the last transaction is {last}, but {needed} were acknowledged before the cut"
            );
            ensure!(rows == last, "client {client}: the last transaction is {last}, but there are {rows}");
            ensure!(
                counted == rows,
                "client {client}: {rows} rows, but {counted} counted: half a transaction"
            );
            all += rows;
        }
        Ok(all)
    }

    /// Ends the clients and returns how many transactions were acknowledged.
    pub fn stop(mut self) -> Result<usize> {
        self.end()?;
        Ok(self.acknowledged(SystemTime::now()).iter().sum())
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients
            .iter_mut()
            .filter_map(|client| client.thread.take())
            .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a client of the database panicked"))?)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

/// The program that a client talks to; it does not outlive its thread.
struct Shell(Child);

impl Drop for Shell {
    fn drop(&mut self) {
        // An error means that it has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// One client until it is stopped or its shell ends.
fn work(
    child: Child,
    client: usize,
    pace: Duration,
    noted: &Mutex<Vec<SystemTime>>,
    stop: &AtomicBool,
) -> Result<()> {
    let mut shell = Shell(child);
    let mut input = shell.0.stdin.take().context("no input")?;
    let mut output = BufReader::new(shell.0.stdout.take().context("no output")?);
    let (mut random, mut line) = (Random(client as u64), String::new());
    for n in 1..=MAX_ACKNOWLEDGED {
        if stop.load(Ordering::Relaxed) || check_interrupted().is_err() {
            break;
        }
        let (slot, width) = (random.below(SLOTS), usize::try_from(random.below(LONGEST_ROW))?);
        writeln!(
            input,
            "BEGIN; INSERT INTO ledger VALUES ({client}, {n}, '{n:x<width$}'); \
             UPDATE tally SET count = count + 1 WHERE client = {client} AND slot = {slot}; COMMIT; SELECT {n};"
        )
        .with_context(|| format!("client {client}: transaction {n}"))?;
        line.clear();
        output.read_line(&mut line)?;
        ensure!(line.trim() == n.to_string(), "client {client}: {line:?} instead of transaction {n}");
        noted.lock().unwrap_or_else(PoisonError::into_inner).push(SystemTime::now());
        std::thread::sleep(pace);
    }
    drop(input);
    ensure!(shell.0.wait()?.success(), "client {client}: its shell failed");
    Ok(())
}
