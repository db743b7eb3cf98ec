//! `build-ebpf`: builds the eBPF programs, which users never have to do.
//!
//! The object is committed next to its source with a digest of what it came from. [`run`] rebuilds both; [`check`] says
//! whether they still belong together, and needs no tools.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A compiler of its own: the programs need `-Z build-std`, and Debian has a rustc with the sources of `core`.
const RUSTC: &str = "/usr/bin/rustc";
const RUST_SOURCES: &str = "/usr/lib/rustlib/src/rust/library/core/Cargo.toml";
const LLVM: &str = "/usr/lib/llvm-22";
/// Debian packages that bring the three above.
const PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "llvm-22-dev"];
const LINKER: &str = "bpf-linker";
const LINKER_VERSION: &str = "0.13.0";
const TARGET: &str = "bpfel-unknown-none";
/// Compiler flags; `-Ctarget-cpu=v3` brings the atomic instructions and 32-bit arithmetic. Line tables feed BTF.
const FLAGS: [&str; 6] = [
    "-Clinker=bpf-linker",
    "-Clink-arg=--btf",
    "-Ctarget-cpu=v3",
    "-Cdebuginfo=2",
    "--cfg=bpf_target_arch=\"x86_64\"",
    "-Dwarnings",
];
const CRATE: &str = "blxrep-ebpf";
const OBJECT: &str = "blxrep-ebpf/object/blxrep.bpf.o";
const DIGEST: &str = "blxrep-ebpf/object/blxrep.bpf.digest";

/// Rebuilds object and digest.
pub fn run() -> Result<()> {
    let root = root()?;
    install_tools()?;
    let built = compile(&root)?;
    let object = root.join(OBJECT);
    fs::create_dir_all(object.parent().context("the object has a folder")?)?;
    strip(&built, &object)?;
    let tools = Tools { rustc: version(RUSTC)?, linker: version(LINKER)? };
    fs::write(root.join(DIGEST), digest_file(&root, &tools)?)
        .with_context(|| format!("cannot write {DIGEST}"))?;
    println!("{OBJECT}: {} bytes", fs::metadata(&object)?.len());
    Ok(())
}

/// Fails if the committed object is not what the committed sources build.
pub fn check() -> Result<()> {
    let root = root()?;
    let committed = fs::read_to_string(root.join(DIGEST)).with_context(|| format!("cannot read {DIGEST}"))?;
    let line = |name: &str| {
        committed.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim().to_owned()
    };
    let tools = Tools { rustc: line("rustc:"), linker: line("linker:") };
    if committed != digest_file(&root, &tools)? {
        bail!(
            "{OBJECT} does not belong to the sources beside it; rebuild it with `cargo xtask build-ebpf` and commit both files"
        );
    }
    Ok(())
}

/// Versions of what builds the object.
struct Tools {
    rustc: String,
    linker: String,
}

fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().context("xtask lies in the workspace")?.to_path_buf())
}

/// The text of the digest file: one hash over everything that goes in, one over what came out.
fn digest_file(root: &Path, tools: &Tools) -> Result<String> {
    let mut inputs = blake3::Hasher::new();
    let mut add = |name: &str, bytes: &[u8]| {
        for part in [name.as_bytes(), bytes] {
            inputs.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            inputs.update(part);
        }
    };
    for path in sources(root)? {
        let bytes = fs::read(root.join(&path)).with_context(|| format!("cannot read {}", path.display()))?;
        add(&path.to_string_lossy(), &bytes);
    }
    add("lock", locked(root)?.as_bytes());
    add("flags", FLAGS.join("\n").as_bytes());
    add("tools", format!("{}\n{}", tools.rustc, tools.linker).as_bytes());
    let object = fs::read(root.join(OBJECT)).with_context(|| format!("cannot read {OBJECT}"))?;
    Ok(format!(
        "inputs: {}\nobject: {}\nrustc: {}\nlinker: {}\n",
        inputs.finalize().to_hex(),
        blake3::hash(&object).to_hex(),
        tools.rustc,
        tools.linker
    ))
}

/// Files of the crate that the object is built from, sorted.
fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let folder = Path::new(CRATE).join("src");
    let mut paths = vec![Path::new(CRATE).join("Cargo.toml")];
    for entry in
        fs::read_dir(root.join(&folder)).with_context(|| format!("cannot list {}", folder.display()))?
    {
        paths.push(folder.join(entry?.file_name()));
    }
    paths.sort();
    Ok(paths)
}

