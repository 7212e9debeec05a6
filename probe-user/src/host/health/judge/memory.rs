//! What the kernel does with guests' memory while they run.

use super::super::{Finding, HealthFacts};

pub(super) fn huge_pages(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "huge pages";
    let tuning = &facts.tuning;
    let in_use = tuning.hugetlb_in_use.unwrap_or(0);
    let Some(mode) = tuning.huge_pages.as_deref() else {
        return vec![Finding::ok(CHECK, "the kernel makes none by itself")];
    };
    let mut findings = Vec::new();
    if mode == "never" && in_use == 0 {
        findings.push(Finding::warn(
            CHECK,
            "transparent ones are off (never), and nobody uses reserved ones",
            "guests' memory is in pages of 4 KiB: a TLB miss walks both page tables to their end, up to 24 reads",
            "reserve some for guests (hugepages= at boot, hugetlbfs), or \
             echo madvise >/sys/kernel/mm/transparent_hugepage/enabled",
        ));
    }
    if mode != "never" && tuning.huge_page_defrag.as_deref() == Some("always") {
        findings.push(Finding::warn(
            CHECK,
            "memory is made contiguous while a thread waits for it (defrag is always)",
            "a page fault of a guest may stand still for milliseconds while pages are moved",
            "echo defer+madvise >/sys/kernel/mm/transparent_hugepage/defrag",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, format!("transparent: {mode}; reserved and in use: {in_use}")));
    }
    findings
}

pub(super) fn merging(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "KSM";
    vec![match facts.tuning.ksm {
        Some(1) => Finding::warn(
            CHECK,
            "equal pages of guests are merged",
            "a write to a merged page costs the guest an exit and a copy; ksmd scans memory all the time",
            "echo 2 >/sys/kernel/mm/ksm/run (stops and parts the pages); systemctl disable --now ksm ksmtuned",
        ),
        Some(_) => Finding::ok(CHECK, "off"),
        None => Finding::ok(CHECK, "this kernel has none"),
    }]
}

pub(super) fn balancing(facts: &HealthFacts) -> Vec<Finding> {
    const CHECK: &str = "NUMA balancing";
    let nodes: std::collections::BTreeSet<_> =
        facts.topology.cpus.iter().filter_map(|cpu| cpu.node).collect();
    vec![match facts.tuning.numa_balancing {
        Some(mode) if mode != 0 && nodes.len() > 1 => Finding::warn(
            CHECK,
            format!("on, over {} nodes", nodes.len()),
            "guests' pages are unmapped by turns to see who uses them: the next touch costs an exit, or a copy",
            "sysctl kernel.numa_balancing=0",
        ),
        Some(mode) if mode != 0 => Finding::ok(CHECK, "on, without effect on one node"),
        Some(_) => Finding::ok(CHECK, "off"),
        None => Finding::ok(CHECK, "this kernel has none"),
    }]
}
