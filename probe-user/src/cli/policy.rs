//! Arguments that say which policy is meant, shared by the commands that plan.

use super::Failure;
use crate::plan::policy::parse_cpus;
use crate::plan::{Isolate, Pins, Placement, Policy, parse_policy};
use anyhow::{Context as _, anyhow};
use std::path::{Path, PathBuf};

/// A policy file, or one guest with its CPUs and placement.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct PolicyArgs {
    /// Policy file (docs/policy.md)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["guest", "cpus", "placement", "isolate"])]
    policy: Option<PathBuf>,
    /// The guest: name, uuid or pid, or a pattern for names such as 'vm*'
    #[arg(long, value_name = "GUEST")]
    guest: Option<String>,
    /// CPUs for its vCPUs, the i-th for vCPU i: a list such as 2-3, `auto`, or `keep`
    #[arg(long, value_name = "LIST", requires = "guest", default_value = "auto")]
    cpus: String,
    /// Where its VFs' interrupts go: own, near, housekeeping or keep
    #[arg(long, value_name = "PLACEMENT", requires = "guest", default_value_t = Placement::Own)]
    placement: Placement,
    /// What else is moved off its CPUs: `threads`, those of other processes and of the kernel
    #[arg(long, value_name = "WHAT", requires = "guest")]
    isolate: Option<IsolateArg>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum IsolateArg {
    Threads,
}

impl PolicyArgs {
    /// The policy that is meant.
    pub(super) fn policy(&self) -> Result<Policy, Failure> {
        match (&self.policy, &self.guest) {
            (Some(path), _) => read_policy(path),
            (None, Some(guest)) => {
                let pins = match self.cpus.as_str() {
                    "auto" => Pins::Auto,
                    "keep" => Pins::Keep,
                    list => Pins::Cpus(parse_cpus(list).context("--cpus").map_err(Failure::usage)?),
                };
                let mut policy = Policy::for_guest(guest, pins, self.placement);
                if let Some(IsolateArg::Threads) = self.isolate {
                    policy.isolate = Isolate::Threads;
                }
                Ok(policy)
            }
            (None, None) => {
                Err(Failure::usage(anyhow!("name a guest (--guest) or a policy file (--policy)")))
            }
        }
    }
}

fn read_policy(path: &Path) -> Result<Policy, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {shown}"))
        .map_err(Failure::usage)?;
    parse_policy(&text).with_context(|| shown.to_string()).map_err(Failure::usage)
}
