//! The documentation says what the program does: keys, commands, exit codes, limits, messages and samples are
//! compared with the parsers, the binary and the sources.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop where it stands")]

use blxrep::config::file::{AgentConfig, AgentSection, ConfigFile, DispatcherConfig, DispatcherSection};
use blxrep::config::policy::Policy;
use blxrep::config::yaml;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn operations() -> String {
    read("docs/operations.md")
}

/// Files below a folder with this ending, relative to the repository.
fn files(folder: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().display());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&path, ending));
        } else if path.ends_with(ending) {
            found.push(path);
        }
    }
    found
}

/// Every document: its path and text.
fn documents() -> Vec<(String, String)> {
    let mut paths = files("docs", ".md");
    paths.push("README.md".to_owned());
    paths.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

/// The text below a heading, up to the next one.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no `{heading}`"));
    rest.split_once("\n#").map_or(rest, |(body, _)| body)
}

/// The rows of all tables in a text, without their headers.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let lines: Vec<&str> = text.lines().collect();
    let is_row = |line: &&str| line.starts_with('|') && !line.starts_with("|---");
    let is_header = |i: usize| lines.get(i + 1).is_some_and(|next| next.starts_with("|---"));
    let body = lines.iter().enumerate().filter(|(i, line)| is_row(line) && !is_header(*i));
    body.map(|(_, line)| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// What stands between backticks, outside of fenced blocks.
fn code_spans(text: &str) -> Vec<&str> {
    let prose = text.split("\n```").step_by(2);
    prose.flat_map(|part| part.split('`').skip(1).step_by(2)).collect()
}

/// The fenced blocks of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fenced = text.split("\n```").skip(1).step_by(2);
    fenced.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n')).collect()
}

/// What the binary prints for these arguments.
fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_blxrep")).args(arguments).arg("--help").output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn commands() -> BTreeSet<String> {
    let help = help(&[]);
    let (_, listed) = help.split_once("Commands:\n").unwrap();
    let lines = listed.lines().take_while(|line| line.starts_with("  "));
    let names = lines.map(|line| line.split_whitespace().next().unwrap().to_owned());
    names.filter(|name| name != "help").collect()
}

/// The long options that a command takes.
fn options(command: &str) -> BTreeSet<String> {
    let mut help = help(&[command]);
    // A command may have commands of its own.
    if let Some((_, listed)) = help.split_once("Commands:\n") {
        let lines = listed.lines().take_while(|line| line.starts_with("  "));
        let names = lines.map(|line| line.split_whitespace().next().unwrap());
        let own: Vec<String> =
            names.filter(|name| *name != "help").map(|name| self::help(&[command, name])).collect();
        help.push_str(&own.concat());
    }
    let lines = help.lines().filter(|line| line.trim_start().starts_with('-'));
    let words = lines.flat_map(str::split_whitespace).filter(|word| word.starts_with("--"));
    words.filter(|word| *word != "--help").map(str::to_owned).collect()
}

fn long_options(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| c.is_whitespace() || matches!(c, '`' | ',' | ';' | '='));
    words.filter(|word| word.starts_with("--")).map(str::to_owned).collect()
}

/// The keys that a parser takes, by what it says of one that it does not.
fn accepted<T: serde::de::DeserializeOwned + std::fmt::Debug>(text: &str) -> BTreeSet<String> {
    let error = yaml::parse::<T>(text, Path::new("x.yaml")).unwrap_err().to_string();
    let (_, keys) = error.split_once("expected one of ").unwrap_or_else(|| panic!("{error}"));
    let (keys, _) = keys.split_once(" (at").unwrap();
    keys.split(", ").map(str::to_owned).collect()
}

#[test]
fn every_key_is_documented_and_every_documented_key_exists() {
    let text = operations();
    let cases = [
        ("### Section `agent`", accepted::<ConfigFile>("agent:\n  nonsense: 1\n")),
        ("### Entries of `disks`", accepted::<ConfigFile>("agent:\n  disks:\n    - nonsense: 1\n")),
        ("### Authority", accepted::<ConfigFile>("agent:\n  restore: {nonsense: 1}\n")),
        ("### Section `dispatcher`", accepted::<ConfigFile>("dispatcher:\n  nonsense: 1\n")),
        ("### Policy files", accepted::<Policy>("nonsense: 1\n")),
        ("### Entries of `verify`", accepted::<Policy>("verify:\n  nonsense: 1\n")),
        ("### Entries of `targets`", accepted::<Policy>("targets:\n  - nonsense: 1\n")),
    ];
    for (heading, keys) in cases {
        let rows = rows(section(&text, heading));
        let documented: BTreeSet<String> =
            rows.iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
        assert_eq!(documented, keys, "{heading}");
    }
}

