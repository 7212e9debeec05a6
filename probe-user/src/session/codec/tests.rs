//! Sessions through their text and back, whole, torn, damaged, old and new.

use super::*;
use crate::{
    session::{Header, RunEnd, RunStart, line, sample},
    stats::{Observability, rng::SplitMix64},
};
use proptest::prelude::*;

/// Written by the first version of the format. It is never written again, only read.
const FIXTURE_V1: &[u8] = include_bytes!("../../../../tests/fixtures/session-v1.vfprobe");

fn start() -> RunStart {
    RunStart {
        config: "baseline".into(),
        from_ns: 100,
        topology: Some(sample::topology(0)),
        ..RunStart::default()
    }
}

fn with_header(rest: &str) -> String {
    Encoder::new(0).header(&Header::default(), &sample::host()).unwrap() + rest
}

#[test]
fn what_is_written_is_read_back() {
    let mut rng = SplitMix64::new(3);
    let snapshot = sample::snapshot(&mut rng, 100, 1.0);
    let mut encoder = Encoder::new(0);
    let mut text = with_header(&encoder.start_run(&start()).unwrap());
    text += &encoder.checkpoint(&snapshot).unwrap();
    text += &encoder.end_run(&sample::end(8.0)).unwrap();
    let drifted = RunEnd { not_held: vec!["irq 40: it is gone".into()], ..RunEnd::default() };
    text += &encoder.start_run(&start()).unwrap();
    text += &encoder.end_run(&drifted).unwrap();
    let session = decode(text.as_bytes()).unwrap();
    assert_eq!(session.runs[1].end.as_ref(), Some(&drifted));
    assert_eq!(session.notes, Vec::<String>::new());
    assert_eq!(session.host, sample::host());
    let run = &session.runs[0];
    assert_eq!((&run.start, run.end.as_ref()), (&start(), Some(&sample::end(8.0))));
    let (mut written, mut read) = (snapshot.series.clone(), run.snapshot.series.clone());
    written.sort_by(|a, b| (&a.probe, &a.labels).cmp(&(&b.probe, &b.labels)));
    read.sort_by(|a, b| (&a.probe, &a.labels).cmp(&(&b.probe, &b.labels)));
    assert_eq!(written, read);
    assert_eq!((run.snapshot.from_ns, run.snapshot.to_ns), (snapshot.from_ns, snapshot.to_ns));
    assert_eq!(run.snapshot.lost, snapshot.lost);
    assert_eq!(run.snapshot.counters.len(), snapshot.counters.len());
    assert!(snapshot.counters.iter().all(|c| run.snapshot.counters.contains(c)));
}

#[test]
fn checkpoints_add_up_to_the_last_state() {
    let mut rng = SplitMix64::new(4);
    let mut state = sample::snapshot(&mut rng, 100, 1.0);
    let mut encoder = Encoder::new(0);
    let mut text = with_header(&encoder.start_run(&start()).unwrap());
    for second in 0..5 {
        text += &encoder.checkpoint(&state).unwrap();
        let more = sample::snapshot(&mut rng, 100, 1.0);
        for (sum, added) in state.series.iter_mut().zip(&more.series) {
            sum.histogram.merge(&added.histogram);
        }
        state.counters[0].value += 10;
        state.to_ns += 1_000_000_000 * second;
    }
    // The series that was hidden becomes visible during the run.
    let hidden = state.series.iter_mut().find(|s| !s.observable.is_yes()).unwrap();
    hidden.observable = Observability::Yes;
    text += &encoder.checkpoint(&state).unwrap();
    let session = decode(text.as_bytes()).unwrap();
    let read = &session.runs[0].snapshot;
    for series in &state.series {
        assert!(read.series.contains(series), "{:?}", series.labels);
    }
    assert_eq!(read.series.len(), state.series.len());
    assert_eq!(session.notes.len(), 1, "no end: {:?}", session.notes);
    assert!(session.runs[0].unfit().is_some());
}

