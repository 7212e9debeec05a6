//! Documents that list things list all of them.

use crate::{report, root};

#[test]
fn every_dependency_has_a_reason_in_the_architecture() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, dependencies) = manifest.split_once("[workspace.dependencies]\n").unwrap();
    let architecture = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut complaints = Vec::new();
    for line in dependencies.lines().take_while(|line| !line.starts_with('[')) {
        let Some((name, _)) = line.split_once(" = ") else { continue };
        if !architecture.contains(&format!("`{name}`")) {
            complaints.push(format!("ARCHITECTURE.md says nothing of `{name}`"));
        }
    }
    report(&complaints);
}

#[test]
fn every_metric_of_a_probe_has_its_probe_described() {
    use probe_user::export::registry::{METRICS, Origin};
    let probes = std::fs::read_to_string(root().join("docs/probes.md")).unwrap();
    for metric in METRICS {
        let (Origin::Series(probe) | Origin::Counter(probe, _) | Origin::Level(probe, _)) = metric.origin
        else {
            continue;
        };
        assert!(probes.contains(&format!("## `{probe}`")), "docs/probes.md has no chapter on {probe}");
        if let Origin::Counter(_, counter) | Origin::Level(_, counter) = metric.origin {
            assert!(
                probes.contains(&format!("`{counter}`")),
                "docs/probes.md does not define {probe}'s {counter}"
            );
        }
    }
}
