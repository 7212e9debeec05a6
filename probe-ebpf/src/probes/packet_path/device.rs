//! A network device on a guest's path: its role, and where its figures stand.

/// Devices that can be looked at.
pub const DEVICES: u32 = 512;

/// Interface numbers below this are looked up without a hash.
pub const SMALL: u32 = 8192;

/// What a device is to guests. Values are in [`Device`]; never reused.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A guest's tap, port of a bridge: what it receives comes from the guest, what it sends goes there.
    Tap = 1,
    /// A guest's tap without a bridge: the host routes its packets.
    LoneTap = 2,
    /// A bridge with taps as ports.
    Bridge = 3,
    /// A port of such a bridge with hardware behind it.
    Uplink = 4,
    /// A guest's macvtap: what it sends comes from the guest; what goes to the guest passes no event of its own.
    Macvtap = 5,
}

/// A device in one word: its role in the upper 16 bits, the index of its figures in the lower. 0 is none.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device(pub u32);

impl Device {
    /// No device.
    pub const NONE: Self = Self(0);

    /// A device of that role whose figures stand at `index` (below [`DEVICES`]).
    #[must_use]
    pub const fn new(role: Role, index: u32) -> Self {
        Self((role as u32) << 16 | (index & 0xffff))
    }

    /// Where its figures stand.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0 & 0xffff
    }

    /// Whether it has that role.
    #[inline(always)]
    #[must_use]
    pub const fn is(self, role: Role) -> bool {
        self.0 >> 16 == role as u32
    }

    /// Whether a guest is behind it.
    #[inline(always)]
    #[must_use]
    pub const fn is_tap(self) -> bool {
        self.is(Role::Tap) || self.is(Role::LoneTap) || self.is(Role::Macvtap)
    }
}

#[cfg(feature = "user")]
// SAFETY: `repr(transparent)` over a u32.
unsafe impl aya::Pod for Device {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_and_index_share_a_word() {
        let device = Device::new(Role::Bridge, 511);
        assert_eq!((device.index(), device.is(Role::Bridge), device.is_tap()), (511, true, false));
        assert!(Device::new(Role::LoneTap, 0).is_tap() && Device::new(Role::Macvtap, 0).is_tap());
        assert!(!Device::NONE.is_tap());
        assert_ne!(Device::new(Role::Tap, 0), Device::NONE);
    }
}
