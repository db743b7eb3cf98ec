//! Frames: what follows the hello. One frame is one binary message: a fixed header, then the payload.
//!
//! ```text
//! offset  bytes  field
//!      0      1  kind          1 data, 2 control, 3 end
//!      1      1  flags         data: 0 raw, 1 zstd, 2 zero; else 0
//!      2      2  reserved      0
//!      4      4  disk          0 (a connection serves one disk)
//!      8      8  offset        data: byte offset on the disk; else 0
//!     16      4  raw_length    data: bytes of the disk that the frame stands for; else equal to `length`
//!     20      4  length        bytes of payload that follow
//!     24      4  payload CRC32C
//!     28      4  header CRC32C over the 28 bytes before
//! ```
//!
//! All little-endian. A header is judged as a whole before a byte is allocated for what it announces.

use crate::model::encoding::Encoding;
use crate::model::units::SECTOR_BYTES;

/// Length of a frame's header.
pub const HEADER_BYTES: usize = 32;
/// Most bytes of payload in one frame: the longest read of a disk. Data that does not shrink travels raw, so
/// compression needs no room above it.
pub const MAX_PAYLOAD_BYTES: u32 = 1 << 20;
/// Most bytes of the disk that one zero frame stands for: it has no payload, and 1 GiB keeps the receiver's
/// hole-punching steps short enough to report progress between them.
pub const MAX_ZERO_BYTES: u32 = 1 << 30;
/// Where the largest disk ends: the largest offset of a file, in whole sectors.
pub const MAX_DISK_BYTES: u64 = (1 << 63) - 512;
/// The longest message: a header and a full payload.
pub const MAX_MESSAGE_BYTES: usize = HEADER_BYTES + MAX_PAYLOAD_BYTES as usize;
/// Payload of an end frame: a count and a digest.
const END_BYTES: usize = 40;

const KIND_DATA: u8 = 1;
const KIND_CONTROL: u8 = 2;
const KIND_END: u8 = 3;

/// Why bytes are not a frame. Each says what was wrong, for the log of the side that received it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    #[error("a frame of {0} bytes is shorter than its header")]
    TooShort(usize),
    #[error("the header's checksum does not match: it was damaged on the way")]
    HeaderChecksum,
    #[error("the payload's checksum does not match: it was damaged on the way")]
    PayloadChecksum,
    #[error("a frame of unknown kind {0}")]
    UnknownKind(u8),
    #[error("a frame with unknown flags {0:#04x}")]
    UnknownFlags(u8),
    #[error("a frame with reserved bits set")]
    Reserved,
    #[error("a frame that claims {claimed} bytes; at most {limit} are allowed")]
    TooLong { claimed: u64, limit: u64 },
    #[error("a frame that announces {announced} bytes of payload and carries {carried}")]
    Length { announced: u32, carried: usize },
    #[error(
        "a data frame whose range ({offset} + {raw_length} bytes) is not a range of whole sectors of a disk"
    )]
    Range { offset: u64, raw_length: u32 },
    #[error("a data frame whose payload of {length} bytes cannot stand for {raw_length} bytes")]
    Encoding { raw_length: u32, length: u32 },
    #[error("the transfer ended after {received} data frames; the sender counted {sent}: frames are missing")]
    Count { sent: u64, received: u64 },
    #[error("the transfer's {0} data frames are not those that were sent: their digests differ")]
    Digest(u64),
}

/// What a data frame stands for: `raw_length` bytes of the disk from `offset` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    pub encoding: Encoding,
    pub offset: u64,
    pub raw_length: u32,
}

/// A header that was judged: its payload's length fits its kind and the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: Kind,
    /// Bytes of payload after the header.
    pub length: u32,
    pub payload_crc: u32,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Data(Data),
    Control,
    End,
}

