//! What programs take of real work: the same loop with and without them, in turn, by the wall clock.

use crate::beside::Beside;
use crate::figures::{row, table};
use crate::rig::{NOTHING, Rig, stay_on};
use anyhow::{Context, Result};
use kvm_bindings::kvm_msi;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use std::fs;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::path::PathBuf;
use std::time::Instant;

/// Rounds are short and many: whatever disturbs one only makes it longer, so the faster ones tell.
const ROUNDS: usize = 300;

/// A set of programs to attach, and what must be known to them.
pub(crate) struct Setting {
    what: &'static str,
    pub(crate) attached: &'static [(&'static str, &'static str)],
    pub(crate) prepare: fn(&mut Rig) -> Result<()>,
    /// Events (`system/event`) that a tracefs instance captures meanwhile.
    captured: &'static [&'static str],
}

/// A tracefs instance that captures nothing until it is told to; it goes with it.
pub(crate) struct Capture(PathBuf);

impl Capture {
    pub(crate) fn prepare() -> Result<Self> {
        let dir = PathBuf::from("/sys/kernel/tracing/instances/vfprobe-bench");
        let _ = fs::remove_dir(&dir);
        fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
        Ok(Self(dir))
    }

    /// Turns an event on or off. What was captured is overwritten by what follows.
    pub(crate) fn set(&self, event: &str, on: bool) -> Result<()> {
        let file = self.0.join("events").join(event).join("enable");
        fs::write(&file, if on { "1" } else { "0" }).with_context(|| file.display().to_string())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("events/enable"), "0");
        let _ = fs::remove_dir(&self.0);
    }
}

/// Runs `work` (ns per event) under each setting in turn, and prints what the settings add to the first one.
fn compare(event: &str, settings: &[Setting], work: &mut dyn FnMut() -> Result<f64>) -> Result<()> {
    let capture = Capture::prepare()?;
    let mut rigs = Vec::new();
    for setting in settings {
        let mut rig = Rig::new()?;
        (setting.prepare)(&mut rig)?;
        rigs.push(rig);
    }
    let mut times = vec![Vec::new(); settings.len()];
    for round in 0..=ROUNDS {
        for (at, (setting, rig)) in settings.iter().zip(&mut rigs).enumerate() {
            let mut links = Vec::new();
            for (program, tracepoint) in setting.attached {
                links.push((*program, rig.attach(program, tracepoint)?));
            }
            for event in setting.captured {
                capture.set(event, true)?;
            }
            let time = work()?;
            for event in setting.captured {
                capture.set(event, false)?;
            }
            for (program, link) in links {
                rig.detach(program, link)?;
            }
            // The first round warms up.
            if round > 0 {
                times[at].push(time);
            }
        }
    }
    let mut figures: Vec<[f64; 3]> = Vec::new();
    for mut times in times {
        times.sort_by(f64::total_cmp);
        figures.push([ROUNDS / 10, ROUNDS / 2, ROUNDS * 9 / 10].map(|rank| times[rank]));
    }
    let added = |at: usize, from: usize| format!("{:.0}", figures[at][0] - figures[from][0]);
    println!(
        "{event}: ns per event in the fastest tenth of {ROUNDS} rounds in turn (in half, in nine tenths)"
    );
    let mut rows = vec![row(["programs", "in all", "", "added", "of it by the probe", "ratio to none"])];
    for (at, (setting, [fast, half, most])) in settings.iter().zip(&figures).enumerate() {
        let (all, own) = match at {
            0 => ("-".to_owned(), "-".to_owned()),
            1 => (added(1, 0), "-".to_owned()),
            _ if !setting.captured.is_empty() => (added(at, 0), "-".to_owned()),
            _ => (added(at, 0), added(at, 1)),
        };
        let ratio = format!("{:.3}", fast / figures[0][0]);
        let rest = format!("({half:.0}, {most:.0})");
        rows.push(vec![setting.what.into(), format!("{fast:.0}"), rest, all, own, ratio]);
    }
    table(&rows);
    Ok(())
}

/// Two threads of one CPU that wake each other through pipes: two switches and two wakeups a round trip.
struct PingPong {
    to: PipeWriter,
    from: PipeReader,
}

impl PingPong {
    const TRIPS: u32 = 300;

    fn start(cpu: usize) -> Result<Self> {
        let (mut there, to) = std::io::pipe()?;
        let (from, mut back) = std::io::pipe()?;
        std::thread::spawn(move || {
            let mut byte = [0];
            // Ends with the pipe.
            while stay_on(cpu).is_ok() && there.read_exact(&mut byte).is_ok() && back.write_all(&byte).is_ok()
            {
                while there.read_exact(&mut byte).is_ok() && back.write_all(&byte).is_ok() {}
            }
        });
        Ok(Self { to, from })
    }

    /// ns per switch.
    fn run(&mut self) -> Result<f64> {
        let start = Instant::now();
        let mut byte = [0];
        for _ in 0..Self::TRIPS {
            self.to.write_all(&byte)?;
            self.from.read_exact(&mut byte)?;
        }
        Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(2 * Self::TRIPS))
    }
}

/// The waits of a thread from its wakeup, or from when it was put off its CPU, until it runs.
const RUN_QUEUE: &str = "\
tracepoint:sched:sched_wakeup /args->pid == TID/ { @since[args->pid] = nsecs; }
tracepoint:sched:sched_switch /args->prev_pid == TID && args->prev_state == 0/ { @since[args->prev_pid] = nsecs; }
tracepoint:sched:sched_switch /args->next_pid == TID && @since[args->next_pid]/ {
  @wait = hist(nsecs - @since[args->next_pid]); delete(@since[args->next_pid]); }
