//! What a scrape holds: exact counts, nothing invented, nothing dropped in silence.

use crate::{
    exposition::{Exposition, parse},
    made_up::{self, DELIVERY, MadeUp, counter, series},
};
use probe_user::{
    export::{
        Figures, Hold, Source, Status,
        bounds::Bounds,
        families::{Fold, FoldLabel, Scrape, families},
        prometheus, registry,
    },
    stats::{Observability, Snapshot},
};

fn scrape(snapshot: Option<&Snapshot>, status: &Status, fold: &Fold) -> Exposition {
    let figures = snapshot.cloned().map(Figures::from);
    let text = prometheus::text(
        &families(
            &Scrape { figures: figures.as_ref(), status, vfs: &made_up::counted_vfs(), read_seconds: 0.25 },
            fold,
        ),
        Bounds::Normal,
    )
    .unwrap();
    parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn usual() -> Exposition {
    scrape(Some(&made_up::snapshot()), &made_up::status(), &Fold::default())
}

const VECTOR: [(&str, &str); 5] =
    [("config", "baseline"), ("guest", "vm1"), ("slot", "1"), ("vcpu", "0"), ("vf", "0000:01:10.0")];

#[test]
fn bucket_counts_sum_and_count_are_exact() {
    let all = usual();
    let with = |pairs: &[(&'static str, &'static str)]| {
        [&VECTOR, [("stage", "delivery")].as_slice(), pairs].concat()
    };
    let name = "vfprobe_irq_delivery_seconds";
    for (le, count) in [
        ("0.000000256", 1.0),
        ("0.000000512", 2.0),
        ("0.000004096", 2.0),
        ("0.000008192", 3.0),
        ("17.179869184", 3.0),
        ("+Inf", 4.0),
    ] {
        assert_eq!(all.value(&format!("{name}_bucket"), &with(&[("le", le)])), Some(count), "le={le}");
    }
    assert_eq!(all.value(&format!("{name}_count"), &with(&[])), Some(4.0));
    let sum: u64 = DELIVERY.iter().sum();
    assert_eq!(all.value(&format!("{name}_sum"), &with(&[])), Some(sum as f64 / 1e9));
}

#[test]
fn counters_are_in_base_units_and_carry_the_configuration() {
    let all = usual();
    assert_eq!(all.value("vfprobe_irq_delivery_raised_total", &VECTOR), Some(5.0));
    let vcpu = [("config", "baseline"), ("guest", "vm1"), ("vcpu", "0")];
    assert_eq!(all.value("vfprobe_vcpu_guest_seconds_total", &vcpu), Some(1.5));
    assert_eq!(
        all.value("vfprobe_lost_total", &[("probe", "irq_delivery"), ("cause", "map_full")]),
        Some(3.0)
    );
}

/// A figure that is not known is absent, and never 0.
#[test]
fn vfs_have_what_their_drivers_report() {
    let all = usual();
    let vf = [("pf", "eth0"), ("vf", "0"), ("pci_address", "0000:01:10.0")];
    for (figure, expected) in [
        ("receive_packets", Some(12.0)),
        ("receive_bytes", Some(3400.0)),
        ("receive_dropped", None),
        ("transmit_packets", Some(5.0)),
        ("transmit_bytes", Some(600.0)),
        ("transmit_dropped", None),
    ] {
        let name = format!("vfprobe_vf_{figure}_total");
        assert_eq!(all.value(&name, &vf), expected, "{name}");
        // The idle one has none.
        assert_eq!(all.named(&name).count(), usize::from(expected.is_some()), "{name}");
    }
}

#[test]
fn what_cannot_be_observed_is_named_and_has_no_figures() {
    let all = usual();
    let service = |(labels, _): &(&_, f64)| labels_have(labels, "stage", "service");
    assert_eq!(all.named("vfprobe_irq_delivery_seconds_count").filter(service).count(), 0);
    assert_eq!(all.named("vfprobe_irq_delivery_seconds_bucket").filter(service).count(), 0);
    let hidden: Vec<_> = all.named("vfprobe_series_hidden_info").collect();
    assert_eq!(hidden.len(), 1);
    assert!(labels_have(hidden[0].0, "stage", "service"));
    assert!(labels_have(hidden[0].0, "cause", "APICv hides the guest's EOI"));
}

fn labels_have(labels: &crate::exposition::Labels, name: &str, value: &str) -> bool {
    labels.get(name).is_some_and(|v| v == value)
}

#[test]
fn a_label_of_the_series_wins_over_the_configuration_in_force() {
    let before = series("vm_exit", &[("guest", "a"), ("config", "baseline")], &[1]);
    let after = series("vm_exit", &[("guest", "a")], &[1, 2]);
    let snapshot = Snapshot { series: vec![before, after], ..Snapshot::default() };
    let status = Status { config: "direct".to_owned(), ..Status::default() };
    let all = scrape(Some(&snapshot), &status, &Fold::default());
    let count = |config| all.value("vfprobe_vm_exit_seconds_count", &[("config", config), ("guest", "a")]);
    assert_eq!((count("baseline"), count("direct")), (Some(1.0), Some(2.0)));
    assert_eq!(all.value("vfprobe_config_info", &[("config", "direct")]), Some(1.0));
}

#[test]
fn folding_adds_up() {
    let fold = Fold([FoldLabel::Vcpu].into());
    let all = scrape(Some(&made_up::snapshot()), &made_up::status(), &fold);
    let hlt = [("config", "baseline"), ("guest", "vm1"), ("reason", "HLT")];
    assert_eq!(all.value("vfprobe_vm_exit_seconds_count", &hlt), Some(3.0));
    assert_eq!(all.value("vfprobe_vm_exit_seconds_sum", &hlt), Some(0.006));
}

#[test]
fn what_has_no_metric_is_counted() {
    let snapshot = Snapshot {
        series: vec![
            series("no_such_probe", &[], &[1]),
            series("vm_exit", &[("no_such_label", "x")], &[1]),
            {
                let mut hidden = series("vm_exit", &[("no_such_label", "x")], &[]);
                hidden.observable = Observability::No("hidden".to_owned());
                hidden
            },
        ],
        counters: vec![counter("vm_exit", "no_such_counter", &[], 1)],
        ..Snapshot::default()
    };
    let all = scrape(Some(&snapshot), &Status::default(), &Fold::default());
    assert_eq!(all.value("vfprobe_unregistered_series", &[]), Some(4.0));
    assert_eq!(usual().value("vfprobe_unregistered_series", &[]), Some(0.0));
}

#[test]
fn probes_and_affinity() {
    let all = usual();
    let up = |probe| all.value("vfprobe_probe_up", &[("probe", probe)]);
    assert_eq!((up("irq_delivery"), up("vm_exit")), (Some(1.0), Some(0.0)));
    let info = [("probe", "vm_exit"), ("state", "not_applicable"), ("reason", "kvm is not <loaded>")];
    assert_eq!(all.value("vfprobe_probe_info", &info), Some(1.0));
    let settled = |slot| {
        all.value("vfprobe_irq_affinity_settled", &[("guest", "vm1"), ("vf", "0000:01:10.0"), ("slot", slot)])
    };
    assert_eq!((settled("0"), settled("1")), (Some(1.0), Some(0.0)), "CPU 1 of 0-3; CPU 0 of 2");
    // The kernel keeps no BPF statistics here: no figure, rather than 0.
    assert_eq!(all.named("vfprobe_probe_run_seconds_total").count(), 0);
}

#[test]
fn drift_is_said_only_where_something_was_applied() {
    let hold = Hold { settings: 7, drifted: 2, settled: true };
    let status = Status { hold: Some(hold), ..made_up::status() };
    let all = scrape(None, &status, &Fold::default());
    let value = |name: &str| all.value(name, &[]);
    assert_eq!(value("vfprobe_config_settings"), Some(7.0));
    assert_eq!(value("vfprobe_config_drifted_settings"), Some(2.0));
    assert_eq!(value("vfprobe_config_settled"), Some(1.0));
    assert_eq!(usual().value("vfprobe_config_settings", &[]), None);
}

#[test]
fn a_source_that_cannot_be_read_is_not_zero() {
    let source = MadeUp::new(Err("no".to_owned()), made_up::status());
    let all = scrape(None, &source.status(), &Fold::default());
    assert_eq!(all.value("vfprobe_up", &[]), Some(0.0));
    assert!(all.samples.keys().all(|(name, _)| !name.starts_with("vfprobe_irq_delivery_seconds")));
    assert_eq!(usual().value("vfprobe_up", &[]), Some(1.0));
}

#[test]
fn every_family_is_as_the_registry_says() {
    for (name, family) in &usual().families {
        let metric = registry::find(name).unwrap_or_else(|| panic!("{name} is not in the registry"));
        assert_eq!(family.help, metric.help);
        let kind = match metric.kind {
            registry::Kind::Histogram => "histogram",
            registry::Kind::Counter => "counter",
            registry::Kind::Gauge | registry::Kind::Info => "gauge",
        };
        assert_eq!(family.kind, kind, "{name}");
    }
}

#[test]
fn odd_label_values_survive() {
    let odd = "a\"b\\c\nd{e},é";
    let snapshot =
        Snapshot { series: vec![series("vm_exit", &[("guest", odd)], &[1])], ..Snapshot::default() };
    let all = scrape(Some(&snapshot), &made_up::status(), &Fold::default());
    assert_eq!(
        all.value("vfprobe_vm_exit_seconds_count", &[("guest", odd), ("config", "baseline")]),
        Some(1.0)
    );
}
