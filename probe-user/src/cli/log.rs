//! Where log lines go: standard error, as many as `-q` and `-v` ask for. Every write to the host is one at `-v`.

use super::Globals;
use clap::ColorChoice;
use std::io::{self, IsTerminal as _};
use tracing::level_filters::LevelFilter;

/// Levels from `-q` to `-vv`.
type Levels = [LevelFilter; 4];
const OF_COMMANDS: Levels = [LevelFilter::ERROR, LevelFilter::WARN, LevelFilter::INFO, LevelFilter::DEBUG];
/// A service says what it does without being asked to.
const OF_SERVICES: Levels = [LevelFilter::WARN, LevelFilter::INFO, LevelFilter::DEBUG, LevelFilter::TRACE];

/// Begins to log. A second call changes nothing.
pub(super) fn start(globals: &Globals) {
    let log = tracing_subscriber::fmt().with_writer(io::stderr).without_time().with_target(false);
    // Only a test that runs several commands in one process gets here twice.
    let _ = log.with_max_level(level(globals, OF_COMMANDS)).with_ansi(ansi(globals)).try_init();
}

/// How a service's log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// One JSON object per line: timestamp, level, fields.
    Json,
}

/// Begins to log as a service does: with the time, unless systemd's journal notes it anyway.
pub(super) fn start_service(globals: &Globals, format: Format) {
    let log = tracing_subscriber::fmt().with_writer(io::stderr).with_target(false);
    let log = log.with_max_level(level(globals, OF_SERVICES)).with_ansi(ansi(globals));
    let _ = match format {
        Format::Json => log.json().try_init(),
        Format::Text if std::env::var_os("JOURNAL_STREAM").is_some() => log.without_time().try_init(),
        Format::Text => log.try_init(),
    };
}

fn level(globals: &Globals, levels: Levels) -> LevelFilter {
    match (globals.quiet, globals.verbose) {
        (true, _) => levels[0],
        (false, 0) => levels[1],
        (false, 1) => levels[2],
        (false, _) => levels[3],
    }
}

fn ansi(globals: &Globals) -> bool {
    match globals.color() {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => io::stderr().is_terminal(),
    }
}
