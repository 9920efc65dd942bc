//! What the cluster looks like now: the facts of all watched objects, indexed by what a decision asks for.
//!
//! Each `apply_…` and `remove_…` answers which Services a change concerns, so that nothing else is looked at again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::facts::{DaemonSetFacts, NodeFacts, PodFacts, ServiceFacts, ServiceKey, SliceFacts};
use crate::names;
use crate::net::Port;
use crate::settings::{ProxyMode, Settings};

/// A namespaced object's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectKey {
    /// A key of two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// The Services that a change concerns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Every Service that there is.
    pub all: bool,
    /// These. A key may be of a Service that is gone: its DaemonSet is to go too.
    pub services: BTreeSet<ServiceKey>,
}

impl Touched {
    fn nothing() -> Self {
        Self::default()
    }

    fn everything() -> Self {
        Self {
            all: true,
            services: BTreeSet::new(),
        }
    }

    fn these(services: impl IntoIterator<Item = ServiceKey>) -> Self {
        Self {
            all: false,
            services: services.into_iter().collect(),
        }
    }

    /// What either concerns.
    pub fn merge(&mut self, other: Self) {
        self.all |= other.all;
        self.services.extend(other.services);
    }

    /// Does the change concern nobody?
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        !self.all && self.services.is_empty()
    }
}

/// In which form a DaemonSet claims a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimForm {
    /// The watch shows it.
    Shown,
    /// We have written it, and the watch does not show that yet.
    Sent,
    /// Somebody deleted it, and its Service has not had its turn since.
    Vanished,
}

