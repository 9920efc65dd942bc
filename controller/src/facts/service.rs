//! A Service, reduced.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ManagedFieldsEntry};

use crate::names;
use crate::net::{Family, Port, Protocol};
use crate::settings::IpMode;

/// A Service's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ServiceKey {
    /// A key of two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A port of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// What clients connect to.
    pub port: Port,
    /// Its node port, `None` where none was allocated.
    pub node_port: Option<u16>,
}

/// An entry of `status.loadBalancer.ingress`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ingress {
    /// The address, or the host name that another controller wrote.
    pub address: String,
    /// `None` on a host name.
    pub ip_mode: Option<IpMode>,
}

/// Who, other than we, wrote `status.loadBalancer` last, by `metadata.managedFields`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusWriter {
    /// The field manager.
    pub manager: String,
    /// When, to the second.
    pub time: Option<Timestamp>,
}

/// A Service, reduced.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceFacts {
    /// Namespace and name.
    pub key: ServiceKey,
    /// UID
    pub uid: String,
    /// Who is older has precedence.
    pub created: Timestamp,
    /// Has a deletion timestamp.
    pub deleting: bool,
    /// `type: LoadBalancer`.
    pub load_balancer: bool,
    /// `spec.loadBalancerClass`
    pub class: Option<String>,
    /// The ports, in the Service's order.
    pub ports: Vec<ServicePort>,
    /// `spec.ipFamilies`, in order.
    pub families: Vec<Family>,
    /// `spec.clusterIPs`
    pub cluster_ips: Vec<IpAddr>,
    /// `externalTrafficPolicy: Local`.
    pub local: bool,
    /// `spec.loadBalancerSourceRanges`, unparsed.
    pub source_ranges: Vec<String>,
    /// Those annotations that we read.
    pub annotations: BTreeMap<&'static str, String>,
    /// Label [`names::LB_POOL`].
    pub pool: Option<String>,
    /// Has [`names::FINALIZER`].
    pub finalizer: bool,
    /// The addresses in status.
    pub ingress: Vec<Ingress>,
    /// Those conditions that we may write.
    pub conditions: Vec<Condition>,
    /// Its finalizer, its addresses or one of its conditions are of our writing, by its managed fields.
    pub written_by_us: bool,
    /// Who else wrote its status last.
    pub status_writer: Option<StatusWriter>,
    /// Of spec, labels and annotations: changes when the user edits anything.
    pub edition: u64,
}

const ANNOTATIONS: [&str; 5] = [
    names::ADDRESSES,
    names::IP_MODE,
    names::PRIORITY_CLASS_NAME,
    names::TOLERATIONS,
    names::SOURCE_RANGES,
];

