//! Tasks of the project.

mod build_ebpf;

fn main() -> anyhow::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("build-ebpf") if std::env::args().any(|a| a == "--check") => build_ebpf::check(),
        Some("build-ebpf") => build_ebpf::run(),
        _ => anyhow::bail!("usage: cargo xtask build-ebpf [--check]"),
    }
}
