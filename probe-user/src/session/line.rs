//! The outer form of a line: `crc32 JSON`, so that any damage is seen, and `cut -c10- | jq` reads the rest.

/// Length of the checksum and the space behind it.
const PREFIX: usize = 9;

/// A line with its checksum and newline.
#[must_use]
pub(super) fn seal(json: &str) -> String {
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()))
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It does not begin with a checksum.
    #[error("it does not begin with a checksum of eight hexadecimal digits")]
    NoChecksum,
    /// Its checksum does not fit.
    #[error("checksum is {found:08x}, its text has {computed:08x}")]
    Checksum {
        /// As written.
        found: u32,
        /// As computed.
        computed: u32,
    },
    /// It is not UTF-8.
    #[error("it is not UTF-8")]
    NotText,
}

/// The JSON of a line without its newline.
pub(super) fn open(line: &[u8]) -> Result<&str, LineError> {
    let (prefix, json) = line.split_at_checked(PREFIX).ok_or(LineError::NoChecksum)?;
    let digits = std::str::from_utf8(&prefix[..PREFIX - 1]).map_err(|_| LineError::NoChecksum)?;
    let lower_hex = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if prefix[PREFIX - 1] != b' ' || !lower_hex {
        return Err(LineError::NoChecksum);
    }
    let found = u32::from_str_radix(digits, 16).map_err(|_| LineError::NoChecksum)?;
    let computed = crc32fast::hash(json);
    if found != computed {
        return Err(LineError::Checksum { found, computed });
    }
    std::str::from_utf8(json).map_err(|_| LineError::NotText)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seals_and_opens() {
        // CRC-32 (IEEE 802.3) of "123456789" is the check value cbf43926.
        assert_eq!(seal("123456789"), "cbf43926 123456789\n");
        assert_eq!(open(b"cbf43926 123456789"), Ok("123456789"));
    }

    #[test]
    fn damage_is_named() {
        for (line, error) in [
            (&b""[..], LineError::NoChecksum),
            (b"cbf43926", LineError::NoChecksum),
            (b"cbf43926_123456789", LineError::NoChecksum),
            (b"+bf43926 123456789", LineError::NoChecksum),
            (b"CBF43926 123456789", LineError::NoChecksum),
            (b"cbf43926 123456780", LineError::Checksum { found: 0xcbf4_3926, computed: 0xb298_8dcf }),
        ] {
            match (open(line), error) {
                (Err(LineError::Checksum { found, .. }), LineError::Checksum { found: expected, .. }) => {
                    assert_eq!(found, expected);
                }
                (result, error) => assert_eq!(result, Err(error), "{}", String::from_utf8_lossy(line)),
            }
        }
        let sealed = seal("\u{fffd}");
        let mut bytes = sealed.trim_end().as_bytes().to_vec();
        bytes.truncate(PREFIX + 1);
        let crc = format!("{:08x}", crc32fast::hash(&bytes[PREFIX..]));
        bytes[..8].copy_from_slice(crc.as_bytes());
        assert_eq!(open(&bytes), Err(LineError::NotText));
    }
}
