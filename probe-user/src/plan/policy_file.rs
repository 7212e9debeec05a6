//! Policies as TOML text. Unknown keys and impossible values are refused with their line.

use super::named::is_pattern;
use super::policy::NotCpus;
use super::policy::{
    GuestPolicy, Irqbalance, Isolate, Knobs, Limits, OnStop, Others, Pins, Placement, Policy, ThreadRules,
    Threads, VfPolicy, parse_cpus,
};
use crate::model::{CpuSet, PciAddress};
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
    housekeeping: Option<Spanned<String>>,
    #[serde(default)]
    isolate: Isolate,
    #[serde(default)]
    irqs: Others,
    #[serde(default)]
    default_affinity: Others,
    #[serde(default)]
    on_stop: OnStop,
    #[serde(default)]
    irqbalance: Irqbalance,
    #[serde(default)]
    limits: LimitTable,
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
    #[serde(default)]
    vf: Vec<VfTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct VfTable {
    address: Spanned<String>,
    placement: Placement,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct LimitTable {
    partial: bool,
    strikes: Option<Spanned<u32>>,
    debounce_ms: Option<Spanned<u32>>,
}

/// Reads a policy.
///
/// # Errors
/// [`PolicyError`] says what is wrong, and in which line.
pub fn parse_policy(text: &str) -> Result<Policy, PolicyError> {
    let at = |span: Option<Range<usize>>, what: String| PolicyError { line: line_of(text, span), what };
    let File {
        name,
        housekeeping,
        isolate,
        irqs,
        default_affinity,
        on_stop,
        irqbalance,
        limits,
        knobs,
        guest,
    } = toml::from_str(text).map_err(|error| at(error.span(), error.message().to_owned()))?;
    let housekeeping = housekeeping
        .map(|list| {
            let cpus = parse_cpus(list.as_ref());
            cpus.map_err(|error| at(Some(list.span()), format!("housekeeping: {error}")))
        })
        .transpose()?
        .map(CpuSet::from_iter);
    let knobs = parse_knobs(knobs).map_err(|(span, what)| at(Some(span), what))?;
    let limits = parse_limits(&limits).map_err(|(span, what)| at(Some(span), what))?;
    let mut guests = Vec::new();
    for Table { name, cpus, placement, threads, emulator, io, vhost, vf } in guest {
        let pins = match cpus.as_ref().map(|cpus| cpus.as_ref().as_str()) {
            None | Some("auto") => Pins::Auto,
            Some("keep") => Pins::Keep,
            Some(_) if is_pattern(&name) => {
                let what = format!(
                    "cpus: a list is for one guest, and {name:?} may mean several; use \"auto\" or \"keep\""
                );
                return Err(at(cpus.as_ref().map(Spanned::span), what));
            }
            Some(list) => {
                let list = parse_cpus(list)
                    .map_err(|error| at(cpus.as_ref().map(Spanned::span), format!("cpus: {error}")))?;
                let both = housekeeping.as_ref().and_then(|set| list.iter().find(|cpu| set.contains(**cpu)));
                if let Some(cpu) = both {
                    let what = format!(
                        "cpus: CPU {cpu} is a housekeeping CPU of this policy; give the guest another"
                    );
                    return Err(at(cpus.as_ref().map(Spanned::span), what));
                }
                Pins::Cpus(list)
            }
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
        let vfs = parse_vfs(vf).map_err(|(span, what)| at(Some(span), what))?;
        guests.push(GuestPolicy { guest: name, pins, placement, vfs, threads });
    }
    let [first, ..] = guests.as_slice() else {
        return Err(at(
            None,
            "the policy has no [[guest]] table; add one with name and placement".to_owned(),
        ));
    };
    let name = name.unwrap_or_else(|| first.placement.as_str().to_owned());
    Ok(Policy {
        name,
        guests,
        housekeeping,
        isolate,
        irqs,
        default_affinity,
        irqbalance,
        knobs,
        limits,
        on_stop,
    })
}

/// Tables of VFs, each VF once.
fn parse_vfs(tables: Vec<VfTable>) -> Result<Vec<VfPolicy>, (Range<usize>, String)> {
    let mut vfs: Vec<VfPolicy> = Vec::new();
    for VfTable { address: text, placement } in tables {
        let address: PciAddress =
            text.as_ref().parse().map_err(|error| (text.span(), format!("address: {error}")))?;
        if vfs.iter().any(|vf| vf.address == address) {
            return Err((text.span(), format!("address: VF {address} has a table already")));
        }
        vfs.push(VfPolicy { address, placement });
    }
    Ok(vfs)
}

fn parse_limits(table: &LimitTable) -> Result<Limits, (Range<usize>, String)> {
    let LimitTable { partial, strikes, debounce_ms } = table;
    let within = |key: &str, value: &Option<Spanned<u32>>, default: u32, low: u32, high: u32| match value {
        None => Ok(default),
        Some(value) if (low..=high).contains(value.as_ref()) => Ok(*value.as_ref()),
        Some(value) => {
            Err((value.span(), format!("{key}: {} is not between {low} and {high}", value.as_ref())))
        }
    };
    let default = Limits::default();
    Ok(Limits {
        partial: *partial,
        strikes: within("strikes", strikes, default.strikes, 1, 100)?,
        debounce_ms: within("debounce-ms", debounce_ms, default.debounce_ms, 500, 60_000)?,
    })
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

/// The text of a policy for one guest: what `--guest`, `--cpus`, `--placement` and `--isolate` say. `cpus` is a list,
/// `auto` or `keep`.
#[must_use]
pub fn guest_policy_text(guest: &str, cpus: &str, placement: Placement, isolate: Isolate) -> String {
    // A value's text form is quoted and escaped as TOML wants it.
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let isolate = match isolate {
        Isolate::None => "none",
        Isolate::Threads => "threads",
    };
    format!(
        "name = {0}\nisolate = \"{isolate}\"\n\n[[guest]]\nname = {1}\ncpus = {2}\nplacement = {0}\n",
        quoted(placement.as_str()),
        quoted(guest),
        quoted(cpus)
    )
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
    fn the_text_for_one_guest_is_its_policy() {
        for (guest, cpus, pins) in [
            ("vm1", "auto", Pins::Auto),
            ("a \"b\" \\", "keep", Pins::Keep),
            ("vm1", "2-3", Pins::Cpus(vec![CpuId(2), CpuId(3)])),
        ] {
            for placement in Placement::ALL {
                for isolate in [Isolate::None, Isolate::Threads] {
                    let text = guest_policy_text(guest, cpus, placement, isolate);
                    let expected = Policy { isolate, ..Policy::for_guest(guest, pins.clone(), placement) };
                    assert_eq!(parse_policy(&text), Ok(expected), "{text}");
                }
            }
        }
    }

    #[test]
    fn a_full_policy() {
        let text = "name = \"direct\"\nhousekeeping = \"6-7\"\nisolate = \"threads\"\nirqs = \"keep\"\ndefault-affinity = \"keep\"\non-stop = \"keep\"\nirqbalance = \"keep\"\n\
                    [limits]\npartial = true\nstrikes = 5\n\
                    [knobs]\nhalt-poll-ns = 0\nwatchdogs = \"move\"\nidle-latency-us = 5\nrps = [\"eth0\"]\n\
                    [[guest]]\nname = \"vm1\"\ncpus = \"3,2\"\nplacement = \"own\"\nthreads = \"keep\"\nvhost = \"4-5\"\n\
                    [[guest.vf]]\naddress = \"0000:01:10.2\"\nplacement = \"auto\"\n\
                    [[guest]]\nname = \"vm2\"\nplacement = \"near\"\n";
        let policy = parse_policy(text).unwrap();
        assert_eq!(policy.name, "direct");
        assert_eq!(policy.housekeeping, Some("6-7".parse().unwrap()));
        assert_eq!((policy.isolate, policy.irqs), (Isolate::Threads, Others::Keep));
        assert_eq!(policy.default_affinity, Others::Keep);
        assert_eq!(policy.guests[0].pins, Pins::Cpus(vec![CpuId(3), CpuId(2)]));
        assert_eq!((policy.on_stop, policy.irqbalance), (OnStop::Keep, Irqbalance::Keep));
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
        assert_eq!(policy.limits, Limits { partial: true, strikes: 5, ..Limits::default() });
        let placements =
            ["0000:01:10.2", "0000:01:10.0"].map(|vf| policy.guests[0].placement_of(vf.parse().unwrap()));
        assert_eq!(placements, [Placement::Auto, Placement::Own]);
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
            ("isolate = \"none\"\nhousekeeping = \"0-\"\n", 2, "housekeeping: \"0-\" is not a CPU list"),
            ("housekeeping = \"\"\n", 1, "housekeeping: the CPU list is empty"),
            ("housekeeping = 1\n", 1, "expected a string"),
            (
                "housekeeping = \"0-2\"\n[[guest]]\nname = \"a\"\nplacement = \"own\"\ncpus = \"2-3\"\n",
                5,
                "cpus: CPU 2 is a housekeeping CPU of this policy",
            ),
            ("[[guest]]\nname = \"a*\"\nplacement = \"own\"\ncpus = \"5\"\n", 4, "a list is for one guest"),
            (
                "[[guest]]\nname = \"a\"\nplacement = \"own\"\nio = \"any\"\n",
                4,
                "io: \"any\" is not a CPU list",
            ),
            ("[[guest]]\nname = \"a\"\nplacement = \"own\"\nthreads = \"\"\n", 4, "the CPU list is empty"),
            ("[[guest]]\nname = \"a\"\n", 1, "missing field `placement`"),
            ("[limits]\nstrikes = 0\n", 2, "strikes: 0 is not between 1 and 100"),
            ("[limits]\npartial = true\ndebounce-ms = 100\n", 3, "is not between 500 and 60000"),
            (
                "[[guest]]\nname = \"a\"\nplacement = \"own\"\n[[guest.vf]]\naddress = \"x\"\nplacement = \"near\"\n",
                5,
                "address: ",
            ),
            (
                "[[guest]]\nname = \"a\"\nplacement = \"own\"\n[[guest.vf]]\naddress = \"0000:01:10.0\"\n\
                 placement = \"near\"\n[[guest.vf]]\naddress = \"0000:01:10.0\"\nplacement = \"own\"\n",
                8,
                "has a table already",
            ),
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
