//! What of the host's tuning can be read: frequency, idle states, memory, watchdogs, free vectors.
//!
//! Guests' `numa_maps` are left alone: to read them, the kernel walks the page tables of a running guest.

use super::super::reader::Reader;
use crate::model::{CpuId, CpuSet};
use std::{collections::BTreeMap, fs};

/// CPUs whose frequency is chosen together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrequencyPolicy {
    /// The CPUs.
    pub cpus: CpuSet,
    /// `performance`, `schedutil`, ...
    pub governor: String,
    /// Energy-performance preference, where hardware chooses by itself.
    pub preference: Option<String>,
}

/// An idle state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdleState {
    /// `C6`, `POLL`, ...
    pub name: String,
    /// Time to leave it, as the driver states it, in microseconds.
    pub exit_us: u32,
}

/// The tuning. Nothing here fails: what is not there is `None` or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// By policy number; empty where Linux does not choose frequencies.
    pub frequency: Vec<FrequencyPolicy>,
    /// The deepest idle state that each CPU may enter now, after `disable` and latency limits.
    pub idle: BTreeMap<CpuId, IdleState>,
    /// Mode of transparent huge pages.
    pub huge_pages: Option<String>,
    /// What is done to get a transparent huge page.
    pub huge_page_defrag: Option<String>,
    /// Reserved huge pages (of the default size) that somebody uses.
    pub hugetlb_in_use: Option<u64>,
    /// `/sys/kernel/mm/ksm/run`: 1 is on.
    pub ksm: Option<u32>,
    /// `/proc/sys/kernel/numa_balancing`: 0 is off.
    pub numa_balancing: Option<u32>,
    /// Whether the soft-lockup watchdog runs.
    pub soft_watchdog: bool,
    /// Whether the NMI watchdog runs.
    pub nmi_watchdog: bool,
    /// CPUs that watchdogs watch.
    pub watchdog_cpus: CpuSet,
    /// Free interrupt vectors of each CPU, where the kernel tells.
    pub free_vectors: Option<BTreeMap<CpuId, u32>>,
    /// Active profile of tuned.
    pub tuned_profile: Option<String>,
}

/// Reads the tuning for these online CPUs.
pub(super) fn read_tuning(r: &mut Reader<'_>, online: &CpuSet) -> Tuning {
    let thp = r.sys("kernel/mm/transparent_hugepage");
    let meminfo = r.proc("meminfo");
    let meminfo = r.text(&meminfo).unwrap_or_default();
    let mut kernel = |name: &str| {
        let path = r.proc(format!("sys/kernel/{name}"));
        r.value(&path, "a number", |text| text.parse::<u32>().ok())
    };
    let numa_balancing = kernel("numa_balancing");
    let soft_watchdog = kernel("soft_watchdog").is_some_and(|on| on != 0);
    let nmi_watchdog = kernel("nmi_watchdog").is_some_and(|on| on != 0);
    let (watchdog_cpus, ksm) = (r.proc("sys/kernel/watchdog_cpumask"), r.sys("kernel/mm/ksm/run"));
    let vectors = r.sys("kernel/debug/irq/domains/VECTOR");
    let profile = fs::read_to_string(r.root.etc.join("tuned/active_profile")).ok();
    Tuning {
        frequency: read_frequency(r),
        idle: read_idle(r, online),
        huge_pages: r.text(&thp.join("enabled")).and_then(|text| chosen(&text)),
        huge_page_defrag: r.text(&thp.join("defrag")).and_then(|text| chosen(&text)),
        hugetlb_in_use: parse_hugetlb(&meminfo),
        ksm: r.value(&ksm, "a number", |text| text.parse().ok()),
        numa_balancing,
        soft_watchdog,
        nmi_watchdog,
        watchdog_cpus: r.cpu_list(&watchdog_cpus).unwrap_or_default(),
        // For root only; whoever is refused does not know.
        free_vectors: fs::read_to_string(vectors).ok().map(|text| parse_vectors(&text)),
        tuned_profile: profile.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()),
    }
}

fn read_frequency(r: &mut Reader<'_>) -> Vec<FrequencyPolicy> {
    let dir = r.sys("devices/system/cpu/cpufreq");
    let mut policies = Vec::new();
    for n in r.numbered(&dir, "policy") {
        let policy = dir.join(format!("policy{n}"));
        let mut line = |name: &str| r.text(&policy.join(name)).map(|text| text.trim().to_owned());
        let Some(governor) = line("scaling_governor") else { continue };
        // CPU numbers with blanks between them.
        let cpus = line("affected_cpus").and_then(|text| text.replace(' ', ",").parse().ok());
        let preference = line("energy_performance_preference");
        policies.push(FrequencyPolicy { cpus: cpus.unwrap_or_default(), governor, preference });
    }
    policies
}