#[test]
fn defaults_are_those_of_the_program() {
    let text = operations();
    let typed = AgentSection {
        id: Some("web1".parse().unwrap()),
        dispatcher_addr: Some("backup:8080".to_owned()),
        ..AgentSection::default()
    };
    let agent = AgentConfig::new(typed, AgentSection::default()).unwrap();
    let dispatcher =
        DispatcherConfig::new(DispatcherSection::default(), DispatcherSection::default()).unwrap();
    let shown = |path: &Path| format!("`{}`", path.display());
    let cases = [
        ("### Section `agent`", "`secret_file`", shown(&agent.secret_file)),
        ("### Section `agent`", "`pin_dir`", shown(&agent.pin_dir)),
        ("### Section `agent`", "`idle_io`", format!("`{}`", agent.idle_io)),
        ("### Section `agent`", "`max_map_memory`", format!("`{}MiB`", agent.max_map_memory >> 20)),
        ("### Section `agent`", "`read_threads`", agent.read_threads.to_string()),
        ("### Section `dispatcher`", "`listen`", format!("`{}`, which is refused", dispatcher.listen)),
        ("### Section `dispatcher`", "`data_dir`", shown(&dispatcher.data_dir)),
        ("### Section `dispatcher`", "`policy_dir`", shown(&dispatcher.policy_dir)),
        ("### Section `dispatcher`", "`secret_file`", shown(&dispatcher.secret_file)),
    ];
    for (heading, key, default) in cases {
        let rows = rows(section(&text, heading));
        let row = rows.iter().find(|row| row[0] == key).unwrap();
        assert_eq!(row[1], default, "{heading}: {key}");
    }
}

#[test]
fn commands_and_options_are_those_of_the_binary() {
    let text = operations();
    let mut documented = BTreeMap::new();
    for row in rows(section(&text, "## Commands")) {
        let name = row[0].trim_start_matches("`blxrep ").split('`').next().unwrap();
        documented.insert(name.to_owned(), long_options(row[2]));
    }
    let real: BTreeMap<_, _> = commands().into_iter().map(|name| (name.clone(), options(&name))).collect();
    assert_eq!(documented, real);
}

#[test]
fn exit_codes_are_those_of_the_binary() {
    let help = help(&[]);
    let (_, listed) = help.split_once("Exit codes:\n").unwrap();
    let number = |text: &str| text.trim().split(' ').next().unwrap().parse::<u8>().unwrap();
    let real: Vec<u8> = listed.lines().map(number).collect();
    let text = operations();
    let documented: Vec<u8> =
        rows(section(&text, "### Exit codes")).iter().map(|row| number(row[0])).collect();
    assert_eq!(documented, real);
}

/// The sample with every line in force that only has a `#` before it: comments have a blank behind theirs.
fn in_force(sample: &str) -> String {
    let lines = sample.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with("  ") || rest.starts_with(char::is_alphabetic) => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn samples_and_examples_are_understood() {
    let sample = read("dist/config.yaml");
    let path = Path::new("dist/config.yaml");
    yaml::parse::<ConfigFile>(&sample, path).unwrap();
    let file = yaml::parse::<ConfigFile>(&in_force(&sample), path).unwrap();
    let agent = AgentConfig::new(AgentSection::default(), file.agent).unwrap();
    assert_eq!((agent.disks.len(), agent.names.len(), agent.bandwidth_limit), (2, 1, Some(50 << 20)));
    let dispatcher = DispatcherConfig::new(DispatcherSection::default(), file.dispatcher).unwrap();
    assert!(dispatcher.listen.ip().is_loopback(), "the dispatcher would refuse {}", dispatcher.listen);
    for path in files("dist/policies", ".yaml") {
        Policy::parse(&read(&path), Path::new(&path)).unwrap();
    }
    for (path, text) in documents() {
        for block in blocks(&text, "yaml") {
            if block.contains("targets:") {
                Policy::parse(block, Path::new(&path)).unwrap();
            } else {
                yaml::parse::<ConfigFile>(block, Path::new(&path)).unwrap();
            }
        }
    }
}

/// Every command line that a reader may type, without its prompt.
fn typed_lines() -> Vec<(String, String)> {
    let mut lines = Vec::new();
    for (path, text) in documents() {
        let shown = blocks(&text, "console").into_iter().flat_map(str::lines).map(str::to_owned);
        let spans = code_spans(&text).into_iter().map(|span| format!("$ {span}"));
        for line in shown.chain(spans) {
            let typed = line.trim_start_matches(['#', '$', ' ']).to_owned();
            lines.push((path.clone(), typed));
        }
    }
    for path in files("dist/systemd", ".service") {
        let text = read(&path);
        let starts = text.lines().filter_map(|line| line.strip_prefix("ExecStart=/usr/bin/"));
        lines.extend(starts.map(|line| (path.clone(), line.to_owned())));
    }
    lines
}

#[test]
fn what_a_reader_may_type_exists() {
    let real: BTreeMap<_, _> = commands().into_iter().map(|name| (name.clone(), options(&name))).collect();
    let mut seen = 0;
    for (path, line) in typed_lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["blxrep", command, ..] => {
                let taken = real.get(command).unwrap_or_else(|| panic!("{path}: no command in `{line}`"));
                let given = long_options(&line);
                assert!(given.is_subset(taken), "{path}: `{line}` has options that {command} does not take");
                seen += 1;
            }
            ["cargo", "xtask", task, ..] => {
                let file = root().join("xtask/src").join(task.replace('-', "_"));
                let exists = file.with_extension("rs").exists() || file.join("mod.rs").exists();
                assert!(exists, "{path}: no task in `{line}`");
                seen += 1;
            }
            _ => {}
        }
    }
    assert!(seen > 30, "only {seen} commands were found: is the search right?");
}

