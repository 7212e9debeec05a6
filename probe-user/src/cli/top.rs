//! `vfprobe top`: present figures on the terminal, or as lines of JSON.

use super::{Exit, Failure, Globals, duration, failures, print};
use crate::app::guests;
use crate::app::observe::Observer;
use crate::host::{HostRoot, read_topology};
use crate::model::topology::Topology;
use crate::report::json;
use crate::stats::Snapshot;
use crate::tui::{self, Key, State, Tab};
use anyhow::{Context, anyhow};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How often guests and their VFs are looked for.
const LOOK: Duration = Duration::from_secs(5);

/// Arguments of `top`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only this guest (name, uuid or pid)
    #[arg(long)]
    guest: Option<String>,
    /// Time between looks
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = duration::parse)]
    interval: Duration,
    /// One JSON document a line for each interval instead of the view (docs/json.md)
    #[arg(long)]
    json_lines: bool,
    /// End after this many intervals
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

/// Probes at work, read in intervals.
struct Live {
    root: HostRoot,
    observer: Observer,
    topology: Topology,
    guest: Option<String>,
    looked: Instant,
}

/// Shows figures until somebody quits.
pub(super) fn run(_: &Globals, args: &Args) -> Result<Exit, Failure> {
    if !args.json_lines && !std::io::stdout().is_terminal() {
        return Err(Failure::usage(anyhow!("top needs a terminal; for a pipe or a file use --json-lines")));
    }
    let mut live = Live::start(args)?;
    if args.json_lines { lines(&mut live, args) } else { view(&mut live, args) }
}

impl Live {
    fn start(args: &Args) -> Result<Self, Failure> {
        let root = HostRoot::live();
        let topology = read_topology(&root);
        let guest = match &args.guest {
            Some(wanted) => Some(guests::find(&topology, wanted).map_err(failures::guest)?.name.clone()),
            None => None,
        };
        let mut observer = Observer::start(&root, &topology).map_err(failures::load)?;
        observer.guard(&topology.promised()).map_err(Failure::cannot_run)?;
        observer.open(None).map_err(Failure::cannot_run)?;
        Ok(Self { root, observer, topology, guest, looked: Instant::now() })
    }

    /// All figures since the start.
    fn read(&mut self) -> Result<Snapshot, Failure> {
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            self.topology = read_topology(&self.root);
            let told = self.observer.forget_gone(&self.topology);
            told.and_then(|()| self.observer.update(&self.topology))
                .and_then(|()| self.observer.guard(&self.topology.promised()))
                .map_err(Failure::cannot_run)?;
        }
        let mut snapshot = self.observer.snapshot(&self.topology).map_err(Failure::cannot_run)?;
        if let Some(guest) = &self.guest {
            let mine = |labels: &crate::stats::Labels| labels.get("guest").is_none_or(|g| g == guest);
            snapshot.series.retain(|s| mine(&s.labels));
            snapshot.counters.retain(|c| mine(&c.labels));
        }
        Ok(snapshot)
    }
}

fn lines(live: &mut Live, args: &Args) -> Result<Exit, Failure> {
    let mut before = Snapshot::default();
    for _ in 0..args.count.unwrap_or(u64::MAX) {
        std::thread::sleep(args.interval);
        let now = live.read()?;
        let line = json::interval(&now.since(&before)).map_err(Failure::cannot_run)?;
        print((line + "\n").as_bytes())?;
        before = now;
    }
    Ok(Exit::Fine)
}

fn view(live: &mut Live, args: &Args) -> Result<Exit, Failure> {
    let mut terminal =
        ratatui::try_init().context("cannot use this terminal").map_err(Failure::cannot_run)?;
    let ended = turn(live, args, &mut terminal);
    ratatui::restore();
    ended
}

/// Reads, draws, and heeds keys, interval after interval.
fn turn(live: &mut Live, args: &Args, terminal: &mut ratatui::DefaultTerminal) -> Result<Exit, Failure> {
    let mut state = State::default();
    for _ in 0..args.count.unwrap_or(u64::MAX) {
        state.update(live.read()?);
        let next = Instant::now() + args.interval;
        loop {
            terminal.draw(|frame| tui::draw(frame, &state)).map_err(Failure::cannot_run)?;
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() || !event::poll(left).map_err(Failure::cannot_run)? {
                break;
            }
            let typed = event::read().map_err(Failure::cannot_run)?;
            if key_of(&typed).is_some_and(|key| !state.key(key)) {
                return Ok(Exit::Fine);
            }
        }
    }
    Ok(Exit::Fine)
}

/// What a key means; `None` for those that mean nothing here.
fn key_of(event: &Event) -> Option<Key> {
    let Event::Key(key) = event else { return None };
    if key.kind != KeyEventKind::Press {
        return None;
    }
    Some(match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Key::Quit,
        KeyCode::Char('j') | KeyCode::Down => Key::Down,
        KeyCode::Char('k') | KeyCode::Up => Key::Up,
        KeyCode::Char('s') => Key::Sort,
        KeyCode::Char('p' | ' ') => Key::Pause,
        KeyCode::Tab => Key::NextTab,
        KeyCode::Char(digit @ '1'..='4') => {
            let index = usize::try_from(digit.to_digit(10)?).ok()?;
            Key::Tab(*Tab::ALL.get(index - 1)?)
        }
        _ => return None,
    })
}
