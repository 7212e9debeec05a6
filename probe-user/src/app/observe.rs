//! Observing: probes attached, a window opened, snapshots taken.

use super::cpu_time::CpuTime;
use crate::bpf::{Bell, LoadError, Loaded, Sizes};
use crate::host::{HostRoot, read_paths, read_vf_counters};
use crate::model::CpuSet;
use crate::model::path::Paths;
use crate::model::topology::Topology;
use crate::probes::irq_delivery::{self, Accepted, Freed, Signs};
use crate::probes::vectors::Look;
use crate::probes::vm_exit;
use crate::probes::{Names, PROBES, ProbeReport, RETIRED, ReadError, Verdict};
use crate::stats::{Counter, Series, Snapshot};
use probe_ebpf::control::Window;
use probe_ebpf::probes::packet_path::DEVICES;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long after it is written a window begins. A window that began at once would count nothing until the programs know
/// of it, which on a busy host takes this long.
const LEAD: Duration = Duration::from_millis(50);

/// Probes at work. Dropping it detaches them.
#[derive(Debug)]
pub struct Observer {
    root: HostRoot,
    pub(super) loaded: Loaded,
    window: Window,
    paths: Paths,
    cpu_time: Option<CpuTime>,
    pub(super) sizes: Sizes,
    /// Guests' processes as they were told last: number and start time.
    processes: BTreeMap<u32, u64>,
    /// What the programs of observers before this one have cost, by probe.
    pub(super) spent: BTreeMap<&'static str, (Duration, u64)>,
    bell_taken: bool,
}

impl Observer {
    /// Loads and attaches the probes, with room for what the topology holds and for what may come.
    /// Nothing is counted until [`Observer::open`].
    ///
    /// # Errors
    /// [`LoadError`] when nothing can be observed here.
    pub fn start(root: &HostRoot, topology: &Topology) -> Result<Self, LoadError> {
        Self::start_anywhere(root, topology).and_then(|observer| {
            observer.loaded.require_kvm()?;
            Ok(observer)
        })
    }

    /// As [`Observer::start`], also on a host without KVM.
    ///
    /// # Errors
    /// [`LoadError`] when nothing can be observed here.
    pub fn start_anywhere(root: &HostRoot, topology: &Topology) -> Result<Self, LoadError> {
        let sizes = sizes_for(topology);
        let mut loaded = Loaded::new(root, sizes, &owners(topology))?;
        let paths = read_paths(root, topology);
        loaded.set_paths(&paths)?;
        Ok(Self {
            root: root.clone(),
            loaded,
            window: Window::default(),
            paths,
            cpu_time: None,
            sizes,
            processes: processes(topology),
            spent: BTreeMap::new(),
            bell_taken: false,
        })
    }

    /// The loaded object: for tests that run single programs with arguments of their own.
    pub fn loaded_mut(&mut self) -> &mut Loaded {
        &mut self.loaded
    }

    /// How each probe fares.
    #[must_use]
    pub fn reports(&self) -> &[ProbeReport] {
        self.loaded.reports()
    }

    /// Everything that the attached probes would count as lost: probe and cause.
    pub fn losses(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let runs = |probe: &str| {
            self.reports().iter().any(|r| r.probe == probe && matches!(r.verdict, Verdict::Ready { .. }))
        };
        Loaded::losses().filter(move |(probe, _)| runs(probe))
    }

    /// How long and how often a probe's programs have run, where the kernel counts that.
    #[must_use]
    pub fn cost(&self, report: &ProbeReport) -> Option<(Duration, u64)> {
        let probe = PROBES.iter().find(|probe| probe.name == report.probe)?;
        let (before, runs_before) = self.spent.get(probe.name).copied().unwrap_or_default();
        let (time, runs) = self.loaded.cost(probe)?;
        Some((before + time, runs_before + runs))
    }

    /// Starts counting in a moment, until `length` has passed from then or for ever, and waits for that moment.
    ///
    /// # Errors
    /// When the window cannot be written.
    pub fn open(&mut self, length: Option<Duration>) -> Result<Window, ReadError> {
        self.loaded.ready();
        let lead = u64::try_from(LEAD.as_nanos()).unwrap_or(0);
        let from_ns = monotonic_ns().saturating_add(lead);
        let length = length.map_or(u64::MAX, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
        self.window = Window { from_ns, until_ns: from_ns.saturating_add(length) };
        self.loaded.open(self.window)?;
        std::thread::sleep(Duration::from_nanos(from_ns.saturating_sub(monotonic_ns())));
        if let Some(cpu_time) = &mut self.cpu_time {
            cpu_time.open(&self.root);
        }
        Ok(self.window)
    }

    /// Stops counting now. What was raised before is still followed to its end.
    ///
    /// # Errors
    /// When the window cannot be written.
    pub fn close(&mut self) -> Result<(), ReadError> {
        self.window.until_ns = self.window.until_ns.min(monotonic_ns());
        if let Some(cpu_time) = &mut self.cpu_time {
            cpu_time.close(&self.root);
        }
        self.loaded.open(self.window)
    }

    /// Says which CPUs are guarded: what takes them from their vCPUs is counted from then on.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn guard(&mut self, cpus: &CpuSet) -> Result<(), ReadError> {
        self.loaded.guard(cpus)
    }

