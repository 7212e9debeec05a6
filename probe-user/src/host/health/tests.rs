//! Tests of the examination: findings for a captured and a generated host, and for each way a host can lack something.

use super::*;
use crate::host::{
    Posting,
    fixture::{ICE, IXGBE, LAB, LARGE, Large, MLX5, Tree, generate},
};

/// A host on which everything is as it should be: the lab's, made whole.
pub(super) fn good() -> (Tree, HealthFacts) {
    let tree = Tree::captured(LAB);
    tree.file("proc/self/status", "Name:\tvfprobe\nCapEff:\t000001ffffffffff\n");
    tree.file("sys/kernel/btf/vmlinux", "");
    tree.file("sys/kernel/btf/kvm", "");
    tree.file("sys/module/kvm/initstate", "live\n");
    tree.file("sys/kernel/tracing/events/irq/irq_handler_entry/format", "");
    tree.file("proc/sys/net/core/bpf_jit_enable", "1\n");
    tree.file("proc/sys/kernel/bpf_stats_enabled", "0\n");
    tree.file("dev/kvm", "");
    tree.file("sys/devices/system/cpu/isolated", "1-3\n");
    tree.file("sys/devices/system/cpu/nohz_full", "1-3\n");
    tree.file("proc/irq/default_smp_affinity", "1\n");
    // vm1 has vCPUs 233 and 234, vm2 has 283; their other threads keep all CPUs, of which only 0 is not isolated.
    for (pid, tid, cpu) in [(223, 233, "2"), (223, 234, "3"), (277, 283, "1")] {
        let status = format!("Name:\tCPU/KVM\nTgid:\t{pid}\nCpus_allowed_list:\t{cpu}\n");
        tree.file(&format!("proc/{pid}/task/{tid}/status"), &status);
    }
    tree.file("proc/sys/kernel/soft_watchdog", "1\n");
    tree.file("proc/sys/kernel/nmi_watchdog", "0\n");
    tree.file("proc/sys/kernel/watchdog_cpumask", "0\n");
    tree.file("proc/sys/kernel/numa_balancing", "1\n");
    tree.file("proc/meminfo", "HugePages_Total:      64\nHugePages_Free:       16\n");
    tree.file("sys/kernel/mm/ksm/run", "0\n");
    tree.file("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
    tree.file("sys/kernel/mm/transparent_hugepage/defrag", "always defer defer+madvise [madvise] never\n");
    for cpu in 0..4 {
        let dir = format!("sys/devices/system/cpu/cpufreq/policy{cpu}");
        tree.file(&format!("{dir}/scaling_governor"), "performance\n");
        tree.file(&format!("{dir}/affected_cpus"), &format!("{cpu}\n"));
        for (state, name, latency, disable) in [(0, "POLL", 0, 0), (1, "C1", 2, 0), (2, "C6", 133, 1)] {
            let dir = format!("sys/devices/system/cpu/cpu{cpu}/cpuidle/state{state}");
            tree.file(&format!("{dir}/name"), &format!("{name}\n"));
            tree.file(&format!("{dir}/latency"), &format!("{latency}\n"));
            tree.file(&format!("{dir}/disable"), &format!("{disable}\n"));
        }
    }
    tree.file("sys/kernel/debug/irq/domains/VECTOR", &vectors([194, 190, 180, 170]));
    let facts = read_health(&tree.root());
    (tree, facts)
}

/// The vector domain of a host with so many free vectors on CPUs 0, 1, ...
pub(super) fn vectors(free: [u32; 4]) -> String {
    let rows = free
        .iter()
        .enumerate()
        .map(|(cpu, free)| format!("   {cpu:>3}  {free:>4}     1     1    8  33-40\n"));
    format!(
        "name:   VECTOR\nOnline bitmaps:        4\n | CPU | avl | man | mac | act | vectors\n{}",
        rows.collect::<String>()
    )
}

pub(super) fn complaints(facts: &HealthFacts) -> Vec<String> {
    let bad = examine(facts).into_iter().filter(|finding| finding.level != Level::Ok);
    bad.map(|f| format!("{} {}: {}", f.level.as_str(), f.check, f.found)).collect()
}

#[test]
fn a_good_host_has_no_complaints_and_every_check_speaks() {
    let (_tree, facts) = good();
    assert_eq!(complaints(&facts), [] as [&str; 0]);
    let lines: Vec<String> = examine(&facts).iter().map(|f| format!("{}: {}", f.check, f.found)).collect();
    assert_eq!(
        lines,
        [
            "privileges: all that is needed",
            "lockdown: not active",
            "BTF: this kernel describes its types",
            "tracefs: readable",
            "BPF: compiled, without run-time statistics",
            "KVM: kvm_amd, kvm_amd.avic=N, kvm.halt_poll_ns=200000",
            "APICv/AVIC: off: the CPU's flags are not known",
            "IOMMU: dmar0",
            "interrupt remapping: active",
            "delivery: the host takes VF interrupts (kvm_amd.avic is off): their placement matters",
            "free vectors: at least 170 on each of CPUs 1-3",
            "SR-IOV: VFs: 4 vfio-pci",
            "guests: 2 running, 2 with VFs",
            "pins: vCPUs have CPUs 1-3 alone",
            "NUMA: no guest with a VF is spread over nodes or kept away from its VF's",
            "irqbalance: not running",
            "tuned: not running",
            "isolation: isolated: CPUs 1-3",
            "isolation: without a tick: CPUs 1-3",
            "new interrupts: start on CPUs 0",
            "SMT: off: every CPU is a core of its own",
            "interrupt threads: handlers run at once",
            "governor: performance on CPUs 1-3",
            "C-states: C1 is the deepest, left within 2 us",
            "halt polling: up to 200 us before a halted vCPU sleeps",
            "huge pages: transparent: madvise; reserved and in use: 48",
            "KSM: off",
            "NUMA balancing: on, without effect on one node",
            "watchdogs: soft lockup on CPUs 0",
            "reading: all of /proc and /sys that is needed",
        ]
    );
}

#[test]
fn each_lack_is_named_with_its_level() {
    let (_tree, facts) = good();
    let check = |change: fn(&mut HealthFacts), expected: &str| {
        let mut facts = facts.clone();
        change(&mut facts);
        assert_eq!(complaints(&facts), [expected]);
    };
    check(
        |f| f.capabilities = Some(0),
        "fail privileges: neither CAP_SYS_ADMIN nor CAP_BPF with CAP_PERFMON",
    );
    check(
        |f| f.capabilities = Some(1 << 39),
        "fail privileges: neither CAP_SYS_ADMIN nor CAP_BPF with CAP_PERFMON",
    );
    check(
        |f| f.capabilities = Some(3 << 38 | 1 << 19),
        "warn privileges: no CAP_SYS_NICE, CAP_DAC_READ_SEARCH",
    );
    check(|f| f.capabilities = None, "warn privileges: this process's capabilities are not known");
    check(|f| f.lockdown = Some("integrity".into()), "warn lockdown: integrity");
    check(|f| f.lockdown = Some("confidentiality".into()), "fail lockdown: confidentiality");
    check(|f| f.kernel_btf = Access::Absent, "fail BTF: no /sys/kernel/btf/vmlinux");
    check(|f| f.kvm_btf = Some(Access::Absent), "warn BTF: no /sys/kernel/btf/kvm");
    check(|f| f.tracefs = Access::Absent, "warn tracefs: not mounted");
    check(|f| f.tracefs = Access::Refused("/x: denied".into()), "warn tracefs: /x: denied");
    check(|f| f.bpf_jit = Some(0), "warn BPF: the just-in-time compiler is off");
    check(|f| f.bpf_stats = Some(1), "warn BPF: run-time statistics are on");
    check(|f| f.dev_kvm = false, "fail KVM: no /dev/kvm");
    check(
        |f| f.kvm_modules = vec!["kvm".into(), "kvm_pvm".into()],
        "warn KVM: kvm_pvm, kvm_amd.avic=N, kvm.halt_poll_ns=200000",
    );
    check(|f| f.iommus.clear(), "warn IOMMU: none is active");
    check(|f| f.interrupts_remapped = false, "warn interrupt remapping: not active");
    check(|f| f.irqbalance = Some(77), "warn irqbalance: running (pid 77)");
    check(
        |f| f.threaded_irqs = true,
        "warn interrupt threads: handlers run in threads (PREEMPT_RT or threadirqs)",
    );
    check(
        |f| f.host.cmdline = "isolcpus=domain,1-3 irqaffinity=0-2".into(),
        "warn isolation: irqaffinity= names isolated CPUs 1-2",
    );
    check(|f| f.topology.problems.push("/proc/x: gone wrong".into()), "warn reading: /proc/x: gone wrong");
    check(|f| f.topology.guests.clear(), "warn guests: 0 running, none holds a VF");
}

#[test]
fn hosts_without_vfs_are_told_how_to_get_them() {
    let (_tree, mut facts) = good();
    facts.topology.guests.clear();
    for vf in &mut facts.topology.free_vfs {
        vf.driver = Some("igbvf".into());
    }
    let found = examine(&facts).into_iter().find(|f| f.check == "SR-IOV").unwrap();
    assert_eq!((found.level, found.found.as_str()), (Level::Warn, "VFs: 1 igbvf"));
    assert!(found.fix.unwrap().contains("/sys/bus/pci/devices/0000:01:10.6/driver_override"));
    facts.topology.free_vfs.clear();
    assert_eq!(complaints(&facts)[0], "warn SR-IOV: no device that can have VFs");

    let tree = generate(&LARGE);
    tree.file("sys/bus/pci/devices/0000:5e:00.1/sriov_totalvfs", "63\n");
    tree.file("sys/bus/pci/devices/0000:5e:00.1/sriov_numvfs", "0\n");
    facts.sriov = read_health(&tree.root()).sriov;
    let found = examine(&facts).into_iter().find(|f| f.check == "SR-IOV").unwrap();
    assert_eq!(found.found, "0000:5e:00.1 has no VFs (it can have 63)");
    assert_eq!(found.fix.as_deref(), Some("echo 1 >/sys/bus/pci/devices/0000:5e:00.1/sriov_numvfs"));
}

#[test]
fn a_large_host_shows_shared_cores_and_far_nodes() {
    let mut facts = read_health(&generate(&LARGE).root());
    assert_eq!(facts.posting, Posting::Possible);
    let of = |facts: &HealthFacts, check: &str| -> Vec<String> {
        examine(facts).into_iter().filter(|f| f.check == check).map(|f| f.found).collect()
    };
    // Guests 0-31 run on node 0, their VFs are on node 1.
    for card in [IXGBE, ICE, MLX5] {
        let far = of(&read_health(&generate(&Large { card, ..LARGE }).root()), "NUMA");
        assert_eq!(far.len(), 32, "{}", card.driver);
        assert_eq!(far[0], format!("VF {} is on node 1, no vCPU of vm0 may run there", card.vf(0)));
    }
    // The four vCPUs of each guest are pinned to one CPU, its sibling is free; those of guest 0 are taken apart.
    let pins = of(&facts, "pins");
    assert!(pins.contains(&"vCPUs vm0/0, vm0/1, vm0/2, vm0/3 are pinned to CPU 0".to_owned()), "{pins:?}");
    assert_eq!(
        of(&facts, "SMT"),
        ["other threads may run on CPUs 64-127, beside pinned vCPUs on the same cores"]
    );
    facts.topology.guests.truncate(1);
    for (vcpu, cpus) in facts.topology.guests[0].vcpus.iter_mut().zip(["0", "64", "1", "2-3"]) {
        vcpu.thread.affinity = cpus.parse().unwrap();
    }
    assert_eq!(
        of(&facts, "SMT"),
        [
            "vCPUs vm0/0, vm0/1 are pinned to one core (CPUs 0,64)",
            "other threads may run on CPUs 65, beside pinned vCPUs on the same cores"
        ]
    );
}

#[test]
fn irqbalance_is_found_by_its_process() {
    let (tree, _) = good();
    tree.process(700, &["/usr/sbin/irqbalance"], &[(700, "irqbalance", "0-3")]);
    assert_eq!(read_health(&tree.root()).irqbalance, Some(700));
}

#[test]
fn every_complaint_says_what_it_costs_and_what_mends_it() {
    let (_tree, facts) = good();
    let empty = read_health(&Tree::new().root());
    for finding in examine(&facts).into_iter().chain(examine(&empty)) {
        let bad = finding.level != Level::Ok;
        assert_eq!((finding.cost.is_some(), finding.fix.is_some()), (bad, bad), "{finding:?}");
    }
}
