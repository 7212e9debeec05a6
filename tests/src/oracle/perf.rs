//! What perf counted of VM exits: the table of `perf kvm stat report`, and the events of the same file by `perf script`.

use std::collections::BTreeMap;

/// Exits by reason, as perf names them.
pub type Exits = BTreeMap<String, u64>;

/// The table of `perf kvm stat report --event=vmexit`: after its head, lines of a reason, its samples, and shares. Empty
/// when there is no table.
#[must_use]
pub fn kvm_stat(report: &str) -> Exits {
    let lines = report.lines().skip_while(|line| !line.contains("VM-EXIT")).skip(1);
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|word| word.ends_with('%'))?;
        let samples = words.get(at.checked_sub(1)?)?.parse().ok()?;
        Some((words.get(..at - 1)?.join(" "), samples))
    };
    lines.filter_map(row).collect()
}

/// Exits that were followed by an entry of the same thread, in the lines of `perf script`.
#[must_use]
pub fn followed_exits(script: &str) -> Exits {
    let mut left: BTreeMap<String, String> = BTreeMap::new();
    let mut exits = Exits::new();
    for line in script.lines() {
        let Some((head, text)) = line.split_once("kvm:kvm_") else { continue };
        // `CPU 0/KVM  212 [001]  37.023767: `: the thread's number stands before the CPU.
        let Some(tid) = head.split(" [").next().and_then(|head| head.split_whitespace().next_back()) else {
            continue;
        };
        if let Some(text) = text.strip_prefix("exit:") {
            let mut words = text.split_whitespace().skip_while(|word| *word != "reason").skip(1);
            if let Some(reason) = words.next() {
                left.insert(tid.to_owned(), reason.to_owned());
            }
        } else if text.starts_with("entry:")
            && let Some(reason) = left.remove(tid)
        {
            *exits.entry(reason).or_default() += 1;
        }
    }
    exits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_perf_kvm_stat() {
        let report = "\n\nAnalyze events for all VMs, all VCPUs:\n\n             VM-EXIT    Samples  Samples%     Time%    Min Time    Max Time         Avg time\n\n                 hlt        250    62.50%    99.10%      1.25us   9000.00us   3964.10us ( +-   5.14% )\n           interrupt        150    37.50%     0.90%      1.00us     20.00us      6.00us ( +-   1.00% )\n\nTotal Samples:400, Total events handled time:1000000.00us.\n\n";
        let exits = kvm_stat(report);
        assert_eq!(exits, Exits::from([("hlt".to_owned(), 250), ("interrupt".to_owned(), 150)]));
        assert!(kvm_stat("no events\n").is_empty());
    }

    #[test]
    fn events_of_perf_script() {
        let script = "\
       CPU 0/KVM   221 [000]    37.1: kvm:kvm_exit: vcpu 0 reason hlt rip 0xff info1 0x0\n\
       CPU 1/KVM   222 [001]    37.2: kvm:kvm_exit: vcpu 1 reason npf rip 0xff\n\
       CPU 0/KVM   221 [000]    37.3: kvm:kvm_entry: vcpu 0, rip 0xff\n\
       CPU 0/KVM   221 [000]    37.4: kvm:kvm_exit: reason EXTERNAL_INTERRUPT rip 0xff\n\
       CPU 0/KVM   221 [000]    37.5: kvm:kvm_entry: vcpu 0, rip 0xff\n\
       CPU 0/KVM   221 [000]    37.6: kvm:kvm_entry: vcpu 0, rip 0xff\n";
        let exits = followed_exits(script);
        assert_eq!(exits, Exits::from([("hlt".to_owned(), 1), ("EXTERNAL_INTERRUPT".to_owned(), 1)]));
    }
}
