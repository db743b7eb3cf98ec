//! The first message in each direction. Its bytes are laid out by hand and fixed for ever.
//!
//! ```text
//! client                              server
//!      0   8  magic "blxrepC\n"            0   8  magic "blxrepS\n"
//!      8   4  length of all of it          8   4  length of all of it
//!     12   2  oldest version spoken       12   2  oldest version spoken
//!     14   2  newest version spoken       14   2  newest version spoken
//!     16   1  role                        16   1  1 accepted, 2 refused
//!     17   1  channel                     17   1  0
//!     18   2  flags                       18   2  accepted: version; refused: code
//!     20   8  session                    accepted:
//!     28  16  boot id                     20  16  boot id
//!     44   2  length of the agent's id    36  16  store id
//!     46   2  length of the credentials   52   8  session, the client's
//!     48   .  agent's id, credentials     60   2  number of kept disks, then of each:
//!      .   .  more, from a later version          4 major, 4 minor, 2 length, identity
//!      .   4  CRC32C of all before       refused:
//!                                         20   2  length of the text, then the text
//!                                          .   .  more, from a later version
//!                                          .   4  CRC32C of all before
//! ```
//!
//! All little-endian. What a later version appends before the checksum is skipped by an earlier one, and flags
//! that it does not know mean nothing to it: whatever must be understood comes with a new version.

use super::frame::MAX_PAYLOAD_BYTES;
use super::version::{SUPPORTED, VersionRange};
use crate::model::ids::{AgentId, StoreId};
use std::fmt;

/// The longest hello of a client that is read.
pub const MAX_CLIENT_HELLO: usize = 4 << 10;
/// The longest answer of a server that is read.
pub const MAX_SERVER_HELLO: usize = 32 << 10;
/// The longest credentials: a secret, later a token or a signature.
pub const MAX_CREDENTIALS: usize = 1 << 10;
/// Most disks under one data directory that an answer names: as many as an agent can protect.
pub const MAX_KEPT: usize = 64;
/// The longest identity of a kept disk, and the longest text of a refusal.
pub const MAX_TEXT: usize = 256;

const CLIENT_MAGIC: [u8; 8] = *b"blxrepC\n";
const SERVER_MAGIC: [u8; 8] = *b"blxrepS\n";
const ACCEPTED: u8 = 1;
const REFUSED: u8 = 2;

/// Why bytes are not a hello.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum HelloError {
    #[error("it does not start with the magic of a blxrep {0}")]
    Magic(&'static str),
    #[error("it has {carried} bytes, and {announced} were announced")]
    Length { announced: usize, carried: usize },
    #[error("it has {0} bytes, more than a hello may have")]
    TooLong(usize),
    #[error("it ends in the middle of a field")]
    Truncated,
    #[error("its checksum does not match: it was damaged on the way")]
    Checksum,
    #[error("its {field} has {length} bytes; at most {limit} are allowed")]
    Field { field: &'static str, length: usize, limit: usize },
    #[error("its {0} is not text")]
    NotText(&'static str),
    #[error("{0}")]
    Agent(#[from] crate::model::ids::IdError),
    #[error("unknown role {0}")]
    Role(u8),
    #[error("unknown channel {0}")]
    Channel(u8),
    #[error("unknown status {0}")]
    Status(u8),
}

/// What a connection is for. Each has its own endpoint and its own pair of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    Config,
    Snapshot,
    Live,
    Restore,
}

impl Channel {
    pub const ALL: [Self; 4] = [Self::Config, Self::Snapshot, Self::Live, Self::Restore];

    /// Path of the endpoint.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Config => "/ws/config",
            Self::Snapshot => "/ws/snapshot",
            Self::Live => "/ws/live",
            Self::Restore => "/ws/restore",
        }
    }

    #[must_use]
    pub fn from_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| channel.path() == path)
    }

    /// The longest control message. An inventory names every disk and partition of a host; the bulk channels'
    /// longest is a report of a few hundred ranges or the summary of a cut.
    #[must_use]
    pub const fn max_control_bytes(self) -> usize {
        match self {
            Self::Config => MAX_PAYLOAD_BYTES as usize,
            Self::Snapshot | Self::Live | Self::Restore => 64 << 10,
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Config => 1,
            Self::Snapshot => 2,
            Self::Live => 3,
            Self::Restore => 4,
        }
    }

    fn from_code(code: u8) -> Result<Self, HelloError> {
        Self::ALL.into_iter().find(|channel| channel.code() == code).ok_or(HelloError::Channel(code))
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path())
    }
}

/// Who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Agent,
}

