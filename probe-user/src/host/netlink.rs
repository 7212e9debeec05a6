//! Asking the kernel about one network interface, with what it knows of its VFs, over a routing netlink socket.
//!
//! One question, one answer; nothing is changed by asking. What the answer means is `vf_message`'s.

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;

/// A connection to the kernel's routing netlink, in the network namespace of this process.
pub(super) struct LinkSocket(Socket);

impl LinkSocket {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // Connected to the kernel, the socket takes messages of nobody else.
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// The kernel's answer about an interface, as it came. It waits for as long as a driver holds the lock of the
    /// kernel's network configuration.
    pub(super) fn ask(&self, netdev: &str) -> io::Result<Vec<u8>> {
        self.0.send(&question(netdev), 0)?;
        Ok(self.0.recv_from_full()?.0)
    }
}

/// RTM_GETLINK for an interface of this name, with its VFs.
fn question(netdev: &str) -> Vec<u8> {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(netdev.to_owned()));
    link.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::Vf]));
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let payload = NetlinkPayload::from(RouteNetlinkMessage::GetLink(link));
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::vf_message::{Answer, parse};

    /// The layout is that of netlink(7) and rtnetlink(7), on a machine of either byte order.
    #[test]
    fn the_question_is_as_documented() {
        let mut expected = Vec::new();
        expected.extend(52_u32.to_ne_bytes());
        // RTM_GETLINK, NLM_F_REQUEST, sequence and port 0.
        expected.extend([18_u16, 1].into_iter().flat_map(u16::to_ne_bytes));
        expected.extend([0; 8]);
        // struct ifinfomsg: any interface.
        expected.extend([0; 16]);
        // IFLA_IFNAME.
        expected.extend([9_u16, 3].into_iter().flat_map(u16::to_ne_bytes));
        expected.extend(b"eth0\0\0\0\0");
        // IFLA_EXT_MASK, RTEXT_FILTER_VF.
        expected.extend([8_u16, 29].into_iter().flat_map(u16::to_ne_bytes));
        expected.extend(1_u32.to_ne_bytes());
        assert_eq!(question("eth0"), expected);
    }

    /// Every network namespace has a loopback interface, and nobody needs a privilege to ask for it.
    #[test]
    fn this_kernel_answers() {
        let socket = LinkSocket::open().unwrap();
        for _ in 0..2 {
            let Ok(Answer::Vfs(vfs)) = parse(&socket.ask("lo").unwrap()) else { panic!("lo was refused") };
            assert_eq!((vfs.counters.len(), vfs.announced), (0, 0));
        }
        let answer = parse(&socket.ask("no-such-device").unwrap()).unwrap();
        assert_eq!(answer, Answer::Refused(rustix::io::Errno::NODEV.raw_os_error()));
    }
}
