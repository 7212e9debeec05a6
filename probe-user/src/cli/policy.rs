//! Arguments that say which policy is meant and how long is looked before, shared by the commands that plan.

use super::{Failure, Globals, duration, progress};
use crate::app::text_file;
use crate::app::vectors::{self, LOOK, Looked};
use crate::host::HostRoot;
use crate::plan::policy::parse_cpus;
use crate::plan::{Isolate, Pins, Placement, Policy, parse_policy};
use anyhow::{Context as _, anyhow};
use std::path::{Path, PathBuf};
use std::time::Duration;

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

/// How long interrupts are looked at before a plan.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct LookArgs {
    /// Look at VFs' interrupts so long before planning, where the plan depends on which vCPUs they are for or whether
    /// hardware delivers them [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = duration::parse, conflicts_with = "no_look")]
    look: Option<Duration>,
    /// Do not look: plan by the order of the queues
    #[arg(long)]
    no_look: bool,
}

impl LookArgs {
    /// How long; `None` when nobody is to look.
    pub(super) fn length(&self) -> Option<Duration> {
        (!self.no_look).then_some(self.look.unwrap_or(LOOK))
    }

    /// Looks before plans for these policies. A signal ends the process: nothing has been changed.
    pub(super) fn look(
        &self,
        globals: &Globals,
        root: &HostRoot,
        policies: &[&Policy],
    ) -> Result<Looked, Failure> {
        let mut bar = None;
        let length = self.length();
        let mut at =
            |elapsed| bar.get_or_insert_with(|| progress::Bar::new(globals, "look", length)).at(elapsed);
        let look = vectors::look(root, policies, length, std::future::pending(), &mut at);
        let looked = super::runtime()?.block_on(look);
        if let Some(bar) = bar {
            bar.clear();
        }
        Ok(looked)
    }
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
    let text =
        text_file::read(path).with_context(|| format!("cannot read {shown}")).map_err(Failure::usage)?;
    parse_policy(&text).with_context(|| shown.to_string()).map_err(Failure::usage)
}
