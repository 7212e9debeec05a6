//! Plans for generated hosts of the size that they have in the field, by card: two sockets, SMT, 128 CPUs, 63 VFs on one PF.

use super::control::make_plan;
use super::vectors::Looked;
use crate::apply::StateDir;
use crate::host::fixture::{Card, ICE, IXGBE, LARGE, Large, MLX5, generate};
use crate::host::{HostRoot, read_topology};
use crate::model::topology::{Cpu, Topology};
use crate::model::{CpuId, CpuSet, NumaNode};
use crate::plan::{Pins, Placement, Plan, Policy, Role, Target, VectorName};

/// CPUs of the card's node, and the others.
const NEAR: &str = "32-63,96-127";
const FAR: &str = "0-31,64-95";

struct Host {
    topology: Topology,
    root: HostRoot,
    _tree: crate::host::fixture::Tree,
}

impl Host {
    /// Guests of 2 vCPUs, each pinned to one CPU with both, as nobody would leave them.
    fn of(card: Card, guests: u32) -> Self {
        let tree = generate(&Large { card, guests, vcpus: 2, slots: 3, ..LARGE });
        let root = tree.root();
        Self { topology: read_topology(&root), root, _tree: tree }
    }

    fn plan(&self, policy: &Policy) -> Plan {
        let state = StateDir::new(self.root.run.join("vfprobe"));
        make_plan(&self.root, &state, policy, &Looked::Needless).unwrap()
    }

    fn cpu(&self, id: CpuId) -> &Cpu {
        self.topology.cpus.iter().find(|cpu| cpu.id == id).unwrap()
    }

    /// The CPUs on which guests outside the policy are pinned.
    fn others(&self, plan: &Plan) -> CpuSet {
        let others = self.topology.guests.iter().filter(|guest| !plan.guests.contains(&guest.name));
        others.flat_map(|guest| &guest.vcpus).filter_map(|vcpu| vcpu.thread.affinity.only()).collect()
    }

    /// What holds whatever the placement: each vCPU has a CPU that nobody else has, all alone on its core, and of what is no
    /// vector of these guests nothing stays on it.
    fn check_pins(&self, plan: &Plan, guests: usize) -> Vec<CpuId> {
        let others = self.others(plan);
        let pins: Vec<CpuId> = plan
            .steps
            .iter()
            .filter(|step| matches!(&step.target, Target::Thread(thread) if matches!(thread.role, Role::Vcpu { .. })))
            .map(|step| step.new.cpus().and_then(CpuSet::only).unwrap())
            .collect();
        assert_eq!((plan.guests.len(), pins.len()), (guests, guests * 2));
        assert_eq!(plan.guarded, pins.iter().copied().collect(), "each has its own");
        assert_eq!(plan.guarded.len(), pins.len());
        for pin in &pins {
            let beside = &self.cpu(*pin).siblings;
            assert_eq!(
                beside.intersection(&plan.guarded),
                (*pin).into(),
                "CPU {pin} shares a core with a vCPU"
            );
            assert!(beside.intersection(&others).is_empty(), "CPU {pin} is beside another guest's");
        }
        assert!(plan.housekeeping.intersection(&plan.guarded).is_empty());
        let eth0 = plan.steps.iter().filter(
            |step| matches!(&step.target, Target::Irq(irq) if irq.vector.is_none() || self.is_of_others(plan, irq.vector)),
        );
        let mut moved = 0;
        for step in eth0 {
            assert_eq!(
                *step.new.cpus().unwrap(),
                self.topology.online().difference(&plan.guarded),
                "{}",
                step.target
            );
            moved += 1;
        }
        assert_eq!(moved, self.topology.irqs.len() - guests * 3, "all but these guests' vectors");
        pins
    }

    fn is_of_others(&self, plan: &Plan, vector: Option<VectorName>) -> bool {
        !vector.is_some_and(|vector| {
            let ours = self.topology.guests.iter().filter(|guest| plan.guests.contains(&guest.name));
            ours.flat_map(|guest| &guest.vfs).any(|vf| vf.address == vector.vf)
        })
    }

