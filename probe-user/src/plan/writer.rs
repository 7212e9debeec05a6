//! Who has written what is found in place of what vfprobe wrote. The kernel keeps no record of that, so it is told from
//! who is there and what they would write; where nothing shows it, it is not known.

use super::Target;
use crate::model::owners::{Owner, Owners};
use crate::model::{CpuSet, Value};

/// Who has set a target to what is found, which is not what was asked for.
#[must_use]
pub fn writer_of(target: &Target, asked: &Value, found: &Value, owners: &Owners, online: &CpuSet) -> Owner {
    // The kernel lets nothing run on, or go to, CPUs that are offline: it widens the mask.
    let lost = asked.cpus().is_some_and(|asked| asked.intersection(online).is_empty());
    match target {
        Target::Irq(_) | Target::Thread(_) if lost => Owner::KernelManaged,
        Target::Irq(irq) => match &owners.irqbalance {
            Some(running) if !running.setup.as_ref().is_ok_and(|setup| setup.bans.contains(&irq.number)) => {
                Owner::Irqbalance
            }
            _ => Owner::Unknown,
        },
        Target::Thread(thread) => match owners.cpusets.get(&thread.tid) {
            // Its manager sets the thread's own mask too, or the kernel has taken it from the group (before 6.2).
            Some(set) if found.cpus() == Some(&set.cpus) => set.owner(),
            _ => Owner::Unknown,
        },
        Target::DefaultAffinity | Target::Knob(_) => Owner::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::owners::{Cpuset, Irqbalance, IrqbalanceSetup, Limiter};
    use crate::model::{IrqNumber, Pid, Tid};
    use crate::plan::{IrqTarget, Role, ThreadTarget};

    fn irq(number: u32) -> Target {
        Target::Irq(IrqTarget { number: IrqNumber(number), actions: "eth0".to_owned(), vector: None })
    }

    fn thread(tid: u32) -> Target {
        Target::Thread(ThreadTarget {
            pid: Pid(200),
            tid: Tid(tid),
            start_time: 1,
            comm: "CPU 0/KVM".to_owned(),
            role: Role::Host,
        })
    }

    #[test]
    fn told_by_who_is_there() {
        let setup = IrqbalanceSetup { bans: [IrqNumber(30)].into(), ..IrqbalanceSetup::default() };
        let running = |setup| Owners {
            irqbalance: Some(Irqbalance { pid: Pid(7), start_time: 1, setup }),
            ..Owners::default()
        };
        let (asked_to, mute) = (running(Ok(setup)), running(Err("no such file".to_owned())));
        let limit = |by: Limiter| Owners {
            cpusets: [(Tid(201), Cpuset { cpus: "1".parse().unwrap(), by })].into(),
            ..Owners::default()
        };
        let group = |group: &str| limit(Limiter::Group(group.to_owned()));
        let nobody = Owners::default();
        let libvirt = group(r"/machine.slice/machine-qemu\x2d1\x2dvm1.scope/libvirt/vcpu0");
        let old_libvirt = group("/machine/qemu-1-vm1.libvirt-qemu/vcpu0");
        for (target, asked, found, owners, expected) in [
            (irq(30), "2", "0-3", &nobody, Owner::Unknown),
            (irq(30), "2", "1", &asked_to, Owner::Unknown),
            (irq(31), "2", "1", &asked_to, Owner::Irqbalance),
            (irq(30), "2", "1", &mute, Owner::Irqbalance),
            // CPU 5 is offline.
            (irq(31), "5", "0-3", &asked_to, Owner::KernelManaged),
            (thread(201), "5", "0-3", &libvirt, Owner::KernelManaged),
            (thread(201), "2", "1", &libvirt, Owner::Libvirt),
            (thread(201), "2", "1", &old_libvirt, Owner::Libvirt),
            (thread(201), "2", "1", &limit(Limiter::LibvirtPin("vcpupin")), Owner::Libvirt),
            (thread(201), "2", "0", &libvirt, Owner::Unknown),
            (thread(202), "2", "1", &libvirt, Owner::Unknown),
            (thread(201), "2", "1", &group("/kubepods.slice/x"), Owner::Kubelet),
            (thread(201), "2", "1", &group("/x.slice"), Owner::Unknown),
            (Target::DefaultAffinity, "5", "0", &mute, Owner::Unknown),
        ] {
            let [asked, found] = [asked, found].map(|list| Value::from(list.parse::<CpuSet>().unwrap()));
            let online = "0-3".parse().unwrap();
            let told = writer_of(&target, &asked, &found, owners, &online);
            assert_eq!(told, expected, "{target} {asked} {found}");
        }
    }
}
