//! `irq_delivery`: the stages of a VF's interrupt on its way into the guest (docs/probes.md).

use super::hook::{self, Variant};
use super::{Hook, MapReader, Names, Needs, ProbeReport, ProbeSpec, ReadError, Role, Verdict, vectors};
use crate::btf::Param;
use crate::model::topology::Topology;
use crate::model::{PciAddress, Pid, VcpuId};
use crate::stats::{Counter, Histogram, Labels, Observability, Series, Snapshot};
use probe_ebpf::control::Table;
use probe_ebpf::probes::irq_delivery::{Delivery, STAGES, Slot, Stage};
use probe_ebpf::signs::Sign;
use std::collections::BTreeMap;

/// Why stages after the accept are hidden when hardware injects.
const APICV: &str = "APICv/AVIC delivers without an event";

/// Why no stage is seen of an interrupt that never reaches the host.
const POSTED: &str = "posted: hardware takes it to the guest past the host";

/// The specification.
pub static SPEC: ProbeSpec = ProbeSpec {
    name: "irq_delivery",
    about: "stages of a VF's interrupt from the host's handler into the guest",
    needs: Needs::Vcpu,
    hooks: &[
        Hook {
            event: "irq_vectors/vector_deactivate",
            role: Role::Figure("freed"),
            raw: hook::raw("irq_freed_raw", &[]),
            classic: None,
        },
        Hook {
            event: "irq_vectors/vector_activate",
            role: Role::Figure("enabler"),
            raw: hook::raw("irq_enabled_raw", &[]),
            classic: None,
        },
        Hook {
            event: "irq_vectors/vector_config",
            role: Role::Figure("host_vector"),
            raw: hook::raw("irq_vector_raw", &[]),
            classic: None,
        },
        Hook {
            event: "kvm/kvm_pi_irte_update",
            role: Role::Figure("posted"),
            raw: Some(Variant {
                program: "irq_posted_raw",
                needs: &["OFF_KVM_VCPU_ID", "PI_PASSES_VCPU"],
                fits: irte_update_is_known,
            }),
            classic: hook::classic(
                "irq_posted_tp",
                &["REC_PI_IRQ", "REC_PI_VCPU_ID", "REC_PI_VECTOR", "REC_PI_SET"],
            ),
        },
        Hook {
            event: "fexit/irq_set_vcpu_affinity",
            role: Role::Figure("taken_back"),
            raw: Some(Variant {
                program: "irq_affinity_ret",
                needs: &["VCPU_INFO"],
                fits: number_and_pointer,
            }),
            classic: None,
        },
        Hook {
            event: "kvm/kvm_apicv_inhibit_changed",
            role: Role::Figure("apicv_inhibits"),
            raw: hook::raw("irq_inhibit_raw", &[]),
            classic: None,
        },
        Hook {
            event: "kvm/kvm_eoi",
            role: Role::Figure("service"),
            raw: hook::raw("irq_eoi_raw", &[]),
            classic: hook::classic("irq_eoi_tp", &["REC_EOI_VECTOR"]),
        },
        Hook {
            event: "kvm/kvm_inj_virq",
            role: Role::Figure("delivery"),
            raw: hook::raw("irq_inject_raw", &[]),
            classic: hook::classic("irq_inject_tp", &["REC_INJ_VECTOR"]),
        },
        Hook {
            event: "kvm/kvm_apicv_accept_irq",
            role: Role::Figure("apicv"),
            raw: hook::raw("irq_apicv_raw", &[]),
            classic: hook::classic("irq_apicv_tp", &[]),
        },
        Hook {
            event: "workqueue/workqueue_execute_start",
            role: Role::Figure("slow_join"),
            raw: hook::raw("irq_work_raw", &[]),
            classic: None,
        },
        Hook {
            event: "workqueue/workqueue_queue_work",
            role: Role::Figure("slow_path"),
            raw: hook::raw("irq_slow_raw", &["OFF_WORK_FUNC", "IRQFD_INJECT"]),
            classic: None,
        },
        Hook {
            event: "kvm/kvm_apic_accept_irq",
            role: Role::Required,
            raw: hook::raw("irq_accept_raw", &[]),
            classic: hook::classic("irq_accept_tp", &["REC_ACCEPT_APICID", "REC_ACCEPT_VEC"]),
        },
        Hook {
            event: "irq/irq_handler_exit",
            role: Role::Required,
            raw: hook::raw("irq_exit_raw", &[]),
            classic: hook::classic("irq_exit_tp", &[]),
        },
        Hook {
            event: "irq/irq_handler_entry",
            role: Role::Required,
            raw: hook::raw("irq_entry_raw", &["OFF_IRQACTION_NAME", "OFF_IRQACTION_DEV_ID"]),
            classic: hook::classic("irq_entry_tp", &["REC_IRQ_ENTRY_IRQ", "REC_IRQ_ENTRY_NAME"]),
        },
    ],
    collect,
};

