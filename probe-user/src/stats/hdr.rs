//! Kernel buckets as HdrHistogram values, and back: in memory for quantiles, as V2 text for files.
//!
//! A kernel bucket is recorded as its middle. HdrHistogram with three significant figures cuts every power of two
//! into 1024 parts, the kernel into 16, so a middle always comes back to the bucket it stands for: counts per
//! bucket survive the way through a file exactly. Sum, minimum and maximum do not, and are kept beside it.

use super::Histogram;
use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::read::ZlibDecoder;
use hdrhistogram::{
    Histogram as Hdr,
    serialization::{Deserializer, Serializer, V2DeflateSerializer},
};
use probe_ebpf::hist;
use std::io::Read;

/// Significant figures kept (0.1 %), far below the 3.125 % of a kernel bucket.
pub const SIGNIFICANT_FIGURES: u8 = 3;

/// Largest uncompressed form accepted: 27 octaves of 1024 counts of at most 9 bytes, and the header.
const MAX_INFLATED: u64 = 512 * 1024;
/// `V2CompressedEncodingCookieBase | 0x10` of HdrHistogram's V2 encoding.
const COOKIE_COMPRESSED: u32 = 0x1c84_9314;
/// `V2EncodingCookieBase | 0x10`.
const COOKIE_PLAIN: u32 = 0x1c84_9313;
const HEADER_BYTES: usize = 40;

/// A text that is not an HdrHistogram this program can read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HdrError {
    /// Not base64.
    #[error("histogram is not base64")]
    NotBase64,
    /// Not the compressed V2 encoding.
    #[error("histogram is not in HdrHistogram's compressed V2 encoding")]
    NotV2,
    /// Its parameters are not the ones written by vfprobe.
    #[error("histogram has other parameters than 1..={} with {SIGNIFICANT_FIGURES} figures", hist::MAX_VALUE)]
    OtherParameters,
    /// The compressed part or the counts are damaged.
    #[error("histogram is damaged: {0}")]
    Damaged(String),
}

/// The value that stands for a kernel bucket: at most 3.125 % from any value in it.
#[must_use]
pub fn middle(bucket: usize) -> u64 {
    let (lower, upper) = (hist::lower(bucket), hist::upper(bucket));
    lower + (upper - lower).div_ceil(2)
}

/// An HdrHistogram with every bucket's count at its middle.
#[must_use]
pub fn to_hdr(histogram: &Histogram) -> Hdr<u64> {
    let mut hdr = empty();
    for (bucket, count) in histogram.buckets() {
        hdr.saturating_record_n(middle(bucket), count);
    }
    hdr
}

fn empty() -> Hdr<u64> {
    Hdr::new_with_bounds(1, hist::MAX_VALUE, SIGNIFICANT_FIGURES).expect("constant bounds are valid")
}

/// One line of a percentile distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PercentileRow {
    /// The highest value (ns) that is not told apart from this one.
    pub value: u64,
    /// Share of the values at or below it, 0 to 1.
    pub share: f64,
    /// Their number.
    pub count: u64,
}

/// The percentile distribution as HdrHistogram's tools draw it: `ticks` lines each time that the distance to 100 % halves.
/// The second figure is the standard deviation (ns). Nothing for an empty histogram.
#[must_use]
pub fn percentile_rows(histogram: &Histogram, ticks: u32) -> (Vec<PercentileRow>, f64) {
    let hdr = to_hdr(histogram);
    let mut count = 0u64;
    let rows = hdr.iter_quantiles(ticks).map(|step| {
        count = count.saturating_add(step.count_since_last_iteration());
        PercentileRow { value: step.value_iterated_to(), share: step.quantile_iterated_to(), count }
    });
    (rows.collect(), if hdr.is_empty() { 0.0 } else { hdr.stdev() })
}

/// Counts per kernel bucket of an HdrHistogram.
#[must_use]
pub fn buckets_of(hdr: &Hdr<u64>) -> Vec<u64> {
    let mut buckets = vec![0u64; hist::BUCKETS];
    for step in hdr.iter_recorded() {
        let middle = hdr.lowest_equivalent(step.value_iterated_to());
        let slot = &mut buckets[hist::index(middle)];
        *slot = slot.saturating_add(step.count_at_value());
    }
    buckets
}

/// The V2 encoding, deflated, as base64: what the lines of HdrHistogram logs hold.
///
/// # Errors
/// A count above `i64::MAX` has no V2 encoding.
pub fn encode(histogram: &Histogram) -> Result<String, HdrError> {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new()
        .serialize(&to_hdr(histogram), &mut bytes)
        .map_err(|e| HdrError::Damaged(e.to_string()))?;
    Ok(STANDARD.encode(bytes))
}

/// Counts per kernel bucket out of the V2 text.
///
/// # Errors
/// [`HdrError`] says what is wrong; no input makes this allocate more than half a megabyte.
pub fn decode(text: &str) -> Result<Vec<u64>, HdrError> {
    let bytes = STANDARD.decode(text).map_err(|_| HdrError::NotBase64)?;
    let plain = inflate(&bytes)?;
    check_header(&plain)?;
    let hdr: Hdr<u64> = Deserializer::new()
        .deserialize(&mut plain.as_slice())
        .map_err(|e| HdrError::Damaged(e.to_string()))?;
    Ok(buckets_of(&hdr))
}

