//! docs/metrics.md says what the registry says.

use std::{fs, path::Path};

#[test]
fn metrics_md_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let wanted = probe_user::export::reference::markdown();
    if std::env::var_os("VFPROBE_UPDATE").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "docs/metrics.md differs from the registry; run VFPROBE_UPDATE=1 cargo test -p probe-user --test metrics_doc"
    );
}
