//! Three nodes with a backend pod on each, and the Services that are made, changed and deleted.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use svclb_e2e::{Host, Options, Progress, Temporary};
use tokio::runtime::Runtime;

use crate::cluster::{apply, build_images, pod_namespace};
use crate::controller::{Controller, NAMESPACE, SERVICE_LABEL};
use crate::folders::Folders;
use crate::load::Server;

/// The port of all Services here, and of the backends.
const PORT: u16 = 8080;
/// How long a client goes on trying until a node answers.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries, and what a try may take: the precision of "first byte".
const PAUSE: Duration = Duration::from_millis(5);
const TRY: Duration = Duration::from_millis(100);

/// The cluster, with a client for the bench itself.
pub(super) struct Bed<'a> {
    pub(super) cluster: Temporary,
    pub(super) folders: &'a Folders,
    runtime: Runtime,
    client: Client,
    _servers: Vec<Server>,
}

impl<'a> Bed<'a> {
    /// Brings the cluster up. kube-proxy's `minSyncPeriod` is what most of a first byte waits for.
    pub(super) fn new(folders: &'a Folders, min_sync: Duration) -> Result<Self> {
        folders.build("svclb-controller")?;
        build_images(folders, &["svclb-pod"])?;
        let options = Options {
            name: super::CLUSTER.to_owned(),
            proxy_min_sync: min_sync,
            // The wait for a node that is cut off is Kubernetes' own; the kubelets renew every second.
            node_monitor_grace: Duration::from_secs(4),
            ..Options::default()
        };
        let cluster =
            Temporary::up(&options, &Progress::silent()).context("bringing the cluster up")?;
        cluster.load(&[&folders.repository.join("target/images/svclb-pod.tar")])?;
        Controller::install(&cluster, folders)?;
        let numbers = 1..=cluster.options().nodes;
        let backends: Vec<Value> = numbers.clone().map(backend).collect();
        apply(&cluster, folders, &backends)?;
        cluster.kubectl(&[
            "wait",
            "--for=condition=Ready",
            "pod",
            "--all",
            "--timeout=90s",
        ])?;
        let servers = numbers
            .map(|number| {
                pod_namespace(&cluster, &backend_name(number))?
                    .within(|| Server::start([PORT].into_iter(), 4))
            })
            .collect::<Result<_>>()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("making a runtime")?;
        let client = runtime.block_on(async { cluster.kube() })?;
        Ok(Self {
            cluster,
            folders,
            runtime,
            client,
            _servers: servers,
        })
    }

    /// The nodes' addresses, in the order of the nodes.
    pub(super) fn addresses(&self) -> Result<Vec<Ipv4Addr>> {
        let addresses = self
            .cluster
            .nodes()
            .iter()
            .map(Host::ipv4)
            .collect::<Option<_>>();
        addresses.context("a node has no IPv4 address")
    }

