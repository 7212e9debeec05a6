//! A snapshot and a status, sorted into the metrics of the registry.
//!
//! Pure: no clock, no text format. Encoders (`prometheus`) take the result. What the registry has no row for is
//! counted, never dropped in silence; what cannot be observed is named, never exported as zero.

use super::{
    Began, CountedVf, Figures, ProbeState, Status,
    bounds::seconds,
    registry::{self, Kind, Metric, Origin, Unit},
};
use crate::{
    model::topology::{Guest, Slot, Topology, Vf, Vmm},
    stats::{Counter, Histogram, Labels, Observability, Series, Snapshot},
};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt,
    str::FromStr,
    time::SystemTime,
};

/// Label values in the order of the metric's labels; a label without a value holds the empty text, which is the same
/// to Prometheus as its absence.
pub type Values<'a> = Vec<Cow<'a, str>>;

/// The samples of one metric; no two have the same labels.
#[derive(Debug)]
pub struct Family<'a> {
    /// The row of the registry.
    pub metric: &'static Metric,
    /// Samples by label values.
    pub samples: BTreeMap<Values<'a>, Sample<'a>>,
}

/// One sample.
#[derive(Debug)]
pub enum Sample<'a> {
    /// A plain value in the metric's unit.
    Value(f64),
    /// A distribution of times.
    Histogram(Cow<'a, Histogram>),
}

/// What one scrape has to say.
#[derive(Debug)]
pub struct Scrape<'a> {
    /// The probes' figures; `None` when they could not be read.
    pub figures: Option<&'a Figures>,
    /// How everything stands.
    pub status: &'a Status,
    /// VFs with what their PFs' drivers count.
    pub vfs: &'a [CountedVf],
    /// Time that reading the probes took (s).
    pub read_seconds: f64,
}

/// Labels to leave out of histograms and counters; samples that become equal are added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fold(pub BTreeSet<FoldLabel>);

/// A label that may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FoldLabel {
    /// All vectors of a VF together.
    Slot,
    /// All vCPUs of a guest together.
    Vcpu,
}

/// A text that names no label that may be left out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be folded (expected slot or vcpu)")]
pub struct NotAFoldLabel(pub String);

impl FoldLabel {
    /// The label's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slot => "slot",
            Self::Vcpu => "vcpu",
        }
    }
}

impl FromStr for FoldLabel {
    type Err = NotAFoldLabel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = [Self::Slot, Self::Vcpu].into_iter().find(|label| label.as_str() == text);
        found.ok_or_else(|| NotAFoldLabel(text.to_owned()))
    }
}

impl fmt::Display for Fold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(|label| label.as_str()).collect::<Vec<_>>().join(","))
    }
}

impl Fold {
    fn hides(&self, label: &str) -> bool {
        self.0.iter().any(|fold| fold.as_str() == label)
    }
}

/// Families by name.
struct Families<'a> {
    by_name: BTreeMap<&'static str, Family<'a>>,
    unregistered: u64,
}

/// Sorts everything a scrape has to say into families, ordered by name; families without samples are left out.
#[must_use]
pub fn families<'a>(scrape: &Scrape<'a>, fold: &Fold) -> Vec<Family<'a>> {
    let mut all = Families { by_name: BTreeMap::new(), unregistered: 0 };
    let config = scrape.status.config.as_str();
    if let Some(Figures { present, former }) = scrape.figures {
        all.snapshot(present, config, fold);
        former.iter().for_each(|(config, figures)| all.snapshot(figures, config, fold));
        for (what, n) in &present.lost {
            let (probe, cause) = what.split_once('.').unwrap_or((what.as_str(), ""));
            all.own("vfprobe_lost_total", [probe, cause], *n as f64);
        }
    }
    all.probes(scrape.status);
    if let Some(topology) = &scrape.status.topology {
        all.topology(topology);
    }
    scrape.vfs.iter().for_each(|vf| all.vf(vf));
    all.own("vfprobe_probe_renewals_total", [""; 0], scrape.status.renewals as f64);
    all.own("vfprobe_config_info", [config], 1.0);
    all.own("vfprobe_configs_dropped_total", [""; 0], scrape.status.dropped_configs as f64);
    if let Some(hold) = scrape.status.hold {
        all.own("vfprobe_config_settings", [""; 0], hold.settings as f64);
        all.own("vfprobe_config_drifted_settings", [""; 0], hold.drifted as f64);
        all.own("vfprobe_config_settled", [""; 0], f64::from(u8::from(hold.settled)));
    }
    if let Some(own) = scrape.status.own {
        all.own("vfprobe_process_cpu_seconds_total", [""; 0], seconds(own.cpu_ns));
        all.own("vfprobe_process_resident_memory_bytes", [""; 0], own.resident_bytes as f64);
    }
    all.own("vfprobe_build_info", [env!("CARGO_PKG_VERSION")], 1.0);
    all.own("vfprobe_up", [""; 0], f64::from(u8::from(scrape.figures.is_some())));
    all.own("vfprobe_scrape_duration_seconds", [""; 0], scrape.read_seconds);
    all.own("vfprobe_unregistered_series", [""; 0], all.unregistered as f64);
    all.by_name.into_values().collect()
}

