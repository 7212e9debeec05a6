//! Answers on their way. Those of a scrape are kept compressed, whatever the client takes: they are some twenty times as
//! small, and a client that does not read must not hold what is large.

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use hyper::body::{Body, Frame, SizeHint};
use std::{
    io::{self, Cursor, Read as _},
    pin::Pin,
    task::{Context, Poll},
};

/// How much is unpacked at once.
const PIECE: usize = 64 * 1024;

/// What is sent behind a head.
pub(super) enum Answer {
    /// As it stands.
    Whole(Bytes),
    /// To be unpacked, piece by piece as the client takes it.
    Packed {
        packed: Box<GzDecoder<Cursor<Bytes>>>,
        /// Bytes still to come.
        left: u64,
    },
}

impl Answer {
    /// The text of `length` bytes that was packed by gzip.
    pub(super) fn unpacked(packed: Bytes, length: u64) -> Self {
        Self::Packed { packed: Box::new(GzDecoder::new(Cursor::new(packed))), left: length }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let piece = match &mut *self {
            Self::Whole(whole) => Ok(std::mem::take(whole)),
            Self::Packed { packed, left } => {
                let mut piece = vec![0; usize::try_from(*left).map_or(PIECE, |left| left.min(PIECE))];
                packed.read_exact(&mut piece).map(|()| {
                    *left -= piece.len() as u64;
                    Bytes::from(piece)
                })
            }
        };
        Poll::Ready(Some(piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.size_hint().exact() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Whole(whole) => whole.len() as u64,
            Self::Packed { left, .. } => *left,
        })
    }
}