/// The deepest state of each CPU. Limits: `/dev/cpu_dma_latency` for all CPUs, `pm_qos_resume_latency_us` for one
/// (Documentation/ABI/testing/sysfs-devices-power: 0 is no limit, `n/a` allows no state at all).
fn read_idle(r: &mut Reader<'_>, online: &CpuSet) -> BTreeMap<CpuId, IdleState> {
    let for_all = fs::read(r.root.dev.join("cpu_dma_latency")).ok();
    let for_all = for_all.and_then(|bytes| u32::try_from(i32::from_ne_bytes(bytes.try_into().ok()?)).ok());
    let mut deepest = BTreeMap::new();
    for cpu in online.iter() {
        let dir = r.sys(format!("devices/system/cpu/cpu{cpu}"));
        let own = fs::read_to_string(dir.join("power/pm_qos_resume_latency_us")).unwrap_or_default();
        let own = match own.trim() {
            "n/a" => Some(0),
            text => text.parse::<u32>().ok().filter(|limit| *limit != 0),
        };
        let limit = [for_all, own].into_iter().flatten().min().unwrap_or(u32::MAX);
        let states = dir.join("cpuidle");
        let mut best: Option<IdleState> = None;
        for n in r.numbered(&states, "state") {
            let state = states.join(format!("state{n}"));
            let mut number =
                |name: &str| r.value(&state.join(name), "a number", |text| text.parse::<u32>().ok());
            let (Some(exit_us), Some(0)) = (number("latency"), number("disable")) else { continue };
            if exit_us <= limit && best.as_ref().is_none_or(|best| exit_us >= best.exit_us) {
                let name = r.text(&state.join("name")).unwrap_or_default().trim().to_owned();
                best = Some(IdleState { name, exit_us });
            }
        }
        deepest.extend(best.map(|state| (cpu, state)));
    }
    deepest
}

/// The word in brackets: `always [madvise] never`.
pub(super) fn chosen(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

/// `HugePages_Total` less `HugePages_Free` of `/proc/meminfo`.
fn parse_hugetlb(meminfo: &str) -> Option<u64> {
    let value = |key: &str| -> Option<u64> {
        let rest = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
        rest.trim().parse().ok()
    };
    value("HugePages_Total:")?.checked_sub(value("HugePages_Free:")?)
}

/// Columns `CPU` and `avl` of the vector domain (`irq_matrix_debug_show`, kernel/irq/matrix.c).
fn parse_vectors(text: &str) -> BTreeMap<CpuId, u32> {
    let rows = text.lines().skip_while(|line| !line.contains("| CPU |")).skip(1);
    rows.filter_map(|row| {
        let mut fields = row.split_ascii_whitespace();
        Some((CpuId(fields.next()?.parse().ok()?), fields.next()?.parse().ok()?))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn choices() {
        for (text, expected) in [
            ("always [madvise] never\n", Some("madvise")),
            ("[always] x", Some("always")),
            ("", None),
            ("][", None),
        ] {
            assert_eq!(chosen(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn reserved_huge_pages_in_use() {
        for (text, expected) in [
            ("HugePages_Total:      64\nHugePages_Free:       16\nHugePages_Rsvd:        0\n", Some(48)),
            ("HugePages_Total:       0\nHugePages_Free:        0\n", Some(0)),
            ("HugePages_Total:       1\nHugePages_Free:        2\n", None),
            ("MemTotal: 1 kB\n", None),
        ] {
            assert_eq!(parse_hugetlb(text), expected, "{text:?}");
        }
    }

    #[test]
    fn free_vectors() {
        let text = "name:   VECTOR\n size:   0\n mapped: 33\n flags:  0x00000103\nOnline bitmaps:        2\n\
                    Global available:    397\nSystem: 38: 0-19,21,50,128,236,240-242,244,246-255\n \
                    | CPU | avl | man | mac | act | vectors\n     0   194     1     1    8  33-39,48\n     \
                    1     3     1     1    5  33-37\n";
        let expected = BTreeMap::from([(CpuId(0), 194), (CpuId(1), 3)]);
        assert_eq!(parse_vectors(text), expected);
        assert_eq!(parse_vectors(""), BTreeMap::new());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_passed_over(text in any::<String>()) {
            let _ = chosen(&text);
            let _ = parse_hugetlb(&format!("HugePages_Total:{text}\nHugePages_Free:{text}"));
            let _ = parse_vectors(&format!("| CPU |\n{text}"));
        }
    }
}
