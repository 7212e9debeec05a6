//! Logical CPUs: online, node, core siblings, last-level cache, boot-time isolation.

use super::reader::Reader;
use crate::model::{CpuId, CpuSet, NumaNode, topology::Cpu};
use std::{collections::BTreeMap, path::Path};

/// All present CPUs, ascending.
pub(super) fn read_cpus(reader: &mut Reader<'_>) -> Vec<Cpu> {
    let dir = reader.sys("devices/system/cpu");
    let online = reader.cpu_list(&dir.join("online"));
    let present = reader.cpu_list(&dir.join("present")).or_else(|| online.clone());
    let Some(present) = present else {
        reader.problems.push(format!("{}: not there, so no CPU is known: mount sysfs", dir.display()));
        return Vec::new();
    };
    let online = online.unwrap_or_else(|| present.clone());
    let isolated = special_list(reader, &dir.join("isolated"));
    let nohz_full = special_list(reader, &dir.join("nohz_full"));
    let node_of = read_nodes(reader);
    // The members of a core or cache share one list, so it is read once for all of them: at 128 CPUs this is most of
    // the work.
    let (mut siblings, mut llc) = (BTreeMap::new(), BTreeMap::new());
    for cpu in present.iter() {
        let cpu_dir = dir.join(format!("cpu{cpu}"));
        if !siblings.contains_key(&cpu) {
            let path = cpu_dir.join("topology/thread_siblings_list");
            share(&mut siblings, cpu, reader.cpu_list(&path));
        }
        if !llc.contains_key(&cpu) {
            let shared = read_last_level_cache(reader, &cpu_dir.join("cache"));
            share(&mut llc, cpu, shared);
        }
    }
    present
        .iter()
        .map(|id| Cpu {
            id,
            online: online.contains(id),
            node: node_of.get(&id).copied(),
            siblings: siblings.get(&id).cloned().unwrap_or_else(|| id.into()),
            llc: llc.get(&id).cloned().unwrap_or_else(|| id.into()),
            isolated: isolated.contains(id),
            nohz_full: nohz_full.contains(id),
        })
        .collect()
}

/// Gives every member of a set that set; a CPU whose set is not known (offline) stands alone.
fn share(sets: &mut BTreeMap<CpuId, CpuSet>, cpu: CpuId, set: Option<CpuSet>) {
    let set = set.filter(|s| s.contains(cpu)).unwrap_or_else(|| cpu.into());
    for member in set.iter() {
        sets.insert(member, set.clone());
    }
}

/// `isolated` and `nohz_full`: a list, empty when there are none. `nohz_full` says `(null)` when the kernel was
/// booted without the option (drivers/base/cpu.c prints an unallocated mask).
fn special_list(reader: &mut Reader<'_>, path: &Path) -> CpuSet {
    let parse = |text: &str| if text == "(null)" { Some(CpuSet::new()) } else { text.parse().ok() };
    reader.value(path, "a CPU list", parse).unwrap_or_default()
}

fn read_nodes(reader: &mut Reader<'_>) -> BTreeMap<CpuId, NumaNode> {
    let dir = reader.sys("devices/system/node");
    let mut node_of = BTreeMap::new();
    for node in reader.numbered(&dir, "node") {
        let cpus = reader.cpu_list(&dir.join(format!("node{node}/cpulist"))).unwrap_or_default();
        node_of.extend(cpus.iter().map(|cpu| (cpu, NumaNode(node))));
    }
    node_of
}

/// CPUs that share the cache of the highest level.
fn read_last_level_cache(reader: &mut Reader<'_>, dir: &Path) -> Option<CpuSet> {
    let mut best: Option<(u32, u32)> = None;
    for index in reader.numbered(dir, "index") {
        let path = dir.join(format!("index{index}/level"));
        if let Some(level) = reader.value(&path, "a cache level", |text| text.parse().ok()) {
            best = best.max(Some((level, index)));
        }
    }
    reader.cpu_list(&dir.join(format!("index{}/shared_cpu_list", best?.1)))
}
