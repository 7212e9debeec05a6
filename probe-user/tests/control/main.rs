//! `apply` and `rollback` as processes that are killed at every place where it could matter, on threads of processes
//! that the tests start themselves. Needs two CPUs and the cargo feature `faults`; no privileges.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod bench;

use bench::{Bench, POINTS, Parent, Sleeper};
use probe_user::plan::Need;
use rustix::process::Signal;

#[test]
fn applied_verified_and_undone() {
    let bench = Bench::new();
    let before = bench.masks();
    let plan = bench.save_plan(Need::Required);
    bench.run(&["apply", &plan, "--yes"]).expect(0, "own is in force: 4 changes made");
    assert_ne!(bench.masks(), before);
    bench.run(&["verify"]).expect(0, "4 settings, all as asked");
    bench.run(&["status"]).expect(0, "as asked");
    bench.run(&["status", "--json"]).expect(0, "\"holds\": true");
    bench.run(&["rollback", "--dry-run"]).expect(0, "4 settings would be undone");
    bench.run(&["rollback"]).expect(0, "4 restored, 0 as they were already, 0 gone");
    assert_eq!(bench.masks(), before);
    bench.run(&["rollback"]).expect(0, "nothing to undo");
    bench.run(&["status"]).expect(0, "no configuration is in force");
}

#[test]
fn killed_at_every_point_of_apply() {
    let bench = Bench::new();
    let before = bench.masks();
    let plan = bench.save_plan(Need::Required);
    let mut kills = 0;
    for point in POINTS {
        for n in 1.. {
            let outcome = bench.run_with_fault(&["apply", &plan, "--yes"], point, n);
            if !outcome.was_killed() {
                outcome.expect(0, "is in force");
                bench.run(&["rollback"]).expect(0, "");
                assert_eq!(bench.masks(), before, "{point}:{n}");
                break;
            }
            kills += 1;
            if bench.has_journal() && !bench.is_settled() {
                bench.run(&["status"]).expect_code_in(&[0, 1]);
                bench.run(&["apply", &plan, "--yes"]).expect(3, "run `vfprobe rollback` first");
            }
            bench.run(&["rollback"]).expect(0, "");
            assert_eq!(bench.masks(), before, "{point}:{n}");
            assert!(!bench.has_journal(), "{point}:{n}");
        }
    }
    // Four steps, and begin and end of the transaction: each point is passed at least as often as there are steps.
    assert!(kills >= 4 * POINTS.len(), "only {kills} kills");
}

#[test]
fn killed_at_every_point_of_rollback() {
    let bench = Bench::new();
    let before = bench.masks();
    let plan = bench.save_plan(Need::Required);
    let mut kills = 0;
    // Rollback has no steps to record as done.
    for point in POINTS.into_iter().filter(|point| !point.ends_with("-done")) {
        for n in 1.. {
            bench.run(&["apply", &plan, "--yes"]).expect(0, "is in force");
            let outcome = bench.run_with_fault(&["rollback"], point, n);
            let killed = outcome.was_killed();
            if killed {
                kills += 1;
                bench.run(&["rollback"]).expect(0, "");
            } else {
                outcome.expect(0, "4 restored");
            }
            assert_eq!(bench.masks(), before, "{point}:{n}");
            assert!(!bench.has_journal(), "{point}:{n}");
            if !killed {
                break;
            }
        }
    }
    assert!(kills >= 8, "only {kills} kills");
}

/// SIGTERM comes while steps are being made: all or nothing, and mostly nothing. Whether it is seen before the last step is
/// up to the scheduler, so it is tried until it was.
#[test]
fn a_signal_during_apply_rolls_back() {
    let bench = Bench::new();
    let before = bench.masks();
    let plan = bench.save_plan(Need::Required);
    for attempt in 0.. {
        assert!(attempt < 100, "the signal was never seen in time");
        let outcome = bench.run_signalled(&["apply", &plan, "--yes"], "before-write:1:stop", Signal::TERM);
        if outcome.code() == Some(4) {
            outcome.expect(4, "interrupted by a signal; everything was rolled back");
            assert!(!bench.has_journal());
            break;
        }
        outcome.expect(0, "is in force");
        bench.run(&["rollback"]).expect(0, "4 restored");
    }
    assert_eq!(bench.masks(), before);
}

