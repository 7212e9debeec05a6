//! A large session through all of a comparison: written, read, compared, rendered. Asserts what must be in it; prints how
//! long each step takes and how large it is, which `cargo xtask bench report` shows of an optimised build.

#[path = "pages/large.rs"]
mod large;

use large::{GUESTS, SLOTS, STAGES, VALUES, lines, snapshot};
use probe_user::{
    report::{
        assess::{Named, assess, pairs_within},
        html,
    },
    session::{self, Encoder, Header, HostFacts, RunEnd, RunStart},
    stats::{Histogram, compare::Detail},
};
use std::time::Instant;

/// CPU time of this thread (s): what a step takes whatever else the machine does.
fn cpu_time() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let nanoseconds = u32::try_from(now.tv_nsec).map_or(f64::NAN, f64::from);
    u32::try_from(now.tv_sec).map_or(f64::NAN, f64::from) + nanoseconds / 1e9
}

/// What a recorder of one guest writes in ten minutes: a checkpoint every second, to which each series has added.
#[test]
fn ten_minutes_are_a_small_file() {
    let mut encoder = Encoder::new(0);
    let mut text = encoder.header(&Header::default(), &HostFacts::default()).expect("a header");
    text += &encoder.start_run(&RunStart::default()).expect("a run");
    let mut counted = snapshot(0, 1);
    counted.series.truncate(usize::try_from(SLOTS).expect("few") * STAGES.len());
    for series in &mut counted.series {
        series.histogram = Histogram::default();
    }
    for second in 1..=600u64 {
        for (stage, series) in (1u64..).zip(&mut counted.series) {
            for n in 0..VALUES {
                series.histogram.record((1_000 + (n * 7919 + second * 104_729) % 15_013) * stage);
            }
        }
        counted.to_ns = second * 1_000_000_000;
        text += &encoder.checkpoint(&counted).expect("figures");
    }
    text += &encoder.end_run(&RunEnd::default()).expect("an end");
    println!("report: ten minutes of {} series, {} KiB", counted.series.len(), text.len() / 1024);
    assert!(text.len() <= 2 << 20, "{} bytes", text.len());
}

#[test]
fn sixty_three_guests_are_compared_and_rendered() {
    let mut began = (Instant::now(), cpu_time());
    let mut step = |what: &str, size: String| {
        let (wall, cpu) = (began.0.elapsed().as_secs_f64() * 1e3, (cpu_time() - began.1) * 1e3);
        println!("report: {what:<10} {wall:>7.0} ms, {cpu:>5.0} ms of a CPU  {size}");
        began = (Instant::now(), cpu_time());
    };
    let text = lines();
    step("written", format!("{} KiB", text.len() / 1024));
    let session = session::decode(text.as_bytes()).expect("what was written is read");
    step("read", format!("{} runs of {} series", session.runs.len(), session.runs[0].snapshot.series.len()));
    let pairs = pairs_within(Named { file: "f", session: &session }, None, None).expect("two configurations");
    let assessments: Vec<_> = pairs.into_iter().map(|pair| assess(pair, Detail::Full, None)).collect();
    let rows = &assessments[0].comparison.rows;
    step("compared", format!("{} rows", rows.len()));
    let page = html::render(&assessments, &[]).expect("a page");
    step("rendered", format!("{} KiB", page.len() / 1024));
    let series = usize::try_from(GUESTS * SLOTS).expect("few") * STAGES.len();
    assert_eq!((session.runs[0].snapshot.series.len(), rows.len()), (series, series * 4));
    // p50, p90 and p99 of each have enough values, p99.9 has not.
    assert!(page.matches("<tr>").count() > series * 3, "rows are missing");
    // Where somebody wants to look at it.
    if let Some(path) = std::env::var_os("VFPROBE_REPORT") {
        std::fs::write(&path, page).expect("the page can be kept");
    }
}
