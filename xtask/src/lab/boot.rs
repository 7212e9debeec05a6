//! One boot of the emulated host: starts QEMU, passes the task's output on, keeps the deadline, and finds out how it
//! ended. Knows neither what the task is nor where images come from.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::images::Images;
use super::qemu::Machine;
use crate::process::send_lines;

/// How often the kernel's console is looked at while the task is silent.
const TICK: Duration = Duration::from_millis(200);
/// Console lines shown when the host does not end by itself.
const LAST_LINES: usize = 20;
/// A host that has not started its task by then never will: a boot takes 4 to 30 s.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
const BOOT_ATTEMPTS: u32 = 3;
/// How long the machine may take to switch itself off when its task has ended and its files are out.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(15);

/// How Linux says on its console that it, or the machine under it, no longer works.
const BREAKDOWNS: [&str; 6] = [
    "Kernel panic",
    "blocked for more than",
    "soft lockup",
    "hard LOCKUP",
    "detected stalls on CPUs",
    "self-detected stall",
];
/// Of the silence that a task may keep, the part after which one whose kernel says that it is broken is given up.
const BROKEN_SILENCE: u32 = 4;

/// How long a task may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// From the start of the machine to the end of the task.
    pub(crate) whole: Duration,
    /// Between two lines of its output; as long as it likes where there is none.
    pub(crate) silence: Option<Duration>,
}

/// Boots `machine` and runs its task to the end, each line of its output given to `line`. Returns the task's exit
/// status; a host that dies or passes a limit is an error with the last lines of its console.
pub(crate) fn run(
    images: &Images,
    machine: &Machine,
    limits: Limits,
    line: &mut dyn FnMut(&str),
) -> Result<u8> {
    for attempt in 1.. {
        match boot(images, machine, limits, line)? {
            End::Exited => break,
            // On a busy machine Linux' checks of its timers can fail in emulation: it panics, or waits for a tick
            // that never comes. No task has started then, so another boot hides nothing of what is tested.
            End::NeverUp if attempt < BOOT_ATTEMPTS => {
                eprintln!("lab: the host did not start; booting again. It said at last:");
                eprintln!("{}", last_lines(&machine.console));
            }
            End::NeverUp => bail!(
                "the lab's host did not start, {BOOT_ATTEMPTS} times; last lines of its console:\n{}",
                last_lines(&machine.console)
            ),
            End::PastLimit => bail!(
                "the lab was stopped at its limit of {} s (see --limit); last lines of its console:\n{}",
                limits.whole.as_secs(),
                last_lines(&machine.console)
            ),
            End::Silent(silence) => bail!(
                "the lab was stopped as its task had been silent for {} s; last lines of its console:\n{}",
                silence.as_secs(),
                last_lines(&machine.console)
            ),
        }
    }
    exit_status(&machine.console)
}

/// How a boot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The machine was switched off, or its task had ended and it was about to be.
    Exited,
    /// The task never started.
    NeverUp,
    PastLimit,
    /// The task had said nothing for this long.
    Silent(Duration),
}

fn boot(images: &Images, machine: &Machine, limits: Limits, line: &mut dyn FnMut(&str)) -> Result<End> {
    let start = Instant::now();
    let messages = machine.console.with_extension("qemu");
    let mut child = qemu(images, machine)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&messages)?)
        .spawn()
        .context("cannot start QEMU out of the lab's root file system")?;
    let output = child.stdout.take().context("QEMU's output is piped")?;
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || send_lines(output, &sender));
    let mut up = None;
    let mut task_ended = None;
    let mut spoke = start;
    let stopped = loop {
        match receiver.recv_timeout(TICK) {
            Ok(text) => {
                spoke = Instant::now();
                line(&text);
            }
            Err(RecvTimeoutError::Disconnected) => break None,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if up.is_none()
            && let Some(text) = marker(&machine.console, "LAB-UP ")
        {
            let release = text.split(' ').next().unwrap_or_default();
            eprintln!("lab: host is up after {:.0} s (Linux {release})", start.elapsed().as_secs_f64());
            up = Some(Instant::now());
        }
        if task_ended.is_none() && up.is_some() && marker(&machine.console, "LAB-EXIT ").is_some() {
            task_ended = Some(Instant::now());
        }
        let silent = limits.silence.filter(|_| up.is_some() && task_ended.is_none());
        let stop = if task_ended.is_some_and(|at| at.elapsed() > POWER_OFF_LIMIT) {
            Some(End::Exited)
        } else if start.elapsed() > limits.whole {
            Some(End::PastLimit)
        } else if silent.is_some_and(|limit| gave_up(limit, spoke.elapsed(), &machine.console)) {
            Some(End::Silent(spoke.elapsed()))
        } else if up.is_none() && (start.elapsed() > BOOT_LIMIT || is_broken(&machine.console)) {
            Some(End::NeverUp)
        } else {
            None
        };
        if stop.is_some() {
            child.kill().context("cannot stop QEMU")?;
            break stop;
        }
    };
    let status = child.wait()?;
    // The pipe is closed with QEMU, so the reader has ended or is about to.
    drop(receiver);
    reader.join().ok().context("the reader of QEMU's output panicked")?;
    match stopped {
        Some(end) => Ok(end),
        None if !status.success() => {
            bail!("QEMU failed: {status}: {}", fs::read_to_string(&messages).unwrap_or_default().trim())
        }
        None if marker(&machine.console, "LAB-UP ").is_none() => Ok(End::NeverUp),
        None => Ok(End::Exited),
    }
}

