//! A guest's threads that are not vCPUs: what kind each is, and where the policy wants it.

use super::planner::{Draft, thread_target};
use super::{GuestPolicy, Need, PlanError, Role, Step, ThreadRules, Threads, pins};
use crate::model::CpuSet;
use crate::model::owners::Owners;
use crate::model::topology::{Guest, Thread, Topology};

/// What a thread does for its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The VMM's main loop and whatever is not known to be something else.
    Emulator,
    /// An I/O thread.
    Io,
    /// It copies packets between the host's network stack and the guest.
    Vhost,
}

impl Kind {
    /// By name: `vhost-PID` (drivers/vhost/vhost.c, kernel threads and those inside the VMM alike); `IO ID` for QEMU's
    /// I/O threads (iothread.c), as long as QEMU names its threads (`debug-threads=on`, which libvirt sets).
    fn of(thread: &Thread) -> Self {
        if thread.comm.starts_with("vhost-") {
            Self::Vhost
        } else if thread.comm.starts_with("IO ") {
            Self::Io
        } else {
            Self::Emulator
        }
    }

    fn rule(self, rules: &ThreadRules) -> &Threads {
        match self {
            Self::Emulator => &rules.emulator,
            Self::Io => &rules.io,
            Self::Vhost => &rules.vhost,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Emulator => "emulator",
            Self::Io => "I/O",
            Self::Vhost => "vhost",
        }
    }
}

/// Checks the CPUs that the policy gives such threads against the host.
pub(super) fn check(
    topology: &Topology,
    owners: &Owners,
    policy: &GuestPolicy,
    guest: &Guest,
    guarded: &CpuSet,
) -> Result<(), PlanError> {
    let ThreadRules { emulator, io, vhost } = &policy.threads;
    for rule in [emulator, io, vhost] {
        let Threads::Cpus(wanted) = rule else { continue };
        pins::check_cpus(topology, wanted.iter())?;
        if let Some(cpu) = wanted.intersection(guarded).first() {
            return Err(PlanError::HelperOnGuarded { guest: guest.name.clone(), cpu });
        }
    }
    for thread in &guest.threads {
        let Threads::Cpus(wanted) = Kind::of(thread).rule(&policy.threads) else { continue };
        let Some(limit) = owners.cpusets.get(&thread.tid) else { continue };
        if let Some(cpu) = wanted.difference(&limit.cpus).first() {
            let what = format!("thread {} {}", thread.tid, thread.comm);
            let limit = Box::new(limit.clone());
            return Err(PlanError::OutsideCpuset { guest: guest.name.clone(), what, cpu, limit });
        }
    }
    Ok(())
}

/// Adds the steps for the guest's threads that are not vCPUs.
pub(super) fn place(draft: &mut Draft<'_>, rules: &ThreadRules, guest: &Guest) {
    for thread in &guest.threads {
        let kind = Kind::of(thread);
        let target = thread_target(guest.pid, thread, Role::Emulator { guest: guest.name.clone() });
        match kind.rule(rules) {
            Threads::Keep => {}
            Threads::Housekeeping => draft.keep_off(
                target,
                &thread.affinity,
                None,
                Need::WhilePresent,
                format!("works for {} but runs no vCPU", guest.name),
            ),
            Threads::Cpus(cpus) => draft.push(Step {
                target,
                now: thread.affinity.clone().into(),
                effective: None,
                new: cpus.clone().into(),
                need: Need::WhilePresent,
                reason: format!("the policy gives {} threads of {} CPUs {cpus}", kind.as_str(), guest.name),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CpuId;
    use crate::plan::testing::{HostShape, cpus, guest, host, settled, thread};
    use crate::plan::{Facts, Pins, Placement, Plan, Policy, plan};
    use std::collections::BTreeSet;

    #[test]
    fn kinds() {
        for (comm, expected) in [
            ("vhost-4711", Kind::Vhost),
            ("IO iothread1", Kind::Io),
            ("IO mon_iothread", Kind::Io),
            ("qemu-system-x86", Kind::Emulator),
            ("worker", Kind::Emulator),
            ("IOthread", Kind::Emulator),
            ("kvm-pit/7", Kind::Emulator),
        ] {
            assert_eq!(Kind::of(&thread(1, comm, "0")), expected, "{comm}");
        }
    }

    fn topology() -> Topology {
        let mut topology = host(HostShape { nodes: 1, cores: 4, threads: 1 });
        let mut vm1 = guest("vm1", 1, None);
        vm1.threads.extend([thread(1001, "IO iothread1", "0-3"), thread(1002, "vhost-1000", "0-3")]);
        topology.guests = vec![vm1];
        topology
    }

    fn plan_for(topology: &Topology, threads: ThreadRules) -> Result<Plan, PlanError> {
        let mut policy = Policy::for_guest("vm1", Pins::Cpus(vec![CpuId(3)]), Placement::Keep);
        policy.guests[0].threads = threads;
        plan(
            &Facts {
                topology,
                threads: &[],
                knobs: &[],
                owners: &Owners::default(),
                virtual_apic: None,
                seen: None,
                immovable: &BTreeSet::new(),
                fixed: &BTreeSet::new(),
            },
            &policy,
        )
    }

    fn rules([emulator, io, vhost]: [&str; 3]) -> ThreadRules {
        let [emulator, io, vhost] = [emulator, io, vhost].map(|text| match text {
            "keep" => Threads::Keep,
            "" => Threads::Housekeeping,
            list => Threads::Cpus(cpus(list)),
        });
        ThreadRules { emulator, io, vhost }
    }

    #[test]
    fn each_kind_goes_where_its_rule_says() {
        let check = |wanted: [&str; 3], expected: &[&str]| {
            let mut topology = topology();
            let plan = plan_for(&topology, rules(wanted)).unwrap();
            let steps = plan.steps.iter().filter(|s| matches!(s.target, super::super::Target::Thread(_)));
            let lines: Vec<String> = steps.map(|s| format!("{}: {} -> {}", s.target, s.now, s.new)).collect();
            let (vcpu, helpers) = lines.split_last().unwrap();
            assert_eq!(vcpu, "vm1 vCPU 0 (thread 1010): 0-3 -> 3");
            assert_eq!(helpers, expected, "{wanted:?}");
            (topology, _) = settled(&topology, &[], &plan);
            assert_eq!(plan_for(&topology, rules(wanted)).unwrap().steps, [], "{wanted:?}");
        };
        let (qemu, io, vhost) =
            ("vm1 thread 1000 qemu", "vm1 thread 1001 IO iothread1", "vm1 thread 1002 vhost-1000");
        let line = |thread: &str, new: &str| format!("{thread}: 0-3 -> {new}");
        check(["", "", ""], &[&line(qemu, "0-2"), &line(io, "0-2"), &line(vhost, "0-2")]);
        check(["keep", "1", "2"], &[&line(io, "1"), &line(vhost, "2")]);
        check(["0", "keep", "1-2"], &[&line(qemu, "0"), &line(vhost, "1-2")]);
        check(["keep", "keep", "keep"], &[]);
    }

    #[test]
    fn cpus_that_cannot_be_given() {
        let mut topology = topology();
        topology.cpus[2].online = false;
        for (wanted, expected) in [
            (["", "", "9"], "CPU 9 does not exist"),
            (["", "2", ""], "CPU 2 is offline"),
            (["0,3", "", ""], "threads of guest \"vm1\" that run no vCPU are given CPU 3, which is promised"),
        ] {
            let error = plan_for(&topology, rules(wanted)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
