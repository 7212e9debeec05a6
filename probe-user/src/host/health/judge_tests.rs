//! Tests of the findings on pins and tuning: files changed on a good host, complaints out.

use super::tests::{complaints, good, vectors};
use super::{Level, examine, read_health};
use crate::host::fixture::Tree;

/// Changes files of the good host and compares what is complained of.
fn check(change: impl Fn(&Tree), expected: &[&str]) {
    let (tree, _) = good();
    change(&tree);
    assert_eq!(complaints(&read_health(&tree.root())), expected);
}

/// The same for one file.
fn with(path: &str, content: &str, expected: &[&str]) {
    check(|tree| tree.file(path, content), expected);
}

const NO_COMPLAINT: &[&str] = &[];

#[test]
fn virtual_interrupts_are_missed_only_where_the_cpu_has_them() {
    with("proc/cpuinfo", "vendor_id : AuthenticAMD\nflags : fpu svm\n", NO_COMPLAINT);
    with(
        "proc/cpuinfo",
        "vendor_id : AuthenticAMD\nflags : fpu svm avic\n",
        &["warn APICv/AVIC: off (kvm_amd.avic=N), though the CPU has it"],
    );
}

#[test]
fn free_vectors() {
    let path = "sys/kernel/debug/irq/domains/VECTOR";
    // CPU 0 has no vCPU.
    with(path, &vectors([0, 8, 9, 10]), NO_COMPLAINT);
    with(path, &vectors([50, 7, 0, 10]), &["warn free vectors: fewer than 8 on CPUs 1-2 (least: 0)"]);
    check(|tree| tree.remove(path), NO_COMPLAINT);
}

#[test]
fn pins() {
    let pin = |tree: &Tree, pid: u32, tid: u32, cpus: &str| {
        let status = format!("Name:\tx\nTgid:\t{pid}\nCpus_allowed_list:\t{cpus}\n");
        tree.file(&format!("proc/{pid}/task/{tid}/status"), &status);
    };
    check(|tree| pin(tree, 277, 283, "0-3"), &["warn pins: 1 of 1 vCPUs of vm2 have no CPU of their own"]);
    check(
        |tree| {
            pin(tree, 223, 233, "2-3");
            pin(tree, 223, 234, "2-3");
        },
        &["warn pins: 2 vCPUs of vm1 may run on several isolated CPUs (2-3)"],
    );
    check(|tree| pin(tree, 277, 283, "2"), &["warn pins: vCPUs vm1/0, vm2/0 are pinned to CPU 2"]);
    // A thread that may run elsewhere is not put on an isolated CPU; one that may not is in the way.
    check(|tree| pin(tree, 277, 282, "0,2"), NO_COMPLAINT);
    check(
        |tree| pin(tree, 277, 282, "2-3"),
        &["warn pins: 1 other threads of vm2 may run on CPUs 2-3, which vCPUs have alone"],
    );
    check(
        |tree| pin(tree, 277, 283, "0"),
        &[
            "warn pins: 4 other threads of vm1 may run on CPUs 0, which vCPUs have alone",
            "warn pins: 4 other threads of vm2 may run on CPUs 0, which vCPUs have alone",
            "warn isolation: vCPUs have CPUs 0 alone, which are not among the isolated ones",
            "warn new interrupts: may start on CPUs 0, which vCPUs have alone",
            "warn watchdogs: soft lockup on CPUs 0, which vCPUs have alone",
        ],
    );
}

#[test]
fn boot_options_that_contradict_each_other() {
    let cpu = "sys/devices/system/cpu";
    let boot = |cmdline: &str, expected: &[&str]| with("proc/cmdline", cmdline, expected);
    boot("isolcpus=managed_irq,domain,1-3 nohz_full=1-3 rcu_nocbs=1-3 irqaffinity=0\n", NO_COMPLAINT);
    boot("irqaffinity=0-2\n", &["warn isolation: irqaffinity= names isolated CPUs 1-2"]);
    boot("irqaffinity=2\n", &["warn isolation: irqaffinity= names isolated CPUs 2"]);
    boot(
        "isolcpus=managed_irq,0-3\n",
        &["warn isolation: isolcpus= names CPUs 0, but the scheduler does not leave them alone"],
    );
    let lists = |isolated: &str, tickless: &str, cmdline: &str, expected: &[&str]| {
        let change = |tree: &Tree| {
            tree.file(&format!("{cpu}/isolated"), isolated);
            tree.file(&format!("{cpu}/nohz_full"), tickless);
            tree.file("proc/cmdline", cmdline);
        };
        check(change, expected);
    };
    lists("1-3", "2-3", "rcu_nocbs=1\n", &["warn isolation: CPUs 1 are isolated, but keep their tick"]);
    lists("1-3", "2-3", "rcu_nocbs=all\n", &["warn isolation: CPUs 1 are isolated, but keep their tick"]);
    lists(
        "1-3",
        "2-3",
        "quiet\n",
        &[
            "warn isolation: CPUs 1 are isolated, but keep their tick",
            "warn isolation: RCU callbacks run on isolated CPUs 1",
        ],
    );
}

#[test]
fn cpus_that_are_promised_but_not_isolated() {
    check(
        |tree| {
            tree.file("sys/devices/system/cpu/isolated", "2-3\n");
            tree.file("proc/223/task/223/status", "Name:\tx\nTgid:\t223\nCpus_allowed_list:\t0\n");
            for (pid, tid) in
                [(223, 230), (223, 245), (277, 277), (277, 282), (277, 293), (236, 236), (284, 284)]
            {
                let status = format!("Name:\tx\nTgid:\t{pid}\nCpus_allowed_list:\t0\n");
                tree.file(&format!("proc/{pid}/task/{tid}/status"), &status);
            }
        },
        &[
            "warn isolation: CPUs 1 are without a tick, but not isolated",
            "warn isolation: vCPUs have CPUs 1 alone, which are not among the isolated ones",
        ],
    );
}

