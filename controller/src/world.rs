//! What the cluster looks like now: the facts of all watched objects, indexed by what a decision asks for.
//!
//! Each `apply_…` and `remove_…` answers which Services a change concerns, so that nothing else is looked at again.

mod daemonsets;
mod index;
mod shared;
mod touched;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::facts::{DaemonSetFacts, NodeFacts, PodFacts, ServiceFacts, ServiceKey, SliceFacts};
use crate::names;
use crate::net::Port;
use crate::settings::{ProxyMode, Settings};

use daemonsets::Sent;
use index::Index;
use shared::Admissions;

pub use daemonsets::ClaimForm;
pub use touched::{ObjectKey, Touched};

/// What the cluster looks like now.
#[derive(Clone, Debug)]
pub struct World {
    settings: Arc<Settings>,
    // Boxed, as all that is large: half of a map's places are empty.
    services: BTreeMap<ServiceKey, Box<ServiceFacts>>,
    wanting: Index<Port, ServiceKey>,
    nodes: BTreeMap<String, NodeFacts>,
    allow_listing: usize,
    daemonsets: BTreeMap<ObjectKey, Box<DaemonSetFacts>>,
    admissions: Admissions,
    sent: BTreeMap<String, Sent>,
    vanished: BTreeMap<String, DaemonSetFacts>,
    deleted: BTreeSet<String>,
    by_service: Index<ServiceKey, String>,
    by_port: Index<Port, String>,
    // Sorted by their names. A map of one entry has room for eleven.
    pods: HashMap<ServiceKey, Vec<PodFacts>>,
    pod_services: HashMap<ObjectKey, ServiceKey>,
    slices: HashMap<ServiceKey, Vec<SliceFacts>>,
    slice_services: HashMap<ObjectKey, ServiceKey>,
    api_servers: BTreeSet<(IpAddr, u16)>,
    proxy_mode: ProxyMode,
}

