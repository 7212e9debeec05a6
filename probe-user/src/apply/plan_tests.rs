//! Policies for random hosts, kept in memory while guests end and are reset, others write, and writes fail or kill: whatever
//! happened, what is undone in the end is all that was done.

use super::memory::{Event, MemoryHost};
use super::model_tests::{state_dir, unless_killed};
use super::{ApplyError, Options, RollbackOptions, StateDir, StateLock, apply, release, rollback};
use crate::model::owners::Owners;
use crate::model::topology::Topology;
use crate::model::{CpuId, CpuSet, Value, VcpuId};
use crate::plan::testing::{HostShape, add_slots, guest, host, irq};
use crate::plan::{
    Facts, IrqTarget, Others, Pins, Placement, Plan, PlanError, Policy, Renewed, Role, Target, TargetKey,
    ThreadTarget, plan, plan_again,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// CPUs that are there when taken modulo their number.
type Mask = BTreeSet<u32>;

#[derive(Clone, Debug)]
struct Wish {
    vcpus: u32,
    pins: Option<Option<Mask>>,
    placement: Placement,
    slots: u16,
    mask: Mask,
}

/// What happens before the policy is compared with the host once more.
#[derive(Clone, Debug)]
enum Turn {
    Nothing,
    /// A guest ends.
    Ends(Index),
    /// Its interrupts are made anew, under the default mask.
    Reset(Index),
    /// Its vectors go to another vCPU.
    Moves(Index, u32),
    /// Somebody else sets a target.
    Foreign(Index, Mask),
    /// Somebody else sets a target to what vfprobe has written there before.
    Former(Index, Index),
}

fn any_mask() -> impl Strategy<Value = Mask> {
    proptest::collection::btree_set(0_u32..16, 1..6)
}

fn any_wish() -> impl Strategy<Value = Wish> {
    let pins = prop_oneof![3 => Just(None), 1 => Just(Some(None)), 3 => any_mask().prop_map(|mask| Some(Some(mask)))];
    let placements = select(vec![Placement::Own, Placement::Near, Placement::Housekeeping, Placement::Keep]);
    (1_u32..3, pins, placements, 0_u16..3, any_mask())
        .prop_map(|(vcpus, pins, placement, slots, mask)| Wish { vcpus, pins, placement, slots, mask })
}

fn any_turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        Just(Turn::Nothing),
        any::<Index>().prop_map(Turn::Ends),
        any::<Index>().prop_map(Turn::Reset),
        (any::<Index>(), 0_u32..3).prop_map(|(guest, vcpu)| Turn::Moves(guest, vcpu)),
        (any::<Index>(), any_mask()).prop_map(|(target, mask)| Turn::Foreign(target, mask)),
        (any::<Index>(), any::<Index>()).prop_map(|(target, value)| Turn::Former(target, value)),
    ]
}

fn any_failure() -> impl Strategy<Value = Event> {
    let refusals = [Event::Managed, Event::NoVector, Event::Invalid, Event::TooHigh, Event::Trimmed];
    select([&refusals[..], &[Event::KilledBefore, Event::KilledAfter]].concat())
}

/// A policy kept on a host in memory. `topology` is what was read of it last.
struct Keeper {
    topology: Topology,
    host: MemoryHost,
    policy: Policy,
    lock: StateLock,
    /// What somebody else has written or the kernel has made anew: nobody knows any more what it was.
    touched: BTreeSet<TargetKey>,
    _dir: tempfile::TempDir,
}

fn targets(topology: &Topology) -> Vec<(Target, CpuSet, Option<CpuSet>)> {
    let default = topology.default_affinity.clone().map(|cpus| (Target::DefaultAffinity, cpus, None));
    let irqs = topology.irqs.iter().filter_map(|irq| {
        let target = IrqTarget { number: irq.number, actions: irq.actions.clone(), vector: None };
        Some((Target::Irq(target), irq.affinity.clone()?, irq.effective_affinity.clone()))
    });
    let threads = topology.guests.iter().flat_map(|guest| {
        let threads = guest.threads.iter().chain(guest.vcpus.iter().map(|vcpu| &vcpu.thread));
        threads.map(|thread| {
            let (tid, start_time, comm) = (thread.tid, thread.start_time, thread.comm.clone());
            let target = ThreadTarget { pid: guest.pid, tid, start_time, comm, role: Role::Host };
            (Target::Thread(target), thread.affinity.clone(), None)
        })
    });
    default.into_iter().chain(irqs).chain(threads).collect()
}

