//! The address plan. Every cluster has the same one, since no two share a network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::component::Role;
use crate::options::IpFamily;

/// Of Service `kubernetes`, which a certificate must name.
pub(crate) const API_SERVICE_IPV4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Of Service `kubernetes` in an IPv6 cluster.
pub(crate) const API_SERVICE_IPV6: Ipv6Addr = Ipv6Addr::new(0xfd31, 0x96, 0, 0, 0, 0, 0, 1);

/// Where the API server serves.
pub(crate) const API_PORT: u16 = 6443;

/// An address and the length of its subnet's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cidr {
    pub(crate) address: IpAddr,
    pub(crate) prefix: u8,
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A host's own IPv4 address, if the cluster has the family and the host an address.
pub(crate) fn ipv4(role: Role, family: IpFamily) -> Option<Ipv4Addr> {
    if !family.has_ipv4() {
        return None;
    }
    match role {
        Role::Switch => None,
        Role::ControlPlane => Some(Ipv4Addr::new(10, 231, 0, 10)),
        Role::Node(number) => Some(Ipv4Addr::new(10, 231, 1, octet(number))),
        Role::Client => Some(Ipv4Addr::new(172, 30, 77, 2)),
    }
}

/// A host's own IPv6 address, if the cluster has the family and the host an address.
pub(crate) fn ipv6(role: Role, family: IpFamily) -> Option<Ipv6Addr> {
    if !family.has_ipv6() {
        return None;
    }
    match role {
        Role::Switch => None,
        Role::ControlPlane => Some(Ipv6Addr::new(0xfd31, 0x231, 0, 0, 0, 0, 0, 0x10)),
        Role::Node(number) => Some(Ipv6Addr::new(0xfd31, 0x231, 0, 0, 0, 0, 1, hextet(number))),
        Role::Client => Some(Ipv6Addr::new(0xfd31, 0x77, 0, 0, 0, 0, 0, 2)),
    }
}

/// A host's addresses, IPv4 first.
pub(crate) fn all(role: Role, family: IpFamily) -> Vec<IpAddr> {
    let ipv4 = ipv4(role, family).map(IpAddr::V4);
    let ipv6 = ipv6(role, family).map(IpAddr::V6);
    ipv4.into_iter().chain(ipv6).collect()
}

/// What a host's interface gets: its addresses with their subnets.
pub(crate) fn interface(role: Role, family: IpFamily) -> Vec<Cidr> {
    let ipv4_prefix = if role == Role::Client { 24 } else { 16 };
    all(role, family)
        .into_iter()
        .map(|address| Cidr {
            address,
            prefix: if address.is_ipv4() { ipv4_prefix } else { 64 },
        })
        .collect()
}

/// The subnets of control plane and nodes.
pub(crate) fn host_subnets(family: IpFamily) -> Vec<&'static str> {
    by_family(family, "10.231.0.0/16", "fd31:231::/64")
}

/// The subnets of the client. They are other ones than the nodes': rules that tell the cluster's
/// own addresses from foreign ones must see it as foreign.
pub(crate) fn client_subnets(family: IpFamily) -> Vec<&'static str> {
    by_family(family, "172.30.77.0/24", "fd31:77::/64")
}

/// The subnets of all pods.
pub(crate) fn pod_subnets(family: IpFamily) -> Vec<&'static str> {
    by_family(family, "10.244.0.0/16", "fd31:244::/48")
}

/// The subnets of Services.
pub(crate) fn service_subnets(family: IpFamily) -> Vec<&'static str> {
    by_family(family, "10.96.0.0/16", "fd31:96::/112")
}

/// Where kubelets tell pods to look names up.
pub(crate) fn cluster_dns(family: IpFamily) -> &'static str {
    if family.has_ipv4() {
        "10.96.0.10"
    } else {
        "fd31:96::a"
    }
}

/// The pod subnets of one node.
pub(crate) fn node_pod_subnets(number: usize, family: IpFamily) -> Vec<Cidr> {
    let ipv4 = Cidr {
        address: Ipv4Addr::new(10, 244, octet(number), 0).into(),
        prefix: 24,
    };
    let ipv6 = Cidr {
        address: Ipv6Addr::new(0xfd31, 0x244, 0, hextet(number), 0, 0, 0, 0).into(),
        prefix: 64,
    };
    by_family(family, ipv4, ipv6)
}

/// What a server binds to that is to be reached at all addresses. `::` takes IPv4 too, but needs a
/// kernel that has IPv6.
pub(crate) fn any(family: IpFamily) -> IpAddr {
    if family.has_ipv6() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}

/// Every address there is.
pub(crate) fn everywhere(family: IpFamily) -> Vec<&'static str> {
    by_family(family, "0.0.0.0/0", "::/0")
}

/// `https://` URL of the API server, as the cluster's hosts reach it.
pub(crate) fn api_server(family: IpFamily) -> String {
    match ipv4(Role::ControlPlane, family) {
        Some(address) => format!("https://{address}:{API_PORT}"),
        None => format!("https://[fd31:231::10]:{API_PORT}"),
    }
}

fn by_family<T>(family: IpFamily, ipv4: T, ipv6: T) -> Vec<T> {
    match family {
        IpFamily::Dual => vec![ipv4, ipv6],
        IpFamily::Ipv4 => vec![ipv4],
        IpFamily::Ipv6 => vec![ipv6],
    }
}

/// Node numbers are at most `MOST_NODES`, which an octet holds.
fn octet(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

/// So that `node-12` is `::1:12`: the number's decimal digits, read as hexadecimal ones.
fn hextet(number: usize) -> u16 {
    u16::from_str_radix(&number.to_string(), 16).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_carry_their_number_in_their_addresses() {
        let shown: Vec<_> = interface(Role::Node(12), IpFamily::Dual)
            .iter()
            .map(Cidr::to_string)
            .collect();
        assert_eq!(shown, ["10.231.1.12/16", "fd31:231::1:12/64"]);
        let pods: Vec<_> = node_pod_subnets(12, IpFamily::Dual)
            .iter()
            .map(Cidr::to_string)
            .collect();
        assert_eq!(pods, ["10.244.12.0/24", "fd31:244:0:12::/64"]);
    }

    #[test]
    fn one_family_has_addresses_of_that_family_alone() {
        assert_eq!(
            all(Role::ControlPlane, IpFamily::Ipv6),
            ["fd31:231::10".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(ipv6(Role::Client, IpFamily::Ipv4), None);
        assert_eq!(service_subnets(IpFamily::Ipv4), ["10.96.0.0/16"]);
        assert_eq!(api_server(IpFamily::Ipv6), "https://[fd31:231::10]:6443");
    }

    #[test]
    fn the_switch_has_no_address() {
        assert_eq!(all(Role::Switch, IpFamily::Dual), Vec::<IpAddr>::new());
    }
}