    /// Creates a Service of type LoadBalancer, with these fields besides the usual ones.
    pub(super) fn create(&self, name: &str, more: &Value) -> Result<()> {
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {
                "type": "LoadBalancer", "ipFamilies": ["IPv4"], "selector": {"app": "backend"},
                "ports": [{"name": "tcp", "port": PORT}],
            },
        });
        merge(&mut service["spec"], more);
        let (services, service) = (self.services(), object(service)?);
        let parameters = PostParams::default();
        self.ask(services.create(&parameters, &service), || {
            format!("creating Service {name}")
        })
    }

    /// Changes a Service's type.
    pub(super) fn set_type(&self, name: &str, kind: &str) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": {"type": kind}}));
        let services = self.services();
        let parameters = PatchParams::default();
        self.ask(services.patch(name, &parameters, &patch), || {
            format!("patching Service {name}")
        })
    }

    /// Deletes a Service.
    pub(super) fn delete(&self, name: &str) -> Result<()> {
        let (services, parameters) = (self.services(), DeleteParams::default());
        self.ask(services.delete(name, &parameters), || {
            format!("deleting Service {name}")
        })
    }

    /// Sets or removes the label `at` of a node's backend, which the Local Service selects by.
    pub(super) fn place(&self, node: usize, here: bool) -> Result<()> {
        let value = if here { json!("here") } else { Value::Null };
        let patch = Patch::Merge(json!({"metadata": {"labels": {"at": value}}}));
        let pods = Api::<Pod>::namespaced(self.client.clone(), "default");
        let name = backend_name(node);
        let parameters = PatchParams::default();
        self.ask(pods.patch(&name, &parameters, &patch), || {
            format!("labelling pod {name}")
        })
    }

    /// The DaemonSet that the controller made for a Service.
    pub(super) fn daemonset_of(&self, name: &str) -> Result<DaemonSet> {
        let of_service = ListParams::default().labels(&format!("{SERVICE_LABEL}={name}"));
        let daemonsets = self.daemonsets();
        let found = self.runtime.block_on(daemonsets.list(&of_service));
        let found = found.with_context(|| format!("listing the DaemonSets of Service {name}"))?;
        let first = found.items.into_iter().next();
        first.with_context(|| format!("Service {name} has no DaemonSet"))
    }

    /// Creates a DaemonSet.
    pub(super) fn create_daemonset(&self, daemonset: &DaemonSet) -> Result<()> {
        let (daemonsets, parameters) = (self.daemonsets(), PostParams::default());
        self.ask(daemonsets.create(&parameters, daemonset), || {
            "creating a DaemonSet".to_owned()
        })
    }

    /// Deletes a DaemonSet as the controller does: its pods go after it.
    pub(super) fn delete_daemonset(&self, name: &str) -> Result<()> {
        let (daemonsets, parameters) = (self.daemonsets(), DeleteParams::background());
        self.ask(daemonsets.delete(name, &parameters), || {
            format!("deleting DaemonSet {name}")
        })
    }

    /// Patches a Service's status subresource, which takes finalizers as well.
    pub(super) fn patch_status(&self, name: &str, patch: Value) -> Result<()> {
        let (services, patch) = (self.services(), Patch::Strategic(patch));
        let parameters = PatchParams::default();
        self.ask(services.patch_status(name, &parameters, &patch), || {
            format!("patching the status of Service {name}")
        })
    }

    /// Waits until the API server has taken a request. `what` names it where it has not.
    fn ask<T>(
        &self,
        request: impl Future<Output = kube::Result<T>>,
        what: impl FnOnce() -> String,
    ) -> Result<()> {
        self.runtime.block_on(request).with_context(what)?;
        Ok(())
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), "default")
    }

    fn daemonsets(&self) -> Api<DaemonSet> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// When each node first answered a client outside, while `work` is done here.
    pub(super) fn first_bytes<T>(
        &self,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(Vec<Instant>, T)> {
        let (client, addresses) = (self.cluster.client(), self.addresses()?);
        thread::scope(|scope| {
            let tries: Vec<_> = addresses
                .iter()
                .map(|address| {
                    let target = SocketAddr::from((*address, PORT));
                    let client = &client;
                    scope.spawn(move || client.within(|| first_byte(target)))
                })
                .collect();
            let done = work()?;
            let answered = tries.into_iter().map(|tried| match tried.join() {
                Ok(answered) => answered?,
                Err(_) => Err(anyhow::anyhow!("a client panicked")),
            });
            Ok((answered.collect::<Result<_>>()?, done))
        })
    }
}

/// Tries from the current namespace until the target answers.
fn first_byte(target: SocketAddr) -> Result<Instant> {
    use std::io::{Read, Write};
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = TcpStream::connect_timeout(&target, TRY).and_then(|mut stream| {
            stream.set_read_timeout(Some(TRY))?;
            stream.write_all(b"?")?;
            stream.read_exact(&mut [0])
        });
        if answer.is_ok() {
            return Ok(Instant::now());
        }
        ensure!(
            Instant::now() < deadline,
            "{target} does not answer within {} s",
            PATIENCE.as_secs()
        );
        thread::sleep(PAUSE);
    }
}

fn backend_name(node: usize) -> String {
    format!("backend-{node}")
}

/// A pod that only holds a network namespace, in which the bench itself answers.
fn backend(node: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": backend_name(node), "labels": {"app": "backend"}},
        "spec": {
            "nodeName": format!("node-{node}"),
            // A node that is cut off keeps its backend.
            "tolerations": [{"operator": "Exists"}],
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "pause", "image": "registry.k8s.io/pause:3.10.1", "imagePullPolicy": "Never"}],
        },
    })
}

fn object<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).context("making an object")
}

fn merge(into: &mut Value, more: &Value) {
    if let (Some(into), Some(more)) = (into.as_object_mut(), more.as_object()) {
        into.extend(more.clone());
    }
}
