//! Signs: what happens rarely, and has a controller look at the host. Each is counted; the bell beside the counts wakes
//! whoever waits for them.

/// What has happened. Indices of the map `SIGNS`, which counts how often.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// An interrupt was enabled, or that of a VF was freed or came for the first time, or a vCPU's thread entered its guest
    /// for the first time.
    Setup = 0,
    /// A vector went to another vCPU than the time before.
    Destination = 1,
}

/// Number of signs.
pub const SIGNS: u32 = 2;

#[cfg(target_arch = "bpf")]
mod bpf {
    use super::{SIGNS as KINDS, Sign};
    use crate::kernel::{add, element};
    use aya_ebpf::{
        macros::map,
        maps::{Array, RingBuf},
    };

    #[map]
    static SIGNS: Array<u64> = Array::with_max_entries(KINDS, 0);

    /// 1 = somebody waits for the bell; written by user space.
    #[map]
    static BELL_HEARD: Array<u32> = Array::with_max_entries(1, 0);

    /// A record says nothing but that some count has changed; each wakes the reader who has taken all before.
    #[map]
    static BELL: RingBuf = RingBuf::with_byte_size(4096, 0);

    /// Counts a sign, and rings. A ring without room has rung and was not emptied yet: whoever empties it looks at the
    /// counts after that, so nothing is lost.
    #[inline(never)]
    fn count(sign: u32) -> u32 {
        if let Some(count) = element(&SIGNS, sign) {
            add(count, 1);
        }
        if element(&BELL_HEARD, 0).is_some_and(|heard| *heard != 0) {
            let _ = BELL.output::<u64>(&0, 0);
        }
        0
    }

    #[inline(always)]
    pub(crate) fn sign(sign: Sign) {
        count(sign as u32);
    }
}

#[cfg(target_arch = "bpf")]
pub(crate) use bpf::sign;