#[test]
fn a_topology_is_written_once() {
    let mut encoder = Encoder::new(0);
    let mut again = start();
    again.topology.as_mut().unwrap().irqs[0].count += 99;
    let mut moved = start();
    moved.topology = Some(sample::topology(1));
    let text = [start(), again, moved].map(|s| encoder.start_run(&s).unwrap()).concat();
    assert_eq!(text.matches("\"kind\":\"topology\"").count(), 2);
    let session = decode(with_header(&text).as_bytes()).unwrap();
    assert_eq!(session.runs[1].start.topology, start().topology);
    assert_eq!(session.runs[2].start.topology, Some(sample::topology(1)));
}

#[test]
fn a_file_cut_anywhere_reads_up_to_its_last_whole_line() {
    let text = sample::lines(1, &[]);
    let first = text.find('\n').unwrap() + 1;
    let whole = decode(text.as_bytes()).unwrap();
    for cut in (0..text.len()).step_by(7).chain([first - 1, first, first + 1, text.len() - 1]) {
        match decode(&text.as_bytes()[..cut]) {
            Err(error) => assert!(cut < first && error == DecodeError::NotASession, "at {cut}: {error}"),
            Ok(session) => {
                let torn = !text[..cut].ends_with('\n');
                assert_eq!(session.notes.iter().any(|n| n.contains("was cut off")), torn, "at {cut}");
                assert!(session.runs.len() <= whole.runs.len());
            }
        }
    }
}

