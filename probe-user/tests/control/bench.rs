//! Processes to move, a state folder, and `vfprobe` run on both.

use probe_user::apply::StateDir;
use probe_user::host::{parse_allowed_cpus, parse_stat};
use probe_user::model::{CpuSet, Pid, Tid};
use probe_user::plan::{Need, PLAN_SCHEMA, Plan, Role, Step, Target, ThreadTarget};
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The places where a process can be killed, as `VFPROBE_FAULT` names them.
pub(crate) const POINTS: [&str; 7] =
    ["torn-record", "before-sync", "after-sync", "before-write", "after-write", "before-done", "after-done"];

/// A process that only waits, and is ended with the value.
pub(crate) struct Sleeper {
    child: Child,
}

impl Sleeper {
    /// Starts one on these CPUs.
    pub(crate) fn start(cpus: &str) -> Self {
        let child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
        let sleeper = Self { child };
        sleeper.set(cpus);
        sleeper
    }

    pub(crate) fn set(&self, cpus: &str) {
        let mut mask = rustix::thread::CpuSet::new();
        for cpu in cpus.parse::<CpuSet>().unwrap().iter() {
            mask.set(usize::try_from(cpu.0).unwrap());
        }
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::thread::sched_setaffinity(Some(pid), &mask).unwrap();
    }

    /// Its CPUs, as a list.
    pub(crate) fn now(&self) -> String {
        cpus_of(self.child.id())
    }

