//! Bringing a cluster up: what can start at the same time does.
//!
//! ```text
//! hosts ─┬─ etcd ─── kube-apiserver ─── Node objects ─┬─ kube-controller-manager, kube-scheduler ─┬─ Ready
//!        └─ containerd, images (each node) ───────────┴─ kubelet, kube-proxy (each node) ─────────┘
//! ```

use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use crate::addresses;
use crate::certificates;
use crate::cgroups::Hierarchies;
use crate::cluster::Cluster;
use crate::component::{Component, Role};
use crate::control_plane::ETCD_ADDRESS;
use crate::error::{Error, with_causes};
use crate::files;
use crate::host::Host;
use crate::kubeconfig;
use crate::namespaces::joined;
use crate::options::Options;
use crate::paths::{self, Paths};
use crate::process::ProcessId;
use crate::progress::Progress;
use crate::readiness::{has_made_rules, takes_pods, wait_for, wait_for_async};
use crate::state::{self, Claim, State};
use crate::{client, down, images, machine, namespaces, network, node, prepare, requirements};

/// Brings a cluster up, or leaves nothing.
pub(crate) fn bring_up(
    options: &Options,
    owner: Option<ProcessId>,
    progress: &Progress,
) -> Result<Cluster, Error> {
    options.validate()?;
    let paths = Paths::of(&options.name);
    requirements::check(options)?;
    let claim = Claim::take(&paths, &options.name)?;
    if State::read(&paths).is_ok_and(|state| state.is_some_and(|state| state.is_in_use(&paths))) {
        return Err(state::Error::InUse {
            name: options.name.clone(),
        }
        .into());
    }
    let mut attempt = Attempt {
        paths: &paths,
        claim,
        progress,
        has_succeeded: false,
    };
    let cluster = make(options, &paths, owner, progress).map_err(|error| error.keep_log(&paths))?;
    attempt.has_succeeded = true;
    Ok(cluster)
}

/// A cluster that is coming up. When this is dropped before it is complete, by an error or by a panic,
/// all that there is of it goes.
struct Attempt<'a> {
    paths: &'a Paths,
    claim: Claim,
    progress: &'a Progress,
    has_succeeded: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.has_succeeded {
            return;
        }
        if let Err(error) = down::remove(self.paths, &self.claim) {
            let error = with_causes(&error);
            self.progress
                .step(&format!("what is left cannot be cleared away: {error}"));
        }
    }
}

fn make(
    options: &Options,
    paths: &Paths,
    owner: Option<ProcessId>,
    progress: &Progress,
) -> Result<Cluster, Error> {
    // What a killed `up` or a killed test has left.
    down::clear(paths)?;
    prepare::everything(options.nodes, paths.folder(), progress)?;
    requirements::check_files(options.nodes)?;

    let hierarchies = Hierarchies::mounted()?;
    let mut state = State::begin(options, owner, paths, &hierarchies)?;
    make_hosts(options, paths, &hierarchies)?;
    let cluster = Cluster::of(options.clone(), paths.clone());
    connect_hosts(&cluster)?;
    // It needs nothing of what is written next, and an API server that comes before it waits a second.
    cluster.control_plane().start(Component::Etcd)?;
    write_files(&cluster)?;
    let names: Vec<_> = cluster.hosts().iter().map(Host::name).collect();
    progress.step(&format!(
        "hosts {}, as network namespaces on a switch",
        names.join(", ")
    ));

    start(&cluster, progress)?;
    progress.check()?;
    state.complete = true;
    state.write(paths)?;
    Ok(cluster)
}

/// Namespaces and cgroups.
fn make_hosts(options: &Options, paths: &Paths, hierarchies: &Hierarchies) -> Result<(), Error> {
    for role in Role::all(options.nodes) {
        let folder = paths.host(role);
        files::make_folder(&folder)?;
        let holder = match role {
            Role::Node(_) => {
                hierarchies.create(&paths.host_cgroup(role))?;
                namespaces::create(paths.folder(), &role.to_string(), || {
                    machine::furnish_node(&folder)
                })?
            }
            _ => namespaces::create(paths.folder(), &role.to_string(), || {
                machine::furnish_host(&folder)
            })?,
        };
        holder.record(&paths.holder(role))?;
    }
    Ok(())
}

/// Links, addresses, routes and sysctls.
fn connect_hosts(cluster: &Cluster) -> Result<(), Error> {
    let Options {
        nodes, ip_family, ..
    } = *cluster.options();
    let set = |host: &Host| -> Result<(), Error> {
        let settings = network::sysctls(host.role(), ip_family);
        host.within(|| {
            settings.iter().try_for_each(|(name, value)| {
                let sysctl = Path::new("/proc/sys/net").join(name);
                // Where br_netfilter is not loaded there is nothing to switch off. No node is made there.
                if name.starts_with("bridge/") && !sysctl.exists() {
                    return Ok(());
                }
                files::write(&sysctl, value)
            })
        })??;
        Ok(())
    };
    let switch = cluster.host_of(Role::Switch);
    set(&switch)?;
    let hosts = cluster.hosts();
    hosts.iter().try_for_each(set)?;
    let pids: Vec<_> = hosts
        .iter()
        .map(|host| (host.role(), host.holder().pid()))
        .collect();
    switch.ip(&network::switch_batch(&pids))?;
    for host in &hosts {
        host.ip(&network::host_batch(host.role(), nodes, ip_family))?;
    }
    Ok(())
}