impl Header {
    /// Reads a header. Refuses every claim above the limits, so its `length` may be allocated.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        if u32_at(bytes, 28) != crc32c::crc32c(&bytes[..28]) {
            return Err(FrameError::HeaderChecksum);
        }
        if bytes[2..8] != [0; 6] {
            return Err(FrameError::Reserved);
        }
        let (flags, offset) = (bytes[1], u64_at(bytes, 8));
        let (raw_length, length) = (u32_at(bytes, 16), u32_at(bytes, 20));
        if length > MAX_PAYLOAD_BYTES {
            return Err(FrameError::TooLong { claimed: length.into(), limit: MAX_PAYLOAD_BYTES.into() });
        }
        let kind = match bytes[0] {
            KIND_DATA => {
                let data = Data {
                    encoding: Encoding::from_code(flags).ok_or(FrameError::UnknownFlags(flags))?,
                    offset,
                    raw_length,
                };
                data.check(length)?;
                Kind::Data(data)
            }
            kind @ (KIND_CONTROL | KIND_END) => {
                if flags != 0 {
                    return Err(FrameError::UnknownFlags(flags));
                }
                if offset != 0 || raw_length != length {
                    return Err(FrameError::Reserved);
                }
                if kind == KIND_CONTROL { Kind::Control } else { Kind::End }
            }
            other => return Err(FrameError::UnknownKind(other)),
        };
        Ok(Self { kind, length, payload_crc: u32_at(bytes, 24) })
    }

    fn encode(&self) -> [u8; HEADER_BYTES] {
        let (kind, flags, offset, raw_length) = match self.kind {
            Kind::Data(data) => (KIND_DATA, data.encoding.code(), data.offset, data.raw_length),
            Kind::Control => (KIND_CONTROL, 0, 0, self.length),
            Kind::End => (KIND_END, 0, 0, self.length),
        };
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = kind;
        bytes[1] = flags;
        bytes[8..16].copy_from_slice(&offset.to_le_bytes());
        bytes[16..20].copy_from_slice(&raw_length.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.length.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

impl Data {
    /// Whether a payload of `length` bytes can be what this frame stands for.
    fn check(&self, length: u32) -> Result<(), FrameError> {
        let limit = if self.encoding == Encoding::Zero { MAX_ZERO_BYTES } else { MAX_PAYLOAD_BYTES };
        if self.raw_length > limit {
            return Err(FrameError::TooLong { claimed: self.raw_length.into(), limit: limit.into() });
        }
        let raw = u64::from(self.raw_length);
        let whole_sectors =
            raw > 0 && raw.is_multiple_of(SECTOR_BYTES) && self.offset.is_multiple_of(SECTOR_BYTES);
        if !whole_sectors || self.offset.checked_add(raw).is_none_or(|end| end > MAX_DISK_BYTES) {
            return Err(FrameError::Range { offset: self.offset, raw_length: self.raw_length });
        }
        let fits = match self.encoding {
            Encoding::Raw => length == self.raw_length,
            Encoding::Zstd => length > 0 && length < self.raw_length,
            Encoding::Zero => length == 0,
        };
        if fits { Ok(()) } else { Err(FrameError::Encoding { raw_length: self.raw_length, length }) }
    }

    /// The header of this frame with a payload of `length` bytes.
    #[must_use]
    pub fn header(&self, length: u32, payload_crc: u32) -> [u8; HEADER_BYTES] {
        Header { kind: Kind::Data(*self), length, payload_crc }.encode()
    }

    /// Completes a data frame: `message` is [`HEADER_BYTES`] of headroom followed by the payload, which is
    /// summed where it lies and not copied.
    pub fn seal(&self, message: &mut [u8]) -> Result<(), FrameError> {
        seal(Kind::Data(*self), message)
    }
}

/// Completes a control frame around a payload that lies behind [`HEADER_BYTES`] of headroom.
pub fn seal_control(message: &mut [u8]) -> Result<(), FrameError> {
    seal(Kind::Control, message)
}

fn seal(kind: Kind, message: &mut [u8]) -> Result<(), FrameError> {
    let total = message.len();
    let Some((head, payload)) = message.split_first_chunk_mut::<HEADER_BYTES>() else {
        return Err(FrameError::TooShort(total));
    };
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|length| *length <= MAX_PAYLOAD_BYTES)
        .ok_or(FrameError::TooLong { claimed: payload.len() as u64, limit: MAX_PAYLOAD_BYTES.into() })?;
    if let Kind::Data(data) = kind {
        data.check(length)?;
    }
    *head = Header { kind, length, payload_crc: crc32c::crc32c(payload) }.encode();
    Ok(())
}

/// Splits a message into its header and payload, both proven whole.
pub fn open(message: &[u8]) -> Result<(Header, &[u8]), FrameError> {
    let (head, payload) =
        message.split_first_chunk::<HEADER_BYTES>().ok_or(FrameError::TooShort(message.len()))?;
    let header = Header::decode(head)?;
    if payload.len() as u64 != u64::from(header.length) {
        return Err(FrameError::Length { announced: header.length, carried: payload.len() });
    }
    if crc32c::crc32c(payload) != header.payload_crc {
        return Err(FrameError::PayloadChecksum);
    }
    Ok((header, payload))
}

/// How a transfer ended: what each side must have counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Data frames of the transfer.
    pub count: u64,
    /// BLAKE3 over their headers, in order. Each header holds its payload's checksum.
    pub digest: [u8; 32],
}

