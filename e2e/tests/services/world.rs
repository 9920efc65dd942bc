//! A cluster with svclb in it, and how tests speak to its API server.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use svclb_e2e::{Cluster, Host, Options, Progress, Temporary, repository, wait};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::evidence;

/// How long anything may take that has no limit of its own: the machine may be busy otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where the manifest puts svclb.
pub(crate) const NAMESPACE: &str = "kube-system";
/// The controller's Deployment.
pub(crate) const CONTROLLER: &str = "svclb-controller";
/// The label of svclb pods and DaemonSets that names their Service.
pub(crate) const SERVICE_NAME: &str = "svccontroller.k3s.cattle.io/svcname";
/// The one that names their Service's namespace.
pub(crate) const SERVICE_NAMESPACE: &str = "svccontroller.k3s.cattle.io/svcnamespace";

/// A cluster with svclb installed. It is taken down when this is dropped.
pub(crate) struct World {
    // In the order in which they go: the connections before the cluster.
    client: Client,
    runtime: Handle,
    _end_of_runtime: oneshot::Sender<()>,
    cluster: Cluster,
    _temporary: Option<Temporary>,
}

impl World {
    /// Brings a cluster up and svclb into it, as the manifest says.
    pub(crate) fn up(options: &Options) -> Result<Self> {
        let temporary = Temporary::up(options, &Progress::silent())?;
        let world = Self::of(temporary.clone(), Some(temporary))?;
        let Err(error) = world.install() else {
            return Ok(world);
        };
        let kept = evidence::keep(&world, &format!("{}-up", options.name));
        Err(error.context(evidence::told(kept)))
    }

    fn install(&self) -> Result<()> {
        self.cluster.load(&[&images()?])?;
        self.kubectl(&["apply", "-f", &manifest()])?;
        self.wait_for_controller()
    }

    /// A cluster that somebody else has brought up and svclb into it.
    pub(crate) fn attach(name: &str) -> Result<Self> {
        Self::of(Cluster::attach(name)?, None)
    }

    fn of(cluster: Cluster, temporary: Option<Temporary>) -> Result<Self> {
        let (end, ended) = oneshot::channel();
        let runtime = start_runtime(ended)?;
        let client = {
            let _guard = runtime.enter();
            cluster.kube()?
        };
        Ok(Self {
            client,
            runtime,
            _end_of_runtime: end,
            cluster,
            _temporary: temporary,
        })
    }

    /// The cluster.
    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The host outside the nodes' subnets.
    pub(crate) fn client(&self) -> Host {
        self.cluster.client()
    }

    /// The nodes' own IPv4 addresses.
    pub(crate) fn ipv4(&self) -> Vec<IpAddr> {
        let nodes = self.cluster.nodes();
        nodes
            .iter()
            .filter_map(Host::ipv4)
            .map(Into::into)
            .collect()
    }

    /// The nodes' own IPv6 addresses.
    pub(crate) fn ipv6(&self) -> Vec<IpAddr> {
        let nodes = self.cluster.nodes();
        nodes
            .iter()
            .filter_map(Host::ipv6)
            .map(Into::into)
            .collect()
    }

    /// Waits for an answer of the API server.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Lets something go on beside the test.
    pub(crate) fn spawn(
        &self,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        self.runtime.spawn(future)
    }

    /// Objects of one kind in a namespace.
    pub(crate) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The nodes' objects.
    pub(crate) fn node_api(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// The namespaces.
    pub(crate) fn namespace_api(&self) -> Api<k8s_openapi::api::core::v1::Namespace> {
        Api::all(self.client.clone())
    }

    /// The objects of one kind in a namespace that have these labels.
    pub(crate) fn list<K>(&self, namespace: &str, labels: &str) -> Result<Vec<K>>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let api = self.api::<K>(namespace);
        let listed = self.block_on(api.list(&ListParams::default().labels(labels)))?;
        Ok(listed.items)
    }