/// Certificates, tokens, kubeconfigs, and the nodes' configurations.
fn write_files(cluster: &Cluster) -> Result<(), Error> {
    let (options, paths) = (cluster.options(), cluster.paths());
    let certificates = paths.certificates();
    files::make_folder(&certificates)?;
    certificates::write_all(&certificates, options.nodes, options.ip_family)?;
    files::write(&paths.tokens(), certificates::token_file(options.nodes))?;

    files::make_folder(&paths.folder().join("kubeconfigs"))?;
    let server = addresses::api_server(options.ip_family);
    let authority = certificates.join("ca.crt");
    let write = |user: &str, token: &str| {
        files::write(
            &paths.kubeconfig(user),
            kubeconfig::render(&server, &authority, user, token),
        )
    };
    for user in certificates::COMPONENTS
        .iter()
        .chain([&certificates::ADMIN])
    {
        write(user.kubeconfig, &user.token())?;
    }
    for number in 1..=options.nodes {
        let user = certificates::node_user(number);
        write(&user.kubeconfig, &user.token())?;
        node::write_configurations(number, options, paths)?;
    }
    Ok(())
}

fn start(cluster: &Cluster, progress: &Progress) -> Result<(), Error> {
    thread::scope(|scope| {
        let runtimes = scope.spawn(|| start_container_runtimes(cluster, progress));
        let runtime = client::runtime()?;
        let client = runtime.block_on(start_control_plane(cluster, progress))?;
        joined(runtimes)?;
        let nodes = cluster.nodes();
        for node in &nodes {
            node.start(Component::Kubelet)?;
            node.start(Component::KubeProxy)?;
        }
        runtime.block_on(wait_until_usable(cluster, &client, progress))
    })
}

/// containerd on each node, and the images that every cluster has.
fn start_container_runtimes(cluster: &Cluster, progress: &Progress) -> Result<(), Error> {
    let nodes = cluster.nodes();
    if nodes.is_empty() {
        return Ok(());
    }
    for node in &nodes {
        for command in node::commands_before_start(cluster.options()) {
            node.command(command[0]).args(&command[1..]).text()?;
        }
        node.start(Component::Containerd)?;
    }
    for node in &nodes {
        wait_for(node, Component::Containerd, progress, || {
            let connected = node.within(|| UnixStream::connect(node::CONTAINERD_SOCKET));
            let connected = connected.map_err(|error| error.to_string())?;
            connected.map(drop).map_err(|error| error.to_string())
        })?;
    }
    let images = paths::images();
    images::load(&nodes, &images.each_ref().map(|image| image.as_path()))?;
    progress.step("containerd on each node, images loaded");
    Ok(())
}

/// The API server as soon as it has its store, and what works by it as soon as it is ready.
async fn start_control_plane(cluster: &Cluster, progress: &Progress) -> Result<Client, Error> {
    let control_plane = cluster.control_plane();
    wait_for(&control_plane, Component::Etcd, progress, || {
        let connected = control_plane.within(|| TcpStream::connect(ETCD_ADDRESS));
        let connected = connected.map_err(|error| error.to_string())?;
        connected.map(drop).map_err(|error| error.to_string())
    })?;
    control_plane.start(Component::KubeApiserver)?;
    let client = cluster.kube()?;
    wait_for_async(
        &control_plane,
        Component::KubeApiserver,
        progress,
        async || {
            let request = http::Request::get("/readyz")
                .body(Vec::new())
                .map_err(|error| error.to_string())?;
            client
                .request_text(request)
                .await
                .map(drop)
                .map_err(|error| error.to_string())
        },
    )
    .await?;
    control_plane.start(Component::KubeControllerManager)?;
    control_plane.start(Component::KubeScheduler)?;
    progress.step("etcd and kube-apiserver are ready");

    let nodes: Api<Node> = Api::all(client.clone());
    for number in 1..=cluster.options().nodes {
        let node = node::object(number, cluster.options());
        let created = nodes.create(&PostParams::default(), &node).await;
        created.map_err(Error::ask("make a Node"))?;
        if let Some(status) = &node.status {
            // Not taken over from what is created, but by a request of its own.
            let patch = Patch::Merge(json!({"status": status}));
            let name = Role::Node(number).to_string();
            let patched = nodes
                .patch_status(&name, &PatchParams::default(), &patch)
                .await;
            patched.map_err(Error::ask("set the addresses of a Node"))?;
        }
    }
    Ok(client)
}

/// Nodes are Ready and take pods, Services work on them, and pods can be created.
async fn wait_until_usable(
    cluster: &Cluster,
    client: &Client,
    progress: &Progress,
) -> Result<(), Error> {
    let control_plane = cluster.control_plane();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    wait_for_async(
        &control_plane,
        Component::KubeControllerManager,
        progress,
        async || {
            accounts
                .get("default")
                .await
                .map(drop)
                .map_err(|error| error.to_string())
        },
    )
    .await?;
    progress.step("kube-controller-manager and kube-scheduler are at work");

    let nodes: Api<Node> = Api::all(client.clone());
    for host in cluster.nodes() {
        let name = host.name();
        wait_for_async(&host, Component::Kubelet, progress, async || {
            let node = nodes.get(&name).await.map_err(|error| error.to_string())?;
            takes_pods(&node)
        })
        .await?;
    }
    let family = cluster.options().ip_family;
    for host in cluster.nodes() {
        wait_for(&host, Component::KubeProxy, progress, || {
            host.within(|| has_made_rules(family))
                .map_err(|error| error.to_string())?
        })?;
    }
    if !cluster.nodes().is_empty() {
        progress.step("all nodes are Ready");
    }
    Ok(())
}
