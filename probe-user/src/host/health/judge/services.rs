//! What else works on the host for its own ends: daemons that set affinities, and the kernel's watchdogs.

use super::super::{Finding, HealthFacts};
use super::alone;

pub(super) fn irqbalance(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "irqbalance";
    vec![match facts.irqbalance {
        None => Finding::ok(CHECK, "not running"),
        Some(pid) => Finding::warn(
            CHECK,
            format!("running (pid {pid})"),
            "it may move interrupts that vfprobe has placed",
            "systemctl stop irqbalance, or ban the guarded CPUs: IRQBALANCE_BANNED_CPULIST=LIST",
        ),
    }]
}

pub(super) fn tuned(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "tuned";
    /// Profiles for low latency (profiles/ of tuned); those derived from them keep a part of the name.
    const QUICK: [&str; 4] = ["realtime", "cpu-partitioning", "network-latency", "latency-performance"];
    let Some(pid) = facts.tuned else { return vec![Finding::ok(CHECK, "not running")] };
    let profile = facts.tuning.tuned_profile.as_deref();
    if let Some(profile) = profile.filter(|profile| QUICK.iter().any(|quick| profile.contains(quick))) {
        return vec![Finding::ok(CHECK, format!("running (pid {pid}), profile {profile}"))];
    }
    vec![Finding::warn(
        CHECK,
        format!("running (pid {pid}), profile {}", profile.unwrap_or("not known")),
        "its profile sets governor, idle states and kernel settings again, not for latency",
        "tuned-adm profile realtime-virtual-host, or systemctl disable --now tuned",
    )]
}

pub(super) fn watchdogs(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "watchdogs";
    let tuning = &facts.tuning;
    let on: Vec<&str> = [("soft lockup", tuning.soft_watchdog), ("NMI", tuning.nmi_watchdog)]
        .into_iter()
        .filter_map(|(name, on)| on.then_some(name))
        .collect();
    if on.is_empty() {
        return vec![Finding::ok(CHECK, "off")];
    }
    let disturbed = tuning.watchdog_cpus.intersection(&alone(facts));
    if disturbed.is_empty() {
        return vec![Finding::ok(CHECK, format!("{} on CPUs {}", on.join(" and "), tuning.watchdog_cpus))];
    }
    let rest = tuning.watchdog_cpus.difference(&disturbed);
    vec![Finding::warn(
        CHECK,
        format!("{} on CPUs {disturbed}, which vCPUs have alone", on.join(" and ")),
        "a timer and a thread of the highest priority take the CPU from its vCPU every 4 s; the NMI one also takes a \
         performance counter",
        if rest.is_empty() {
            "sysctl kernel.watchdog=0".to_owned()
        } else {
            format!("sysctl kernel.watchdog_cpumask={rest}")
        },
    )]
}
