//! The probes and the table of metrics agree: whatever a probe can say has a metric, and no metric waits for a figure
//! that no probe has.

use crate::made_up;
use probe_ebpf::{
    control::Table,
    hist::Hist,
    probes::{
        cpu_noise::{NoiseKey, NoiseSeries},
        irq_delivery::{Apicv, Delivery, Posted, Slot, VcpuIrq},
        packet_path::{Counts, Device, DropKey, ENTERED, Role, Sampling, Softirqs},
        vcpu_sched::{Preempted, Preempter, RUNNING, VcpuSched},
        vm_exit::{DIRECT_CODES, ExitSeries, ExitVector, USER_REASONS, VcpuExit},
    },
    signs::Sign,
    vcpu::{SWITCHES_KEPT, Vcpu},
};
use probe_user::{
    export::{
        families::{Fold, Scrape, families},
        ledger::{KEEP, Ledger},
        registry::{METRICS, Origin},
    },
    model::{
        nic::PathKind,
        path::{PathDevice, PathRole, Paths},
    },
    probes::{MapReader, Missing, Names, PROBES, ProbeReport, ReadError, Verdict},
    stats::Snapshot,
};
use std::collections::BTreeSet;

/// Maps with one entry each, of the guest that `made_up` describes.
struct Maps;

impl MapReader for Maps {
    fn hist(&self, _: &'static str, _: u32) -> Result<Hist, ReadError> {
        let mut hist = Hist::EMPTY;
        hist.record(1000);
        Ok(hist)
    }

    fn slot(&self, _: u32) -> Result<Slot, ReadError> {
        Ok(Slot {
            vf: 0x180,
            slot: 1,
            irq: 33,
            owner: 100,
            raised: 9,
            slow: 1,
            userspace: 1,
            slow_merged: 1,
            slow_raise_ns: 0,
            last_vcpu_id: 0,
            last_tid: 101,
            last_series: 0,
            last_cpu: 2,
            generation: 1,
            multicast: 1,
            last_vcpu: 0,
            pad: 0,
        })
    }

    fn sign(&self, _: Sign) -> Result<u64, ReadError> {
        Ok(1)
    }

    fn delivery(&self, _: u32) -> Result<Delivery, ReadError> {
        Ok(Delivery {
            slot: 0,
            tid: 101,
            tgid: 100,
            vcpu_id: 0,
            vector: 42,
            pending: 1,
            raise_ns: 1,
            accept_ns: 2,
            service_ns: 0,
            accepted: 7,
            delivered: 4,
            coalesced: 1,
            recovered: 0,
            late_raise_ns: 0,
            late_accept_ns: 0,
            late: 0,
            same_cpu: 3,
            cross_cpu: 4,
            apicv: 0,
            slow: 1,
            generation: 1,
        })
    }

    fn host_vector(&self, _: u32) -> Result<u32, ReadError> {
        Ok(2 << 8 | 96)
    }

    fn posted(&self) -> Result<Vec<(u32, Posted)>, ReadError> {
        Ok(vec![(33, Posted { set: 1, vcpu_id: 0, vector: 42, tgid: 100, updates: 1, irte: 0 })])
    }

    fn apicv(&self) -> Result<Vec<(u32, Apicv)>, ReadError> {
        Ok(vec![(100, Apicv { inhibits: 5, changes: 3 })])
    }

    fn exit_vectors(&self) -> Result<Vec<(ExitVector, u64)>, ReadError> {
        Ok(vec![(ExitVector { vcpu: 0, vector: 96 }, 7)])
    }

    fn exit(&self, _: u32) -> Result<ExitSeries, ReadError> {
        Ok(ExitSeries { tgid: 100, tid: 101, vcpu_id: 0, isa: 1, code: 1, pad: 0, fast: 2 })
    }

    fn vcpus(&self) -> Result<Vec<(u32, Vcpu)>, ReadError> {
        let exit = VcpuExit {
            exit_ns: 0,
            code: 0,
            isa: 1,
            entry_ns: 0,
            clock: 0,
            guest_ns: 5,
            polled: 1,
            polled_ns: 2,
            waited: 3,
            waited_ns: 4,
            user: [1; USER_REASONS],
            series: [0; DIRECT_CODES],
        };
        let irq = VcpuIrq { injected: 0, pad: 0, raise_ns: 0, accept_ns: 0, vectors: [0; 256] };
        let sched = VcpuSched {
            state: RUNNING,
            series: 1,
            since_ns: 0,
            running_ns: 1,
            runnable_ns: 1,
            blocked_ns: 1,
            migrations: 1,
            by: preempter(),
        };
        let switched_ns = [0; SWITCHES_KEPT];
        Ok(vec![(
            101,
            Vcpu {
                tgid: 100,
                vcpu_id: 0,
                cpu: 2,
                tid: 101,
                live: 101,
                index: 0,
                returns_seen: 0,
                pad: 0,
                kvm: 0,
                switches: 0,
                switched_ns,
                left_ns: [0; SWITCHES_KEPT],
                exit,
                irq,
                sched,
            },
        )])
    }

