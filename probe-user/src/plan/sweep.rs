//! Policies with some of their keys set to other values: what `tune --sweep` tries. Pure.
//!
//! Works on a policy's text, so that every key a policy file has can be swept, and knows none of them by name: where a
//! key belongs is decided by what the parser accepts.

use super::policy_file::{PolicyError, parse_policy};
use std::str::FromStr;
use toml::{Table, Value};

/// Most configurations that a matrix may have: more would not be run to an end by anybody.
pub const MOST_VARIANTS: usize = 64;

/// A key of policies, and the values it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// As it was written: `halt_poll_ns`.
    pub key: String,
    /// At least one.
    pub values: Vec<String>,
}

/// A policy out of a matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Name of the policy with the values that were set: `own,halt_poll_ns=0`.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// A sweep that yields no policies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SweepError {
    /// Not of the form.
    #[error(
        "{0:?} is not a sweep; write KEY=VALUE,VALUE, or KEY=VALUE;VALUE where values hold commas, such as halt_poll_ns=0,200000"
    )]
    Form(String),
    /// The same key or value twice.
    #[error("{0} appears twice")]
    Twice(String),
    /// No place in a policy takes it.
    #[error("{key}={value} is not possible in a policy: {reason}")]
    Refused {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What the policy's parser says.
        reason: String,
    },
    /// The policy that is to be varied is not one.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Too many.
    #[error("the sweeps make {0} configurations, the limit is {MOST_VARIANTS}")]
    TooMany(usize),
}

impl FromStr for Sweep {
    type Err = SweepError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || SweepError::Form(text.to_owned());
        let (key, values) = text.split_once('=').ok_or_else(wrong)?;
        let separator = if values.contains(';') { ';' } else { ',' };
        let values: Vec<String> = values.split(separator).map(|value| value.trim().to_owned()).collect();
        let key = key.trim().to_owned();
        if key.is_empty() || values.iter().any(String::is_empty) {
            return Err(wrong());
        }
        if let Some((_, twice)) = values.iter().enumerate().find(|(at, value)| values[..*at].contains(value))
        {
            return Err(SweepError::Twice(format!("{key}={twice}")));
        }
        Ok(Self { key, values })
    }
}

/// Every combination of the sweeps' values, the last sweep's varying fastest; the policy alone when there is no sweep.
///
/// # Errors
/// [`SweepError`].
pub fn variants(text: &str, sweeps: &[Sweep]) -> Result<Vec<Variant>, SweepError> {
    let name = parse_policy(text)?.name;
    let count = sweeps.iter().try_fold(1usize, |n, sweep| n.checked_mul(sweep.values.len()));
    if let Some(count) = count.filter(|n| *n <= MOST_VARIANTS) {
        let mut all = Vec::with_capacity(count);
        all.push(Variant { name, text: text.to_owned() });
        for (at, sweep) in sweeps.iter().enumerate() {
            if sweeps[..at].iter().any(|earlier| earlier.key == sweep.key) {
                return Err(SweepError::Twice(sweep.key.clone()));
            }
            let each = all.iter().flat_map(|base| sweep.values.iter().map(move |value| (base, value)));
            all = each
                .map(|(base, value)| {
                    Ok(Variant {
                        name: format!("{},{}={value}", base.name, sweep.key),
                        text: set(&base.text, &sweep.key, value)?,
                    })
                })
                .collect::<Result<_, SweepError>>()?;
        }
        return Ok(all);
    }
    Err(SweepError::TooMany(count.unwrap_or(usize::MAX)))
}

/// The policy with a key set: at its top, among its knobs, or in each guest's table, wherever the parser accepts it.
fn set(text: &str, key: &str, value: &str) -> Result<String, SweepError> {
    let policy: Table =
        toml::from_str(text).map_err(|error| PolicyError { line: 1, what: error.message().to_owned() })?;
    // Keys of policies are written with dashes; the kernel's parameters, which some are called after, with underscores.
    let written = key.replace('_', "-");
    let typed = toml::from_str::<Table>(&format!("value = {value}")).ok().and_then(|mut t| t.remove("value"));
    let values = typed.into_iter().chain([Value::String(value.to_owned())]);
    let mut reason = None;
    for value in values {
        for place in [at_top, among_knobs, in_guests] {
            let mut changed = policy.clone();
            place(&mut changed, &written, &value);
            let Ok(changed) = toml::to_string(&changed) else { continue };
            match parse_policy(&changed) {
                Ok(_) => return Ok(changed),
                // That a place does not know the key says nothing; what is wrong with the value does.
                Err(error) if error.what.starts_with("unknown field") => {}
                Err(error) => reason = reason.or(Some(error.what)),
            }
        }
    }
    let reason = reason.unwrap_or_else(|| "it has no such key (docs/policy.md)".to_owned());
    Err(SweepError::Refused { key: key.to_owned(), value: value.to_owned(), reason })
}

