//! A policy kept on a virtual machine made here: it comes, somebody fights for its thread, it goes. Moves no thread but
//! those of the machine, and no interrupt.

use anyhow::Context;
use kvm_ioctls::Kvm;
use probe_user::{
    app::privileges::CONTROL,
    app::reconcile::{Mode, Observed, ReconcileError, Reconciler},
    apply::StateDir,
    bpf::Bell,
    host::{HostRoot, parse_allowed_cpus},
    model::seen::Seen,
    probes::irq_delivery::{Accepted, Signs},
};
use std::{
    fs,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

/// Long enough for a very busy machine; a test that passes waits for a fraction of it.
const DEADLINE: Duration = Duration::from_secs(60);

/// No probe runs.
struct Nothing;

impl Observed for Nothing {
    fn accepted(&self) -> Vec<Accepted> {
        Vec::new()
    }

    fn signs(&self) -> Signs {
        Signs::default()
    }

    fn bell(&self) -> Option<Result<Bell, String>> {
        Some(Err("no probe runs".to_owned()))
    }

    fn seen(&self) -> Seen {
        Seen::default()
    }
}

/// The CPUs a thread of this process may run on.
fn cpus_of(tid: &str) -> String {
    let status = fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap();
    parse_allowed_cpus(&status).unwrap().to_string()
}

fn set(tid: &str, cpu: usize) {
    let mut mask = rustix::thread::CpuSet::new();
    mask.set(cpu);
    let pid = rustix::thread::Pid::from_raw(tid.parse().unwrap());
    rustix::thread::sched_setaffinity(pid, &mask).unwrap();
}

#[track_caller]
fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {} s", DEADLINE.as_secs());
        thread::sleep(Duration::from_millis(10));
    }
}

/// A thread that passes for vCPU 0 until the sender is dropped; gives its number.
fn vcpu_thread<'scope>(scope: &'scope thread::Scope<'scope, '_>) -> (String, mpsc::Sender<()>) {
    let (stop, wait) = mpsc::channel::<()>();
    let (named, name) = mpsc::channel();
    scope.spawn(move || {
        fs::write("/proc/thread-self/comm", "CPU 0/KVM").unwrap();
        let link = fs::read_link("/proc/thread-self").context("this thread").unwrap();
        named.send(link.file_name().unwrap().to_str().unwrap().to_owned()).unwrap();
        let _ = wait.recv();
    });
    (name.recv().unwrap(), stop)
}

#[test]
fn a_policy_is_kept_until_somebody_insists() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::new(dir.path().join("state"));
    let path = dir.path().join("policy.toml");
    let pid = std::process::id();
    let text = format!(
        "name = \"kept\"\nirqs = \"keep\"\ndefault-affinity = \"keep\"\n[[guest]]\nname = \"{pid}\"\n\
         cpus = \"1\"\nplacement = \"keep\"\nthreads = \"keep\"\n"
    );
    fs::write(&path, "placement = 1\n").unwrap();
    let refused = Reconciler::take(HostRoot::live(), &state, path.clone(), Mode::Keep).unwrap_err();
    assert!(matches!(refused, ReconcileError::Policy { .. }) && refused.is_usage(), "{refused}");
    fs::write(&path, &text).unwrap();

    let kvm = Kvm::new().expect("/dev/kvm is needed: modprobe kvm_intel or kvm_amd, and run as root");
    let reconciler = Reconciler::take(HostRoot::live(), &state, path.clone(), Mode::Keep).unwrap();
    let controller = reconciler.start(Arc::new(Nothing), CONTROL).unwrap();
    let second = Reconciler::take(HostRoot::live(), &state, path.clone(), Mode::Keep).unwrap_err();
    assert!(matches!(second, ReconcileError::State(_)), "{second}");

    let vm = kvm.create_vm().unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    thread::scope(|scope| {
        let (tid, stop) = vcpu_thread(scope);
        let before = cpus_of(&tid);
        wait_for("pinned", || cpus_of(&tid) == "1");
        for _ in 0..2 {
            set(&tid, 0);
            wait_for("corrected", || cpus_of(&tid) == "1");
        }
        set(&tid, 0);
        // Found changed for the third time it is let go: the next audit, after ten seconds at most, leaves it.
        let since = Instant::now();
        wait_for("let go", || {
            let found = cpus_of(&tid);
            assert_eq!(found, "0", "it was corrected once more");
            since.elapsed() > Duration::from_secs(15)
        });
        // Another policy takes it up again.
        fs::write(&path, text.replace("kept", "again")).unwrap();
        controller.reload();
        wait_for("taken up again", || cpus_of(&tid) == "1");
        assert!(state.journal_path().exists());
        assert_ne!(before, "1");
        drop(stop);
    });
    drop((vcpu, vm));
    wait_for("undone with its guest", || !state.journal_path().exists());
    controller.stop();
    assert!(state.lock().is_ok(), "the lock is free");
}