    fn preempters(&self) -> Result<Vec<(Preempter, Preempted)>, ReadError> {
        Ok(vec![(preempter(), Preempted { n: 1, total_ns: 2, max_ns: 2 })])
    }

    fn noise(&self, _: u32) -> Result<NoiseSeries, ReadError> {
        let key = NoiseKey { cpu: 2, kind: 2, id: 0xec, comm: [0; 16] };
        Ok(NoiseSeries { key, name: [0; 32] })
    }

    fn path_devices(&self) -> Result<Vec<(u32, Device)>, ReadError> {
        Ok(vec![(5, tap())])
    }

    fn path_counts(&self, _: u32) -> Result<Counts, ReadError> {
        Ok(Counts { packets: [1; 4], bytes: [60; 4], ..Counts::default() })
    }

    fn path_drops(&self) -> Result<Vec<(DropKey, u64)>, ReadError> {
        Ok(vec![(DropKey { from: tap(), to: Device::NONE, state: ENTERED, reason: 2 }, 1)])
    }

    fn path_sampling(&self) -> Result<Sampling, ReadError> {
        Ok(Sampling { seen: 1, followed: 1, most: 1, ..Sampling::default() })
    }

    fn path_softirqs(&self) -> Result<Softirqs, ReadError> {
        Ok(Softirqs { rx_ns: 1, ..Softirqs::default() })
    }

    fn drop_reason(&self, _: u32) -> String {
        "NOT_SPECIFIED".to_owned()
    }

    fn used(&self, _: Table) -> Result<u32, ReadError> {
        Ok(1)
    }
}

fn tap() -> Device {
    Device::new(Role::Tap, 0)
}

fn paths() -> Paths {
    let role = PathRole::Tap { guest: "vm1".to_owned(), path: PathKind::Vhost, bridged: true };
    Paths { netns: 1, devices: vec![PathDevice { ifindex: 5, netdev: "tap0".to_owned(), role }] }
}

fn preempter() -> Preempter {
    Preempter { kernel: 1, comm: *b"kworker/2:1\0\0\0\0\0", vcpu: 0 }
}

/// What all probes say when the hooks behind the named figures are missing.
fn collect(loses: &[&str]) -> Snapshot {
    let missing = |loses: &&str| Missing {
        event: "kvm/something".to_owned(),
        loses: (*loses).to_owned(),
        reason: "no such event".to_owned(),
    };
    let verdict = Verdict::Ready { missing: loses.iter().map(missing).collect() };
    let topology = made_up::status().topology.unwrap();
    let mut snapshot = Snapshot::default();
    for probe in PROBES {
        let report = ProbeReport { probe: probe.name.to_owned(), verdict: verdict.clone(), attached: vec![] };
        (probe.collect)(&Maps, &Names::new(&topology).with_paths(&paths()), &report, &mut snapshot).unwrap();
    }
    snapshot
}

/// Names of the families of a scrape; no figure may be without one.
fn names(snapshot: Snapshot) -> BTreeSet<&'static str> {
    let status = made_up::status();
    let figures = Ledger::new("baseline", KEEP).label(snapshot);
    let all = families(
        &Scrape { figures: Some(&figures), status: &status, vfs: &[], read_seconds: 0.0 },
        &Fold::default(),
    );
    for family in &all {
        if family.metric.name == "vfprobe_unregistered_series" {
            let values: Vec<String> = family.samples.values().map(|sample| format!("{sample:?}")).collect();
            assert_eq!(values, ["Value(0.0)"], "a probe says something that has no metric");
        }
    }
    all.iter().map(|family| family.metric.name).collect()
}

#[test]
fn every_figure_has_a_metric_and_every_metric_a_figure() {
    let mut exported = names(collect(&[]));
    // Figures that stand in for others.
    exported.extend(names(collect(&["slow_path"])));
    for metric in METRICS.iter().filter(|m| !matches!(m.origin, Origin::Exporter | Origin::Driver)) {
        assert!(exported.contains(metric.name), "no probe says {}", metric.name);
    }
}

#[test]
fn figures_without_their_hook_are_hidden() {
    let exported = names(collect(&["delivery", "halt_poll", "user_exit", "apicv", "softirq"]));
    for hidden in [
        "vfprobe_irq_delivery_delivered_total",
        "vfprobe_irq_delivery_unmatched",
        "vfprobe_irq_delivery_apicv_total",
        "vfprobe_halt_polled_total",
        "vfprobe_vm_exit_userspace_total",
        "vfprobe_path_softirq_seconds_total",
        "vfprobe_path_polled_total",
    ] {
        assert!(!exported.contains(hidden), "{hidden} without its hook");
    }
    assert!(exported.contains("vfprobe_series_hidden_info"));
    assert!(exported.contains("vfprobe_irq_delivery_seconds"), "dispatch is still seen");
}
