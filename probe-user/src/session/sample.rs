//! An invented session for tests: one guest, one VF, a load that `own` placement relieves.

use super::{Config, Encoder, Header, HostFacts, ProbeVerdict, RunEnd, RunStart, Verdict};
use crate::{
    model::{CpuId, IrqNumber, Pid, Tid, VcpuId, VfIndex, topology},
    stats::{Counter, Histogram, Labels, Observability, Series, Snapshot, rng::SplitMix64},
    workload::Workload,
};

/// Labels out of `name=value,name=value`.
pub(crate) fn labels(text: &str) -> Labels {
    text.split(',').filter_map(|pair| pair.split_once('=')).map(|(n, v)| (n.into(), v.into())).collect()
}

/// Log-normal times around `median_ns`.
pub(crate) fn times(rng: &mut SplitMix64, n: usize, median_ns: f64, sigma: f64) -> Histogram {
    let mut histogram = Histogram::default();
    for _ in 0..n {
        let value = (median_ns * (sigma * rng.normal()).exp()).round().clamp(1.0, 1e12);
        histogram.record(format!("{value}").parse().unwrap());
    }
    histogram
}

/// A run's figures, `factor` times as slow as the untouched host's.
pub(crate) fn snapshot(rng: &mut SplitMix64, from_ns: u64, factor: f64) -> Snapshot {
    let run_effect = (0.08 * rng.normal()).exp();
    let mut series = Vec::new();
    for (stage, median) in
        [("dispatch", 9e3), ("wake", 2.2e6), ("inject", 6e4), ("delivery", 2.4e6), ("service", 4e4)]
    {
        for slot in 0..2 {
            series.push(Series {
                probe: "irq_delivery".into(),
                labels: labels(&format!("guest=vm1,vf=0000:01:10.0,slot={slot},vcpu=0,stage={stage}")),
                observable: Observability::Yes,
                histogram: times(rng, 400, median * factor * run_effect, 0.6),
            });
        }
    }
    series.push(Series {
        probe: "irq_delivery".into(),
        labels: labels("guest=vm1,vf=0000:01:10.0,slot=2,vcpu=0,stage=delivery"),
        observable: Observability::No("posted: hardware delivers it".into()),
        histogram: Histogram::default(),
    });
    for (reason, n, median) in
        [("HLT", 900, 4e6), ("INTR", 1200, 2.4e4), ("IOIO", 300, 9e4), ("MSR", 700, 7e3), ("NPF", 60, 3e4)]
    {
        series.push(Series {
            probe: "vm_exit".into(),
            labels: labels(&format!("guest=vm1,vcpu=0,reason={reason}")),
            observable: Observability::Yes,
            histogram: times(rng, n, median * run_effect, 0.8),
        });
    }
    let counter = |name: &str, value| Counter {
        probe: "irq_delivery".into(),
        name: name.into(),
        labels: labels("guest=vm1,vf=0000:01:10.0,slot=0,vcpu=0"),
        value,
    };
    Snapshot {
        from_ns,
        to_ns: from_ns + 5_000_000_000,
        series,
        counters: vec![counter("raised", 401), counter("delivered", 400), counter("coalesced", 1)],
        lost: [("irq_delivery.unmatched".to_owned(), 1)].into(),
    }
}

