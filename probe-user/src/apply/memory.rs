//! A host in memory for tests, which moves interrupts as the kernel does and fails where it is told to.

use super::host::{Host, Observed, Refusal, Seen, TargetError};
use crate::model::topology::Thread;
use crate::model::{CpuSet, HostThread, IrqNumber, Pid, Tid, Value};
use crate::plan::{IrqTarget, Target, TargetKey};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// What happens at a write instead of, or besides, the write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It is refused as a managed interrupt's is.
    Managed,
    /// It is refused for want of a vector.
    NoVector,
    /// The process dies before it.
    KilledBefore,
    /// The process dies after it.
    KilledAfter,
    /// The target is gone.
    Vanishes,
    /// It is accepted, but only part of the mask is taken.
    Trimmed,
    /// Somebody else sets the target right after it.
    Foreign(CpuSet),
    /// It is refused as a value that the kernel does not take.
    Invalid,
    /// It is refused as a CPU beyond the last one.
    TooHigh,
}

/// What a killed process leaves its stack with.
pub(crate) struct Killed;

/// A target's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) target: Target,
    pub(crate) value: Value,
    pub(crate) effective: Option<CpuSet>,
}

impl Slot {
    /// An interrupt stays where its mask allows, and else goes to the mask's first CPU.
    fn settle(&mut self) {
        if let (Some(effective), Some(cpus)) = (&mut self.effective, self.value.cpus())
            && !effective.is_subset(cpus)
        {
            *effective = cpus.first().map(CpuSet::from).unwrap_or_default();
        }
    }
}

/// The host.
#[derive(Debug, Default)]
pub(crate) struct MemoryHost {
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: BTreeMap<TargetKey, Slot>,
    newcomers: Vec<HostThread>,
    read_only: BTreeSet<TargetKey>,
    offline: CpuSet,
    writes: u32,
    event: Option<(u32, Event)>,
    /// Whether interrupts move only when they fire.
    deferred: bool,
    boot_id: String,
}

impl MemoryHost {
    pub(crate) fn add(&self, target: Target, value: impl Into<Value>, effective: Option<CpuSet>) {
        let slot = Slot { target: target.clone(), value: value.into(), effective };
        self.state.borrow_mut().slots.insert(target.key(), slot);
    }

    /// Everything there is.
    pub(crate) fn snapshot(&self) -> BTreeMap<TargetKey, Slot> {
        self.state.borrow().slots.clone()
    }

    /// Has something happen at the n-th write from now, counted from 0.
    pub(crate) fn at_write(&self, n: u32, event: Event) {
        let mut state = self.state.borrow_mut();
        state.writes = 0;
        state.event = Some((n, event));
    }

    /// From now on interrupts move when they fire next, as those do that are not remapped.
    pub(crate) fn defer_moves(&self) {
        self.state.borrow_mut().deferred = true;
    }

    /// An interrupt fires, and moves when it has to.
    pub(crate) fn fire(&self, key: &TargetKey) {
        if let Some(slot) = self.state.borrow_mut().slots.get_mut(key) {
            slot.settle();
        }
    }

    pub(crate) fn calm(&self) {
        self.state.borrow_mut().event = None;
    }

    pub(crate) fn reboot(&self) {
        self.state.borrow_mut().boot_id.push('+');
    }

    /// Somebody else sets a target.
    pub(crate) fn set(&self, key: &TargetKey, cpus: CpuSet) {
        if let Some(slot) = self.state.borrow_mut().slots.get_mut(key) {
            slot.value = cpus.into();
        }
    }

    pub(crate) fn remove(&self, key: &TargetKey) {
        self.state.borrow_mut().slots.remove(key);
    }

    /// These CPUs are offline: they are taken out of the masks that threads are given.
    pub(super) fn set_offline(&self, cpus: CpuSet) {
        self.state.borrow_mut().offline = cpus;
    }

    /// From now on nobody may write a target.
    pub(super) fn make_read_only(&self, key: &TargetKey) {
        self.state.borrow_mut().read_only.insert(key.clone());
    }

    /// A thread starts in process `pid`, a child of `parent`.
    pub(crate) fn spawn(&self, parent: u32, pid: u32, tid: u32, cpus: CpuSet) {
        let thread = Thread { tid: Tid(tid), comm: "new".to_owned(), start_time: 1000, affinity: cpus };
        let newcomer = HostThread { pid: Pid(pid), parent: Pid(parent), thread, kernel: false, bound: false };
        self.state.borrow_mut().newcomers.push(newcomer);
    }

    pub(crate) fn newcomer(&self, tid: u32) -> CpuSet {
        let state = self.state.borrow();
        state.newcomers.iter().find(|t| t.thread.tid.0 == tid).unwrap().thread.affinity.clone()
    }
}

