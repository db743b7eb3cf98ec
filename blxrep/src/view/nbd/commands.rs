//! What a client asks for once it is served, and how it is answered. Pure.

use super::Offer;
use super::options::{ALLOCATION_ID, MAX_REQUEST_BYTES, Terms};
use std::ops::Range;

/// Length of a command without its data.
pub const COMMAND_BYTES: usize = 28;
/// A client may ask that a read be answered in one piece, but not for more than this.
pub const MAX_WHOLE_BYTES: u32 = 1 << 20;
/// Stretches that one answer tells of; a client asks again for the rest.
pub const MAX_STRETCHES: usize = 4096;

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_MAGIC: u32 = 0x668e_33ef;

const FLAG_FUA: u16 = 1;
const FLAG_NO_HOLE: u16 = 2;
const FLAG_DF: u16 = 4;
const FLAG_REQ_ONE: u16 = 8;

const DONE: u16 = 1;
const CHUNK_NONE: u16 = 0;
const CHUNK_DATA: u16 = 1;
const CHUNK_HOLE: u16 = 2;
const CHUNK_STATUS: u16 = 5;
const CHUNK_ERROR: u16 = 1 << 15 | 1;

const STATE_HOLE: u32 = 1;
const STATE_ZERO: u32 = 2;

/// Why a command is not carried out, by the protocol's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is read-only.
    NotPermitted = 1,
    Failed = 5,
    Invalid = 22,
    NoSpace = 28,
    /// Too much at once.
    Overflow = 75,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    Disconnect,
    Flush,
    Trim,
    WriteZeroes,
    BlockStatus,
    Other(u16),
}

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    flags: u16,
    pub kind: Kind,
    /// The client's name for it.
    pub cookie: [u8; 8],
    pub offset: u64,
    pub length: u32,
}

impl Command {
    /// `None` for what is no command: the client has lost its place.
    #[must_use]
    pub fn parse(bytes: &[u8; COMMAND_BYTES]) -> Option<Self> {
        let u16_at = |at: usize| bytes[at..].first_chunk().map(|b| u16::from_be_bytes(*b));
        let u32_at = |at: usize| bytes[at..].first_chunk().map(|b| u32::from_be_bytes(*b));
        let kind = match u16_at(6)? {
            0 => Kind::Read,
            1 => Kind::Write,
            2 => Kind::Disconnect,
            3 => Kind::Flush,
            4 => Kind::Trim,
            6 => Kind::WriteZeroes,
            7 => Kind::BlockStatus,
            other => Kind::Other(other),
        };
        let offset = u64::from_be_bytes(*bytes[16..].first_chunk()?);
        let command =
            Self { flags: u16_at(4)?, kind, cookie: *bytes[8..].first_chunk()?, offset, length: u32_at(24)? };
        (u32_at(0)? == REQUEST_MAGIC).then_some(command)
    }

