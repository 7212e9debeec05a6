//! Loads the object, attaches what fits, and says for each probe how it went.

use super::facts::read_facts;
use super::maps::Maps;
use super::missed::Missed;
use super::object::OBJECT;
use super::tracer::TraceSizes;
use crate::host::HostRoot;
use crate::model::CpuSet;
use crate::probes::hook::{Candidate, Kind};
use crate::probes::{
    Hook, KernelFacts, MapReader, Missing, Needs, PROBES, ProbeReport, ProbeSpec, ReadError, Role, Verdict,
    vm_exit,
};
use aya::maps::{Array, HashMap};
use aya::programs::{FExit, Program, ProgramError, RawTracePoint, TracePoint};
use aya::{Btf, Ebpf, EbpfLoader};
use probe_ebpf::control::{Lost, Window};
use probe_ebpf::probes::irq_delivery::STAGES;
use probe_ebpf::probes::packet_path::{FOLLOWED_PER_STRETCH, HOPS};
use std::collections::BTreeMap;
use std::time::Duration;

/// How many of each thing the maps have room for. Memory is taken at loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// vCPU threads.
    pub vcpus: u32,
    /// VF vector slots.
    pub slots: u32,
    /// (slot, vCPU) series.
    pub deliveries: u32,
    /// (vCPU, exit reason) series.
    pub exits: u32,
    /// (CPU, source) series of `cpu_noise`.
    pub noise: u32,
    /// Network devices on guests' paths.
    pub devices: u32,
}

/// Why nothing could be loaded at all.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel refuses BPF to this process.
    #[error(
        "the kernel does not let this process load BPF programs ({cause}): run as root, or give it CAP_BPF and CAP_PERFMON"
    )]
    NotPermitted {
        /// The kernel's words.
        cause: String,
    },
    /// KVM is not there.
    #[error("KVM is not loaded: no event kvm:kvm_entry; modprobe kvm_intel or kvm_amd")]
    NoKvm,
    /// Another failure of loading.
    #[error("cannot load the BPF object: {0}")]
    Object(String),
    /// Maps could not be written.
    #[error(transparent)]
    Map(#[from] ReadError),
}

/// A loaded and attached object. Dropping it detaches everything.
pub struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) facts: KernelFacts,
    reports: Vec<ProbeReport>,
    guarded: CpuSet,
    /// How often CPUs were guarded; what `GUARDED` holds of those guarded last.
    guardings: u32,
    /// Packets to follow on a CPU in a stretch of time at most; 0 = all.
    pub(super) follow_limit: u32,
    /// What programs had missed when counting began.
    missed_before: Option<Missed>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("reports", &self.reports).finish_non_exhaustive()
    }
}

impl Loaded {
    /// Loads and attaches all probes, which know then which process owns which VF (packed address to pid). Nothing is
    /// counted until [`Loaded::open`].
    ///
    /// # Errors
    /// [`LoadError`] when nothing can work here; a single probe that cannot is told by its report.
    pub fn new(root: &HostRoot, sizes: Sizes, owners: &BTreeMap<u32, u32>) -> Result<Self, LoadError> {
        let facts = read_facts(root);
        let ebpf = load_object(&facts, sizes, None)?;
        let mut loaded = Self {
            ebpf,
            facts,
            reports: Vec::new(),
            guarded: CpuSet::new(),
            guardings: 0,
            follow_limit: FOLLOWED_PER_STRETCH,
            missed_before: None,
        };
        // Before anything is attached: an interrupt without an owner counts as lost.
        loaded.set_owners(owners)?;
        for probe in PROBES {
            loaded.reports.push(match probe.needs {
                Needs::GuardedCpus => not_applicable(probe, NOTHING_GUARDED),
                Needs::Taps => not_applicable(probe, NO_TAPS),
                Needs::Nothing | Needs::Vcpu => attach_probe(&mut loaded.ebpf, probe, &loaded.facts),
            });
        }
        add_fast_paths(&mut loaded.reports, &loaded.facts);
        withdraw_dependents(&mut loaded.reports);
        Ok(loaded)
    }