/// Since when a sample counts; `None` where it counts nothing or that is not known.
pub(super) fn since(metric: &Metric, values: &Values<'_>, began: &Began) -> Option<SystemTime> {
    // A driver does not say since when it counts.
    let counts = matches!(metric.kind, Kind::Counter | Kind::Histogram) && metric.origin != Origin::Driver;
    let value = |label| {
        let at = metric.labels.iter().position(|other| *other == label);
        at.and_then(|at| values.get(at)).map(AsRef::as_ref)
    };
    if counts { began.of(value("guest"), value("config")) } else { None }
}

impl<'a> Families<'a> {
    fn snapshot(&mut self, snapshot: &'a Snapshot, config: &'a str, fold: &Fold) {
        snapshot.series.iter().for_each(|series| self.series(series, config, fold));
        snapshot.counters.iter().for_each(|counter| self.counter(counter, config, fold));
    }

    fn series(&mut self, series: &'a Series, config: &'a str, fold: &Fold) {
        let Series { probe, labels, observable, histogram } = series;
        if let Observability::No(cause) = observable {
            let mut labels = labels.clone();
            labels.insert("probe".to_owned(), probe.clone());
            labels.insert("cause".to_owned(), cause.clone());
            let metric = registry::find("vfprobe_series_hidden_info");
            match metric.and_then(|metric| Some((metric, values(metric, &labels, "", &Fold::default())?))) {
                Some((metric, values)) => {
                    let values = values.into_iter().map(|v| Cow::Owned(v.into_owned())).collect();
                    self.add(metric, values, Sample::Value(1.0));
                }
                None => self.unregistered += 1,
            }
            return;
        }
        let metric = registry::of_series(probe);
        match metric.and_then(|metric| Some((metric, values(metric, labels, config, fold)?))) {
            Some((metric, values)) => self.add(metric, values, Sample::Histogram(Cow::Borrowed(histogram))),
            None => self.unregistered += 1,
        }
    }

    fn counter(&mut self, counter: &'a Counter, config: &'a str, fold: &Fold) {
        let Counter { probe, name, labels, value } = counter;
        let metric = registry::of_counter(probe, name);
        match metric.and_then(|metric| Some((metric, values(metric, labels, config, fold)?))) {
            Some((metric, values)) => {
                let value = if metric.unit == Unit::Seconds { seconds(*value) } else { *value as f64 };
                self.add(metric, values, Sample::Value(value));
            }
            None => self.unregistered += 1,
        }
    }

    fn probes(&mut self, status: &'a Status) {
        for probe in &status.probes {
            let name = probe.name.as_str();
            let up = f64::from(u8::from(probe.state == ProbeState::Running));
            self.own("vfprobe_probe_up", [name], up);
            self.own("vfprobe_probe_info", [name, probe.state.as_str(), probe.reason.as_str()], 1.0);
            if probe.state == ProbeState::Running {
                self.own("vfprobe_probe_missing_hooks", [name], probe.missing as f64);
            }
            if let Some(ns) = probe.run_ns {
                self.own("vfprobe_probe_run_seconds_total", [name], seconds(ns));
            }
            if let Some(runs) = probe.runs {
                self.own("vfprobe_probe_runs_total", [name], runs as f64);
            }
        }
    }

    fn topology(&mut self, topology: &'a Topology) {
        for guest in &topology.guests {
            let name = guest.name.as_str();
            self.own(
                "vfprobe_guest_info",
                [
                    Cow::Borrowed(name),
                    Cow::Borrowed(guest.uuid.as_deref().unwrap_or_default()),
                    guest.pid.to_string().into(),
                    Cow::Borrowed(vmm(guest.vmm)),
                ],
                1.0,
            );
            for vcpu in &guest.vcpus {
                let texts =
                    [vcpu.index.to_string(), vcpu.thread.tid.to_string(), vcpu.thread.affinity.to_string()];
                let [index, tid, cpus] = texts.map(Cow::Owned);
                self.own("vfprobe_vcpu_affinity_info", [Cow::Borrowed(name), index, tid, cpus], 1.0);
            }
            for vf in &guest.vfs {
                vf.slots.iter().for_each(|slot| self.slot(guest, vf, slot));
            }
        }
    }

