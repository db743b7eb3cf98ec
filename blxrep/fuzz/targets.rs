//! What is done with hostile bytes, one function per target. Fuzzing (`cargo +nightly fuzz run hello`, in this
//! folder's parent) and the ordinary test that replays the corpora run the same code.

use blxrep::archive::stream::{MAGIC, decode};
use blxrep::archive::{ArchiveError, Entry, Kind as EntryKind, MAX_DEPTH, Meta, Name, Sink, Want};
use blxrep::config::file::{AgentConfig, AgentSection, ConfigFile, DispatcherConfig, DispatcherSection};
use blxrep::config::policy::Policy;
use blxrep::config::yaml;
use blxrep::model::contents::survey;
use blxrep::model::partition_table::parse;
use blxrep::model::superblock::detect;
use blxrep::view::nbd::Offer;
use blxrep::view::nbd::commands::{Command, Kind as Asked};
use blxrep::view::nbd::options::{Handshake, Head, Step};
use blxrep::wire::frame::{End, HEADER_BYTES, Kind, MAX_PAYLOAD_BYTES, MAX_ZERO_BYTES, Tally, open};
use blxrep::wire::hello::{Answer, Channel, ClientHello, judge};
use blxrep::wire::{codec, config, live, restore, snapshot};
use std::path::Path;

/// Both hellos. What is understood is written back and understood again.
pub fn hello(bytes: &[u8]) {
    for channel in Channel::ALL {
        let _ = judge(bytes, channel);
    }
    if let Ok(hello) = ClientHello::decode(bytes) {
        assert_eq!(hello.encode().and_then(|bytes| ClientHello::decode(&bytes)), Ok(hello));
    }
    if let Ok(answer) = Answer::decode(bytes) {
        assert_eq!(answer.encode().and_then(|bytes| Answer::decode(&bytes)), Ok(answer));
    }
}

/// A frame as it came; and once more with right checksums, which no fuzzer finds by itself.
pub fn frame(bytes: &[u8]) {
    judged(bytes);
    let mut sealed = bytes.to_vec();
    if let Some((header, payload)) = sealed.split_first_chunk_mut::<HEADER_BYTES>() {
        header[24..28].copy_from_slice(&crc32c(payload).to_le_bytes());
        let crc = crc32c(&header[..28]);
        header[28..].copy_from_slice(&crc.to_le_bytes());
        judged(&sealed);
    }
}

fn judged(bytes: &[u8]) {
    let Ok((header, payload)) = open(bytes) else {
        return;
    };
    assert!(header.length <= MAX_PAYLOAD_BYTES);
    match header.kind {
        Kind::Data(data) => {
            assert!(data.raw_length <= MAX_ZERO_BYTES);
            assert!(data.offset.checked_add(u64::from(data.raw_length)).is_some());
        }
        Kind::Control => {}
        Kind::End => {
            if let Ok(end) = End::decode(payload) {
                let _ = Tally::default().check(&end);
            }
        }
    }
}

/// CRC32C bit by bit: the fuzzing crate has no other use for a library.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
    })
}

/// Every kind of control message.
pub fn control(bytes: &[u8]) {
    macro_rules! round_trip {
        ($($message:ty),*) => {$(
            if let Ok(message) = codec::decode::<$message>(bytes, Channel::Config.max_control_bytes()) {
                // A hostile encoding may be longer than ours, so it may fit where ours would not, never the reverse.
                if let Ok(again) = codec::encode(&message, usize::MAX) {
                    assert_eq!(codec::decode::<$message>(&again[HEADER_BYTES..], usize::MAX).ok(), Some(message));
                }
            }
        )*};
    }
    round_trip!(config::ToAgent, config::ToDispatcher, snapshot::ToAgent, snapshot::ToDispatcher);
    round_trip!(live::ToAgent, live::ToDispatcher, restore::ToAgent, restore::ToDispatcher);
}

/// What a client of a network block device sends: options, then commands.
pub fn nbd(bytes: &[u8]) {
    let offer = Offer { name: "disk".into(), description: String::new(), bytes: 1 << 30, writable: true };
    let Some((flags, mut rest)) = bytes.split_first_chunk() else { return };
    let Some(mut handshake) = Handshake::new(&offer, *flags) else { return };
    while let Some((head, behind)) = rest.split_first_chunk() {
        let Some(head) = Head::parse(head) else { break };
        let data = &behind[..behind.len().min(head.length as usize)];
        rest = &behind[data.len()..];
        match handshake.answer(head.option, data) {
            Step::More(answer) => assert!(!answer.is_empty()),
            Step::Serve(_) | Step::End(_) => break,
        }
    }
    let terms = handshake.terms();
    while let Some((command, behind)) = rest.split_first_chunk() {
        let Some(command) = Command::parse(command) else { return };
        if command.check(&offer, terms).is_ok() && command.kind != Asked::Disconnect {
            assert!(command.range().end <= offer.bytes);
        }
        rest = &behind[behind.len().min(command.data_bytes() as usize)..];
    }
}

