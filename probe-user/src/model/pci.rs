//! PCI addresses, `domain:bus:device.function`.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Address of a PCI function. Ordered as the kernel lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PciAddress {
    /// PCI segment.
    pub domain: u16,
    /// Bus number.
    pub bus: u8,
    /// Device number, 0-31.
    pub device: u8,
    /// Function number, 0-7.
    pub function: u8,
}

/// A text that is not a PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a PCI address (expected 0000:01:10.0)")]
pub struct NotAPciAddress(pub String);

impl PciAddress {
    /// The address as one number, `domain << 16 | bus << 8 | devfn`: the form the BPF side uses.
    #[must_use]
    pub fn packed(self) -> u32 {
        u32::from(self.domain) << 16
            | u32::from(self.bus) << 8
            | u32::from(self.device & 0x1f) << 3
            | u32::from(self.function & 7)
    }

    /// Inverse of [`PciAddress::packed`].
    #[must_use]
    pub fn from_packed(packed: u32) -> Self {
        let [domain_hi, domain_lo, bus, devfn] = packed.to_be_bytes();
        Self {
            domain: u16::from_be_bytes([domain_hi, domain_lo]),
            bus,
            device: devfn >> 3,
            function: devfn & 7,
        }
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

impl FromStr for PciAddress {
    type Err = NotAPciAddress;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (domain, rest) = s.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            let hex = |t: &str, len: usize| {
                (t.len() == len && t.bytes().all(|b| b.is_ascii_hexdigit()))
                    .then(|| u16::from_str_radix(t, 16).ok())
                    .flatten()
            };
            Some(Self {
                domain: hex(domain, 4)?,
                bus: u8::try_from(hex(bus, 2)?).ok()?,
                device: u8::try_from(hex(device, 2)?).ok().filter(|d| *d < 32)?,
                function: u8::try_from(hex(function, 1)?).ok().filter(|f| *f < 8)?,
            })
        };
        parse().ok_or_else(|| NotAPciAddress(s.to_owned()))
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for PciAddress {
    type Error = NotAPciAddress;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_the_kernel_prints_and_nothing_else() {
        let address = PciAddress { domain: 0, bus: 1, device: 0x10, function: 2 };
        assert_eq!("0000:01:10.2".parse(), Ok(address));
        assert_eq!(address.to_string(), "0000:01:10.2");
        for bad in
            ["", "01:10.2", "0000:01:10", "0000:01:20.0", "0000:01:10.8", "0000:1:10.0", "0000:+1:10.0"]
        {
            assert!(bad.parse::<PciAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn packs_and_unpacks() {
        let address = PciAddress { domain: 0x1234, bus: 0xab, device: 0x1f, function: 7 };
        assert_eq!(address.packed(), 0x1234_abff);
        assert_eq!(PciAddress::from_packed(address.packed()), address);
    }
}
