//! The bell that the programs ring when a sign was counted (`probe_ebpf::signs`): a ring of the kernel's, of which only
//! that something is in it matters.

use super::Loaded;
use super::loader::read_error;
use crate::probes::ReadError;
use aya::maps::{Array, MapData, RingBuf};
use std::os::fd::{AsFd, BorrowedFd};

/// Readable once it has rung, until it is silenced. It rings for as long as the object lives that it was taken from.
pub struct Bell(RingBuf<MapData>);

impl Bell {
    /// Takes what has made it ring. Signs that are read after this are those that it has rung for.
    pub fn silence(&mut self) {
        while self.0.next().is_some() {}
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl std::fmt::Debug for Bell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bell").finish_non_exhaustive()
    }
}

impl Loaded {
    /// The bell, which rings from here on. There is one.
    ///
    /// # Errors
    /// When it was taken before, or cannot be mapped.
    pub fn bell(&mut self) -> Result<Bell, ReadError> {
        const NAME: &str = "BELL";
        let map = self.ebpf.take_map(NAME).ok_or_else(|| read_error(NAME, "it was taken before"))?;
        let bell = Bell(map.try_into().map_err(|e| read_error(NAME, e))?);
        // Last: a ring that nobody can read is not filled.
        let mut heard: Array<_, u32> = self.map_mut("BELL_HEARD")?;
        heard.set(0, 1, 0).map_err(|e| read_error("BELL_HEARD", e))?;
        Ok(bell)
    }
}