    /// Loads the object and attaches nothing: for benchmarks, which attach or run single programs.
    ///
    /// # Errors
    /// [`LoadError`] when nothing can work here.
    pub fn detached(root: &HostRoot, sizes: Sizes) -> Result<Self, LoadError> {
        let facts = read_facts(root);
        let ebpf = load_object(&facts, sizes, None)?;
        Ok(Self {
            ebpf,
            facts,
            reports: Vec::new(),
            guarded: CpuSet::new(),
            guardings: 0,
            follow_limit: FOLLOWED_PER_STRETCH,
            missed_before: None,
        })
    }

    /// Whether there is a KVM on this host whose guests could be seen.
    ///
    /// # Errors
    /// [`LoadError::NoKvm`] when there is none.
    pub fn require_kvm(&self) -> Result<(), LoadError> {
        let kvm = self.facts.raw.contains_key("kvm_entry")
            || self.facts.events.get("kvm/kvm_entry") == Some(&true)
            || self.reports.iter().any(|report| matches!(report.verdict, Verdict::Ready { .. }));
        if kvm { Ok(()) } else { Err(LoadError::NoKvm) }
    }

    /// Says which CPUs `cpu_noise` looks at. Its programs are attached with the first of them.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn guard(&mut self, cpus: &CpuSet) -> Result<(), ReadError> {
        const NAME: &str = "GUARDED";
        let former = std::mem::replace(&mut self.guarded, cpus.clone());
        // What a program left open on a CPU that was let go is not this guarding's.
        self.guardings = self.guardings.checked_add(1).unwrap_or(1);
        let generation = self.guardings;
        let mut map: Array<_, u32> = self.map_mut(NAME)?;
        for (changed, flag) in [(former.difference(cpus), 0), (cpus.difference(&former), generation)] {
            for cpu in changed.iter() {
                map.set(cpu.0, flag, 0).map_err(|e| read_error(NAME, e))?;
            }
        }
        if !cpus.is_empty() {
            self.attach_late(Needs::GuardedCpus);
        }
        Ok(())
    }

    /// Attaches the probes that need this, once it is there.
    pub(super) fn attach_late(&mut self, needs: Needs) {
        for (probe, report) in PROBES.iter().zip(&mut self.reports) {
            if probe.needs == needs && matches!(report.verdict, Verdict::NotApplicable { .. }) {
                *report = attach_probe(&mut self.ebpf, probe, &self.facts);
            }
        }
    }

    /// How each probe fares, in registry order.
    #[must_use]
    pub fn reports(&self) -> &[ProbeReport] {
        &self.reports
    }

    /// The programs and maps as aya has them: for tests that run single programs with arguments of their own.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// The maps, to be read.
    #[must_use]
    pub fn maps(&self) -> impl MapReader + '_ {
        Maps(&self.ebpf, &self.facts)
    }

    /// What programs count as lost, each with its probe and cause.
    pub fn losses() -> impl Iterator<Item = (&'static str, &'static str)> {
        let causes = Lost::ALL.into_iter().map(|(_, probe, cause)| (probe, cause));
        causes.chain(PROBES.iter().map(|probe| (probe.name, "missed")))
    }

    /// What was lost so far: probe, cause, times; only what is not 0.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn lost(&self) -> Result<Vec<(&'static str, &'static str, u64)>, ReadError> {
        let mut lost = Maps(&self.ebpf, &self.facts).lost()?;
        if let Some(before) = &self.missed_before {
            lost.extend(self.missed().into_iter().filter_map(|(probe, now)| {
                let times = now.saturating_sub(before.get(probe).copied().unwrap_or(0));
                (times > 0).then_some((probe, "missed", times))
            }));
        }
        Ok(lost)
    }

    /// How long and how often a probe's programs have run; `None` while the kernel does not count that
    /// (`kernel.bpf_stats_enabled`).
    #[must_use]
    pub fn cost(&self, probe: &ProbeSpec) -> Option<(Duration, u64)> {
        let names = probe.hooks.iter().flat_map(|hook| [hook.raw, hook.classic]).flatten().map(|v| v.program);
        let infos = names.filter_map(|name| match self.ebpf.program(name)? {
            Program::RawTracePoint(program) => program.info().ok(),
            Program::TracePoint(program) => program.info().ok(),
            Program::FExit(program) => program.info().ok(),
            _ => None,
        });
        let (time, runs) = infos.fold((Duration::ZERO, 0), |(time, runs), info| {
            (time + info.run_time(), runs + info.run_count())
        });
        (runs > 0).then_some((time, runs))
    }

    /// Before counting begins: what programs miss is told from here on. It takes reading a file of each program.
    pub fn ready(&mut self) {
        if self.missed_before.is_none() {
            self.missed_before = Some(self.missed());
        }
    }

    /// Sets the span that counts.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn open(&mut self, window: Window) -> Result<(), ReadError> {
        let mut map: Array<_, Window> = self.map_mut("WINDOW")?;
        map.set(0, window, 0).map_err(|e| read_error("WINDOW", e))
    }

    /// Tells which process owns which VF (packed address to pid). Interrupts are looked at anew when that changed.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn set_owners(&mut self, owners: &BTreeMap<u32, u32>) -> Result<(), ReadError> {
        const NAME: &str = "OWNERS";
        let mut map: HashMap<_, u32, u32> = self.map_mut(NAME)?;
        let now: BTreeMap<u32, u32> = map.iter().filter_map(Result::ok).collect();
        for (vf, _) in now.iter().filter(|(vf, _)| !owners.contains_key(vf)) {
            map.remove(vf).map_err(|e| read_error(NAME, e))?;
        }
        for (vf, pid) in owners.iter().filter(|(vf, pid)| now.get(vf) != Some(pid)) {
            map.insert(vf, pid, 0).map_err(|e| read_error(NAME, e))?;
        }
        if now != *owners {
            self.forget_irqs(owners)?;
        }
        Ok(())
    }

    /// Has interrupts whose owner is another now looked at anew.
    fn forget_irqs(&mut self, owners: &BTreeMap<u32, u32>) -> Result<(), ReadError> {
        let used = self.maps().used(probe_ebpf::control::Table::Slots)?;
        let stale: Vec<u32> = (0..used)
            .filter_map(|i| self.maps().slot(i).ok())
            .filter(|slot| owners.get(&slot.vf) != Some(&slot.owner))
            .map(|slot| slot.irq)
            .collect();
        self.forget_numbers(stale)
    }

    pub(super) fn map_mut<'a, M>(&'a mut self, name: &'static str) -> Result<M, ReadError>
    where
        M: TryFrom<&'a mut aya::maps::Map>,
        M::Error: std::fmt::Display,
    {
        let map = self.ebpf.map_mut(name).ok_or_else(|| read_error(name, "no such map in the object"))?;
        M::try_from(map).map_err(|e| read_error(name, e))
    }
}

