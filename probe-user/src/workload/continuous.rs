//! A workload that runs on while runs come and go: what it prints during a run is that run's.

use super::{
    Echo, Workload,
    lines::Lines,
    parse_part,
    run::{Running, WorkloadError, launch},
};
use std::{
    io,
    time::{Duration, Instant},
};

/// A command that is to run through all runs of a session. Dropping it kills its whole process group.
#[derive(Debug)]
pub struct Continuous {
    command: Vec<String>,
    echo: Echo,
    running: Option<Running>,
    lines: Lines,
    /// What the next run is to know of the time before it.
    remark: Option<String>,
}

impl Continuous {
    /// A command that runs from the first [`keep_up`](Self::keep_up) on.
    #[must_use]
    pub fn new(command: &[String], echo: Echo) -> Self {
        Self { command: command.to_vec(), echo, running: None, lines: Lines::default(), remark: None }
    }

    /// Starts the command unless it runs. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`WorkloadError`].
    pub fn keep_up(&mut self) -> Result<(), WorkloadError> {
        if let Some(running) = &mut self.running {
            if !running.has_ended()? {
                // What the time between two runs left must not take the place of a run's.
                self.lines.clear();
                return Ok(());
            }
            self.remark = Some("it ended before this run, and was started again".to_owned());
        }
        // A reader of what ran before may still write into the old lines.
        self.lines = Lines::default();
        let (running, stdout) = launch(&self.command, self.echo)?;
        self.running = Some(running);
        let fd = stdout.map(tokio::process::ChildStdout::into_owned_fd).transpose();
        if let Some(fd) = fd.map_err(|source| self.unreadable(source))? {
            drop(self.lines.read(fd, self.echo).map_err(|source| self.unreadable(source))?);
        }
        Ok(())
    }

    /// Resolves when the command ends, or when it does not run. Cancel-safe.
    pub async fn ended(&mut self) {
        if let Some(running) = &mut self.running {
            // A failing wait shows again when the run is over.
            drop(running.ended().await);
        }
    }

    /// What the command did from one moment to another, which is now. One that ended is started again for the next run.
    ///
    /// # Errors
    /// [`WorkloadError::Wait`].
    pub async fn run_over(&mut self, from: Instant, to: Instant) -> Result<Workload, WorkloadError> {
        let dead = match &mut self.running {
            Some(running) => running.has_ended()?,
            None => false,
        };
        let mut workload = match self.running.take_if(|_| dead) {
            Some(running) => running.finish(Duration::ZERO).await?,
            None => Workload { command: self.command.clone(), stopped: true, ..Workload::default() },
        };
        workload.continuous = true;
        workload.wall_ns = u64::try_from((to - from).as_nanos()).unwrap_or(u64::MAX);
        workload.metrics.clear();
        workload.note = self.remark.take();
        let lines = self.lines.take(from, to);
        match parse_part(&self.command, &lines) {
            None => workload.tool = None,
            Some((tool, parsed)) => {
                workload.tool = Some(tool.to_owned());
                match parsed {
                    Ok(metrics) => workload.metrics = metrics,
                    Err(reason) => {
                        let before = workload.note.map_or_else(String::new, |before| before + "; ");
                        workload.note = Some(before + &reason);
                    }
                }
            }
        }
        Ok(workload)
    }

    /// Ends the command as [`Running::finish`] does.
    ///
    /// # Errors
    /// [`WorkloadError::Wait`].
    pub async fn stop(mut self, grace: Duration) -> Result<(), WorkloadError> {
        match self.running.take() {
            Some(running) => running.finish(grace).await.map(drop),
            None => Ok(()),
        }
    }

