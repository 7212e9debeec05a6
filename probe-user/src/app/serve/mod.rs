//! Serving: the probes at work for as long as the service runs, read at each scrape, and followed by what changes on
//! the host: guests that come and go, configurations that come into force.
//!
//! Changes nothing on the host by itself; with a policy it lets a controller (`reconcile`) keep it.

mod follow;
mod journal;
mod reload;
mod service;

use super::reconcile::{Mode, ReconcileError, Reconciler};
use super::{privileges, service_manager};
use crate::apply::StateDir;
use crate::bpf::LoadError;
use crate::export::bounds::Bounds;
use crate::export::families::Fold;
use crate::export::http::{self, Limits};
use crate::export::web::Web;
use crate::export::{ExportError, Exporter, Source as _};
use crate::host::HostRoot;
use crate::probes::ReadError;
use reload::{Reload, follow_files};
use service::Service;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// What to serve, and where.
#[derive(Debug)]
pub struct Options {
    /// `ADDRESS:PORT`.
    pub listen: String,
    /// What is exported of the figures.
    pub shape: Shape,
    /// Where the journal is.
    pub state: StateDir,
    /// A policy to keep.
    pub policy: Option<PathBuf>,
    /// What is done about the policy.
    pub mode: Mode,
    /// Of configurations that have ended, the figures of so many stay, beside those of the baseline.
    pub keep_configs: usize,
    /// Who gets in; everybody without one.
    pub web_config: Option<PathBuf>,
}

/// How figures are exported. May change while serving.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Labels to leave out.
    pub fold: Fold,
    /// Bounds of the histograms.
    pub bounds: Bounds,
}

/// Reads anew what may change while serving; `None` when it cannot be read, which it says in the log.
pub type Reread = Box<dyn Fn() -> Option<Shape> + Send + Sync>;

/// Why the service cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Nothing can be observed.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The probes cannot be started.
    #[error(transparent)]
    Probes(#[from] ReadError),
    /// Nobody can be answered.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The policy cannot be kept.
    #[error(transparent)]
    Policy(#[from] ReconcileError),
    /// The process lacks what it needs to run.
    #[error("cannot {what}")]
    Process {
        /// What it tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Serves until SIGTERM or SIGINT. Only then it returns without an error.
///
/// # Errors
/// [`ServeError`] when the address cannot be listened on, or nothing can be observed.
pub fn run(root: HostRoot, options: Options, reread: Reread) -> Result<(), ServeError> {
    let Options { listen, shape: Shape { fold, bounds }, state, policy, mode, keep_configs, web_config } =
        options;
    let process = |what| move |source: io::Error| ServeError::Process { what, source };
    // Threads that are started from here on have none either.
    rustix::thread::set_no_new_privs(true)
        .map_err(io::Error::from)
        .map_err(process("forgo new privileges"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(process("start the runtime"))?;
    runtime.block_on(async {
        let stop = stop_signals()?;
        // From here on: a hangup would end the process otherwise.
        let hangup = signal(SignalKind::hangup()).map_err(no_signals)?;
        // Before the probes are loaded, so that a second service is refused without a trace.
        let (listeners, listen) = listeners(listen).await?;
        let web =
            web_config.as_deref().map(Web::read).transpose().map_err(ExportError::Web)?.unwrap_or_default();
        let reconciler = policy.map(|path| Reconciler::take(root.clone(), &state, path, mode)).transpose()?;
        let service = Arc::new(Service::start(root, state.clone(), keep_configs)?);
        let give_up = process("give up capabilities");
        let reading =
            privileges::for_reading(|| service.can_be_read()).map_err(io::Error::from).map_err(&give_up)?;
        let seen = Arc::clone(&service);
        let controller =
            reconciler.map(|reconciler| reconciler.start(seen, privileges::CONTROL | reading)).transpose()?;
        let controller = controller.map(Arc::new);
        tracing::info!(address = listen, tls = web.has_tls(), passwords = web.has_users(), "serving metrics");
        if !service_manager::started(&service.status()) {
            tracing::warn!("not ready: no probe runs, or one has failed");
        }
        let follower = follow::start(Arc::clone(&service), &state).map_err(process("follow the host"))?;
        // Whoever needs more has been started. This thread answers clients, and starts those that read the probes.
        privileges::keep(reading).map_err(io::Error::from).map_err(&give_up)?;
        tracing::debug!(kept = ?reading, "capabilities were given up");
        let exporter = Arc::new(Exporter::new(service, fold, bounds));
        let (web, guards) = watch::channel(Arc::new(web));
        let doors = tokio::spawn(follow_files(web.clone(), web_config.clone()));
        let told = Reload {
            reread,
            exporter: Arc::clone(&exporter),
            controller: controller.clone(),
            web,
            web_config,
        };
        let reload = tokio::spawn(told.at_each(hangup));
        http::serve(listeners, exporter, guards, Limits::default(), stop).await;
        doors.abort();
        drop(follower);
        reload.abort();
        if let Some(controller) = controller {
            // It may be in the middle of a change, which is finished.
            let _ = tokio::task::spawn_blocking(move || controller.stop()).await;
        }
        tracing::info!("stopped");
        Ok(())
    })
}

/// The sockets to answer on, and what to call them: those that the service manager has opened, or else a new one.
async fn listeners(address: String) -> Result<(Vec<TcpListener>, String), ServeError> {
    let sockets = service_manager::sockets().map_err(ExportError::Inherited)?;
    if sockets.is_empty() {
        return Ok((vec![http::listen(&address).await?], address));
    }
    let addresses = sockets.iter().filter_map(|s| s.local_addr().ok()).map(|address| address.to_string());
    let addresses: Vec<_> = addresses.collect();
    Ok((http::adopt(sockets)?, addresses.join(" ")))
}

fn no_signals(source: io::Error) -> ServeError {
    ServeError::Process { what: "listen for signals", source }
}

/// Resolves at the first SIGTERM or SIGINT.
fn stop_signals() -> Result<impl Future<Output = ()>, ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop");
        service_manager::stopping();
    })
}
