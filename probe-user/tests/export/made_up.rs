//! A source with known figures.

use probe_user::{
    export::{Began, CountedVf, Figures, OwnCost, ProbeState, ProbeStatus, Source, SourceError, Status},
    model::{
        CpuId, CpuSet, IrqNumber, Pid, Tid, VcpuId, VfIndex,
        topology::{DeliveryMode, Guest, Slot, Thread, Topology, Vcpu, Vf, Vmm},
        vf_counters::VfCounters,
    },
    stats::{Counter, Histogram, Labels, Observability, Series, Snapshot},
};
use std::{
    num::NonZeroU64,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

/// Counts how often it is read, and can be made to wait in the middle of a reading.
pub(crate) struct MadeUp {
    pub(crate) snapshot: Result<Snapshot, String>,
    pub(crate) status: Status,
    /// Readings begun so far.
    pub(crate) readings: AtomicUsize,
    /// Readings under way.
    inside: AtomicUsize,
    pub(crate) gate: Gate,
}

/// Lets readings through while open.
pub(crate) struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub(crate) fn set(&self, open: bool) {
        *self.open.lock().unwrap() = open;
        self.opened.notify_all();
    }

    fn pass(&self) {
        drop(self.opened.wait_while(self.open.lock().unwrap(), |open| !*open).unwrap());
    }
}

impl MadeUp {
    pub(crate) fn new(snapshot: Result<Snapshot, String>, status: Status) -> Arc<Self> {
        let gate = Gate { open: Mutex::new(true), opened: Condvar::new() };
        Arc::new(Self { snapshot, status, readings: AtomicUsize::new(0), inside: AtomicUsize::new(0), gate })
    }

    /// One guest with one VF, all of it running.
    pub(crate) fn usual() -> Arc<Self> {
        Self::new(Ok(snapshot()), status())
    }
}

impl Source for MadeUp {
    fn figures(&self) -> Result<Figures, SourceError> {
        self.readings.fetch_add(1, Ordering::SeqCst);
        assert_eq!(self.inside.fetch_add(1, Ordering::SeqCst), 0, "two readings at once");
        self.gate.pass();
        self.inside.fetch_sub(1, Ordering::SeqCst);
        self.snapshot.clone().map(Figures::from).map_err(SourceError)
    }

    fn status(&self) -> Status {
        self.status.clone()
    }

    fn vf_counters(&self) -> Vec<CountedVf> {
        counted_vfs()
    }
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub(crate) fn histogram(values: &[u64]) -> Histogram {
    let mut histogram = Histogram::default();
    values.iter().for_each(|v| histogram.record(*v));
    histogram
}

pub(crate) fn series(probe: &str, pairs: &[(&str, &str)], values: &[u64]) -> Series {
    let observable = Observability::Yes;
    Series { probe: probe.to_owned(), labels: labels(pairs), observable, histogram: histogram(values) }
}

pub(crate) fn counter(probe: &str, name: &str, pairs: &[(&str, &str)], value: u64) -> Counter {
    Counter { probe: probe.to_owned(), name: name.to_owned(), labels: labels(pairs), value }
}

/// Delivery times (ns) of `vm1`'s slot 1.
pub(crate) const DELIVERY: [u64; 4] = [256, 257, 5_000, 40_000_000_000];

pub(crate) fn snapshot() -> Snapshot {
    let vector = [("guest", "vm1"), ("vf", "0000:01:10.0"), ("slot", "1"), ("vcpu", "0")];
    let stage = |stage| [vector.as_slice(), &[("stage", stage)]].concat();
    let mut service = series("irq_delivery", &stage("service"), &[]);
    service.observable = Observability::No("APICv hides the guest's EOI".to_owned());
    Snapshot {
        from_ns: 1,
        to_ns: 2,
        series: vec![
            series("irq_delivery", &stage("delivery"), &DELIVERY),
            service,
            series("vm_exit", &[("guest", "vm1"), ("vcpu", "0"), ("reason", "HLT")], &[1_000_000, 3_000_000]),
            series("vm_exit", &[("guest", "vm1"), ("vcpu", "1"), ("reason", "HLT")], &[2_000_000]),
        ],
        counters: vec![
            counter("irq_delivery", "raised", &vector, 5),
            counter("irq_delivery", "delivered", &vector, 4),
            counter("vm_exit", "guest_ns", &[("guest", "vm1"), ("vcpu", "0")], 1_500_000_000),
        ],
        lost: [("irq_delivery.map_full".to_owned(), 3)].into(),
    }
}

pub(crate) fn status() -> Status {
    let probe = |name: &str, state, reason: &str| ProbeStatus {
        name: name.to_owned(),
        state,
        reason: reason.to_owned(),
        missing: 0,
        run_ns: None,
        runs: None,
    };
    Status {
        config: "baseline".to_owned(),
        hold: None,
        probes: vec![
            probe("irq_delivery", ProbeState::Running, "raw tracepoints"),
            probe("vm_exit", ProbeState::NotApplicable, "kvm is not <loaded>"),
        ],
        topology: Some(Arc::new(Topology { guests: vec![guest()], ..Topology::default() })),
        began: Began {
            probes: Some(UNIX_EPOCH + Duration::from_millis(1_700_000_000_500)),
            ..Began::default()
        },
        dropped_configs: 0,
        renewals: 0,
        own: Some(OwnCost { cpu_ns: 250_000_000, resident_bytes: 8192 }),
    }
}

/// Two VFs of an ixgbe, which counts no drops; the second one is idle.
pub(crate) fn counted_vfs() -> Vec<CountedVf> {
    let counters = VfCounters {
        rx_packets: NonZeroU64::new(12),
        rx_bytes: NonZeroU64::new(3400),
        tx_packets: NonZeroU64::new(5),
        tx_bytes: NonZeroU64::new(600),
        ..VfCounters::default()
    };
    [("0000:01:10.0", counters), ("0000:01:10.2", VfCounters::default())]
        .into_iter()
        .zip(0..)
        .map(|((address, counters), index)| CountedVf {
            pf: "eth0".to_owned(),
            index: VfIndex(index),
            address: address.parse().unwrap(),
            counters,
        })
        .collect()
}

fn guest() -> Guest {
    let cpus = |ids: &[u32]| ids.iter().copied().map(CpuId).collect::<CpuSet>();
    let thread = Thread { tid: Tid(101), comm: "CPU 0/KVM".to_owned(), start_time: 1, affinity: cpus(&[2]) };
    let slot = |slot, irq, asked: &[u32], effective: &[u32]| Slot {
        slot,
        irq: IrqNumber(irq),
        affinity: Some(cpus(asked)),
        effective_affinity: Some(cpus(effective)),
        host_vector: None,
        guest_vector: Some(42),
        vcpu: Some(VcpuId(0)),
        mode: DeliveryMode::Remapped,
    };
    let vf = Vf {
        address: "0000:01:10.0".parse().unwrap(),
        index: None,
        pf: "0000:01:00.0".parse().unwrap(),
        pf_netdev: None,
        numa_node: None,
        local_cpus: CpuSet::new(),
        driver: Some("vfio-pci".to_owned()),
        iommu_group: None,
        slots: vec![slot(0, 32, &[0, 1, 2, 3], &[1]), slot(1, 33, &[2], &[0])],
        counters: None,
    };
    Guest {
        name: "vm1".to_owned(),
        uuid: None,
        pid: Pid(100),
        start_time: 1,
        vmm: Vmm::Qemu,
        libvirt: false,
        vcpus: vec![Vcpu { index: VcpuId(0), thread }],
        threads: vec![],
        vfs: vec![vf],
        nics: vec![],
    }
}