    /// Tells the probes that guests or their VFs have changed.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn update(&mut self, topology: &Topology) -> Result<(), ReadError> {
        self.loaded.set_owners(&owners(topology))?;
        if let Some(cpu_time) = &mut self.cpu_time {
            cpu_time.update(topology);
        }
        self.follow_paths(read_paths(&self.root, topology))
    }

    /// Forgets what was counted of guests that are gone, so that a process that gets a number again begins with nothing.
    /// For observers that see guests come and go; a recording keeps the figures of guests that end meanwhile.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn forget_gone(&mut self, topology: &Topology) -> Result<(), ReadError> {
        let now = processes(topology);
        let before = std::mem::replace(&mut self.processes, now.clone());
        self.loaded.retire(|pid, alive| match now.get(&pid) {
            Some(start) => before.get(&pid) == Some(start),
            None => alive,
        })
    }

    /// Says which network devices guests' packets pass.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn follow_paths(&mut self, paths: Paths) -> Result<(), ReadError> {
        self.loaded.set_paths(&paths)?;
        self.paths = paths;
        Ok(())
    }

    /// From now on every packet is followed, whatever that costs.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn follow_every_packet(&mut self) -> Result<(), ReadError> {
        self.loaded.follow_at_most(None)
    }

    /// From the next window on snapshots tell what CPU time the guests' threads took within it. It takes reading a file of
    /// each thread.
    pub fn count_cpu_time(&mut self, topology: &Topology) {
        self.cpu_time = Some(CpuTime::of(topology));
    }

    /// Whether something has changed that a controller acts on; always the same where that cannot be observed.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn signs(&self) -> Result<Signs, ReadError> {
        if self.sees_delivery() { irq_delivery::signs(&self.loaded.maps()) } else { Ok(Signs::default()) }
    }

    /// Which vCPUs the vectors of VFs have gone to; nothing where that cannot be observed.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn accepted(&self, topology: &Topology) -> Result<Vec<Accepted>, ReadError> {
        if !self.sees_delivery() {
            return Ok(Vec::new());
        }
        irq_delivery::accepted(&self.loaded.maps(), topology)
    }

    /// How often the interrupts of VFs were freed; nothing where that cannot be observed.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn freed(&self, topology: &Topology) -> Result<Freed, ReadError> {
        let report = self.loaded.reports().iter().find(|report| report.probe == irq_delivery::SPEC.name);
        match report.filter(|report| matches!(report.verdict, Verdict::Ready { .. })) {
            Some(report) if report.loses("freed").is_none() => {
                irq_delivery::freed(&self.loaded.maps(), topology)
            }
            _ => Ok(Freed::new()),
        }
    }

    /// Fills into a topology that was just read what has been seen of the vectors of guests' VFs: host vector, guest
    /// vector, vCPU, and the mode by what happened since the look before.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn look(&mut self, topology: &mut Topology, before: &Look) -> Result<Look, ReadError> {
        if !self.sees_delivery() {
            return Ok(Look::default());
        }
        let counted = read_vf_counters(topology).counters;
        let received = counted.iter().filter_map(|(vf, counters)| Some((*vf, counters.rx_packets?.get())));
        let host = self.loaded.host_vectors(&topology.online());
        before.again(&self.loaded.maps(), topology, &host, received.collect())
    }

    /// What rings when a sign has changed, or why nothing rings for all that there is to see here. To who asks first.
    pub fn bell(&mut self) -> Option<Result<Bell, String>> {
        if std::mem::replace(&mut self.bell_taken, true) {
            return None;
        }
        let name = irq_delivery::SPEC.name;
        let report = self.reports().iter().find(|report| report.probe == name)?;
        let unseen = irq_delivery::unseen(report);
        Some(unseen.map_or_else(|| self.loaded.bell().map_err(|error| error.to_string()), Err))
    }

    fn sees_delivery(&self) -> bool {
        self.hides(irq_delivery::SPEC.name).is_none()
    }

    /// Why a probe does not run; `None` when it does.
    pub(super) fn hides(&self, probe: &str) -> Option<String> {
        match &self.reports().iter().find(|report| report.probe == probe)?.verdict {
            Verdict::Ready { .. } => None,
            Verdict::Unsupported { reason } | Verdict::NotApplicable { reason } => {
                Some(format!("probe {probe} does not run: {reason}"))
            }
        }
    }

    /// Reads all series and counters.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn snapshot(&self, topology: &Topology) -> Result<Snapshot, ReadError> {
        let names = Names::new(topology).with_paths(&self.paths);
        // Every vCPU leaves a guest that it was in at the window's end once: what is read meanwhile is read again.
        let mut snapshot = loop {
            let stays = self.stays(&names)?;
            let mut snapshot = self.collected(&names)?;
            if self.stays(&names)? == stays {
                snapshot.counters.extend(stays);
                break snapshot;
            }
        };
        let gone = names.guest(RETIRED);
        snapshot.series.retain(|series| series.labels.get("guest") != Some(&gone));
        snapshot.counters.retain(|counter| counter.labels.get("guest") != Some(&gone));
        if let Some(cpu_time) = &self.cpu_time {
            snapshot.counters.extend(cpu_time.counters(&self.root));
        }
        for (probe, cause, times) in self.loaded.lost()? {
            snapshot.lost.insert(format!("{probe}.{cause}"), times);
        }
        Ok(folded(snapshot))
    }

    /// What the programs have counted.
    fn collected(&self, names: &Names<'_>) -> Result<Snapshot, ReadError> {
        let mut snapshot = Snapshot {
            from_ns: self.window.from_ns,
            to_ns: self.window.until_ns.min(monotonic_ns()),
            ..Snapshot::default()
        };
        let maps = self.loaded.maps();
        for (probe, report) in PROBES.iter().zip(self.loaded.reports()) {
            if matches!(report.verdict, Verdict::Ready { .. }) {
                (probe.collect)(&maps, names, report, &mut snapshot)?;
            }
        }
        Ok(snapshot)
    }

    /// Time of stays in guests that the window's end has cut off; none while it is open.
    fn stays(&self, names: &Names<'_>) -> Result<Vec<Counter>, ReadError> {
        let Window { from_ns, until_ns } = self.window;
        if until_ns > monotonic_ns() || self.hides(vm_exit::SPEC.name).is_some() {
            return Ok(Vec::new());
        }
        vm_exit::stays(&self.loaded.maps(), names, from_ns, until_ns)
    }
}