impl Host for MemoryHost {
    fn observe(&self, target: &Target) -> Result<Seen, TargetError> {
        let state = self.state.borrow();
        if let (Target::Thread(thread), None) = (target, state.slots.get(&target.key())) {
            let newcomer = state.newcomers.iter().find(|t| t.thread.tid == thread.tid);
            return Ok(newcomer.map_or(Seen::Gone, |t| {
                Seen::Here(Observed {
                    name: t.thread.comm.clone(),
                    value: t.thread.affinity.clone().into(),
                    effective: None,
                })
            }));
        }
        Ok(state.slots.get(&target.key()).map_or(Seen::Gone, |slot| {
            let name = match &slot.target {
                Target::Irq(irq) => irq.actions.clone(),
                Target::Thread(thread) => thread.comm.clone(),
                Target::DefaultAffinity | Target::Knob(_) => String::new(),
            };
            Seen::Here(Observed { name, value: slot.value.clone(), effective: slot.effective.clone() })
        }))
    }

    fn write(&self, target: &Target, value: &Value) -> Result<(), TargetError> {
        let mut state = self.state.borrow_mut();
        let n = state.writes;
        state.writes += 1;
        let event = state.event.clone().filter(|(at, _)| *at == n).map(|(_, event)| event);
        let refused = |refusal| Err(TargetError::Refused { call: format!("writing {value}"), refusal });
        let first =
            |value: &Value| value.cpus().and_then(CpuSet::first).map(CpuSet::from).unwrap_or_default();
        let mut taken = value.clone();
        match &event {
            Some(Event::Managed) => return refused(Refusal::Managed),
            Some(Event::NoVector) => return refused(Refusal::NoVector),
            Some(Event::Invalid) => return refused(Refusal::Invalid),
            Some(Event::TooHigh) => return refused(Refusal::TooHigh),
            Some(Event::KilledBefore) => {
                drop(state);
                std::panic::resume_unwind(Box::new(Killed))
            }
            Some(Event::Vanishes) => {
                state.slots.remove(&target.key());
            }
            Some(Event::Trimmed) if value.cpus().is_some() => taken = first(value).into(),
            Some(Event::Trimmed) => taken = Value::text("trimmed"),
            Some(Event::KilledAfter | Event::Foreign(_)) | None => {}
        }
        if state.read_only.contains(&target.key()) {
            return refused(Refusal::ReadOnly);
        }
        if let (Target::Thread(_), Some(cpus)) = (target, taken.cpus()) {
            taken = cpus.difference(&state.offline).into();
        }
        if let Target::Thread(thread) = target
            && let Some(newcomer) = state.newcomers.iter_mut().find(|t| t.thread.tid == thread.tid)
        {
            newcomer.thread.affinity = taken.cpus().cloned().unwrap_or_default();
            return Ok(());
        }
        let deferred = state.deferred;
        let Some(slot) = state.slots.get_mut(&target.key()) else { return refused(Refusal::Gone) };
        slot.value = taken;
        if !deferred {
            slot.settle();
        }
        match event {
            Some(Event::Foreign(value)) => slot.value = value.into(),
            Some(Event::KilledAfter) => {
                drop(state);
                std::panic::resume_unwind(Box::new(Killed))
            }
            _ => {}
        }
        Ok(())
    }

    fn same(&self, target: &Target, asked: &Value, found: &Value) -> bool {
        let offline = &self.state.borrow().offline;
        let online = asked.cpus().map(|cpus| cpus.difference(offline));
        asked == found || (matches!(target, Target::Thread(_)) && online.as_ref() == found.cpus())
    }

    fn may_write(&self, target: &Target) -> Result<(), TargetError> {
        if self.state.borrow().read_only.contains(&target.key()) {
            return Err(TargetError::Refused { call: "opening it".to_owned(), refusal: Refusal::ReadOnly });
        }
        Ok(())
    }

    fn boot_id(&self) -> Result<String, TargetError> {
        Ok(self.state.borrow().boot_id.clone())
    }

    fn ticks(&self) -> u64 {
        500
    }

    fn unix_time(&self) -> u64 {
        0
    }

    fn irqs(&self) -> Result<Vec<(IrqTarget, CpuSet)>, TargetError> {
        let state = self.state.borrow();
        let irqs = state.slots.values().filter_map(|slot| match &slot.target {
            Target::Irq(irq) => Some((irq.clone(), slot.value.cpus()?.clone())),
            Target::Thread(_) | Target::DefaultAffinity | Target::Knob(_) => None,
        });
        Ok(irqs.collect())
    }

    fn initial_affinity(&self, _irq: IrqNumber, default: &CpuSet) -> CpuSet {
        default.clone()
    }

    fn threads(&self) -> Result<Vec<HostThread>, TargetError> {
        Ok(self.state.borrow().newcomers.clone())
    }
}