    pub(crate) fn end(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn step(&self, now: &str, new: &str, need: Need) -> Step {
        step(self.child.id(), now, new, need)
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn file(pid: u32, name: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default()
}

fn cpus_of(pid: u32) -> String {
    parse_allowed_cpus(&file(pid, "status")).unwrap().to_string()
}

fn step(pid: u32, now: &str, new: &str, need: Need) -> Step {
    let (comm, start_time) = match parse_stat(&file(pid, "stat")) {
        Ok(stat) => (stat.comm, stat.start_time),
        Err(_) => ("gone".to_owned(), 1),
    };
    let guest = "vm1".to_owned();
    let role = if need == Need::BestEffort { Role::Host } else { Role::Emulator { guest } };
    Step {
        target: Target::Thread(ThreadTarget { pid: Pid(pid), tid: Tid(pid), start_time, comm, role }),
        now: now.parse::<CpuSet>().unwrap().into(),
        effective: None,
        new: new.parse::<CpuSet>().unwrap().into(),
        need,
        reason: "test".to_owned(),
    }
}

/// A process that starts another one when it is told to.
pub(crate) struct Parent {
    shell: Sleeper,
}

/// What a [`Parent`] started. It ends with it.
pub(crate) struct Descendant {
    pid: u32,
}

impl Parent {
    pub(crate) fn start(cpus: &str) -> Self {
        let script = "read go; sleep 600 & echo $!; read stop; kill $!";
        let mut command = Command::new("sh");
        let child =
            command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let shell = Sleeper { child };
        shell.set(cpus);
        Self { shell }
    }

    pub(crate) fn step(&self, now: &str, new: &str) -> Step {
        self.shell.step(now, new, Need::BestEffort)
    }

    pub(crate) fn beget(&mut self) -> Descendant {
        writeln!(self.shell.child.stdin.as_mut().unwrap(), "go").unwrap();
        let mut line = String::new();
        BufReader::new(self.shell.child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Descendant { pid: line.trim().parse().unwrap() }
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        // Closing its input ends the shell's wait, and it ends its child.
        drop(self.shell.child.stdin.take());
        let _ = self.shell.child.wait();
    }
}

impl Descendant {
    pub(crate) fn now(&self) -> String {
        cpus_of(self.pid)
    }
}

/// Four processes on CPUs 0 and 1, and a state folder.
pub(crate) struct Bench {
    pub(crate) sleepers: Vec<Sleeper>,
    dir: tempfile::TempDir,
}

/// CPUs that the processes start on and are moved to.
const MOVES: [(&str, &str); 4] = [("0-1", "0"), ("0-1", "1"), ("0", "1"), ("1", "0-1")];

impl Bench {
    pub(crate) fn new() -> Self {
        assert!(
            std::thread::available_parallelism().unwrap().get() >= 2,
            "these tests move threads between CPUs 0 and 1"
        );
        let sleepers = MOVES.iter().map(|(now, _)| Sleeper::start(now)).collect();
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Self { sleepers, dir }
    }

    pub(crate) fn state(&self) -> StateDir {
        StateDir::new(self.dir.path().join("state"))
    }

    pub(crate) fn has_journal(&self) -> bool {
        self.state().journal_path().exists()
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.state().load().unwrap().is_settled()
    }

    pub(crate) fn steps(&self, need: Need) -> Vec<Step> {
        self.sleepers.iter().zip(MOVES).map(|(s, (now, new))| s.step(now, new, need)).collect()
    }

    /// Saves the plan that makes all moves; gives its path.
    pub(crate) fn save_plan(&self, need: Need) -> String {
        self.save_plan_for(&self.steps(need))
    }

    pub(crate) fn save_plan_for(&self, steps: &[Step]) -> String {
        let plan = Plan {
            schema: PLAN_SCHEMA,
            config: "own".to_owned(),
            guests: vec!["vm1".to_owned()],
            guarded: "1".parse().unwrap(),
            housekeeping: "0".parse().unwrap(),
            steps: steps.to_vec(),
            notes: Vec::new(),
        };
        let path = self.dir.path().join("plan.json");
        fs::write(&path, serde_json::to_vec(&plan).unwrap()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The lines on CPUs of every process, byte for byte.
    pub(crate) fn masks(&self) -> Vec<String> {
        let lines = |sleeper: &Sleeper| {
            file(sleeper.child.id(), "status")
                .lines()
                .filter(|l| l.starts_with("Cpus_allowed"))
                .collect::<Vec<_>>()
                .join("\n")
        };
        self.sleepers.iter().map(lines).collect()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        self.outcome(self.command(arguments))
    }

    /// Runs with the process killed when it passes `point` for the n-th time.
    pub(crate) fn run_with_fault(&self, arguments: &[&str], point: &str, n: u32) -> Outcome {
        let mut command = self.command(arguments);
        command.env("VFPROBE_FAULT", format!("{point}:{n}"));
        self.outcome(command)
    }

    /// Runs with the process stopped at `fault`, sent `signal` there, and let go on.
    pub(crate) fn run_signalled(&self, arguments: &[&str], fault: &str, signal: Signal) -> Outcome {
        let mut command = self.command(arguments);
        command.env("VFPROBE_FAULT", fault).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        // The state is the first word after the name in parentheses.
        while !file(child.id(), "stat").contains(") T ") {
            assert!(Instant::now() < deadline, "it never stopped");
            std::thread::sleep(Duration::from_millis(1));
        }
        let pid = rustix::process::Pid::from_child(&child);
        for signal in [signal, Signal::CONT] {
            rustix::process::kill_process(pid, signal).unwrap();
        }
        Outcome { output: child.wait_with_output().unwrap(), command: format!("{command:?}") }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vfprobe"));
        command.arg("--state-dir").arg(self.dir.path().join("state")).args(arguments);
        command.env_remove("VFPROBE_FAULT").stdin(Stdio::null());
        command
    }

    fn outcome(&self, mut command: Command) -> Outcome {
        Outcome { output: command.output().unwrap(), command: format!("{command:?}") }
    }
}

/// How a run ended.
pub(crate) struct Outcome {
    output: Output,
    command: String,
}

impl Outcome {
    pub(crate) fn was_killed(&self) -> bool {
        self.output.status.signal() == Some(9)
    }

    pub(crate) fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    /// Asserts the exit code, and that either stream holds `text`.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, text: &str) {
        self.expect_code_in(&[code]);
        assert!(self.text().contains(text), "{}: no {text:?} in\n{}", self.command, self.text());
    }

    #[track_caller]
    pub(crate) fn expect_code_in(&self, codes: &[i32]) {
        let code = self.output.status.code();
        assert!(
            code.is_some_and(|code| codes.contains(&code)),
            "{}: {}, expected {codes:?}\n{}",
            self.command,
            self.output.status,
            self.text()
        );
    }

    fn text(&self) -> String {
        let Output { stdout, stderr, .. } = &self.output;
        format!("{}{}", String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr))
    }
}
