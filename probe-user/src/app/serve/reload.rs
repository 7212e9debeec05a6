//! What is read again while serving: the configuration and the policy at SIGHUP, certificates and passwords also when
//! their files have changed.

use super::super::reconcile::Controller;
use super::{Reread, Shape};
use crate::export::Exporter;
use crate::export::web::Web;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// How often the files of the web config are looked at: a renewed certificate is in force that soon.
const LOOK: Duration = Duration::from_secs(5);

/// Everybody who has to be told.
pub(super) struct Reload {
    pub(super) reread: Reread,
    pub(super) exporter: Arc<Exporter>,
    pub(super) controller: Option<Arc<Controller>>,
    pub(super) web: watch::Sender<Arc<Web>>,
    pub(super) web_config: Option<PathBuf>,
}

impl Reload {
    /// At each SIGHUP reads anew what may change.
    pub(super) async fn at_each(self, mut hangup: Signal) {
        let Self { reread, exporter, controller, web, web_config } = self;
        while hangup.recv().await.is_some() {
            if let Some(path) = &web_config {
                replace(&web, path);
            }
            if let Some(controller) = &controller {
                controller.reload();
            }
            if let Some(Shape { fold, bounds }) = reread() {
                exporter.reform(fold.clone(), bounds);
                tracing::info!(?bounds, fold = %fold, "the configuration was read again");
            }
        }
    }
}

/// Reads the web config again whenever it or a file that it names has changed.
pub(super) async fn follow_files(web: watch::Sender<Arc<Web>>, web_config: Option<PathBuf>) {
    let Some(path) = web_config else { return };
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut refused = false;
    loop {
        ticks.tick().await;
        // One that was refused stays outdated: it is tried again, and not complained about again.
        if web.borrow().is_outdated() && !(refused && Web::read(&path).is_err()) {
            refused = !replace(&web, &path);
        }
    }
}

/// New connections get the rules of the file; if it cannot be used, the former ones. Returns whether it can.
fn replace(web: &watch::Sender<Arc<Web>>, path: &Path) -> bool {
    match Web::read(path) {
        Ok(new) => {
            tracing::info!(tls = new.has_tls(), passwords = new.has_users(), "the web config was read again");
            web.send_replace(Arc::new(new));
            true
        }
        Err(error) => {
            tracing::error!(%error, "the former web config is kept");
            false
        }
    }
}