impl Keeper {
    fn new(shape: HostShape, others: &[Mask], wishes: &[Wish], [irqs, default]: [Others; 2]) -> Self {
        let mut topology = host(shape);
        let all = topology.cpus.len();
        let cpus = |mask: &Mask| -> CpuSet {
            let all = u32::try_from(all).unwrap();
            mask.iter().map(|cpu| CpuId(cpu % all)).collect()
        };
        topology.irqs = others
            .iter()
            .zip(24..)
            .map(|(mask, n)| irq(n, &format!("x{n}"), &cpus(mask).to_string()))
            .collect();
        let mut tables = Vec::new();
        for ((wish, at), number) in wishes.iter().zip(0..).zip(1_u32..) {
            let mut guest = guest(&format!("vm{number}"), wish.vcpus, None);
            let threads = guest.threads.iter_mut().chain(guest.vcpus.iter_mut().map(|vcpu| &mut vcpu.thread));
            threads.for_each(|thread| thread.affinity = topology.cpus.iter().map(|cpu| cpu.id).collect());
            let pins = match &wish.pins {
                None => Pins::Auto,
                Some(None) => Pins::Keep,
                Some(Some(mask)) => Pins::Cpus(cpus(mask).iter().collect()),
            };
            tables.push(Policy::for_guest(&guest.name, pins, wish.placement));
            topology.guests.push(guest);
            add_slots(&mut topology, at, 40 + 10 * number, wish.slots, &cpus(&wish.mask).to_string());
        }
        let mut policy = tables[0].clone();
        policy.guests = tables.into_iter().flat_map(|table| table.guests).collect();
        (policy.irqs, policy.default_affinity) = (irqs, default);
        let memory = MemoryHost::default();
        for (target, cpus, effective) in targets(&topology) {
            memory.add(target, cpus, effective);
        }
        let dir = state_dir();
        let lock = StateDir::new(dir.path()).lock().unwrap();
        Self { topology, host: memory, policy, lock, touched: BTreeSet::new(), _dir: dir }
    }

    /// Each target that is there with its value.
    fn values(&self) -> BTreeMap<TargetKey, Value> {
        self.host.snapshot().into_iter().map(|(key, slot)| (key, slot.value)).collect()
    }

    /// The same of what nobody else has had a hand in.
    fn untouched(&self, mut values: BTreeMap<TargetKey, Value>) -> BTreeMap<TargetKey, Value> {
        let there = self.host.snapshot();
        values.retain(|key, _| there.contains_key(key) && !self.touched.contains(key));
        values
    }

    /// Reads the host.
    fn read(&mut self) {
        let found = self.host.snapshot();
        let cpus = |key: &TargetKey| found.get(key).and_then(|slot| slot.value.cpus().cloned());
        self.topology.default_affinity = cpus(&TargetKey::DefaultAffinity);
        for irq in &mut self.topology.irqs {
            let key = TargetKey::Irq(irq.number, irq.actions.clone());
            irq.affinity = cpus(&key);
            irq.effective_affinity = found.get(&key).and_then(|slot| slot.effective.clone());
            let slots = self.topology.guests.iter_mut().flat_map(|guest| &mut guest.vfs);
            for slot in slots.flat_map(|vf| &mut vf.slots).filter(|slot| slot.irq == irq.number) {
                slot.affinity.clone_from(&irq.affinity);
                slot.effective_affinity.clone_from(&irq.effective_affinity);
            }
        }
        for guest in &mut self.topology.guests {
            for thread in guest.threads.iter_mut().chain(guest.vcpus.iter_mut().map(|vcpu| &mut vcpu.thread))
            {
                thread.affinity = cpus(&TargetKey::Thread(thread.tid, thread.start_time)).unwrap();
            }
        }
    }