/// A topology with one guest on two CPUs, its VF's interrupt on `cpu`.
pub(crate) fn topology(cpu: u32) -> topology::Topology {
    let all: crate::model::CpuSet = [CpuId(0), CpuId(1)].into_iter().collect();
    let cpu_set = crate::model::CpuSet::from(CpuId(cpu));
    let thread = |tid, comm: &str| topology::Thread {
        tid: Tid(tid),
        comm: comm.into(),
        start_time: 1234,
        affinity: all.clone(),
    };
    let slot = topology::Slot {
        slot: 0,
        irq: IrqNumber(40),
        affinity: Some(cpu_set.clone()),
        effective_affinity: Some(cpu_set.clone()),
        host_vector: Some(0x60),
        guest_vector: Some(0x2a),
        vcpu: Some(VcpuId(0)),
        mode: topology::DeliveryMode::Remapped,
    };
    topology::Topology {
        cpus: [0, 1]
            .map(|id| topology::Cpu {
                id: CpuId(id),
                online: true,
                node: None,
                siblings: CpuId(id).into(),
                llc: all.clone(),
                isolated: false,
                nohz_full: false,
            })
            .to_vec(),
        guests: vec![topology::Guest {
            name: "vm1".into(),
            uuid: None,
            pid: Pid(700),
            start_time: 1200,
            vmm: topology::Vmm::Qemu,
            libvirt: false,
            vcpus: vec![topology::Vcpu { index: VcpuId(0), thread: thread(702, "CPU 0/KVM") }],
            threads: vec![thread(700, "qemu-system-x86")],
            nics: Vec::new(),
            vfs: vec![topology::Vf {
                address: "0000:01:10.0".parse().unwrap(),
                index: Some(VfIndex(0)),
                pf: "0000:01:00.0".parse().unwrap(),
                pf_netdev: Some("eth0".into()),
                numa_node: None,
                local_cpus: all.clone(),
                driver: Some("vfio-pci".into()),
                iommu_group: Some(7),
                slots: vec![slot],
                counters: None,
            }],
        }],
        free_vfs: Vec::new(),
        irqs: vec![topology::Irq {
            number: IrqNumber(40),
            chip: "IR-PCI-MSIX-0000:01:10.0".into(),
            actions: "vfio-msix[0](0000:01:10.0)".into(),
            affinity: Some(cpu_set.clone()),
            effective_affinity: Some(cpu_set),
            count: 12,
        }],
        default_affinity: Some(all),
        problems: Vec::new(),
    }
}

/// The host of the sample.
pub(crate) fn host() -> HostFacts {
    HostFacts {
        hostname: Some("host1".into()),
        kernel: Some("6.12.0".into()),
        cpu_model: Some("Sample CPU".into()),
        cpus: Some(2),
        cmdline: Some("quiet isolcpus=1".into()),
        boot_id: Some("00000000-0000-0000-0000-000000000001".into()),
        more: [("kvm_amd.avic".to_owned(), "N".to_owned())].into(),
    }
}

/// The end of a run with a ping beside it.
pub(crate) fn end(ping_ms: f64) -> RunEnd {
    let text = (1..=120).map(|i| {
        let ms = ping_ms * (1.0 + f64::from(i % 10) / 20.0);
        format!("64 bytes from 10.0.0.2: icmp_seq={i} ttl=64 time={ms:.3} ms\n")
    });
    let text: String = text
        .chain(["\n120 packets transmitted, 120 received, 0% packet loss, time 4990ms\n".into()])
        .collect();
    let command: Vec<String> = "ping -i 0.04 10.0.0.2".split(' ').map(str::to_owned).collect();
    let (tool, metrics) = crate::workload::parse(&command, &text).unwrap();
    RunEnd {
        workload: Some(Workload {
            command,
            tool: Some(tool.into()),
            exit_code: Some(0),
            wall_ns: 4_990_000_000,
            metrics: metrics.unwrap(),
            ..Workload::default()
        }),
        verdicts: vec![
            ProbeVerdict {
                probe: "irq_delivery".into(),
                verdict: Verdict::Ready,
                reason: "raw tracepoints".into(),
            },
            ProbeVerdict {
                probe: "vm_exit".into(),
                verdict: Verdict::Ready,
                reason: "classic tracepoints".into(),
            },
        ],
        remarks: Vec::new(),
        interrupted: false,
        broken_off: None,
        not_held: Vec::new(),
    }
}

