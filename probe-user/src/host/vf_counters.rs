//! Counters of VFs, from the drivers of their PFs.
//!
//! Packets of a VF pass the host by, so its PF's driver is the only one to ask.

use super::{
    HostError,
    netlink::LinkSocket,
    reader::{is_gone, one_line},
    vf_message::{Answer, LinkVfs, parse},
};
use crate::model::{
    PciAddress,
    topology::{Topology, Vf},
    vf_counters::VfCounters,
};
use std::{collections::BTreeMap, io};

/// What the PFs' drivers count, and what went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VfReadings {
    /// Counters by the VF's address. A VF that its PF's driver tells nothing of is missing.
    pub counters: BTreeMap<PciAddress, VfCounters>,
    /// Hardware addresses as their PFs know them, by the VF's address; all zeroes where the guest chooses its own.
    pub macs: BTreeMap<PciAddress, [u8; 6]>,
    /// What could not be read, one line each.
    pub problems: Vec<String>,
}

/// Reads the counters of all VFs of a topology, one question for each PF. Needs no privilege; it waits while the
/// kernel's network configuration is locked.
#[must_use]
pub fn read_vf_counters(topology: &Topology) -> VfReadings {
    let mut socket = None;
    collect(topology, |netdev| {
        // Opened by the first question: most hosts without VFs need none.
        match &socket {
            Some(socket) => LinkSocket::ask(socket, netdev),
            None => socket.insert(LinkSocket::open()?).ask(netdev),
        }
    })
}

fn collect(topology: &Topology, mut ask: impl FnMut(&str) -> io::Result<Vec<u8>>) -> VfReadings {
    let mut of_pf: BTreeMap<&str, Vec<&Vf>> = BTreeMap::new();
    for vf in topology.vfs() {
        // Without an interface there is nobody to ask; a driver of its own, such as vfio-pci, has the PF.
        if let Some(netdev) = &vf.pf_netdev {
            of_pf.entry(netdev).or_default().push(vf);
        }
    }
    let mut readings = VfReadings::default();
    for (netdev, vfs) in of_pf {
        match answer(netdev, &mut ask) {
            Ok(Some(told)) => {
                // The list's length has 16 bits, so some 200 VFs fill it; what is beyond is lost on the way.
                let (n, announced) = (told.counters.len(), told.announced);
                if n > 0 && u32::try_from(n).is_ok_and(|n| n < announced) {
                    let text =
                        format!("VF counters of {netdev}: the kernel told of {n} of its {announced} VFs");
                    readings.problems.push(text);
                }
                for vf in vfs {
                    let Some(index) = vf.index else { continue };
                    readings.counters.extend(told.counters.get(&index.0).map(|read| (vf.address, *read)));
                    readings.macs.extend(told.macs.get(&index.0).map(|mac| (vf.address, *mac)));
                }
            }
            // The interface has gone since the topology was read.
            Ok(None) => {}
            Err(error) => readings.problems.push(one_line(&error)),
        }
    }
    readings
}

/// What is told of an interface's VFs; `None` when it is gone.
fn answer(
    netdev: &str,
    ask: &mut impl FnMut(&str) -> io::Result<Vec<u8>>,
) -> Result<Option<LinkVfs>, HostError> {
    let asked = ask(netdev).map_err(|source| HostError::Ask { netdev: netdev.to_owned(), source })?;
    match parse(&asked).map_err(|source| HostError::Answer { netdev: netdev.to_owned(), source })? {
        Answer::Vfs(vfs) => Ok(Some(vfs)),
        Answer::Refused(code) => match io::Error::from_raw_os_error(code) {
            error if is_gone(&error) => Ok(None),
            source => Err(HostError::Ask { netdev: netdev.to_owned(), source }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{
        fixture::{LAB, Tree},
        read_topology,
        vf_message::tests::{entry, pf},
    };
    use std::num::NonZeroU64;

    /// An 82576 with four VFs, number n at 02:10.<2n>; its interface has another name in each capture.
    fn lab() -> (Topology, String) {
        let topology = read_topology(&Tree::captured(LAB).root());
        let netdev = topology.vfs().find_map(|vf| vf.pf_netdev.clone()).unwrap();
        (topology, netdev)
    }

    #[test]
    fn each_pf_is_asked_once_and_numbers_become_addresses() {
        let (topology, netdev) = lab();
        let mut asked = Vec::new();
        let readings = collect(&topology, |name| {
            asked.push(name.to_owned());
            Ok(pf(
                4,
                &[entry(0, &[(0, 10)]), entry(1, &[(0, 0)]), entry(2, &[(0, 12)]), entry(3, &[(0, 13)])],
            ))
        });
        assert_eq!((asked, readings.problems.len()), (vec![netdev], 0));
        let expected: BTreeMap<_, _> = topology
            .vfs()
            .map(|vf| {
                let n = vf.index.unwrap().0;
                let rx_packets = NonZeroU64::new(if n == 1 { 0 } else { u64::from(n) + 10 });
                (vf.address, VfCounters { rx_packets, ..VfCounters::default() })
            })
            .collect();
        assert_eq!((&readings.counters, expected.len()), (&expected, 4));
        assert_eq!(readings.macs.values().collect::<Vec<_>>(), [&[0x52; 6]; 4]);
        let reported = readings.counters.values().filter(|counters| counters.reported());
        assert_eq!(reported.count(), 3);
    }

    #[test]
    fn what_goes_wrong_is_said_in_one_line() {
        let (topology, netdev) = lab();
        let refused = |code: i32| {
            let mut bytes = [36_u32.to_ne_bytes(), [0; 4], [0; 4], [0; 4], (-code).to_ne_bytes()].concat();
            bytes[4..6].copy_from_slice(&2_u16.to_ne_bytes());
            bytes.resize(36, 0);
            bytes
        };
        for (answer, known, expected) in [
            (Ok(pf(4, &[])), 0, None),
            (Ok(refused(19)), 0, None),
            (Ok(refused(1)), 0, Some("Operation not permitted (os error 1)")),
            (Err(io::Error::from_raw_os_error(24)), 0, Some("Too many open files (os error 24)")),
            (Ok(pf(4, &[entry(1, &[])])), 1, Some("the kernel told of 1 of its 4 VFs")),
            (
                Ok(pf(1, &[vec![]])),
                0,
                Some(
                    "the kernel's answer is malformed: entry 0 of IFLA_VFINFO_LIST: no IFLA_VF_MAC, so no VF number",
                ),
            ),
        ] {
            let mut answer = Some(answer);
            let readings = collect(&topology, |_| answer.take().unwrap());
            let problems: Vec<String> =
                expected.iter().map(|text| format!("VF counters of {netdev}: {text}")).collect();
            assert_eq!((readings.problems, readings.counters.len()), (problems, known));
        }
    }

    #[test]
    fn a_pf_without_an_interface_is_not_asked() {
        let (mut topology, _) = lab();
        topology.vfs_mut().for_each(|vf| vf.pf_netdev = None);
        assert_eq!(collect(&topology, |name| panic!("{name} was asked")), VfReadings::default());
    }
}