    /// Bytes of the disk that it is about.
    #[must_use]
    pub const fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.length as u64)
    }

    /// Bytes of data that follow it.
    #[must_use]
    pub const fn data_bytes(&self) -> u32 {
        match self.kind {
            Kind::Write => self.length,
            _ => 0,
        }
    }

    /// Data that nobody would take in only to refuse it.
    #[must_use]
    pub const fn is_absurd(&self) -> bool {
        self.data_bytes() > MAX_REQUEST_BYTES
    }

    /// Whether the client wants to know of one stretch only.
    #[must_use]
    pub const fn wants_one(&self) -> bool {
        self.flags & FLAG_REQ_ONE != 0
    }

    /// Refuses what cannot be done, before anything is.
    pub fn check(&self, offer: &Offer, terms: Terms) -> Result<(), Refusal> {
        let writes = matches!(self.kind, Kind::Write | Kind::Trim | Kind::WriteZeroes);
        let known = match self.kind {
            Kind::Read if terms.structured => FLAG_DF,
            Kind::BlockStatus => FLAG_REQ_ONE,
            Kind::Write | Kind::Trim if offer.writable => FLAG_FUA,
            Kind::WriteZeroes if offer.writable => FLAG_FUA | FLAG_NO_HOLE,
            _ => 0,
        };
        if writes && !offer.writable {
            return Err(Refusal::NotPermitted);
        }
        if self.flags & !known != 0 {
            return Err(Refusal::Invalid);
        }
        match self.kind {
            Kind::Disconnect => return Ok(()),
            Kind::Flush if self.offset == 0 && self.length == 0 => return Ok(()),
            Kind::Flush | Kind::Other(_) => return Err(Refusal::Invalid),
            Kind::BlockStatus if !terms.allocation => return Err(Refusal::Invalid),
            _ => {}
        }
        if self.length == 0 || self.range().end > offer.bytes || self.offset > offer.bytes {
            return Err(if self.kind == Kind::Write { Refusal::NoSpace } else { Refusal::Invalid });
        }
        let at_once = self.kind == Kind::Read && self.length > MAX_REQUEST_BYTES;
        let whole = self.flags & FLAG_DF != 0 && self.length > MAX_WHOLE_BYTES;
        if at_once || whole { Err(Refusal::Overflow) } else { Ok(()) }
    }

    /// The answer to what has no data to give.
    #[must_use]
    pub fn done(&self, terms: Terms) -> Vec<u8> {
        match self.answers_in_chunks(terms) {
            true => self.chunk(CHUNK_NONE, DONE, &[]),
            false => self.simple(0),
        }
    }

    /// The answer to what is not done.
    #[must_use]
    pub fn refused(&self, refusal: Refusal, why: &str, terms: Terms) -> Vec<u8> {
        if !self.answers_in_chunks(terms) {
            return self.simple(refusal as u32);
        }
        let why = why.as_bytes();
        let length = u16::try_from(why.len()).unwrap_or(0);
        let why = &why[..usize::from(length)];
        self.chunk(CHUNK_ERROR, DONE, &[&(refusal as u32).to_be_bytes(), &length.to_be_bytes(), why])
    }

    /// Simple replies are kept for what has no data: some clients want the others only where they must be.
    fn answers_in_chunks(&self, terms: Terms) -> bool {
        terms.structured && matches!(self.kind, Kind::Read | Kind::BlockStatus)
    }

    /// What comes before a piece of a read, at `offset`, of `bytes` bytes, the last one or not.
    #[must_use]
    pub fn data_head(&self, offset: u64, bytes: u32, last: bool, terms: Terms) -> Vec<u8> {
        if !terms.structured {
            // One head for all pieces.
            return if offset == self.offset { self.simple(0) } else { Vec::new() };
        }
        let mut out = self.chunk_head(CHUNK_DATA, if last { DONE } else { 0 }, bytes.saturating_add(8));
        out.extend_from_slice(&offset.to_be_bytes());
        out
    }

    /// A piece of a read that is zero, to a client that takes that.
    #[must_use]
    pub fn hole(&self, offset: u64, bytes: u32, last: bool) -> Vec<u8> {
        self.chunk(CHUNK_HOLE, if last { DONE } else { 0 }, &[&offset.to_be_bytes(), &bytes.to_be_bytes()])
    }

    /// Whether a piece of a read may be told as a hole.
    #[must_use]
    pub const fn takes_holes(&self, terms: Terms) -> bool {
        terms.structured
    }

    /// What is allocated: lengths, and whether they are zero.
    #[must_use]
    pub fn status(&self, stretches: &[(u32, bool)]) -> Vec<u8> {
        let mut data = Vec::with_capacity(8 * stretches.len());
        for (length, zero) in stretches {
            let state = if *zero { STATE_HOLE | STATE_ZERO } else { 0 };
            data.extend_from_slice(&length.to_be_bytes());
            data.extend_from_slice(&state.to_be_bytes());
        }
        self.chunk(CHUNK_STATUS, DONE, &[&ALLOCATION_ID.to_be_bytes(), &data])
    }

    fn simple(&self, error: u32) -> Vec<u8> {
        [&SIMPLE_MAGIC.to_be_bytes()[..], &error.to_be_bytes(), &self.cookie].concat()
    }

    fn chunk(&self, kind: u16, flags: u16, data: &[&[u8]]) -> Vec<u8> {
        let data = data.concat();
        let mut out = self.chunk_head(kind, flags, u32::try_from(data.len()).unwrap_or(u32::MAX));
        out.extend_from_slice(&data);
        out
    }

    fn chunk_head(&self, kind: u16, flags: u16, length: u32) -> Vec<u8> {
        let magic = STRUCTURED_MAGIC.to_be_bytes();
        [&magic[..], &flags.to_be_bytes(), &kind.to_be_bytes(), &self.cookie, &length.to_be_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERMS: Terms = Terms { structured: true, allocation: true };

    fn offer(writable: bool) -> Offer {
        Offer { name: String::new(), description: String::new(), bytes: 1 << 20, writable }
    }

    fn command(kind: u16, flags: u16, offset: u64, length: u32) -> Command {
        let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(b"a cookie");
        bytes.extend_from_slice(&offset.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        Command::parse(bytes.first_chunk().unwrap()).unwrap()
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let refused = |kind, flags, offset, length, writable| {
            command(kind, flags, offset, length).check(&offer(writable), TERMS).err()
        };
        assert_eq!(refused(0, 0, 0, 1 << 20, false), None);
        assert_eq!(refused(0, 0, 1, 1 << 20, false), Some(Refusal::Invalid), "behind the end");
        assert_eq!(refused(0, 0, u64::MAX, 1, false), Some(Refusal::Invalid));
        assert_eq!(refused(0, 0, 0, 0, false), Some(Refusal::Invalid), "nothing");
        assert_eq!(refused(0, 0x100, 0, 1, false), Some(Refusal::Invalid), "a flag that is not known");
        assert_eq!(refused(1, 0, 0, 1, false), Some(Refusal::NotPermitted));
        assert_eq!(refused(4, 0, 0, 1, false), Some(Refusal::NotPermitted));
        assert_eq!(refused(6, 0, 0, 1, false), Some(Refusal::NotPermitted));
        assert_eq!(refused(1, 1, 0, 1, true), None);
        assert_eq!(refused(1, 0, 1 << 20, 1, true), Some(Refusal::NoSpace));
        assert_eq!(refused(3, 0, 0, 0, false), None);
        assert_eq!(refused(5, 0, 0, 1, false), Some(Refusal::Invalid), "cache is not offered");
        assert_eq!(refused(7, 8, 0, 1, false), None);
        let plain = Terms::default();
        assert_eq!(command(7, 0, 0, 1).check(&offer(false), plain), Err(Refusal::Invalid));
        let huge = Offer { bytes: 1 << 40, ..offer(false) };
        assert_eq!(command(0, 0, 0, u32::MAX).check(&huge, TERMS), Err(Refusal::Overflow));
        assert_eq!(command(0, 4, 0, 2 << 20).check(&huge, TERMS), Err(Refusal::Overflow));
        assert!(command(1, 0, 0, u32::MAX).is_absurd() && !command(0, 0, 0, u32::MAX).is_absurd());
    }

    #[test]
    fn answers_are_as_the_protocol_says() {
        let read = command(0, 0, 4096, 512);
        let plain = Terms::default();
        assert_eq!(read.data_head(4096, 512, true, plain), b"\x67\x44\x66\x98\0\0\0\0a cookie");
        assert_eq!(
            read.data_head(4096, 512, true, TERMS),
            b"\x66\x8e\x33\xef\0\x01\0\x01a cookie\0\0\x02\x08\0\0\0\0\0\0\x10\0"
        );
        assert_eq!(
            read.hole(4096, 512, false),
            b"\x66\x8e\x33\xef\0\0\0\x02a cookie\0\0\0\x0c\0\0\0\0\0\0\x10\0\0\0\x02\0"
        );
        assert_eq!(read.refused(Refusal::Failed, "rot", plain), b"\x67\x44\x66\x98\0\0\0\x05a cookie");
        assert_eq!(
            read.refused(Refusal::Failed, "rot", TERMS),
            b"\x66\x8e\x33\xef\0\x01\x80\x01a cookie\0\0\0\x09\0\0\0\x05\0\x03rot"
        );
        assert_eq!(
            command(7, 0, 0, 4).status(&[(1, true), (3, false)]),
            b"\x66\x8e\x33\xef\0\x01\0\x05a cookie\0\0\0\x14\0\0\0\x01\0\0\0\x01\0\0\0\x03\0\0\0\x03\0\0\0\0"
        );
    }

    proptest! {
        #[test]
        fn what_passes_is_within_the_disk(bytes: [u8; COMMAND_BYTES], kind in 0u16..9, offset: u64, length: u32, flags in 0u16..16) {
            prop_assert!(Command::parse(&bytes).is_none() || bytes[..4] == REQUEST_MAGIC.to_be_bytes());
            let command = command(kind, flags, offset % (2 << 20), length % (2 << 20));
            if command.check(&offer(true), TERMS).is_ok() && command.kind != Kind::Disconnect {
                prop_assert!(command.range().end <= 1 << 20);
            }
        }
    }
}
