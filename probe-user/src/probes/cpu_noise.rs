//! `cpu_noise`: what takes guarded CPUs from their vCPUs (docs/probes.md).

use super::{Hook, MapReader, Names, Needs, ProbeReport, ProbeSpec, ReadError, Role, hook, text};
use crate::stats::{Histogram, Labels, Observability, Series, Snapshot};
use probe_ebpf::control::Table;
use probe_ebpf::probes::cpu_noise::{Kind, NoiseSeries};

/// Figures that a missing hook costs, in the words of `isolation`'s kinds.
const IRQ: Role = Role::Figure("irq");
const SOFTIRQ: Role = Role::Figure("softirq");
const THREADS: Role = Role::Figure("threads");

const fn vector(event: &'static str, program: &'static str, figure: &'static str) -> Hook {
    Hook { event, role: Role::Figure(figure), raw: hook::raw(program, &[]), classic: None }
}

const fn ends(event: &'static str, figure: &'static str) -> Hook {
    vector(event, "noise_vec_out", figure)
}

const fn begins(event: &'static str, figure: &'static str) -> Hook {
    vector(event, "noise_vec_in", figure)
}

const fn plain(event: &'static str, role: Role, program: &'static str) -> Hook {
    Hook { event, role, raw: hook::raw(program, &[]), classic: None }
}

/// The specification. Ends are attached before beginnings.
pub static SPEC: ProbeSpec = ProbeSpec {
    name: "cpu_noise",
    about: "what takes guarded CPUs from their vCPUs",
    needs: Needs::GuardedCpus,
    hooks: &[
        plain("irq/irq_handler_exit", IRQ, "noise_irq_out"),
        plain("irq/irq_handler_entry", IRQ, "noise_irq_in"),
        plain("irq/softirq_exit", SOFTIRQ, "noise_soft_out"),
        plain("irq/softirq_entry", SOFTIRQ, "noise_soft_in"),
        ends("irq_vectors/local_timer_exit", "local_timer"),
        begins("irq_vectors/local_timer_entry", "local_timer"),
        ends("irq_vectors/reschedule_exit", "reschedule"),
        begins("irq_vectors/reschedule_entry", "reschedule"),
        ends("irq_vectors/call_function_exit", "call_function"),
        begins("irq_vectors/call_function_entry", "call_function"),
        ends("irq_vectors/call_function_single_exit", "call_function_single"),
        begins("irq_vectors/call_function_single_entry", "call_function_single"),
        ends("irq_vectors/irq_work_exit", "irq_work"),
        begins("irq_vectors/irq_work_entry", "irq_work"),
        ends("irq_vectors/x86_platform_ipi_exit", "x86_platform_ipi"),
        begins("irq_vectors/x86_platform_ipi_entry", "x86_platform_ipi"),
        ends("irq_vectors/thermal_apic_exit", "thermal_apic"),
        begins("irq_vectors/thermal_apic_entry", "thermal_apic"),
        ends("irq_vectors/threshold_apic_exit", "threshold_apic"),
        begins("irq_vectors/threshold_apic_entry", "threshold_apic"),
        ends("irq_vectors/deferred_error_apic_exit", "deferred_error_apic"),
        begins("irq_vectors/deferred_error_apic_entry", "deferred_error_apic"),
        ends("irq_vectors/error_apic_exit", "error_apic"),
        begins("irq_vectors/error_apic_entry", "error_apic"),
        ends("irq_vectors/spurious_apic_exit", "spurious_apic"),
        begins("irq_vectors/spurious_apic_entry", "spurious_apic"),
        plain("nmi/nmi_handler", Role::Figure("nmi"), "noise_nmi"),
        Hook {
            event: "sched/sched_switch",
            role: THREADS,
            raw: hook::raw("noise_switch", &["OFF_TASK_PID", "OFF_TASK_COMM", "OFF_TASK_FLAGS"]),
            classic: None,
        },
    ],
    collect,
};

