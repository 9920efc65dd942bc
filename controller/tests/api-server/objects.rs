//! What tests make and look at: Services, nodes, svclb pods, events.

use anyhow::{Context, bail};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use svclb_controller::names;
use svclb_e2e::wait;

use crate::bed::{Bed, NAMESPACE, PATIENCE};

/// Long ago: a node that has been Ready for over a minute is believed at once.
const LONG_AGO: &str = "2026-01-01T00:00:00Z";

pub(crate) fn object<K: DeserializeOwned>(value: Value) -> anyhow::Result<K> {
    Ok(serde_json::from_value(value)?)
}

impl Bed {
    pub(crate) fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), "default")
    }

    pub(crate) fn daemonsets(&self) -> Api<DaemonSet> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub(crate) fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// A Ready node with one InternalIP and room for pods.
    pub(crate) async fn node(&self, name: &str, address: &str) -> anyhow::Result<()> {
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux", "kubernetes.io/hostname": name}},
        });
        self.nodes()
            .create(&PostParams::default(), &object(node)?)
            .await?;
        let room = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
        let status = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": address}],
            "allocatable": room,
            "capacity": room,
            "conditions": [ready("True")],
        }});
        self.patch_node_status(name, status).await?;
        // Admission taints every new node; the node lifecycle controller, which does not run, would lift it.
        let untaint = Patch::Merge(json!({"spec": {"taints": null}}));
        self.nodes()
            .patch(name, &PatchParams::default(), &untaint)
            .await?;
        Ok(())
    }

    pub(crate) async fn patch_node_status(&self, name: &str, patch: Value) -> anyhow::Result<()> {
        let patch = Patch::Strategic(patch);
        self.nodes()
            .patch_status(name, &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    /// A LoadBalancer Service with these TCP ports.
    pub(crate) async fn service(&self, name: &str, ports: &[u16]) -> anyhow::Result<Service> {
        self.service_with(name, json!({"ports": tcp(ports)})).await
    }

    /// A LoadBalancer Service with these fields of its spec.
    pub(crate) async fn service_with(&self, name: &str, spec: Value) -> anyhow::Result<Service> {
        let mut service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": spec,
        });
        service["spec"]["type"] = json!("LoadBalancer");
        let created = self
            .services()
            .create(&PostParams::default(), &object(service)?)
            .await;
        created.with_context(|| format!("create Service {name}"))
    }

    /// Patches a Service as a user does.
    pub(crate) async fn edit(&self, name: &str, patch: Value) -> anyhow::Result<Service> {
        let patch = Patch::Merge(patch);
        Ok(self
            .services()
            .patch(name, &PatchParams::default(), &patch)
            .await?)
    }

    pub(crate) async fn delete(&self, name: &str) -> anyhow::Result<()> {
        self.services()
            .delete(name, &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// The Service's DaemonSet, once it is there.
    pub(crate) async fn daemonset_of(&self, service: &Service) -> anyhow::Result<DaemonSet> {
        let name = daemonset_name(service);
        self.until(&format!("DaemonSet {name}"), async || {
            self.daemonsets()
                .get_opt(&name)
                .await?
                .context("it is not there")
        })
        .await
    }

    /// A svclb pod as the DaemonSet controller and the scheduler would have it: bound to the node, and Ready.
    pub(crate) async fn bind(&self, service: &Service, node: &str) -> anyhow::Result<Pod> {
        let daemonset = self.daemonset_of(service).await?;
        let mut pod = pod_of(&daemonset, node)?;
        pod["spec"]["nodeName"] = json!(node);
        let pod = self
            .pods()
            .create(&PostParams::default(), &object(pod)?)
            .await?;
        let running = json!({"status": {"phase": "Running", "conditions": [ready("True")]}});
        let patch = Patch::Strategic(running);
        Ok(self
            .pods()
            .patch_status(&pod.name_any(), &PatchParams::default(), &patch)
            .await?)
    }

    /// A svclb pod that the real scheduler is to bind to the node, or to refuse.
    pub(crate) async fn schedule(&self, service: &Service, node: &str) -> anyhow::Result<Pod> {
        let daemonset = self.daemonset_of(service).await?;
        let mut pod = pod_of(&daemonset, node)?;
        pod["spec"]["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}],
        }}});
        Ok(self
            .pods()
            .create(&PostParams::default(), &object(pod)?)
            .await?)
    }

    /// Looks until `probe` succeeds; its error says what it saw.
    pub(crate) async fn until<T>(
        &self,
        expected: &str,
        mut probe: impl AsyncFnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let looked = wait::until_async(expected, PATIENCE, async || {
            probe().await.map_err(|error| format!("{error:#}"))
        });
        Ok(looked.await?)
    }

    /// Waits until exactly these addresses are in the Service's status.
    pub(crate) async fn until_addresses(
        &self,
        name: &str,
        expected: &[&str],
    ) -> anyhow::Result<Service> {
        self.until(
            &format!("addresses {expected:?} of Service {name}"),
            async || {
                let service = self.services().get(name).await?;
                let found = addresses(&service);
                if found == expected {
                    Ok(service)
                } else {
                    bail!("{found:?}")
                }
            },
        )
        .await
    }

    /// Waits until no DaemonSet is left.
    pub(crate) async fn until_no_daemonset(&self) -> anyhow::Result<()> {
        self.until("no DaemonSet", async || {
            let names: Vec<_> = self
                .daemonsets()
                .list(&ListParams::default())
                .await?
                .iter()
                .map(ResourceExt::name_any)
                .collect();
            if names.is_empty() {
                Ok(())
            } else {
                bail!("{names:?}")
            }
        })
        .await
    }

    /// The events on a Service: type, reason and note.
    pub(crate) async fn events(&self, service: &Service) -> anyhow::Result<Vec<Event>> {
        let events = Api::<Event>::namespaced(self.client.clone(), "default");
        let of_service = format!("regarding.uid={}", service.uid().unwrap_or_default());
        Ok(events
            .list(&ListParams::default().fields(&of_service))
            .await?
            .items)
    }

    /// Waits for an event on the Service whose note holds all of `parts`.
    pub(crate) async fn until_event(
        &self,
        service: &Service,
        reason: &str,
        parts: &[&str],
    ) -> anyhow::Result<Event> {
        self.until(&format!("event {reason} with {parts:?}"), async || {
            let events = self.events(service).await?;
            let told = |event: &&Event| {
                let note = event.note.as_deref().unwrap_or_default();
                event.reason.as_deref() == Some(reason)
                    && parts.iter().all(|part| note.contains(part))
            };
            let found = events.iter().find(told).cloned();
            found.with_context(|| format!("{:?}", events.iter().map(told_of).collect::<Vec<_>>()))
        })
        .await
    }
}

