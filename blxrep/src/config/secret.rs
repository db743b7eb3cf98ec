//! The secret that agents and their dispatcher share, and who may use it.

use super::pattern::Pattern;
use crate::model::ids::AgentId;
use crate::wire::hello::Credentials;
use rustix::fs::FileType;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use subtle::ConstantTimeEq;

/// Below 16 bytes a secret can be guessed; above 1024 it does not fit a hello.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=1024;
/// What a refused agent is told: not whether the name or the secret was wrong.
pub const DENIED: &str = "unknown agent or wrong secret";

/// Why a secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("cannot read the secret {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("there is no secret {}: copy it from where the dispatcher runs, or make the first one with \
             `umask 077 && openssl rand -hex 32 > {}`", path.display(), path.display())]
    Missing { path: PathBuf },
    #[error("the secret {} is no regular file", path.display())]
    NotAFile { path: PathBuf },
    #[error("the secret {} can be used by others (mode {mode:04o}): run `chmod 600 {}`", path.display(), path.display())]
    Open { path: PathBuf, mode: u32 },
    #[error("the secret {} belongs to user {owner}: it must be yours or root's; run `chown {me} {}`", path.display(), path.display())]
    Foreign { path: PathBuf, owner: u32, me: u32 },
    #[error("the secret {} has {length} bytes; it must have 16 to 1024: make one with `openssl rand -hex 32`", path.display())]
    Length { path: PathBuf, length: usize },
}

/// A shared secret. Never printed.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Reads a secret that nobody else could have read or written. One line end after it is not part of it.
    pub fn load(path: &Path) -> Result<Self, SecretError> {
        let failed = |source| SecretError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => SecretError::Missing { path: path.to_owned() },
            _ => failed(error),
        })?;
        // Of the open file, so that it cannot be changed for another between the check and the use.
        let metadata = file.metadata().map_err(failed)?;
        if FileType::from_raw_mode(metadata.mode()) != FileType::RegularFile {
            return Err(SecretError::NotAFile { path: path.to_owned() });
        }
        let (mode, owner, me) =
            (metadata.mode() & 0o7777, metadata.uid(), rustix::process::geteuid().as_raw());
        if mode & 0o177 != 0 {
            return Err(SecretError::Open { path: path.to_owned(), mode });
        }
        if owner != me && owner != 0 {
            return Err(SecretError::Foreign { path: path.to_owned(), owner, me });
        }
        let mut bytes = Vec::new();
        let limit = LENGTHS.end() + 3;
        file.by_ref().take(limit as u64).read_to_end(&mut bytes).map_err(failed)?;
        let line_end = [&b"\r\n"[..], b"\n"].into_iter().find(|end| bytes.ends_with(end));
        bytes.truncate(bytes.len() - line_end.map_or(0, <[u8]>::len));
        if LENGTHS.contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(SecretError::Length { path: path.to_owned(), length: bytes.len() })
        }
    }

    /// What a hello carries.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        Credentials(self.0.clone())
    }

    /// Compares in a time that tells nothing, of digests, so that the length is not told either.
    fn is(&self, credentials: &Credentials) -> bool {
        let digest = |bytes: &[u8]| *blake3::hash(bytes).as_bytes();
        digest(&self.0).ct_eq(&digest(&credentials.0)).into()
    }
}

/// Why an agent is turned away; for the log. The agent is told [`DENIED`] and no more.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Denied {
    #[error("agent {0} is not among the dispatcher's `agents`")]
    UnknownAgent(AgentId),
    #[error("agent {0} gave a wrong secret")]
    WrongSecret(AgentId),
}

/// Who may connect.
#[derive(Clone, Debug)]
pub struct Access {
    pub secret: Secret,
    /// Not given: every agent that knows the secret.
    pub agents: Option<Vec<Pattern>>,
}