/// A heading as its anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    kept.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let mut seen = 0;
    for (path, text) in documents() {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("http") {
                continue;
            }
            let (file, heading) = target.split_once('#').map_or((target, None), |(f, h)| (f, Some(h)));
            let folder = root().join(&path).parent().unwrap().to_owned();
            let file = if file.is_empty() { root().join(&path) } else { folder.join(file) };
            assert!(file.exists(), "{path}: `{target}` leads nowhere");
            if let Some(heading) = heading {
                let text = fs::read_to_string(&file).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(headings.any(|line| anchor(line) == heading), "{path}: no heading for `{target}`");
            }
            seen += 1;
        }
    }
    assert!(seen > 30, "only {seen} links were found: is the search right?");
}

#[test]
fn sources_that_are_named_exist() {
    let mut seen = 0;
    for (path, text) in documents() {
        let names = code_spans(&text).into_iter().filter(|span| span.contains('/') && span.ends_with(".rs"));
        for name in names {
            let places = [root().join(name), root().join("blxrep/src").join(name)];
            assert!(places.iter().any(|place| place.exists()), "{path}: there is no `{name}`");
            seen += 1;
        }
    }
    assert!(seen > 60, "only {seen} sources were found: is the search right?");
}

#[test]
fn limits_are_where_the_map_says() {
    let text = read("docs/architecture.md");
    let mut seen = 0;
    for row in rows(section(&text, "## Bounds")) {
        let mut names = Vec::new();
        for span in code_spans(row[1]) {
            if !span.ends_with(".rs") {
                names.push(span);
                continue;
            }
            let source = read(&format!("blxrep/src/{span}"));
            for name in names.drain(..) {
                let defined = ["const ", "const fn "].iter().any(|kind| {
                    source.contains(&format!("{kind}{name}:")) || source.contains(&format!("{kind}{name}("))
                });
                assert!(defined, "{span} has no limit called {name}");
                seen += 1;
            }
        }
        assert!(names.is_empty(), "no file for {names:?}");
    }
    assert!(seen > 30, "only {seen} limits were found: is the search right?");
}

#[test]
fn messages_are_those_of_the_program() {
    let mut sources = String::new();
    for path in files("blxrep/src", ".rs") {
        // A text may go on in the next line, behind a backslash.
        let mut lines = read(&path);
        while let Some(at) = lines.find("\\\n") {
            let rest = lines.split_off(at);
            lines.push_str(rest[2..].trim_start());
        }
        sources.push_str(&lines);
    }
    let text = operations();
    let tables = [rows(section(&text, "## Troubleshooting")), rows(section(&text, "### Coverage"))];
    let messages = tables.iter().flatten().flat_map(|row| code_spans(row[0]));
    let parts: Vec<&str> =
        messages.flat_map(|m| m.split('…')).map(str::trim).filter(|p| p.len() > 3).collect();
    let never_said: Vec<_> = parts.iter().filter(|part| !sources.contains(**part)).collect();
    assert!(never_said.is_empty(), "the program never says {never_said:#?}");
    assert!(parts.len() > 50, "only {} messages were found: is the search right?", parts.len());
}

/// Others refer to a decision by its number alone.
#[test]
fn decisions_are_numbered_one_after_the_other() {
    let mut decisions = files("docs/decisions", ".md");
    decisions.sort();
    for (number, path) in (1..).zip(&decisions) {
        let named = path.starts_with(&format!("docs/decisions/{number:04}-"));
        assert!(named, "{path} should be number {number:04}: a number is missing, or taken twice");
        assert!(
            read(path).starts_with(&format!("# {number:04}: ")),
            "{path}: its heading has another number"
        );
    }
}