";
/// The time from a moment until a vector is accepted, for each vector of each local APIC.
const ACCEPTS: &str = "\
BEGIN { @start = nsecs; }
tracepoint:kvm:kvm_apic_accept_irq { @inject[args->apicid, args->vec] = hist(nsecs - @start); }
";

/// Scheduler programs under a ping-pong.
pub(crate) fn switches(cpu: usize) -> Result<()> {
    const BOTH: usize = 4;
    let settings = [
        Setting { what: "none", attached: &[], prepare: |_| Ok(()), captured: &[] },
        Setting {
            what: "one that does nothing",
            attached: &[(NOTHING, "sched_switch")],
            prepare: |_| Ok(()),
            captured: &[],
        },
        Setting {
            what: "vcpu_switch_raw, no vCPU here",
            attached: &[("vcpu_switch_raw", "sched_switch")],
            prepare: |_| Ok(()),
            captured: &[],
        },
        Setting {
            what: "vcpu_switch_raw, one of the two a vCPU",
            attached: &[("vcpu_switch_raw", "sched_switch")],
            prepare: Rig::learn_vcpu,
            captured: &[],
        },
        Setting {
            what: "both of vcpu_sched, one of the two a vCPU",
            attached: &[("vcpu_switch_raw", "sched_switch"), ("sched_wakeup_raw", "sched_wakeup")],
            prepare: Rig::learn_vcpu,
            captured: &[],
        },
        Setting {
            what: "noise_switch, CPU not guarded",
            attached: &[("noise_switch", "sched_switch")],
            prepare: |_| Ok(()),
            captured: &[],
        },
        Setting {
            what: "noise_switch, guarded CPU",
            attached: &[("noise_switch", "sched_switch")],
            prepare: Rig::guard,
            captured: &[],
        },
        Setting {
            what: "tracefs capture of switches",
            attached: &[],
            prepare: |_| Ok(()),
            captured: &["sched/sched_switch"],
        },
        Setting {
            what: "tracefs capture of switches and wakeups",
            attached: &[],
            prepare: |_| Ok(()),
            captured: &["sched/sched_switch", "sched/sched_wakeup"],
        },
    ];
    let mut load = PingPong::start(cpu)?;
    compare("sched_switch, two threads of one CPU in turn", &settings, &mut || load.run())?;
    println!();
    let tid = rustix::thread::gettid();
    let beside = Beside {
        vfprobe: &settings[BOTH],
        events: &["sched/sched_switch", "sched/sched_wakeup"],
        bpftrace: RUN_QUEUE.replace("TID", &tid.as_raw_nonzero().to_string()),
        cpu,
    };
    beside.compare("the same, run-queue waits of one of the two", &mut || load.run())
}

/// A machine with one vCPU that never runs: MSIs are accepted and stay pending.
fn machine() -> Result<(VmFd, VcpuFd)> {
    let kvm = Kvm::new().context("/dev/kvm")?;
    let vm = kvm.create_vm()?;
    vm.create_irq_chip()?;
    let vcpu = vm.create_vcpu(0)?;
    let mut lapic = vcpu.get_lapic()?;
    // Spurious-interrupt vector register, bit 8: APIC software enable (Intel SDM vol. 3, 10.9).
    lapic.regs[0xf1] |= 1;
    vcpu.set_lapic(&lapic)?;
    Ok((vm, vcpu))
}

/// Programs at the accept under MSIs through /dev/kvm.
pub(crate) fn msis(cpu: usize) -> Result<()> {
    const IN_IRQ: usize = 3;
    const MSIS: u32 = 500;
    const ACCEPT: &str = "kvm_apic_accept_irq";
    let settings = [
        Setting { what: "none", attached: &[], prepare: |_| Ok(()), captured: &[] },
        Setting {
            what: "one that does nothing",
            attached: &[(NOTHING, ACCEPT)],
            prepare: |_| Ok(()),
            captured: &[],
        },
        Setting {
            what: "irq_accept_raw, not in a VF's interrupt",
            attached: &[("irq_accept_raw", ACCEPT)],
            prepare: |_| Ok(()),
            captured: &[],
        },
        Setting {
            what: "irq_accept_raw, in a VF's interrupt",
            attached: &[("irq_accept_raw", ACCEPT)],
            prepare: |rig| {
                rig.learn_vcpu()?;
                rig.learn_slots(1)?;
                rig.name_vcpu(0)?;
                rig.stay_in_irq()
            },
            captured: &[],
        },
        Setting {
            what: "tracefs capture of the event",
            attached: &[],
            prepare: |_| Ok(()),
            captured: &["kvm/kvm_apic_accept_irq"],
        },
    ];
    let (vm, _vcpu) = machine()?;
    let msi = kvm_msi { address_lo: 0xfee0_0000, data: 0x41, ..kvm_msi::default() };
    let mut work = || {
        let start = Instant::now();
        for _ in 0..MSIS {
            vm.signal_msi(msi)?;
        }
        Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(MSIS))
    };
    compare("MSI through /dev/kvm (KVM_SIGNAL_MSI)", &settings, &mut work)?;
    println!();
    let beside = Beside {
        vfprobe: &settings[IN_IRQ],
        events: &["kvm/kvm_apic_accept_irq"],
        bpftrace: ACCEPTS.to_owned(),
        cpu,
    };
    beside.compare("the same, times until the accept by vector", &mut work)
}
