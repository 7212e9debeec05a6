//! Guests' packet paths in words, and whose path is another one after than before.

use super::assess::{Assessment, Group};
use crate::model::nic::{Nic, PathKind};
use crate::model::topology::{Guest, Topology};

/// How a guest's packets get to the network: `virtio-net + bridge`, `VF`; several cards joined by commas, each kind once.
#[must_use]
pub fn of_guest(guest: &Guest) -> String {
    let vfs = guest.vfs.iter().map(|_| "VF".to_owned());
    let mut words: Vec<String> = guest.nics.iter().map(of_nic).chain(vfs).collect();
    words.sort();
    let mut told: Vec<String> = Vec::new();
    for one in words.chunk_by(PartialEq::eq) {
        told.push(if one.len() == 1 { one[0].clone() } else { format!("{} of {}", one.len(), one[0]) });
    }
    if told.is_empty() { "no card that the host knows".to_owned() } else { told.join(", ") }
}

fn of_nic(nic: &Nic) -> String {
    let card = match nic.path {
        PathKind::Macvtap => return "macvtap".to_owned(),
        PathKind::Emulated => nic.card.clone().unwrap_or_else(|| "emulated card".to_owned()),
        PathKind::Virtio => "virtio-net".to_owned(),
        PathKind::Vhost => "vhost-net".to_owned(),
        PathKind::Tap => "tap".to_owned(),
    };
    if nic.bridge.is_some() { format!("{card} + bridge") } else { format!("{card}, no bridge") }
}

/// The host as it was when the first run of a group began.
pub(super) fn topology<'a>(group: &Group<'a>) -> Option<&'a Topology> {
    group.runs.iter().find_map(|run| run.start.topology.as_ref())
}

/// A guest's path in a group's runs.
pub(super) fn in_group(group: &Group<'_>, guest: &str) -> Option<String> {
    topology(group)?.guests.iter().find(|one| one.name == guest).map(of_guest)
}

/// One line for each guest that was there on both sides and whose path changed: `vm2: virtio-net + bridge -> VF`.
#[must_use]
pub fn changed(assessment: &Assessment<'_>) -> Vec<String> {
    let Some(before) = topology(&assessment.before) else { return Vec::new() };
    let line = |guest: &Guest| {
        let (then, now) = (of_guest(guest), in_group(&assessment.after, &guest.name)?);
        (then != now).then(|| format!("{}: {then} -> {now}", guest.name))
    };
    before.guests.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::assess::{Named, assess, pairs_within};
    use crate::session::{decode, sample};
    use crate::stats::compare::Detail;

    fn nic(path: PathKind, card: &str, bridge: Option<&str>) -> Nic {
        Nic {
            netdev: "tap0".into(),
            ifindex: Some(7),
            path,
            card: Some(card.into()),
            queues: 1,
            vhost: None,
            bridge: bridge.map(str::to_owned),
            uplinks: Vec::new(),
        }
    }

    #[test]
    fn paths_are_words() {
        let with_vf = &sample::topology(0).guests[0];
        let bare = Guest { vfs: Vec::new(), ..with_vf.clone() };
        let virtio = nic(PathKind::Virtio, "virtio-net-pci", Some("br0"));
        for (guest, nics, words) in [
            (&bare, vec![], "no card that the host knows"),
            (&bare, vec![virtio.clone()], "virtio-net + bridge"),
            (&bare, vec![virtio.clone(), virtio.clone()], "2 of virtio-net + bridge"),
            (&bare, vec![nic(PathKind::Emulated, "e1000", Some("br0"))], "e1000 + bridge"),
            (&bare, vec![nic(PathKind::Vhost, "virtio-net-pci", None)], "vhost-net, no bridge"),
            (&bare, vec![nic(PathKind::Macvtap, "virtio-net-pci", None)], "macvtap"),
            (with_vf, vec![], "VF"),
            (with_vf, vec![virtio.clone()], "VF, virtio-net + bridge"),
        ] {
            assert_eq!(of_guest(&Guest { nics, ..guest.clone() }), words);
        }
    }

    #[test]
    fn a_guest_that_got_a_vf_is_named() {
        let mut session = decode(sample::lines(1, &[("own", 0.3)]).as_bytes()).unwrap();
        let told = |session: &_| {
            let pairs = pairs_within(Named { file: "f", session }, None, None).unwrap();
            let assessment = assess(pairs[0].clone(), Detail::Folded, None);
            let remarks = crate::report::sentence::remarks(&assessment);
            (changed(&assessment), remarks)
        };
        assert_eq!(told(&session).0, Vec::<String>::new());
        let guest = &mut session.runs[0].start.topology.as_mut().unwrap().guests[0];
        guest.vfs.clear();
        guest.nics.push(nic(PathKind::Virtio, "virtio-net-pci", Some("br0")));
        let (changed, remarks) = told(&session);
        assert_eq!(changed, ["vm1: virtio-net + bridge -> VF"]);
        assert!(remarks.contains(&"another path: vm1: virtio-net + bridge -> VF".to_owned()), "{remarks:?}");
        // Who was not there before has no path that changed.
        session.runs[0].start.topology.as_mut().unwrap().guests.clear();
        assert_eq!(told(&session).0, Vec::<String>::new());
    }
}