impl Access {
    /// Takes the same time whichever is wrong.
    pub fn check(&self, agent: &AgentId, credentials: &Credentials) -> Result<(), Denied> {
        let right = self.secret.is(credentials);
        let known =
            self.agents.as_ref().is_none_or(|all| all.iter().any(|pattern| pattern.matches(agent.as_str())));
        match (known, right) {
            (true, true) => Ok(()),
            (false, _) => Err(Denied::UnknownAgent(agent.clone())),
            (true, false) => Err(Denied::WrongSecret(agent.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    fn loaded(content: &[u8], mode: u32) -> Result<Secret, SecretError> {
        let (_dir, path) = file(content, mode);
        Secret::load(&path)
    }

    #[test]
    fn one_line_end_is_not_part_of_it() {
        for end in [&b""[..], b"\n", b"\r\n"] {
            let secret = loaded(&[b"0123456789abcdef", end].concat(), 0o600).unwrap();
            assert_eq!(secret.credentials().0, b"0123456789abcdef");
        }
        assert_eq!(loaded(b"0123456789abcdef\n\n", 0o400).unwrap().credentials().0, b"0123456789abcdef\n");
        assert_eq!(loaded(&[[b'x'; 1024].as_slice(), b"\n"].concat(), 0o600).unwrap().0.len(), 1024);
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        for mode in [0o640, 0o604, 0o620, 0o700, 0o666] {
            let (_dir, path) = file(b"0123456789abcdef", mode);
            let error = Secret::load(&path).unwrap_err();
            assert!(matches!(error, SecretError::Open { mode: m, .. } if m == mode), "{error}");
            assert!(error.to_string().ends_with(&format!("run `chmod 600 {}`", path.display())), "{error}");
        }
    }

    #[test]
    fn short_long_and_missing_secrets_are_refused() {
        assert!(matches!(loaded(b"", 0o600), Err(SecretError::Length { length: 0, .. })));
        assert!(matches!(loaded(b"0123456789abcde\n", 0o600), Err(SecretError::Length { length: 15, .. })));
        assert!(matches!(loaded(&[b'x'; 1025], 0o600), Err(SecretError::Length { .. })));
        assert!(matches!(loaded(&[b'x'; 100_000], 0o600), Err(SecretError::Length { .. })));
        assert!(matches!(Secret::load(Path::new("/nonexistent")), Err(SecretError::Missing { .. })));
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Secret::load(dir.path()), Err(SecretError::NotAFile { .. })));
    }

    #[test]
    fn a_secret_of_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (_dir, path) = file(b"0123456789abcdef", 0o600);
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        assert!(matches!(Secret::load(&path), Err(SecretError::Foreign { owner: 65_534, me: 0, .. })));
    }

    #[test]
    fn only_known_agents_with_the_secret_may_connect() {
        let access = Access {
            secret: Secret(b"0123456789abcdef".to_vec()),
            agents: Some(vec!["web[1-3]".parse().unwrap()]),
        };
        let check =
            |agent: &str, secret: &[u8]| access.check(&agent.parse().unwrap(), &Credentials(secret.to_vec()));
        assert_eq!(check("web1", b"0123456789abcdef"), Ok(()));
        assert_eq!(check("web1", b"0123456789abcdeg"), Err(Denied::WrongSecret("web1".parse().unwrap())));
        assert_eq!(check("web1", b"0123456789abcde"), Err(Denied::WrongSecret("web1".parse().unwrap())));
        assert_eq!(check("web1", b""), Err(Denied::WrongSecret("web1".parse().unwrap())));
        assert_eq!(check("web4", b"0123456789abcdef"), Err(Denied::UnknownAgent("web4".parse().unwrap())));
        let open = Access { agents: None, ..access };
        assert_eq!(open.check(&"web4".parse().unwrap(), &Credentials(b"0123456789abcdef".to_vec())), Ok(()));
    }

    #[test]
    fn a_secret_is_never_printed() {
        assert_eq!(format!("{:?}", Secret(b"0123456789abcdef".to_vec())), "Secret");
    }
}
