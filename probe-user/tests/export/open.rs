//! OpenMetrics says the same as the classic text, in the form that it asks for.

use crate::{
    exposition::{Exposition, parse},
    made_up,
};
use probe_user::export::{
    Status,
    bounds::Bounds,
    families::{Fold, Scrape, families},
    openmetrics, prometheus,
};
use std::{
    collections::BTreeSet,
    time::{Duration, UNIX_EPOCH},
};

fn texts(status: &Status, bounds: Bounds) -> (String, String) {
    let figures = made_up::snapshot().into();
    let scrape = Scrape { figures: Some(&figures), status, vfs: &made_up::counted_vfs(), read_seconds: 0.25 };
    let families = families(&scrape, &Fold::default());
    (
        prometheus::text(&families, bounds).unwrap(),
        openmetrics::text(&families, bounds, &status.began).unwrap(),
    )
}

/// The samples of an OpenMetrics text, read as classic text after what only this format has was checked and left out.
fn classic(text: &str) -> Exposition {
    let text = text.strip_suffix("# EOF\n").expect("ends in EOF");
    let mut lines = String::new();
    let mut family = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "TYPE", name, kind] => {
                let (ending, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    kind => ("", kind),
                };
                family = name.to_owned();
                // The classic reader wants the help first.
                let (help, rest) =
                    text.lines().find_map(|l| l.strip_prefix(&format!("# HELP {name} "))).map_or_else(
                        || panic!("{name} has no help"),
                        |help| {
                            (format!("# HELP {name}{ending} {help}\n"), format!("{name}{ending} {kind}\n"))
                        },
                    );
                lines.push_str(&format!("{help}# TYPE {rest}"));
            }
            ["#", "UNIT", name, unit] => assert!(name == family && name.ends_with(unit), "{line}"),
            ["#", "HELP", name, _] => assert_eq!(name, family),
            _ if line.starts_with(&format!("{family}_created")) => {}
            _ => lines.push_str(&format!("{line}\n")),
        }
    }
    parse(&lines).unwrap_or_else(|error| panic!("{error}\n{lines}"))
}

#[test]
fn both_formats_say_the_same() {
    let status = made_up::status();
    for bounds in [Bounds::Coarse, Bounds::Normal, Bounds::Fine] {
        let (plain, open) = texts(&status, bounds);
        let (plain, open) = (parse(&plain).unwrap(), classic(&open));
        assert_eq!(plain.samples, open.samples, "{bounds:?}");
        let kinds = |all: &Exposition| -> BTreeSet<(String, String, String)> {
            all.families.iter().map(|(n, f)| (n.clone(), f.kind.clone(), f.help.clone())).collect()
        };
        assert_eq!(kinds(&plain), kinds(&open), "{bounds:?}");
    }
}

#[test]
fn counters_and_histograms_say_since_when() {
    let mut status = made_up::status();
    let created = |status: &Status, start: &str| -> Vec<String> {
        let (_, open) = texts(status, Bounds::Normal);
        open.lines().filter(|l| l.starts_with(start)).map(str::to_owned).collect()
    };
    let hlt = "vfprobe_vm_exit_seconds_created{guest=\"vm1\",vcpu=\"0\"";
    let guest = |since: &str| format!("{hlt},reason=\"HLT\",config=\"baseline\"}} {since}");
    assert_eq!(created(&status, hlt), [guest("1700000000.5")]);
    assert_eq!(
        created(&status, "vfprobe_lost_created"),
        ["vfprobe_lost_created{probe=\"irq_delivery\",cause=\"map_full\"} 1700000000.5"]
    );
    assert_eq!(created(&status, "vfprobe_up_created"), [""; 0], "a gauge is not counted");
    let of_vf = created(&status, "vfprobe_vf_receive_packets");
    assert!(of_vf.iter().all(|line| !line.contains("_created")), "not vfprobe counts there: {of_vf:?}");
    assert_eq!(of_vf.len(), 1);
    // A guest that came later is counted since then, what has no guest since the start.
    status.began.guests.insert("vm1".to_owned(), UNIX_EPOCH + Duration::from_secs(1_700_000_060));
    assert_eq!(created(&status, hlt), [guest("1700000060")]);
    assert_eq!(created(&status, "vfprobe_lost_created").len(), 1);
    // Not known is not said.
    status.began = Default::default();
    assert_eq!(created(&status, "vfprobe_lost_created"), [""; 0]);
}

#[test]
fn own_cost_is_in_base_units() {
    let (plain, _) = texts(&made_up::status(), Bounds::Normal);
    let all = parse(&plain).unwrap();
    assert_eq!(all.value("vfprobe_process_cpu_seconds_total", &[]), Some(0.25));
    assert_eq!(all.value("vfprobe_process_resident_memory_bytes", &[]), Some(8192.0));
}
