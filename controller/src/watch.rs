//! The watches: what the API server tells, put into the [`World`].

use std::collections::HashSet;
use std::fmt;

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll, select_all};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::{Config, Event};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::facts::ServiceKey;
use crate::names;
use crate::settings::{ProxyMode, Settings};
use crate::world::{ObjectKey, Touched, World};

/// Objects in a page of the first list. A page is held in full for a moment, and kube's 500 would be most of this
/// process's memory from then on.
const PAGE: u32 = 25;

/// The same for the kinds whose objects are large before they are reduced.
const PAGE_OF_LARGE: u32 = 8;

/// What a watch told.
#[derive(Debug)]
pub enum Change {
    /// Of a Service.
    Service(Event<Service>),
    /// Of a Node.
    Node(Event<Node>),
    /// Of a DaemonSet in any namespace.
    DaemonSet(Event<DaemonSet>),
    /// Of a svclb pod.
    Pod(Event<Pod>),
    /// Of an EndpointSlice.
    Slice(Event<EndpointSlice>),
    /// Of kube-proxy's configuration.
    ProxyConfig(Event<ConfigMap>),
    /// A watch broke. It is started again by itself, after a pause that grows.
    Broke {
        /// What it watched.
        kind: Kind,
        /// Why.
        error: watcher::Error,
    },
}

/// What is watched.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// Services
    Services,
    /// Nodes
    Nodes,
    /// DaemonSets
    DaemonSets,
    /// svclb pods
    Pods,
    /// EndpointSlices
    Slices,
    /// ConfigMap `kube-system/kube-proxy`
    ProxyConfig,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Services => "Services",
            Self::Nodes => "Nodes",
            Self::DaemonSets => "DaemonSets",
            Self::Pods => "Pods",
            Self::Slices => "EndpointSlices",
            Self::ProxyConfig => "ConfigMap kube-system/kube-proxy",
        })
    }
}

/// All watches as one stream.
pub type Changes = SelectAll<BoxStream<'static, Change>>;

/// Starts all watches.
pub fn start(client: &Client, settings: &Settings, streaming_lists: bool) -> Changes {
    let config = |page: u32| {
        let config = Config::default().page_size(page);
        if streaming_lists {
            config.streaming_lists()
        } else {
            config
        }
    };
    let (small, large) = (|| config(PAGE), || config(PAGE_OF_LARGE));
    let everywhere = || client.clone();
    let pods = Api::namespaced(client.clone(), &settings.namespace);
    let of_service = small().labels(names::SLICE_SERVICE);
    let svclb = small().labels(names::SERVICE_NAME);
    let kube_proxy = small().fields(&format!("metadata.name={}", names::KUBE_PROXY));
    select_all([
        follow(
            Api::all(everywhere()),
            small(),
            Kind::Services,
            Change::Service,
        ),
        follow(Api::all(everywhere()), large(), Kind::Nodes, Change::Node),
        follow(
            Api::all(everywhere()),
            large(),
            Kind::DaemonSets,
            Change::DaemonSet,
        ),
        follow(pods, svclb, Kind::Pods, Change::Pod),
        follow(
            Api::all(everywhere()),
            of_service,
            Kind::Slices,
            Change::Slice,
        ),
        follow(
            in_kube_system(client),
            kube_proxy,
            Kind::ProxyConfig,
            Change::ProxyConfig,
        ),
    ])
}

fn in_kube_system<K>(client: &Client) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), names::KUBE_SYSTEM)
}

fn follow<K>(
    api: Api<K>,
    config: Config,
    kind: Kind,
    change: impl Fn(Event<K>) -> Change + Send + 'static,
) -> BoxStream<'static, Change>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + 'static,
{
    watcher(api, config)
        .default_backoff()
        .map(move |event| match event {
            Ok(event) => change(event),
            Err(error) => Change::Broke { kind, error },
        })
        .boxed()
}

/// The world as the watches keep it.
#[derive(Debug)]
pub struct Stores {
    /// What there is.
    pub world: World,
    services: Listing,
    nodes: Listing,
    daemonsets: Listing,
    pods: Listing,
    slices: Listing,
    proxy_config: Listing,
}

impl Stores {
    /// Nothing has been told yet.
    pub fn new(world: World) -> Self {
        Self {
            world,
            services: Listing::default(),
            nodes: Listing::default(),
            daemonsets: Listing::default(),
            pods: Listing::default(),
            slices: Listing::default(),
            proxy_config: Listing::default(),
        }
    }

