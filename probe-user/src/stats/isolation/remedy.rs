//! What would remove a source of noise from a CPU. Facts: Documentation/admin-guide/kernel-parameters.txt,
//! kernel-per-CPU-kthreads.rst and Documentation/timers/no_hz.rst of Linux 6.12.

use crate::model::topology::Cpu;

/// The remedy in a few words, or that there is none.
#[must_use]
pub fn remedy(kind: &str, source: &str, cpu: Option<&Cpu>) -> String {
    let id = cpu.map_or_else(|| "LIST".to_owned(), |cpu| cpu.id.to_string());
    let tickless = cpu.is_some_and(|cpu| cpu.nohz_full);
    let isolated = cpu.is_some_and(|cpu| cpu.isolated);
    match kind {
        "irq" if source.starts_with("vfio-") => {
            "intended with placement `own`; `near` or `housekeeping` moves it away".to_owned()
        }
        "irq" => {
            "its affinity: `vfprobe apply` moves it; a managed one follows isolcpus=managed_irq".to_owned()
        }
        "vector" => vector(source, &id, tickless, isolated),
        "softirq" => softirq(source, tickless).to_owned(),
        "kernel-thread" => kernel_thread(source, isolated).to_owned(),
        "user-thread" if isolated => "somebody pinned it here: its own affinity".to_owned(),
        "user-thread" => {
            format!("`vfprobe apply --isolate threads`, a cpuset partition, or isolcpus={id}")
        }
        "nmi" => "sysctl kernel.nmi_watchdog=0, no perf; others cannot be removed".to_owned(),
        _ => "not known".to_owned(),
    }
}

fn vector(source: &str, id: &str, tickless: bool, isolated: bool) -> String {
    match source {
        "local_timer" if tickless => {
            "the tick is off with one runnable thread: a second thread, or a timer of the guest".to_owned()
        }
        "local_timer" => format!("nohz_full={id} stops the tick; timers of the guest stay"),
        "reschedule" => "wakeups and kicks from other CPUs: placement `own`, fewer threads here".to_owned(),
        "call_function" | "call_function_single" if isolated => {
            "TLB and code flushes of all CPUs; cannot be removed wholly".to_owned()
        }
        "call_function" | "call_function_single" => {
            format!("isolcpus={id}, no RPS to this CPU; TLB flushes stay")
        }
        "irq_work" => "perf, BPF rings, printk; cannot be removed wholly".to_owned(),
        _ => "cannot be removed".to_owned(),
    }
}

fn softirq(source: &str, tickless: bool) -> &'static str {
    match source {
        "NET_RX" | "NET_TX" => "the affinity of the network card's interrupts, and rps_cpus/xps_cpus",
        "BLOCK" => "the affinity of the disk's interrupts",
        "RCU" => "rcu_nocbs= for this CPU",
        "SCHED" => "isolcpus= (no load balancing)",
        "TIMER" | "HRTIMER" if tickless => "timers set by threads on this CPU",
        "TIMER" | "HRTIMER" => "nohz_full= for this CPU",
        _ => "the driver that raises it, by its interrupt's affinity",
    }
}

fn kernel_thread(name: &str, isolated: bool) -> &'static str {
    let is = |start: &str| name.starts_with(start);
    if is("kworker/u") {
        "/sys/devices/virtual/workqueue/cpumask"
    } else if is("kworker/") {
        "per-CPU work: cannot be removed wholly"
    } else if is("ksoftirqd/") {
        "follows this CPU's softirqs"
    } else if is("rcu") {
        "rcu_nocbs= for this CPU"
    } else if is("irq/") {
        "follows its interrupt's affinity"
    } else if is("vhost-") {
        "the policy's `threads` of its guest"
    } else if is("migration/") || is("cpuhp/") || is("stopper") {
        "cannot be removed; rare"
    } else if isolated {
        "its affinity (taskset -p)"
    } else {
        "`vfprobe apply --isolate threads`, or its affinity"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CpuId, CpuSet};

    #[test]
    fn a_remedy_fits_the_cpu() {
        let cpu = |isolated, nohz_full| Cpu {
            id: CpuId(3),
            online: true,
            node: None,
            siblings: CpuSet::new(),
            llc: CpuSet::new(),
            isolated,
            nohz_full,
        };
        for (kind, source, isolated, tickless, expected) in [
            ("vector", "local_timer", false, false, "nohz_full=3 stops"),
            ("vector", "local_timer", false, true, "the tick is off"),
            ("vector", "call_function", true, true, "TLB and code"),
            (
                "user-thread",
                "x",
                false,
                false,
                "`vfprobe apply --isolate threads`, a cpuset partition, or isolcpus=3",
            ),
            ("user-thread", "x", true, false, "somebody pinned"),
            ("irq", "vfio-msix[0](0000:01:10.0)", false, false, "intended"),
            ("kernel-thread", "kworker/u8:1", false, false, "/sys/devices/virtual/workqueue"),
            ("kernel-thread", "kworker/3:1", false, false, "per-CPU"),
            ("softirq", "RCU", false, false, "rcu_nocbs="),
            ("nmi", "nmi", false, false, "sysctl kernel.nmi_watchdog=0"),
        ] {
            let said = remedy(kind, source, Some(&cpu(isolated, tickless)));
            assert!(said.starts_with(expected), "{kind} {source}: {said}");
        }
    }
}
