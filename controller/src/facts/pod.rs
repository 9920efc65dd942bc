//! A svclb pod, reduced: ours, and ServiceLB's of the same Service.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    ContainerStateTerminated, ContainerStatus, Pod, PodCondition, PodSpec,
};

use crate::facts::ServiceKey;
use crate::names;
use crate::net::{Port, Protocol};

/// How far a pod has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodPhase {
    /// Not all containers have started.
    Pending,
    /// At least one runs or is started again.
    Running,
    /// It will not run again: rejected by the kubelet, evicted, or ended.
    Ended,
}

/// Why the scheduler does not bind a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its verdict is that a host port is taken.
    pub ports: bool,
    /// The verdict, as the scheduler words it.
    pub message: String,
}

/// A svclb pod, reduced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// UID
    pub uid: String,
    /// The Service it belongs to, by its labels.
    pub service: ServiceKey,
    /// Label [`names::APP`]: the DaemonSet it belongs to.
    pub app: String,
    /// Has a deletion timestamp.
    pub deleting: bool,
    /// The node it is bound to.
    pub node: Option<String>,
    /// The node that its DaemonSet made it for.
    pub target: Option<String>,
    /// How far it has come.
    pub phase: PodPhase,
    /// Condition Ready.
    pub ready: bool,
    /// The host ports it holds once it is bound.
    pub ports: BTreeSet<Port>,
    /// Why it is not bound.
    pub refusal: Option<Refusal>,
    /// Why it does not run, where it is bound and does not.
    pub trouble: Option<String>,
}

impl PodFacts {
    /// `None` for a pod of no Service.
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        let metadata = &pod.metadata;
        let labels = metadata.labels.as_ref()?;
        let spec = pod.spec.as_ref()?;
        let status = pod.status.as_ref();
        let conditions = status
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default();
        let condition = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
        let phase = match status.and_then(|status| status.phase.as_deref()) {
            Some("Failed" | "Succeeded") => PodPhase::Ended,
            Some("Running") => PodPhase::Running,
            _ => PodPhase::Pending,
        };
        let node = spec.node_name.clone().filter(|node| !node.is_empty());
        Some(Self {
            namespace: metadata.namespace.clone()?,
            name: metadata.name.clone()?,
            uid: metadata.uid.clone().unwrap_or_default(),
            service: ServiceKey::new(
                labels.get(names::SERVICE_NAMESPACE)?,
                labels.get(names::SERVICE_NAME)?,
            ),
            app: labels.get(names::APP).cloned().unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
            target: target(spec).or_else(|| node.clone()),
            refusal: if node.is_none() {
                condition("PodScheduled").and_then(refusal)
            } else {
                None
            },
            node,
            phase,
            ready: condition("Ready").is_some_and(|ready| ready.status == "True"),
            ports: host_ports(spec).collect(),
            trouble: trouble(pod, phase),
        })
    }

    /// Bound to `node`, not ended and not about to end: it holds its ports there.
    #[must_use]
    pub fn is_live_on(&self, node: &str) -> bool {
        self.node.as_deref() == Some(node) && !self.deleting && self.phase != PodPhase::Ended
    }
}

/// The host ports that a pod of this spec holds on its node, by its containers and its sidecars, as the scheduler counts
/// them; with hostNetwork, each container port is one.
pub fn host_ports(spec: &PodSpec) -> impl Iterator<Item = Port> {
    let host_network = spec.host_network == Some(true);
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(move |port| {
            let number = port
                .host_port
                .or(host_network.then_some(port.container_port))?;
            let number = u16::try_from(number).ok().filter(|number| *number != 0)?;
            Some(Port {
                protocol: Protocol::from_api(port.protocol.as_deref())?,
                number,
            })
        })
}

/// The DaemonSet controller names the node in a `matchFields` of the pod's required node affinity.
fn target(spec: &PodSpec) -> Option<String> {
    let required = spec
        .affinity
        .as_ref()?
        .node_affinity
        .as_ref()?
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    required
        .node_selector_terms
        .iter()
        .flat_map(|term| term.match_fields.iter().flatten())
        .find(|field| field.key == "metadata.name" && field.operator == "In")?
        .values
        .as_ref()?
        .first()
        .cloned()
}

fn refusal(scheduled: &PodCondition) -> Option<Refusal> {
    if scheduled.status == "True" || scheduled.reason.as_deref() != Some("Unschedulable") {
        return None;
    }
    let message = scheduled.message.clone().unwrap_or_default();
    // The scheduler gives one reason per node, and a DaemonSet's pod has one node; the words are its plugin NodePorts'.
    Some(Refusal {
        ports: message.contains("didn't have free ports"),
        message,
    })
}

/// The kubelet's own reason, and the last line of the container (`terminationMessagePolicy: FallbackToLogsOnError`).
fn trouble(pod: &Pod, phase: PodPhase) -> Option<String> {
    let status = pod.status.as_ref()?;
    if phase == PodPhase::Ended {
        return Some(said(
            status.reason.as_deref().unwrap_or("Failed"),
            status.message.as_deref(),
        ));
    }
    let containers = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    containers.filter_map(container_trouble).next()
}

/// In the same words for the whole of a cycle of failing, waiting and starting again: the kubelet's own change with each.
fn container_trouble(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    if let Some(reason) = state
        .waiting
        .as_ref()
        .and_then(|waiting| waiting.reason.as_deref())
    {
        let last = container
            .last_state
            .as_ref()
            .and_then(|state| state.terminated.as_ref());
        return match reason {
            "ContainerCreating" | "PodInitializing" => None,
            "ErrImagePull" | "ImagePullBackOff" => {
                Some(format!("image {} cannot be pulled", container.image))
            }
            "CrashLoopBackOff" if last.is_none() => Some(reason.to_owned()),
            _ => {
                let message = state
                    .waiting
                    .as_ref()
                    .and_then(|waiting| waiting.message.as_deref());
                Some(last.map_or_else(|| said(reason, message), ended))
            }
        };
    }
    state
        .terminated
        .as_ref()
        .filter(|terminated| terminated.exit_code != 0)
        .map(ended)
}

fn ended(terminated: &ContainerStateTerminated) -> String {
    said(
        &format!("it ends with exit code {}", terminated.exit_code),
        terminated.message.as_deref(),
    )
}

fn said(reason: &str, message: Option<&str>) -> String {
    match message.and_then(|message| message.trim().lines().next_back()) {
        Some(line) => format!("{reason}: {line}"),
        None => reason.to_owned(),
    }
}
