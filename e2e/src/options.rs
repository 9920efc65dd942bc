//! What a cluster is made of, as asked for by a test or on the command line.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// More nodes than this do not fit the address plan (and no machine that this is meant for).
pub const MOST_NODES: usize = 200;

/// Everything that distinguishes one cluster from another. `Default` is what `svclb-e2e up` makes.
#[derive(Clone, Debug, Serialize, Deserialize)]
// What another version of this library has brought up can at least be looked at.
#[serde(default)]
pub struct Options {
    /// Names the cluster's folder and cgroups: a DNS label of at most 32 characters.
    pub name: String,
    /// How many nodes; with 0 there is a control plane alone.
    pub nodes: usize,
    /// The IP families of nodes, pods and Services.
    pub ip_family: IpFamily,
    /// kube-proxy's mode.
    pub proxy_mode: ProxyMode,
    /// kube-proxy's `minSyncPeriod`. Kubernetes reads zero as its default of one second.
    pub proxy_min_sync: Duration,
    /// How long a node may be silent before it is marked `Unknown`.
    pub node_monitor_grace: Duration,
    /// kube-controller-manager's `--controllers`, such as `*,-daemonset-controller`.
    pub controllers: String,
    /// More flags for kube-apiserver, such as an audit log's.
    pub kube_apiserver_flags: Vec<String>,
    /// Lets kube-proxy's NAT chain of the nftables mode be registered before portmap's, so that
    /// portmap's runs first: the kernel calls chains of one priority last come, first served.
    pub portmap_last: bool,
    /// Lets pods set the forwarding sysctls, which are unsafe ones to a kubelet.
    pub allow_forwarding_sysctls: bool,
    /// What is special about single nodes, by their number from 1.
    pub node_settings: BTreeMap<usize, NodeSettings>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: "svclb".to_owned(),
            nodes: 3,
            ip_family: IpFamily::Dual,
            proxy_mode: ProxyMode::Iptables,
            proxy_min_sync: Duration::from_secs(1),
            node_monitor_grace: Duration::from_secs(8),
            controllers: "*".to_owned(),
            kube_apiserver_flags: Vec::new(),
            portmap_last: false,
            allow_forwarding_sysctls: false,
            node_settings: BTreeMap::new(),
        }
    }
}

impl Options {
    /// What no cluster can be made of is refused before anything is touched.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let Self { name, nodes, .. } = self;
        check_name(name)?;
        if *nodes > MOST_NODES {
            return Err(Error::TooManyNodes { asked: *nodes });
        }
        if let Some(node) = self
            .node_settings
            .keys()
            .find(|node| !(1..=*nodes).contains(node))
        {
            return Err(Error::NoSuchNode {
                node: *node,
                nodes: *nodes,
            });
        }
        Ok(())
    }
}

/// Names become folders and cgroups, and are typed by people.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let framed = !name.starts_with('-') && !name.ends_with('-');
    if (1..=32).contains(&name.len()) && name.chars().all(label) && framed {
        Ok(())
    } else {
        Err(Error::Name {
            name: name.to_owned(),
        })
    }
}

/// The IP families of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum IpFamily {
    /// IPv4 first, and IPv6.
    Dual,
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
}

impl IpFamily {
    /// Whether hosts, pods and Services have IPv4 addresses.
    pub fn has_ipv4(self) -> bool {
        self != Self::Ipv6
    }

    /// Whether hosts, pods and Services have IPv6 addresses.
    pub fn has_ipv6(self) -> bool {
        self != Self::Ipv4
    }
}

/// kube-proxy's modes that a kernel without IPVS has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ProxyMode {
    /// Rules by the `iptables` command, the default of Kubernetes 1.34.
    Iptables,
    /// Rules by the `nft` command.
    Nftables,
}

impl ProxyMode {
    /// As KubeProxyConfiguration has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// What is special about one node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeSettings {
    /// Labels beside those that the kubelet sets.
    pub labels: BTreeMap<String, String>,
    /// Taints, as `key=value:Effect` or `key:Effect`.
    pub taints: Vec<String>,
    /// Addresses of type ExternalIP in the Node's status. They are on no interface: add them with
    /// `Cluster::add_address` where packets shall arrive at them.
    pub external_ips: Vec<IpAddr>,
    /// Addresses of type InternalIP in the Node's status, instead of the node's own.
    pub internal_ips: Vec<IpAddr>,
}

impl NodeSettings {
    /// A kubelet that is not told of a cloud provider writes its own addresses back within seconds.
    pub(crate) fn needs_external_cloud_provider(&self) -> bool {
        !self.external_ips.is_empty() || !self.internal_ips.is_empty()
    }
}

/// Why no cluster can be made of these options.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a name that folders, cgroups and people can share.
    #[error(
        "`{name}` is no name for a cluster: take 1 to 32 lower-case letters, digits and inner dashes"
    )]
    Name {
        /// The name as asked for.
        name: String,
    },
    /// More nodes than the address plan has room for.
    #[error("{asked} nodes are too many: the most is {MOST_NODES}")]
    TooManyNodes {
        /// The number as asked for.
        asked: usize,
    },
    /// Settings for a node that there is not.
    #[error("there are settings for node {node}, but nodes are numbered from 1 to {nodes}")]
    NoSuchNode {
        /// The number in the settings.
        node: usize,
        /// How many nodes were asked for.
        nodes: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_short_dns_label() {
        for good in ["svclb", "a", "node-0", "0"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let long = "a".repeat(33);
        for bad in ["", "-a", "a-", "A", "a/b", "..", "a b", &long] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn settings_are_for_nodes_that_are_there() {
        let mut options = Options::default();
        options.node_settings.insert(3, NodeSettings::default());
        assert!(options.validate().is_ok());
        options.node_settings.insert(4, NodeSettings::default());
        assert!(matches!(
            options.validate(),
            Err(Error::NoSuchNode { node: 4, nodes: 3 })
        ));
    }
}