/// What proves that a client is who it says: for now the shared secret. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(pub Vec<u8>);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({} bytes)", self.0.len())
    }
}

/// The client's hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    pub versions: VersionRange,
    pub role: Role,
    pub channel: Channel,
    /// No bit has a meaning yet.
    pub flags: u16,
    /// A random number per agent process: connections of one life belong together.
    pub session: u64,
    /// `boot_id` of the agent's kernel: equal to the dispatcher's on the same machine.
    pub boot_id: [u8; 16],
    pub agent: AgentId,
    pub credentials: Credentials,
}

/// One whole disk under the dispatcher's data directory. An agent on the same machine leaves it out: what is
/// stored there would be changes to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptDisk {
    pub major: u32,
    pub minor: u32,
    /// Its identity as text; empty if it has none.
    pub identity: String,
}

/// The server's hello: the agent may speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The version that both sides speak from here on.
    pub version: u16,
    pub boot_id: [u8; 16],
    pub store: StoreId,
    /// The client's, which shows that this answers its hello.
    pub session: u64,
    pub kept: Vec<KeptDisk>,
}

impl Accepted {
    /// Whether a disk of the client's lies under the data directory: same boot of the same kernel, same number.
    #[must_use]
    pub fn keeps(&self, boot_id: [u8; 16], major: u32, minor: u32) -> bool {
        self.boot_id == boot_id && self.kept.iter().any(|disk| (disk.major, disk.minor) == (major, minor))
    }
}

/// Why a client is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// No version in common.
    Version,
    /// The secret is wrong or the agent is not known; which of them is not told.
    Credentials,
    Role,
    /// The hello names another channel than the path it came by.
    Path,
    /// Try again later: too many connections, or this agent is connected already.
    Busy,
    /// The hello could not be read.
    Malformed,
    /// The dispatcher is stopping or its store cannot be used now.
    Unavailable,
    /// From a later version: see the text.
    Other(u16),
}

impl RefusalCode {
    const fn code(self) -> u16 {
        match self {
            Self::Version => 1,
            Self::Credentials => 2,
            Self::Role => 3,
            Self::Path => 4,
            Self::Busy => 5,
            Self::Malformed => 6,
            Self::Unavailable => 7,
            Self::Other(code) => code,
        }
    }

    const fn from_code(code: u16) -> Self {
        match code {
            1 => Self::Version,
            2 => Self::Credentials,
            3 => Self::Role,
            4 => Self::Path,
            5 => Self::Busy,
            6 => Self::Malformed,
            7 => Self::Unavailable,
            other => Self::Other(other),
        }
    }
}

/// The server's hello: the agent is turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: RefusalCode,
    pub reason: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Refusal {
    #[must_use]
    pub fn new(code: RefusalCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    /// The refusal of a client that speaks none of our versions. Names both ranges and who must be upgraded.
    #[must_use]
    pub fn version(ours: VersionRange, theirs: VersionRange) -> Self {
        let old = if theirs.max < ours.min { "agent" } else { "dispatcher" };
        Self::new(
            RefusalCode::Version,
            format!("the agent speaks protocol {theirs}, the dispatcher {ours}: upgrade the {old}"),
        )
    }
}

/// What a server says to a client's hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the server speaks, also when it refuses.
    pub versions: VersionRange,
    pub verdict: Result<Accepted, Refusal>,
}

impl ClientHello {
    pub fn encode(&self) -> Result<Vec<u8>, HelloError> {
        let agent = self.agent.as_str();
        let mut out = start(CLIENT_MAGIC, self.versions);
        out.push(match self.role {
            Role::Agent => 1,
        });
        out.push(self.channel.code());
        out.extend(self.flags.to_le_bytes());
        out.extend(self.session.to_le_bytes());
        out.extend(self.boot_id);
        out.extend(bounded("agent's id", agent.len(), MAX_TEXT)?.to_le_bytes());
        out.extend(bounded("credentials", self.credentials.0.len(), MAX_CREDENTIALS)?.to_le_bytes());
        out.extend(agent.as_bytes());
        out.extend(&self.credentials.0);
        finish(out, MAX_CLIENT_HELLO)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        let mut input = Input::open(bytes, CLIENT_MAGIC, "agent", MAX_CLIENT_HELLO)?;
        let versions = input.versions()?;
        let (role, channel) = (input.u8()?, input.u8()?);
        let flags = input.u16()?;
        let session = input.u64()?;
        let boot_id = input.array()?;
        let agent_length = input.length("agent's id", MAX_TEXT)?;
        let credentials_length = input.length("credentials", MAX_CREDENTIALS)?;
        let agent = input.text("agent's id", agent_length)?.parse()?;
        let credentials = Credentials(input.take(credentials_length)?.to_vec());
        let role = if role == 1 {
            Role::Agent
        } else {
            return Err(HelloError::Role(role));
        };
        let channel = Channel::from_code(channel)?;
        Ok(Self { versions, role, channel, flags, session, boot_id, agent, credentials })
    }