    /// Where the vectors of these guests go, three each.
    fn vectors(&self, plan: &Plan) -> Vec<CpuSet> {
        let ours = |target: &Target| matches!(target, Target::Irq(irq) if irq.vector.is_some() && !self.is_of_others(plan, irq.vector));
        plan.steps
            .iter()
            .filter(|step| ours(&step.target))
            .map(|step| step.new.cpus().unwrap().clone())
            .collect()
    }
}

#[test]
fn every_card_has_its_guests_placed_near_it() {
    for card in [IXGBE, ICE, MLX5] {
        // vm10 to vm19 are the policy's; vm0 to vm9 and the rest stay on CPUs 0-9 and 20-23.
        let host = Host::of(card, 24);
        let near: CpuSet = NEAR.parse().unwrap();
        for placement in [Placement::Own, Placement::Near, Placement::Auto] {
            let plan = host.plan(&Policy::for_guest("vm1?", Pins::Auto, placement));
            let pins = host.check_pins(&plan, 10);
            assert!(plan.guarded.is_subset(&near), "{} {placement}: {}", card.driver, plan.guarded);
            let vectors = host.vectors(&plan);
            assert_eq!(vectors.len(), 30, "{} {placement}", card.driver);
            for (at, cpus) in vectors.iter().enumerate() {
                let what = format!("{} {placement}: vector {at} to {cpus}", card.driver);
                let own = pins[at / 3 * 2 + at % 3 % 2];
                if placement == Placement::Own {
                    assert_eq!(*cpus, own.into(), "{what}");
                    continue;
                }
                // APICv is on, so `auto` is `near`: one CPU of the vCPU's cache, on a core without vCPUs.
                let cpu = host.cpu(cpus.only().unwrap());
                assert!(plan.housekeeping.contains(cpu.id) && host.cpu(own).llc.contains(cpu.id), "{what}");
                assert!(cpu.siblings.intersection(&plan.guarded).is_empty(), "{what}");
            }
            let near_reason =
                plan.steps.iter().any(|step| step.reason.contains("APICv or AVIC lets the guest go on"));
            assert_eq!(near_reason, placement == Placement::Auto);
        }
    }
}

#[test]
fn a_full_node_is_left_before_a_core_is_shared() {
    for card in [IXGBE, ICE, MLX5] {
        // 56 vCPUs: 32 cores on the card's node, and 24 of the other's.
        let host = Host::of(card, 28);
        let plan = host.plan(&Policy::for_guest("vm*", Pins::Auto, Placement::Own));
        host.check_pins(&plan, 28);
        let on = |cpus: &str| plan.guarded.intersection(&cpus.parse().unwrap()).len();
        assert_eq!((on(NEAR), on(FAR)), (32, 24), "{}", card.driver);
        assert!(!plan.guarded.contains(CpuId(0)));
        assert_eq!(host.cpu(plan.guarded.first().unwrap()).node, Some(NumaNode(0)));
    }
}

#[test]
fn named_housekeeping_cpus_take_everything_on_a_large_host() {
    let host = Host::of(ICE, 24);
    let kept: CpuSet = "0-1,32-33".parse().unwrap();
    let policy =
        Policy { housekeeping: Some(kept.clone()), ..Policy::for_guest("vm1?", Pins::Auto, Placement::Near) };
    let plan = host.plan(&policy);
    assert!(plan.guarded.is_subset(&NEAR.parse().unwrap()) && plan.guarded.intersection(&kept).is_empty());
    for step in &plan.steps {
        let new = step.new.cpus().unwrap();
        let is_pin = new.is_subset(&plan.guarded);
        assert!(is_pin || new.is_subset(&kept), "{}: {new}", step.target);
    }
    assert!(host.vectors(&plan).iter().all(|cpus| cpus.is_subset(&"32-33".parse().unwrap())));
}
