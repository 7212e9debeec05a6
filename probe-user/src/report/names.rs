//! Names of series, in the order in which people think of them: guest, VF, slot, vCPU, then what is told apart.

use crate::stats::Labels;

const ORDER: &[&str] = &[
    "guest",
    "vf",
    "path",
    "netdev",
    "direction",
    "slot",
    "vcpu",
    "cpu",
    "kind",
    "source",
    "hop",
    "point",
    "stage",
    "reason",
];
/// Numbers that say nothing without a word in front.
const WORDED: &[&str] = &["slot", "vcpu", "cpu"];

/// A series' labels as words: `vm1 0000:01:10.0 slot 1 vcpu 0 delivery`.
#[must_use]
pub fn of(labels: &Labels) -> String {
    let known = ORDER.iter().filter_map(|name| Some((*name, labels.get(*name)?)));
    let others = labels.iter().filter(|(name, _)| !ORDER.contains(&name.as_str()) && *name != "config");
    let words: Vec<String> = known
        .map(|(name, value)| if WORDED.contains(&name) { format!("{name} {value}") } else { value.clone() })
        .chain(others.map(|(name, value)| format!("{name}={value}")))
        .collect();
    words.join(" ")
}

/// The stages of `irq_delivery` in the order in which they happen.
pub const STAGES: [&str; 5] = ["dispatch", "wake", "inject", "delivery", "service"];

/// The hops of `packet_path` likewise.
pub const HOPS: [&str; 4] = ["bridge", "qdisc", "ring", "total"];

/// A key that sorts series as tables list them: stages in their order, everything else by its words.
#[must_use]
pub fn sort_key(probe: &str, labels: &Labels) -> (String, String, usize, String) {
    let position =
        |label, words: &[&str]| words.iter().position(|word| labels.get(label).is_some_and(|l| l == word));
    let stage = position("stage", &STAGES).or_else(|| position("hop", &HOPS));
    let place = crate::stats::series::without(labels, &["stage", "hop", "reason"]);
    (probe.to_owned(), of(&place), stage.unwrap_or(STAGES.len()), of(labels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::sample::labels;

    #[test]
    fn labels_become_words() {
        for (text, words) in [
            (
                "guest=vm1,vf=0000:01:10.0,slot=1,vcpu=0,stage=delivery,config=own",
                "vm1 0000:01:10.0 slot 1 vcpu 0 delivery",
            ),
            ("guest=vm1,vcpu=0,reason=HLT", "vm1 vcpu 0 HLT"),
            ("guest=vm1,queue=3", "vm1 queue=3"),
            ("", ""),
        ] {
            assert_eq!(of(&labels(text)), words);
        }
    }

    #[test]
    fn stages_and_hops_sort_as_they_happen() {
        let mut hops = HOPS;
        hops.reverse();
        hops.sort_by_key(|h| sort_key("packet_path", &labels(&format!("guest=a,hop={h}"))));
        assert_eq!(hops, HOPS);
        let mut stages = STAGES;
        stages.reverse();
        stages.sort_by_key(|s| sort_key("irq_delivery", &labels(&format!("guest=a,stage={s}"))));
        assert_eq!(stages, STAGES);
    }
}