fn at_top(policy: &mut Table, key: &str, value: &Value) {
    policy.insert(key.to_owned(), value.clone());
}

fn among_knobs(policy: &mut Table, key: &str, value: &Value) {
    let knobs = policy.entry("knobs").or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(knobs) = knobs {
        knobs.insert(key.to_owned(), value.clone());
    }
}

fn in_guests(policy: &mut Table, key: &str, value: &Value) {
    if let Some(Value::Array(guests)) = policy.get_mut("guest") {
        for guest in guests.iter_mut().filter_map(Value::as_table_mut) {
            guest.insert(key.to_owned(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Isolate, Placement};

    const OWN: &str = "name = \"own\"\n[[guest]]\nname = \"vm1\"\ncpus = \"2-3\"\nplacement = \"own\"\n";

    fn sweeps(texts: &[&str]) -> Vec<Sweep> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_matrix_holds_every_combination() {
        let all = variants(OWN, &sweeps(&["isolate=none,threads", "placement=own,near,keep"])).unwrap();
        let names: Vec<&str> = all.iter().map(|v| v.name.as_str()).collect();
        assert_eq!(names.len(), 6);
        assert_eq!(names[..2], ["own,isolate=none,placement=own", "own,isolate=none,placement=near"]);
        let last = parse_policy(&all[5].text).unwrap();
        assert_eq!((last.isolate, last.guests[0].placement), (Isolate::Threads, Placement::Keep));
        assert_eq!(variants(OWN, &[]).unwrap(), [Variant { name: "own".to_owned(), text: OWN.to_owned() }]);
    }

    #[test]
    fn values_may_hold_commas_and_keys_underscores() {
        let all = variants(OWN, &sweeps(&["cpus=2,3;4,5", "default_affinity=keep"])).unwrap();
        assert_eq!(all[1].name, "own,cpus=4,5,default_affinity=keep");
        let cpus: Vec<String> =
            all.iter().map(|v| format!("{:?}", parse_policy(&v.text).unwrap().guests[0].pins)).collect();
        assert!(cpus[0].contains('2') && cpus[1].contains('4'), "{cpus:?}");
    }

    #[test]
    fn knobs_are_swept_by_the_kernels_names() {
        let all = variants(OWN, &sweeps(&["halt_poll_ns=0,50000", "workqueues=keep,move"])).unwrap();
        assert_eq!(all[3].name, "own,halt_poll_ns=50000,workqueues=move");
        let knobs = parse_policy(&all[3].text).unwrap().knobs;
        assert_eq!((knobs.halt_poll_ns, knobs.workqueues), (Some(50_000), crate::plan::Others::Move));
    }

    #[test]
    fn what_no_policy_has_is_refused() {
        for (sweep, said) in [
            ("no_such_key=1", "it has no such key"),
            ("placement=beside", "placement=beside is not possible in a policy: "),
            ("cpus=2-3-4", "cpus=2-3-4 is not possible in a policy: cpus: "),
            ("isolate=0", "isolate=0 is not possible"),
        ] {
            let error = variants(OWN, &sweeps(&[sweep])).unwrap_err().to_string();
            assert!(error.contains(said), "{sweep}: {error}");
        }
        for text in ["", "a", "=1", "a=", "a=1,,2"] {
            assert!(matches!(text.parse::<Sweep>(), Err(SweepError::Form(_))), "{text}");
        }
        assert_eq!("a=1,1".parse::<Sweep>(), Err(SweepError::Twice("a=1".to_owned())));
        let twice = variants(OWN, &sweeps(&["isolate=none", "isolate=threads"]));
        assert_eq!(twice, Err(SweepError::Twice("isolate".to_owned())));
        let many = format!("cpus={}", (0..65).map(|n| n.to_string()).collect::<Vec<_>>().join(","));
        assert_eq!(variants(OWN, &sweeps(&[&many])), Err(SweepError::TooMany(65)));
        assert!(matches!(variants("name = 1", &[]), Err(SweepError::Policy(_))));
    }
}
