//! Who gets in: TLS and passwords, by a file in the format that Prometheus' own exporters have ("web config").
//!
//! The file and what it names are read when the service starts and when they change; a connection keeps what it began
//! with. Without a file everybody gets in, in the clear.

mod auth;
mod file;
mod tls;

use super::places::Peer;
use auth::Users;
use file::File;
pub use file::NotAWebConfig;
use hyper::HeaderMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use tokio_rustls::TlsAcceptor;

/// Why a web config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// A file cannot be read.
    #[error("cannot read the {what} {}: {cause}", path.display())]
    Read {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// It is no web config.
    #[error("{}: {cause}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        cause: NotAWebConfig,
    },
    /// Certificates or keys cannot be used.
    #[error("{}: {what}", path.display())]
    Tls {
        /// The file that holds them.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Passwords cannot be remembered safely.
    #[error("the kernel gives no random numbers; try again")]
    Random,
}

/// What a client has to bring, and what it gets with every answer.
#[derive(Default)]
pub struct Web {
    tls: Option<TlsAcceptor>,
    users: Option<Users>,
    headers: HeaderMap,
    stamps: Vec<Stamp>,
}

impl Web {
    /// Reads a web config and the files it names. Paths in it start at its folder.
    ///
    /// # Errors
    /// [`WebError`] names the file and, where it can, the line.
    pub fn read(path: &Path) -> Result<Self, WebError> {
        // Before the files are read: a change in between is then seen as one.
        let mut stamps = vec![Stamp::of(path)];
        let text = read("web config", path)?;
        let text = String::from_utf8_lossy(&text);
        let File { tls, users, headers } =
            file::parse(&text).map_err(|cause| WebError::Text { path: path.to_owned(), cause })?;
        let tls = tls.map(|tls| tls.below(path.parent().unwrap_or(Path::new(""))));
        stamps.extend(tls.iter().flat_map(file::Tls::files).map(Stamp::of));
        let tls = tls.as_ref().map(tls::acceptor).transpose()?;
        let users = (!users.is_empty()).then(|| Users::new(users)).transpose()?;
        Ok(Self { tls, users, headers, stamps })
    }

    /// Whether one of the files is another one now than when it was read.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.stamps.iter().any(|stamp| *stamp != Stamp::of(&stamp.path))
    }

    /// Whether connections are encrypted.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether a password is asked for.
    #[must_use]
    pub fn has_users(&self) -> bool {
        self.users.is_some()
    }

    pub(super) fn tls(&self) -> Option<&TlsAcceptor> {
        self.tls.as_ref()
    }

    /// Header lines for every answer.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Whether a request from there with these headers gets an answer.
    pub(super) async fn lets_in(&self, peer: Peer, headers: &HeaderMap) -> bool {
        match &self.users {
            None => true,
            Some(users) => users.lets_in(peer, headers).await,
        }
    }
}

/// What tells one version of a file from another.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    /// Inode, length, and when it was changed (s, ns); `None` when it is not there.
    seen: Option<(u64, u64, i64, i64)>,
}

impl Stamp {
    fn of(path: &Path) -> Self {
        let seen = fs::metadata(path).ok().map(|m| (m.ino(), m.len(), m.mtime(), m.mtime_nsec()));
        Self { path: path.to_owned(), seen }
    }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, WebError> {
    fs::read(path).map_err(|cause| WebError::Read { what, path: path.to_owned(), cause })
}