    /// The versions in a client's hello, whatever follows them: a client from the future is told ours even
    /// when its role or channel is one that we do not know.
    pub fn peek_versions(bytes: &[u8]) -> Result<VersionRange, HelloError> {
        Input::open(bytes, CLIENT_MAGIC, "agent", MAX_CLIENT_HELLO)?.versions()
    }
}

/// Reads a client's hello that came in by the endpoint of `channel`, and chooses the version to speak. The error
/// is what to answer. Whether the client may speak at all is for the caller to say.
pub fn judge(bytes: &[u8], channel: Channel) -> Result<(ClientHello, u16), Refusal> {
    let malformed = |error: HelloError| {
        Refusal::new(RefusalCode::Malformed, format!("the hello cannot be read: {error}"))
    };
    let theirs = ClientHello::peek_versions(bytes).map_err(malformed)?;
    let version = SUPPORTED.common(theirs).ok_or_else(|| Refusal::version(SUPPORTED, theirs))?;
    let hello = ClientHello::decode(bytes).map_err(|error| match error {
        HelloError::Role(_) => Refusal::new(RefusalCode::Role, error.to_string()),
        other => malformed(other),
    })?;
    if hello.channel != channel {
        let reason = format!("the hello is for {} and came by {channel}", hello.channel);
        return Err(Refusal::new(RefusalCode::Path, reason));
    }
    Ok((hello, version))
}

impl Answer {
    /// What a server of this version says.
    #[must_use]
    pub const fn new(verdict: Result<Accepted, Refusal>) -> Self {
        Self { versions: SUPPORTED, verdict }
    }

