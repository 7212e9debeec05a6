//! Names of series, in the order in which people think of them: guest, VF, slot, vCPU, then what is told apart.

use crate::stats::Labels;

const ORDER: &[&str] =
    &["guest", "vf", "path", "slot", "vcpu", "cpu", "kind", "source", "hop", "stage", "reason"];
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

/// A key that sorts series as tables list them: stages in their order, everything else by its words.
#[must_use]
pub fn sort_key(probe: &str, labels: &Labels) -> (String, String, usize, String) {
    let stage = labels.get("stage").and_then(|stage| STAGES.iter().position(|s| s == stage));
    let place = crate::stats::series::without(labels, &["stage", "reason"]);
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
    fn stages_sort_as_they_happen() {
        let mut stages = STAGES;
        stages.reverse();
        stages.sort_by_key(|s| sort_key("irq_delivery", &labels(&format!("guest=a,stage={s}"))));
        assert_eq!(stages, STAGES);
    }
}