    /// A figure that is not known has no sample.
    fn vf(&mut self, vf: &'a CountedVf) {
        let CountedVf { pf, index, address, counters } = vf;
        for (name, figure) in [
            ("vfprobe_vf_receive_packets_total", counters.rx_packets),
            ("vfprobe_vf_receive_bytes_total", counters.rx_bytes),
            ("vfprobe_vf_receive_dropped_total", counters.rx_dropped),
            ("vfprobe_vf_transmit_packets_total", counters.tx_packets),
            ("vfprobe_vf_transmit_bytes_total", counters.tx_bytes),
            ("vfprobe_vf_transmit_dropped_total", counters.tx_dropped),
        ] {
            if let Some(figure) = figure {
                let values =
                    [Cow::Borrowed(pf.as_str()), index.to_string().into(), address.to_string().into()];
                self.own(name, values, figure.get() as f64);
            }
        }
    }

    fn slot(&mut self, guest: &'a Guest, vf: &Vf, slot: &Slot) {
        let vector =
            [Cow::Borrowed(guest.name.as_str()), vf.address.to_string().into(), slot.slot.to_string().into()];
        let [name, address, index] = vector.clone();
        let vcpu = slot.vcpu.map(|v| v.to_string()).unwrap_or_default();
        let mode = [name, address, index, vcpu.into(), Cow::Borrowed(slot.mode.as_str())];
        self.own("vfprobe_irq_delivery_mode_info", mode, 1.0);

        let list =
            |cpus: &Option<crate::model::CpuSet>| cpus.as_ref().map(ToString::to_string).unwrap_or_default();
        let known = |vector: Option<u8>| vector.map(|v| v.to_string()).unwrap_or_default();
        let [name, address, index] = vector.clone();
        let vcpu = slot.vcpu.map(|v| v.to_string()).unwrap_or_default();
        let vectors = [
            name,
            address,
            index,
            vcpu.into(),
            slot.irq.to_string().into(),
            known(slot.host_vector).into(),
            list(&slot.effective_affinity).into(),
            known(slot.guest_vector).into(),
        ];
        self.own("vfprobe_irq_vector_info", vectors, 1.0);

        let [name, address, index] = vector.clone();
        let affinity = [
            name,
            address,
            index,
            slot.irq.to_string().into(),
            list(&slot.affinity).into(),
            list(&slot.effective_affinity).into(),
        ];
        self.own("vfprobe_irq_affinity_info", affinity, 1.0);

        if let (Some(asked), Some(effective)) = (&slot.affinity, &slot.effective_affinity) {
            let settled = !effective.is_empty() && effective.is_subset(asked);
            self.own("vfprobe_irq_affinity_settled", vector, f64::from(u8::from(settled)));
        }
    }

    /// Adds a sample of a metric that is no probe's. The values are in the order of the metric's labels.
    fn own<const N: usize>(&mut self, name: &str, values: [impl Into<Cow<'a, str>>; N], value: f64) {
        let metric = registry::find(name).filter(|metric| metric.labels.len() == N);
        let metric = metric.expect("metrics that are no probe's are in the registry, with these labels");
        self.add(metric, values.into_iter().map(Into::into).collect(), Sample::Value(value));
    }

    fn add(&mut self, metric: &'static Metric, values: Values<'a>, sample: Sample<'a>) {
        let family =
            self.by_name.entry(metric.name).or_insert_with(|| Family { metric, samples: BTreeMap::new() });
        match family.samples.entry(values) {
            Entry::Vacant(entry) => {
                entry.insert(sample);
            }
            Entry::Occupied(mut entry) => match (entry.get_mut(), sample) {
                (Sample::Histogram(sum), Sample::Histogram(more)) => sum.to_mut().merge(&more),
                // An info that is said twice stays one.
                (Sample::Value(sum), Sample::Value(more))
                    if !matches!(metric.origin, Origin::Exporter | Origin::Driver) =>
                {
                    *sum += more;
                }
                _ => {}
            },
        }
    }
}

fn vmm(vmm: Vmm) -> &'static str {
    match vmm {
        Vmm::Qemu => "qemu",
        Vmm::CloudHypervisor => "cloud-hypervisor",
        Vmm::Firecracker => "firecracker",
        Vmm::Other => "other",
    }
}

/// The values of a metric's labels; `None` when `labels` holds one that the metric does not have.
fn values<'a>(metric: &Metric, labels: &'a Labels, config: &'a str, fold: &Fold) -> Option<Values<'a>> {
    if labels.keys().any(|label| !metric.labels.contains(&label.as_str())) {
        return None;
    }
    let value = |label: &&str| match labels.get(*label) {
        _ if fold.hides(label) => Cow::Borrowed(""),
        Some(value) => Cow::Borrowed(value.as_str()),
        None if *label == "config" => Cow::Borrowed(config),
        None => Cow::Borrowed(""),
    };
    Some(metric.labels.iter().map(value).collect())
}