#[test]
fn daemons() {
    let tuned = |profile: Option<&str>, expected: &[&str]| {
        let change = |tree: &Tree| {
            tree.process(701, &["/usr/bin/python3", "/usr/sbin/tuned"], &[(701, "tuned", "0")]);
            if let Some(profile) = profile {
                tree.file("etc/tuned/active_profile", profile);
            }
        };
        check(change, expected);
    };
    tuned(Some("realtime-virtual-host\n"), NO_COMPLAINT);
    tuned(Some("balanced\n"), &["warn tuned: running (pid 701), profile balanced"]);
    tuned(None, &["warn tuned: running (pid 701), profile not known"]);
}

#[test]
fn watchdogs() {
    let cpus = "proc/sys/kernel/watchdog_cpumask";
    with(cpus, "0-3\n", &["warn watchdogs: soft lockup on CPUs 1-3, which vCPUs have alone"]);
    check(
        |tree| {
            tree.file(cpus, "0-3\n");
            tree.file("proc/sys/kernel/soft_watchdog", "0\n");
        },
        NO_COMPLAINT,
    );
    check(
        |tree| {
            tree.file(cpus, "2\n");
            tree.file("proc/sys/kernel/nmi_watchdog", "1\n");
        },
        &["warn watchdogs: soft lockup and NMI on CPUs 2, which vCPUs have alone"],
    );
}

#[test]
fn frequency_and_idle_states() {
    let policy = "sys/devices/system/cpu/cpufreq/policy2";
    with(&format!("{policy}/scaling_governor"), "schedutil\n", &["warn governor: schedutil on CPUs 2"]);
    // CPU 0 has no vCPU.
    with("sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "powersave\n", NO_COMPLAINT);
    let hardware = |preference: &str, expected: &[&str]| {
        let change = |tree: &Tree| {
            tree.file(&format!("{policy}/scaling_governor"), "powersave\n");
            tree.file(&format!("{policy}/energy_performance_preference"), preference);
        };
        check(change, expected);
    };
    hardware("performance\n", NO_COMPLAINT);
    hardware("balance_performance\n", &["warn governor: powersave on CPUs 2"]);

    let cpu = "sys/devices/system/cpu/cpu3";
    let c6 = "warn C-states: CPUs 3: C6 is the deepest, left within 133 us";
    let enabled = format!("{cpu}/cpuidle/state2/disable");
    with(&enabled, "0\n", &[c6]);
    let limited = |own: &str, expected: &[&str]| {
        let change = |tree: &Tree| {
            tree.file(&enabled, "0\n");
            tree.file(&format!("{cpu}/power/pm_qos_resume_latency_us"), own);
        };
        check(change, expected);
    };
    limited("0\n", &[c6]);
    limited("132\n", NO_COMPLAINT);
    limited("133\n", &[c6]);
    limited("n/a\n", NO_COMPLAINT);
    // A limit for all CPUs, as a process that holds /dev/cpu_dma_latency open sets it: bytes of 100 in this order.
    check(
        |tree| {
            tree.file(&enabled, "0\n");
            tree.file("dev/cpu_dma_latency", "d\0\0\0");
        },
        NO_COMPLAINT,
    );
}

#[test]
fn halt_polling_and_memory() {
    let polling = "sys/module/kvm/parameters/halt_poll_ns";
    with(polling, "0\n", &["warn halt polling: off (kvm.halt_poll_ns=0)"]);
    with("sys/kernel/mm/ksm/run", "1\n", &["warn KSM: equal pages of guests are merged"]);
    with("sys/kernel/mm/ksm/run", "2\n", NO_COMPLAINT);
    let thp = "sys/kernel/mm/transparent_hugepage";
    with(
        &format!("{thp}/defrag"),
        "[always] defer\n",
        &["warn huge pages: memory is made contiguous while a thread waits for it (defrag is always)"],
    );
    with(&format!("{thp}/enabled"), "always madvise [never]\n", NO_COMPLAINT);
    check(
        |tree| {
            tree.file(&format!("{thp}/enabled"), "always madvise [never]\n");
            tree.file("proc/meminfo", "HugePages_Total:       0\nHugePages_Free:        0\n");
        },
        &["warn huge pages: transparent ones are off (never), and nobody uses reserved ones"],
    );
    check(
        |tree| tree.file("sys/devices/system/node/node1/cpulist", "0\n"),
        &["warn NUMA balancing: on, over 2 nodes"],
    );
}

#[test]
fn commands_name_the_cpus_they_are_for() {
    let (tree, _) = good();
    tree.file("proc/sys/kernel/watchdog_cpumask", "0-3\n");
    tree.file("proc/irq/default_smp_affinity", "f\n");
    tree.file("sys/devices/system/cpu/cpu3/cpuidle/state2/disable", "0\n");
    tree.file("sys/devices/system/cpu/cpufreq/policy2/scaling_governor", "ondemand\n");
    let findings = examine(&read_health(&tree.root()));
    let fix = |check: &str| {
        let found = findings.iter().find(|f| f.check == check && f.level == Level::Warn);
        found.and_then(|f| f.fix.clone()).unwrap_or_default()
    };
    assert_eq!(fix("watchdogs"), "sysctl kernel.watchdog_cpumask=0");
    assert!(fix("new interrupts").ends_with("echo 1 >/proc/irq/default_smp_affinity"));
    assert_eq!(fix("C-states"), "cpupower -c 3 idle-set -D 11");
    assert_eq!(fix("governor"), "cpupower -c 2 frequency-set -g performance");
}
