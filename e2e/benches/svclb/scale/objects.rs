//! Nodes, Services and svclb pods as API objects, made and unmade many at a time.

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::controller::{NAMESPACE, SERVICE_LABEL};
use crate::machine;

/// So many requests of the bench are under way at a time.
const AT_A_TIME: usize = 16;
/// The first Service's port: every Service has one of its own, or they would be in conflict.
const FIRST_PORT: usize = 10_000;
/// Nodes that have been Ready for long are believed at once.
const LONG_AGO: &str = "2026-01-01T00:00:00Z";

/// Does something for each number of the range, many at a time.
pub(super) async fn each<F: Future<Output = Result<()>>>(
    numbers: std::ops::Range<usize>,
    work: impl Fn(usize) -> F,
) -> Result<()> {
    stream::iter(numbers)
        .map(work)
        .buffer_unordered(AT_A_TIME)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(())
}

/// The API of Services, which are all in one namespace.
pub(super) fn services(client: &Client) -> Api<Service> {
    Api::namespaced(client.clone(), "default")
}

/// The API of the DaemonSets.
pub(super) fn daemonsets(client: &Client) -> Api<DaemonSet> {
    Api::namespaced(client.clone(), NAMESPACE)
}

/// The API of the svclb pods.
pub(super) fn pods(client: &Client) -> Api<Pod> {
    Api::namespaced(client.clone(), NAMESPACE)
}

fn node_name(number: usize) -> String {
    format!("node-{number}")
}

/// A Ready node with an address of its own.
pub(super) async fn create_node(client: &Client, number: usize) -> Result<()> {
    let nodes = Api::<Node>::all(client.clone());
    let name = node_name(number);
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux", "kubernetes.io/hostname": name}},
    });
    nodes
        .create(&PostParams::default(), &object(node)?)
        .await
        .with_context(|| format!("creating {name}"))?;
    let room = json!({"cpu": "64", "memory": "256Gi", "pods": "20000"});
    let status = json!({"status": {
        "addresses": [
            {"type": "InternalIP", "address": format!("10.100.{}.{}", number / 250, number % 250 + 1)},
            {"type": "Hostname", "address": name},
        ],
        "allocatable": room, "capacity": room,
        "conditions": [ready()],
    }});
    let parameters = PatchParams::default();
    nodes
        .patch_status(&name, &parameters, &Patch::Strategic(status))
        .await
        .context("patching a node's status")?;
    // Admission taints every new node; the node lifecycle controller, which does not run, would lift it.
    let untaint = Patch::Merge(json!({"spec": {"taints": null}}));
    nodes
        .patch(&name, &parameters, &untaint)
        .await
        .context("lifting a node's taint")?;
    Ok(())
}

/// What a kubelet reports from time to time though nothing has changed.
pub(super) async fn heartbeat(client: &Client, number: usize) -> Result<()> {
    let mut condition = ready();
    condition["lastHeartbeatTime"] = json!(machine::now());
    let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
    let nodes = Api::<Node>::all(client.clone());
    let patched = nodes
        .patch_status(&node_name(number), &PatchParams::default(), &patch)
        .await;
    patched.context("patching a node's status")?;
    Ok(())
}

fn ready() -> Value {
    json!({
        "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "the bench's",
        "lastTransitionTime": LONG_AGO,
    })
}

/// A Service of type LoadBalancer with a port of its own.
pub(super) async fn create_service(client: &Client, number: usize) -> Result<()> {
    let name = format!("service-{number}");
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {
            "type": "LoadBalancer", "ipFamilies": ["IPv4"], "selector": {"app": name},
            "ports": [{"name": "tcp", "port": FIRST_PORT + number}],
        },
    });
    let created = services(client)
        .create(&PostParams::default(), &object(service)?)
        .await;
    created.with_context(|| format!("creating {name}"))?;
    Ok(())
}

/// What the DaemonSet controller and the scheduler would do: a pod of the DaemonSet, bound to a node.
pub(super) async fn create_pod(client: &Client, daemonset: &DaemonSet, node: usize) -> Result<()> {
    let template = daemonset
        .spec
        .as_ref()
        .map(|spec| &spec.template)
        .context("a DaemonSet has no template")?;
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{}-{node}", daemonset.name_any()),
            "labels": template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()),
        },
        "spec": template.spec,
    });
    pod["spec"]["nodeName"] = node_name(node).into();
    pods(client)
        .create(&PostParams::default(), &object(pod)?)
        .await
        .context("creating a svclb pod")?;
    Ok(())
}

/// Deletes all Services of the bench, and their pods, which no DaemonSet controller does.
pub(super) async fn delete_services(client: &Client, count: usize) -> Result<()> {
    each(0..count, |number| async move {
        let name = format!("service-{number}");
        let deleted = services(client)
            .delete(&name, &DeleteParams::default())
            .await;
        deleted.with_context(|| format!("deleting {name}"))?;
        Ok(())
    })
    .await?;
    let parameters = DeleteParams::default().grace_period(0);
    let of_services = ListParams::default().labels(SERVICE_LABEL);
    pods(client)
        .delete_collection(&parameters, &of_services)
        .await
        .context("deleting the svclb pods")?;
    Ok(())
}

fn object<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).context("making an object")
}
