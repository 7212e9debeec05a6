//! One scrape: read the source, sort, encode, pack. Scrapes that wait for each other share an answer,
//! when they want it in the same form.
//!
//! Reading maps and writing text block, so they run on a thread of their own, one at a time: however many clients
//! ask, the probes' maps are read by one of them. Nothing is kept once the last answer is sent; and how much is kept for
//! clients that do not read is bounded.

use super::{
    ExportError, Source, Status,
    bounds::Bounds,
    families::{self, Fold, Scrape},
    negotiate::Format,
    openmetrics, prometheus, protobuf,
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use std::{
    fmt,
    io::{self, Write as _},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};
use tokio::task::spawn_blocking;

/// Bytes of packed answers on their way beyond which no other is made. An answer of 64 guests with 4 vCPUs and a VF each has
/// some 0.6 MB for each configuration.
const ROOM: usize = 32 << 20;
/// Short texts are gathered to this much before they are packed; what has this length is packed as it is.
const PIECE: usize = 64 * 1024;
const LONG: usize = 1024;

/// Answers scrapes from one source.
pub struct Exporter {
    source: Arc<dyn Source>,
    form: Mutex<(Fold, Bounds)>,
    /// Readings started so far.
    started: AtomicU64,
    /// Held while a reading is under way.
    latest: Arc<tokio::sync::Mutex<Latest>>,
    /// Bytes of packed answers that somebody has.
    held: Arc<AtomicUsize>,
    room: usize,
}

/// The answer written last, for as long as someone is still sending it.
#[derive(Default)]
struct Latest {
    /// Which reading it came from, counted from 1.
    reading: u64,
    /// Its form; `None` before the first one.
    form: Option<Format>,
    packed: Weak<Packed>,
}

/// A text packed by gzip, and how long it is.
struct Packed {
    bytes: Vec<u8>,
    length: u64,
    held: Arc<AtomicUsize>,
}

impl Packed {
    fn new(bytes: Vec<u8>, length: u64, held: Arc<AtomicUsize>) -> Self {
        held.fetch_add(bytes.len(), Ordering::SeqCst);
        Self { bytes, length, held }
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes.len(), Ordering::SeqCst);
    }
}

/// A shared answer as the owner of a [`Bytes`].
struct Shared(Arc<Packed>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Exporter {
    /// An exporter of what `source` says, with some labels folded, and histograms at these bounds.
    pub fn new(source: Arc<dyn Source>, fold: Fold, bounds: Bounds) -> Self {
        let form = Mutex::new((fold, bounds));
        Self {
            source,
            form,
            started: AtomicU64::new(0),
            latest: Arc::default(),
            held: Arc::default(),
            room: ROOM,
        }
    }

    /// The same, with room for this many bytes of packed answers on their way (32 MiB otherwise).
    #[must_use]
    pub fn with_room(self, room: usize) -> Self {
        Self { room, ..self }
    }

    /// Folds other labels, or exports at other bounds, from the next reading on.
    pub fn reform(&self, fold: Fold, bounds: Bounds) {
        *self.form.lock().unwrap_or_else(PoisonError::into_inner) = (fold, bounds);
    }

    /// The text of a scrape, packed by gzip, and its length before that. Every figure in it was read after this call began.
    ///
    /// # Errors
    /// [`ExportError::Busy`] while answers that nobody reads take all the room; others when the answer cannot be encoded or the
    /// reading thread died. A source that cannot be read is no error: the answer then says `vfprobe_up 0`.
    pub async fn metrics(&self, format: Format) -> Result<(Bytes, u64), ExportError> {
        let before = self.started.load(Ordering::SeqCst);
        // The guard goes along to the reading thread: a client that hangs up must not let a second reading in.
        let mut latest = Arc::clone(&self.latest).lock_owned().await;
        if latest.reading > before
            && latest.form == Some(format)
            && let Some(packed) = latest.packed.upgrade()
        {
            return Ok(sent(packed));
        }
        if self.held.load(Ordering::SeqCst) >= self.room {
            return Err(ExportError::Busy);
        }
        latest.reading = self.started.fetch_add(1, Ordering::SeqCst) + 1;
        let (source, held) = (Arc::clone(&self.source), Arc::clone(&self.held));
        let (fold, bounds) = self.form.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let packed = spawn_blocking(move || {
            let (bytes, length) = packed(source.as_ref(), &fold, bounds, format)?;
            let packed = Arc::new(Packed::new(bytes, length, held));
            latest.form = Some(format);
            latest.packed = Arc::downgrade(&packed);
            Ok::<_, ExportError>(packed)
        });
        Ok(sent(packed.await??))
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

fn sent(packed: Arc<Packed>) -> (Bytes, u64) {
    let length = packed.length;
    (Bytes::from_owner(Shared(packed)), length)
}

/// Packs text as it is written, so that it is never there as a whole. Lines repeat each other: the fastest level leaves
/// little.
struct Packer {
    text: String,
    packer: GzEncoder<Vec<u8>>,
    length: u64,
    failed: Option<io::Error>,
}

impl Packer {
    fn new() -> Self {
        let packer = GzEncoder::new(Vec::new(), Compression::fast());
        Self { text: String::with_capacity(PIECE + LONG), packer, length: 0, failed: None }
    }

    fn pack(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.length += bytes.len() as u64;
        self.packer.write_all(bytes)
    }

    fn pack_text(&mut self) -> io::Result<()> {
        let mut text = std::mem::take(&mut self.text);
        let packed = self.pack(text.as_bytes());
        text.clear();
        self.text = text;
        packed
    }

    fn finish(mut self) -> io::Result<(Vec<u8>, u64)> {
        self.pack_text()?;
        let mut bytes = self.packer.finish()?;
        bytes.shrink_to_fit();
        Ok((bytes, self.length))
    }
}

impl fmt::Write for Packer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let packed = if text.len() >= LONG {
            self.pack_text().and_then(|()| self.pack(text.as_bytes()))
        } else {
            self.text.push_str(text);
            if self.text.len() < PIECE { Ok(()) } else { self.pack_text() }
        };
        packed.map_err(|error| {
            self.failed = Some(error);
            fmt::Error
        })
    }
}

fn packed(
    source: &dyn Source,
    fold: &Fold,
    bounds: Bounds,
    format: Format,
) -> Result<(Vec<u8>, u64), ExportError> {
    let start = Instant::now();
    let (figures, status) = source.scrape();
    let figures = figures.inspect_err(|error| tracing::warn!(%error, "probes could not be read"));
    let read_seconds = start.elapsed().as_secs_f64();
    let vfs = source.vf_counters();
    let scrape = Scrape { figures: figures.as_ref().ok(), status: &status, vfs: &vfs, read_seconds };
    let families = families::families(&scrape, fold);
    let mut packer = Packer::new();
    let written = match format {
        Format::Text => prometheus::write(&mut packer, &families, bounds),
        Format::OpenMetrics => {
            openmetrics::write(&mut packer, &families, bounds, &status.began).map_err(ExportError::Line)
        }
        Format::Protobuf => protobuf::messages(&families, bounds, &status.began)
            .try_for_each(|message| packer.pack(&message))
            .map_err(ExportError::Compress),
    };
    if let Some(error) = packer.failed.take() {
        return Err(ExportError::Compress(error));
    }
    written?;
    packer.finish().map_err(ExportError::Compress)
}
