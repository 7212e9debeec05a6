//! Writing to the kernel's files, and what it means by refusing.

use super::super::host::{Refusal, TargetError};
use super::is_gone;
use rustix::io::Errno;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

pub(super) fn write_file(path: &Path, text: &str) -> Result<(), TargetError> {
    write_text(path, text, mask_refusal)
}

pub(super) fn write_text(
    path: &Path,
    text: &str,
    refusal: fn(io::Error) -> Refusal,
) -> Result<(), TargetError> {
    // One write call: the kernel takes each as a whole mask.
    let mut file = match OpenOptions::new().write(true).truncate(true).open(path) {
        Ok(file) => file,
        Err(error) if is_gone(&error) => {
            return Err(TargetError::Refused { call: call(path, text), refusal: Refusal::Gone });
        }
        Err(error) => return Err(refused_open(path, error)),
    };
    file.write_all(text.as_bytes())
        .map_err(|error| TargetError::Refused { call: call(path, text), refusal: refusal(error) })
}

pub(super) fn call(path: &Path, text: &str) -> String {
    format!("writing {text} to {}", path.display())
}

pub(super) fn refused_open(path: &Path, error: io::Error) -> TargetError {
    let call = format!("opening {} for writing", path.display());
    let refusal = match error.kind() {
        // What sysfs does not offer for writing, not even root may open so (fs/kernfs/file.c, `kernfs_fop_open()`).
        io::ErrorKind::PermissionDenied if rustix::process::geteuid().is_root() => Refusal::ReadOnly,
        io::ErrorKind::PermissionDenied => Refusal::Privilege("permission"),
        _ => Refusal::Other(error),
    };
    TargetError::Refused { call, refusal }
}

/// Newer kernels offer the mask of an interrupt that they place themselves for reading only (kernel/irq/proc.c,
/// `register_irq_proc()`). Whoever may overrule that is told at the write.
pub(super) fn of_an_irq(error: TargetError, path: &Path) -> TargetError {
    match error {
        TargetError::Refused { call, refusal: Refusal::ReadOnly } if nobody_may_write(path) => {
            TargetError::Refused { call, refusal: Refusal::Managed }
        }
        other => other,
    }
}

fn nobody_may_write(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o222 == 0)
}

/// What the kernel means by refusing a mask (kernel/irq/proc.c, `write_irq_affinity()`; kernel/irq/manage.c).
fn mask_refusal(error: io::Error) -> Refusal {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        // A managed interrupt, or one without balancing: EIO, and since 6.12 at the latest EPERM.
        Some(Errno::IO | Errno::PERM) => Refusal::Managed,
        Some(Errno::NOSPC) => Refusal::NoVector,
        Some(Errno::INVAL) => Refusal::Offline,
        // lib/bitmap-str.c: a mask gives EOVERFLOW, a list ERANGE.
        Some(Errno::OVERFLOW | Errno::RANGE) => Refusal::TooHigh,
        _ if is_gone(&error) => Refusal::Gone,
        _ => Refusal::Other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn refusals_are_told_apart() {
        let check = |errno: Errno, expect: &str| {
            let refusal = mask_refusal(errno.into());
            assert!(format!("{refusal:?}").starts_with(expect), "{errno:?}: {refusal:?}");
        };
        check(Errno::IO, "Managed");
        check(Errno::PERM, "Managed");
        check(Errno::NOSPC, "NoVector");
        check(Errno::INVAL, "Offline");
        check(Errno::OVERFLOW, "TooHigh");
        check(Errno::RANGE, "TooHigh");
        check(Errno::NOENT, "Gone");
        check(Errno::NODEV, "Gone");
        check(Errno::NOMEM, "Other");
    }

    #[test]
    fn a_mask_that_nobody_may_write_is_the_kernels() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refusal = |mode: u32| {
            fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            let error = TargetError::Refused { call: "opening it".to_owned(), refusal: Refusal::ReadOnly };
            of_an_irq(error, file.path()).to_string()
        };
        assert!(refusal(0o444).contains("places this interrupt itself"));
        assert!(refusal(0o644).contains("for reading only"));
    }
}
