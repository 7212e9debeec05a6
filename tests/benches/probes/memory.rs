//! What the maps take, by the kernel's own accounts here and by their sizes for larger hosts, and what another layout
//! would.

use crate::figures::{row, table};
use anyhow::{Context, Result};
use probe_user::app::observe::sizes_for;
use probe_user::bpf::Loaded;
use probe_user::host::HostRoot;
use probe_user::model::topology::{Cpu, DeliveryMode, Guest, Slot, Thread, Topology, Vcpu, Vf, Vmm};
use probe_user::model::{CpuId, CpuSet, IrqNumber, PciAddress, Pid, Tid, VcpuId};
use std::fs;

/// `enum bpf_map_type` (include/uapi/linux/bpf.h).
const HASH: u64 = 1;
const ARRAY: u64 = 2;
const PERCPU_ARRAY: u64 = 6;
const RINGBUF: u64 = 27;

/// A map as /proc/self/fdinfo tells of it.
struct Map {
    kind: u64,
    key: u64,
    value: u64,
    entries: u64,
    /// Bytes by the kernel's account.
    memlock: u64,
    name: String,
}

/// All maps that this process holds.
fn maps() -> Result<Vec<Map>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<u64>().ok())
        };
        let Some(kind) = field("map_type") else { continue };
        let get = |name: &str| field(name).with_context(|| format!("no {name} in fdinfo"));
        let id = u32::try_from(get("map_id")?)?;
        let name = aya::maps::MapInfo::from_id(id)?.name_as_str().unwrap_or("?").to_owned();
        found.push(Map {
            kind,
            key: get("key_size")?,
            value: get("value_size")?,
            entries: get("max_entries")?,
            memlock: get("memlock")?,
            name,
        });
    }
    Ok(found)
}

/// How values are laid out.
#[derive(Clone, Copy)]
enum Layout {
    /// As built: one histogram per series.
    Shared,
    /// A copy of each histogram per CPU.
    PerCpu,
}

/// Bytes of a map on a host with so many CPUs (kernel/bpf/{arraymap,hashtab,ringbuf}.c of 6.12).
fn bytes(map: &Map, cpus: u64, layout: Layout) -> u64 {
    let value = map.value.next_multiple_of(8);
    match map.kind {
        ARRAY if matches!(layout, Layout::PerCpu) && map.name.ends_with("HIST") => value * map.entries * cpus,
        ARRAY => value * map.entries,
        PERCPU_ARRAY => (value * cpus + 8) * map.entries,
        // A preallocated element has a header of 48 bytes; each CPU has a spare one.
        HASH => {
            (48 + map.key.next_multiple_of(8) + value) * (map.entries + cpus)
                + 16 * map.entries.next_power_of_two()
        }
        RINGBUF => map.entries,
        _ => map.memlock,
    }
}

/// A packed host: every CPU has a vCPU, guests of four with one VF of five vectors.
fn host(cpus: u32) -> Topology {
    let mut topology = Topology::default();
    for id in 0..cpus {
        topology.cpus.push(Cpu {
            id: CpuId(id),
            online: true,
            node: None,
            siblings: CpuSet::new(),
            llc: CpuSet::new(),
            isolated: false,
            nohz_full: false,
        });
    }
    for guest in 0..(cpus / 4).max(1) {
        let thread =
            |tid| Thread { tid: Tid(tid), comm: String::new(), start_time: 0, affinity: CpuSet::new() };
        let vcpus = (0..4).map(|index| Vcpu { index: VcpuId(index), thread: thread(guest * 8 + index) });
        let address = PciAddress::from_packed(0x100 + guest);
        let slot = |slot| Slot {
            slot,
            irq: IrqNumber(0),
            affinity: None,
            effective_affinity: None,
            host_vector: None,
            guest_vector: None,
            vcpu: None,
            mode: DeliveryMode::Unknown,
        };
        let vf = Vf {
            address,
            index: None,
            pf: address,
            pf_netdev: None,
            numa_node: None,
            local_cpus: CpuSet::new(),
            driver: None,
            iommu_group: None,
            slots: (0..5).map(slot).collect(),
            counters: None,
        };
        topology.guests.push(Guest {
            name: format!("vm{guest}"),
            uuid: None,
            pid: Pid(guest * 8),
            start_time: 0,
            vmm: Vmm::Qemu,
            libvirt: false,
            vcpus: vcpus.collect(),
            threads: Vec::new(),
            nics: Vec::new(),
            vfs: vec![vf],
        });
    }
    topology
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", crate::as_f64(bytes) / f64::from(1 << 20))
}

/// Prints both tables.
pub(crate) fn report() -> Result<()> {
    let here = u64::try_from(aya::util::nr_cpus().map_err(|(path, e)| anyhow::anyhow!("{path}: {e}"))?)?;
    println!(
        "map memory, MiB: every CPU has a vCPU and is guarded, guests of 4 vCPUs with a VF of 5 vectors"
    );
    let mut rows =
        vec![row(["CPUs", "as built", "a copy of each histogram per CPU", "budget", "largest maps"])];
    let mut largest = Vec::new();
    for cpus in [2, 64, 128, 512] {
        let loaded = Loaded::detached(&HostRoot::live(), sizes_for(&host(cpus)))?;
        let mut maps = maps()?;
        let cpus = u64::from(cpus);
        let sum = |layout| maps.iter().map(|map| bytes(map, cpus, layout)).sum::<u64>();
        let (shared, per_cpu) = (sum(Layout::Shared), sum(Layout::PerCpu));
        if cpus == 2 {
            let told: u64 = maps.iter().map(|map| map.memlock).sum();
            let computed: u64 = maps.iter().map(|map| bytes(map, here, Layout::Shared)).sum();
            largest.push(format!(
                "for {here} CPUs the kernel itself says {}, the sum of sizes {}",
                mib(told),
                mib(computed)
            ));
        }
        maps.sort_by_key(|map| std::cmp::Reverse(bytes(map, cpus, Layout::Shared)));
        let names: Vec<String> = maps
            .iter()
            .take(4)
            .map(|map| format!("{} {}", map.name, mib(bytes(map, cpus, Layout::Shared))))
            .collect();
        let budget = if cpus == 128 { "64" } else { "-" };
        rows.push(vec![cpus.to_string(), mib(shared), mib(per_cpu), budget.into(), names.join(", ")]);
        drop(loaded);
    }
    table(&rows);
    for line in largest {
        println!("  {line}");
    }
    Ok(())
}