impl End {
    /// The whole end frame.
    #[must_use]
    pub fn to_message(&self) -> [u8; HEADER_BYTES + END_BYTES] {
        let mut message = [0; HEADER_BYTES + END_BYTES];
        let (head, payload) = message.split_at_mut(HEADER_BYTES);
        payload[..8].copy_from_slice(&self.count.to_le_bytes());
        payload[8..].copy_from_slice(&self.digest);
        let length = END_BYTES as u32;
        head.copy_from_slice(
            &Header { kind: Kind::End, length, payload_crc: crc32c::crc32c(payload) }.encode(),
        );
        message
    }

    /// Reads the payload of an end frame.
    pub fn decode(payload: &[u8]) -> Result<Self, FrameError> {
        let wrong = || FrameError::Length { announced: END_BYTES as u32, carried: payload.len() };
        let (count, digest) = payload.split_first_chunk::<8>().ok_or_else(wrong)?;
        let digest = digest.try_into().map_err(|_| wrong())?;
        Ok(Self { count: u64::from_le_bytes(*count), digest })
    }
}

/// Counts the data frames of a transfer. Sender and receiver keep one each; a transfer is all data frames since
/// the connection began or since the last end, so it needs no word about where it starts.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    count: u64,
    hasher: blake3::Hasher,
}

impl Tally {
    /// Adds one data frame, given its header's bytes.
    pub fn add(&mut self, header: &[u8; HEADER_BYTES]) {
        self.count += 1;
        self.hasher.update(header);
    }

    /// Ends the transfer and starts the next one.
    pub fn finish(&mut self) -> End {
        let end = End { count: self.count, digest: *self.hasher.finalize().as_bytes() };
        *self = Self::default();
        end
    }

    /// Ends the transfer and checks it against what the sender said.
    pub fn check(&mut self, sent: &End) -> Result<(), FrameError> {
        let received = self.finish();
        if received.count != sent.count {
            return Err(FrameError::Count { sent: sent.count, received: received.count });
        }
        if received.digest != sent.digest {
            return Err(FrameError::Digest(sent.count));
        }
        Ok(())
    }
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data(encoding: Encoding, offset: u64, raw_length: u32) -> Data {
        Data { encoding, offset, raw_length }
    }

    fn raw(payload: &[u8]) -> Vec<u8> {
        let mut message = vec![0; HEADER_BYTES];
        message.extend_from_slice(payload);
        data(Encoding::Raw, 8192, payload.len() as u32).seal(&mut message).unwrap();
        message
    }