/// Names, versions and checksums of the locked crates that end up in the object.
fn locked(root: &Path) -> Result<String> {
    let lock = fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let packages = lock.split("[[package]]").filter(|p| p.trim_start().starts_with("name = \"aya-ebpf"));
    let packages: String = packages.collect();
    if packages.is_empty() {
        bail!("Cargo.lock has no aya-ebpf; was it removed from {CRATE}/Cargo.toml?");
    }
    Ok(packages)
}

/// Builds the programs and returns the path of the linked object.
fn compile(root: &Path) -> Result<PathBuf> {
    let target = root.join("target/ebpf");
    let cargo_home = std::env::var("CARGO_HOME").map(PathBuf::from);
    let cargo_home =
        cargo_home.or_else(|_| std::env::var("HOME").map(|home| Path::new(&home).join(".cargo")));
    let mut flags: Vec<String> = FLAGS.iter().map(ToString::to_string).collect();
    flags.push(format!("--remap-path-prefix={}=/blxrep", root.display()));
    if let Ok(home) = cargo_home {
        flags.push(format!("--remap-path-prefix={}=/cargo", home.display()));
    }
    let status = Command::new("cargo")
        .args(["build", "--release", "--locked", "-Zbuild-std=core", "--target", TARGET])
        .args(["--package", CRATE, "--bin", CRATE, "--features", "bpf"])
        .current_dir(root)
        .env("RUSTC", RUSTC)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("CARGO_TARGET_DIR", &target)
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("the eBPF programs do not build");
    }
    Ok(target.join(TARGET).join("release").join(CRATE))
}

/// Copies the object without DWARF; BTF stays.
fn strip(built: &Path, object: &Path) -> Result<()> {
    let tool = Path::new(LLVM).join("bin/llvm-objcopy");
    let status = Command::new(&tool).arg("--strip-debug").arg(built).arg(object).status();
    if !status.with_context(|| format!("cannot run {}", tool.display()))?.success() {
        bail!("{} failed on {}", tool.display(), built.display());
    }
    Ok(())
}

/// First line of `tool --version`.
fn version(tool: &str) -> Result<String> {
    let output =
        Command::new(tool).arg("--version").output().with_context(|| format!("cannot run {tool}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// Installs what is missing when that is possible, and says what is missing otherwise.
fn install_tools() -> Result<()> {
    let have_llvm = Path::new(LLVM).join("bin/llvm-objcopy").exists();
    if !(Path::new(RUSTC).exists() && Path::new(RUST_SOURCES).exists() && have_llvm) {
        let packages = PACKAGES.join(" ");
        if !rustix::process::geteuid().is_root() {
            bail!(
                "the eBPF programs are built with the packages {packages}; as root: apt-get install {packages}"
            );
        }
        let status = Command::new("apt-get").args(["install", "-y"]).args(PACKAGES).status();
        if !status.context("cannot run apt-get")?.success() {
            bail!("apt-get could not install {packages}; they are in Debian 12 (security suite) and later");
        }
    }
    if version(LINKER).is_ok_and(|v| v.ends_with(LINKER_VERSION)) {
        return Ok(());
    }
    let status = Command::new("cargo")
        .args([
            "install",
            &format!("{LINKER}@{LINKER_VERSION}"),
            "--no-default-features",
            "--features",
            "llvm-22",
        ])
        .env("LLVM_SYS_221_PREFIX", LLVM)
        .env("RUSTFLAGS", format!("-L {LLVM}/lib"))
        .status()
        .context("cannot run cargo install")?;
    if !status.success() {
        bail!("cargo could not install {LINKER} {LINKER_VERSION}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_object_belongs_to_its_sources() {
        check().unwrap();
    }

    #[test]
    fn every_input_changes_the_digest() {
        let root = root().unwrap();
        let tools = |rustc: &str| Tools { rustc: rustc.into(), linker: "l".into() };
        let a = digest_file(&root, &tools("a")).unwrap();
        let b = digest_file(&root, &tools("b")).unwrap();
        assert_ne!(a.lines().next(), b.lines().next());
        assert!(sources(&root).unwrap().contains(&PathBuf::from("blxrep-ebpf/src/main.rs")));
        assert!(locked(&root).unwrap().contains("aya-ebpf-bindings"));
    }
}
