//! A session as lines of text, and back. Pure.

mod decode;
pub(in crate::session) mod encode;

pub(in crate::session) use decode::decode_with_ids;
pub use decode::{DecodeError, decode};
pub use encode::Encoder;

#[cfg(test)]
mod tests;
