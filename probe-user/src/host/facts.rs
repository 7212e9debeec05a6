//! What a recording says about the host it was made on.

use super::{HostRoot, reader::Reader};
use crate::model::HostFacts;
use std::collections::BTreeMap;

/// Reads the facts. What is missing stays empty; the second value names what could not be read.
#[must_use]
pub fn read_facts(root: &HostRoot) -> (HostFacts, Vec<String>) {
    let mut reader = Reader::new(root);
    let mut line = |path: &str| {
        let path = reader.proc(path);
        reader.text(&path).map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    let (kernel, hostname) = (line("sys/kernel/osrelease"), line("sys/kernel/hostname"));
    let (boot_id, cmdline) = (line("sys/kernel/random/boot_id"), line("cmdline"));
    let cpuinfo = line("cpuinfo");
    let cpu = |key| cpuinfo_value(&cpuinfo, key).unwrap_or_default().to_owned();
    let facts = HostFacts {
        kernel,
        hostname,
        boot_id,
        cmdline,
        cpu_model: cpu("model name"),
        cpu_vendor: cpu("vendor_id"),
        kvm_parameters: read_kvm_parameters(&mut reader),
    };
    (facts, reader.problems)
}

/// A value of the first CPU in `/proc/cpuinfo`.
fn cpuinfo_value<'a>(cpuinfo: &'a str, key: &str) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == key).then(|| value.trim())
    })
}

/// Parameters of the KVM modules that are loaded or built in, as `module.parameter` -> value.
pub(super) fn read_kvm_parameters(reader: &mut Reader<'_>) -> BTreeMap<String, String> {
    let modules = reader.sys("module");
    let mut parameters = BTreeMap::new();
    for module in reader.names(&modules) {
        if module != "kvm" && !module.starts_with("kvm_") {
            continue;
        }
        let dir = modules.join(&module).join("parameters");
        for name in reader.names(&dir) {
            // Some are write-only or for root; what cannot be read is no fact.
            if let Ok(value) = std::fs::read_to_string(dir.join(&name)) {
                parameters.insert(format!("{module}.{name}"), value.trim().to_owned());
            }
        }
    }
    parameters
}
