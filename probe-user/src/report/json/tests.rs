//! The documents against docs/json.md, and the promises that hold for all of them.

use crate::{
    report::{
        assess::{Named, assess, pairs_within},
        json,
    },
    session::{Session, decode, sample},
    stats::compare::Detail,
};
use serde_json::Value;
use std::collections::BTreeMap;

const DOCUMENTED: &str = include_str!("../../../../docs/json.md");
const FIXTURE: &[u8] = include_bytes!("../../../../tests/fixtures/session-v1.vfprobe");

fn session() -> Session {
    decode(FIXTURE).unwrap()
}

fn shown(session: &Session) -> Value {
    serde_json::from_str(&json::session(session, None).unwrap()).unwrap()
}

fn compared(session: &Session) -> Value {
    let pairs = pairs_within(Named { file: "f", session }, None, None).unwrap();
    let assessments: Vec<_> = pairs.into_iter().map(|pair| assess(pair, Detail::Folded, None)).collect();
    serde_json::from_str(&json::compare(&assessments).unwrap()).unwrap()
}

/// The chapter of a command, and the example in it.
fn chapter(command: &str) -> (&'static str, Value) {
    let chapter = DOCUMENTED.split("\n## ").find(|s| s.starts_with(&format!("`{command}`"))).unwrap();
    let example = chapter.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    (chapter, serde_json::from_str(example).unwrap())
}

/// Every field with the type of its value, as `series[].labels: object`. Fields whose content is the host's or the
/// recording's own (labels, losses, facts) are not looked into.
fn fields(value: &Value, path: &str, found: &mut BTreeMap<String, &'static str>) {
    match value {
        Value::Object(map) => {
            let free = ["labels", "lost", "more", "guests"].iter().any(|name| path.ends_with(name));
            for (name, inner) in map.iter().filter(|_| !free) {
                let kind = match inner {
                    Value::Null => "null",
                    Value::Bool(_) => "bool",
                    Value::Number(_) => "number",
                    Value::String(_) => "string",
                    Value::Array(_) => "array",
                    Value::Object(_) => "object",
                };
                let path = format!("{path}.{name}");
                // What is null here may be known there.
                if kind != "null" || !found.contains_key(&path) {
                    found.insert(path.clone(), kind);
                }
                fields(inner, &path, found);
            }
        }
        Value::Array(list) if !path.ends_with("guests") => {
            list.iter().for_each(|inner| fields(inner, &format!("{path}[]"), found));
        }
        _ => {}
    }
}

#[test]
fn the_documented_examples_have_the_fields_that_are_printed() {
    let loads = sample::loads(3, &[("own", 0.5, 1.2)]);
    for (command, printed) in [
        ("vfprobe show F --json", vec![shown(&session()), shown(&loads)]),
        ("vfprobe compare --json", { vec![compared(&session()), compared(&loads)] }),
    ] {
        let (text, example) = chapter(command);
        let (mut there, mut here) = (BTreeMap::new(), BTreeMap::new());
        printed.iter().for_each(|document| fields(document, "", &mut there));
        fields(&example, "", &mut here);
        for (path, kind) in &there {
            let documented = here.get(path).unwrap_or_else(|| panic!("{command}: no example of {path}"));
            assert!(
                documented == kind || [*documented, kind].contains(&"null"),
                "{command}: {path} is {kind}"
            );
            let name = path.rsplit('.').next().unwrap();
            assert!(text.contains(&format!("`{name}`")), "{command}: {path} is not explained");
        }
        for path in here.keys() {
            assert!(there.contains_key(path), "{command}: {path} is documented and not printed");
        }
    }
}

#[test]
fn hidden_series_have_no_figures() {
    let document = shown(&session());
    let hidden: Vec<&Value> =
        document["series"].as_array().unwrap().iter().filter(|s| s["observable"] == false).collect();
    assert!(!hidden.is_empty());
    for series in hidden {
        assert!(
            series["n"].is_null() && series["p50_ns"].is_null() && series["reason"].is_string(),
            "{series}"
        );
    }
}

#[test]
fn series_carry_their_configuration_and_percentiles_their_limits() {
    let document = shown(&session());
    let find = |config: &str| {
        let is = |s: &&Value| {
            let l = &s["labels"];
            l["config"] == config && l["stage"] == "delivery" && l["slot"] == 1 && l["guest"] == "vm1"
        };
        document["series"].as_array().unwrap().iter().find(is).unwrap().clone()
    };
    let (before, after) = (find("baseline"), find("own"));
    assert_eq!(before["n"], 1200);
    assert!(after["p99_ns"].as_u64().unwrap() * 2 < before["p99_ns"].as_u64().unwrap());
    let mut few = session();
    few.runs.truncate(1);
    let document = shown(&few);
    let series = document["series"].as_array().unwrap();
    assert!(series.iter().all(|s| s["n"].as_u64().is_none_or(|n| n >= 1000) || s["p999_ns"].is_null()));
}

#[test]
fn nothing_recorded_is_a_document_too() {
    let document = shown(&Session::default());
    assert_eq!((document["schema"].as_u64(), document["series"].as_array().unwrap().len()), (Some(1), 0));
}

#[test]
fn an_interval_is_documented() {
    use crate::stats::{Counter, Histogram, Labels, Observability, Series, Snapshot};
    let labels = |pairs: &[(&str, &str)]| -> Labels {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    };
    let mut histogram = Histogram::default();
    (0..2).for_each(|_| histogram.record(9));
    let snapshot = Snapshot {
        from_ns: 20,
        to_ns: 30,
        series: vec![Series {
            probe: "vm_exit".into(),
            labels: labels(&[("guest", "vm1"), ("vcpu", "0"), ("reason", "HLT")]),
            observable: Observability::Yes,
            histogram,
        }],
        counters: vec![Counter {
            probe: "vm_exit".into(),
            name: "guest_ns".into(),
            labels: labels(&[("guest", "vm1"), ("vcpu", "0")]),
            value: 4,
        }],
        lost: BTreeMap::new(),
    };
    let line = json::interval(&snapshot).unwrap();
    assert!(!line.contains('\n'));
    let (_, example) = chapter("vfprobe top --json-lines");
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), example);
}