/// A configuration file.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(file) = yaml::parse::<ConfigFile>(text, Path::new("config.yaml")) {
        let _ = AgentConfig::new(AgentSection::default(), file.agent);
        let _ = DispatcherConfig::new(DispatcherSection::default(), file.dispatcher);
    }
}

/// A policy file.
pub fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(policy) = Policy::parse(text, Path::new("policy.yaml")) {
        for target in &policy.targets {
            let _ = target.pattern.matches("web1.example.com");
        }
    }
}

/// The first sectors of a disk.
pub fn disk(bytes: &[u8]) {
    let mut fetch =
        |at: u64, length: usize| bytes.get(usize::try_from(at).ok()?..)?.get(..length).map(<[u8]>::to_vec);
    let size = bytes.len() as u64;
    for block in [512, 4096] {
        for entry in parse(&mut fetch, size, block).into_iter().flat_map(|table| table.entries) {
            assert!((entry.first_sector + entry.sectors) * 512 <= size);
        }
    }
    let _ = detect(&mut fetch, size);
    for part in survey(&mut fetch, size).parts {
        let mut at = 0;
        while let Some(place) = part.extents.find(at) {
            assert!(place.start < place.end && place.end <= size);
            at += place.end - place.start;
        }
        assert_eq!(at, part.extents.bytes());
    }
}

/// A tree as bytes: as it came, and once more with right checksums. No sink sees what no walk could have given it.
pub fn tree(bytes: &[u8]) {
    let _ = decode(bytes, &mut Judge::default());
    let mut sealed = bytes.to_vec();
    let (mut at, mut position) = (MAGIC.len(), 0u64);
    while let Some(header) = sealed.get(at..at + 9) {
        let length = u64::from(u32::from_le_bytes([header[1], header[2], header[3], header[4]]));
        let Some(payload) = sealed.get(at + 9..).and_then(|rest| rest.get(..usize::try_from(length).ok()?))
        else {
            break;
        };
        let summed = [&position.to_le_bytes()[..], &header[..1], &length.to_le_bytes(), payload].concat();
        let (crc, next) = (crc32c(&summed), at + 9 + payload.len());
        sealed[at + 5..at + 9].copy_from_slice(&crc.to_le_bytes());
        (at, position) = (next, position + 1);
    }
    let _ = decode(&sealed[..], &mut Judge::default());
}

/// Holds what a sink is given against what it may be given.
#[derive(Default)]
struct Judge {
    depth: usize,
    /// Length of the open file, and where its data ends so far.
    file: Option<(u64, u64)>,
    ended: bool,
}

impl Sink for Judge {
    fn top(&mut self, _: &Meta) -> Result<(), ArchiveError> {
        assert!(self.depth == 0 && self.file.is_none());
        Ok(())
    }

    fn entry(&mut self, entry: &Entry) -> Result<Want, ArchiveError> {
        assert!(self.file.is_none() && !self.ended);
        assert!(Name::new(entry.name.as_bytes()).is_some() && entry.meta.mode & !0o7777 == 0);
        // Every other name is not wanted.
        if entry.name.as_bytes().len().is_multiple_of(2) {
            return Ok(Want::Nothing);
        }
        match entry.kind {
            EntryKind::Folder { .. } => self.depth += 1,
            EntryKind::File { bytes } => self.file = Some((bytes, 0)),
            _ => {}
        }
        assert!(self.depth <= MAX_DEPTH);
        Ok(Want::Content)
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ArchiveError> {
        let (length, end) = self.file.unwrap_or((0, 0));
        assert!(!bytes.is_empty() && offset >= end && offset + bytes.len() as u64 <= length);
        self.file = Some((length, offset + bytes.len() as u64));
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), ArchiveError> {
        assert!(self.file.take().is_some());
        Ok(())
    }

    fn leave(&mut self) -> Result<(), ArchiveError> {
        self.depth -= 1;
        Ok(())
    }

    fn failed(&mut self, name: Option<&Name>, _: &str) -> Result<(), ArchiveError> {
        assert!(name.is_none() || self.file.is_none());
        self.file = None;
        Ok(())
    }

    fn end(&mut self) -> Result<(), ArchiveError> {
        assert!(self.depth == 0 && self.file.is_none());
        self.ended = true;
        Ok(())
    }
}