    /// The objects of one kind in all namespaces that have these labels.
    pub(crate) fn list_everywhere<K>(&self, labels: &str) -> Result<Vec<K>>
    where
        K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api = Api::<K>::all(self.client.clone());
        let listed = self.block_on(api.list(&ListParams::default().labels(labels)))?;
        Ok(listed.items)
    }

    /// Runs kubectl as the administrator and returns what it prints.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster
            .kubectl(arguments)
            .with_context(|| format!("kubectl {}", arguments.join(" ")))
    }

    /// Waits until the controller's Deployment is as it is wanted, all of its pods Ready and none else.
    pub(crate) fn wait_for_controller(&self) -> Result<()> {
        let api = self.api::<Deployment>(NAMESPACE);
        wait::until("the controller's Deployment rolled out", PATIENCE, || {
            let deployment = self
                .block_on(api.get(CONTROLLER))
                .map_err(|error| error.to_string())?;
            let wanted = deployment.spec.and_then(|spec| spec.replicas);
            let generation = deployment.metadata.generation;
            let status = deployment.status.unwrap_or_default();
            let counts = [
                status.replicas,
                status.updated_replicas,
                status.ready_replicas,
            ];
            if status.observed_generation == generation
                && counts.iter().all(|count| *count == wanted)
            {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        })?;
        Ok(())
    }

    /// The controller's pods that run.
    pub(crate) fn controller_pods(&self) -> Result<Vec<Pod>> {
        let mut pods: Vec<Pod> = self.list(NAMESPACE, "app.kubernetes.io/name=svclb-controller")?;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        Ok(pods)
    }

    /// Changes a Node, by a merge patch.
    pub(crate) fn patch_node(&self, name: &str, patch: &Value) -> Result<()> {
        let api = self.node_api();
        self.block_on(api.patch(name, &PatchParams::default(), &Patch::Merge(patch)))?;
        Ok(())
    }

    /// Sets a Node's label, or takes it away.
    pub(crate) fn label_node(&self, name: &str, key: &str, value: Option<&str>) -> Result<()> {
        self.patch_node(name, &json!({"metadata": {"labels": {key: value}}}))
    }

    /// All svclb pods and DaemonSets of a namespace's Services: `kind name` each.
    pub(crate) fn left_of(&self, namespace: &str) -> Result<Vec<String>> {
        let labels = format!("{SERVICE_NAMESPACE}={namespace}");
        let daemonsets: Vec<DaemonSet> = self.list(NAMESPACE, &labels)?;
        let pods: Vec<Pod> = self.list(NAMESPACE, &labels)?;
        let daemonsets = daemonsets
            .iter()
            .map(|daemonset| format!("DaemonSet {}", name_of(&daemonset.metadata)));
        let pods = pods
            .iter()
            .map(|pod| format!("pod {}", name_of(&pod.metadata)));
        Ok(daemonsets.chain(pods).collect())
    }

    /// Puts right what a failed test may have left wrong, for the tests after it.
    pub(crate) fn put_right(&self) -> Result<()> {
        for host in self.cluster.hosts() {
            host.heal()?;
            for component in host.role().components() {
                host.start(*component)?;
            }
        }
        for node in self.cluster.nodes() {
            let labels: BTreeMap<_, Option<&str>> = crate::nodes::LABELS
                .iter()
                .map(|key| (*key, None))
                .collect();
            let patch = json!({"metadata": {"labels": labels}, "spec": {"taints": null}});
            wait::until("a Node patched", PATIENCE, || {
                self.patch_node(&node.name(), &patch)
                    .map_err(|error| error.to_string())
            })?;
        }
        self.kubectl(&["apply", "-f", &manifest()])?;
        self.wait_for_controller()
    }
}

/// An object's name.
pub(crate) fn name_of(metadata: &kube::api::ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

/// The manifest that a user applies.
pub(crate) fn manifest() -> String {
    repository()
        .join("manifests/svclb.yaml")
        .display()
        .to_string()
}

/// The archive of svclb's two images, built if it is not up to date.
pub(crate) fn images() -> Result<PathBuf> {
    // Two clusters may want it at the same time.
    static BUILD: Mutex<()> = Mutex::new(());
    let _one_at_a_time = BUILD.lock().unwrap_or_else(PoisonError::into_inner);
    let script = repository().join("images/build.sh");
    let status = Command::new(&script)
        .arg("svclb-images")
        .stdin(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("{} failed", script.display());
    }
    Ok(repository().join(Path::new("target/images/svclb-images.tar")))
}

/// The connections to the API server live on a thread of their own, so that any other may wait.
fn start_runtime(ended: oneshot::Receiver<()>) -> Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    thread::spawn(move || runtime.block_on(ended));
    Ok(handle)
}