pub(super) fn read_error(map: &'static str, cause: impl std::fmt::Display) -> ReadError {
    ReadError { map, cause: cause.to_string() }
}

/// Loads the object. Without `tracing` the maps of `trace` are as small as the kernel allows.
pub(super) fn load_object(
    facts: &KernelFacts,
    sizes: Sizes,
    tracing: Option<TraceSizes>,
) -> Result<Ebpf, LoadError> {
    let tracing = tracing.unwrap_or(TraceSizes { ring: 1, vcpus: 1, slots: 1 });
    // Offsets are 32-bit globals, addresses 64-bit ones; those of the vector table are arguments.
    let arguments = [probe_ebpf::layout::PER_CPU_OFFSET, probe_ebpf::layout::VECTOR_IRQ];
    let globals = facts.globals.iter().filter(|(name, _)| !arguments.contains(name));
    let offsets: Vec<(&str, u32)> =
        globals.filter_map(|(name, value)| Some((*name, u32::try_from(*value).ok()?))).collect();
    let inject = facts.globals.get(probe_ebpf::layout::IRQFD_INJECT).copied().unwrap_or(0);
    let mut loader = EbpfLoader::new();
    for (name, value) in &offsets {
        loader.override_global(name, value, true);
    }
    loader.override_global(probe_ebpf::layout::IRQFD_INJECT, &inject, true);
    for (map, size) in [
        ("VCPUS", sizes.vcpus),
        ("VCPU_IDS", sizes.vcpus),
        ("VCPU_TIDS", sizes.vcpus),
        ("SLOTS", sizes.slots),
        ("SLOT_IDS", sizes.slots),
        ("SLOW_WORK", sizes.slots),
        // A VF in a guest has a vector at least.
        ("OWNERS", sizes.slots),
        ("POSTED", sizes.slots),
        ("APICV", sizes.vcpus),
        ("DELIVERIES", sizes.deliveries),
        ("DELIVERY_IDS", sizes.deliveries),
        ("IRQ_HIST", sizes.deliveries * STAGES),
        ("EXITS", sizes.exits),
        ("EXIT_HIST", sizes.exits),
        ("EXIT_VECTORS", sizes.vcpus * 16),
        ("SCHED_HIST", sizes.vcpus),
        ("PREEMPTERS", sizes.vcpus * 8),
        ("NOISE", sizes.noise),
        ("NOISE_IDS", sizes.noise),
        ("NOISE_HIST", sizes.noise),
        ("PATH_COUNTS", sizes.devices),
        ("PATH_HIST", sizes.devices * HOPS),
        ("TRACE_RING", tracing.ring),
        ("TRACE_VCPUS", tracing.vcpus),
        ("TRACE_TIDS", tracing.vcpus),
        // An interrupt source can be moved from vector to vector.
        ("TRACE_VECTORS", tracing.slots.saturating_mul(4)),
        ("TRACE_WORK", tracing.slots),
        ("TRACE_BUSY", tracing.slots),
    ] {
        loader.map_max_entries(map, size);
    }
    loader.load(OBJECT).map_err(|e| {
        let text = chain(&e);
        if denied(&e) { LoadError::NotPermitted { cause: text } } else { LoadError::Object(text) }
    })
}