/// Up to 6.12 (host_irq, vcpu_id, gsi, gvec, pi_desc_addr, set); since 6.18 (host_irq, vcpu, gsi, gvec, set). BTF has no
/// names for them, so number and kinds decide.
fn irte_update_is_known(params: &[Param]) -> bool {
    let pointer = |at: usize| params.get(at).is_some_and(|p| p.type_name.contains('*'));
    matches!((params.len(), pointer(1)), (6, false) | (5, true))
}

/// (irq, vcpu_info): without these the function is another one.
fn number_and_pointer(params: &[Param]) -> bool {
    matches!(params, [irq, info] if irq.type_name == "unsigned int" && info.type_name.ends_with('*'))
}

fn collect(
    maps: &dyn MapReader,
    names: &Names<'_>,
    report: &ProbeReport,
    out: &mut Snapshot,
) -> Result<(), ReadError> {
    let slots: Vec<Slot> = (0..maps.used(Table::Slots)?).map(|i| maps.slot(i)).collect::<Result<_, _>>()?;
    for slot in slots.iter().filter(|s| s.owner != 0) {
        let labels = slot_labels(names, slot);
        let slow = report.loses("slow_path").is_none();
        let counts = [
            ("raised", slot.raised, true),
            ("slow_path", slot.slow, slow),
            ("slow_merged", slot.slow_merged, slow),
            ("multicast", slot.multicast, true),
            ("freed", slot.generation, report.loses("freed").is_none()),
        ];
        for (name, value, seen) in counts {
            if seen {
                out.counters.push(counter(name, &labels, value));
            }
        }
        // Without the slow path's hook the rest cannot be told apart from it.
        let rest = if slow { "userspace" } else { "not_accepted" };
        out.counters.push(counter(rest, &labels, slot.userspace));
    }
    for index in 0..maps.used(Table::Deliveries)? {
        let delivery = maps.delivery(index)?;
        let Some(slot) = slots.get(delivery.slot as usize).filter(|_| delivery.tid != 0) else { continue };
        let mut labels = slot_labels(names, slot);
        labels.insert("guest".into(), names.guest(delivery.tgid));
        labels.insert("vcpu".into(), names.vcpu(delivery.tid, delivery.vcpu_id));
        add_delivery(maps, report, index, &delivery, &labels, out)?;
    }
    add_posted(maps, names, &slots, out)?;
    if report.loses("apicv_inhibits").is_none() {
        for (tgid, apicv) in maps.apicv()? {
            let labels = Labels::from([("guest".into(), names.guest(tgid))]);
            out.counters.push(counter("apicv_changes", &labels, apicv.changes));
            out.counters.push(counter("apicv_inhibits", &labels, apicv.inhibits.count_ones().into()));
        }
    }
    Ok(())
}

/// Vectors that hardware delivers, and of which the host has never taken an interrupt: every stage is hidden.
fn add_posted(
    maps: &dyn MapReader,
    names: &Names<'_>,
    slots: &[Slot],
    out: &mut Snapshot,
) -> Result<(), ReadError> {
    let told = vectors::told(maps, names.topology)?;
    for guest in &names.topology.guests {
        for (vf, slot) in guest.vfs.iter().flat_map(|vf| vf.slots.iter().map(move |slot| (vf, slot))) {
            let Some(told) = told.iter().find(|told| told.set && told.irq == slot.irq) else { continue };
            let key = (guest.pid.0, vf.address.packed(), u32::from(slot.slot));
            if slots.iter().any(|s| (s.owner, s.vf, s.slot) == key && s.last_tid != 0) {
                continue;
            }
            for (_, stage) in Stage::ALL {
                let labels = [
                    ("guest", guest.name.clone()),
                    ("vf", vf.address.to_string()),
                    ("slot", slot.slot.to_string()),
                    ("vcpu", told.vcpu.map(|vcpu| vcpu.to_string()).unwrap_or_default()),
                    ("stage", stage.to_owned()),
                ];
                out.series.push(Series {
                    probe: SPEC.name.into(),
                    labels: labels.map(|(name, value)| (name.to_owned(), value)).into(),
                    observable: Observability::No(POSTED.to_owned()),
                    histogram: Histogram::default(),
                });
            }
        }
    }
    Ok(())
}