/// Series and counters in order, those with equal labels added up: a vCPU thread that was made anew goes on in the
/// series of its vCPU.
fn folded(snapshot: Snapshot) -> Snapshot {
    let mut series: BTreeMap<_, Series> = BTreeMap::new();
    for one in snapshot.series {
        series
            .entry((one.probe.clone(), one.labels.clone()))
            .and_modify(|first| first.histogram.merge(&one.histogram))
            .or_insert(one);
    }
    let mut counters = BTreeMap::new();
    for one in snapshot.counters {
        let key = (one.probe.clone(), one.name.clone(), one.labels.clone());
        counters.entry(key).and_modify(|first: &mut Counter| first.value += one.value).or_insert(one);
    }
    Snapshot {
        series: series.into_values().collect(),
        counters: counters.into_values().collect(),
        ..snapshot
    }
}

/// Which process owns which VF.
fn owners(topology: &Topology) -> BTreeMap<u32, u32> {
    topology.guests.iter().flat_map(|g| g.vfs.iter().map(|vf| (vf.address.packed(), g.pid.0))).collect()
}

/// Start time of each guest's process.
fn processes(topology: &Topology) -> BTreeMap<u32, u64> {
    topology.guests.iter().map(|guest| (guest.pid.0, guest.start_time)).collect()
}

/// Room for twice what is there, at least for a small host: guests may come while we look.
#[must_use]
pub fn sizes_for(topology: &Topology) -> Sizes {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let vcpus = count(topology.guests.iter().map(|g| g.vcpus.len()).sum());
    let vfs = topology.free_vfs.len() + topology.guests.iter().map(|g| g.vfs.len()).sum::<usize>();
    let slots = count(topology.guests.iter().flat_map(|g| &g.vfs).map(|vf| vf.slots.len().max(3)).sum());
    let slots = slots.max(count(vfs).saturating_mul(3));
    Sizes {
        vcpus: (vcpus * 2).clamp(64, 8192),
        slots: (slots * 2).clamp(64, 4096),
        deliveries: (slots * 2).clamp(64, 4096),
        // A vCPU shows some ten to twenty reasons.
        exits: (vcpus * 32).clamp(256, 16384),
        // A CPU shows some thirty sources, an isolated one far fewer.
        noise: count(topology.cpus.len()).saturating_mul(64).clamp(128, 4096),
        // Each with its bridge and uplink.
        devices: count(topology.guests.iter().map(|g| g.nics.len()).sum())
            .saturating_mul(4)
            .clamp(16, DEVICES),
    }
}

/// CLOCK_MONOTONIC, the clock of `bpf_ktime_get_ns` (ns).
#[must_use]
pub fn monotonic_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0)
}