/// Whether an error comes down to EPERM or EACCES.
fn denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut source = Some(error);
    while let Some(e) = source {
        if let Some(io) = e.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::PermissionDenied
        {
            return true;
        }
        source = e.source();
    }
    false
}

/// An error with its sources, on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        let part = e.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = e.source();
    }
    text.split('\n').next().unwrap_or_default().to_owned()
}

const NOTHING_GUARDED: &str = "no CPU is guarded: no vCPU is pinned to a part of the CPUs";
const NO_TAPS: &str = "no guest has a tap in this network namespace";

fn not_applicable(probe: &ProbeSpec, reason: &str) -> ProbeReport {
    let verdict = Verdict::NotApplicable { reason: reason.to_owned() };
    ProbeReport { probe: probe.name.to_owned(), verdict, attached: Vec::new() }
}

pub(super) fn attach_probe(ebpf: &mut Ebpf, probe: &ProbeSpec, facts: &KernelFacts) -> ProbeReport {
    let ProbeSpec { name: probe, hooks, .. } = *probe;
    let mut attached = Vec::new();
    let mut missing = Vec::new();
    for hook in hooks {
        match attach_hook(ebpf, hook, facts) {
            Ok(kind) => attached.push((hook.event.to_owned(), kind.as_str().to_owned())),
            Err(reason) => match hook.role {
                Role::Required => {
                    let verdict = Verdict::Unsupported { reason: format!("{}: {reason}", hook.event) };
                    return ProbeReport { probe: probe.to_owned(), verdict, attached };
                }
                Role::Figure(figure) => {
                    missing.push(Missing { event: hook.event.to_owned(), loses: figure.to_owned(), reason });
                }
            },
        }
    }
    ProbeReport { probe: probe.to_owned(), verdict: Verdict::Ready { missing }, attached }
}