/// What the cluster looks like now.
#[derive(Clone, Debug)]
pub struct World {
    settings: Arc<Settings>,
    services: BTreeMap<ServiceKey, ServiceFacts>,
    wanting: HashMap<Port, BTreeSet<ServiceKey>>,
    nodes: BTreeMap<String, NodeFacts>,
    allow_listing: usize,
    daemonsets: BTreeMap<ObjectKey, DaemonSetFacts>,
    sent: BTreeMap<String, DaemonSetFacts>,
    vanished: BTreeMap<String, DaemonSetFacts>,
    deleted: BTreeSet<String>,
    by_service: HashMap<ServiceKey, BTreeSet<String>>,
    by_port: HashMap<Port, BTreeSet<String>>,
    pods: HashMap<ServiceKey, BTreeMap<ObjectKey, PodFacts>>,
    pod_services: HashMap<ObjectKey, ServiceKey>,
    slices: HashMap<ServiceKey, BTreeMap<String, SliceFacts>>,
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
            wanting: HashMap::new(),
            nodes: BTreeMap::new(),
            allow_listing: 0,
            daemonsets: BTreeMap::new(),
            sent: BTreeMap::new(),
            vanished: BTreeMap::new(),
            deleted: BTreeSet::new(),
            by_service: HashMap::new(),
            by_port: HashMap::new(),
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
        if before == Some(&facts) {
            return Touched::nothing();
        }
        // A status that changed concerns its Service alone; a wish may free or claim ports for others.
        if before.is_some_and(|before| before.same_wish(&facts)) {
            self.services.insert(key.clone(), facts);
            return Touched::these([key]);
        }
        let mut touched = self.forget_service(&key);
        for port in facts.claims() {
            self.wanting.entry(port).or_default().insert(key.clone());
        }
        touched.merge(Touched::these(
            facts.claims().flat_map(|port| self.wanting[&port].clone()),
        ));
        self.services.insert(key.clone(), facts);
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
            if let Some(wanting) = self.wanting.get_mut(&port) {
                wanting.remove(key);
                touched.services.extend(wanting.iter().cloned());
                if wanting.is_empty() {
                    self.wanting.remove(&port);
                }
            }
        }
        touched
    }

    /// A Node appeared or changed.
    pub fn apply_node(&mut self, node: &Node) -> Touched {
        let facts = NodeFacts::from(node);
        if self.nodes.get(&facts.name) == Some(&facts) {
            return Touched::nothing();
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

    /// A DaemonSet appeared or changed. All DaemonSets of the cluster may be shown; those without bearing are ignored.
    pub fn apply_daemonset(&mut self, daemonset: &DaemonSet) -> Touched {
        let facts = DaemonSetFacts::from(daemonset);
        let key = ObjectKey::new(&facts.namespace, &facts.name);
        let has_such_name =
            facts.namespace == self.settings.namespace && facts.name.starts_with("svclb-");
        let bears = facts.is_ours() || facts.servicelb || has_such_name;
        if !bears && !self.daemonsets.contains_key(&key) {
            return Touched::nothing();
        }
        if self.daemonsets.get(&key) == Some(&facts) {
            return Touched::nothing();
        }
        let at_work = self.servicelb_at_work();
        let before = self.daemonsets.insert(key.clone(), facts);
        let facts = &self.daemonsets[&key];
        let mut touched = self.touched_by(facts);
        if let Some(before) = &before {
            touched.merge(self.touched_by(before));
        }
        if facts.namespace == self.settings.namespace {
            // A deletion that nobody here decided: the Service keeps its ports until it has been looked at.
            if !facts.deleting {
                self.vanished.remove(&key.name);
            } else if let Some(before) = before {
                self.note_vanished(before);
            }
            if self
                .sent
                .get(&key.name)
                .is_some_and(|sent| sent.applied == self.daemonsets[&key].applied)
            {
                self.sent.remove(&key.name);
            }
            self.index_daemonset(&key.name);
        }
        touched.all |= at_work != self.servicelb_at_work();
        touched
    }

    /// A DaemonSet is gone.
    pub fn remove_daemonset(&mut self, key: &ObjectKey) -> Touched {
        let at_work = self.servicelb_at_work();
        let Some(before) = self.daemonsets.remove(key) else {
            return Touched::nothing();
        };
        let mut touched = self.touched_by(&before);
        touched.all |= at_work != self.servicelb_at_work();
        self.note_vanished(before);
        touched
    }

    fn note_vanished(&mut self, before: DaemonSetFacts) {
        let by_us = self.deleted.remove(&before.uid);
        if !by_us
            && !before.deleting
            && before.is_ours()
            && before.namespace == self.settings.namespace
        {
            self.vanished.insert(before.name.clone(), before);
        }
    }

    /// A DaemonSet is about to be created or applied: its claims count from now on, before the watch shows it.
    pub fn daemonset_sent(&mut self, daemonset: &DaemonSet) {
        let facts = DaemonSetFacts::from(daemonset);
        let name = facts.name.clone();
        self.vanished.remove(&name);
        self.sent.insert(name.clone(), facts);
        self.index_daemonset(&name);
    }

    /// The write did not happen: its claims are void.
    pub fn daemonset_not_sent(&mut self, name: &str) -> Touched {
        match self.sent.remove(name) {
            Some(facts) => self.touched_by(&facts),
            None => Touched::nothing(),
        }
    }

    /// We are about to delete the DaemonSet of this UID: once it goes, it claims nothing.
    pub fn daemonset_deleted(&mut self, uid: &str) {
        self.deleted.insert(uid.to_owned());
    }

    /// The deletion did not happen.
    pub fn daemonset_not_deleted(&mut self, uid: &str) {
        self.deleted.remove(uid);
    }

    /// Have we deleted the DaemonSet of this UID, and the watch does not show that yet?
    #[must_use]
    pub fn is_being_deleted(&self, uid: &str) -> bool {
        self.deleted.contains(uid)
    }

    /// The indices name a DaemonSet for as long as there is one in any form; who reads them looks at the DaemonSet itself.
    fn index_daemonset(&mut self, name: &str) {
        let facts = [
            self.sent.get(name),
            self.vanished.get(name),
            self.daemonset(name),
        ];
        let facts = facts.into_iter().flatten();
        let (services, ports): (Vec<_>, Vec<_>) = facts
            .map(|facts| (facts.service.clone(), facts.ports.clone()))
            .unzip();
        for service in services.into_iter().flatten() {
            self.by_service
                .entry(service)
                .or_default()
                .insert(name.to_owned());
        }
        for port in ports.into_iter().flatten() {
            self.by_port
                .entry(port)
                .or_default()
                .insert(name.to_owned());
        }
    }

    /// The Service that a DaemonSet is for, the one whose DaemonSet would have its name, and those that want one of its ports.
    fn touched_by(&self, facts: &DaemonSetFacts) -> Touched {
        let displaced = (facts.service.is_none() && facts.name.starts_with("svclb-"))
            .then(|| {
                let own = |service: &&ServiceFacts| {
                    names::daemonset(&service.key.name, &service.uid) == facts.name
                };
                self.services.values().find(own)
            })
            .flatten()
            .map(|service| &service.key);
        let others = facts
            .ports
            .iter()
            .filter_map(|port| self.wanting.get(port))
            .flatten();
        Touched::these(others.chain(&facts.service).chain(displaced).cloned())
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
        if pods.get(&key) == Some(&facts) {
            return Touched::nothing();
        }
        pods.insert(key, facts);
        Touched::these([service])
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, key: &ObjectKey) -> Touched {
        let Some(service) = self.pod_services.remove(key) else {
            return Touched::nothing();
        };
        if let Some(pods) = self.pods.get_mut(&service) {
            pods.remove(key);
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
        if slices.get(&facts.name) == Some(&facts) {
            return Touched::nothing();
        }
        slices.insert(facts.name.clone(), facts);
        self.touched_by_endpoints(service)
    }

    /// An EndpointSlice is gone.
    pub fn remove_slice(&mut self, key: &ObjectKey) -> Touched {
        let Some(service) = self.slice_services.remove(key) else {
            return Touched::nothing();
        };
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.remove(&key.name);
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
                .flat_map(|slices| slices.values())
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

    /// kube-proxy's mode was read.
    pub fn set_proxy_mode(&mut self, mode: ProxyMode) -> Touched {
        if self.proxy_mode == mode {
            return Touched::nothing();
        }
        self.proxy_mode = mode;
        Touched::everything()
    }

    /// Is k3s' or RKE2's own ServiceLB at work? Its mark on any DaemonSet says so, whoever made that.
    #[must_use]
    pub fn servicelb_at_work(&self) -> bool {
        self.servicelb_daemonsets().next().is_some()
    }

    /// The DaemonSets that carry ServiceLB's mark.
    pub fn servicelb_daemonsets(&self) -> impl Iterator<Item = &DaemonSetFacts> {
        self.daemonsets.values().filter(|facts| facts.servicelb)
    }

    /// The DaemonSets that we made and that are still there, whoever has put a mark on them since.
    pub fn our_daemonsets(&self) -> impl Iterator<Item = &DaemonSetFacts> {
        self.daemonsets.values().filter(|facts| facts.is_ours())
    }

    /// All Services.
    pub fn services(&self) -> impl Iterator<Item = &ServiceFacts> {
        self.services.values()
    }

    /// One Service.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&ServiceFacts> {
        self.services.get(key)
    }

    /// The Services that have this port, of whatever type they are.
    pub fn services_with_port(&self, port: Port) -> impl Iterator<Item = &ServiceFacts> {
        self.wanting
            .get(&port)
            .into_iter()
            .flatten()
            .filter_map(|key| self.services.get(key))
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

    /// The DaemonSet of this name in our namespace, as the watch shows it.
    #[must_use]
    pub fn daemonset(&self, name: &str) -> Option<&DaemonSetFacts> {
        self.daemonsets.get(&self.in_our_namespace(name))
    }

    /// The DaemonSet of this name that we have sent and the watch has not shown yet.
    #[must_use]
    pub fn daemonset_in_flight(&self, name: &str) -> Option<&DaemonSetFacts> {
        self.sent.get(name)
    }

    /// The DaemonSets in our namespace that are for this Service or one of its name before it.
    pub fn daemonsets_of<'a>(
        &'a self,
        service: &ServiceKey,
    ) -> impl Iterator<Item = &'a DaemonSetFacts> + use<'a> {
        self.by_service
            .get(service)
            .into_iter()
            .flatten()
            .filter_map(|name| self.daemonset(name))
    }

    /// The DaemonSets of ours that claim this port somewhere, in each form in which they do.
    pub fn claims_on(&self, port: Port) -> impl Iterator<Item = (ClaimForm, &DaemonSetFacts)> {
        self.by_port
            .get(&port)
            .into_iter()
            .flatten()
            .flat_map(move |name| {
                let shown = self
                    .daemonset(name)
                    .filter(|facts| facts.is_ours() && !facts.deleting);
                let forms = [
                    (ClaimForm::Shown, shown),
                    (ClaimForm::Sent, self.sent.get(name)),
                    (ClaimForm::Vanished, self.vanished.get(name)),
                ];
                forms.into_iter().filter_map(move |(form, facts)| {
                    Some((form, facts.filter(|facts| facts.ports.contains(&port))?))
                })
            })
    }

    /// The svclb pods of a Service, ServiceLB's among them.
    pub fn pods_of(&self, service: &ServiceKey) -> impl Iterator<Item = &PodFacts> {
        self.pods
            .get(service)
            .into_iter()
            .flat_map(|pods| pods.values())
    }

    /// The EndpointSlices of a Service.
    pub fn slices_of(&self, service: &ServiceKey) -> impl Iterator<Item = &SliceFacts> {
        self.slices
            .get(service)
            .into_iter()
            .flat_map(|slices| slices.values())
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

    fn in_our_namespace(&self, name: &str) -> ObjectKey {
        ObjectKey::new(&self.settings.namespace, name)
    }
}

/// A node that is about to go has no say in whether there is an allow-list.
fn allow_lists(node: &NodeFacts) -> bool {
    !node.leaving && node.labels.contains_key(names::ENABLE_LB)
}

#[cfg(test)]
mod tests;
