//! In place of the DaemonSet controller and the scheduler.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use svclb_controller::facts::NodeFacts;
use svclb_controller::names;
use svclb_controller::selector::Admission;

use crate::bed::{Bed, gone};
use crate::objects::{object, pod_of, ready};

/// What the DaemonSet controller and the scheduler do: a pod on each node that a DaemonSet admits and whose ports are
/// free; no pod where it is not wanted or of an older template.
pub(super) async fn place_pods(bed: &Bed) -> anyhow::Result<()> {
    let all = ListParams::default();
    let nodes = bed.nodes().list(&all).await?.items;
    let daemonsets = bed.daemonsets().list(&all).await?.items;
    let mut pods = Vec::new();
    for pod in bed.pods().list(&all).await?.items {
        if daemonsets
            .iter()
            .any(|daemonset| wants(daemonset, &pod, &nodes))
        {
            pods.push(pod);
        } else {
            let at_once = DeleteParams::default().grace_period(0);
            gone(bed.pods().delete(&pod.name_any(), &at_once).await)?;
        }
    }
    for daemonset in &daemonsets {
        let Some(spec) = template(daemonset) else {
            continue;
        };
        for node in nodes.iter().filter(|node| admits(spec, node)) {
            let on_node = |pod: &&Pod| {
                pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) == Some(&node.name_any())
            };
            let mut there = pods.iter().filter(on_node);
            let taken = there.any(|pod| pod.spec.iter().any(|other| shares_a_port(spec, other)));
            if taken || daemonset.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let mut pod = pod_of(daemonset, &node.name_any())?;
            pod["spec"]["nodeName"] = json!(node.name_any());
            let pod = bed
                .pods()
                .create(&PostParams::default(), &object(pod)?)
                .await?;
            let running = Patch::Strategic(
                json!({"status": {"phase": "Running", "conditions": [ready("True")]}}),
            );
            let name = pod.name_any();
            match bed
                .pods()
                .patch_status(&name, &PatchParams::default(), &running)
                .await
            {
                // The garbage collector took it, with a DaemonSet that was deleted meanwhile.
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                placed => pods.push(placed?),
            }
        }
    }
    Ok(())
}

fn template(daemonset: &DaemonSet) -> Option<&PodSpec> {
    daemonset.spec.as_ref()?.template.spec.as_ref()
}

fn admits(spec: &PodSpec, node: &Node) -> bool {
    let node = NodeFacts::from(node);
    let admission = Admission::from(spec);
    admission.admits(&node) && admission.repelled_by(&node).is_none()
}

fn host_ports(spec: &PodSpec) -> Vec<i32> {
    let ports = spec
        .containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| port.host_port).collect()
}

fn shares_a_port(one: &PodSpec, other: &PodSpec) -> bool {
    let ports = host_ports(other);
    host_ports(one).iter().any(|port| ports.contains(port))
}

/// Is the pod one of the DaemonSet's, of its template as it is, on a node that it admits?
fn wants(daemonset: &DaemonSet, pod: &Pod, nodes: &[Node]) -> bool {
    let (Some(template), Some(spec)) = (template(daemonset), &pod.spec) else {
        return false;
    };
    let node = nodes
        .iter()
        .find(|node| Some(node.name_any()) == spec.node_name);
    let same_env = || {
        let env = |spec: &PodSpec| {
            spec.containers
                .first()
                .and_then(|container| container.env.clone())
        };
        env(spec) == env(template) && host_ports(spec) == host_ports(template)
    };
    pod.labels().get(names::APP) == Some(&daemonset.name_any())
        && daemonset.metadata.deletion_timestamp.is_none()
        && node.is_some_and(|node| admits(template, node))
        && same_env()
}