#[test]
fn damage_is_refused_with_its_line() {
    let text = sample::lines(1, &[]);
    let lines: Vec<&str> = text.lines().collect();
    let reread = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines: Vec<String> = lines.iter().map(|l| (*l).to_owned()).collect();
        change(&mut lines);
        decode((lines.join("\n") + "\n").as_bytes()).unwrap_err().to_string()
    };
    let seal = |json: &str| line::seal(json).trim_end().to_owned();
    for (said, change) in [
        (
            "line 3 is damaged: checksum",
            &(|l: &mut Vec<String>| l[2] = l[2].replace("baseline", "basilisk")) as &dyn Fn(&mut Vec<String>),
        ),
        ("line 2 is damaged: it does not begin", &|l| l[1] = "nonsense".into()),
        ("not a vfprobe session", &|l| l[0] = "nonsense".into()),
        ("not a vfprobe session", &|l| {
            l[0] = seal(r#"{"kind":"file","format":"other","version":1,"tool":"","created_unix_ms":0}"#);
        }),
        ("not a vfprobe session", &|l| {
            l.remove(0);
        }),
        ("line 2 (?) is not valid", &|l| l[1] = seal("[]")),
        ("line 2 (host) is not valid", &|l| l[1] = seal(r#"{"kind":"host"}"#)),
        ("line 2 (end) is not valid: no run is open", &|l| l[1] = seal(r#"{"kind":"end","end":{}}"#)),
        ("line 2 (interval) is not valid: no run is open", &|l| {
            l[1] = seal(r#"{"kind":"interval","to_ns":1,"series":[],"counters":[],"lost":{}}"#);
        }),
        ("topology 99 is not in the file", &|l| {
            l[1] = seal(
                r#"{"kind":"run","config":"a","order":0,"seed":null,"started_unix_ms":0,"from_ns":0,"topology":99,"changes":[]}"#,
            );
        }),
        ("is given twice", &|l| {
            let series = r#"{"kind":"counter","id":0,"probe":"p","name":"n","labels":{}}"#;
            l[1] = seal(series);
            l[2] = seal(series);
        }),
    ] {
        let error = reread(change);
        assert!(error.contains(said), "{said:?} expected, found {error:?}");
    }
    let series_of_nothing = |sample: &str| {
        let run = r#"{"kind":"run","config":"a","order":0,"seed":null,"started_unix_ms":0,"from_ns":5,"topology":null,"changes":[]}"#;
        let name = r#"{"kind":"series","id":0,"probe":"p","labels":{},"observable":true,"reason":null}"#;
        let interval =
            format!(r#"{{"kind":"interval","to_ns":9,"series":[{sample}],"counters":[],"lost":{{}}}}"#);
        let text = [run, name, &interval].map(line::seal).concat();
        decode(with_header(&text).as_bytes()).unwrap_err().to_string()
    };
    for (said, sample) in [
        ("series 1 has no name", r#"{"id":1}"#),
        ("figures but no histogram", r#"{"id":0,"sum":5}"#),
        ("not base64", r#"{"id":0,"hdr":"%"}"#),
    ] {
        let error = series_of_nothing(sample);
        assert!(error.contains(said), "{said:?} expected, found {error:?}");
    }
}

#[test]
fn later_versions_are_read_as_far_as_possible() {
    let text = sample::lines(1, &[]);
    let newer = |line: &str| {
        let json = line::open(line.as_bytes()).unwrap();
        line::seal(&json.replace(r#""version":1"#, r#""version":2"#))
    };
    let mut lines: Vec<String> = text.lines().map(newer).collect();
    lines.insert(2, line::seal(r#"{"kind":"weather","sky":"blue"}"#));
    lines.insert(3, line::seal(r#"{"kind":"config","title":"changed beyond recognition"}"#));
    let session = decode(lines.concat().as_bytes()).unwrap();
    assert_eq!(session.runs, decode(text.as_bytes()).unwrap().runs);
    let notes = session.notes.join("\n");
    for said in ["format version 2", "kind \"weather\"", "line 4 (config)"] {
        assert!(notes.contains(said), "{said:?} in {notes}");
    }
}

#[test]
fn unknown_kinds_are_skipped_with_a_note() {
    let text = with_header(&line::seal(r#"{"kind":"weather","sky":"blue"}"#));
    let session = decode(text.as_bytes()).unwrap();
    assert_eq!(session.notes.len(), 1);
    assert!(session.notes[0].contains("line 3") && session.notes[0].contains("weather"));
}

#[test]
fn the_first_versions_file_is_read_for_ever() {
    let session = decode(FIXTURE_V1).unwrap();
    assert_eq!(session.notes, Vec::<String>::new());
    assert_eq!(session.config_names(), ["baseline", "own"]);
    assert_eq!(session.runs.len(), 6);
    let run = &session.runs[1];
    assert_eq!((run.config(), run.start.order, run.duration_ns()), ("own", 1, 5_000_000_000));
    assert_eq!(run.start.changes.len(), 1);
    assert_eq!(run.start.topology.as_ref().unwrap().guests[0].name, "vm1");
    assert_eq!(run.workload().unwrap().metric("received").unwrap().value, 120.0);
    let delivery = run
        .snapshot
        .series
        .iter()
        .find(|s| s.labels["slot"] == "0" && s.labels["stage"] == "delivery")
        .unwrap();
    let figures = (
        delivery.histogram.n(),
        delivery.histogram.sum(),
        delivery.histogram.min(),
        delivery.histogram.max(),
    );
    assert_eq!(figures, (400, 301_524_114, Some(96_670), Some(4_799_452)));
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn any_json_behind_a_good_checksum_is_refused_or_read(rest in "[ -~]{0,80}", kind in "(run|series|interval|end|topology|config|host|counter)") {
        let json = format!(r#"{{"kind":"{kind}",{rest}}}"#);
        let _ = decode(with_header(&line::seal(&json)).as_bytes());
    }

    #[test]
    fn a_changed_byte_never_panics(at: prop::sample::Index, with: u8, reseal: bool) {
        let mut bytes = FIXTURE_V1.to_vec();
        let at = at.index(bytes.len());
        bytes[at] = with;
        if reseal {
            // As if the writer itself had been wrong: the checksum fits the damaged text.
            let text: Vec<u8> = bytes.split(|b| *b == b'\n').filter_map(|l| l.get(9..)).filter_map(|l| std::str::from_utf8(l).ok()).flat_map(|json| line::seal(json).into_bytes()).collect();
            bytes = text;
        }
        let _ = decode(&bytes);
    }
}