/// The inner, uncompressed V2 form. Done here and not by the deserializer, which would trust lengths in the data.
fn inflate(bytes: &[u8]) -> Result<Vec<u8>, HdrError> {
    if be_u32(bytes, 0) != Some(COOKIE_COMPRESSED) {
        return Err(HdrError::NotV2);
    }
    let length = be_u32(bytes, 4).and_then(|n| usize::try_from(n).ok()).ok_or(HdrError::NotV2)?;
    let compressed =
        bytes.get(8..).filter(|rest| rest.len() == length).ok_or_else(|| damaged("its length is wrong"))?;
    let mut plain = Vec::new();
    ZlibDecoder::new(compressed)
        .take(MAX_INFLATED + 1)
        .read_to_end(&mut plain)
        .map_err(|e| HdrError::Damaged(e.to_string()))?;
    if u64::try_from(plain.len()).is_ok_and(|n| n > MAX_INFLATED) {
        return Err(damaged("it is too long"));
    }
    Ok(plain)
}

fn check_header(plain: &[u8]) -> Result<(), HdrError> {
    let be_u64 = |at: usize| Some(u64::from(be_u32(plain, at)?) << 32 | u64::from(be_u32(plain, at + 4)?));
    if be_u32(plain, 0) != Some(COOKIE_PLAIN) || plain.len() < HEADER_BYTES {
        return Err(HdrError::NotV2);
    }
    let payload = be_u32(plain, 4).and_then(|n| usize::try_from(n).ok());
    if payload != Some(plain.len() - HEADER_BYTES) {
        return Err(damaged("its payload is cut off"));
    }
    let parameters = (be_u32(plain, 12), be_u64(16), be_u64(24));
    if parameters != (Some(u32::from(SIGNIFICANT_FIGURES)), Some(1), Some(hist::MAX_VALUE)) {
        return Err(HdrError::OtherParameters);
    }
    Ok(())
}

fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

fn damaged(what: &str) -> HdrError {
    HdrError::Damaged(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_middle_stays_in_its_bucket_through_hdr() {
        let hdr = empty();
        for bucket in 0..hist::BUCKETS {
            let m = middle(bucket);
            assert_eq!(hist::index(m), bucket);
            for seen in [hdr.lowest_equivalent(m), hdr.highest_equivalent(m), hdr.median_equivalent(m)] {
                assert_eq!(hist::index(seen), bucket, "{seen} of bucket {bucket}");
            }
            assert_eq!(hdr.lowest_equivalent(m), m, "middles are exact in HdrHistogram");
        }
    }

    #[test]
    fn refuses_what_it_did_not_write() {
        let good = encode(&Histogram::default()).unwrap();
        assert!(decode(&good).is_ok());
        let other = {
            let mut h = Hdr::<u64>::new_with_bounds(1, 1000, 2).unwrap();
            h.record(5).unwrap();
            let mut bytes = Vec::new();
            V2DeflateSerializer::new().serialize(&h, &mut bytes).unwrap();
            STANDARD.encode(bytes)
        };
        for (text, expected) in [
            ("%", HdrError::NotBase64),
            ("", HdrError::NotV2),
            ("AAAAAAAA", HdrError::NotV2),
            (&other, HdrError::OtherParameters),
        ] {
            assert_eq!(decode(text), Err(expected), "{text}");
        }
        assert!(matches!(decode(&good[..good.len() - 4]), Err(HdrError::Damaged(_))));
    }

    #[test]
    fn starts_as_hdrhistogram_logs_do() {
        // Every V2 deflated log line of any HdrHistogram implementation starts like this.
        assert!(encode(&Histogram::default()).unwrap().starts_with("HISTFAAA"));
    }

    proptest! {
        #[test]
        fn counts_per_bucket_survive_the_text(
            counts in proptest::collection::vec((0..hist::BUCKETS, 1u64..1 << 40), 0..60)
        ) {
            let mut buckets = vec![0u64; hist::BUCKETS];
            for (bucket, count) in counts {
                buckets[bucket] += count;
            }
            let histogram = Histogram::from_parts(&buckets, 0, None, None, 0).unwrap();
            prop_assert_eq!(decode(&encode(&histogram).unwrap()).unwrap(), buckets);
        }

        #[test]
        fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&STANDARD.encode(bytes));
        }

        #[test]
        fn damaged_texts_do_not_panic(at in 0usize..120, with: u8, values in proptest::collection::vec(1u64..1 << 36, 1..50)) {
            let mut histogram = Histogram::default();
            values.iter().for_each(|v| histogram.record(*v));
            let mut bytes = STANDARD.decode(encode(&histogram).unwrap()).unwrap();
            let at = at % bytes.len();
            bytes[at] = with;
            let _ = decode(&STANDARD.encode(bytes));
        }

        #[test]
        fn damaged_counts_do_not_panic(counts in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut plain = Vec::new();
            plain.extend(COOKIE_PLAIN.to_be_bytes());
            plain.extend(u32::try_from(counts.len()).unwrap().to_be_bytes());
            plain.extend(0u32.to_be_bytes());
            plain.extend(3u32.to_be_bytes());
            plain.extend(1u64.to_be_bytes());
            plain.extend(hist::MAX_VALUE.to_be_bytes());
            plain.extend(1f64.to_be_bytes());
            plain.extend(counts);
            let mut deflated = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut deflated, &plain).unwrap();
            let deflated = deflated.finish().unwrap();
            let mut bytes = COOKIE_COMPRESSED.to_be_bytes().to_vec();
            bytes.extend(u32::try_from(deflated.len()).unwrap().to_be_bytes());
            bytes.extend(deflated);
            let _ = decode(&STANDARD.encode(bytes));
        }
    }
}
