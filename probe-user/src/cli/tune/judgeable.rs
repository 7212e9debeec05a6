//! Conditions that a session can answer, told from those that it never will, before any run is made.

use crate::app::tuning::TuneRequest;
use crate::cli::Failure;
use crate::probes::cpu_noise;
use crate::stats::Labels;
use crate::stats::compare::{Detail, FEWEST_RUNS};
use crate::stats::gate::{About, Gate};
use crate::workload::{Reading, STATED, tells_runs_apart, tool_of};
use anyhow::anyhow;

/// Refuses conditions that no run of this session could answer: an answer that never comes counts as a failure, and would be
/// told at the end of all runs. `conditions` are those on the outcome.
pub(super) fn judgeable(request: &TuneRequest, conditions: &[Gate]) -> Result<(), Failure> {
    let of_outcome = conditions.iter().map(|gate| ("--fail-if", gate));
    let of_run = request.abort_if.iter().map(|gate| ("--abort-if", gate));
    for (option, gate) in of_outcome.chain(of_run) {
        if let Some(why) = why_never(request, gate, option == "--fail-if") {
            return Err(Failure::usage(anyhow!("{option} {gate} could not be judged: {why}")));
        }
    }
    Ok(())
}

fn why_never(request: &TuneRequest, gate: &Gate, of_outcome: bool) -> Option<String> {
    let repeats = usize::try_from(request.repeats).unwrap_or(usize::MAX);
    if of_outcome && gate.is_of_change() && repeats < FEWEST_RUNS {
        return Some(format!(
            "a change needs {FEWEST_RUNS} runs of each configuration, and there are to be {repeats}"
        ));
    }
    match gate.about() {
        About::Series { probe, labels } | About::Counter { probe, labels, .. } => {
            never_counted(request, probe, labels)
        }
        About::Workload { tool, load } => never_said(request, tool, load),
    }
}

fn never_counted(request: &TuneRequest, probe: &str, labels: &Labels) -> Option<String> {
    if probe == cpu_noise::SPEC.name && !request.noise {
        return Some("a session counts what takes guarded CPUs only with --noise".to_owned());
    }
    if let Some(name) = labels.keys().find(|name| Detail::Folded.dropped().contains(&name.as_str())) {
        return Some(format!("in a session all that differs by {name} is taken together"));
    }
    let other = labels.get("guest").filter(|guest| **guest != request.guest)?;
    Some(format!("the session is about guest {}, not {other}", request.guest))
}

fn never_said(request: &TuneRequest, tool: Option<&str>, load: Option<&str>) -> Option<String> {
    let mut loads =
        request.loads.iter().filter(|one| load.is_none_or(|load| one.name.as_deref() == Some(load)));
    let mut why = match load {
        Some(load) => format!("there is no load {load}"),
        None => "there is no load".to_owned(),
    };
    let answers = loads.any(|one| {
        let said = match one.reading {
            Reading::Stated => Some(STATED),
            Reading::ByTool => tool_of(&one.command),
        };
        why = match (said, tool) {
            _ if one.command.is_empty() => "there is no command that makes load".to_owned(),
            (None, _) => format!("the output of {} is not read (docs/workloads.md)", one.command[0]),
            (Some(said), Some(tool)) if said != tool => format!("the load is {said}, not {tool}"),
            (Some(said), _) if one.continuous && !tells_runs_apart(&one.command) => {
                format!("what {said} prints while it runs on cannot be told apart by runs")
            }
            _ => return true,
        };
        false
    });
    (!answers).then_some(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::loads::{Load, paper};
    use crate::app::tuning::Try;
    use crate::cli::Exit;
    use std::time::Duration;

    fn load(command: &str, reading: Reading, continuous: bool) -> Vec<Load> {
        let command = command.split_whitespace().map(str::to_owned).collect();
        let (warm_up, duration) = (Duration::ZERO, Duration::from_secs(1));
        vec![Load { name: None, command, reading, continuous, warm_up, duration }]
    }

    #[test]
    fn what_no_run_answers_is_refused_before_any() {
        let ping = || load("ping h", Reading::ByTool, false);
        let both =
            || paper("10.0.0.2".parse().unwrap(), &[], Duration::ZERO, Duration::from_secs(1)).to_vec();
        for (loads, noise, repeats, condition, why) in [
            (ping(), false, 5, "irq_delivery.p99 > +5%", None),
            (ping(), false, 5, "irq_delivery{guest=vm1}.p99 > +5%", None),
            (ping(), false, 5, "irq_delivery{guest=vm2}.p99 > +5%", Some("about guest vm1, not vm2")),
            (ping(), false, 5, "irq_delivery{slot=1}.p99 > +5%", Some("differs by slot is taken together")),
            (ping(), false, 5, "cpu_noise.p99 > 50us", Some("only with --noise")),
            (ping(), true, 5, "cpu_noise.p99 > 50us", None),
            (ping(), false, 2, "vcpu_sched.migrations > +5%", Some("needs 3 runs of each configuration")),
            (ping(), false, 2, "vcpu_sched.migrations > 5/s", None),
            (ping(), false, 5, "workload.rtt_mean > +5%", None),
            (
                ping(),
                false,
                5,
                "workload{tool=iperf3}.throughput < -5%",
                Some("the load is ping, not iperf3"),
            ),
            (ping(), false, 5, "workload{load=ping}.rtt_mean > +5%", Some("there is no load ping")),
            (both(), false, 5, "workload{load=ping}.rtt_mean > +5%", None),
            (both(), false, 5, "workload{tool=ping}.rtt_mean > +5%", None),
            (
                load("", Reading::ByTool, false),
                false,
                5,
                "workload.rtt_mean > +5%",
                Some("no command that makes load"),
            ),
            (
                load("./x.sh", Reading::ByTool, false),
                false,
                5,
                "workload.jobs < -5%",
                Some("output of ./x.sh is not read"),
            ),
            (load("./x.sh", Reading::Stated, false), false, 5, "workload.jobs < -5%", None),
            (
                load("iperf3 -c h", Reading::ByTool, true),
                false,
                5,
                "workload.throughput < -5%",
                Some("told apart by runs"),
            ),
        ] {
            let gate: Gate = condition.parse().unwrap();
            let mut request = TuneRequest {
                guest: "vm1".to_owned(),
                tries: vec![Try::baseline("baseline")],
                repeats,
                seed: 1,
                loads,
                abort_if: Vec::new(),
                look: None,
                noise,
            };
            let said = |result: Result<(), Failure>| {
                result.err().map(|failure| (failure.error.to_string(), failure.exit))
            };
            match (said(judgeable(&request, std::slice::from_ref(&gate))), why) {
                (None, None) => {}
                (Some((said, exit)), Some(why)) => {
                    assert!(
                        said.starts_with(&format!("--fail-if {condition} could not be judged")),
                        "{said}"
                    );
                    assert!(said.contains(why) && exit == Exit::Usage, "{said}");
                }
                (found, _) => panic!("{condition}: {found:?}"),
            }
            // A single run needs no others beside it.
            request.abort_if.push(gate);
            let found = said(judgeable(&request, &[]));
            assert_eq!(
                found.is_some(),
                why.is_some_and(|why| !why.contains("needs 3 runs")),
                "{condition}: {found:?}"
            );
        }
    }
}
