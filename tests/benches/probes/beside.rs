//! The same load beside tools that keep the same events: bpftrace with the same histograms, `perf record` (what
//! `perf kvm stat record` does with the events of KVM) and a capture by tracefs. They take too long to start for short
//! rounds, so each of them looks on for a block of rounds, in turn. What their readers take in user space happens on
//! other CPUs and is not in the figures.

use crate::figures::{row, table};
use crate::loads::{Capture, Setting};
use crate::rig::{Rig, stay_on};
use anyhow::{Context, Result, ensure};
use aya::programs::raw_trace_point::RawTracePointLinkId;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::thread;

/// Blocks of each observer, and rounds in each of them.
const TURNS: usize = 7;
const ROUNDS: usize = 60;

/// An event under which vfprobe is set beside others.
pub(crate) struct Beside<'a> {
    pub(crate) vfprobe: &'a Setting,
    /// The events (`system/event`) that the others keep.
    pub(crate) events: &'a [&'a str],
    /// A program with the histograms that vfprobe keeps.
    pub(crate) bpftrace: String,
    /// The CPU of the load; the tools are kept off it.
    pub(crate) cpu: usize,
}

/// Who looks on, and what the budget says of vfprobe's cost beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Observer {
    Nobody,
    Vfprobe,
    Bpftrace,
    Perf,
    Tracefs,
}

impl Observer {
    const ALL: [Self; 5] = [Self::Nobody, Self::Vfprobe, Self::Bpftrace, Self::Perf, Self::Tracefs];

    fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Vfprobe => "vfprobe",
            Self::Bpftrace => "bpftrace, the same histograms",
            Self::Perf => "perf record of the events",
            Self::Tracefs => "tracefs capture of the events",
        }
    }

    /// The part of its cost that vfprobe's may be.
    fn budget(self) -> Option<f64> {
        match self {
            Self::Nobody | Self::Vfprobe => None,
            Self::Bpftrace => Some(0.5),
            Self::Perf | Self::Tracefs => Some(1.0),
        }
    }
}

