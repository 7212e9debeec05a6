//! The histogram that every probe fills: which bucket a value belongs to, and which values a bucket holds.
//!
//! Pure and shared by both sides. Knows nothing of maps, probes or time.
//!
//! Log-linear: values up to [`LINEAR`] ns have a bucket each, then every power of two is cut into [`SUB`] equal
//! parts. A bucket is `(lower, upper]`, upper bound inclusive as Prometheus' `le` has it, so a cumulative count at
//! any power of two is exact. A bucket's width is at most 1/16 of its lower bound, so its middle is at most 3.125 %
//! from any value in it.

/// Parts per power of two.
pub const SUB: u64 = 1 << SUB_BITS;
const SUB_BITS: u32 = 4;
/// Values from 1 to this have a bucket each (0 shares the first with 1).
pub const LINEAR: u64 = 2 * SUB;
/// Largest exponent: the last regular bucket ends at `2^MAX_BITS` ns (68.7 s).
pub const MAX_BITS: u32 = 36;
/// Number of buckets. Values above [`MAX_VALUE`] land in the last one and are counted as over range as well.
pub const BUCKETS: usize = (LINEAR + SUB * (MAX_BITS as u64 - SUB_BITS as u64 - 1)) as usize;
/// Largest value (ns) with a bucket of its own.
pub const MAX_VALUE: u64 = 1 << MAX_BITS;

/// The bucket of `value`, always below [`BUCKETS`].
#[inline(always)]
#[must_use]
pub fn index(value: u64) -> usize {
    // Shifting the values down by one makes upper bounds inclusive.
    let v = if value == 0 { 0 } else { value - 1 };
    if v < LINEAR {
        return v as usize;
    }
    if v >= MAX_VALUE {
        return BUCKETS - 1;
    }
    let exponent = log2(v);
    let shift = exponent - SUB_BITS;
    // `v >> shift` lies in SUB..2*SUB; the octave number places it.
    ((shift as u64) * SUB + (v >> shift)) as usize
}

/// Position of the highest set bit of a non-zero value. Written out: BPF has no instruction for it, and the
/// compiler's own expansion needs a 64-bit multiplication table.
#[inline(always)]
fn log2(mut v: u64) -> u32 {
    let mut r = 0;
    if v >= 1 << 32 {
        v >>= 32;
        r += 32;
    }
    if v >= 1 << 16 {
        v >>= 16;
        r += 16;
    }
    if v >= 1 << 8 {
        v >>= 8;
        r += 8;
    }
    if v >= 1 << 4 {
        v >>= 4;
        r += 4;
    }
    if v >= 1 << 2 {
        v >>= 2;
        r += 2;
    }
    if v >= 1 << 1 {
        r += 1;
    }
    r
}

/// Largest value of a bucket, inclusive (ns).
#[must_use]
pub fn upper(bucket: usize) -> u64 {
    let b = bucket as u64;
    if b < LINEAR {
        return b + 1;
    }
    let shift = b / SUB - 1;
    (b % SUB + SUB + 1) << shift
}

/// The value below a bucket's first one: values `v` of the bucket satisfy `lower(b) < v <= upper(b)`.
/// (Bucket 0 also holds the value 0.)
#[must_use]
pub fn lower(bucket: usize) -> u64 {
    if bucket == 0 { 0 } else { upper(bucket - 1) }
}

/// A histogram as it stands in a map. All counters only grow.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Hist {
    /// Exact sum of all values (ns).
    pub sum: u64,
    /// Exact maximum (ns).
    pub max: u64,
    /// `u64::MAX - minimum`, so that a zeroed map needs no initialisation.
    pub inverted_min: u64,
    /// Values above [`MAX_VALUE`]; they are also in the last bucket.
    pub over: u64,
    /// Counts per bucket.
    pub buckets: [u64; BUCKETS],
}

const _: () = assert!(size_of::<Hist>() == 32 + 8 * BUCKETS);
const _: () = assert!(BUCKETS == 528);

impl Hist {
    /// No values yet.
    pub const EMPTY: Self = Self { sum: 0, max: 0, inverted_min: 0, over: 0, buckets: [0; BUCKETS] };

    /// Adds one value. Only one CPU at a time may write a given histogram.
    #[inline(always)]
    pub fn record(&mut self, value: u64) {
        self.sum = self.sum.wrapping_add(value);
        if value > self.max {
            self.max = value;
        }
        let inverted = u64::MAX - value;
        if inverted > self.inverted_min {
            self.inverted_min = inverted;
        }
        if value > MAX_VALUE {
            self.over += 1;
        }
        let i = index(value);
        if let Some(bucket) = self.buckets.get_mut(i) {
            *bucket += 1;
        }
    }
}

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, only u64 fields, no padding (asserted above), every bit pattern is valid.
unsafe impl aya::Pod for Hist {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_each_other_without_gap() {
        for b in 1..BUCKETS {
            assert!(upper(b) > upper(b - 1), "bucket {b}");
            assert_eq!(index(lower(b) + 1), b, "first value of bucket {b}");
            assert_eq!(index(upper(b)), b, "last value of bucket {b}");
        }
        assert_eq!(upper(BUCKETS - 1), MAX_VALUE);
    }

    #[test]
    fn known_values() {
        for (value, bucket) in
            [(0, 0), (1, 0), (2, 1), (32, 31), (33, 32), (34, 32), (35, 33), (64, 47), (65, 48)]
        {
            assert_eq!(index(value), bucket, "value {value}");
        }
    }

    #[test]
    fn powers_of_two_end_a_bucket() {
        for bits in 0..=MAX_BITS {
            let v = 1u64 << bits;
            assert_eq!(upper(index(v)), v);
        }
    }

    proptest! {
        #[test]
        fn the_middle_is_within_the_stated_error(value in 1..=MAX_VALUE) {
            let b = index(value);
            prop_assert!(lower(b) < value && value <= upper(b));
            let middle = (lower(b) + 1 + upper(b)) as f64 / 2.0;
            prop_assert!((middle - value as f64).abs() / value as f64 <= 0.032);
        }

        #[test]
        fn log2_agrees_with_the_standard_library(value in 1..=u64::MAX) {
            prop_assert_eq!(log2(value), value.ilog2());
        }

        #[test]
        fn any_value_has_a_bucket(value: u64) {
            prop_assert!(index(value) < BUCKETS);
        }
    }
}
