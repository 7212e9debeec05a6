//! A policy that is kept on a host that is laid out in files. No thread can be moved there, so the guests have their pins.

use super::*;
use crate::host::fixture::{IXGBE, Large, Tree, generate};
use crate::model::{PciAddress, Pid};
use crate::plan::{Need, Target};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Mutex;

/// CPUs 0-5; vm0 on CPU 0 and vm1 on CPU 1, each with a VF of two vectors: interrupts 7 and 8, 9 and 10.
struct Bench {
    tree: Tree,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let tree =
            generate(&Large { sockets: 1, cores: 3, guests: 2, vcpus: 1, vfs: 2, slots: 2, card: IXGBE });
        tree.file("proc/irq/default_smp_affinity", "3f\n");
        tree.file("proc/sys/kernel/random/boot_id", "b\n");
        tree.file("sys/module/kvm_intel/parameters/enable_apicv", "N\n");
        for number in 1..=10 {
            // Here no interrupt ever arrives anywhere.
            tree.remove(&format!("proc/irq/{number}/effective_affinity_list"));
            let action = match number {
                1..=6 => format!("eth0-TxRx-{}", number - 1),
                _ => format!("vfio-msix[{}]({})", (number - 7) % 2, IXGBE.vf((number - 7) / 2)),
            };
            tree.file(&format!("sys/kernel/irq/{number}/actions"), &format!("{action}\n"));
        }
        let bench = Self { tree, dir: tempfile::tempdir().unwrap() };
        bench.policy("keep");
        bench
    }

    /// The policy, with these CPUs for vm1.
    fn policy(&self, cpus: &str) {
        let table = |name: &str, cpus: &str| {
            format!(
                "[[guest]]\nname = \"{name}\"\ncpus = \"{cpus}\"\nthreads = \"keep\"\nplacement = \"own\"\n"
            )
        };
        let text = format!("name = \"kept\"\n{}{}", table("vm0", "keep"), table("vm1", cpus));
        fs::write(self.path(), text).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("policy.toml")
    }

    fn state(&self) -> StateDir {
        StateDir::new(self.dir.path().join("state"))
    }

    fn take(&self, path: &Path) -> Result<Reconciler, ReconcileError> {
        Reconciler::take(self.tree.root(), &self.state(), path.to_owned(), Mode::Keep)
    }

    /// A controller that has brought the policy into force.
    fn keeping(&self) -> Reconciler {
        let mut keeper = self.take(&self.path()).unwrap();
        keep(&mut keeper, &Freed::new());
        assert_eq!(self.masks(), "3c\n 2-5 0 0 1 1");
        keeper
    }

    /// The default mask, and those of an interrupt that is no guest's and of the guests'.
    fn masks(&self) -> String {
        let mut text = fs::read_to_string(self.tree.path("proc/irq/default_smp_affinity")).unwrap();
        text = format!("{}\n", text.trim());
        for number in [1, 7, 8, 9, 10] {
            let mask = fs::read_to_string(self.tree.path(&mask_path(number))).unwrap();
            text.push_str(&format!(" {}", mask.trim()));
        }
        text
    }

    fn set(&self, number: u32, cpus: &str) {
        self.tree.file(&mask_path(number), &format!("{cpus}\n"));
    }
}

fn mask_path(number: u32) -> String {
    format!("proc/irq/{number}/smp_affinity_list")
}

/// Probes that see interrupts freed, and nothing else: at the first look what is there to be taken, then the other.
struct Frees(Mutex<Option<Freed>>, Freed);

impl Observed for Frees {
    fn accepted(&self) -> Vec<Accepted> {
        Vec::new()
    }

    fn freed(&self) -> Freed {
        self.0.lock().unwrap().take().unwrap_or_else(|| self.1.clone())
    }

    fn signs(&self) -> Signs {
        Signs::default()
    }

    fn bell(&self) -> Option<Result<Bell, String>> {
        None
    }

    fn seen(&self) -> Seen {
        Seen::default()
    }
}

fn keep(keeper: &mut Reconciler, freed: &Freed) {
    keep_while(keeper, freed, freed);
}

/// The same while interrupts are freed.
fn keep_while(keeper: &mut Reconciler, freed: &Freed, then: &Freed) {
    let frees = Frees(Mutex::new(Some(freed.clone())), then.clone());
    keeper.reconcile(&frees, Duration::from_secs(1)).unwrap();
}

#[test]
fn an_interrupt_that_is_made_anew_is_nobodys_doing() {
    let bench = Bench::new();
    let mut keeper = bench.keeping();
    // Not seen: it has the mask that new interrupts get.
    for _ in 0..5 {
        bench.set(7, "2-5");
        keep(&mut keeper, &Freed::new());
        assert_eq!(bench.masks(), "3c\n 2-5 0 0 1 1");
    }
    // Seen, whatever it has.
    let vector: (PciAddress, u16) = (IXGBE.vf(0).parse().unwrap(), 0);
    let freed = |times| Freed::from([(vector, (Pid(10_000), times))]);
    keep(&mut keeper, &freed(0));
    for times in 1..=5 {
        bench.set(7, "3");
        keep(&mut keeper, &freed(times));
        assert_eq!(bench.masks(), "3c\n 2-5 0 0 1 1", "freed {times} times");
    }
    // The host was being looked at.
    for times in 6..=10 {
        bench.set(7, "3");
        keep_while(&mut keeper, &freed(times - 1), &freed(times));
        assert_eq!(bench.masks(), "3c\n 2-5 0 0 1 1", "freed {times} times");
    }
    keep(&mut keeper, &freed(10));
    // Somebody sets it: three strikes.
    for expected in ["0", "0", "3"] {
        bench.set(7, "3");
        keep(&mut keeper, &freed(10));
        assert_eq!(bench.masks(), format!("3c\n 2-5 {expected} 0 1 1"));
    }
    assert!(!keeper.has_drifted(), "it was let go");
    keeper.stop();
    assert_eq!(bench.masks(), "3f\n 0-5 3 0-5 0-5 0-5");
}

