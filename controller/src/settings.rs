//! What the operator decided: plain values, made by the flags and read by the core.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::names;

/// When an address may be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publish {
    /// As soon as the svclb pod is bound, where kube-proxy carries the traffic.
    Bound,
    /// Only while the svclb pod is Ready.
    Ready,
}

/// `ipMode` of a status address (KEP-1860).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IpMode {
    /// kube-proxy answers at the address itself.
    Vip,
    /// Packets go on to the node, where the svclb pod takes them.
    Proxy,
}

impl IpMode {
    /// The API's spelling.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vip => "VIP",
            Self::Proxy => "Proxy",
        }
    }
}

/// kube-proxy's mode, where ConfigMap `kube-system/kube-proxy` tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyMode {
    /// Not to be read: no such ConfigMap (k3s has none).
    #[default]
    Unknown,
    /// `iptables`, also when the field is empty.
    Iptables,
    /// `ipvs`: binds every status address on every node.
    Ipvs,
    /// `nftables`: whether it or portmap answers depends on the order of their start.
    Nftables,
}

/// How IPv6 forwarding comes about in a svclb pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6Forwarding {
    /// A privileged init container writes `/proc/sys`.
    InitContainer,
    /// `net.ipv6.conf.all.forwarding` as a pod sysctl, which the kubelets must allow.
    Sysctl,
}

/// What the controller was started with.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where DaemonSets and svclb pods live.
    pub namespace: String,
    /// The svclb pod's image.
    pub image: String,
    /// Its pull policy: `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: String,
    /// Names of Secrets to pull it with.
    pub image_pull_secrets: Vec<String>,
    /// The class that is always served.
    pub class: String,
    /// Are Services without a class served?
    pub classless: bool,
    /// When an address may be published.
    pub publish: Publish,
    /// `None`: the API's default, and `Proxy` by itself where kube-proxy's mode needs it.
    pub ip_mode: Option<IpMode>,
    /// TCP ports that no Service gets on any node.
    pub protected_ports: BTreeSet<u16>,
    /// The svclb pods' PriorityClass, `None` for none.
    pub priority_class: Option<String>,
    /// Tolerations beside the built-in ones.
    pub tolerations: Vec<Toleration>,
    /// The svclb container's requests and limits.
    pub resources: ResourceRequirements,
    /// `false`: svclb pods get a user namespace (`hostUsers: false`).
    pub host_users: bool,
    /// How IPv6 forwarding comes about.
    pub ipv6_forwarding: Ipv6Forwarding,
    /// How often a Warning that still holds is repeated. Events end after an hour.
    pub repeat_warnings: SignedDuration,
    /// Rootless k3s: the one address is 127.0.0.1.
    pub rootless: bool,
    /// Serve nothing and let every Service go that was served: before svclb is uninstalled.
    pub releasing: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let quantities = |pairs: &[(&str, &str)]| {
            Some(
                pairs
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned())))
                    .collect(),
            )
        };
        Self {
            namespace: "kube-system".to_owned(),
            image: concat!("localhost/svclb-pod:", env!("CARGO_PKG_VERSION")).to_owned(),
            image_pull_policy: "IfNotPresent".to_owned(),
            image_pull_secrets: Vec::new(),
            class: names::LOAD_BALANCER_CLASS.to_owned(),
            classless: true,
            publish: Publish::Bound,
            ip_mode: None,
            protected_ports: BTreeSet::from([2379, 2380]),
            priority_class: Some(names::PRIORITY_CLASS.to_owned()),
            tolerations: Vec::new(),
            resources: ResourceRequirements {
                // runc's own start is charged to the container's memory; a CPU limit would throttle that start.
                limits: quantities(&[("memory", "32Mi")]),
                requests: quantities(&[("cpu", "1m"), ("memory", "8Mi")]),
                ..ResourceRequirements::default()
            },
            host_users: true,
            ipv6_forwarding: Ipv6Forwarding::InitContainer,
            repeat_warnings: SignedDuration::from_mins(30),
            rootless: false,
            releasing: false,
        }
    }
}
