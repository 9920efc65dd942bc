//! The DaemonSet that a Service wants.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet,
};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, ExecAction, Lifecycle,
    LifecycleHandler, LocalObjectReference, NodeAffinity, NodeSelector, NodeSelectorRequirement,
    NodeSelectorTerm, ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec,
    SeccompProfile, SecurityContext, Sysctl,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::facts::ServiceFacts;
use crate::names;
use crate::net::Family;
use crate::settings::{Ipv6Forwarding, Settings};
use crate::tolerations;
use crate::wish::Wish;

/// The svclb pod's program, in its image.
const PROGRAM: &str = "/svclb-pod";

/// How many pods may be away during a roll-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RollOut {
    /// All: kube-proxy carries the traffic meanwhile.
    AllAtOnce,
    /// One node at a time, and those that are dead anyway: one of them would stop the roll-out.
    OneByOne {
        /// How many nodes are not Ready.
        dead: usize,
    },
}

/// What decides on which nodes a Service's pods run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRules<'a> {
    /// There is an allow-list.
    pub allow_listing: bool,
    /// Nodes that the labels admit and that are left out all the same, in order.
    pub left_out: Vec<&'a str>,
}

/// The DaemonSet that `service` wants.
#[must_use]
pub fn daemonset(
    service: &ServiceFacts,
    wish: &Wish,
    rules: &NodeRules<'_>,
    roll_out: RollOut,
    settings: &Settings,
) -> DaemonSet {
    let name = names::daemonset(&service.key.name, &service.uid);
    let of_service = BTreeMap::from([
        (names::SERVICE_NAME.to_owned(), service.key.name.clone()),
        (
            names::SERVICE_NAMESPACE.to_owned(),
            service.key.namespace.clone(),
        ),
    ]);
    let app = BTreeMap::from([(names::APP.to_owned(), name.clone())]);
    let mut labels = of_service.clone();
    labels.insert(names::SERVICE_UID.to_owned(), service.uid.clone());
    let mut pod_labels = of_service;
    pod_labels.extend(app.clone());

    let mut daemonset = DaemonSet {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(settings.namespace.clone()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(DaemonSetSpec {
            revision_history_limit: Some(1),
            selector: LabelSelector {
                match_labels: Some(app),
                ..LabelSelector::default()
            },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(pod_labels),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod_spec(service, wish, rules, settings)),
            },
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_surge: None,
                    max_unavailable: Some(max_unavailable(roll_out)),
                }),
            }),
            ..DaemonSetSpec::default()
        }),
        status: None,
    };
    let applied = digest(&daemonset);
    daemonset.metadata.annotations = Some(BTreeMap::from([(names::APPLIED.to_owned(), applied)]));
    daemonset
}

fn max_unavailable(roll_out: RollOut) -> IntOrString {
    match roll_out {
        RollOut::AllAtOnce => IntOrString::String("100%".to_owned()),
        RollOut::OneByOne { dead } => {
            IntOrString::Int(i32::try_from(dead.saturating_add(1)).unwrap_or(i32::MAX))
        }
    }
}

fn pod_spec(
    service: &ServiceFacts,
    wish: &Wish,
    rules: &NodeRules<'_>,
    settings: &Settings,
) -> PodSpec {
    let needs_ipv6 = wish.open_families.contains(&Family::V6);
    let by_init_container = needs_ipv6 && settings.ipv6_forwarding == Ipv6Forwarding::InitContainer;
    let by_sysctl = needs_ipv6 && settings.ipv6_forwarding == Ipv6Forwarding::Sysctl;
    PodSpec {
        affinity: Some(affinity(service, rules)),
        automount_service_account_token: Some(false),
        containers: vec![container(service, wish, settings)],
        // Environment of other Services is of no use to the pod, and would fill it.
        enable_service_links: Some(false),
        host_users: (!settings.host_users).then_some(false),
        image_pull_secrets: (!settings.image_pull_secrets.is_empty()).then(|| {
            settings
                .image_pull_secrets
                .iter()
                .map(|name| LocalObjectReference { name: name.clone() })
                .collect()
        }),
        init_containers: by_init_container.then(|| vec![ipv6_init_container(settings)]),
        priority_class_name: wish.priority_class.clone(),
        security_context: Some(PodSecurityContext {
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            sysctls: by_sysctl.then(|| {
                vec![Sysctl {
                    name: "net.ipv6.conf.all.forwarding".to_owned(),
                    value: "1".to_owned(),
                }]
            }),
            ..PodSecurityContext::default()
        }),
        service_account_name: Some(names::SERVICE_ACCOUNT.to_owned()),
        tolerations: Some(tolerations(wish)),
        ..PodSpec::default()
    }
}

/// All tolerations of the pods: the built-in ones, the operator's, the Service's.
pub(crate) fn tolerations(wish: &Wish) -> Vec<k8s_openapi::api::core::v1::Toleration> {
    tolerations::built_in()
        .into_iter()
        .chain(wish.tolerations.iter().cloned())
        .collect()
}

