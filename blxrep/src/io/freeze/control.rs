//! What agent and guard say to each other: packets of nine bytes over a socket pair, a tag and a number.
//!
//! Both are the same binary of the same moment, so nothing here needs a version.

use super::record::{MAX_FILESYSTEMS, Record};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::time::Duration;

const PACKET: usize = 9;
/// The record, and every filesystem.
const MAX_DESCRIPTORS: usize = MAX_FILESYSTEMS + 1;
const ANCILLARY: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// From the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Write back what is dirty, then freeze for at most so long.
    Freeze(Duration),
    Thaw,
}

/// From the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Locked in memory, with everything at hand.
    Ready,
    /// Everything is frozen that could be.
    Frozen,
    /// Nothing was frozen: writing back what is dirty took so long that freezing would not be brief.
    Busy(Duration),
    /// The guard could not be set up; an errno.
    Unfit(i32),
    /// Nothing is frozen any more.
    Done,
}

/// A packet that can be told by its bytes.
pub(super) trait Packet: Sized {
    fn encode(&self) -> (u8, u64);
    fn decode(tag: u8, number: u64) -> Option<Self>;
}

impl Packet for Order {
    fn encode(&self) -> (u8, u64) {
        match self {
            Self::Freeze(budget) => (b'F', nanos(*budget)),
            Self::Thaw => (b'T', 0),
        }
    }

    fn decode(tag: u8, number: u64) -> Option<Self> {
        match tag {
            b'F' => Some(Self::Freeze(Duration::from_nanos(number))),
            b'T' => Some(Self::Thaw),
            _ => None,
        }
    }
}

impl Packet for Answer {
    fn encode(&self) -> (u8, u64) {
        match self {
            Self::Ready => (b'R', 0),
            Self::Frozen => (b'Z', 0),
            Self::Busy(took) => (b'B', nanos(*took)),
            Self::Unfit(errno) => (b'U', u64::from(errno.unsigned_abs())),
            Self::Done => (b'D', 0),
        }
    }

    fn decode(tag: u8, number: u64) -> Option<Self> {
        match tag {
            b'R' => Some(Self::Ready),
            b'Z' => Some(Self::Frozen),
            b'B' => Some(Self::Busy(Duration::from_nanos(number))),
            b'U' => Some(Self::Unfit(i32::try_from(number).unwrap_or(0))),
            b'D' => Some(Self::Done),
            _ => None,
        }
    }
}

/// The agent's end and the guard's.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends a packet, without ever waiting: there are never more than a few in the socket.
pub(super) fn send(socket: impl AsFd, packet: &impl Packet) -> io::Result<()> {
    let bytes = bytes(packet);
    rustix::net::send(socket, &bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(())
}

/// Takes the next packet; `None` if the other end is closed. Waits for one.
pub(super) fn receive<P: Packet>(socket: impl AsFd) -> io::Result<Option<P>> {
    let mut bytes = [0; PACKET];
    let length = loop {
        match rustix::net::recv(&socket, &mut bytes, RecvFlags::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            // The other end was closed with unread packets in it.
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            other => break other?.0,
        }
    };
    let (tag, number) = match (length, bytes) {
        (0, _) => return Ok(None),
        (PACKET, [tag, number @ ..]) => (tag, u64::from_le_bytes(number)),
        _ => return Err(malformed()),
    };
    P::decode(tag, number).map(Some).ok_or_else(malformed)
}

/// Hands over the record and what is to be frozen.
pub(super) fn hand_over<'a>(
    socket: impl AsFd,
    record: &'a Record,
    filesystems: impl Iterator<Item = BorrowedFd<'a>>,
) -> io::Result<()> {
    let descriptors: Vec<BorrowedFd<'_>> = std::iter::once(record.as_fd()).chain(filesystems).collect();
    let mut space = [MaybeUninit::uninit(); ANCILLARY];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("more descriptors than fit a message"));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(b"S")], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Takes what was handed over.
pub(super) fn take_over(socket: impl AsFd) -> io::Result<(Record, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); ANCILLARY];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags)?;
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let mut descriptors = rights.flatten();
    let record = Record::from_file(File::from(descriptors.next().ok_or_else(malformed)?))?;
    let filesystems: Vec<OwnedFd> = descriptors.collect();
    if byte == *b"S" && filesystems.len() == record.len() {
        Ok((record, filesystems))
    } else {
        Err(malformed())
    }
}

fn bytes(packet: &impl Packet) -> [u8; PACKET] {
    let (tag, number) = packet.encode();
    let mut bytes = [tag; PACKET];
    bytes[1..].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a packet that cannot be understood")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn packets_arrive_as_they_were_sent() {
        let (agent, guard) = pair().unwrap();
        for order in [Order::Freeze(Duration::from_millis(500)), Order::Thaw] {
            send(&agent, &order).unwrap();
            assert_eq!(receive(&guard).unwrap(), Some(order));
        }
        let busy = Answer::Busy(Duration::from_secs(3));
        for answer in [Answer::Ready, Answer::Frozen, busy, Answer::Unfit(12), Answer::Done] {
            send(&guard, &answer).unwrap();
            assert_eq!(receive(&agent).unwrap(), Some(answer));
        }
        send(&guard, &Answer::Done).unwrap();
        assert!(receive::<Order>(&agent).is_err());
        drop(guard);
        assert_eq!(receive::<Answer>(&agent).unwrap(), None);
        assert!(send(&agent, &Order::Thaw).is_err());
    }

    #[test]
    fn as_many_filesystems_as_allowed_are_handed_over() {
        let folder = tempfile::tempdir().unwrap();
        let numbers: Vec<_> = (0..250).map(|i| (8, i)).collect();
        let record = Record::create(folder.path(), &numbers).unwrap();
        let (agent, guard) = pair().unwrap();
        let file = File::open("/").unwrap();
        hand_over(&agent, &record, numbers.iter().map(|_| file.as_fd())).unwrap();
        let (received, filesystems) = take_over(&guard).unwrap();
        assert_eq!(received.number(249), (8, 249));
        assert_eq!(filesystems.len(), MAX_FILESYSTEMS);
        let root = File::from(filesystems.into_iter().next_back().unwrap()).metadata().unwrap();
        assert_eq!((root.dev(), root.ino()), {
            let m = file.metadata().unwrap();
            (m.dev(), m.ino())
        });
        // Fewer than the record says.
        hand_over(&agent, &record, std::iter::once(file.as_fd())).unwrap();
        assert!(take_over(&guard).is_err());
    }
}