    pub fn encode(&self) -> Result<Vec<u8>, HelloError> {
        let mut out = start(SERVER_MAGIC, self.versions);
        match &self.verdict {
            Ok(accepted) => {
                out.extend([ACCEPTED, 0]);
                out.extend(accepted.version.to_le_bytes());
                out.extend(accepted.boot_id);
                out.extend(accepted.store.0.to_le_bytes());
                out.extend(accepted.session.to_le_bytes());
                out.extend(bounded("list of kept disks", accepted.kept.len(), MAX_KEPT)?.to_le_bytes());
                for disk in &accepted.kept {
                    out.extend(disk.major.to_le_bytes());
                    out.extend(disk.minor.to_le_bytes());
                    out.extend(bounded("identity", disk.identity.len(), MAX_TEXT)?.to_le_bytes());
                    out.extend(disk.identity.as_bytes());
                }
            }
            Err(refusal) => {
                out.extend([REFUSED, 0]);
                out.extend(refusal.code.code().to_le_bytes());
                let reason = cut(&refusal.reason, MAX_TEXT);
                out.extend(bounded("reason", reason.len(), MAX_TEXT)?.to_le_bytes());
                out.extend(reason.as_bytes());
            }
        }
        finish(out, MAX_SERVER_HELLO)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, HelloError> {
        let mut input = Input::open(bytes, SERVER_MAGIC, "dispatcher", MAX_SERVER_HELLO)?;
        let versions = input.versions()?;
        let status = input.u8()?;
        input.u8()?;
        let number = input.u16()?;
        let verdict = match status {
            ACCEPTED => Ok(Accepted {
                version: number,
                boot_id: input.array()?,
                store: StoreId(u128::from_le_bytes(input.array()?)),
                session: input.u64()?,
                kept: input.kept()?,
            }),
            REFUSED => {
                let length = input.length("reason", MAX_TEXT)?;
                let reason = input.text("reason", length)?.to_owned();
                Err(Refusal { code: RefusalCode::from_code(number), reason })
            }
            other => return Err(HelloError::Status(other)),
        };
        Ok(Self { versions, verdict })
    }
}

/// The longest start of `text` with at most `limit` bytes.
fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

fn start(magic: [u8; 8], versions: VersionRange) -> Vec<u8> {
    let mut out = magic.to_vec();
    out.extend([0; 4]);
    out.extend(versions.min.to_le_bytes());
    out.extend(versions.max.to_le_bytes());
    out
}

/// Puts in the length and appends the checksum.
fn finish(mut out: Vec<u8>, limit: usize) -> Result<Vec<u8>, HelloError> {
    let total = out.len() + 4;
    if total > limit {
        return Err(HelloError::TooLong(total));
    }
    let length = u32::try_from(total).map_err(|_| HelloError::TooLong(total))?;
    out[8..12].copy_from_slice(&length.to_le_bytes());
    let crc = crc32c::crc32c(&out);
    out.extend(crc.to_le_bytes());
    Ok(out)
}

fn bounded(field: &'static str, length: usize, limit: usize) -> Result<u16, HelloError> {
    u16::try_from(length).ok().filter(|_| length <= limit).ok_or(HelloError::Field { field, length, limit })
}

/// What is left to read of a hello, without its checksum.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Checks magic, length and checksum.
    fn open(bytes: &'a [u8], magic: [u8; 8], who: &'static str, limit: usize) -> Result<Self, HelloError> {
        if bytes.len() > limit {
            return Err(HelloError::TooLong(bytes.len()));
        }
        let Some((body, crc)) = bytes.split_last_chunk::<4>() else {
            return Err(HelloError::Truncated);
        };
        let mut input = Self(body);
        if input.array::<8>().ok() != Some(magic) {
            return Err(HelloError::Magic(who));
        }
        let announced = usize::try_from(input.u32()?).unwrap_or(usize::MAX);
        if announced != bytes.len() {
            return Err(HelloError::Length { announced, carried: bytes.len() });
        }
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(HelloError::Checksum);
        }
        Ok(input)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], HelloError> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(HelloError::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], HelloError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(HelloError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, HelloError> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, HelloError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, HelloError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, HelloError> {
        self.array().map(u64::from_le_bytes)
    }

    fn versions(&mut self) -> Result<VersionRange, HelloError> {
        Ok(VersionRange { min: self.u16()?, max: self.u16()? })
    }

    /// A length, judged before anything is taken by it.
    fn length(&mut self, field: &'static str, limit: usize) -> Result<usize, HelloError> {
        let length = usize::from(self.u16()?);
        bounded(field, length, limit).map(|_| length)
    }

    fn text(&mut self, field: &'static str, length: usize) -> Result<&'a str, HelloError> {
        std::str::from_utf8(self.take(length)?).map_err(|_| HelloError::NotText(field))
    }

    fn kept(&mut self) -> Result<Vec<KeptDisk>, HelloError> {
        let count = self.length("list of kept disks", MAX_KEPT)?;
        let mut kept = Vec::with_capacity(count);
        for _ in 0..count {
            let (major, minor) = (self.u32()?, self.u32()?);
            let length = self.length("identity", MAX_TEXT)?;
            kept.push(KeptDisk { major, minor, identity: self.text("identity", length)?.to_owned() });
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello() -> ClientHello {
        ClientHello {
            versions: SUPPORTED,
            role: Role::Agent,
            channel: Channel::Live,
            flags: 0,
            session: 0x0102_0304_0506_0708,
            boot_id: [9; 16],
            agent: "web1".parse().unwrap(),
            credentials: Credentials(b"correct horse battery".to_vec()),
        }
    }

    fn accepted() -> Answer {
        let kept = KeptDisk { major: 259, minor: 300, identity: "wwn:eui.0025".to_owned() };
        Answer::new(Ok(Accepted {
            version: 1,
            boot_id: [3; 16],
            store: StoreId(42),
            session: 7,
            kept: vec![kept.clone(), KeptDisk { identity: String::new(), ..kept }],
        }))
    }

    /// Puts length and checksum right after an edit.
    fn resealed(mut bytes: Vec<u8>, edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        bytes.truncate(bytes.len() - 4);
        edit(&mut bytes);
        finish(bytes, usize::MAX).unwrap()
    }

    #[test]
    fn both_hellos_are_what_was_encoded() {
        let bytes = hello().encode().unwrap();
        assert_eq!(ClientHello::decode(&bytes), Ok(hello()));
        assert_eq!(Answer::decode(&accepted().encode().unwrap()), Ok(accepted()));
        let refused = Answer::new(Err(Refusal::new(RefusalCode::Other(900), "no")));
        assert_eq!(Answer::decode(&refused.encode().unwrap()), Ok(refused));
    }

    #[test]
    fn a_kept_disk_is_one_of_the_same_machine() {
        let accepted = accepted().verdict.unwrap();
        assert!(accepted.keeps([3; 16], 259, 300));
        assert!(!accepted.keeps([4; 16], 259, 300), "another machine");
        assert!(!accepted.keeps([3; 16], 259, 301));
    }

    #[test]
    fn every_flipped_bit_and_truncation_is_found() {
        let (client, server) = (hello().encode().unwrap(), accepted().encode().unwrap());
        for bit in 0..client.len() * 8 {
            let mut damaged = client.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(ClientHello::decode(&damaged).is_err(), "client bit {bit}");
        }
        for bit in 0..server.len() * 8 {
            let mut damaged = server.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Answer::decode(&damaged).is_err(), "server bit {bit}");
        }
        assert!((0..client.len()).all(|n| ClientHello::decode(&client[..n]).is_err()));
        assert!((0..server.len()).all(|n| Answer::decode(&server[..n]).is_err()));
    }

    #[test]
    fn what_a_later_version_appends_is_skipped() {
        let longer = |bytes: Vec<u8>| resealed(bytes, |b| b.extend([1, 2, 3, 4, 5]));
        assert_eq!(ClientHello::decode(&longer(hello().encode().unwrap())), Ok(hello()));
        assert_eq!(Answer::decode(&longer(accepted().encode().unwrap())), Ok(accepted()));
    }

    #[test]
    fn a_version_from_the_future_is_told_both_ranges() {
        let versions = VersionRange { min: 7, max: 9 };
        // Also with a role and a channel that only the future knows.
        let bytes = resealed(ClientHello { versions, ..hello() }.encode().unwrap(), |b| b[16..18].fill(200));
        let refusal = judge(&bytes, Channel::Live).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Version);
        assert_eq!(
            refusal.reason,
            "the agent speaks protocol 7 to 9, the dispatcher 1: upgrade the dispatcher"
        );
    }

    #[test]
    fn a_hello_must_fit_its_path_and_role() {
        let bytes = hello().encode().unwrap();
        assert_eq!(judge(&bytes, Channel::Live), Ok((hello(), 1)));
        assert_eq!(judge(&bytes, Channel::Config).unwrap_err().code, RefusalCode::Path);
        let role = resealed(bytes.clone(), |b| b[16] = 9);
        assert_eq!(judge(&role, Channel::Live).unwrap_err().code, RefusalCode::Role);
        let channel = resealed(bytes, |b| b[17] = 9);
        assert_eq!(judge(&channel, Channel::Live).unwrap_err().code, RefusalCode::Malformed);
        assert_eq!(judge(b"GET / HTTP/1.1", Channel::Live).unwrap_err().code, RefusalCode::Malformed);
    }

    #[test]
    fn claims_above_the_limits_are_refused() {
        let bytes = hello().encode().unwrap();
        let agent = resealed(bytes.clone(), |b| b[44..46].fill(0xff));
        assert!(matches!(ClientHello::decode(&agent), Err(HelloError::Field { field: "agent's id", .. })));
        let credentials = resealed(bytes, |b| b[46..48].fill(0xff));
        assert!(matches!(ClientHello::decode(&credentials), Err(HelloError::Field { .. })));
        let kept = resealed(accepted().encode().unwrap(), |b| b[60..62].fill(0xff));
        assert!(matches!(Answer::decode(&kept), Err(HelloError::Field { .. })));
        let credentials = Credentials(vec![0; MAX_CREDENTIALS + 1]);
        assert!(ClientHello { credentials, ..hello() }.encode().is_err());
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let answer = Answer::new(Err(Refusal::new(RefusalCode::Busy, "é".repeat(400))));
        let refusal = Answer::decode(&answer.encode().unwrap()).unwrap().verdict.unwrap_err();
        assert_eq!(refusal.reason, "é".repeat(MAX_TEXT / 2));
    }

    #[test]
    fn credentials_are_never_printed() {
        assert!(!format!("{:?}", hello()).contains("correct"));
    }

    #[test]
    fn paths_and_channels_belong_together() {
        for channel in Channel::ALL {
            assert_eq!(Channel::from_path(channel.path()), Some(channel));
            assert_eq!(Channel::from_code(channel.code()), Ok(channel));
        }
        assert_eq!(Channel::from_path("/ws/config/"), None);
    }

    proptest! {
        #[test]
        fn any_body_gives_an_answer(body in prop::collection::vec(any::<u8>(), 0..200)) {
            for magic in [CLIENT_MAGIC, SERVER_MAGIC] {
                let mut bytes = start(magic, SUPPORTED);
                bytes.extend(&body);
                let bytes = finish(bytes, usize::MAX).unwrap();
                let _ = (ClientHello::decode(&bytes), Answer::decode(&bytes));
            }
        }
    }
}
