//! What the tests of packages are made from: this repository, and a program that is none.

use std::path::Path;

use super::Release;
use super::layout::Made;

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

pub(super) fn made() -> Made {
    Made {
        binary: b"GLIBC_2.17\0libgcc_s.so.1".to_vec(),
        manual: vec![("vfprobe.1".to_owned(), b".TH vfprobe 1".to_vec())],
        third_party: "none".to_owned(),
        ..Made::default()
    }
}

pub(super) fn release(version: &str) -> Release {
    Release {
        version: version.to_owned(),
        maintainer: "A <a@example.org>".to_owned(),
        time: 1_600_000_000,
        date: "Sun, 13 Sep 2020 12:26:40 +0000".to_owned(),
    }
}