fn container(service: &ServiceFacts, wish: &Wish, settings: &Settings) -> Container {
    let forwards = forwards(service);
    let holds_only = forwards.is_empty();
    Container {
        name: names::CONTAINER.to_owned(),
        image: Some(settings.image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        // Without a node port for any port the pod has nothing to forward to: it holds the host ports for kube-proxy.
        command: holds_only.then(|| vec![PROGRAM.to_owned(), "hold".to_owned()]),
        env: (!holds_only).then(|| environment(service, wish, forwards)),
        // The kubelet reports nothing of a container before its hook has ended: the pod is never Ready without rules, and
        // is Ready without the second that a probe's tick costs.
        lifecycle: (!holds_only).then(|| Lifecycle {
            post_start: Some(LifecycleHandler {
                exec: Some(ExecAction {
                    command: Some(vec![PROGRAM.to_owned(), "check".to_owned()]),
                }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        ports: Some(
            service
                .claims()
                .map(|port| ContainerPort {
                    name: Some(names::port(port.protocol.as_str(), port.number)),
                    container_port: port.number.into(),
                    host_port: Some(port.number.into()),
                    protocol: Some(port.protocol.as_str().to_owned()),
                    host_ip: None,
                })
                .collect(),
        ),
        resources: Some(settings.resources.clone()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                add: Some(vec!["NET_ADMIN".to_owned()]),
                drop: Some(vec!["ALL".to_owned()]),
            }),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// `tcp/80=80,...`: to the ClusterIPs' own ports, or for `externalTrafficPolicy: Local` to the node ports there are.
fn forwards(service: &ServiceFacts) -> Vec<String> {
    service
        .ports
        .iter()
        .filter_map(|port| {
            let destination = if service.local {
                port.node_port?
            } else {
                port.port.number
            };
            let protocol = port.port.protocol.as_str().to_ascii_lowercase();
            Some(format!("{protocol}/{}={destination}", port.port.number))
        })
        .collect()
}

fn environment(service: &ServiceFacts, wish: &Wish, forwards: Vec<String>) -> Vec<EnvVar> {
    let variable = |name: &str, value: String| EnvVar {
        name: name.to_owned(),
        value: Some(value),
        value_from: None,
    };
    let destinations = if service.local {
        EnvVar {
            name: "DEST_IPS".to_owned(),
            value: None,
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    // The API server's default, which would else look like somebody's edit.
                    api_version: Some("v1".to_owned()),
                    field_path: "status.hostIPs".to_owned(),
                }),
                ..EnvVarSource::default()
            }),
        }
    } else {
        variable("DEST_IPS", joined(&service.cluster_ips))
    };
    vec![
        variable("SVCLB_FORWARDS", forwards.join(",")),
        destinations,
        // Always given: a family that the Service has not, or that no range is of, is closed.
        variable("SRC_RANGES", joined(&wish.source_ranges)),
    ]
}

fn joined<T: ToString>(list: &[T]) -> String {
    list.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// Only a privileged container has `/proc/sys` writable, and IPv6 forwarding has no other door.
fn ipv6_init_container(settings: &Settings) -> Container {
    Container {
        name: names::IPV6_INIT_CONTAINER.to_owned(),
        image: Some(settings.image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        command: Some(vec![PROGRAM.to_owned(), "allow-ipv6-forwarding".to_owned()]),
        resources: Some(settings.resources.clone()),
        security_context: Some(SecurityContext {
            privileged: Some(true),
            read_only_root_filesystem: Some(true),
            ..SecurityContext::default()
        }),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// One term for each way to be admitted (terms are OR-ed), each with all that holds for every way.
fn affinity(service: &ServiceFacts, rules: &NodeRules<'_>) -> Affinity {
    let mut common = vec![requirement(names::OS, "In", &["linux"])];
    if rules.allow_listing {
        common.push(requirement(names::ENABLE_LB, "In", &["true"]));
    }
    let pools = match &service.pool {
        None => vec![None],
        Some(pool) => vec![
            Some(requirement(names::LB_POOL, "In", &[pool])),
            Some(requirement(
                &format!("{}{pool}", names::LB_POOL_PREFIX),
                "In",
                &["true"],
            )),
        ],
    };
    let not_excluded = [
        requirement(names::EXCLUDE, "DoesNotExist", &[]),
        requirement(names::EXCLUDE, "In", &names::EXCLUDE_NOT),
    ];
    let by_name: Vec<_> = rules
        .left_out
        .iter()
        .map(|node| requirement("metadata.name", "NotIn", &[node]))
        .collect();
    let ways = pools.iter().flat_map(|pool| {
        not_excluded
            .iter()
            .map(move |not_excluded| (pool, not_excluded))
    });
    let terms = ways.map(|(pool, not_excluded)| NodeSelectorTerm {
        match_expressions: Some(
            common
                .iter()
                .chain(pool)
                .chain([not_excluded])
                .cloned()
                .collect(),
        ),
        match_fields: (!by_name.is_empty()).then(|| by_name.clone()),
    });
    Affinity {
        node_affinity: Some(NodeAffinity {
            required_during_scheduling_ignored_during_execution: Some(NodeSelector {
                node_selector_terms: terms.collect(),
            }),
            ..NodeAffinity::default()
        }),
        ..Affinity::default()
    }
}

fn requirement(key: &str, operator: &str, values: &[&str]) -> NodeSelectorRequirement {
    NodeSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: (!values.is_empty())
            .then(|| values.iter().map(|value| (*value).to_owned()).collect()),
    }
}

/// Tells two wishes apart, across restarts: a field that is no longer wanted leaves no other trace in what is there.
fn digest(daemonset: &DaemonSet) -> String {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(daemonset)
        .unwrap_or_default()
        .hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests;