/// How many interrupts of a vector a vCPU was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The guest, by its VMM: one that is started again is another.
    pub guest: Pid,
    /// The VF.
    pub vf: PciAddress,
    /// The vector's index in the MSI-X table.
    pub slot: u16,
    /// The vCPU.
    pub vcpu: VcpuId,
    /// Interrupts since the probe began.
    pub count: u64,
}

/// Which vCPUs vectors of the guests in `topology` have gone to: the counts alone, for one who looks often.
///
/// # Errors
/// When a map cannot be read.
pub fn accepted(maps: &dyn MapReader, topology: &Topology) -> Result<Vec<Accepted>, ReadError> {
    let mut all = Vec::new();
    for index in 0..maps.used(Table::Deliveries)? {
        let delivery = maps.delivery(index)?;
        if delivery.tid != 0 {
            let slot = maps.slot(delivery.slot)?;
            all.extend(accepted_by(topology, &slot, delivery.tid, delivery.accepted));
        }
    }
    Ok(all)
}

/// What a series says of a guest that is there. Series outlive their guests, and a guest that is gone has no vCPU.
fn accepted_by(topology: &Topology, slot: &Slot, tid: u32, count: u64) -> Option<Accepted> {
    let guest = topology.guests.iter().find(|guest| guest.pid.0 == slot.owner)?;
    let vcpu = guest.vcpus.iter().find(|vcpu| vcpu.thread.tid.0 == tid)?.index;
    let number = u16::try_from(slot.slot).ok()?;
    Some(Accepted { guest: guest.pid, vf: PciAddress::from_packed(slot.vf), slot: number, vcpu, count })
}

/// Which guest has each vector, and how often its interrupt was freed in that guest's hands.
pub type Freed = BTreeMap<(PciAddress, u16), (Pid, u64)>;

/// How often the interrupts of the vectors of guests in `topology` were freed, as far as the probe has met them: something else
/// than before when one was made anew, also where it has its old number again.
///
/// # Errors
/// When a map cannot be read.
pub fn freed(maps: &dyn MapReader, topology: &Topology) -> Result<Freed, ReadError> {
    let mut all = Freed::new();
    for index in 0..maps.used(Table::Slots)? {
        let slot = maps.slot(index)?;
        let guest = topology.guests.iter().find(|guest| guest.pid.0 == slot.owner);
        if let (Some(guest), Ok(number)) = (guest, u16::try_from(slot.slot)) {
            all.insert((PciAddress::from_packed(slot.vf), number), (guest.pid, slot.generation));
        }
    }
    Ok(all)
}

/// What tells at little cost that something has changed which a controller acts on (`probe_ebpf::signs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// Another number when an interrupt was enabled, one of a VF was freed or came for the first time, or a vCPU's thread
    /// entered its guest for the first time.
    pub setups: u64,
    /// Another number when a vector has gone to another vCPU than the time before.
    pub destinations: u64,
}

/// The signs as they are now.
///
/// # Errors
/// When the map cannot be read.
pub fn signs(maps: &dyn MapReader) -> Result<Signs, ReadError> {
    Ok(Signs { setups: maps.sign(Sign::Setup)?, destinations: maps.sign(Sign::Destination)? })
}

/// Why signs are not all that there is to see, so that the host has to be looked at as well; `None` when they are.
#[must_use]
pub fn unseen(report: &ProbeReport) -> Option<String> {
    match &report.verdict {
        Verdict::Unsupported { reason } | Verdict::NotApplicable { reason } => {
            Some(format!("{}: {reason}", report.probe))
        }
        Verdict::Ready { .. } => {
            let missing = report.loses("enabler").or_else(|| report.loses("freed"))?;
            Some(format!("{}: {}", missing.event, missing.reason))
        }
    }
}

fn slot_labels(names: &Names<'_>, slot: &Slot) -> Labels {
    Labels::from([
        ("guest".into(), names.guest(slot.owner)),
        ("vf".into(), PciAddress::from_packed(slot.vf).to_string()),
        ("slot".into(), slot.slot.to_string()),
    ])
}