    fn unreadable(&self, source: io::Error) -> WorkloadError {
        WorkloadError::Start { program: self.command.first().cloned().unwrap_or_default(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    /// A script whose first word is a tool's name, as wrappers give it: `env ping` in front of a shell would run ping.
    fn command(tool: &str, script: &str) -> Vec<String> {
        ["sh", "-c", script, tool].map(str::to_owned).to_vec()
    }

    fn reply(seq: u32) -> String {
        format!("64 bytes from h: icmp_seq={seq} ttl=64 time=2.0 ms")
    }

    /// Waits until so many lines have come.
    fn wait_for(continuous: &Continuous, lines: usize) -> Instant {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let have = continuous.lines.count();
            if have >= lines {
                return Instant::now();
            }
            assert!(Instant::now() < deadline, "{have} of {lines} lines came");
            std::thread::yield_now();
        }
    }

    #[test]
    fn each_run_has_what_was_printed_during_it() {
        let dir = tempfile::tempdir().unwrap();
        let go = dir.path().join("go");
        // Two lines, and one more for each time that the file comes.
        let script = format!(
            "echo '{}'; echo '{}'; n=3; while :; do if rm {go} 2>/dev/null; then \
             echo \"64 bytes from h: icmp_seq=$n ttl=64 time=2.0 ms\"; n=$((n + 1)); else sleep 0.01; fi; done",
            reply(1),
            reply(2),
            go = go.display()
        );
        run(async {
            let mut continuous = Continuous::new(&command("ping", &script), Echo::No);
            let begin = Instant::now();
            continuous.keep_up().unwrap();
            let between = wait_for(&continuous, 2);
            let first = continuous.run_over(begin, between).await.unwrap();
            let received = |run: &Workload| run.metric("received").map(|m| m.value);
            assert_eq!((received(&first), first.tool.as_deref()), (Some(2.0), Some("ping")));
            assert!(first.continuous && first.stopped && first.succeeded() && first.exit_code.is_none());
            // It goes on; a run in which nothing came has no figures, and says so.
            continuous.keep_up().unwrap();
            let second = continuous.run_over(between, Instant::now()).await.unwrap();
            assert!(second.succeeded() && second.metrics.is_empty());
            assert!(second.note.as_deref().unwrap().starts_with("ping printed no reply"), "{second:?}");
            continuous.keep_up().unwrap();
            let between = Instant::now();
            std::fs::write(&go, "").unwrap();
            let end = wait_for(&continuous, 1);
            let third = continuous.run_over(between, end).await.unwrap();
            assert_eq!((received(&third), third.note), (Some(1.0), None));
            continuous.stop(Duration::ZERO).await.unwrap();
        });
    }

    #[test]
    fn what_ends_fails_its_run_and_is_started_again() {
        for (script, ending) in [
            ("echo gone >&2; exit 3", "workload ended with exit code 3, and was to run on"),
            ("exit 0", "workload ended with exit code 0, and was to run on"),
            ("kill -9 $$", "workload was ended by signal 9"),
        ] {
            run(async {
                let mut continuous = Continuous::new(&command("sh", script), Echo::No);
                for _ in 0..2 {
                    let begin = Instant::now();
                    continuous.keep_up().unwrap();
                    continuous.ended().await;
                    let found = continuous.run_over(begin, Instant::now()).await.unwrap();
                    assert!(!found.succeeded() && !found.stopped && found.tool.is_none(), "{found:?}");
                    assert_eq!((found.ending().as_str(), found.note), (ending, None));
                    assert_eq!(found.stderr, if script.contains("gone") { "gone" } else { "" });
                }
            });
        }
    }

    #[test]
    fn what_ended_between_runs_is_said_in_the_next() {
        run(async {
            let dir = tempfile::tempdir().unwrap();
            let once = dir.path().join("once").display().to_string();
            let script = format!("test -e {once} && exec sleep 1000; touch {once}");
            let mut continuous = Continuous::new(&command("sh", &script), Echo::No);
            continuous.keep_up().unwrap();
            continuous.ended().await;
            continuous.keep_up().unwrap();
            let begin = Instant::now();
            let found = continuous.run_over(begin, begin).await.unwrap();
            assert!(found.succeeded(), "{found:?}");
            assert_eq!(found.note.as_deref(), Some("it ended before this run, and was started again"));
        });
    }
}
