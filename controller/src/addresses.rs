//! Which addresses of a node a Service is published at.

use std::net::IpAddr;

use crate::facts::{AddressKind, NodeFacts};
use crate::net::Family;
use crate::settings::{IpMode, ProxyMode, Publish, Settings};
use crate::wish::{AddressChoice, Wish};

/// An address of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// The address.
    pub address: IpAddr,
    /// kube-proxy answers at it as soon as it is in status; else only the svclb pod does, or who answers is open.
    pub by_kube_proxy: bool,
}

/// What decides about addresses, beside the nodes.
#[derive(Clone, Debug)]
pub struct AddressRules {
    /// Which ones.
    pub choice: AddressChoice,
    /// kube-proxy answers at a node's own address in status.
    kube_proxy_carries: bool,
}

impl AddressRules {
    /// The rules of a Service with this wish.
    #[must_use]
    pub fn new(wish: &Wish, mode: ProxyMode, settings: &Settings) -> Self {
        let kube_proxy_carries = wish.ip_mode == IpMode::Vip && carries(mode, settings);
        Self {
            choice: wish.addresses.clone(),
            kube_proxy_carries,
        }
    }

    /// Any address of a node: the rules of a Service whose wish cannot be read.
    #[must_use]
    pub fn any_of(mode: ProxyMode, settings: &Settings) -> Self {
        Self {
            choice: AddressChoice::All,
            kube_proxy_carries: carries(mode, settings),
        }
    }

    /// Does kube-proxy answer at a node's own address in status?
    #[must_use]
    pub fn kube_proxy_carries(&self) -> bool {
        self.kube_proxy_carries
    }

    /// The addresses of a family at which `node` is published, in the node's order.
    #[must_use]
    pub fn of_node(&self, node: &NodeFacts, family: Family) -> Vec<NodeAddress> {
        let of_kind = |kind| {
            let addresses = node
                .addresses
                .iter()
                .filter(move |(other, _)| *other == kind);
            addresses
                .map(|(_, address)| *address)
                .filter(move |address| Family::of(*address) == family)
        };
        let externals: Vec<IpAddr> = of_kind(AddressKind::External).collect();
        let internals: Vec<IpAddr> = of_kind(AddressKind::Internal).collect();
        let chosen: Vec<IpAddr> = match &self.choice {
            AddressChoice::Preferred if externals.is_empty() => internals.clone(),
            AddressChoice::Preferred | AddressChoice::External => externals,
            AddressChoice::Internal => internals.clone(),
            AddressChoice::All => externals
                .into_iter()
                .chain(internals.iter().copied())
                .collect(),
            AddressChoice::Within(ranges) => externals
                .into_iter()
                .chain(internals.iter().copied())
                .filter(|address| ranges.iter().any(|range| range.contains(*address)))
                .collect(),
        };
        // Packets for an ExternalIP that is no InternalIP reach the node under another address, which kube-proxy passes by.
        let by_kube_proxy = |address| self.kube_proxy_carries && internals.contains(&address);
        let mut addresses: Vec<NodeAddress> = Vec::new();
        for address in chosen {
            if !addresses.iter().any(|other| other.address == address) {
                addresses.push(NodeAddress {
                    address,
                    by_kube_proxy: by_kube_proxy(address),
                });
            }
        }
        addresses
    }
}

/// In nftables mode it depends on the order of their start whether kube-proxy or portmap answers.
fn carries(mode: ProxyMode, settings: &Settings) -> bool {
    settings.publish == Publish::Bound
        && !settings.rootless
        && !matches!(mode, ProxyMode::Ipvs | ProxyMode::Nftables)
}
