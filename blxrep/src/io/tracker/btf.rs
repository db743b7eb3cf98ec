//! Where the running kernel keeps what the programs read, taken from its BTF.
//!
//! Rust has no CO-RE relocations, and version checks are wrong: the change of `block_rq_issue` from `(q, rq)` to
//! `(rq)` was backported into stable kernels. So names are looked up in the kernel's own description of itself.

use super::TrackerError;
use blxrep_ebpf::KernelLayout;
use btf_rs::{Btf, BtfType, Struct, Type};
use std::path::Path;

/// Depth of anonymous structs and unions that is searched; the kernel's are two deep here.
const MAX_DEPTH: u32 = 8;

/// Reads the layout of the kernel whose BTF is at `path`.
pub fn kernel_layout(path: &Path) -> Result<KernelLayout, TrackerError> {
    let btf = Btf::from_file(path)
        .map_err(|e| TrackerError::NoBtf { path: path.to_path_buf(), reason: e.to_string() })?;
    let kernel = Kernel(btf);
    Ok(KernelLayout {
        issue_arg: kernel.argument("block_rq_issue", "request")?,
        requeue_arg: kernel.argument("block_rq_requeue", "request")?,
        complete_arg: kernel.argument("block_rq_complete", "request")?,
        queue_arg: kernel.argument("block_bio_queue", "bio")?,
        bio_complete_arg: kernel.argument("block_bio_complete", "bio")?,
        op_discard: kernel.constant("REQ_OP_DISCARD")?,
        request_q: kernel.offset("request", &["q"])?,
        request_cmd_flags: kernel.offset("request", &["cmd_flags"])?,
        request_data_len: kernel.offset("request", &["__data_len"])?,
        request_sector: kernel.offset("request", &["__sector"])?,
        request_bio: kernel.offset("request", &["bio"])?,
        queue_disk: kernel.offset("request_queue", &["disk"])?,
        disk_major: kernel.offset("gendisk", &["major"])?,
        disk_first_minor: kernel.offset("gendisk", &["first_minor"])?,
        bio_next: kernel.offset("bio", &["bi_next"])?,
        bio_bdev: kernel.offset("bio", &["bi_bdev"])?,
        bio_opf: kernel.offset("bio", &["bi_opf"])?,
        bio_sector: kernel.offset("bio", &["bi_iter", "bi_sector"])?,
        bio_size: kernel.offset("bio", &["bi_iter", "bi_size"])?,
        bdev_disk: kernel.offset("block_device", &["bd_disk"])?,
    })
}

struct Kernel(Btf);

impl Kernel {
    fn missing(what: String) -> TrackerError {
        TrackerError::KernelField { what }
    }

    /// Bytes from the start of `owner` to the member at `path`.
    fn offset(&self, owner: &str, path: &[&str]) -> Result<u64, TrackerError> {
        let absent = || Self::missing(format!("{owner}.{}", path.join(".")));
        let types = self.0.resolve_types_by_name(owner).map_err(|_| absent())?;
        let mut holder = types.into_iter().find_map(|t| match t {
            Type::Struct(s) => Some(s),
            _ => None,
        });
        let mut bits = 0;
        for name in path {
            let (at, inner) = holder.as_ref().and_then(|s| self.member(s, name, 0)).ok_or_else(absent)?;
            bits += at;
            holder = match inner {
                Type::Struct(s) | Type::Union(s) => Some(s),
                _ => None,
            };
        }
        if bits % 8 == 0 { Ok(u64::from(bits / 8)) } else { Err(absent()) }
    }

    /// Bit offset and type of a member, also inside anonymous structs and unions.
    fn member(&self, owner: &Struct, name: &str, depth: u32) -> Option<(u32, Type)> {
        for member in &owner.members {
            let found = self.0.resolve_name(member).unwrap_or_default();
            let inner = self.0.resolve_chained_type(member).ok();
            if found == name {
                return inner.map(|t| (member.bit_offset(), t));
            }
            if let (true, Some(Type::Struct(s) | Type::Union(s))) =
                (found.is_empty() && depth < MAX_DEPTH, inner)
                && let Some((bits, t)) = self.member(&s, name, depth + 1)
            {
                return Some((member.bit_offset() + bits, t));
            }
        }
        None
    }

    /// Position of the `struct pointee *` among the arguments of a tracepoint, not counting the first, which is the
    /// tracer's own data. The programs can read it at 0 and 1.
    fn argument(&self, tracepoint: &str, pointee: &str) -> Result<u64, TrackerError> {
        let absent = || Self::missing(format!("tracepoint {tracepoint} with a `struct {pointee} *`"));
        let types = self.0.resolve_types_by_name(&format!("btf_trace_{tracepoint}")).map_err(|_| absent())?;
        let proto = types.into_iter().find_map(|t| match t {
            Type::Typedef(t) => self.pointed_at(&t),
            _ => None,
        });
        let Some(Type::FuncProto(proto)) = proto else {
            return Err(absent());
        };
        let names = proto.parameters.iter().skip(1).take(2).map(|p| self.pointee_name(p));
        let position = names.into_iter().position(|name| name.as_deref() == Some(pointee));
        position.and_then(|p| u64::try_from(p).ok()).ok_or_else(absent)
    }

    /// What a typedef or parameter of pointer type points at.
    fn pointed_at(&self, of: &dyn BtfType) -> Option<Type> {
        match self.0.resolve_chained_type(of).ok()? {
            Type::Ptr(p) => self.0.resolve_chained_type(&p).ok(),
            _ => None,
        }
    }

    fn pointee_name(&self, of: &dyn BtfType) -> Option<String> {
        match self.pointed_at(of)? {
            Type::Struct(s) => self.0.resolve_name(&s).ok(),
            _ => None,
        }
    }

    /// Value of an enumerator of `enum req_op` (`req_opf` before 6.0).
    fn constant(&self, name: &str) -> Result<u64, TrackerError> {
        let absent = || Self::missing(format!("enum req_op, {name}"));
        for holder in ["req_op", "req_opf"] {
            for candidate in self.0.resolve_types_by_name(holder).unwrap_or_default() {
                let Type::Enum(e) = candidate else { continue };
                let member = e.members.iter().find(|m| self.0.resolve_name(*m).is_ok_and(|n| n == name));
                if let Some(member) = member {
                    return Ok(u64::from(member.val()));
                }
            }
        }
        Err(absent())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_is_understood() {
        let path = Path::new("/sys/kernel/btf/vmlinux");
        if !path.exists() {
            eprintln!("SKIPPED: this kernel has no BTF");
            return;
        }
        let layout = kernel_layout(path).unwrap();
        assert_eq!(layout.op_discard, 3);
        assert_ne!(layout.request_sector, layout.request_data_len);
        assert!(layout.issue_arg <= 1 && layout.bio_size == layout.bio_sector + 8);
    }

    #[test]
    fn a_kernel_without_btf_is_named() {
        let error = kernel_layout(Path::new("/nonexistent/vmlinux")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/vmlinux") && error.contains("CONFIG_DEBUG_INFO_BTF"), "{error}");
    }

    #[test]
    fn garbage_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0xa5; 4096]).unwrap();
        assert!(matches!(kernel_layout(file.path()), Err(TrackerError::NoBtf { .. })));
    }
}
