//! The wires: a bridge in the switch's namespace, and for each other host a veth pair from there to its
//! `eth0`. The switch's ends are named after the hosts. The real host sees none of it.

use std::net::IpAddr;

use crate::addresses::{self, Cidr};
use crate::component::Role;
use crate::options::IpFamily;

/// The switch's bridge.
const BRIDGE: &str = "br0";

/// The `ip -batch` lines that build the bridge and plug each host in, given its holder's pid.
pub(crate) fn switch_batch(hosts: &[(Role, i32)]) -> String {
    // forward_delay: a new port forwards at once.
    let mut lines = vec![
        format!("link add {BRIDGE} type bridge forward_delay 0"),
        format!("link set {BRIDGE} up"),
    ];
    for (host, pid) in hosts.iter().filter(|(host, _)| *host != Role::Switch) {
        lines.push(format!(
            "link add {host} type veth peer name eth0 netns {pid}"
        ));
        lines.push(format!("link set {host} master {BRIDGE} up"));
    }
    batch(&lines)
}

/// The `ip -batch` lines that give a host its addresses and routes.
pub(crate) fn host_batch(host: Role, nodes: usize, family: IpFamily) -> String {
    let mut lines = vec!["link set lo up".to_owned(), "link set eth0 up".to_owned()];
    for address in addresses::interface(host, family) {
        lines.push(format!(
            "address add {address} dev eth0{}",
            no_dad(address.address)
        ));
    }
    if host == Role::Client {
        // What a router outside has: the nodes' subnets, not the pods'.
        for subnet in addresses::host_subnets(family) {
            lines.push(format!("route add {subnet} dev eth0"));
        }
    } else if host != Role::Switch {
        for subnet in addresses::client_subnets(family) {
            lines.push(format!("route add {subnet} dev eth0"));
        }
        for router in addresses::all(Role::Client, family) {
            // A process on a node finds a way to a ClusterIP before kube-proxy's rules are asked.
            lines.push(format!("route add default via {router} dev eth0"));
        }
        for node in (1..=nodes).filter(|node| Role::Node(*node) != host) {
            let pods = addresses::node_pod_subnets(node, family);
            let gateways = addresses::all(Role::Node(node), family);
            for (subnet, gateway) in pods.iter().zip(gateways) {
                lines.push(format!("route add {subnet} via {gateway}"));
            }
        }
    }
    batch(&lines)
}

/// The sysctls of a host's network namespace, by their path under `/proc/sys/net`.
pub(crate) fn sysctls(host: Role, family: IpFamily) -> Vec<(&'static str, &'static str)> {
    // The kernel gives every new namespace 1: right on nodes, where bridged packets between pods must
    // pass kube-proxy's rules, and wrong on the switch, which would track other people's connections.
    let call_iptables = if matches!(host, Role::Node(_)) {
        "1"
    } else {
        "0"
    };
    let mut settings = vec![
        ("bridge/bridge-nf-call-iptables", call_iptables),
        ("bridge/bridge-nf-call-ip6tables", call_iptables),
    ];
    if family.has_ipv6() {
        settings.extend([
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
        ]);
    }
    // The nodes' default routes lead to the client. It has a way back to nodes and none to elsewhere,
    // which a host that forwards says at once, where another would be silent.
    if matches!(host, Role::Node(_) | Role::Client) {
        if family.has_ipv4() {
            settings.push(("ipv4/ip_forward", "1"));
        }
        if family.has_ipv6() {
            settings.push(("ipv6/conf/all/forwarding", "1"));
        }
    }
    settings
}

/// Puts an address on a node's interface.
pub(crate) fn add_address(address: Cidr) -> String {
    batch(&[format!(
        "address replace {address} dev eth0{}",
        no_dad(address.address)
    )])
}

/// Tells another host that an address is on the wire.
pub(crate) fn add_route(address: IpAddr) -> String {
    batch(&[format!("route replace {address} dev eth0")])
}

/// What a port of the switch does with packets. The host keeps its carrier, its addresses and its
/// routes, as behind a switch that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortState {
    Disabled,
    Forwarding,
}

/// The arguments of `bridge` that change the port of a host. (`ip link set ... type bridge_slave` has
/// the kernel look at the port's carrier afterwards, which enables it again.)
pub(crate) fn set_port(host: Role, state: PortState) -> [String; 6] {
    // The numbers are BR_STATE_* of linux/if_bridge.h.
    let state = match state {
        PortState::Disabled => "0",
        PortState::Forwarding => "3",
    };
    ["link", "set", "dev", &host.to_string(), "state", state].map(str::to_owned)
}

/// Duplicate address detection would hold an IPv6 address back for a second or more.
fn no_dad(address: IpAddr) -> &'static str {
    if address.is_ipv6() { " nodad" } else { "" }
}

fn batch(lines: &[String]) -> String {
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_but_the_switch_is_plugged_in() {
        let batch = switch_batch(&[(Role::Switch, 1), (Role::Client, 2), (Role::Node(1), 3)]);
        assert_eq!(
            batch,
            "link add br0 type bridge forward_delay 0\n\
             link set br0 up\n\
             link add client type veth peer name eth0 netns 2\n\
             link set client master br0 up\n\
             link add node-1 type veth peer name eth0 netns 3\n\
             link set node-1 master br0 up\n"
        );
    }

    #[test]
    fn a_node_routes_to_the_pods_of_the_others() {
        let batch = host_batch(Role::Node(2), 3, IpFamily::Dual);
        assert_eq!(
            batch,
            "link set lo up\n\
             link set eth0 up\n\
             address add 10.231.1.2/16 dev eth0\n\
             address add fd31:231::1:2/64 dev eth0 nodad\n\
             route add 172.30.77.0/24 dev eth0\n\
             route add fd31:77::/64 dev eth0\n\
             route add default via 172.30.77.2 dev eth0\n\
             route add default via fd31:77::2 dev eth0\n\
             route add 10.244.1.0/24 via 10.231.1.1\n\
             route add fd31:244:0:1::/64 via fd31:231::1:1\n\
             route add 10.244.3.0/24 via 10.231.1.3\n\
             route add fd31:244:0:3::/64 via fd31:231::1:3\n"
        );
    }

    #[test]
    fn the_client_knows_nodes_but_no_pods() {
        let batch = host_batch(Role::Client, 3, IpFamily::Ipv4);
        assert!(
            batch.contains("route add 10.231.0.0/16 dev eth0\n"),
            "{batch}"
        );
        assert!(!batch.contains("10.244."), "{batch}");
    }

    #[test]
    fn an_ipv4_cluster_sets_nothing_of_ipv6() {
        let names = |family| {
            sysctls(Role::Node(1), family)
                .into_iter()
                .map(|(name, _)| name)
        };
        assert!(names(IpFamily::Ipv4).all(|name| !name.starts_with("ipv6/")));
        assert!(names(IpFamily::Dual).any(|name| name.starts_with("ipv6/")));
    }
}
