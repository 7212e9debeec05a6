//! Which vfio file stands for which device: `/dev/vfio/<group>` and `/dev/vfio/devices/vfio<N>`.

/// A vfio file that a process holds open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum VfioFile {
    /// An IOMMU group with all devices in it that vfio drives.
    Group(u32),
    /// One device, as `<BDF>/vfio-dev/vfio<N>` names it.
    Device(u32),
}

/// Parses the target of a file descriptor's link. `/dev/vfio/vfio` is the container and stands for no device.
pub(super) fn parse_vfio_path(target: &str) -> Option<VfioFile> {
    let name = target.strip_prefix("/dev/vfio/")?;
    match name.strip_prefix("devices/vfio") {
        Some(number) => number.parse().ok().map(VfioFile::Device),
        // Without an IOMMU, groups are called `noiommu-<group>` (drivers/vfio/group.c).
        None => name.strip_prefix("noiommu-").unwrap_or(name).parse().ok().map(VfioFile::Group),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (target, expected) in [
            ("/dev/vfio/8", Some(VfioFile::Group(8))),
            ("/dev/vfio/noiommu-3", Some(VfioFile::Group(3))),
            ("/dev/vfio/devices/vfio12", Some(VfioFile::Device(12))),
            ("/dev/vfio/vfio", None),
            ("/dev/vfio/devices/x", None),
            ("/dev/kvm", None),
            ("anon_inode:[vfio-device]", None),
        ] {
            assert_eq!(parse_vfio_path(target), expected, "{target}");
        }
    }
}