    fn happens(&mut self, turn: Turn) {
        let standing = self.lock.dir().load().unwrap().standing();
        let guests = self.topology.guests.len();
        match turn {
            Turn::Nothing => {}
            // One stays: without any there is nothing to keep.
            Turn::Ends(which) if guests > 1 => {
                let guest = self.topology.guests.remove(which.index(guests));
                self.policy.guests.retain(|table| table.guest != guest.name);
                let gone: BTreeSet<_> =
                    guest.vfs.iter().flat_map(|vf| &vf.slots).map(|slot| slot.irq).collect();
                self.topology.irqs.retain(|irq| !gone.contains(&irq.number));
                let there: BTreeSet<_> =
                    targets(&self.topology).iter().map(|(target, ..)| target.key()).collect();
                self.host
                    .snapshot()
                    .keys()
                    .filter(|key| !there.contains(key))
                    .for_each(|key| self.host.remove(key));
            }
            Turn::Reset(which) => {
                let default = self.topology.default_affinity.clone().unwrap();
                let slots = self.topology.guests[which.index(guests)].vfs.iter().flat_map(|vf| &vf.slots);
                let numbers: BTreeSet<_> = slots.map(|slot| slot.irq).collect();
                for irq in self.topology.irqs.iter().filter(|irq| numbers.contains(&irq.number)) {
                    let key = TargetKey::Irq(irq.number, irq.actions.clone());
                    self.host.set(&key, default.clone());
                    self.touched.insert(key);
                }
            }
            Turn::Moves(which, vcpu) => {
                let guest = &mut self.topology.guests[which.index(guests)];
                let vcpu = VcpuId(vcpu % u32::try_from(guest.vcpus.len()).unwrap());
                let slots = guest.vfs.iter_mut().flat_map(|vf| &mut vf.slots);
                slots.for_each(|slot| slot.vcpu = Some(vcpu));
            }
            Turn::Foreign(which, mask) => {
                let all = u32::try_from(self.topology.cpus.len()).unwrap();
                let keys: Vec<TargetKey> = self.host.snapshot().into_keys().collect();
                let key = which.get(&keys);
                self.host.set(key, mask.iter().map(|cpu| CpuId(cpu % all)).collect());
                self.touched.insert(key.clone());
            }
            Turn::Former(which, value) if !standing.is_empty() => {
                let item = which.get(&standing);
                self.host.set(&item.target.key(), value.get(&item.ours).cpus().unwrap().clone());
            }
            Turn::Ends(_) | Turn::Former(..) => {}
        }
        self.read();
    }

    fn plan(&self) -> Result<Renewed, PlanError> {
        let journal = self.lock.dir().load().unwrap();
        let (owners, immovable) = (Owners::default(), journal.immovable().collect());
        let facts = Facts {
            topology: &self.topology,
            threads: &[],
            knobs: &[],
            owners: &owners,
            virtual_apic: Some(false),
            seen: None,
            immovable: &immovable,
            fixed: &BTreeSet::new(),
        };
        let renewed = plan_again(&facts, &self.policy, &journal.standing())?;
        if journal.lines == 0 && renewed.held.is_empty() {
            assert_eq!(Ok(&renewed.plan), plan(&facts, &self.policy).as_ref(), "nothing stands in the way");
        }
        Ok(renewed)
    }

    fn apply(&self, plan: &Plan) -> Result<(), ApplyError> {
        let options = Options { settle: Duration::ZERO, ..Options::new() };
        apply(&self.host, plan, &self.lock, &options).map(|_| ())
    }

    fn undo(&mut self) {
        let options = RollbackOptions { settle: Duration::ZERO, salvage: false };
        assert!(rollback(&self.host, &self.lock, &options).unwrap().is_complete());
        self.read();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_was_done_is_undone(
        (nodes, cores, threads) in (1_u32..3, 2_u32..5, 1_u32..3),
        others in proptest::collection::vec(any_mask(), 0..4),
        wishes in proptest::collection::vec(any_wish(), 1..4),
        kept in proptest::array::uniform2(select(vec![Others::Move, Others::Keep])),
        turns in proptest::collection::vec((any_turn(), proptest::option::of((0_u32..12, any_failure()))), 1..6),
    ) {
        let mut keeper = Keeper::new(HostShape { nodes, cores, threads }, &others, &wishes, kept);
        let before = keeper.values();
        for (turn, failure) in turns {
            keeper.happens(turn);
            release(&keeper.host, &keeper.lock, &|_, _| false).unwrap();
            let Ok(Renewed { plan, ceded, .. }) = keeper.plan() else { continue };
            release(&keeper.host, &keeper.lock, &|item, _| ceded.contains(&item.target.key())).unwrap();
            let prior = keeper.values();
            if let Some((at, event)) = failure.clone() {
                keeper.host.at_write(at, event);
            }
            let outcome = unless_killed(|| keeper.apply(&plan));
            keeper.host.calm();
            keeper.read();
            match outcome {
                Some(Ok(())) => {
                    // Whoever looks again finds nothing to do, but for what was refused.
                    let steps = keeper.plan().unwrap().plan.steps;
                    prop_assert!(failure.is_some() || steps.is_empty(), "{:?}", steps);
                }
                Some(Err(ApplyError::RolledBack(_))) => prop_assert_eq!(keeper.values(), prior),
                Some(Err(error)) => prop_assert!(false, "{}", error),
                // The next vfprobe undoes what a killed one has left.
                None => {
                    keeper.undo();
                    prop_assert_eq!(keeper.untouched(keeper.values()), keeper.untouched(before.clone()));
                }
            }
        }
        keeper.undo();
        prop_assert_eq!(keeper.untouched(keeper.values()), keeper.untouched(before));
    }
}