    /// A header with fields as given, whose checksum is right.
    fn header(edit: impl FnOnce(&mut [u8; HEADER_BYTES])) -> [u8; HEADER_BYTES] {
        let mut bytes = *raw(&[7; 512]).first_chunk().unwrap();
        edit(&mut bytes);
        let crc = crc32c::crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn a_data_frame_is_what_was_sealed() {
        let message = raw(&[7; 1024]);
        let (header, payload) = open(&message).unwrap();
        assert_eq!(header.kind, Kind::Data(data(Encoding::Raw, 8192, 1024)));
        assert_eq!(payload, [7; 1024]);
        let again = data(Encoding::Raw, 8192, 1024).header(1024, crc32c::crc32c(payload));
        assert_eq!(again, message[..HEADER_BYTES]);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let message = raw(&[0xa5; 512]);
        for bit in 0..message.len() * 8 {
            let mut damaged = message.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_is_found() {
        let message = raw(&[1; 512]);
        for length in 0..message.len() {
            assert!(open(&message[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn four_gigabytes_are_refused_by_the_header_alone() {
        let claims = header(|b| b[20..24].copy_from_slice(&u32::MAX.to_le_bytes()));
        let limit = MAX_PAYLOAD_BYTES.into();
        let claimed = u32::MAX.into();
        assert_eq!(Header::decode(&claims), Err(FrameError::TooLong { claimed, limit }));
        let claims = header(|b| b[16..20].copy_from_slice(&u32::MAX.to_le_bytes()));
        assert_eq!(Header::decode(&claims), Err(FrameError::TooLong { claimed, limit }));
    }

    #[test]
    fn nothing_reserved_passes() {
        for at in 2..8 {
            assert_eq!(Header::decode(&header(|b| b[at] = 1)), Err(FrameError::Reserved));
        }
        assert_eq!(Header::decode(&header(|b| b[1] = 4)), Err(FrameError::UnknownFlags(4)));
        assert_eq!(Header::decode(&header(|b| b[0] = 0)), Err(FrameError::UnknownKind(0)));
        assert_eq!(
            Header::decode(&header(|b| b[0] = 2)),
            Err(FrameError::Reserved),
            "a control frame has no offset"
        );
    }

    #[test]
    fn ranges_are_whole_sectors_of_a_disk() {
        let seal = |data: Data, payload: usize| data.seal(&mut vec![0; HEADER_BYTES + payload]);
        let range = |offset, raw_length| Err(FrameError::Range { offset, raw_length });
        assert_eq!(seal(data(Encoding::Zero, 0, 0), 0), range(0, 0));
        assert_eq!(seal(data(Encoding::Zero, 0, 100), 0), range(0, 100));
        assert_eq!(seal(data(Encoding::Zero, 100, 512), 0), range(100, 512));
        let last = MAX_DISK_BYTES - 512;
        assert_eq!(seal(data(Encoding::Zero, last, 512), 0), Ok(()));
        assert_eq!(seal(data(Encoding::Zero, last, 1024), 0), range(last, 1024));
        let wraps = u64::MAX - 511;
        assert_eq!(seal(data(Encoding::Zero, wraps, 512), 0), range(wraps, 512));
    }

    #[test]
    fn a_payload_must_be_able_to_stand_for_its_range() {
        let seal = |data: Data, payload: usize| data.seal(&mut vec![0; HEADER_BYTES + payload]);
        assert_eq!(seal(data(Encoding::Zero, 0, MAX_ZERO_BYTES), 0), Ok(()));
        assert!(seal(data(Encoding::Zero, 0, 512), 1).is_err());
        assert!(seal(data(Encoding::Raw, 0, 512), 511).is_err());
        assert!(
            seal(data(Encoding::Raw, 0, MAX_PAYLOAD_BYTES + 512), MAX_PAYLOAD_BYTES as usize + 512).is_err()
        );
        assert!(seal(data(Encoding::Zstd, 0, 4096), 4096).is_err(), "not smaller");
        assert!(seal(data(Encoding::Zstd, 0, 4096), 0).is_err());
        assert_eq!(seal(data(Encoding::Zstd, 0, 4096), 17), Ok(()));
        assert_eq!(data(Encoding::Zero, 0, 512).seal(&mut [0; 31]), Err(FrameError::TooShort(31)));
    }

    #[test]
    fn a_tally_knows_missing_swapped_and_repeated_frames() {
        let headers: Vec<[u8; HEADER_BYTES]> =
            (0..3u8).map(|i| *raw(&[i; 512]).first_chunk().unwrap()).collect();
        let tally = |order: &[usize]| {
            let mut tally = Tally::default();
            order.iter().for_each(|i| tally.add(&headers[*i]));
            tally
        };
        let sent = tally(&[0, 1, 2]).finish();
        assert_eq!(End::decode(open(&sent.to_message()).unwrap().1), Ok(sent));
        assert_eq!(tally(&[0, 1, 2]).check(&sent), Ok(()));
        assert_eq!(tally(&[0, 1]).check(&sent), Err(FrameError::Count { sent: 3, received: 2 }));
        assert_eq!(tally(&[0, 2, 1]).check(&sent), Err(FrameError::Digest(3)));
        assert_eq!(tally(&[0, 1, 1]).check(&sent), Err(FrameError::Digest(3)));
        let mut second = tally(&[0, 1, 2]);
        second.finish();
        assert_eq!(second.finish(), Tally::default().finish(), "a transfer starts afresh");
    }

    #[test]
    fn an_end_of_another_length_is_refused() {
        assert!(End::decode(&[0; 39]).is_err());
        assert!(End::decode(&[0; 41]).is_err());
        assert!(End::decode(&[]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = open(&bytes);
        }

        #[test]
        fn any_judged_header_is_within_the_limits(bytes in any::<[u8; 28]>()) {
            let judged = Header::decode(&header(|b| b[..28].copy_from_slice(&bytes)));
            if let Ok(header) = judged {
                prop_assert!(header.length <= MAX_PAYLOAD_BYTES);
                if let Kind::Data(data) = header.kind {
                    prop_assert!(data.raw_length <= MAX_ZERO_BYTES);
                    prop_assert!(data.offset + u64::from(data.raw_length) <= MAX_DISK_BYTES);
                }
            }
        }
    }
}
