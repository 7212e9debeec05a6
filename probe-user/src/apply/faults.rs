//! Places where a test can have the process killed. Without the cargo feature `faults` nothing of this is compiled in.

/// A place between two effects of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    /// Half of a journal record is written.
    TornRecord,
    /// A journal record is written but not on disk yet.
    BeforeSync,
    /// A journal record is on disk.
    AfterSync,
    /// A target is about to be written.
    BeforeWrite,
    /// A target was written.
    AfterWrite,
    /// A step was read back, but is not recorded as done.
    BeforeDone,
    /// A step is recorded as done.
    AfterDone,
}

/// Does nothing.
#[cfg(not(feature = "faults"))]
pub(super) fn hit(_point: Point) {}

/// Whether the next [`hit`] of a point kills the process.
#[cfg(not(feature = "faults"))]
pub(super) fn is_next(_point: Point) -> bool {
    false
}

#[cfg(feature = "faults")]
pub(super) use armed::{hit, is_next};

#[cfg(feature = "faults")]
mod armed {
    use super::Point;
    use rustix::process::{Signal, getpid, kill_process};
    use std::sync::{Mutex, OnceLock};

    /// From `VFPROBE_FAULT=<point>:<n>`, n from 1: the process is killed when it passes the point for the n-th time.
    /// With `:stop` behind it, it is stopped there (SIGSTOP), until somebody lets it go on.
    struct Armed {
        point: Point,
        /// Times that it is still passed, the fatal one included; 0 when that is over.
        left: u32,
        signal: Signal,
    }

    static ARMED: OnceLock<Option<Mutex<Armed>>> = OnceLock::new();

    impl Point {
        fn from_name(name: &str) -> Option<Self> {
            [
                ("torn-record", Self::TornRecord),
                ("before-sync", Self::BeforeSync),
                ("after-sync", Self::AfterSync),
                ("before-write", Self::BeforeWrite),
                ("after-write", Self::AfterWrite),
                ("before-done", Self::BeforeDone),
                ("after-done", Self::AfterDone),
            ]
            .into_iter()
            .find_map(|(known, point)| (known == name).then_some(point))
        }
    }

    impl Armed {
        fn parse(text: &str) -> Option<Self> {
            let mut words = text.split(':');
            let point = Point::from_name(words.next()?)?;
            let left = words.next()?.parse().ok()?;
            let signal = match words.next() {
                None => Signal::KILL,
                Some("stop") => Signal::STOP,
                Some(_) => return None,
            };
            Some(Self { point, left, signal })
        }
    }

    fn armed() -> Option<&'static Mutex<Armed>> {
        let armed = ARMED.get_or_init(|| {
            let text = std::env::var("VFPROBE_FAULT").ok()?;
            let armed = Armed::parse(&text);
            Some(Mutex::new(armed.unwrap_or_else(|| panic!("VFPROBE_FAULT={text:?} is not POINT:N[:stop]"))))
        });
        armed.as_ref()
    }

    /// Sends this process the signal when `point` is passed for the n-th time.
    pub(in crate::apply) fn hit(point: Point) {
        let Some(armed) = armed() else { return };
        let mut armed = armed.lock().expect("nothing panics while it is held");
        if armed.point != point || armed.left == 0 {
            return;
        }
        armed.left -= 1;
        if armed.left == 0 {
            let _ = kill_process(getpid(), armed.signal);
        }
    }

    /// Whether the next [`hit`] of `point` sends the signal.
    pub(in crate::apply) fn is_next(point: Point) -> bool {
        armed().is_some_and(|armed| {
            let armed = armed.lock().expect("nothing panics while it is held");
            armed.point == point && armed.left == 1
        })
    }
}
