//! From arguments to what a session is to be.

use super::{Args, Preset, WorkloadMode};
use crate::app::loads::{self, Load};
use crate::app::tune::BASELINE;
use crate::app::tuning::{Try, TuneRequest};
use crate::app::{guests, record, text_file};
use crate::cli::{Failure, failures};
use crate::host::{HostError, HostRoot, read_guest_addresses, read_topology};
use crate::model::topology::Guest;
use crate::plan::policy::parse_cpus;
use crate::plan::sweep::{MOST_VARIANTS, SweepError, Variant, variants};
use crate::plan::{Isolate, Placement, guest_policy_text};
use crate::workload::Reading;
use anyhow::{Context as _, anyhow};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// What a new session is to be.
pub(super) fn request(args: &Args, root: &HostRoot) -> Result<TuneRequest, Failure> {
    let topology = read_topology(root);
    let wanted = args.guest.as_deref().unwrap_or_default();
    let guest = guests::find(&topology, wanted).map_err(failures::guest)?;
    Ok(TuneRequest {
        guest: guest.name.clone(),
        tries: tries(args, &guest.name)?,
        repeats: args.repeat.into(),
        seed: args.seed.unwrap_or_else(record::unix_ms),
        loads: loads(args, root, guest)?,
        abort_if: args.abort_if.clone(),
        look: args.look.length(),
        noise: args.noise,
    })
}

/// What runs are made under.
fn loads(args: &Args, root: &HostRoot, guest: &Guest) -> Result<Vec<Load>, Failure> {
    let Args { duration, warm_up, command, workload_mode, .. } = args;
    let continuous = *workload_mode == WorkloadMode::Continuous;
    if continuous && args.workload_json {
        return Err(Failure::usage(anyhow!(
            "--workload-json needs --workload-mode restart: what COMMAND states at its end speaks of all runs together"
        )));
    }
    if continuous && command.is_empty() {
        return Err(Failure::usage(anyhow!("--workload-mode continuous needs a COMMAND that is to run on")));
    }
    let (duration, warm_up) = (*duration, *warm_up);
    match args.preset {
        None => {
            let reading = if args.workload_json { Reading::Stated } else { Reading::ByTool };
            Ok(vec![Load { name: None, command: command.clone(), reading, continuous, warm_up, duration }])
        }
        Some(Preset::Paper) => {
            let target = match args.target {
                Some(target) => target,
                None => IpAddr::V4(only_address(read_guest_addresses(root, guest), &guest.name)?),
            };
            Ok(loads::paper(target, command, warm_up, duration).to_vec())
        }
    }
}

fn only_address(found: Result<Vec<Ipv4Addr>, HostError>, guest: &str) -> Result<Ipv4Addr, Failure> {
    match found.map_err(Failure::cannot_run)?[..] {
        [one] => Ok(one),
        [] => Err(Failure::usage(anyhow!(
            "the address of {guest} is not known here (its VFs' MACs are not in this host's ARP table); name it with --target"
        ))),
        ref several => {
            let list: Vec<String> = several.iter().map(ToString::to_string).collect();
            Err(Failure::usage(anyhow!(
                "{guest} has several addresses ({}); choose one with --target",
                list.join(", ")
            )))
        }
    }
}

/// The baseline, and one configuration for each placement, policy file and combination of swept values.
fn tries(args: &Args, guest: &str) -> Result<Vec<Try>, Failure> {
    if !matches!(args.cpus.as_str(), "auto" | "keep") {
        parse_cpus(&args.cpus).context("--cpus").map_err(Failure::usage)?;
    }
    let isolate = if args.isolate { Isolate::Threads } else { Isolate::None };
    let mut tries = vec![Try::baseline(BASELINE)];
    for wanted in args.tries.iter().filter(|name| *name != BASELINE) {
        let text = if wanted.contains('/') || wanted.ends_with(".toml") {
            text_file::read(Path::new(wanted))
                .with_context(|| format!("cannot read {wanted}"))
                .map_err(Failure::usage)?
        } else {
            let placement: Placement = wanted.parse().context("--try").map_err(Failure::usage)?;
            guest_policy_text(guest, &args.cpus, placement, isolate)
        };
        let variants = variants(&text, &args.sweep).with_context(|| format!("--try {wanted}"));
        for Variant { name, text } in variants.map_err(Failure::usage)? {
            if tries.iter().any(|one| one.name == name) {
                return Err(Failure::usage(anyhow!(
                    "--try names {name} twice; give policy files different names"
                )));
            }
            let one = Try::policy_text(&name, &text).with_context(|| format!("--try {wanted}"));
            tries.push(one.map_err(Failure::usage)?);
        }
    }
    if tries.len() == 1 {
        if !args.sweep.is_empty() {
            return Err(Failure::usage(anyhow!("the baseline has no keys that --sweep could set")));
        }
        // The baseline against itself: what comes out is the noise of the host and the method.
        tries.push(Try::baseline(&format!("{BASELINE}-again")));
    }
    if tries.len() > MOST_VARIANTS {
        return Err(Failure::usage(SweepError::TooMany(tries.len())));
    }
    Ok(tries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &[&str]) -> Args {
        use clap::FromArgMatches as _;
        let command = <Args as clap::Args>::augment_args(clap::Command::new("tune"));
        let line = ["tune", "--guest", "vm1"].iter().chain(options);
        Args::from_arg_matches(&command.try_get_matches_from(line).unwrap()).unwrap()
    }

    #[test]
    fn placements_policy_files_and_sweeps_become_configurations() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.toml");
        let text = "name = \"mine\"\n[[guest]]\nname = \"vm1\"\ncpus = \"keep\"\nplacement = \"near\"\n";
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let both = format!("own,{file}");
        for (options, expected) in [
            (&[][..], Ok(&["baseline", "own"][..])),
            (&["--try", "baseline"], Ok(&["baseline", "baseline-again"])),
            (&["--try", &both], Ok(&["baseline", "own", "mine"])),
            (&["--try", file, "--sweep", "placement=own,keep"], {
                Ok(&["baseline", "mine,placement=own", "mine,placement=keep"])
            }),
            (&["--try", "own,own"], Err("--try names own twice")),
            (&["--try", "beside"], Err("--try: \"beside\" is not a placement")),
            (&["--try", "none.toml"], Err("cannot read none.toml")),
            (&["--try", "baseline", "--sweep", "placement=own"], Err("the baseline has no keys")),
            (&["--sweep", "colour=red"], Err("it has no such key")),
            (&["--cpus", "2-"], Err("--cpus")),
        ] {
            let found = tries(&parsed(options), "vm1");
            match (found, expected) {
                (Ok(found), Ok(names)) => {
                    assert_eq!(found.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), names);
                    for one in found.iter().filter_map(|t| Some((&t.name, t.policy()?))) {
                        assert_eq!(*one.0, one.1.name);
                    }
                }
                (Err(failure), Err(said)) => {
                    assert!(
                        format!("{:#}", failure.error).contains(said),
                        "{options:?}: {:#}",
                        failure.error
                    );
                }
                (found, _) => panic!("{options:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_preset_needs_one_address() {
        let address = |last| Ipv4Addr::new(10, 0, 0, last);
        assert_eq!(only_address(Ok(vec![address(2)]), "vm1").unwrap(), address(2));
        for (found, said) in [(vec![], "--target"), (vec![address(2), address(3)], "10.0.0.2, 10.0.0.3")] {
            let failure = only_address(Ok(found), "vm1").unwrap_err();
            assert!(format!("{failure:?}").contains(said), "{failure:?}");
        }
    }
}