fn counter(name: &str, labels: &Labels, value: u64) -> Counter {
    Counter { probe: SPEC.name.into(), name: name.into(), labels: labels.clone(), value }
}

fn add_delivery(
    maps: &dyn MapReader,
    report: &ProbeReport,
    index: u32,
    delivery: &Delivery,
    labels: &Labels,
    out: &mut Snapshot,
) -> Result<(), ReadError> {
    let hidden = |stage: Stage| hidden(report, delivery, stage);
    let coalesced = delivery.coalesced.saturating_sub(delivery.recovered);
    let unmatched = delivery
        .accepted
        .saturating_sub(delivery.delivered)
        .saturating_sub(coalesced)
        .saturating_sub(delivery.apicv)
        .saturating_sub(u64::from(delivery.pending));
    let slow_joined = report.loses("slow_path").is_none() && report.loses("slow_join").is_none();
    for (name, value, seen) in [
        ("accepted", delivery.accepted, true),
        ("slow_accepted", delivery.slow, slow_joined),
        ("same_cpu", delivery.same_cpu, true),
        ("cross_cpu", delivery.cross_cpu, true),
        ("apicv", delivery.apicv, report.loses("apicv").is_none()),
        ("delivered", delivery.delivered, hidden(Stage::Delivery).is_none()),
        ("coalesced", coalesced, hidden(Stage::Delivery).is_none()),
        ("pending", u64::from(delivery.pending), hidden(Stage::Delivery).is_none()),
        ("unmatched", unmatched, hidden(Stage::Delivery).is_none()),
    ] {
        if seen {
            out.counters.push(counter(name, labels, value));
        }
    }
    for (stage, name) in Stage::ALL {
        let hist = maps.hist("IRQ_HIST", index * STAGES + stage as u32)?;
        let mut labels = labels.clone();
        labels.insert("stage".into(), name.into());
        out.series.push(Series {
            probe: SPEC.name.into(),
            labels,
            observable: hidden(stage).map_or(Observability::Yes, Observability::No),
            histogram: Histogram::from(&hist),
        });
    }
    Ok(())
}

/// Why a stage cannot be seen; `None` when it can.
fn hidden(report: &ProbeReport, delivery: &Delivery, stage: Stage) -> Option<String> {
    let missing = |figure| report.loses(figure).map(|m| format!("{}: {}", m.event, m.reason));
    if stage != Stage::Dispatch && delivery.apicv > 0 && delivery.delivered == 0 {
        return Some(APICV.to_owned());
    }
    match stage {
        Stage::Dispatch => None,
        Stage::Wake => missing("delivery").or_else(|| missing("wake")),
        // Without the end of wake, inject would silently contain it.
        Stage::Inject => missing("delivery").or_else(|| missing("wake")),
        Stage::Delivery => missing("delivery"),
        Stage::Service => missing("delivery").or_else(|| missing("service")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{HostShape, guest, host};

    #[test]
    fn only_guests_that_are_there_accept() {
        let mut topology = host(HostShape { nodes: 1, cores: 4, threads: 1 });
        topology.guests = vec![guest("vm1", 2, None)];
        let vm1 = &topology.guests[0];
        let (pid, tids) = (vm1.pid, [0, 1].map(|at| vm1.vcpus[at].thread.tid.0));
        // Fields that no vCPU depends on are as a map begins them.
        let slot = |owner| Slot {
            vf: 0x180,
            slot: 1,
            irq: 33,
            owner,
            raised: 9,
            slow: 0,
            slow_merged: 0,
            slow_raise_ns: 0,
            userspace: 0,
            last_vcpu_id: 0,
            last_tid: 0,
            last_series: 0,
            last_cpu: 0,
            last_vcpu: 0,
            pad: 0,
            generation: 0,
            multicast: 0,
        };
        for (owner, tid, expected) in [
            (pid.0, tids[0], Some(0)),
            (pid.0, tids[1], Some(1)),
            // It ended; its VF and its threads' numbers may be another guest's now.
            (4711, 4712, None),
            (4711, tids[1], None),
            // A thread that is not known yet.
            (pid.0, 4712, None),
        ] {
            let found = accepted_by(&topology, &slot(owner), tid, 7);
            let of = |vcpu| {
                let (guest, vf, vcpu) = (pid, PciAddress::from_packed(0x180), VcpuId(vcpu));
                Accepted { guest, vf, slot: 1, vcpu, count: 7 }
            };
            assert_eq!(found, expected.map(of), "thread {tid} of {owner}");
        }
    }
}
