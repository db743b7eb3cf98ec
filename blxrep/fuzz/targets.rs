//! What is done with hostile bytes, one function per target. Fuzzing (`cargo +nightly fuzz run hello`, in this
//! folder's parent) and the ordinary test that replays the corpora run the same code.

use blxrep::config::file::{AgentConfig, AgentSection, ConfigFile, DispatcherConfig, DispatcherSection};
use blxrep::config::policy::Policy;
use blxrep::config::yaml;
use blxrep::model::partition_table::parse;
use blxrep::model::superblock::detect;
use blxrep::wire::frame::{End, HEADER_BYTES, Kind, MAX_PAYLOAD_BYTES, MAX_ZERO_BYTES, Tally, open};
use blxrep::wire::hello::{Answer, Channel, ClientHello, judge};
use blxrep::wire::{codec, config, live, snapshot};
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
    round_trip!(live::ToAgent, live::ToDispatcher);
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
}
