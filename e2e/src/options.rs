//! What a cluster is made of, as asked for by a test or on the command line.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// More nodes than this do not fit the address plan (and no machine that this is meant for).
pub const MOST_NODES: usize = 200;

/// Kubelets report every second, and it is looked at every second.
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// Makes the ServiceAccount of each namespace, without which no pod can be created in it.
const SERVICE_ACCOUNTS: &str = "serviceaccount-controller";
/// Effects of taints (core/v1).
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

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
        if self.node_monitor_grace < LEAST_GRACE {
            return Err(Error::Grace {
                asked: self.node_monitor_grace,
            });
        }
        if !runs_controller(&self.controllers, SERVICE_ACCOUNTS) {
            return Err(Error::Controllers {
                asked: self.controllers.clone(),
            });
        }
        let mut taints = self
            .node_settings
            .values()
            .flat_map(|settings| &settings.taints);
        match taints.find(|text| Taint::parse(text).is_none()) {
            Some(text) => Err(Error::Taint { text: text.clone() }),
            None => Ok(()),
        }
    }
}

/// Whether kube-controller-manager runs a controller, as it reads its `--controllers`: what names the
/// controller counts, and `*` where nothing does.
fn runs_controller(controllers: &str, name: &str) -> bool {
    let mut items = controllers.split(',');
    let named = items.find_map(|item| match item.strip_prefix('-') {
        Some(off) => (off == name).then_some(false),
        None => (item == name).then_some(true),
    });
    named.unwrap_or_else(|| controllers.split(',').any(|item| item == "*"))
}

/// `key=value:Effect` or `key:Effect`, as kubectl has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taint<'a> {
    pub(crate) key: &'a str,
    pub(crate) value: Option<&'a str>,
    pub(crate) effect: &'a str,
}

impl<'a> Taint<'a> {
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (key_value, effect) = text.rsplit_once(':')?;
        let (key, value) = match key_value.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (key_value, None),
        };
        (!key.is_empty() && EFFECTS.contains(&effect)).then_some(Self { key, value, effect })
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
    /// Nodes would be given up between two of their reports.
    #[error(
        "{} ms are too short for a node to be silent: it reports every second, so take \
         --node-monitor-grace {}s or more",
        asked.as_millis(),
        LEAST_GRACE.as_secs()
    )]
    Grace {
        /// The time as asked for.
        asked: Duration,
    },
    /// Pods could not be created.
    #[error(
        "--controllers {asked} leaves out {SERVICE_ACCOUNTS}, without which no pod can be created: \
         begin with `*,` to name what is not wanted"
    )]
    Controllers {
        /// The list as asked for.
        asked: String,
    },
    /// Not a taint.
    #[error(
        "`{text}` is no taint: it is key=value:Effect or key:Effect, the effect one of {}",
        EFFECTS.join(", ")
    )]
    Taint {
        /// The taint as asked for.
        text: String,
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

    #[test]
    fn without_service_accounts_there_are_no_pods() {
        let with = |controllers: &str| Options {
            controllers: controllers.to_owned(),
            ..Options::default()
        };
        for good in [
            "*",
            "*,-daemonset-controller",
            "-daemonset-controller,*",
            "serviceaccount-controller,namespace-controller",
        ] {
            assert!(with(good).validate().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-daemonset-controller",
            "daemonset-controller",
            "*,-serviceaccount-controller",
        ] {
            let refused = with(bad).validate();
            assert!(matches!(refused, Err(Error::Controllers { .. })), "{bad}");
        }
    }

    #[test]
    fn a_node_may_be_silent_between_two_reports() {
        let with = |grace| Options {
            node_monitor_grace: grace,
            ..Options::default()
        };
        assert!(with(Duration::from_secs(2)).validate().is_ok());
        for grace in [Duration::ZERO, Duration::from_millis(1999)] {
            let refused = with(grace).validate();
            assert!(matches!(refused, Err(Error::Grace { .. })), "{grace:?}");
        }
    }

    #[test]
    fn a_taint_has_an_effect() {
        let taint = |value, effect| Taint {
            key: "a",
            value,
            effect,
        };
        assert_eq!(
            Taint::parse("a=b:NoExecute"),
            Some(taint(Some("b"), "NoExecute"))
        );
        assert_eq!(
            Taint::parse("a:NoSchedule"),
            Some(taint(None, "NoSchedule"))
        );
        let mut options = Options::default();
        for bad in ["a", "a=b", "a:", "a:Never", ":NoExecute"] {
            let settings = NodeSettings {
                taints: vec![bad.to_owned()],
                ..NodeSettings::default()
            };
            options.node_settings.insert(1, settings);
            let refused = options.validate();
            assert!(matches!(refused, Err(Error::Taint { .. })), "{bad}");
        }
    }
}
