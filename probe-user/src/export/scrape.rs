//! One scrape: read the source, sort, encode. Scrapes that wait for each other share an answer,
//! when they want it in the same form.
//!
//! Reading maps and writing text block, so they run on a thread of their own, one at a time: however many clients
//! ask, the probes' maps are read by one of them. Nothing is kept once the last answer is sent.

use super::{
    ExportError, Source, Status,
    bounds::Bounds,
    families::{self, Fold, Scrape},
    negotiate::{Coding, Format},
    openmetrics, prometheus, protobuf,
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use std::{
    io::Write as _,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};
use tokio::task::spawn_blocking;

/// Answers scrapes from one source.
pub struct Exporter {
    source: Arc<dyn Source>,
    form: Mutex<(Fold, Bounds)>,
    /// Readings started so far.
    started: AtomicU64,
    /// Held while a reading is under way.
    latest: Arc<tokio::sync::Mutex<Latest>>,
}

/// The answer written last, for as long as someone is still sending it.
#[derive(Default)]
struct Latest {
    /// Which reading it came from, counted from 1.
    reading: u64,
    /// Its form; `None` before the first one.
    form: Option<(Format, Coding)>,
    text: Weak<Vec<u8>>,
}

/// A shared answer as the owner of a [`Bytes`].
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Exporter {
    /// An exporter of what `source` says, with some labels folded, and histograms at these bounds.
    pub fn new(source: Arc<dyn Source>, fold: Fold, bounds: Bounds) -> Self {
        let form = Mutex::new((fold, bounds));
        Self { source, form, started: AtomicU64::new(0), latest: Arc::default() }
    }

    /// Folds other labels, or exports at other bounds, from the next reading on.
    pub fn reform(&self, fold: Fold, bounds: Bounds) {
        *self.form.lock().unwrap_or_else(PoisonError::into_inner) = (fold, bounds);
    }

    /// The text of a scrape. Every figure in it was read after this call began.
    ///
    /// # Errors
    /// When the answer cannot be encoded or the reading thread died. A source that cannot be read is no error: the
    /// answer then says `vfprobe_up 0`.
    pub async fn metrics(&self, format: Format, coding: Coding) -> Result<Bytes, ExportError> {
        let before = self.started.load(Ordering::SeqCst);
        // The guard goes along to the reading thread: a client that hangs up must not let a second reading in.
        let mut latest = Arc::clone(&self.latest).lock_owned().await;
        if latest.reading > before
            && latest.form == Some((format, coding))
            && let Some(text) = latest.text.upgrade()
        {
            return Ok(Bytes::from_owner(Shared(text)));
        }
        latest.reading = self.started.fetch_add(1, Ordering::SeqCst) + 1;
        let source = Arc::clone(&self.source);
        let (fold, bounds) = self.form.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = spawn_blocking(move || {
            let text = text(source.as_ref(), &fold, bounds, format)?;
            let text = Arc::new(match coding {
                Coding::Identity => text,
                Coding::Gzip => gzip(&text)?,
            });
            latest.form = Some((format, coding));
            latest.text = Arc::downgrade(&text);
            Ok::<_, ExportError>(text)
        });
        Ok(Bytes::from_owner(Shared(text.await??)))
    }

    /// How everything stands.
    ///
    /// # Errors
    /// When the reading thread died.
    pub async fn status(&self) -> Result<Status, ExportError> {
        let source = Arc::clone(&self.source);
        Ok(spawn_blocking(move || source.status()).await?)
    }
}

/// Lines repeat each other: the fastest level leaves little.
fn gzip(text: &[u8]) -> Result<Vec<u8>, ExportError> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).map_err(ExportError::Compress)?;
    encoder.finish().map_err(ExportError::Compress)
}

fn text(source: &dyn Source, fold: &Fold, bounds: Bounds, format: Format) -> Result<Vec<u8>, ExportError> {
    let start = Instant::now();
    let (figures, status) = source.scrape();
    let figures = figures.inspect_err(|error| tracing::warn!(%error, "probes could not be read"));
    let read_seconds = start.elapsed().as_secs_f64();
    let vfs = source.vf_counters();
    let scrape = Scrape { figures: figures.as_ref().ok(), status: &status, vfs: &vfs, read_seconds };
    let families = families::families(&scrape, fold);
    Ok(match format {
        Format::Text => prometheus::text(&families, bounds)?.into_bytes(),
        Format::OpenMetrics => openmetrics::text(&families, bounds, &status.began)?.into_bytes(),
        Format::Protobuf => protobuf::bytes(&families, bounds, &status.began),
    })
}
