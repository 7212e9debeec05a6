//! Tells `packet_path` which devices to look at. A device keeps the place of its figures as long as it is one; a place that
//! is given to another begins with zeroes.

use super::loader::{Loaded, read_error};
use crate::model::nic::PathKind;
use crate::model::path::{PathRole, Paths};
use crate::probes::{Needs, ReadError};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues};
use probe_ebpf::hist::Hist;
use probe_ebpf::probes::packet_path::{Config, Counts, Device, HOPS, Role, SMALL};
use std::collections::BTreeMap;

impl Loaded {
    /// Says which devices are on guests' paths. The programs are attached with the first of them.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn set_paths(&mut self, paths: &Paths) -> Result<(), ReadError> {
        let config = Config { netns: paths.netns, limit: self.follow_limit };
        self.path_config()?.set(0, config, 0).map_err(|e| read_error(CONFIG, e))?;
        let known = self.path_devices()?;
        let mut free = self.free_places(&known)?;
        let wanted: BTreeMap<u32, Role> = paths.devices.iter().map(|d| (d.ifindex, role(&d.role))).collect();
        for (ifindex, device) in &known {
            if wanted.get(ifindex).is_none_or(|role| !device.is(*role)) {
                self.devices()?.remove(ifindex).map_err(|e| read_error(DEVICES, e))?;
                self.set_small(*ifindex, Device::NONE)?;
                free.push(device.index());
            }
        }
        for (ifindex, role) in &wanted {
            if known.get(ifindex).is_some_and(|device| device.is(*role)) {
                continue;
            }
            // Beyond that devices have no figures; there are places for several for each guest.
            let Some(index) = free.pop() else { break };
            self.clear(index)?;
            let device = Device::new(*role, index);
            self.devices()?.insert(ifindex, device, 0).map_err(|e| read_error(DEVICES, e))?;
            self.set_small(*ifindex, device)?;
        }
        if !wanted.is_empty() {
            self.attach_late(Needs::Taps);
        }
        Ok(())
    }

    /// How many packets are followed on a CPU in each 100 ms; all when `None`.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn follow_at_most(&mut self, limit: Option<u32>) -> Result<(), ReadError> {
        let former = self.path_config()?.get(&0, 0).map_err(|e| read_error(CONFIG, e))?;
        self.follow_limit = limit.unwrap_or(0);
        let config = Config { limit: self.follow_limit, ..former };
        self.path_config()?.set(0, config, 0).map_err(|e| read_error(CONFIG, e))
    }

    fn path_config(&mut self) -> Result<Array<&mut MapData, Config>, ReadError> {
        self.map_mut(CONFIG)
    }

    fn devices(&mut self) -> Result<HashMap<&mut MapData, u32, Device>, ReadError> {
        self.map_mut(DEVICES)
    }

    fn set_small(&mut self, ifindex: u32, device: Device) -> Result<(), ReadError> {
        const NAME: &str = "PATH_SMALL";
        if ifindex >= SMALL {
            return Ok(());
        }
        let mut map: Array<_, Device> = self.map_mut(NAME)?;
        map.set(ifindex, device, 0).map_err(|e| read_error(NAME, e))
    }

    fn path_devices(&mut self) -> Result<BTreeMap<u32, Device>, ReadError> {
        self.devices()?.iter().collect::<Result<_, _>>().map_err(|e| read_error(DEVICES, e))
    }

    /// Places of figures that no device has, the lowest last.
    fn free_places(&mut self, known: &BTreeMap<u32, Device>) -> Result<Vec<u32>, ReadError> {
        let map: Array<_, Hist> = self.map_mut(HISTS)?;
        let places = map.len() / HOPS;
        Ok((0..places).rev().filter(|index| known.values().all(|device| device.index() != *index)).collect())
    }

    fn clear(&mut self, index: u32) -> Result<(), ReadError> {
        let mut hists: Array<_, Hist> = self.map_mut(HISTS)?;
        for hop in 0..HOPS {
            hists.set(index * HOPS + hop, Hist::EMPTY, 0).map_err(|e| read_error(HISTS, e))?;
        }
        const COUNTS: &str = "PATH_COUNTS";
        let mut counts: PerCpuArray<_, Counts> = self.map_mut(COUNTS)?;
        let copies = counts.get(&index, 0).map_err(|e| read_error(COUNTS, e))?.len();
        let none =
            PerCpuValues::try_from(vec![Counts::default(); copies]).map_err(|e| read_error(COUNTS, e))?;
        counts.set(index, none, 0).map_err(|e| read_error(COUNTS, e))
    }
}

const CONFIG: &str = "PATH_CONFIG";
const DEVICES: &str = "PATH_DEVICES";
const HISTS: &str = "PATH_HIST";

fn role(role: &PathRole) -> Role {
    match role {
        PathRole::Tap { path: PathKind::Macvtap, .. } => Role::Macvtap,
        PathRole::Tap { bridged: true, .. } => Role::Tap,
        PathRole::Tap { bridged: false, .. } => Role::LoneTap,
        PathRole::Bridge => Role::Bridge,
        PathRole::Uplink => Role::Uplink,
    }
}
