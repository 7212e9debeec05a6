//! Starting a workload, collecting its output, and ending it with everything it started.

use super::{Said, Workload, json, lines::Lines, parse_within};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    io::{self, Write},
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, ChildStdout, Command},
    task::JoinHandle,
};

/// Standard error beyond this is read and dropped.
const MAX_OUTPUT: usize = 8 << 20;
/// The tool of figures that a command states itself.
pub const STATED: &str = "workload";
/// How much of standard error is kept, from its end.
const STDERR_KEPT: usize = 2048;

/// Whether the workload's output is shown while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// Nothing is shown.
    No,
    /// Both of its streams are copied to standard error; standard output stays vfprobe's own.
    ToStderr,
}

/// How figures are read out of what a workload says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// As the tool that the command names writes them.
    #[default]
    ByTool,
    /// As the command states them itself, in JSON (docs/workloads.md).
    Stated,
}

/// A workload that could not be run.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// No command was given.
    #[error("no workload command after --")]
    Empty,
    /// It could not be started.
    #[error("cannot start workload {program:?}; is it installed and on the PATH?")]
    Start {
        /// The program.
        program: String,
        /// The cause.
        source: io::Error,
    },
    /// Waiting for it failed.
    #[error("waitpid for workload {program:?} failed")]
    Wait {
        /// The program.
        program: String,
        /// The cause.
        source: io::Error,
    },
}

/// A workload under way. Dropping it kills its whole process group.
#[derive(Debug)]
pub struct Running {
    command: Vec<String>,
    reading: Reading,
    child: Child,
    group: Option<Pid>,
    started: Instant,
    wall: Option<Duration>,
    /// `None`: somebody else reads it.
    stdout: Option<(Lines, std::thread::JoinHandle<()>)>,
    stderr: JoinHandle<Vec<u8>>,
}

/// Starts a command in a process group of its own, with no standard input. Needs a tokio runtime.
///
/// # Errors
/// [`WorkloadError::Start`] names the program.
pub fn start(command: &[String], echo: Echo) -> Result<Running, WorkloadError> {
    let (mut running, stdout) = launch(command, echo)?;
    let source =
        |source| WorkloadError::Start { program: command.first().cloned().unwrap_or_default(), source };
    if let Some(fd) = stdout.map(ChildStdout::into_owned_fd).transpose().map_err(source)? {
        let lines = Lines::default();
        let reader = lines.read(fd, echo).map_err(source)?;
        running.stdout = Some((lines, reader));
    }
    Ok(running)
}

/// As [`start`], but whoever calls it reads the standard output.
pub(super) fn launch(
    command: &[String],
    echo: Echo,
) -> Result<(Running, Option<ChildStdout>), WorkloadError> {
    let (program, arguments) = command.split_first().ok_or(WorkloadError::Empty)?;
    let started = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|source| WorkloadError::Start { program: program.clone(), source })?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let stdout = child.stdout.take();
    let stderr = tokio::spawn(collect(child.stderr.take(), echo));
    let reading = Reading::default();
    let command = command.to_vec();
    Ok((Running { command, reading, child, group, started, wall: None, stdout: None, stderr }, stdout))
}

impl Running {
    /// Says how its figures are read.
    #[must_use]
    pub fn read_as(mut self, reading: Reading) -> Self {
        self.reading = reading;
        self
    }

    /// Waits until the command ends by itself; what it left running is then killed, as it would hold the pipes open and
    /// the load on. Cancel-safe: it can be raced against a timer or a signal, and called again.
    ///
    /// # Errors
    /// [`WorkloadError::Wait`].
    pub async fn ended(&mut self) -> Result<(), WorkloadError> {
        self.wait().await.map(|_| ())
    }

    /// Ends the command as [`finish_run`](Self::finish_run) does; all of its time counts.
    ///
    /// # Errors
    /// [`WorkloadError::Wait`].
    pub async fn finish(self, grace: Duration) -> Result<Workload, WorkloadError> {
        let from = self.started;
        self.finish_run(from, Instant::now(), grace).await
    }

