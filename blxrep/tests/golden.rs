//! Hellos and frames of every released version, byte for byte. A file here never changes: a program of any later
//! version must read it, and this version must write it.
//!
//! `BLESS=1 cargo test --test golden` writes a file that does not exist yet, and touches no other.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use blxrep::model::encoding::Encoding;
use blxrep::model::ids::StoreId;
use blxrep::wire::frame::{self, Data, End, HEADER_BYTES, Kind, Tally};
use blxrep::wire::hello::{
    Accepted, Answer, Channel, ClientHello, Credentials, KeptDisk, Refusal, RefusalCode, Role,
};
use blxrep::wire::version::VersionRange;
use std::path::Path;

/// The golden file, which `written` must equal.
fn golden(name: &str, written: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("BLESS").is_some() && !path.exists() {
        std::fs::write(&path, written).unwrap();
    }
    let kept = std::fs::read(&path).unwrap();
    assert!(kept == written, "{name} is written differently: {written:02x?}");
    kept
}

const V1: VersionRange = VersionRange { min: 1, max: 1 };

#[test]
fn hellos_of_version_1() {
    let client = ClientHello {
        versions: V1,
        role: Role::Agent,
        channel: Channel::Snapshot,
        flags: 0,
        session: 0x0123_4567_89ab_cdef,
        boot_id: *b"0123456789abcdef",
        agent: "web1.example.com".parse().unwrap(),
        credentials: Credentials(b"not a secret, but long enough".to_vec()),
    };
    let bytes = golden("hello-client-v1.bin", &client.encode().unwrap());
    assert_eq!(ClientHello::decode(&bytes), Ok(client));

    let kept = vec![
        KeptDisk { major: 259, minor: 4096, identity: "wwn:eui.0025385b21404e1c".to_owned() },
        KeptDisk { major: 7, minor: 3, identity: String::new() },
    ];
    let accepted = Accepted { version: 1, boot_id: [7; 16], store: StoreId(1 << 100), session: 99, kept };
    let answer = Answer { versions: V1, verdict: Ok(accepted) };
    assert_eq!(Answer::decode(&golden("hello-accepted-v1.bin", &answer.encode().unwrap())), Ok(answer));

    let refusal = Refusal::new(RefusalCode::Busy, "zu viele Verbindungen — später wieder");
    let answer = Answer { versions: V1, verdict: Err(refusal) };
    assert_eq!(Answer::decode(&golden("hello-refused-v1.bin", &answer.encode().unwrap())), Ok(answer));
}

#[test]
fn frames_of_version_1() {
    let mut tally = Tally::default();
    let cases = [
        ("frame-raw-v1.bin", Encoding::Raw, 0x0011_2233_4455_6600, 512, vec![0xa5; 512]),
        ("frame-zstd-v1.bin", Encoding::Zstd, 4096, 65536, b"stands for a zstd frame".to_vec()),
        ("frame-zero-v1.bin", Encoding::Zero, 1 << 40, 1 << 30, Vec::new()),
    ];
    for (name, encoding, offset, raw_length, payload) in cases {
        let data = Data { encoding, offset, raw_length };
        let mut message = [&[0; HEADER_BYTES][..], &payload].concat();
        data.seal(&mut message).unwrap();
        let bytes = golden(name, &message);
        let (header, read) = frame::open(&bytes).unwrap();
        assert_eq!((header.kind, read), (Kind::Data(data), &payload[..]));
        tally.add(bytes.first_chunk().unwrap());
    }
    let mut control = [&[0; HEADER_BYTES][..], b"a message"].concat();
    frame::seal_control(&mut control).unwrap();
    let bytes = golden("frame-control-v1.bin", &control);
    assert_eq!(
        frame::open(&bytes).map(|(header, read)| (header.kind, read)),
        Ok((Kind::Control, &b"a message"[..]))
    );

    let end: End = tally.finish();
    let bytes = golden("frame-end-v1.bin", &end.to_message());
    assert_eq!(End::decode(frame::open(&bytes).unwrap().1), Ok(end));
}
