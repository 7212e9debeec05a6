//! Grafana dashboards: every expression, and what makes a panel readable.

use crate::{dashboards, promql, rules};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

fn files() -> Vec<PathBuf> {
    let all = fs::read_dir(dashboards("grafana")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = all.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    assert!(!files.is_empty());
    files
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All panels, those inside rows included.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let top = dashboard["panels"].as_array().unwrap();
    let inside = top.iter().filter_map(|panel| panel["panels"].as_array()).flatten();
    top.iter().chain(inside).collect()
}

/// What `{{label}}` in a text names.
fn placeholders(text: &str) -> Vec<&str> {
    text.split("{{").skip(1).filter_map(|part| part.split_once("}}")).map(|(label, _)| label.trim()).collect()
}

#[test]
fn panels_are_complete() {
    for path in files() {
        let dashboard = read(&path);
        let mut ids = BTreeSet::new();
        let mut titles = BTreeSet::new();
        for panel in panels(&dashboard) {
            let title = panel["title"].as_str().unwrap();
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: id used twice");
            assert!(titles.insert(title), "{title} twice");
            if panel["type"] == "row" {
                continue;
            }
            let text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
            assert!(text(&panel["description"]), "{title}: no description");
            assert!(text(&panel["fieldConfig"]["defaults"]["unit"]), "{title}: no unit");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}: data source is fixed");
            assert!(panel["targets"].as_array().is_some_and(|t| !t.is_empty()), "{title}: asks for nothing");
        }
    }
}

#[test]
fn panels_do_not_overlap() {
    for path in files() {
        let dashboard = read(&path);
        let mut taken = BTreeSet::new();
        for panel in dashboard["panels"].as_array().unwrap() {
            let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(at("x") + at("w") <= 24, "{}: beyond the right edge", panel["title"]);
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    assert!(taken.insert((x, y)), "{}: overlaps at {x},{y}", panel["title"]);
                }
            }
        }
    }
}

#[test]
fn every_expression_asks_for_what_exists() {
    let recorded = rules::recorded();
    for path in files() {
        let dashboard = read(&path);
        let mut checked = 0;
        let mut check = |what: &str, expression: &str, shown: &str| {
            let found =
                promql::check(expression, &recorded).unwrap_or_else(|e| panic!("{what}: {expression}: {e}"));
            for label in placeholders(shown) {
                assert!(
                    found.labels.contains(label),
                    "{what}: shows {label}, which nothing in {expression} has"
                );
            }
            checked += 1;
        };
        for panel in panels(&dashboard) {
            let title = panel["title"].as_str().unwrap();
            let targets = panel["targets"].as_array().map_or(&[][..], Vec::as_slice);
            let refs: BTreeSet<&str> = targets.iter().map(|t| t["refId"].as_str().unwrap()).collect();
            assert_eq!(refs.len(), targets.len(), "{title}: refId used twice");
            for target in targets {
                check(
                    title,
                    target["expr"].as_str().unwrap(),
                    target["legendFormat"].as_str().unwrap_or_default(),
                );
            }
        }
        for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
            let shown = format!("{}{}", annotation["titleFormat"], annotation["textFormat"]);
            check("annotation", annotation["expr"].as_str().unwrap(), &shown);
        }
        assert!(checked > 0);
    }
}

#[test]
fn variables_ask_for_what_exists_and_are_used() {
    for path in files() {
        let dashboard = read(&path);
        let text = dashboard.to_string();
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            let name = variable["name"].as_str().unwrap();
            assert!(
                text.contains(&format!("${name}")) || text.contains(&format!("${{{name}}}")),
                "{name}: unused"
            );
            assert!(
                variable["description"].as_str().is_some_and(|d| !d.is_empty()),
                "{name}: no description"
            );
            if variable["type"] != "query" {
                continue;
            }
            let query = variable["query"]["query"].as_str().unwrap();
            let inside = query.strip_prefix("label_values(").and_then(|q| q.strip_suffix(')')).unwrap();
            let (selector, label) = inside.rsplit_once(", ").unwrap();
            let metric = selector.split('{').next().unwrap();
            let labels = promql::labels_of(metric, &promql::Recorded::new()).unwrap();
            assert!(labels.contains(label), "{name}: {metric} has no label {label}");
        }
    }
}

/// All texts in a value, wherever they are.
fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(list) => list.iter().for_each(|value| texts(value, found)),
        Value::Object(map) => map.values().for_each(|value| texts(value, found)),
        _ => {}
    }
}

fn variables(dashboard: &Value) -> BTreeSet<&str> {
    let list = dashboard["templating"]["list"].as_array().unwrap();
    list.iter().map(|variable| variable["name"].as_str().unwrap()).collect()
}

/// Of a list, whether more than one value can be chosen: what a link may hand on.
fn takes_many(dashboard: &Value, variable: &str) -> bool {
    let list = dashboard["templating"]["list"].as_array().unwrap();
    list.iter().any(|v| v["name"] == variable && v["multi"] == true)
}

#[test]
fn links_lead_to_every_other_dashboard_and_hand_on_what_it_takes() {
    let all: BTreeMap<String, Value> = files()
        .iter()
        .map(|path| {
            let dashboard = read(path);
            let uid = dashboard["uid"].as_str().unwrap().to_owned();
            assert_eq!(
                path.file_stem().unwrap().to_str(),
                Some(uid.as_str()),
                "the file is named by the uid"
            );
            (uid, dashboard)
        })
        .collect();
    for (uid, dashboard) in &all {
        let linked: BTreeSet<&str> = dashboard["links"]
            .as_array()
            .unwrap()
            .iter()
            .map(|link| link["url"].as_str().unwrap().split(['/', '?']).nth(2).unwrap())
            .collect();
        let others: BTreeSet<&str> = all.keys().filter(|other| *other != uid).map(String::as_str).collect();
        assert_eq!(linked, others, "{uid}");
        let mut found = Vec::new();
        texts(dashboard, &mut found);
        for url in found.iter().filter(|text| text.starts_with("/d/")) {
            let (to, query) = url["/d/".len()..].split_once('?').unwrap();
            let target = all.get(to).unwrap_or_else(|| panic!("{uid}: {url}: no such dashboard"));
            for part in query.split('&') {
                let own = part.strip_prefix("${").and_then(|p| p.strip_suffix(":queryparam}"));
                let set = part.strip_prefix("var-").and_then(|p| p.split_once('='));
                if let Some((name, value)) = set {
                    assert!(variables(target).contains(name), "{uid}: {url}: {name} is unknown there");
                    assert!(value.starts_with("${__"), "{uid}: {url}: {value}");
                } else if let Some(name) = own {
                    assert!(variables(dashboard).contains(name), "{uid}: {url}: {name} is unknown here");
                    assert!(variables(target).contains(name), "{uid}: {url}: {name} is unknown there");
                    assert!(
                        takes_many(target, name) || !takes_many(dashboard, name),
                        "{uid}: {url}: {name} can be several here and only one there"
                    );
                } else {
                    assert_eq!(part, "${__url_time_range}", "{uid}: {url}");
                }
            }
        }
    }
}