    /// Ends the command if it still runs, and reads what it said of the time from one moment to another, which is now, or
    /// where that cannot be told apart, of all its time: SIGINT first, on which ping and iperf3 print their summaries,
    /// SIGKILL to the whole group when `grace` is over.
    ///
    /// # Errors
    /// [`WorkloadError::Wait`].
    pub async fn finish_run(
        mut self,
        from: Instant,
        to: Instant,
        grace: Duration,
    ) -> Result<Workload, WorkloadError> {
        let by_itself = self.has_ended()?;
        if !by_itself {
            self.signal(Signal::INT);
            if tokio::time::timeout(grace, self.wait()).await.is_err() {
                self.signal(Signal::KILL);
            }
        }
        let status = self.wait().await?;
        let lines = match self.stdout.take() {
            Some((lines, reader)) => {
                // The pipe ends with the group; a reader that panicked has left what it read before.
                let _ = tokio::task::spawn_blocking(|| reader.join()).await;
                lines.take_all()
            }
            None => Vec::new(),
        };
        let stderr = (&mut self.stderr).await.unwrap_or_default();
        let since = |at: Instant| at.saturating_duration_since(self.started);
        let lines: Vec<(Duration, String)> = lines.into_iter().map(|(at, line)| (since(at), line)).collect();
        let said = Said { lines: &lines, from: since(from), to: since(to) };
        Ok(self.describe(status, !by_itself, &said, &stderr))
    }

    /// Whether the command has ended already.
    pub(super) fn has_ended(&mut self) -> Result<bool, WorkloadError> {
        self.child.try_wait().map(|status| status.is_some()).map_err(|e| self.wait_error(e))
    }

    async fn wait(&mut self) -> Result<ExitStatus, WorkloadError> {
        let status = self.child.wait().await.map_err(|e| self.wait_error(e))?;
        self.wall.get_or_insert_with(|| self.started.elapsed());
        self.signal(Signal::KILL);
        // From here on the number may belong to another group.
        self.group = None;
        Ok(status)
    }

    fn describe(&self, status: ExitStatus, stopped: bool, said: &Said<'_>, err: &[u8]) -> Workload {
        let wall = self.wall.unwrap_or_else(|| self.started.elapsed());
        let mut result = Workload {
            command: self.command.clone(),
            exit_code: status.code(),
            signal: status.signal(),
            stopped,
            wall_ns: u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX),
            stderr: tail(&String::from_utf8_lossy(err)).to_owned(),
            ..Workload::default()
        };
        let read = match self.reading {
            Reading::ByTool => parse_within(&self.command, said),
            Reading::Stated => Some((STATED, said.whole(STATED, json::parse(&said.text())))),
        };
        if let Some((tool, parsed)) = read {
            result.tool = Some(tool.to_owned());
            match parsed {
                Ok((metrics, note)) => (result.metrics, result.note) = (metrics, note),
                Err(reason) => result.note = Some(reason),
            }
        }
        result
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // ESRCH means that the group is gone, which is what is wanted.
            let _ = kill_process_group(group, signal);
        }
    }

    fn wait_error(&self, source: io::Error) -> WorkloadError {
        WorkloadError::Wait { program: self.command.first().cloned().unwrap_or_default(), source }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Reads a stream to its end, keeps its beginning, and shows it if asked to.
async fn collect(stream: Option<impl AsyncRead + Unpin>, echo: Echo) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(stream) = stream else { return kept };
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    // An unreadable pipe ends the collection as its end does: the process is waited for either way.
    while stream.read_until(b'\n', &mut line).await.is_ok_and(|n| n > 0) {
        if echo == Echo::ToStderr {
            // The workload's result does not depend on whether somebody sees its output.
            let _ = io::stderr().write_all(&line);
        }
        if kept.len() + line.len() <= MAX_OUTPUT {
            kept.append(&mut line);
        }
        line.clear();
    }
    kept
}