/// Whether a task that has been silent for `silent` will not go on: too long, or long enough with a kernel that says
/// that it is broken.
fn gave_up(limit: Duration, silent: Duration, console: &Path) -> bool {
    silent > limit || (silent > limit / BROKEN_SILENCE && is_broken(console))
}

fn is_broken(console: &Path) -> bool {
    fs::read(console).is_ok_and(|text| breakdown(&String::from_utf8_lossy(&text)).is_some())
}

/// The console line that tells of a breakdown.
pub(crate) fn breakdown(console: &str) -> Option<&str> {
    console.lines().find(|line| BREAKDOWNS.iter().any(|sign| line.contains(sign))).map(str::trim)
}

/// Boots `machine` with the task on this terminal.
pub(crate) fn interact(images: &Images, machine: &Machine) -> Result<u8> {
    let status = qemu(images, machine).status().context("cannot start QEMU")?;
    if !status.success() {
        bail!("QEMU failed: {status}; last lines of the console:\n{}", last_lines(&machine.console));
    }
    exit_status(&machine.console)
}

/// QEMU of the root file system. It dies with xtask, however that ends: an emulated host without its xtask would
/// keep four threads busy for ever.
fn qemu(images: &Images, machine: &Machine) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(images.loader());
    command.args(images.loader_args("usr/bin/qemu-system-x86_64"));
    command.args(machine.args());
    command.env("QEMU_MODULE_DIR", images.rootfs().join("usr/lib/x86_64-linux-gnu/qemu"));
    command
}

fn exit_status(console: &Path) -> Result<u8> {
    let Some(text) = marker(console, "LAB-EXIT ") else {
        bail!(
            "the emulated host died before its task ended; last lines of its console:\n{}",
            last_lines(console)
        );
    };
    text.trim().parse().with_context(|| format!("{}: LAB-EXIT {text}", console.display()))
}

/// What follows `key` on the last console line that starts with it.
fn marker(console: &Path, key: &str) -> Option<String> {
    let text = fs::read(console).ok()?;
    find_marker(&String::from_utf8_lossy(&text), key).map(str::to_owned)
}

fn find_marker<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    // A line without its end is still being written.
    let complete = text.rsplit_once('\n')?.0;
    complete.lines().rev().find_map(|line| line.strip_prefix(key)).map(str::trim_end)
}

/// How a kernel's account of its own death begins.
const DEATHS: [&str; 5] = ["BUG: ", "Oops: ", "general protection fault", "Kernel panic", "cut here ]"];

/// The end of the console, for messages; the whole of the kernel's last words when it died of an error.
fn last_lines(console: &Path) -> String {
    let text =
        fs::read(console).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return "  (it wrote nothing)".to_owned();
    }
    let died = lines.iter().position(|line| DEATHS.iter().any(|death| line.contains(death)));
    let from = lines.len().saturating_sub(LAST_LINES).min(died.unwrap_or(usize::MAX));
    lines[from..].iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_whole_lines_and_the_last_one_counts() {
        let cases = [
            ("LAB-EXIT 0\r\n", Some("0")),
            ("LAB-EXIT 0\nLAB-EXIT 3\n", Some("3")),
            ("LAB-EXIT 1", None),
            ("x LAB-EXIT 1\n", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(find_marker(text, "LAB-EXIT "), expected, "{text:?}");
        }
    }

    #[test]
    fn a_console_tells_of_a_breakdown() {
        let hung = "ok\r\n[  363.9] INFO: task vfprobe:231 blocked for more than 120 seconds.\r\nmore\n";
        assert_eq!(
            breakdown(hung),
            Some("[  363.9] INFO: task vfprobe:231 blocked for more than 120 seconds.")
        );
        assert_eq!(breakdown("LAB-UP 6.12\nLAB-EXIT 0\n"), None);
    }

    #[test]
    fn a_silent_task_is_given_up_sooner_when_its_kernel_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        let console = dir.path().join("console.log");
        let limit = Duration::from_secs(240);
        for (text, waits, ends) in
            [("LAB-UP 6.12\n", 240, 241), ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:\n", 60, 61)]
        {
            fs::write(&console, text).unwrap();
            assert!(!gave_up(limit, Duration::from_secs(waits), &console), "{text}");
            assert!(gave_up(limit, Duration::from_secs(ends), &console), "{text}");
        }
    }

    #[test]
    fn a_host_that_died_shows_its_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let console = dir.path().join("console.log");
        let lines: Vec<String> = (0..30).map(|n| format!("line {n}\r")).collect();
        fs::write(&console, lines.join("\n")).unwrap();
        let error = exit_status(&console).unwrap_err().to_string();
        assert!(error.contains("died before"), "{error}");
        assert!(error.contains("  line 29") && !error.contains("line 9"), "{error}");

        let lines = lines.join("\n").replace("line 3\r", "[ 3.1] BUG: unable to handle page fault\r");
        fs::write(&console, lines).unwrap();
        let error = exit_status(&console).unwrap_err().to_string();
        assert!(error.contains("  [ 3.1] BUG: ") && error.contains("  line 29"), "{error}");
        assert!(!error.contains("line 2\n"), "{error}");
    }
}
