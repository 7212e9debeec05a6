//! What QEMU's command line says of network cards: which card is behind which tap, and whether vhost was asked for.
//!
//! Pure: strings in, values out. Options come as `key=value,...` or, from libvirt since QEMU 6, as JSON.

use super::vmm::{options, qemu_parts};
use serde_json::Value;

/// A network backend of kind `tap`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TapOption {
    /// Interface it was told to open.
    pub(super) ifname: Option<String>,
    /// Descriptors it was handed instead.
    pub(super) fds: Vec<u32>,
    /// Whether vhost-net was asked for.
    pub(super) vhost: bool,
    /// The card that uses it (`-device DRIVER,netdev=ID`).
    pub(super) card: Option<String>,
}

/// One option, in either form, as pairs of key and value. A first part without key has the key "".
struct Pairs(Vec<(String, String)>);

impl Pairs {
    fn parse(text: &str) -> Self {
        if text.starts_with('{') {
            let object = serde_json::from_str(text).ok();
            let object = object.as_ref().and_then(Value::as_object);
            return Self(
                object.into_iter().flatten().map(|(key, value)| (key.clone(), plain(value))).collect(),
            );
        }
        let pairs = qemu_parts(text).into_iter().map(|part| match part.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.to_owned()),
            None => (String::new(), part),
        });
        Self(pairs.collect())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The value of a key that may be left out in front.
    fn get_or_first(&self, key: &str) -> Option<&str> {
        self.get(key).or_else(|| self.0.first().filter(|(name, _)| name.is_empty()).map(|(_, v)| v.as_str()))
    }

    /// Descriptors of one queue (`fd=3`) or several (`fds=3:4`). Names given by a management program are no numbers.
    fn fds(&self, key: &str) -> Vec<u32> {
        let several = format!("{key}s");
        let list = self.get(key).into_iter().chain(self.get(&several).into_iter().flat_map(|v| v.split(':')));
        list.filter_map(|number| number.parse().ok()).collect()
    }

    fn tap(&self, card: Option<&str>) -> Option<TapOption> {
        (self.get_or_first("type") == Some("tap")).then(|| TapOption {
            ifname: self.get("ifname").map(str::to_owned),
            fds: self.fds("fd"),
            vhost: matches!(self.get("vhost"), Some("on" | "true" | "yes"))
                || self.get("vhostfd").or_else(|| self.get("vhostfds")).is_some(),
            card: card.map(str::to_owned),
        })
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// All backends of kind `tap`, in order.
pub(super) fn parse_taps(args: &[&str]) -> Vec<TapOption> {
    let devices: Vec<Pairs> = options(args, "device").map(Pairs::parse).collect();
    let card_of = |id: &str| {
        let device = devices.iter().find(|device| device.get("netdev") == Some(id))?;
        device.get_or_first("driver")
    };
    let netdevs = options(args, "netdev").filter_map(|text| {
        let pairs = Pairs::parse(text);
        pairs.tap(pairs.get("id").and_then(card_of))
    });
    let nics = options(args, "nic").filter_map(|text| {
        let pairs = Pairs::parse(text);
        // QEMU's short word for the usual virtio card.
        let card = pairs.get("model").map(|model| if model == "virtio" { "virtio-net-pci" } else { model });
        pairs.tap(card)
    });
    netdevs.chain(nics).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tap(ifname: &str, fds: &[u32], vhost: bool, card: &str) -> TapOption {
        let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        TapOption { ifname: known(ifname), fds: fds.to_vec(), vhost, card: known(card) }
    }

    #[test]
    fn command_lines() {
        let json = r#"-netdev {"type":"tap","fd":"33","vhost":true,"vhostfd":"35","id":"hostnet0"} -device {"driver":"virtio-net-pci","netdev":"hostnet0","id":"net0"}"#;
        for (line, expected) in [
            ("", vec![]),
            ("-netdev user,id=n -device e1000,netdev=n", vec![]),
            ("-netdev", vec![]),
            ("-netdev {broken", vec![]),
            (
                "-netdev tap,id=n,ifname=tap0,script=no,vhost=on -device virtio-net-pci,netdev=n",
                vec![tap("tap0", &[], true, "virtio-net-pci")],
            ),
            (
                "-device e1000,mac=1,netdev=b -netdev tap,id=a,ifname=t0,vhost=off -netdev type=tap,id=b,fds=7:8",
                vec![tap("t0", &[], false, ""), tap("", &[7, 8], false, "e1000")],
            ),
            (
                "-netdev tap,id=n,fd=net-fd --device driver=rtl8139,netdev=n",
                vec![tap("", &[], false, "rtl8139")],
            ),
            ("-nic tap,ifname=t1,model=virtio", vec![tap("t1", &[], false, "virtio-net-pci")]),
            ("-nic tap,ifname=t1", vec![tap("t1", &[], false, "")]),
            (json, vec![tap("", &[33], true, "virtio-net-pci")]),
        ] {
            let args: Vec<&str> = std::iter::once("qemu").chain(line.split(' ')).collect();
            assert_eq!(parse_taps(&args), expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken(netdev in any::<String>(), device in any::<String>()) {
            let _ = parse_taps(&["qemu", "-netdev", &netdev, "-device", &device, "-nic", &netdev]);
            let _ = parse_taps(&["qemu", "-netdev", &format!("{{{netdev}")]);
        }
    }
}