#[test]
fn a_thread_that_goes_away_rolls_back_or_is_passed_over() {
    let mut bench = Bench::new();
    let required = bench.save_plan(Need::Required);
    bench.sleepers[2].end();
    let before = bench.masks();
    bench.run(&["apply", &required, "--yes"]).expect(3, "is gone");
    assert_eq!(bench.masks(), before);
    let best_effort = bench.save_plan_for(&bench.steps(Need::BestEffort));
    bench.run(&["apply", &best_effort, "--yes"]).expect(0, "is in force: 3 changes made");
    bench.run(&["rollback"]).expect(0, "3 restored");
    assert_eq!(bench.masks(), before);
}

#[test]
fn a_stale_plan_changes_nothing() {
    let bench = Bench::new();
    let plan = bench.save_plan(Need::Required);
    bench.sleepers[3].set("0");
    let before = bench.masks();
    bench.run(&["apply", &plan, "--yes"]).expect(3, "the plan no longer fits the host, nothing was changed");
    assert_eq!(bench.masks(), before);
    assert!(!bench.has_journal());
}

#[test]
fn what_somebody_else_sets_stays_and_is_reported() {
    let bench = Bench::new();
    let plan = bench.save_plan(Need::Required);
    bench.run(&["apply", &plan, "--yes"]).expect(0, "");
    bench.sleepers[0].set("1");
    bench.run(&["verify"]).expect(1, "DRIFT: 1, set by somebody else");
    bench.run(&["rollback"]).expect(1, "left at 1, which somebody else has set since");
    assert_eq!(bench.sleepers[0].now(), "1");
    bench.run(&["rollback"]).expect(0, "nothing to undo");
}

#[test]
fn one_instance_at_a_time() {
    let bench = Bench::new();
    let plan = bench.save_plan(Need::Required);
    let before = bench.masks();
    let lock = bench.state().lock().unwrap();
    let holder = format!("another vfprobe (pid {})", std::process::id());
    bench.run(&["apply", &plan, "--yes"]).expect(3, &holder);
    bench.run(&["rollback"]).expect(3, &holder);
    assert_eq!(bench.masks(), before);
    drop(lock);
    bench.run(&["apply", &plan, "--yes"]).expect(0, "");
    bench.run(&["rollback"]).expect(0, "");
}

#[test]
fn a_process_that_starts_later_is_given_back_what_it_inherited() {
    let bench = Bench::new();
    let mut parent = Parent::start("0-1");
    let plan = bench.save_plan_for(&[parent.step("0-1", "0")]);
    bench.run(&["apply", &plan, "--yes"]).expect(0, "");
    let child = parent.beget();
    let stranger = Sleeper::start("0");
    assert_eq!(child.now(), "0");
    bench.run(&["rollback"]).expect(0, "2 restored");
    assert_eq!((child.now().as_str(), stranger.now().as_str()), ("0-1", "0"));
}

#[test]
fn damage_is_refused_with_its_place() {
    let bench = Bench::new();
    let before = bench.masks();
    let plan = bench.save_plan(Need::Required);
    bench.run(&["apply", &plan, "--yes"]).expect(0, "");
    let path = bench.state().journal_path();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[10] ^= 0x20;
    std::fs::write(&path, &bytes).unwrap();
    let applied = bench.masks();
    bench.run(&["rollback"]).expect(3, "line 1 (byte 0) is damaged");
    bench.run(&["status"]).expect(3, "line 1 (byte 0) is damaged");
    assert_eq!(bench.masks(), applied);
    bytes[10] ^= 0x20;
    std::fs::write(&path, &bytes).unwrap();
    bench.run(&["rollback"]).expect(0, "4 restored");
    assert_eq!(bench.masks(), before);
}

#[test]
fn wrong_arguments_change_nothing() {
    let bench = Bench::new();
    let before = bench.masks();
    let plan = bench.save_plan(Need::Required);
    bench.run(&["apply", &plan]).expect(2, "give --yes");
    bench.run(&["apply", &plan, "--dry-run"]).expect(0, "4 changes");
    bench.run(&["apply"]).expect(2, "name a guest");
    bench
        .run(&["apply", "/nonexistent/plan"])
        .expect(2, "cannot read the plan /nonexistent/plan: No such file");
    bench
        .run(&["plan", "--guest", "no such guest"])
        .expect(2, "no running guest is called \"no such guest\"");
    bench.run(&["plan", "--guest", "x", "--cpus", "3-1"]).expect(2, "is not a CPU list");
    bench.run(&["plan", "--guest", "x", "--placement", "there"]).expect(2, "is not a placement");
    assert_eq!(bench.masks(), before);
    assert!(!bench.has_journal());
}