impl From<&Service> for ServiceFacts {
    fn from(service: &Service) -> Self {
        let metadata = &service.metadata;
        let spec = service.spec.clone().unwrap_or_default();
        let status = service.status.clone().unwrap_or_default();
        let managed = metadata.managed_fields.as_deref().unwrap_or_default();
        let annotation = |key: &str| metadata.annotations.as_ref()?.get(key).cloned();
        Self {
            key: ServiceKey::new(
                metadata.namespace.clone().unwrap_or_default(),
                metadata.name.clone().unwrap_or_default(),
            ),
            uid: metadata.uid.clone().unwrap_or_default(),
            created: metadata
                .creation_timestamp
                .as_ref()
                .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            deleting: metadata.deletion_timestamp.is_some(),
            load_balancer: spec.type_.as_deref() == Some("LoadBalancer"),
            edition: edition(service),
            class: spec.load_balancer_class,
            ports: spec
                .ports
                .unwrap_or_default()
                .iter()
                .filter_map(|port| {
                    let number = u16::try_from(port.port)
                        .ok()
                        .filter(|number| *number != 0)?;
                    Some(ServicePort {
                        port: Port {
                            protocol: Protocol::from_api(port.protocol.as_deref())?,
                            number,
                        },
                        node_port: port
                            .node_port
                            .and_then(|port| u16::try_from(port).ok())
                            .filter(|port| *port != 0),
                    })
                })
                .collect(),
            families: spec
                .ip_families
                .unwrap_or_default()
                .iter()
                .filter_map(|family| Family::from_api(family))
                .collect(),
            cluster_ips: spec
                .cluster_ips
                .unwrap_or_default()
                .iter()
                .filter_map(|ip| ip.parse().ok())
                .collect(),
            local: spec.external_traffic_policy.as_deref() == Some("Local"),
            source_ranges: spec.load_balancer_source_ranges.unwrap_or_default(),
            annotations: ANNOTATIONS
                .into_iter()
                .filter_map(|key| Some((key, annotation(key)?)))
                .collect(),
            pool: metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(names::LB_POOL))
                .filter(|pool| !pool.is_empty())
                .cloned(),
            finalizer: metadata.finalizers.as_ref().is_some_and(|finalizers| {
                finalizers
                    .iter()
                    .any(|finalizer| finalizer == names::FINALIZER)
            }),
            ingress: status
                .load_balancer
                .and_then(|status| status.ingress)
                .unwrap_or_default()
                .into_iter()
                .map(|ingress| Ingress {
                    ip_mode: ingress
                        .ip
                        .as_ref()
                        .map(|_| match ingress.ip_mode.as_deref() {
                            Some("Proxy") => IpMode::Proxy,
                            _ => IpMode::Vip,
                        }),
                    address: ingress.ip.or(ingress.hostname).unwrap_or_default(),
                })
                .collect(),
            conditions: status
                .conditions
                .unwrap_or_default()
                .into_iter()
                .filter(|condition| names::condition::OURS.contains(&condition.type_.as_str()))
                .collect(),
            written_by_us: managed.iter().any(|entry| {
                is_ours(entry)
                    && (holds_finalizer(entry) || holds_addresses(entry) || holds_condition(entry))
            }),
            status_writer: managed
                .iter()
                .filter(|entry| !is_ours(entry) && holds_addresses(entry))
                .max_by_key(|entry| entry.time.as_ref().map(|time| time.0))
                .map(|entry| StatusWriter {
                    manager: entry.manager.clone().unwrap_or_default(),
                    time: entry.time.as_ref().map(|time| time.0),
                }),
        }
    }
}

impl ServiceFacts {
    /// The ports alone.
    pub fn claims(&self) -> impl Iterator<Item = Port> {
        self.ports.iter().map(|port| port.port)
    }

    /// Is everything but the status, which we write ourselves, the same?
    #[must_use]
    pub fn same_wish(&self, other: &Self) -> bool {
        self.uid == other.uid
            && self.edition == other.edition
            && self.deleting == other.deleting
            && self.finalizer == other.finalizer
    }
}

fn is_ours(entry: &ManagedFieldsEntry) -> bool {
    entry.manager.as_deref() == Some(names::FIELD_MANAGER)
}

fn holds_addresses(entry: &ManagedFieldsEntry) -> bool {
    let fields = entry.fields_v1.as_ref();
    fields.is_some_and(|fields| {
        fields
            .0
            .pointer("/f:status/f:loadBalancer/f:ingress")
            .is_some()
    })
}

fn holds_condition(entry: &ManagedFieldsEntry) -> bool {
    let fields = entry.fields_v1.as_ref();
    let conditions = fields.and_then(|fields| fields.0.pointer("/f:status/f:conditions"));
    conditions.is_some_and(|conditions| {
        let holds = |kind| conditions.get(format!("k:{{\"type\":\"{kind}\"}}"));
        names::condition::OURS
            .into_iter()
            .any(|kind| holds(kind).is_some())
    })
}

fn holds_finalizer(entry: &ManagedFieldsEntry) -> bool {
    let fields = entry.fields_v1.as_ref();
    fields
        .and_then(|fields| {
            fields
                .0
                .pointer("/f:metadata/f:finalizers")?
                .get(format!("v:\"{}\"", names::FINALIZER))
        })
        .is_some()
}

/// Only ever compared within one process.
fn edition(service: &Service) -> u64 {
    let mut hasher = DefaultHasher::new();
    service.metadata.labels.hash(&mut hasher);
    service.metadata.annotations.hash(&mut hasher);
    serde_json::to_string(&service.spec)
        .unwrap_or_default()
        .hash(&mut hasher);
    hasher.finish()
}
