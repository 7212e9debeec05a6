//! Others that set what the plan sets: what is agreed with them, and what the plan says of them.

use super::pins::Assigned;
use super::planner::Draft;
use super::policy::Irqbalance;
use super::{Need, Others, Placement, Policy, Step, Target, TargetKey};
use crate::model::owners::{Irqbalance as Running, IrqbalanceSetup, Owners, Tuned, bans_value};
use crate::model::topology::{DeliveryMode, Topology};
use crate::model::{IrqNumber, Knob};
use std::collections::BTreeSet;

/// Has irqbalance leave alone what is placed here. It comes first: until its next scan irqbalance moves nothing, and then
/// it knows.
pub(super) fn irqbalance(
    draft: &mut Draft<'_>,
    policy: &Policy,
    topology: &Topology,
    assigned: &[Assigned<'_>],
) {
    let Some(Running { pid, start_time, setup }) = &draft.owners.irqbalance else { return };
    let moves = "it may move the interrupts that are placed here";
    if policy.irqbalance == Irqbalance::Keep {
        return draft.note(format!("irqbalance (pid {pid}) is left alone, as the policy says: {moves}"));
    }
    let IrqbalanceSetup { bans, cpus } = match setup {
        Ok(setup) => setup,
        Err(why) => {
            return draft.note(format!(
                "irqbalance (pid {pid}) runs and cannot be told to leave interrupts alone ({why}): {moves}; stop it \
                 (systemctl stop irqbalance)"
            ));
        }
    };
    let mut ours: BTreeSet<IrqNumber> = assigned
        .iter()
        .flat_map(|a| a.guest.vfs.iter().filter(|vf| a.policy.placement_of(vf.address) != Placement::Keep))
        .flat_map(|vf| &vf.slots)
        .filter(|slot| slot.mode != DeliveryMode::Posted)
        .map(|slot| slot.irq)
        .collect();
    let guarded = &draft.ground.guarded;
    let mut reason = "irqbalance leaves the interrupts that are placed here alone".to_owned();
    if policy.irqs == Others::Move && !guarded.is_subset(cpus) {
        let others = topology.irqs.iter().filter(|irq| !irq.actions.is_empty());
        ours.extend(
            others
                .filter(|irq| !draft.is_immovable(&TargetKey::Irq(irq.number, irq.actions.clone())))
                .map(|irq| irq.number),
        );
        reason = format!(
            "irqbalance moves no interrupt to a guarded CPU; with IRQBALANCE_BANNED_CPULIST={guarded} it would keep \
             the others"
        );
    }
    // Its protocol has no word for interrupt 0, the timer, which nobody moves.
    ours.remove(&IrqNumber(0));
    let new = bans.union(&ours).copied().collect();
    draft.push(Step {
        target: Target::Knob(Knob::IrqbalanceBans { pid: *pid, start_time: *start_time }),
        now: bans_value(bans),
        effective: None,
        new: bans_value(&new),
        // Gone, it needs no list.
        need: Need::WhilePresent,
        reason,
    });
}

/// Says who else is there, and what is not known of them.
pub(super) fn name_others(draft: &mut Draft<'_>, assigned: &[Assigned<'_>]) {
    let Owners { tuned, unknown_pins, .. } = draft.owners;
    for name in assigned.iter().map(|assigned| &assigned.guest.name) {
        if let Some(why) = unknown_pins.get(name) {
            draft.note(format!(
                "pins that libvirt has set for {name} are not seen ({why}): compare with virsh vcpupin"
            ));
        }
    }
    if let Some(Tuned { pid, profile }) = tuned {
        let profile = profile.as_deref().unwrap_or("not known");
        draft.note(format!(
            "tuned (pid {pid}, profile {profile}) sets affinities and knobs of its own when its profile is applied: what \
             is planned here comes on top, and is not in that profile"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::owners::{Cpuset, Limiter};
    use crate::model::{CpuSet, Pid, Tid};
    use crate::plan::testing::{HostShape, add_slots, cpus, guest, host, irq};
    use crate::plan::{Facts, Pins, Plan, PlanError, plan};

    fn topology() -> Topology {
        let mut topology = host(HostShape { nodes: 1, cores: 4, threads: 1 });
        topology.guests = vec![guest("vm1", 2, None)];
        topology.irqs = vec![irq(0, "timer", "0-1"), irq(24, "nvme0q1", "0"), irq(25, "", "0-3")];
        add_slots(&mut topology, 0, 30, 2, "0-3");
        topology
    }

    fn plan_of(owners: &Owners, policy: &Policy) -> Result<Plan, PlanError> {
        let (topology, immovable) = (topology(), BTreeSet::new());
        plan(
            &Facts {
                topology: &topology,
                threads: &[],
                knobs: &[],
                owners,
                virtual_apic: None,
                seen: None,
                immovable: &immovable,
                fixed: &BTreeSet::new(),
            },
            policy,
        )
    }

    fn policy(pins: Pins) -> Policy {
        Policy::for_guest("vm1", pins, Placement::Own)
    }

    fn list(list: &str) -> Pins {
        Pins::Cpus(cpus(list).iter().collect())
    }

    fn running(bans: &[u32], cpus: &str) -> Owners {
        let setup = IrqbalanceSetup {
            bans: bans.iter().copied().map(IrqNumber).collect(),
            cpus: cpus.parse().unwrap(),
        };
        let irqbalance = Some(Running { pid: Pid(70), start_time: 5, setup: Ok(setup) });
        Owners { irqbalance, ..Owners::default() }
    }

    fn bans(owners: &Owners, policy: &Policy) -> Option<String> {
        let plan = plan_of(owners, policy).unwrap();
        let is_ban = |step: &&Step| matches!(step.target, Target::Knob(Knob::IrqbalanceBans { .. }));
        let at = plan.steps.iter().position(|step| is_ban(&step));
        assert!(at.is_none_or(|at| at == 0), "it comes first");
        plan.steps.iter().find(is_ban).map(|step| format!("{} -> {}", step.now, step.new))
    }

    #[test]
    fn irqbalance_is_told_what_is_placed_here() {
        let mut policy = policy(list("2-3"));
        let check = |owners: &Owners, policy: &Policy, expected: Option<&str>| {
            assert_eq!(bans(owners, policy).as_deref(), expected);
        };
        // It knows of no guarded CPU, so it is to leave all interrupts that have a handler alone.
        check(&running(&[], ""), &policy, Some("none -> 24 30 31"));
        check(&running(&[7, 24], ""), &policy, Some("7 24 -> 7 24 30 31"));
        check(&running(&[7, 24, 30, 31], ""), &policy, None);
        check(&running(&[], "2-3"), &policy, Some("none -> 30 31"));
        policy.irqs = Others::Keep;
        check(&running(&[], ""), &policy, Some("none -> 30 31"));
        policy.guests[0].placement = Placement::Keep;
        check(&running(&[], ""), &policy, None);
        check(&Owners::default(), &policy, None);
    }

    #[test]
    fn those_that_cannot_be_told_are_named() {
        let check = |owners: &Owners, policy: &Policy, expected: &str| {
            let plan = plan_of(owners, policy).unwrap();
            assert!(plan.notes.iter().any(|note| note.starts_with(expected)), "{expected}: {:?}", plan.notes);
        };
        let mut policy = policy(list("2-3"));
        let mut mute = running(&[], "");
        mute.irqbalance.as_mut().unwrap().setup = Err("no such file".to_owned());
        check(
            &mute,
            &policy,
            "irqbalance (pid 70) runs and cannot be told to leave interrupts alone (no such file)",
        );
        policy.irqbalance = Irqbalance::Keep;
        check(&running(&[], ""), &policy, "irqbalance (pid 70) is left alone, as the policy says");
        assert_eq!(bans(&running(&[], ""), &policy), None);
        let tuned = Some(Tuned { pid: Pid(71), profile: Some("balanced".to_owned()) });
        check(&Owners { tuned, ..Owners::default() }, &policy, "tuned (pid 71, profile balanced) sets");
    }

    fn limits(of: &[(u32, &str, &str)]) -> Owners {
        let limit = |(tid, cpus, group): &(u32, &str, &str)| {
            let by = match *group {
                "vcpupin" => Limiter::LibvirtPin("vcpupin"),
                path => Limiter::Group(path.to_owned()),
            };
            (Tid(*tid), Cpuset { cpus: cpus.parse().unwrap(), by })
        };
        Owners { cpusets: of.iter().map(limit).collect(), ..Owners::default() }
    }

    /// vCPUs are threads 1010 and 1011, the emulator is 1000.
    #[test]
    fn limits_of_control_groups_are_respected() {
        const LIBVIRT: &str = r"/machine.slice/machine-qemu\x2d1\x2dvm1.scope/libvirt/vcpu0";
        let pins = |owners: &Owners, wanted: Pins| -> Result<String, String> {
            let plan = plan_of(owners, &policy(wanted)).map_err(|error| error.to_string())?;
            let of_threads = plan.steps.iter().filter(|step| matches!(step.target, Target::Thread(_)));
            Ok(of_threads.map(|step| step.new.to_string()).collect::<Vec<_>>().join(" "))
        };
        let refused = |found: Result<String, String>, expected: &str| {
            let error = found.unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        let first_on = |cpus: &'static str| limits(&[(1010, cpus, LIBVIRT)]);
        refused(pins(&first_on("1"), list("2-3")), "vCPU 0 of guest \"vm1\" may only use CPUs 1");
        refused(pins(&first_on("1"), list("2-3")), "virsh vcpupin");
        assert_eq!(pins(&first_on("2"), list("2-3")), Ok("0-1 2 3".to_owned()));
        // libvirt's pin counts where it keeps no group.
        let pinned = limits(&[(1010, "1", "vcpupin")]);
        refused(
            pins(&pinned, list("2-3")),
            "may only use CPUs 1, not 2: libvirt's vcpupin says so; libvirt set that",
        );
        assert_eq!(pins(&pinned, Pins::Auto), Ok("0,3 1 2".to_owned()));
        // What is chosen is chosen within the limit; without one it would be 1 and 2.
        assert_eq!(pins(&first_on("3"), Pins::Auto), Ok("0,2 3 1".to_owned()));
        let pod = "/kubepods.slice/kubepods-podx.slice/y.scope";
        let both = limits(&[(1010, "3", pod), (1011, "3", pod)]);
        refused(pins(&both, Pins::Auto), "no CPU that is free");
        refused(pins(&both, Pins::Auto), "the kubelet");
        // The emulator may only use what is guarded: it stays.
        let emulator = limits(&[(1000, "2-3", "/x.slice")]);
        assert_eq!(pins(&emulator, list("2-3")), Ok("2 3".to_owned()));
        let plan = plan_of(&emulator, &policy(list("2-3"))).unwrap();
        assert!(
            plan.notes.iter().any(|note| note.contains("/x.slice allows it no other CPU")),
            "{:?}",
            plan.notes
        );
        let partly = limits(&[(1000, "1-3", "/x.slice")]);
        assert_eq!(pins(&partly, list("0,2-3")), Ok("1 0 2".to_owned()));
    }

    #[test]
    fn pins_that_are_not_seen_are_told_of_the_policys_guests() {
        let unknown = |name: &str| (name.to_owned(), "virsh is not installed".to_owned());
        let owners = Owners { unknown_pins: [unknown("vm1"), unknown("vm2")].into(), ..Owners::default() };
        let plan = plan_of(&owners, &policy(list("2-3"))).unwrap();
        let told: Vec<&String> = plan.notes.iter().filter(|note| note.contains("virsh")).collect();
        assert_eq!(
            told,
            [
                "pins that libvirt has set for vm1 are not seen (virsh is not installed): compare with virsh vcpupin"
            ]
        );
    }

    #[test]
    fn cpus_of_containers_are_not_promised() {
        let owners = |group: Option<&str>| {
            let limit = group.map(|group| [(1010, "1-3", group), (1011, "1-3", group)]);
            let limits = limits(limit.as_ref().map_or(&[], |limit| &limit[..]));
            Owners { containers: cpus("1-2"), ..limits }
        };
        let guarded = |owners: &Owners, pins: Pins| -> Result<CpuSet, String> {
            plan_of(owners, &policy(pins)).map(|plan| plan.guarded).map_err(|error| error.to_string())
        };
        let error = guarded(&owners(None), list("2-3")).unwrap_err();
        assert!(
            error.starts_with("CPU 2 is promised to guest \"vm1\", but a container has it alone"),
            "{error}"
        );
        let error = guarded(&owners(None), Pins::Auto).unwrap_err();
        assert!(error.contains("only 2 of the online CPUs"), "{error}");
        // The guest is a pod's: these are its own.
        assert_eq!(guarded(&owners(Some("/kubepods/pod1/x")), list("1-2")), Ok(cpus("1-2")));
    }
}