    /// Has everything been listed once? kube-proxy's configuration may be nobody's to read: that is an answer too.
    pub fn synced(&self) -> bool {
        [
            &self.services,
            &self.nodes,
            &self.daemonsets,
            &self.pods,
            &self.slices,
            &self.proxy_config,
        ]
        .iter()
        .all(|listing| listing.complete)
    }

    /// Takes in what a watch told; answers which Services it concerns.
    pub fn take_in(&mut self, change: Change) -> Touched {
        let world = &mut self.world;
        match change {
            Change::Service(event) => self.services.follow(
                world,
                event,
                World::apply_service,
                |world, key| world.remove_service(&ServiceKey::new(&*key.namespace, &*key.name)),
                World::services_beside,
            ),
            Change::Node(event) => self.nodes.follow(
                world,
                event,
                World::apply_node,
                |world, key| world.remove_node(&key.name),
                World::nodes_beside,
            ),
            Change::DaemonSet(event) => {
                let ends = matches!(event, Event::InitDone);
                if matches!(event, Event::Init) {
                    world.daemonset_list_begins();
                }
                let mut touched = self.daemonsets.follow(
                    world,
                    event,
                    World::apply_daemonset,
                    World::remove_daemonset,
                    World::daemonsets_beside,
                );
                if ends {
                    touched.merge(world.daemonset_list_ended());
                }
                touched
            }
            Change::Pod(event) => self.pods.follow(
                world,
                event,
                World::apply_pod,
                World::remove_pod,
                World::pods_beside,
            ),
            Change::Slice(event) => self.slices.follow(
                world,
                event,
                World::apply_slice,
                World::remove_slice,
                World::slices_beside,
            ),
            Change::ProxyConfig(event) => self.proxy_config.follow(
                world,
                event,
                |world, config| world.set_proxy_mode(proxy_mode(config)),
                |world, _| world.set_proxy_mode(ProxyMode::Unknown),
                |_, named| match named.is_empty() {
                    true => vec![ObjectKey::new(names::KUBE_SYSTEM, names::KUBE_PROXY)],
                    false => Vec::new(),
                },
            ),
            Change::Broke { kind, .. } => {
                self.proxy_config.complete |= kind == Kind::ProxyConfig;
                Touched::default()
            }
        }
    }
}

/// How far a kind has been listed.
#[derive(Debug, Default)]
struct Listing {
    /// While a list is under way: those that it has named so far. What is known and not named is gone.
    named: Option<HashSet<ObjectKey>>,
    complete: bool,
}

impl Listing {
    fn follow<K: Resource>(
        &mut self,
        world: &mut World,
        event: Event<K>,
        apply: impl FnOnce(&mut World, &K) -> Touched,
        remove: impl Fn(&mut World, &ObjectKey) -> Touched,
        not_named: impl FnOnce(&World, &HashSet<ObjectKey>) -> Vec<ObjectKey>,
    ) -> Touched {
        match event {
            Event::Init => {
                self.named = Some(HashSet::new());
                Touched::default()
            }
            Event::InitApply(object) | Event::Apply(object) => {
                if let Some(named) = &mut self.named {
                    named.insert(key_of(&object));
                }
                apply(world, &object)
            }
            Event::Delete(object) => remove(world, &key_of(&object)),
            Event::InitDone => {
                let named = self.named.take().unwrap_or_default();
                self.complete = true;
                let mut touched = Touched::default();
                for gone in not_named(world, &named) {
                    touched.merge(remove(world, &gone));
                }
                touched
            }
        }
    }
}

fn key_of(object: &impl Resource) -> ObjectKey {
    ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any())
}

/// `mode` of the `KubeProxyConfiguration` that kubeadm keeps under `config.conf`. Empty means the platform's default.
fn proxy_mode(config: &ConfigMap) -> ProxyMode {
    let text = config
        .data
        .as_ref()
        .and_then(|data| data.get("config.conf"));
    let Some(Ok(config)) = text.map(|text| serde_saphyr::from_str::<Value>(text)) else {
        return ProxyMode::Unknown;
    };
    match config["mode"].as_str().unwrap_or_default() {
        "" | "iptables" => ProxyMode::Iptables,
        "ipvs" => ProxyMode::Ipvs,
        "nftables" => ProxyMode::Nftables,
        _ => ProxyMode::Unknown,
    }
}

#[cfg(test)]
mod tests;