/// What ends with a block.
enum Looking {
    Nothing,
    Programs(Box<Rig>, Vec<(&'static str, RawTracePointLinkId)>),
    Captured(Capture),
    Ran(Tool),
}

/// A program of somebody else's; it ends with this.
struct Tool(Child);

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Looking {
    fn end(self) -> Result<()> {
        match self {
            Self::Nothing => {}
            Self::Programs(mut rig, links) => {
                for (program, link) in links {
                    rig.detach(program, link)?;
                }
            }
            Self::Captured(capture) => drop(capture),
            Self::Ran(tool) => drop(tool),
        }
        Ok(())
    }
}

impl Beside<'_> {
    /// Runs `work` (ns per event) under each observer in turn, and prints what they add.
    pub(crate) fn compare(&self, event: &str, work: &mut dyn FnMut() -> Result<f64>) -> Result<()> {
        let mut times = Observer::ALL.map(|_| Vec::new());
        let mut missing = Observer::ALL.map(|_| None);
        for _ in 0..TURNS {
            for (at, by) in Observer::ALL.into_iter().enumerate() {
                let looking = match self.start(by) {
                    Ok(looking) => looking,
                    Err(error) => {
                        missing[at] = Some(format!("cannot run here: {error:#}"));
                        continue;
                    }
                };
                // The first ones warm up.
                for round in 0..ROUNDS + ROUNDS / 10 {
                    let time = work()?;
                    if round >= ROUNDS / 10 {
                        times[at].push(time);
                    }
                }
                looking.end()?;
            }
        }
        println!(
            "{event}: ns per event in the fastest tenth of {TURNS} blocks of {ROUNDS} rounds in turn (in half, in nine \
             tenths)"
        );
        let mut rows = vec![row(["observed by", "in all", "", "added", "vfprobe takes of it", "budget"])];
        let figures = times.map(ranks);
        let [bare, vfprobe, ..] = figures;
        let bare = bare.context("the bare load was not measured")?[0];
        for (at, by) in Observer::ALL.into_iter().enumerate() {
            let Some([fast, half, most]) = figures[at] else {
                rows.push(vec![by.name().into(), missing[at].take().unwrap_or_default()]);
                continue;
            };
            let added = fast - bare;
            let (share, word) = match (by.budget(), vfprobe) {
                (Some(budget), Some([vfprobe, ..])) if added > 0.0 => {
                    let share = (vfprobe - bare) / added;
                    let word = if share <= budget { "met" } else { "not met" };
                    (format!("{share:.2}"), format!("<= {budget}: {word}"))
                }
                _ => ("-".into(), "-".into()),
            };
            let added = if at == 0 { "-".into() } else { format!("{added:.0}") };
            let rest = format!("({half:.0}, {most:.0})");
            rows.push(vec![by.name().into(), format!("{fast:.0}"), rest, added, share, word]);
        }
        table(&rows);
        Ok(())
    }

    fn start(&self, by: Observer) -> Result<Looking> {
        Ok(match by {
            Observer::Nobody => Looking::Nothing,
            Observer::Vfprobe => {
                let mut rig = Rig::new()?;
                (self.vfprobe.prepare)(&mut rig)?;
                let mut links = Vec::new();
                for (program, tracepoint) in self.vfprobe.attached {
                    links.push((*program, rig.attach(program, tracepoint)?));
                }
                Looking::Programs(Box::new(rig), links)
            }
            Observer::Tracefs => {
                let capture = Capture::prepare()?;
                for event in self.events {
                    capture.set(event, true)?;
                }
                Looking::Captured(capture)
            }
            Observer::Bpftrace => {
                let mut command = Command::new("bpftrace");
                command.arg("-e").arg(format!("{} BEGIN {{ printf(\"ready\\n\"); }}", self.bpftrace));
                Looking::Ran(self.tool(command, None, "ready")?)
            }
            Observer::Perf => {
                // To be asked by a pipe whether it records yet.
                let mut command = Command::new("perf");
                command.args(["record", "-q", "-a", "--control=fd:0,1", "-o", "/dev/null"]);
                for event in self.events {
                    command.arg("-e").arg(event.replace('/', ":"));
                }
                Looking::Ran(self.tool(command, Some("ping\n"), "ack")?)
            }
        })
    }

    /// Starts a tool off the load's CPU; waits until it says `ready`, and takes all its output until its end.
    fn tool(&self, mut command: Command, question: Option<&str>, ready: &str) -> Result<Tool> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let cpu = self.cpu;
        // A child has the CPUs of the thread that starts it.
        let starter = thread::spawn(move || -> Result<Child> {
            let cpus = thread::available_parallelism()?.get().max(cpu + 1);
            if let Some(other) = (0..cpus).find(|other| *other != cpu) {
                stay_on(other)?;
            }
            Ok(command.spawn()?)
        });
        let started = starter.join().ok().context("the starter panicked")?;
        let mut tool = Tool(started.with_context(|| name.clone())?);
        if let (Some(question), Some(input)) = (question, &mut tool.0.stdin) {
            input.write_all(question.as_bytes())?;
        }
        let mut output = BufReader::new(tool.0.stdout.take().context("its output is piped")?);
        let mut said = String::new();
        while !said.trim_matches('\0').trim_end().ends_with(ready) {
            said.clear();
            let more = output.read_line(&mut said)? > 0;
            ensure!(more, "{name} ended before it was ready");
        }
        thread::spawn(move || io::copy(&mut output, &mut io::sink()));
        Ok(tool)
    }
}

/// The times in the fastest tenth, in half, in nine tenths.
fn ranks(mut times: Vec<f64>) -> Option<[f64; 3]> {
    times.sort_by(f64::total_cmp);
    let at = |tenths: usize| times.get(times.len() * tenths / 10).copied();
    Some([at(1)?, at(5)?, at(9)?])
}
