//! A test's own namespace: its apps and Services, and what svclb makes of them.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use svclb_e2e::{Host, wait};

use crate::watched::Watched;
use crate::world::{NAMESPACE, PATIENCE, SERVICE_NAME, SERVICE_NAMESPACE, World, name_of};

/// A namespace of a test.
pub(crate) struct Space<'w> {
    /// The cluster.
    pub(crate) world: &'w World,
    name: String,
}

impl<'w> Space<'w> {
    /// Makes it. Its name begins with this one.
    pub(crate) fn create(world: &'w World, name: &str) -> Result<Self> {
        let name = format!("{name}-");
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"generateName": name}}))?;
        let created = world.block_on(
            world
                .namespace_api()
                .create(&PostParams::default(), &namespace),
        );
        let created = created.context("cannot create a namespace")?;
        let name = name_of(&created.metadata).to_owned();
        Ok(Self { world, name })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Deletes the Services, waits until nothing of them is left, and lets the namespace go.
    pub(crate) fn end(&self) -> Result<()> {
        for service in self.services()? {
            self.delete_service(name_of(&service.metadata))?;
        }
        self.expect_nothing_left()?;
        self.delete()
    }

    /// Lets the namespace go without a look.
    pub(crate) fn delete(&self) -> Result<()> {
        let namespaces = self.world.namespace_api();
        self.world
            .block_on(namespaces.delete(&self.name, &DeleteParams::default()))?;
        Ok(())
    }

    /// Waits until no Service, DaemonSet or svclb pod is left.
    pub(crate) fn expect_nothing_left(&self) -> Result<()> {
        let expected = format!("no Service of {} and nothing of svclb left", self.name);
        wait::until(&expected, PATIENCE, || {
            let left = self
                .world
                .left_of(&self.name)
                .map_err(|error| error.to_string())?;
            let services = self.services().map_err(|error| error.to_string())?;
            let names: Vec<_> = services
                .iter()
                .map(|service| name_of(&service.metadata))
                .collect();
            if left.is_empty() && names.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}, Services {names:?}"))
            }
        })?;
        Ok(())
    }

    /// A Service of type LoadBalancer in front of the app of the same name, with these further fields.
    pub(crate) fn load_balancer(&self, name: &str, spec: Value) -> Result<Service> {
        self.load_balancer_with(name, json!({}), spec)
    }

    /// Likewise, with labels and annotations.
    pub(crate) fn load_balancer_with(
        &self,
        name: &str,
        metadata: Value,
        spec: Value,
    ) -> Result<Service> {
        let mut service = json!({
            "metadata": {"name": name},
            "spec": {"type": "LoadBalancer", "selector": {"app": name}},
        });
        merge(&mut service["metadata"], metadata);
        merge(&mut service["spec"], spec);
        let service: Service = serde_json::from_value(service)?;
        let api = self.world.api::<Service>(&self.name);
        let created = self
            .world
            .block_on(api.create(&PostParams::default(), &service));
        created.with_context(|| format!("cannot create Service {name}"))
    }

    /// All its Services.
    pub(crate) fn services(&self) -> Result<Vec<Service>> {
        self.world.list(&self.name, "")
    }

    /// A Service.
    pub(crate) fn service(&self, name: &str) -> Result<Service> {
        let api = self.world.api::<Service>(&self.name);
        let got = self.world.block_on(api.get(name));
        got.with_context(|| format!("cannot get Service {name}"))
    }

    /// Changes a Service, by a merge patch.
    pub(crate) fn patch_service(&self, name: &str, patch: Value) -> Result<Service> {
        let api = self.world.api::<Service>(&self.name);
        let patched =
            self.world
                .block_on(api.patch(name, &PatchParams::default(), &Patch::Merge(patch)));
        patched.with_context(|| format!("cannot patch Service {name}"))
    }

    /// Deletes a Service; it is gone when its finalizer is.
    pub(crate) fn delete_service(&self, name: &str) -> Result<()> {
        let api = self.world.api::<Service>(&self.name);
        self.world
            .block_on(api.delete(name, &DeleteParams::default()))?;
        Ok(())
    }

    /// The addresses in a Service's status, in their order, with their mode.
    pub(crate) fn published(&self, name: &str) -> Result<Vec<(IpAddr, String)>> {
        published(&self.service(name)?)
    }

    /// Waits until the Service is there, and nothing of svclb in it or of any Service.
    pub(crate) fn expect_released(&self, name: &str) -> Result<Service> {
        let expected = format!("Service {name}, and nothing of svclb in it or of it");
        let service = wait::until(&expected, PATIENCE, || {
            let said = |error: anyhow::Error| format!("{error:#}");
            let service = self.service(name).map_err(said)?;
            let left = self.world.left_of(&self.name).map_err(said)?;
            let status = service.status.clone().unwrap_or_default();
            let addresses = status
                .load_balancer
                .unwrap_or_default()
                .ingress
                .unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            let finalizers = service.metadata.finalizers.clone().unwrap_or_default();
            if left.is_empty()
                && addresses.is_empty()
                && conditions.is_empty()
                && finalizers.is_empty()
            {
                Ok(service)
            } else {
                Err(format!(
                    "{left:?} {addresses:?} {conditions:?} {finalizers:?}"
                ))
            }
        })?;
        Ok(service)
    }

    /// Waits until a Service's status has these addresses, in this order.
    pub(crate) fn expect_addresses(&self, name: &str, addresses: &[IpAddr]) -> Result<()> {
        let expected = format!("Service {name} with the addresses {addresses:?} in its status");
        wait::until(&expected, PATIENCE, || {
            let seen = self.published(name).map_err(|error| format!("{error:#}"))?;
            if seen.iter().map(|(ip, _)| ip).eq(addresses) {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        })?;
        Ok(())
    }

    /// Waits until a Service's status has these addresses with this mode.
    pub(crate) fn expect_mode(&self, name: &str, addresses: &[IpAddr], mode: &str) -> Result<()> {
        let expected =
            format!("Service {name} with {addresses:?}, all with ipMode {mode}, in its status");
        wait::until(&expected, PATIENCE, || {
            let seen = self.published(name).map_err(|error| format!("{error:#}"))?;
            if seen.iter().map(|(ip, _)| ip).eq(addresses)
                && seen.iter().all(|(_, seen)| seen == mode)
            {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        })?;
        Ok(())
    }

    /// A Service's DaemonSet, found as users find it.
    pub(crate) fn daemonset(&self, service: &str) -> Result<Option<DaemonSet>> {
        let mut found: Vec<DaemonSet> = self.world.list(NAMESPACE, &self.labels(service))?;
        ensure!(
            found.len() < 2,
            "Service {service} has {} DaemonSets",
            found.len()
        );
        Ok(found.pop())
    }

    /// A Service's svclb pods, found as users find them, without those that are going.
    pub(crate) fn svclb_pods(&self, service: &str) -> Result<Vec<Pod>> {
        let mut pods: Vec<Pod> = self.world.list(NAMESPACE, &self.labels(service))?;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        pods.sort_by_key(|pod| node_of(pod).to_owned());
        Ok(pods)
    }

    fn labels(&self, service: &str) -> String {
        format!("{SERVICE_NAME}={service},{SERVICE_NAMESPACE}={}", self.name)
    }

    /// Waits until a Service has a Ready svclb pod of its present DaemonSet on exactly these nodes, and
    /// returns them in the nodes' order.
    pub(crate) fn expect_ready_pods(&self, service: &str, nodes: &[Host]) -> Result<Vec<Pod>> {
        let mut wanted: Vec<_> = nodes.iter().map(Host::name).collect();
        wanted.sort();
        let expected = format!("Ready svclb pods of Service {service} on {wanted:?}");
        let pods = wait::until(&expected, PATIENCE, || {
            let said = |error: anyhow::Error| format!("{error:#}");
            let daemonset = self
                .daemonset(service)
                .map_err(said)?
                .ok_or("no DaemonSet")?;
            let status = daemonset.status.clone().unwrap_or_default();
            if status.observed_generation != daemonset.metadata.generation {
                return Err("a DaemonSet that nobody has looked at yet".to_owned());
            }
            let pods = self.svclb_pods(service).map_err(said)?;
            let seen: Vec<_> = pods
                .iter()
                .map(|pod| (node_of(pod), is_ready(pod)))
                .collect();
            // By the template's hash: a change that was taken back leaves a pod of an older generation up to date.
            let current = status.updated_number_scheduled.unwrap_or_default();
            let good = usize::try_from(current) == Ok(wanted.len())
                && seen
                    .iter()
                    .copied()
                    .eq(wanted.iter().map(|node| (node.as_str(), true)));
            if good {
                Ok(pods)
            } else {
                Err(format!(
                    "{seen:?}, {current} of them of the present template"
                ))
            }
        })?;
        Ok(pods)
    }

    /// Follows the addresses in a Service's status from now on.
    pub(crate) fn watch_addresses(&self, service: &str) -> Watched<'w> {
        Watched::start(self.world, &self.name, service)
    }

    /// The events about a Service.
    pub(crate) fn events(&self, service: &str) -> Result<Vec<Event>> {
        let api = self.world.api::<Event>(&self.name);
        let of = format!("regarding.kind=Service,regarding.name={service}");
        let listed = self
            .world
            .block_on(api.list(&ListParams::default().fields(&of)))?;
        Ok(listed.items)
    }

    /// Waits for an event about a Service with this reason, whose note has all of these words.
    pub(crate) fn expect_event(
        &self,
        service: &str,
        reason: &str,
        words: &[&str],
    ) -> Result<String> {
        let expected = format!("an event {reason} on Service {service} with {words:?}");
        let note = wait::until(&expected, PATIENCE, || {
            let events = self.events(service).map_err(|error| format!("{error:#}"))?;
            let notes = || {
                events.iter().map(|event| {
                    (
                        event.reason.clone().unwrap_or_default(),
                        event.note.clone().unwrap_or_default(),
                    )
                })
            };
            notes()
                .find(|(of, note)| of == reason && words.iter().all(|word| note.contains(word)))
                .map(|(_, note)| note)
                .ok_or_else(|| format!("{:?}", notes().collect::<Vec<_>>()))
        })?;
        Ok(note)
    }

    /// A Service's condition of this type.
    pub(crate) fn condition(&self, service: &str, kind: &str) -> Result<Option<Condition>> {
        let conditions = self
            .service(service)?
            .status
            .and_then(|status| status.conditions);
        Ok(conditions
            .unwrap_or_default()
            .into_iter()
            .find(|condition| condition.type_ == kind))
    }
}

/// The addresses in a Service's status.
pub(crate) fn published(service: &Service) -> Result<Vec<(IpAddr, String)>> {
    let status = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    status
        .and_then(|status| status.ingress.as_ref())
        .into_iter()
        .flatten()
        .map(|ingress| {
            let ip = ingress
                .ip
                .as_deref()
                .context("an ingress without an address")?;
            Ok((ip.parse()?, ingress.ip_mode.clone().unwrap_or_default()))
        })
        .collect()
}

/// The host ports of a DaemonSet's pods.
pub(crate) fn host_ports(daemonset: &DaemonSet) -> Vec<i32> {
    let spec = daemonset.spec.as_ref();
    let spec = spec.and_then(|spec| spec.template.spec.as_ref());
    let containers = spec.into_iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| port.host_port).collect()
}

/// The node that a pod is bound to.
pub(crate) fn node_of(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default()
}

/// Whether a pod's condition Ready is true.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Object by object; anything else is replaced.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
