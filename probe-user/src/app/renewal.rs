//! Fresh maps for probes that run for months: entries of guests that are gone are not given back one by one, and maps
//! cannot grow with the host.

use super::observe::{Observer, sizes_for};
use crate::bpf::LoadError;
use crate::host::HostRoot;
use crate::model::topology::Topology;
use crate::probes::{MapReader, PROBES, ReadError};
use probe_ebpf::control::Table;
use std::collections::BTreeSet;

/// How far a table is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fill {
    size: u32,
    /// What it would be made for now.
    wanted: u32,
    used: u32,
    /// Of these: of guests that are there.
    live: u32,
}

impl Fill {
    fn of(size: u32, wanted: u32, entries: impl Iterator<Item = bool>) -> Self {
        let (mut used, mut live) = (0, 0);
        for is_live in entries {
            used += 1;
            live += u32::from(is_live);
        }
        Self { size, wanted, used, live }
    }

    /// Whether it is three quarters full, and a new one would have more room: a quarter of what is in it is of guests
    /// that are gone, or it would be larger.
    fn renewal_helps(self) -> bool {
        let Self { size, wanted, used, live } = self;
        let quarters = |n: u32| u64::from(n) * 4;
        quarters(used) >= u64::from(size) * 3
            && (wanted > size || quarters(used.saturating_sub(live)) >= u64::from(used))
    }
}

impl Observer {
    /// Whether some table is nearly full, and fresh ones would have more room.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn is_crowded(&self, topology: &Topology) -> Result<bool, ReadError> {
        let maps = self.loaded.maps();
        let guests: BTreeSet<u32> = topology.guests.iter().map(|guest| guest.pid.0).collect();
        let live = |tgid: u32| guests.contains(&tgid);
        let of = |table, owner: &dyn Fn(u32) -> Result<u32, ReadError>| -> Result<Vec<bool>, ReadError> {
            (0..maps.used(table)?).map(|index| owner(index).map(live)).collect()
        };
        let (sizes, wanted) = (self.sizes, sizes_for(topology));
        let vcpus: Vec<bool> = maps.vcpus()?.iter().map(|(_, vcpu)| live(vcpu.tgid)).collect();
        let slots = of(Table::Slots, &|index| Ok(maps.slot(index)?.owner))?;
        let deliveries = of(Table::Deliveries, &|index| Ok(maps.delivery(index)?.tgid))?;
        let exits = of(Table::Exits, &|index| Ok(maps.exit(index)?.tgid))?;
        // Owners are told anew each time: all of them are of guests that are there.
        let owned = topology.guests.iter().map(|guest| guest.vfs.len()).sum();
        Ok([
            Fill::of(sizes.slots, wanted.slots, std::iter::repeat_n(true, owned)),
            Fill::of(sizes.vcpus, wanted.vcpus, vcpus.into_iter()),
            Fill::of(sizes.slots, wanted.slots, slots.into_iter()),
            Fill::of(sizes.deliveries, wanted.deliveries, deliveries.into_iter()),
            Fill::of(sizes.exits, wanted.exits, exits.into_iter()),
        ]
        .into_iter()
        .any(Fill::renewal_helps))
    }

    /// Another observer with fresh maps, attached beside this one, that has not been opened yet. It knows what this one
    /// knows of interrupts; vCPUs it learns at their next guest entries.
    ///
    /// # Errors
    /// [`LoadError`]; this one goes on.
    pub fn renewed(&self, root: &HostRoot, topology: &Topology) -> Result<Self, LoadError> {
        let mut next = Self::start(root, topology)?;
        next.guard(&topology.promised())?;
        let irqs: Vec<u32> = topology.vfs().flat_map(|vf| &vf.slots).map(|slot| slot.irq.0).collect();
        next.loaded.adopt(&self.loaded, &irqs)?;
        for (probe, report) in PROBES.iter().zip(self.reports()) {
            if let Some(cost) = self.cost(report) {
                next.spent.insert(probe.name, cost);
            }
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_renewed_when_that_makes_room() {
        for (size, wanted, used, live, expected) in [
            (64, 64, 47, 0, false),
            (64, 64, 48, 36, true),
            (64, 64, 48, 37, false),
            (64, 64, 64, 49, false),
            (64, 64, 64, 48, true),
            // A host that has grown.
            (64, 80, 48, 48, true),
            (64, 80, 40, 40, false),
            (8192, 8192, 8192, 8192, false),
        ] {
            let entries = (0..used).map(|n| n < live);
            let fill = Fill::of(size, wanted, entries);
            assert_eq!((fill.used, fill.live), (used, live));
            assert_eq!(fill.renewal_helps(), expected, "{fill:?}");
        }
    }
}