/// What it had before it was placed came from a default mask that was ours.
#[test]
fn an_interrupt_that_was_made_anew_is_undone_to_what_it_would_have_had() {
    let bench = Bench::new();
    let mut keeper = bench.keeping();
    bench.set(7, "2-5");
    keep(&mut keeper, &Freed::new());
    keeper.stop();
    assert_eq!(bench.masks(), "3f\n 0-5 0-5 0-5 0-5 0-5");
}

#[test]
fn what_the_policy_has_nothing_against_is_left_to_others() {
    let bench = Bench::new();
    let mut keeper = bench.keeping();
    bench.set(1, "4");
    assert!(keeper.has_drifted());
    keep(&mut keeper, &Freed::new());
    assert!(!keeper.has_drifted());
    // To a guarded CPU it does not go.
    bench.set(1, "0,4");
    keep(&mut keeper, &Freed::new());
    assert_eq!(bench.masks(), "3c\n 4 0 0 1 1");
    keeper.stop();
    assert_eq!(bench.masks(), "3f\n 0,4 0-5 0-5 0-5 0-5");
}

#[test]
fn one_guests_trouble_is_not_the_others() {
    let bench = Bench::new();
    bench.policy("1");
    let mut keeper = bench.keeping();
    // It gets a vCPU more.
    let name = ["/usr/bin/qemu-system-x86_64", "-name", "guest=vm1,debug-threads=on"];
    let threads =
        [(10_100, "qemu-system-x86", "0-5"), (10_101, "CPU 0/KVM", "1"), (10_102, "CPU 1/KVM", "0-5")];
    bench.tree.process(10_100, &name, &threads);
    bench.tree.open(10_100, &["anon_inode:kvm-vcpu:1"]);
    bench.set(7, "2-5");
    keep(&mut keeper, &Freed::new());
    assert_eq!(bench.masks(), "3c\n 2-5 0 0 1 1");
    let held: Vec<String> =
        keeper.held.iter().map(|held| format!("{}: {}", held.guest, held.error)).collect();
    assert!(matches!(&held[..], [one] if one.starts_with("vm1: guest \"vm1\" has 2 vCPUs")), "{held:?}");
    assert!(!keeper.has_drifted());
}

#[test]
fn a_policy_that_cannot_be_met_costs_nothing() {
    let bench = Bench::new();
    let mut keeper = bench.keeping();
    for refused in ["9", "1,"] {
        bench.policy(refused);
        keeper.reload(&Frees(Mutex::default(), Freed::new()));
        assert_eq!(bench.masks(), "3c\n 2-5 0 0 1 1", "{refused}");
        assert_eq!(keeper.policy.guests[1].pins, crate::plan::Pins::Keep);
    }
    bench.policy("1");
    keeper.reload(&Frees(Mutex::default(), Freed::new()));
    assert_eq!(bench.masks(), "3f\n 0-5 0-5 0-5 0-5 0-5");
    keep(&mut keeper, &Freed::new());
    assert_eq!(bench.masks(), "3c\n 2-5 0 0 1 1");
}

#[test]
fn only_what_a_service_has_kept_by_this_file_is_gone_on_with() {
    let bench = Bench::new();
    // By hand, under the same name.
    let step = Step {
        target: Target::DefaultAffinity,
        now: "0-5".parse::<crate::model::CpuSet>().unwrap().into(),
        effective: None,
        new: "4-5".parse::<crate::model::CpuSet>().unwrap().into(),
        need: Need::Required,
        reason: "test".to_owned(),
    };
    let plan = crate::plan::Plan {
        schema: crate::plan::PLAN_SCHEMA,
        config: "kept".to_owned(),
        guests: vec!["vm0".to_owned()],
        guarded: BTreeSet::new().into_iter().collect(),
        housekeeping: "4-5".parse().unwrap(),
        steps: vec![step],
        notes: Vec::new(),
    };
    let host = LiveHost::new(bench.tree.root());
    let lock = bench.state().lock().unwrap();
    apply::apply(&host, &plan, &lock, &Options::new()).unwrap();
    drop(lock);
    let refused = |path: &Path| bench.take(path).unwrap_err().to_string();
    assert!(refused(&bench.path()).starts_with("kept is in force, applied by hand; undo it with"));
    assert_eq!(bench.masks(), "30\n 0-5 0-5 0-5 0-5 0-5");
    let lock = bench.state().lock().unwrap();
    apply::rollback(&host, &lock, &RollbackOptions::default()).unwrap();
    drop(lock);

    drop(bench.keeping());
    let other = bench.dir.path().join("other.toml");
    fs::copy(bench.path(), &other).unwrap();
    let expected = format!("kept is in force, kept by the policy {}; undo it", bench.path().display());
    assert!(refused(&other).starts_with(&expected), "{}", refused(&other));
    // The service that begins again has the former one's settings, and undoes them in the end.
    let mut keeper = bench.take(&bench.path()).unwrap();
    keep(&mut keeper, &Freed::new());
    assert_eq!(bench.state().load().unwrap().transactions.len(), 1, "nothing had to be changed");
    keeper.stop();
    assert_eq!(bench.masks(), "3f\n 0-5 0-5 0-5 0-5 0-5");
}