/// The last [`STDERR_KEPT`] bytes, cut at a character.
fn tail(text: &str) -> &str {
    let text = text.trim_end();
    let mut from = text.len().saturating_sub(STDERR_KEPT);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    const GRACE: Duration = Duration::from_secs(10);

    #[test]
    fn exit_code_and_stderr_are_kept() {
        let result = run(async {
            let mut running = start(&command("echo out; echo wrong >&2; exit 7"), Echo::No).unwrap();
            running.ended().await.unwrap();
            running.finish(GRACE).await.unwrap()
        });
        assert_eq!((result.exit_code, result.signal, result.stopped), (Some(7), None, false));
        assert_eq!((result.stderr.as_str(), result.tool.as_deref()), ("wrong", None));
        assert!(!result.succeeded() && result.wall_ns > 0);
    }

    #[test]
    fn a_command_states_its_own_figures() {
        let script = r#"echo '{"metrics":[{"name":"jobs","value":7,"better":"higher"}]}'"#;
        let result = run(async {
            let mut running = start(&command(script), Echo::No).unwrap().read_as(Reading::Stated);
            running.ended().await.unwrap();
            running.finish(GRACE).await.unwrap()
        });
        assert_eq!((result.tool.as_deref(), result.metric("jobs").unwrap().value), (Some("workload"), 7.0));
    }

    #[test]
    fn replies_of_the_warm_up_are_left_out() {
        let reply = |seq: u32| format!("64 bytes from h: icmp_seq={seq} ttl=64 time={seq}.0 ms");
        let dir = tempfile::tempdir().unwrap();
        let (first, go) = (dir.path().join("first"), dir.path().join("go"));
        // One reply before `first` is there, and one after `go` is.
        let script = format!(
            "echo '{}'; touch {first}; until test -e {go}; do sleep 0.01; done; echo '{}'",
            reply(1),
            reply(2),
            first = first.display(),
            go = go.display()
        );
        let result = run(async {
            let command = ["sh", "-c", &script, "ping"].map(str::to_owned);
            let mut running = start(&command, Echo::No).unwrap();
            let lines = running.stdout.as_ref().unwrap().0.clone();
            let deadline = Instant::now() + GRACE;
            while lines.count() == 0 {
                assert!(Instant::now() < deadline, "no line came");
                std::thread::yield_now();
            }
            let from = Instant::now();
            std::fs::write(&go, "").unwrap();
            running.ended().await.unwrap();
            running.finish_run(from, Instant::now(), GRACE).await.unwrap()
        });
        let value = |name: &str| result.metric(name).map(|m| m.value);
        assert_eq!((value("received"), value("rtt_mean")), (Some(1.0), Some(2e6)), "{result:?}");
    }

    #[test]
    fn a_workload_that_outlives_the_run_is_ended() {
        let result = run(async {
            let script = "trap 'echo got it >&2; exit 0' INT; echo up; while :; do sleep 0.02; done";
            let running = start(&command(script), Echo::No).unwrap();
            running.finish(GRACE).await.unwrap()
        });
        assert!(result.stopped && result.succeeded());
    }

    #[test]
    fn what_ignores_the_interrupt_is_killed_with_its_children() {
        // The grandchild keeps the pipe open: `finish` returns only when it is gone too.
        let result = run(async {
            let running = start(&command("trap '' INT; sleep 1000 & wait; sleep 1000"), Echo::No).unwrap();
            running.finish(Duration::from_millis(50)).await.unwrap()
        });
        assert!(result.stopped);
        assert!(result.exit_code.is_none() && result.signal.is_some());
    }

    #[test]
    fn what_a_finished_command_left_behind_is_killed() {
        let result = run(async {
            let mut running = start(&command("sleep 1000 & exit 0"), Echo::No).unwrap();
            running.ended().await.unwrap();
            running.finish(GRACE).await.unwrap()
        });
        assert_eq!((result.exit_code, result.stopped), (Some(0), false));
    }

    #[test]
    fn dropping_kills() {
        let group = run(async {
            let running = start(&command("sleep 1000"), Echo::No).unwrap();
            running.group.unwrap()
        });
        // Killed children stay as zombies of this process until waited for; the signal is what is asked about.
        let deadline = Instant::now() + Duration::from_secs(10);
        let state = || {
            std::fs::read_to_string(format!("/proc/{}/stat", group.as_raw_nonzero()))
                .ok()
                .and_then(|stat| stat.rsplit(") ").next()?.chars().next())
        };
        while !matches!(state(), None | Some('Z' | 'X')) {
            assert!(Instant::now() < deadline, "the process still runs: {:?}", state());
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(async { start(&["no-such-program".to_owned()], Echo::No).unwrap_err() });
        assert!(error.to_string().contains("no-such-program"), "{error}");
        assert!(matches!(run(async { start(&[], Echo::No) }), Err(WorkloadError::Empty)));
    }

    #[test]
    fn tails_end_at_characters() {
        assert_eq!(tail("short\n"), "short");
        assert_eq!(tail(&"ä".repeat(2000)).len(), STDERR_KEPT);
        assert!(tail(&format!("{}x", "ä".repeat(2000))).len() < STDERR_KEPT);
    }
}
