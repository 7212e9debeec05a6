//! What makes the traffic of one run: nothing that vfprobe knows of, a command of that run alone, or one that runs on.

use super::{
    Workload,
    continuous::Continuous,
    run::{Running, WorkloadError},
};
use std::time::{Duration, Instant};

/// The workload of one run.
#[derive(Debug)]
pub enum Traffic<'a> {
    /// None.
    Nothing,
    /// Started for this run.
    Anew(Box<Running>),
    /// Runs through all runs.
    Continuous(&'a mut Continuous),
}

impl Traffic<'_> {
    /// Resolves when the workload ends; never without one. Cancel-safe.
    pub async fn ended(&mut self) {
        match self {
            // A failing wait shows again when the workload is finished.
            Self::Anew(running) => drop(running.ended().await),
            Self::Continuous(continuous) => continuous.ended().await,
            Self::Nothing => std::future::pending().await,
        }
    }

    /// What it did in a run, and its end when it is of that run alone.
    ///
    /// # Errors
    /// [`WorkloadError::Wait`].
    pub async fn finish(
        self,
        from: Instant,
        to: Instant,
        grace: Duration,
    ) -> Result<Option<Workload>, WorkloadError> {
        match self {
            Self::Nothing => Ok(None),
            Self::Anew(running) => running.finish_run(from, to, grace).await.map(Some),
            Self::Continuous(continuous) => continuous.run_over(from, to).await.map(Some),
        }
    }
}
