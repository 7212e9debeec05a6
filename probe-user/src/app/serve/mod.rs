//! Serving: the probes at work for as long as the service runs, read at each scrape, and followed by what changes on
//! the host: guests that come and go, configurations that come into force.
//!
//! Changes nothing on the host by itself; with a policy it lets a controller (`reconcile`) keep it.

mod reload;
mod service;

use super::reconcile::{ReconcileError, Reconciler};
use super::service_manager;
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
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// How often the configuration in force is looked at: what is counted in between goes to the former one.
const FOLLOW: Duration = Duration::from_secs(2);
/// Guests are looked for at every this many looks at the configuration: that reads all of `/proc`.
const LOOKS_PER_SCAN: u32 = 5;

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
    let Options { listen, shape: Shape { fold, bounds }, state, policy, web_config } = options;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| ServeError::Process { what: "start the runtime", source })?;
    runtime.block_on(async {
        let stop = stop_signals()?;
        // From here on: a hangup would end the process otherwise.
        let hangup = signal(SignalKind::hangup()).map_err(no_signals)?;
        // Before the probes are loaded, so that a second service is refused without a trace.
        let (listeners, listen) = listeners(listen).await?;
        let web =
            web_config.as_deref().map(Web::read).transpose().map_err(ExportError::Web)?.unwrap_or_default();
        let reconciler = policy.map(|path| Reconciler::take(root.clone(), &state, path)).transpose()?;
        let service = Arc::new(Service::start(root, state)?);
        let seen = Arc::clone(&service);
        let controller =
            reconciler.map(|reconciler| reconciler.start(Box::new(move || seen.accepted()))).transpose()?;
        let controller = controller.map(Arc::new);
        tracing::info!(address = listen, tls = web.has_tls(), passwords = web.has_users(), "serving metrics");
        if !service_manager::started(&service.status()) {
            tracing::warn!("not ready: no probe runs, or one has failed");
        }
        let follow = tokio::spawn(follow(Arc::clone(&service)));
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
        follow.abort();
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

async fn follow(service: Arc<Service>) {
    let mut ticks = interval(FOLLOW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = 0;
    loop {
        ticks.tick().await;
        look = (look + 1) % LOOKS_PER_SCAN;
        let service = Arc::clone(&service);
        let looked = tokio::task::spawn_blocking(move || {
            service.look_at_config();
            if look == 0 {
                service.look_for_guests();
            }
        });
        // Fed only by a look that has come to its end: a service whose looks hang is started anew.
        match looked.await {
            Ok(()) => service_manager::alive(),
            Err(_) => tracing::error!(
                "following the host was cut short; its guests and configuration may be out of date"
            ),
        }
    }
}