/// The lines of a session: `repeats` runs of `baseline` and of every `(name, factor)`, interleaved, with a checkpoint
/// in the middle of each.
pub(crate) fn lines(repeats: u32, others: &[(&str, f64)]) -> String {
    let mut rng = SplitMix64::new(7);
    let mut encoder = Encoder::new(0);
    let header = Header { tool: "vfprobe 0.1.0".into(), created_unix_ms: 1_700_000_000_000 };
    let mut text = encoder.header(&header, &host()).unwrap();
    let configs: Vec<(&str, f64)> = [("baseline", 1.0)].into_iter().chain(others.iter().copied()).collect();
    for (name, _) in &configs {
        let about = format!("VF interrupts: {name}");
        text += &encoder.config(&Config { name: (*name).into(), about }).unwrap();
    }
    let mut from_ns = 1_000_000_000;
    let mut order = 0;
    for _ in 0..repeats {
        for (name, factor) in &configs {
            let moved = u32::from(*name != "baseline");
            let start = RunStart {
                config: (*name).into(),
                order,
                load: None,
                seed: Some(42),
                started_unix_ms: header.created_unix_ms + from_ns / 1_000_000,
                from_ns,
                topology: Some(topology(moved)),
                changes: match moved {
                    0 => Vec::new(),
                    _ => vec!["irq 40 (0000:01:10.0 slot 0): affinity 0 -> 1".into()],
                },
            };
            text += &encoder.start_run(&start).unwrap();
            let whole = snapshot(&mut rng, from_ns, *factor);
            let mut half = whole.clone();
            half.to_ns = from_ns + 2_500_000_000;
            half.series.truncate(6);
            half.counters.iter_mut().for_each(|c| c.value /= 2);
            text += &encoder.checkpoint(&half).unwrap();
            text += &encoder.checkpoint(&whole).unwrap();
            text += &encoder.end_run(&end(8.0 * factor)).unwrap();
            from_ns += 6_000_000_000;
            order += 1;
        }
    }
    text
}

/// A session under two loads, iperf3 and ping: `repeats` runs of `baseline` and of every `(name, latency factor,
/// throughput factor)` under each.
pub(crate) fn loads(repeats: u32, others: &[(&str, f64, f64)]) -> super::Session {
    let mut rng = SplitMix64::new(11);
    let mut session = super::Session {
        header: Header { tool: "vfprobe 0.1.0".into(), created_unix_ms: 1_700_000_000_000 },
        host: host(),
        ..super::Session::default()
    };
    let configs: Vec<_> = [("baseline", 1.0, 1.0)].into_iter().chain(others.iter().copied()).collect();
    for (name, ..) in &configs {
        session.configs.push(Config { name: (*name).into(), about: String::new() });
    }
    let mut order = 0;
    for _ in 0..repeats {
        for (name, latency, throughput) in &configs {
            for load in ["iperf3", "ping"] {
                let jitter = (0.02 * rng.normal()).exp();
                let mut end = end(0.4 * latency * jitter);
                if load == "iperf3" {
                    let bits = 8.36e9 * throughput * jitter;
                    let text = format!("{{\"end\":{{\"sum_received\":{{\"bits_per_second\":{bits}}}}}}}");
                    let command: Vec<String> = vec!["iperf3".into(), "-J".into()];
                    let (tool, metrics) = crate::workload::parse(&command, &text).unwrap();
                    let (tool, metrics) = (Some(tool.to_owned()), metrics.unwrap());
                    end.workload =
                        Some(Workload { command, tool, exit_code: Some(0), metrics, ..Workload::default() });
                }
                session.runs.push(super::Run {
                    start: RunStart {
                        config: (*name).into(),
                        order,
                        load: Some(load.into()),
                        topology: Some(topology(u32::from(*name != "baseline"))),
                        ..RunStart::default()
                    },
                    snapshot: snapshot(&mut rng, 1_000_000_000, *latency),
                    end: Some(end),
                });
                order += 1;
            }
        }
    }
    session
}