fn collect(
    maps: &dyn MapReader,
    _: &Names<'_>,
    _: &ProbeReport,
    out: &mut Snapshot,
) -> Result<(), ReadError> {
    for index in 0..maps.used(Table::Noise)? {
        let series = maps.noise(index)?;
        let histogram = Histogram::from(&maps.hist("NOISE_HIST", index)?);
        // A source that was seen, but never wholly inside the window.
        if series.key.kind == 0 || histogram.is_empty() {
            continue;
        }
        let (kind, source) = named(&series);
        let labels = Labels::from([
            ("cpu".into(), series.key.cpu.to_string()),
            ("kind".into(), kind.into()),
            ("source".into(), source),
        ]);
        out.series.push(Series {
            probe: SPEC.name.into(),
            labels,
            observable: Observability::Yes,
            histogram,
        });
    }
    Ok(())
}

/// The kind's word and the source's name.
fn named(series: &NoiseSeries) -> (&'static str, String) {
    let id = series.key.id;
    let is = |kind: Kind| series.key.kind == kind as u32;
    if is(Kind::Irq) {
        let name = text(&series.name);
        ("irq", if name.is_empty() { format!("irq {id}") } else { name })
    } else if is(Kind::Vector) {
        ("vector", vector_name(id).map_or_else(|| format!("vector {id:#x}"), str::to_owned))
    } else if is(Kind::Softirq) {
        let name = usize::try_from(id).ok().and_then(|id| SOFTIRQS.get(id));
        ("softirq", name.map_or_else(|| format!("softirq {id}"), |name| (*name).to_owned()))
    } else if is(Kind::KernelThread) {
        ("kernel-thread", text(&series.key.comm))
    } else if is(Kind::UserThread) {
        ("user-thread", text(&series.key.comm))
    } else {
        ("nmi", "nmi".to_owned())
    }
}

/// include/linux/interrupt.h, in the words of /proc/softirqs.
const SOFTIRQS: [&str; 10] =
    ["HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"];

/// arch/x86/include/asm/irq_vectors.h (v6.12), in the words of the tracepoints.
fn vector_name(vector: u32) -> Option<&'static str> {
    Some(match vector {
        0xec => "local_timer",
        0xf4 => "deferred_error_apic",
        0xf6 => "irq_work",
        0xf7 => "x86_platform_ipi",
        0xf9 => "threshold_apic",
        0xfa => "thermal_apic",
        0xfb => "call_function_single",
        0xfc => "call_function",
        0xfd => "reschedule",
        0xfe => "error_apic",
        0xff => "spurious_apic",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use probe_ebpf::probes::cpu_noise::NoiseKey;

    fn series(kind: u32, id: u32, comm: &str, name: &str) -> NoiseSeries {
        let mut series = NoiseSeries { key: NoiseKey { cpu: 2, kind, id, comm: [0; 16] }, name: [0; 32] };
        series.key.comm[..comm.len()].copy_from_slice(comm.as_bytes());
        series.name[..name.len()].copy_from_slice(name.as_bytes());
        series
    }

    #[test]
    fn sources_have_the_kernel_s_names() {
        for (kind, id, comm, name, expected) in [
            (1, 30, "", "vfio-msix[1](0000:01:10.0)", ("irq", "vfio-msix[1](0000:01:10.0)")),
            (1, 30, "", "", ("irq", "irq 30")),
            (2, 0xec, "", "", ("vector", "local_timer")),
            (2, 0x31, "", "", ("vector", "vector 0x31")),
            (3, 3, "", "", ("softirq", "NET_RX")),
            (3, 12, "", "", ("softirq", "softirq 12")),
            (4, 0, "kworker/2:1", "", ("kernel-thread", "kworker/2:1")),
            (5, 0, "stress-ng", "", ("user-thread", "stress-ng")),
            (6, 0, "", "", ("nmi", "nmi")),
        ] {
            let (kind, source) = named(&series(kind, id, comm, name));
            assert_eq!((kind, source.as_str()), expected);
        }
    }
}
