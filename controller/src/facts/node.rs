//! A Node, reduced.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::names;

/// The kinds of address that are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressKind {
    /// `ExternalIP`
    External,
    /// `InternalIP`
    Internal,
}

/// The node's condition Ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// `True`, since then.
    Ready(Timestamp),
    /// `False`, since then: the kubelet itself said so, or a new node has not said anything.
    NotReady(Timestamp),
    /// `Unknown`: the node lifecycle controller has not heard of the kubelet.
    Unknown {
        /// When the kubelet last reported, by its own clock: comparable with its other reports alone.
        heartbeat: Timestamp,
    },
    /// `Unknown`, but the kubelet has reported since we first saw that: it is alive, and has yet to learn that
    /// somebody has changed its condition (after an outage of the API server its watch waits for up to a minute).
    UnknownButAlive,
}

impl Readiness {
    /// What it is now, where it was `before` when we last saw the node.
    #[must_use]
    pub fn after(self, before: Self) -> Self {
        match (before, self) {
            (Self::UnknownButAlive, Self::Unknown { .. }) => Self::UnknownButAlive,
            // The node lifecycle controller does not touch the time of the kubelet's heartbeat.
            (Self::Unknown { heartbeat: first }, Self::Unknown { heartbeat })
                if first < heartbeat =>
            {
                Self::UnknownButAlive
            }
            _ => self,
        }
    }
}

/// The condition Ready, reduced.
fn readiness(ready: &NodeCondition) -> Readiness {
    let at = |time: &Option<Time>| time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let since = at(&ready.last_transition_time);
    match ready.status.as_str() {
        "True" => Readiness::Ready(since),
        "False" => Readiness::NotReady(since),
        _ => Readiness::Unknown {
            heartbeat: at(&ready.last_heartbeat_time),
        },
    }
}

/// A Node, reduced.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeFacts {
    /// The name.
    pub name: String,
    /// All labels: a DaemonSet's affinity may name any.
    pub labels: BTreeMap<String, String>,
    /// ExternalIPs and InternalIPs, in the node's order.
    pub addresses: Vec<(AddressKind, IpAddr)>,
    /// Condition Ready.
    pub readiness: Readiness,
    /// Has a deletion timestamp, or the autoscaler's taint that announces one.
    pub leaving: bool,
    /// Key, value and effect of each taint.
    pub taints: Vec<Taint>,
    /// `status.daemonEndpoints.kubeletEndpoint.Port`
    pub kubelet_port: Option<u16>,
}

impl From<&Node> for NodeFacts {
    fn from(node: &Node) -> Self {
        let status = node.status.as_ref();
        let taints = node
            .spec
            .as_ref()
            .and_then(|spec| spec.taints.as_deref())
            .unwrap_or_default();
        let ready = status
            .and_then(|status| status.conditions.as_ref())
            .and_then(|conditions| {
                conditions
                    .iter()
                    .find(|condition| condition.type_ == "Ready")
            });
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            addresses: status
                .and_then(|status| status.addresses.as_deref())
                .unwrap_or_default()
                .iter()
                .filter_map(|address| {
                    let kind = match address.type_.as_str() {
                        "ExternalIP" => AddressKind::External,
                        "InternalIP" => AddressKind::Internal,
                        _ => return None,
                    };
                    Some((kind, address.address.parse().ok()?))
                })
                .collect(),
            readiness: ready.map_or(Readiness::NotReady(Timestamp::UNIX_EPOCH), readiness),
            leaving: node.metadata.deletion_timestamp.is_some()
                || taints.iter().any(|taint| taint.key == names::TO_BE_DELETED),
            // When a taint was added says nothing about who tolerates it.
            taints: taints
                .iter()
                .map(|taint| Taint {
                    time_added: None,
                    ..taint.clone()
                })
                .collect(),
            kubelet_port: status
                .and_then(|status| status.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref())
                .and_then(|endpoint| u16::try_from(endpoint.port).ok())
                .filter(|port| *port != 0),
        }
    }
}
