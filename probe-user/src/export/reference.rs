//! docs/metrics.md, written from the registry.
//!
//! Pure; the test `metrics_doc` compares the file with this text and rewrites it on request.

use super::{
    bounds::{self, Bounds},
    labels::LABELS,
    registry::{Kind, METRICS, Metric, Origin},
};

const HEAD: &str = "\
# Metrics

Written from the table in `probe-user/src/export/registry` by
`VFPROBE_UPDATE=1 cargo test -p probe-user --test metrics_doc`; a test fails when the two differ.

`vfprobe serve` answers at `/metrics`. Times are in seconds. A label without a value is left out. Counters and
histograms, but for those of VFs, start at 0 when `vfprobe serve` starts. Guests that are gone vanish from the next
answer. What cannot be observed has no series at all and is named by `vfprobe_series_hidden_info`: absent never means 0.

The answer is OpenMetrics 1.0 where the scraper's `Accept` asks for it, as Prometheus' does, else Prometheus' text format
0.0.4; samples, labels and bounds are the same. OpenMetrics has `_created`: the moment at which a counter or histogram
was 0, which is the start of the probes, or for a guest that came later the last look at the host that did not find it, or
under a configuration that came later the moment at which it came into force.

Where Prometheus asks for native histograms (`scrape_native_histograms: true`; before 3.8 the flag
`--enable-feature=native-histograms`), the answer is protobuf, and each histogram is in it twice: with the classic buckets, and with
native ones of schema 3, 9 % wide, so that a quantile is at most 9 % off instead of a factor of two, and 27 series become one. Native bounds, powers
of two in seconds, do not lie on the kernel's, powers of two in nanoseconds: a kernel bucket is counted whole where its upper
end lies. So a native bucket never says less than was measured, and values up to 6.25 % below a bound may be counted above it;
counts and sums are exact. Where exact bounds matter more, Prometheus can make native histograms of the classic bounds itself
(`convert_classic_histograms_to_nhcb: true`), and `always_scrape_classic_histograms: true` keeps both.
";

const VFS: &str = "
Packets of a VF pass the host by, so these are what the PF's driver counts, as `ip -s link show PF` has it, read at each
scrape. They do not start at 0 with `vfprobe serve` and so have no `_created`, hold for all configurations together, and
may start anew when the driver does. They are there for VFs of guests and for free ones; `pci_address` is the `vf` of all other metrics.

A figure that is 0 has no series: the kernel sends 0 for whatever a driver does not count, so that 0 and *not reported* are
the same. igb reports nothing; ixgbe (from Linux 6.1) reports packets and bytes, no drops. A series begins with the first
value other than 0, so `increase()` misses what came before its first scrape: the first drop of a VF is seen by
`vfprobe_vf_receive_dropped_total unless vfprobe_vf_receive_dropped_total offset 5m`.
";

const COUNTS: &str = "
## How many series

A histogram is one line per bound, and three more (`+Inf`, `_sum`, `_count`): 30. `vfprobe_irq_delivery_seconds` has
one histogram per vector in use, stage and configuration; a VF has as many vectors as its guest's driver asks for,
often one per queue and one more. `vfprobe_vm_exit_seconds` has one per vCPU, exit reason seen and configuration.
There are the figures of the configuration in force, of the baseline, and of the last four that have ended
(`--keep-configs N`). When one more ends, the one that ended first is dropped: its series vanish as those of a guest that is gone do,
`vfprobe_configs_dropped_total` grows, and it begins at 0 if it comes into force again. So `vfprobe tune --sweep`, which may
try dozens, shows each while it runs, and Prometheus has what was scraped.
`vfprobe serve --fold vcpu --fold slot` adds up all vCPUs of a guest, and all vectors of a VF, where that is too much.
";

const BOUNDS: &str = "
## Bucket bounds

The bounds are powers of two nanoseconds, written in seconds. Each one ends a bucket of the kernel's own histograms,
and both count a value that lies on the bound as below it, so every cumulative count is exact. `_sum` is the exact sum
and `_count` the exact number of values. Between two bounds a quantile is Prometheus' interpolation, up to a factor of
two off; `vfprobe record` and `vfprobe show` have the finer buckets (3.2 %).

`vfprobe serve --bounds coarse` exports every other one of these (14 bounds), `--bounds fine` four to each power of two (105
bounds: 1, 1.25, 1.5 and 1.75 times it). They are kernel bounds too, so these counts are as exact.

| exponent | `le` |
|---|---|
";

/// The whole of docs/metrics.md.
#[must_use]
pub fn markdown() -> String {
    let mut text = HEAD.to_owned();
    table(&mut text, "Interrupt delivery (`irq_delivery`)", |m| probe(m) == Some("irq_delivery"));
    table(&mut text, "VM exits (`vm_exit`)", |m| probe(m) == Some("vm_exit"));
    table(&mut text, "Scheduling of vCPUs (`vcpu_sched`)", |m| probe(m) == Some("vcpu_sched"));
    table(&mut text, "Noise on guarded CPUs (`cpu_noise`)", |m| probe(m) == Some("cpu_noise"));
    table(&mut text, "Packet paths (`packet_path`)", |m| probe(m) == Some("packet_path"));
    table(&mut text, "Packets of VFs", |m| m.origin == Origin::Driver);
    text.push_str(VFS);
    table(&mut text, "State and own cost", |m| m.origin == Origin::Exporter);
    text.push_str("\n## Labels\n\n| label | value |\n|---|---|\n");
    for (label, meaning) in LABELS {
        text.push_str(&format!("| `{label}` | {meaning} |\n"));
    }
    text.push_str(COUNTS);
    text.push_str(BOUNDS);
    for (exponent, ns) in (bounds::FIRST_EXPONENT..).zip(Bounds::Normal.nanoseconds()) {
        text.push_str(&format!("| {exponent} | {} |\n", bounds::seconds(ns)));
    }
    text
}

fn probe(metric: &Metric) -> Option<&'static str> {
    match metric.origin {
        Origin::Series(probe) | Origin::Counter(probe, _) | Origin::Level(probe, _) => Some(probe),
        Origin::Driver | Origin::Exporter => None,
    }
}

fn table(text: &mut String, title: &str, belongs: impl Fn(&Metric) -> bool) {
    text.push_str(&format!("\n## {title}\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n"));
    for metric in METRICS.iter().filter(|metric| belongs(metric)) {
        let Metric { name, kind, unit: _, labels, help, origin: _ } = metric;
        let kind = match kind {
            Kind::Histogram => "histogram",
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Info => "gauge, always 1",
        };
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        text.push_str(&format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", ")));
    }
}
