//! The network: as in a cluster, the pod has one interface, by which everything comes and goes, and the
//! node routes between it, the client and the backends.

use super::{Download, Namespace};

/// The pod's addresses.
pub(crate) const POD: &str = "10.244.0.2";
pub(crate) const POD6: &str = "fd00:244::2";
/// The client's first address of each family; see `Lab` for the others.
pub(crate) const CLIENT: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
/// The addresses of the two backends.
pub(crate) const BACKENDS: [[&str; 2]; 2] = [
    ["10.43.0.10", "fd00:43::10"],
    ["10.43.1.10", "fd00:43:1::10"],
];

#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) node: Namespace,
    pub(crate) pod: Namespace,
    /// Has 192.0.2.{2,127,128,129,255} of 192.0.2.0/23, 198.51.100.2, 2001:db8::{2,fffe,ffff,1:0} and
    /// 2001:db8:1::2.
    pub(crate) client: Namespace,
    pub(crate) backends: [Namespace; 2],
}

impl Lab {
    pub(crate) fn new() -> Self {
        let node = Namespace::new();
        node.ip("link set lo up");
        let lab = Self {
            pod: connect(
                &node,
                "pod",
                &[("10.244.0.1", POD, 24), ("fd00:244::1", POD6, 64)],
            ),
            client: connect(
                &node,
                "client",
                &[
                    ("192.0.2.1", CLIENT[0], 23),
                    ("198.51.100.1", "198.51.100.2", 24),
                    ("2001:db8::1", CLIENT[1], 64),
                    ("2001:db8:1::1", "2001:db8:1::2", 64),
                ],
            ),
            backends: [
                connect(
                    &node,
                    "backend0",
                    &[
                        ("10.43.0.1", BACKENDS[0][0], 24),
                        ("fd00:43::1", BACKENDS[0][1], 64),
                    ],
                ),
                connect(
                    &node,
                    "backend1",
                    &[
                        ("10.43.1.1", BACKENDS[1][0], 24),
                        ("fd00:43:1::1", BACKENDS[1][1], 64),
                    ],
                ),
            ],
            node,
        };
        for address in ["192.0.2.127", "192.0.2.128", "192.0.2.129", "192.0.2.255"] {
            lab.client.ip(&format!("address add {address}/32 dev eth0"));
        }
        for address in ["2001:db8::fffe", "2001:db8::ffff", "2001:db8::1:0"] {
            lab.client
                .ip(&format!("address add {address}/128 dev eth0 nodad"));
        }
        // A new namespace has the settings of the machine's own, which may well forward already.
        lab.pod.sysctl("ipv4/ip_forward", "0");
        lab.node.sysctl("ipv4/ip_forward", "1");
        lab.node.sysctl("ipv6/conf/all/forwarding", "1");
        lab
    }

    /// Has the node send the client's packets for the first backend's address to the pod.
    pub(crate) fn route_over_the_pod(&self) {
        let backend = BACKENDS[0][0];
        self.node.ip(&format!(
            "rule add iif client lookup 100\nroute add {backend}/32 via {POD} table 100"
        ));
    }

    /// Downloads through port 80 of both families get on although full packets of the backend's do not
    /// fit through the last link: it learns that only from "fragmentation needed", or "packet too big",
    /// which has to find its way through the pod.
    pub(crate) fn assert_that_packets_are_made_to_fit(&self) {
        self.node.ip("link set client mtu 1300");
        for (from, to) in CLIENT.iter().zip([POD, POD6]) {
            let download = Download::start(&self.client, from, to, 80);
            download.goes_on_for(200_000);
            download.stop();
        }
    }

    /// As the privileged init container does it.
    pub(crate) fn allow_ipv6_forwarding(&self) {
        self.pod
            .output(&[super::pod::PROGRAM, "allow-ipv6-forwarding"]);
    }
}

/// A namespace with one interface, `eth0`, whose other end is `name` on the node: the node's address,
/// its own and the prefix, for each network; the first of each family is the way out.
fn connect(node: &Namespace, name: &str, networks: &[(&str, &str, u8)]) -> Namespace {
    let host = Namespace::new();
    node.ip(&format!(
        "link add {name} type veth peer name eth0 netns {}",
        host.path()
    ));
    node.ip(&format!("link set {name} up"));
    host.ip("link set lo up\nlink set eth0 up");
    let mut routed = Vec::new();
    for (gateway, address, prefix) in networks {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        node.ip(&format!(
            "address add {gateway}/{prefix} dev {name} {nodad}"
        ));
        host.ip(&format!("address add {address}/{prefix} dev eth0 {nodad}"));
        if !routed.contains(&nodad) {
            let family = if nodad.is_empty() { "-4" } else { "-6" };
            host.output(&["ip", family, "route", "add", "default", "via", gateway]);
            routed.push(nodad);
        }
    }
    host
}