/// Tries a hook's programs in order; the error says why none could be attached.
pub(super) fn attach_hook(ebpf: &mut Ebpf, hook: &Hook, facts: &KernelFacts) -> Result<Kind, String> {
    let mut reasons = Vec::new();
    for candidate in hook.candidates(facts)? {
        match attach(ebpf, hook, candidate) {
            Ok(()) => return Ok(candidate.kind),
            Err(e) => reasons.push(format!("{}: {}", candidate.kind.as_str(), load_reason(&e))),
        }
    }
    Err(reasons.join("; "))
}

/// How the lines begin with which a verifier's log ends after the one that matters (kernel/bpf/verifier.c,
/// `print_verification_stats`).
const STATISTICS: &[&str] = &["verification time", "stack depth", "processed "];

/// Why a program could not be loaded or attached; of a verifier's log the line that says it.
fn load_reason(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let verdict = log
                .lines()
                .rev()
                .find(|line| !STATISTICS.iter().any(|start| line.starts_with(start)) && !line.is_empty());
            match verdict {
                Some(line) => format!("{io_error}, the verifier says: {line}"),
                None => io_error.to_string(),
            }
        }
        other => chain(other),
    }
}

fn attach(ebpf: &mut Ebpf, hook: &Hook, candidate: Candidate) -> Result<(), ProgramError> {
    let program = ebpf.program_mut(candidate.program).ok_or(ProgramError::NotLoaded)?;
    match candidate.kind {
        Kind::Raw => {
            let program: &mut RawTracePoint = program.try_into()?;
            // One program can serve several events.
            if program.fd().is_err() {
                program.load()?;
            }
            program.attach(hook.name()).map(drop)
        }
        Kind::Classic => {
            let program: &mut TracePoint = program.try_into()?;
            program.load()?;
            let (system, name) = hook.event.split_once('/').unwrap_or(("", hook.event));
            program.attach(system, name).map(drop)
        }
        Kind::Return => {
            let program: &mut FExit = program.try_into()?;
            program.load(hook.name(), &Btf::from_sys_fs()?)?;
            program.attach().map(drop)
        }
    }
}

/// What `vm_exit` has of a hook of `vcpu`.
fn add_fast_paths(reports: &mut [ProbeReport], facts: &KernelFacts) {
    let Some((vcpu, rest)) = reports.split_first_mut() else { return };
    let own = rest.iter_mut().find(|report| report.probe == vm_exit::SPEC.name);
    if let Some(ProbeReport { verdict: Verdict::Ready { missing }, .. }) = own {
        missing.extend(vm_exit::without_fast_paths(facts, vcpu));
    }
}

/// A probe that stands on `vcpu` cannot work without it, and loses what `vcpu` cannot see.
fn withdraw_dependents(reports: &mut [ProbeReport]) {
    let Some((first, rest)) = reports.split_first_mut() else { return };
    let dependents = PROBES.iter().skip(1).zip(rest).filter(|(probe, _)| probe.needs == Needs::Vcpu);
    for (_, report) in dependents {
        match (&first.verdict, &mut report.verdict) {
            (Verdict::Ready { missing: base }, Verdict::Ready { missing }) => {
                missing.extend(base.iter().cloned());
            }
            (Verdict::Ready { .. }, _) => {}
            (other, own) => *own = other.clone(),
        }
    }
}