fn told_of(event: &Event) -> (&str, &str) {
    (
        event.reason.as_deref().unwrap_or_default(),
        event.note.as_deref().unwrap_or_default(),
    )
}

pub(crate) fn ready(status: &str) -> Value {
    json!({
        "type": "Ready",
        "status": status,
        "reason": "Test",
        "message": "of a test",
        "lastTransitionTime": LONG_AGO,
    })
}

pub(crate) fn tcp(ports: &[u16]) -> Value {
    ports
        .iter()
        .map(|port| json!({"name": format!("port-{port}"), "port": port}))
        .collect()
}

pub(crate) fn daemonset_name(service: &Service) -> String {
    names::daemonset(&service.name_any(), &service.uid().unwrap_or_default())
}

pub(crate) fn addresses(service: &Service) -> Vec<String> {
    let ingress = service
        .status
        .iter()
        .filter_map(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    ingress
        .flatten()
        .filter_map(|entry| entry.ip.clone())
        .collect()
}

pub(crate) fn has_finalizer(service: &Service) -> bool {
    service
        .finalizers()
        .iter()
        .any(|finalizer| finalizer == names::FINALIZER)
}

pub(crate) fn host_ports(daemonset: &DaemonSet) -> Vec<i32> {
    let pod = daemonset
        .spec
        .iter()
        .filter_map(|spec| spec.template.spec.as_ref());
    let containers = pod.flat_map(|pod| &pod.containers);
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| port.host_port)
        .collect()
}

pub(crate) fn pod_of(daemonset: &DaemonSet, node: &str) -> anyhow::Result<Value> {
    let template = daemonset
        .spec
        .as_ref()
        .map(|spec| &spec.template)
        .context("a template")?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": format!("{}-{node}", daemonset.name_any()),
            "labels": template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()),
        },
        "spec": template.spec,
    }))
}
