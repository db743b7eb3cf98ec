//! YAML files, read with a limit and judged with the place of every mistake.

use super::ConfigError;
use serde::de::DeserializeOwned;
use serde_saphyr::{MessageFormatter, UserMessageFormatter};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The longest configuration or policy file.
const MAX_FILE: u64 = 256 << 10;

/// Reads a file whose every key is known.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    File::open(path).map_err(failed)?.take(MAX_FILE + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(ConfigError::TooLong { path: path.to_owned(), limit: MAX_FILE });
    }
    parse(&text, path)
}

/// Judges the text of a file. `path` is for messages.
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, ConfigError> {
    // Neither anchors nor merging are of use here, and they are what makes YAML explode.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_events: 50_000, max_depth: 16, max_anchors: 0, max_aliases: 0 },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location();
        let (line, column) = place.map_or((0, 0), |place| (place.line(), place.column()));
        let index = usize::try_from(line).ok().and_then(|line| line.checked_sub(1));
        let at = index.and_then(|index| text.lines().nth(index)).unwrap_or_default();
        ConfigError::Yaml {
            path: path.to_owned(),
            line,
            column,
            at: at.trim().chars().take(80).collect(),
            message: UserMessageFormatter.format_message(error.without_snippet()).into_owned(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its reading is of interest")]
    struct Sample {
        number: Option<u32>,
        inner: Option<Box<Sample>>,
    }

    fn error(text: &str) -> String {
        parse::<Sample>(text, Path::new("/etc/x.yaml")).unwrap_err().to_string()
    }

    #[test]
    fn a_mistake_is_told_with_its_place_and_its_line() {
        assert_eq!(
            error("number: 3\ninner:\n  numbr: 4\n"),
            "/etc/x.yaml:3:3: unknown field `numbr`, expected one of number, inner (at `numbr: 4`)"
        );
        assert_eq!(error("number: -1\n"), "/etc/x.yaml:1:9: invalid u32 (at `number: -1`)");
        assert!(error("number: 1\nnumber: 2\n").contains(":2:1: duplicate mapping key `number`"));
        assert!(error("inner: [\n").starts_with("/etc/x.yaml:"));
        assert!(error("number: 1\n---\nnumber: 2\n").contains("only single YAML document"));
    }

    #[test]
    fn yaml_cannot_explode() {
        assert!(error("inner: &a {number: 1}\n").contains("/etc/x.yaml:1:"));
        let deep = "{inner: ".repeat(100);
        assert!(error(&deep).starts_with("/etc/x.yaml:"));
    }

    #[test]
    fn a_file_is_read_up_to_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.yaml");
        std::fs::write(&path, " ".repeat(300 << 10)).unwrap();
        assert!(matches!(read::<Sample>(&path), Err(ConfigError::TooLong { .. })));
        std::fs::write(&path, b"number: \xff").unwrap();
        assert!(matches!(read::<Sample>(&path), Err(ConfigError::Read { .. })));
        assert!(matches!(read::<Sample>(&dir.path().join("none")), Err(ConfigError::Read { .. })));
    }
}