impl World {
    /// An empty cluster.
    #[must_use]
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            services: BTreeMap::new(),
            wanting: Index::default(),
            nodes: BTreeMap::new(),
            allow_listing: 0,
            daemonsets: BTreeMap::new(),
            admissions: Admissions::default(),
            sent: BTreeMap::new(),
            vanished: BTreeMap::new(),
            deleted: BTreeSet::new(),
            by_service: Index::default(),
            by_port: Index::default(),
            pods: HashMap::new(),
            pod_services: HashMap::new(),
            slices: HashMap::new(),
            slice_services: HashMap::new(),
            api_servers: BTreeSet::new(),
            proxy_mode: ProxyMode::Unknown,
        }
    }

    /// What the controller was started with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A Service appeared or changed.
    pub fn apply_service(&mut self, service: &Service) -> Touched {
        let facts = ServiceFacts::from(service);
        let key = facts.key.clone();
        let before = self.services.get(&key);
        if before.is_some_and(|before| **before == facts) {
            return Touched::nothing();
        }
        // A status that changed concerns its Service alone; a wish may free or claim ports for others.
        if before.is_some_and(|before| before.same_wish(&facts)) {
            self.services.insert(key.clone(), Box::new(facts));
            return Touched::these([key]);
        }
        let mut touched = self.forget_service(&key);
        for port in facts.claims() {
            self.wanting.add(port, key.clone());
        }
        touched.merge(Touched::these(
            facts
                .claims()
                .flat_map(|port| self.wanting.of(&port).to_vec()),
        ));
        self.services.insert(key.clone(), Box::new(facts));
        touched.services.insert(key);
        touched
    }

    /// A Service is gone.
    pub fn remove_service(&mut self, key: &ServiceKey) -> Touched {
        let mut touched = self.forget_service(key);
        touched.services.insert(key.clone());
        touched
    }

    fn forget_service(&mut self, key: &ServiceKey) -> Touched {
        let Some(facts) = self.services.remove(key) else {
            return Touched::nothing();
        };
        let mut touched = Touched::nothing();
        for port in facts.claims() {
            self.wanting.remove(&port, key);
            let others = self.wanting.of(&port).iter().cloned();
            touched.services.extend(others);
        }
        touched
    }

    /// A Node appeared or changed.
    pub fn apply_node(&mut self, node: &Node) -> Touched {
        let mut facts = NodeFacts::from(node);
        if let Some(before) = self.nodes.get(&facts.name) {
            facts.readiness = facts.readiness.after(before.readiness);
            if *before == facts {
                return Touched::nothing();
            }
        }
        self.forget_node(&facts.name);
        self.allow_listing += usize::from(allow_lists(&facts));
        self.nodes.insert(facts.name.clone(), facts);
        Touched::everything()
    }

    /// A Node is gone.
    pub fn remove_node(&mut self, name: &str) -> Touched {
        if self.forget_node(name) {
            Touched::everything()
        } else {
            Touched::nothing()
        }
    }

    fn forget_node(&mut self, name: &str) -> bool {
        let Some(before) = self.nodes.remove(name) else {
            return false;
        };
        self.allow_listing -= usize::from(allow_lists(&before));
        true
    }

    /// A pod appeared or changed. Pods without ServiceLB's labels are ignored.
    pub fn apply_pod(&mut self, pod: &Pod) -> Touched {
        let Some(facts) = PodFacts::of(pod) else {
            return Touched::nothing();
        };
        let key = ObjectKey::new(&facts.namespace, &facts.name);
        let service = facts.service.clone();
        self.pod_services.insert(key.clone(), service.clone());
        let pods = self.pods.entry(service.clone()).or_default();
        match place_of_pod(pods, &key) {
            Ok(there) if pods[there] == facts => return Touched::nothing(),
            Ok(there) => pods[there] = facts,
            Err(place) => {
                pods.reserve_exact(1);
                pods.insert(place, facts);
            }
        }
        Touched::these([service])
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, key: &ObjectKey) -> Touched {
        let Some(service) = self.pod_services.remove(key) else {
            return Touched::nothing();
        };
        if let Some(pods) = self.pods.get_mut(&service) {
            if let Ok(there) = place_of_pod(pods, key) {
                pods.remove(there);
            }
            if pods.is_empty() {
                self.pods.remove(&service);
            }
        }
        Touched::these([service])
    }

    /// An EndpointSlice appeared or changed.
    pub fn apply_slice(&mut self, slice: &EndpointSlice) -> Touched {
        let Some(facts) = SliceFacts::of(slice) else {
            return Touched::nothing();
        };
        let key = ObjectKey::new(&facts.service.namespace, &facts.name);
        let service = facts.service.clone();
        self.slice_services.insert(key, service.clone());
        let slices = self.slices.entry(service.clone()).or_default();
        match place_of_slice(slices, &facts.name) {
            Ok(there) if slices[there] == facts => return Touched::nothing(),
            Ok(there) => slices[there] = facts,
            Err(place) => {
                slices.reserve_exact(1);
                slices.insert(place, facts);
            }
        }
        self.touched_by_endpoints(service)
    }

    /// An EndpointSlice is gone.
    pub fn remove_slice(&mut self, key: &ObjectKey) -> Touched {
        let Some(service) = self.slice_services.remove(key) else {
            return Touched::nothing();
        };
        if let Some(slices) = self.slices.get_mut(&service) {
            if let Ok(there) = place_of_slice(slices, &key.name) {
                slices.remove(there);
            }
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.touched_by_endpoints(service)
    }

    fn touched_by_endpoints(&mut self, service: ServiceKey) -> Touched {
        if service == ServiceKey::new("default", "kubernetes") {
            let servers: BTreeSet<_> = self
                .slices
                .get(&service)
                .into_iter()
                .flatten()
                .flat_map(|slice| slice.api_servers.iter().copied())
                .collect();
            if servers != self.api_servers {
                self.api_servers = servers;
                return Touched::everything();
            }
            return Touched::nothing();
        }
        if self.services.get(&service).is_some_and(|facts| facts.local) {
            Touched::these([service])
        } else {
            Touched::nothing()
        }
    }

    /// The Services that a list did not name.
    pub fn services_beside(&self, named: &HashSet<ObjectKey>) -> Vec<ObjectKey> {
        let keys = self.services.keys();
        let keys = keys.map(|key| ObjectKey::new(&*key.namespace, &*key.name));
        keys.filter(|key| !named.contains(key)).collect()
    }

    /// The Nodes that a list did not name.
    pub fn nodes_beside(&self, named: &HashSet<ObjectKey>) -> Vec<ObjectKey> {
        let keys = self.nodes.keys().map(|name| ObjectKey::new("", name));
        keys.filter(|key| !named.contains(key)).collect()
    }

    /// The DaemonSets that a list did not name.
    pub fn daemonsets_beside(&self, named: &HashSet<ObjectKey>) -> Vec<ObjectKey> {
        beside(self.daemonsets.keys(), named)
    }

    /// The svclb pods that a list did not name.
    pub fn pods_beside(&self, named: &HashSet<ObjectKey>) -> Vec<ObjectKey> {
        beside(self.pod_services.keys(), named)
    }

    /// The EndpointSlices that a list did not name.
    pub fn slices_beside(&self, named: &HashSet<ObjectKey>) -> Vec<ObjectKey> {
        beside(self.slice_services.keys(), named)
    }

    /// kube-proxy's mode was read.
    pub fn set_proxy_mode(&mut self, mode: ProxyMode) -> Touched {
        if self.proxy_mode == mode {
            return Touched::nothing();
        }
        self.proxy_mode = mode;
        Touched::everything()
    }

    /// All Services.
    pub fn services(&self) -> impl Iterator<Item = &ServiceFacts> {
        self.services.values().map(Box::as_ref)
    }

    /// One Service.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&ServiceFacts> {
        self.services.get(key).map(Box::as_ref)
    }

    /// The Services that have this port, of whatever type they are.
    pub fn services_with_port(&self, port: Port) -> impl Iterator<Item = &ServiceFacts> {
        let keys = self.wanting.of(&port).iter();
        keys.filter_map(|key| self.service(key))
    }

    /// All Nodes, by name.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeFacts> {
        self.nodes.values()
    }

    /// One Node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeFacts> {
        self.nodes.get(name)
    }

    /// Does any Node have the label [`names::ENABLE_LB`] now?
    #[must_use]
    pub fn allow_listing(&self) -> bool {
        self.allow_listing > 0
    }

    /// The svclb pods of a Service, ServiceLB's among them.
    pub fn pods_of(&self, service: &ServiceKey) -> impl Iterator<Item = &PodFacts> {
        self.pods.get(service).into_iter().flatten()
    }

    /// The EndpointSlices of a Service.
    pub fn slices_of(&self, service: &ServiceKey) -> impl Iterator<Item = &SliceFacts> {
        self.slices.get(service).into_iter().flatten()
    }

    /// Does an API server listen there?
    #[must_use]
    pub fn is_api_server(&self, address: IpAddr, port: u16) -> bool {
        self.api_servers.contains(&(address, port))
    }

    /// kube-proxy's mode.
    #[must_use]
    pub fn proxy_mode(&self) -> ProxyMode {
        self.proxy_mode
    }
}

fn beside<'a>(
    keys: impl Iterator<Item = &'a ObjectKey>,
    named: &HashSet<ObjectKey>,
) -> Vec<ObjectKey> {
    keys.filter(|key| !named.contains(*key)).cloned().collect()
}

fn place_of_pod(pods: &[PodFacts], key: &ObjectKey) -> Result<usize, usize> {
    let wanted = (&key.namespace, &key.name);
    pods.binary_search_by(|pod| (&pod.namespace, &pod.name).cmp(&wanted))
}

fn place_of_slice(slices: &[SliceFacts], name: &str) -> Result<usize, usize> {
    slices.binary_search_by(|slice| slice.name.as_str().cmp(name))
}

/// A node that is about to go has no say in whether there is an allow-list.
fn allow_lists(node: &NodeFacts) -> bool {
    !node.leaving && node.labels.contains_key(names::ENABLE_LB)
}

#[cfg(test)]
mod tests;
