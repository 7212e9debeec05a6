//! A real interrupt, moved and put back: the `input` queue of the virtio random number generator, which fires on demand
//! and which nothing depends on. And knobs, where nobody is disturbed by them.

use probe_user::apply::{
    Host as _, LiveHost, Options, RollbackOptions, Seen, StateDir, apply, rollback, verify,
};
use probe_user::host::{HostRoot, read_knobs, read_topology};
use probe_user::model::topology::Irq;
use probe_user::model::{CpuSet, Knob};
use probe_user::plan::{IrqTarget, Need, PLAN_SCHEMA, Plan, Step, Target};
use std::fs::{self, File};
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The interrupt, if this machine has the device and two CPUs.
fn movable() -> Option<Irq> {
    let device = fs::read_dir("/sys/bus/virtio/drivers/virtio_rng").ok()?.find_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        name.starts_with("virtio").then_some(name)
    })?;
    let topology = read_topology(&HostRoot::live());
    let irq = topology.irqs.iter().find(|irq| irq.actions == format!("{device}-input"))?;
    (topology.online().len() > 1).then(|| irq.clone())
}

/// Has the generator interrupt until it is dropped: without interrupt remapping a move waits for the next interrupt.
struct Interrupting {
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Interrupting {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 64];
            while !told.load(Ordering::Relaxed) {
                File::open("/dev/hwrng")
                    .and_then(|mut device| device.read_exact(&mut bytes))
                    .expect("the generator can be read");
            }
        });
        Self { stop, reader: Some(reader) }
    }
}

impl Drop for Interrupting {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn mask(irq: &Irq) -> String {
    fs::read_to_string(format!("/proc/irq/{}/smp_affinity", irq.number)).expect("a mask")
}

fn fires_on(irq: &Irq) -> CpuSet {
    let text = fs::read_to_string(format!("/proc/irq/{}/effective_affinity_list", irq.number));
    text.expect("an effective mask").parse().expect("a CPU list")
}

#[test]
fn an_interrupt_is_moved_and_put_back() {
    let Some(irq) = movable() else {
        println!("SKIP an_interrupt_is_moved_and_put_back: no virtio-rng interrupt, or only one CPU");
        return;
    };
    let _interrupting = Interrupting::start();
    let (before, home) = (mask(&irq), fires_on(&irq));
    let online = read_topology(&HostRoot::live()).online();
    let other: CpuSet = online.difference(&home).first().unwrap().into();
    let step = Step {
        target: Target::Irq(IrqTarget { number: irq.number, actions: irq.actions.clone(), vector: None }),
        now: irq.affinity.clone().unwrap().into(),
        effective: Some(home.clone()),
        new: other.clone().into(),
        need: Need::Required,
        reason: "test".to_owned(),
    };
    let plan = Plan {
        schema: PLAN_SCHEMA,
        config: "test".to_owned(),
        guests: Vec::new(),
        guarded: CpuSet::new(),
        housekeeping: online,
        steps: vec![step],
        notes: Vec::new(),
    };
    let host = LiveHost::new(HostRoot::live());
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::new(dir.path());
    let lock = state.lock().unwrap();
    let settle = Duration::from_secs(10);

    let applied = apply(&host, &plan, &lock, &Options { settle, ..Options::new() }).unwrap();
    assert_eq!((applied.steps, applied.pending), (1, vec![]));
    assert_eq!(fires_on(&irq), other);
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert!(verify(&host, &state.load().unwrap(), boot_id.trim()).unwrap().holds());

    let report = rollback(&host, &lock, &RollbackOptions { settle, salvage: false }).unwrap();
    assert!(report.is_complete(), "{report:?}");
    assert_eq!((mask(&irq), fires_on(&irq)), (before, home));
}

#[test]
fn what_the_kernel_refuses_is_named() {
    let Some(irq) = movable() else {
        println!("SKIP what_the_kernel_refuses_is_named: no virtio-rng interrupt, or only one CPU");
        return;
    };
    let target = Target::Irq(IrqTarget { number: irq.number, actions: irq.actions.clone(), vector: None });
    let before = mask(&irq);
    let host = LiveHost::new(HostRoot::live());
    let beyond: CpuSet = "8000".parse().unwrap();
    let absent = host.write(&target, &beyond.into()).unwrap_err().to_string();
    assert!(absent.ends_with("a CPU number beyond the last one of this kernel"), "{absent}");
    let none = host.write(&target, &CpuSet::new().into()).unwrap_err().to_string();
    assert!(none.ends_with("none of these CPUs is online"), "{none}");
    assert_eq!(mask(&irq), before);
}

/// Knobs are asked for what the kernel refuses; nothing is changed by that.
#[test]
fn what_the_kernel_refuses_of_knobs_is_named() {
    let host = LiveHost::new(HostRoot::live());
    let read = |knob: Knob| match host.observe(&Target::Knob(knob)) {
        Ok(Seen::Here(observed)) => Some(observed.value),
        _ => None,
    };
    let beyond: CpuSet = "8000".parse().unwrap();
    let cases = [
        (Knob::Workqueues, CpuSet::new(), "the kernel does not take this value"),
        (Knob::Workqueues, beyond.clone(), "a CPU number beyond the last one of this kernel"),
        (Knob::Watchdogs, beyond, "the kernel does not take this value"),
    ];
    for (knob, value, expected) in cases {
        let Some(before) = read(knob.clone()) else {
            println!("SKIP what_the_kernel_refuses_of_knobs_is_named: no {knob}");
            continue;
        };
        let error = host.write(&Target::Knob(knob.clone()), &value.into()).unwrap_err().to_string();
        assert!(error.ends_with(expected), "{error}");
        assert_eq!(read(knob), Some(before), "{error}");
    }
}

/// Handing packets of the loopback device to another CPU disturbs nobody.
#[test]
fn a_knob_is_set_and_put_back() {
    let root = HostRoot::live();
    let online = read_topology(&root).online();
    let (found, _) = read_knobs(&root, &CpuSet::new(), &["lo".to_owned()]);
    let Some((knob, now)) = found.into_iter().find(|(knob, _)| matches!(knob, Knob::Rps(_))) else {
        println!("SKIP a_knob_is_set_and_put_back: this kernel has no RPS");
        return;
    };
    let first: CpuSet = online.first().unwrap().into();
    let new = if now == first { CpuSet::new() } else { first };
    let text = || fs::read_to_string("/sys/class/net/lo/queues/rx-0/rps_cpus").unwrap();
    let before = text();
    let step = Step {
        target: Target::Knob(knob),
        now,
        effective: None,
        new: new.clone().into(),
        need: Need::Required,
        reason: "test".to_owned(),
    };
    let plan = Plan {
        schema: PLAN_SCHEMA,
        config: "test".to_owned(),
        guests: Vec::new(),
        guarded: CpuSet::new(),
        housekeeping: online,
        steps: vec![step],
        notes: Vec::new(),
    };
    let host = LiveHost::new(root);
    let dir = tempfile::tempdir().unwrap();
    let lock = StateDir::new(dir.path()).lock().unwrap();
    apply(&host, &plan, &lock, &Options::new()).unwrap();
    assert_eq!(CpuSet::parse_mask(&text()).unwrap(), new);
    assert!(rollback(&host, &lock, &RollbackOptions::default()).unwrap().is_complete());
    assert_eq!(text(), before);
}
