//! Policies as TOML text. Unknown keys and impossible values are refused with their line.

use super::named::is_pattern;
use super::policy::NotCpus;
use super::policy::{
    GuestPolicy, Isolate, Knobs, OnStop, Others, Pins, Placement, Policy, ThreadRules, Threads, parse_cpus,
};
use serde::Deserialize;
use std::ops::Range;
use toml::Spanned;

/// A text that is not a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct PolicyError {
    /// Where, counted from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    isolate: Isolate,
    #[serde(default)]
    irqs: Others,
    #[serde(default)]
    default_affinity: Others,
    #[serde(default)]
    on_stop: OnStop,
    #[serde(default)]
    knobs: KnobTable,
    #[serde(default)]
    guest: Vec<Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct KnobTable {
    halt_poll_ns: Option<u32>,
    workqueues: Others,
    watchdogs: Others,
    idle_latency_us: Option<Spanned<u32>>,
    rps: Vec<Spanned<String>>,
    xps: Vec<Spanned<String>>,
}

impl Default for KnobTable {
    fn default() -> Self {
        let Knobs { halt_poll_ns, workqueues, watchdogs, .. } = Knobs::default();
        Self { halt_poll_ns, workqueues, watchdogs, idle_latency_us: None, rps: Vec::new(), xps: Vec::new() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Table {
    name: String,
    cpus: Option<Spanned<String>>,
    placement: Placement,
    threads: Option<Spanned<String>>,
    emulator: Option<Spanned<String>>,
    io: Option<Spanned<String>>,
    vhost: Option<Spanned<String>>,
}

/// Reads a policy.
///
/// # Errors
/// [`PolicyError`] says what is wrong, and in which line.
pub fn parse_policy(text: &str) -> Result<Policy, PolicyError> {
    let at = |span: Option<Range<usize>>, what: String| PolicyError { line: line_of(text, span), what };
    let File { name, isolate, irqs, default_affinity, on_stop, knobs, guest } =
        toml::from_str(text).map_err(|error| at(error.span(), error.message().to_owned()))?;
    let knobs = parse_knobs(knobs).map_err(|(span, what)| at(Some(span), what))?;
    let mut guests = Vec::new();
    for Table { name, cpus, placement, threads, emulator, io, vhost } in guest {
        let pins = match cpus.as_ref().map(|cpus| cpus.as_ref().as_str()) {
            None | Some("auto") => Pins::Auto,
            Some("keep") => Pins::Keep,
            Some(_) if is_pattern(&name) => {
                let what = format!(
                    "cpus: a list is for one guest, and {name:?} may mean several; use \"auto\" or \"keep\""
                );
                return Err(at(cpus.as_ref().map(Spanned::span), what));
            }
            Some(list) => parse_cpus(list)
                .map(Pins::Cpus)
                .map_err(|error| at(cpus.as_ref().map(Spanned::span), format!("cpus: {error}")))?,
        };
        let rule = |key: &str, own: Option<Spanned<String>>| match own.as_ref().or(threads.as_ref()) {
            None => Ok(Threads::default()),
            Some(value) => parse_threads(value.as_ref()).map_err(|error| {
                at(Some(value.span()), format!("{key}: {error}; or \"housekeeping\", \"keep\""))
            }),
        };
        let threads = ThreadRules {
            emulator: rule("emulator", emulator)?,
            io: rule("io", io)?,
            vhost: rule("vhost", vhost)?,
        };
        guests.push(GuestPolicy { guest: name, pins, placement, threads });
    }
    let [first, ..] = guests.as_slice() else {
        return Err(at(
            None,
            "the policy has no [[guest]] table; add one with name and placement".to_owned(),
        ));
    };
    let name = name.unwrap_or_else(|| first.placement.as_str().to_owned());
    Ok(Policy { name, guests, isolate, irqs, default_affinity, knobs, on_stop })
}

/// The kernel keeps these limits as signed numbers, the largest of which stands for no limit (include/linux/pm_qos.h).
const MAX_IDLE_LATENCY_US: u32 = 0x7fff_fffe;

fn parse_knobs(table: KnobTable) -> Result<Knobs, (Range<usize>, String)> {
    let KnobTable { halt_poll_ns, workqueues, watchdogs, idle_latency_us, rps, xps } = table;
    if let Some(limit) = idle_latency_us.as_ref().filter(|limit| *limit.as_ref() > MAX_IDLE_LATENCY_US) {
        let what = format!("idle-latency-us: {} is beyond {MAX_IDLE_LATENCY_US}", limit.as_ref());
        return Err((limit.span(), what));
    }
    // Names of network devices, as the kernel allows them (net/core/dev.c, `dev_valid_name()`).
    let devices = |names: Vec<Spanned<String>>| -> Result<Vec<String>, (Range<usize>, String)> {
        let valid = |name: &str| {
            !matches!(name, "" | "." | "..")
                && name.len() < 16
                && !name.contains(|c: char| c == '/' || c == ':' || c.is_ascii_whitespace())
        };
        match names.iter().find(|name| !valid(name.as_ref())) {
            Some(name) => {
                Err((name.span(), format!("{:?} is not the name of a network device", name.as_ref())))
            }
            None => Ok(names.into_iter().map(Spanned::into_inner).collect()),
        }
    };
    let idle_latency_us = idle_latency_us.map(Spanned::into_inner);
    Ok(Knobs { halt_poll_ns, workqueues, watchdogs, idle_latency_us, rps: devices(rps)?, xps: devices(xps)? })
}

/// Where threads of one kind run.
fn parse_threads(text: &str) -> Result<Threads, NotCpus> {
    match text {
        "housekeeping" => Ok(Threads::Housekeeping),
        "keep" => Ok(Threads::Keep),
        list => Ok(Threads::Cpus(parse_cpus(list)?.into_iter().collect())),
    }
}

/// The line of a byte range in a TOML text, counted from 1; the last line when there is none, because then something is missing.
#[must_use]
pub fn line_of(text: &str, span: Option<Range<usize>>) -> usize {
    let before = span.and_then(|span| text.get(..span.start)).unwrap_or(text.trim_end());
    before.matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CpuId;
    use proptest::prelude::*;

    #[test]
    fn a_full_policy() {
        let text = "name = \"direct\"\nisolate = \"threads\"\nirqs = \"keep\"\ndefault-affinity = \"keep\"\non-stop = \"keep\"\n\
                    [knobs]\nhalt-poll-ns = 0\nwatchdogs = \"move\"\nidle-latency-us = 5\nrps = [\"eth0\"]\n\
                    [[guest]]\nname = \"vm1\"\ncpus = \"3,2\"\nplacement = \"own\"\nthreads = \"keep\"\nvhost = \"4-5\"\n\
                    [[guest]]\nname = \"vm2\"\nplacement = \"near\"\n";
        let policy = parse_policy(text).unwrap();
        assert_eq!(policy.name, "direct");
        assert_eq!((policy.isolate, policy.irqs), (Isolate::Threads, Others::Keep));
        assert_eq!(policy.default_affinity, Others::Keep);
        assert_eq!(policy.guests[0].pins, Pins::Cpus(vec![CpuId(3), CpuId(2)]));
        assert_eq!(policy.on_stop, OnStop::Keep);
        let vhost = Threads::Cpus([CpuId(4), CpuId(5)].into_iter().collect());
        let rules = ThreadRules { emulator: Threads::Keep, io: Threads::Keep, vhost };
        assert_eq!(policy.guests[0].threads, rules);
        let knobs = Knobs {
            halt_poll_ns: Some(0),
            watchdogs: Others::Move,
            idle_latency_us: Some(5),
            rps: vec!["eth0".to_owned()],
            ..Knobs::default()
        };
        assert_eq!(policy.knobs, knobs);
        assert_eq!(policy.guests[1].threads, ThreadRules::default());
        assert_eq!((&policy.guests[1].pins, policy.guests[1].placement), (&Pins::Auto, Placement::Near));
    }

    #[test]
    fn the_documented_example_is_a_policy() {
        let docs = include_str!("../../../docs/policy.md");
        let example = docs.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        parse_policy(example).unwrap();
    }

    #[test]
    fn refusals_name_the_line() {
        for (text, line, part) in [
            ("nmae = \"x\"\n", 1, "unknown field `nmae`"),
            ("\n[[guest]]\nname = \"a\"\nplacement = \"own\"\npin = 1\n", 5, "unknown field `pin`"),
            ("[[guest]]\nname = \"a\"\nplacement = \"here\"\n", 3, "unknown variant `here`"),
            ("[[guest]]\nname = \"a\"\ncpus = \"5-\"\nplacement = \"own\"\n", 3, "is not a CPU list"),
            ("[[guest]]\nname = \"a*\"\nplacement = \"own\"\ncpus = \"5\"\n", 4, "a list is for one guest"),
            (
                "[[guest]]\nname = \"a\"\nplacement = \"own\"\nio = \"any\"\n",
                4,
                "io: \"any\" is not a CPU list",
            ),
            ("[[guest]]\nname = \"a\"\nplacement = \"own\"\nthreads = \"\"\n", 4, "the CPU list is empty"),
            ("[[guest]]\nname = \"a\"\n", 1, "missing field `placement`"),
            ("[knobs]\nhalt-poll-ns = -1\n", 2, "invalid value: integer `-1`"),
            ("[knobs]\nhalt_poll_ns = 1\n", 2, "unknown field `halt_poll_ns`"),
            ("[knobs]\nwatchdogs = \"off\"\n", 2, "unknown variant `off`"),
            ("[knobs]\n\nidle-latency-us = 2147483647\n", 3, "is beyond 2147483646"),
            ("[knobs]\nrps = [\"eth0\",\n\"../x\"]\n", 3, "\"../x\" is not the name of a network device"),
            ("name = \"x\"\n", 1, "no [[guest]] table"),
            ("name = \n", 1, ""),
        ] {
            let error = parse_policy(text).unwrap_err();
            assert_eq!(error.line, line, "{text:?}: {error}");
            assert!(error.what.contains(part), "{text:?}: {error}");
            assert!(!error.what.contains('\n'), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_policy_or_an_error(text in ".{0,200}") {
            let _ = parse_policy(&text);
        }
    }
}
