//! One live line on a terminal, which shows that time passes; nothing moving where there is no terminal.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// At most this often, so that a fast test run does not spend its time on the terminal.
const INTERVAL: Duration = Duration::from_millis(200);
/// Lines are cut to this width, so that they do not wrap on a terminal of the usual size.
const WIDTH: usize = 79;
const CLEAR: &str = "\r\x1b[2K";

#[derive(Debug)]
enum Event {
    /// What happens now; the next one takes its place.
    Now(String),
    /// A line that stays.
    Stays(String),
}

/// What is going on now: a title, the seconds it takes so far, and the last line it wrote.
#[derive(Debug)]
pub(crate) struct Progress {
    title: String,
    start: Instant,
    /// The thread that draws; none without a terminal.
    painter: Option<(Sender<Event>, JoinHandle<()>)>,
}

impl Progress {
    /// Starts `title`; without a terminal this is all that is shown until the end.
    pub(crate) fn start(title: &str) -> Self {
        let start = Instant::now();
        let painter = if stderr().is_terminal() {
            let (sender, texts) = mpsc::channel::<Event>();
            let title = title.to_owned();
            let thread = thread::spawn(move || {
                let mut text = String::new();
                loop {
                    eprint!("{CLEAR}{}", live_line(&title, start.elapsed().as_secs(), &text));
                    // A terminal that is gone is no reason to stop what is being done.
                    let _ = stderr().flush();
                    let drawn = Instant::now();
                    while let Some(rest) = INTERVAL.checked_sub(drawn.elapsed()) {
                        match texts.recv_timeout(rest) {
                            Ok(Event::Now(next)) => text = next,
                            Ok(Event::Stays(line)) => {
                                eprint!("{CLEAR}");
                                println!("{line}");
                            }
                            Err(RecvTimeoutError::Timeout) => break,
                            Err(RecvTimeoutError::Disconnected) => return,
                        }
                    }
                }
            });
            Some((sender, thread))
        } else {
            eprintln!("{title} ...");
            None
        };
        Self { title: title.to_owned(), start, painter }
    }

    /// Shows `text` as what happens now.
    pub(crate) fn line(&self, text: &str) {
        if let Some((sender, _)) = &self.painter {
            // The painter lives until `end`.
            let _ = sender.send(Event::Now(text.to_owned()));
        }
    }

    /// Prints `line` to standard output, where it stays; the live line goes on below it.
    pub(crate) fn print(&self, line: &str) {
        match &self.painter {
            Some((sender, _)) => {
                let _ = sender.send(Event::Stays(line.to_owned()));
            }
            None => println!("{line}"),
        }
    }

    /// Ends with `result`, which stays on the screen.
    pub(crate) fn end(mut self, result: &str) {
        self.stop();
        eprintln!("{}: {result} ({:.0} s)", self.title, self.seconds());
    }

    /// Seconds since the start.
    pub(crate) fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    fn stop(&mut self) {
        if let Some((sender, thread)) = self.painter.take() {
            drop(sender);
            // A painter that panicked has said so; the work goes on.
            let _ = thread.join();
            eprint!("{CLEAR}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop();
    }
}

fn live_line(title: &str, seconds: u64, text: &str) -> String {
    let printable = text.chars().filter(|c| !c.is_control());
    format!("{title} {seconds} s  ").chars().chain(printable).take(WIDTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_line_is_one_line_of_bounded_width() {
        assert_eq!(live_line("unit", 3, "test a ... ok"), "unit 3 s  test a ... ok");
        assert_eq!(live_line("unit", 3, "\x1b[1mab\r\ncd"), "unit 3 s  [1mabcd");
        assert_eq!(live_line("unit", 3, &"x".repeat(200)).len(), WIDTH);
    }
}
