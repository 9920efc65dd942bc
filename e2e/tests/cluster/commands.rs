//! The commands that people call, and the clients that tests have.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::ListParams;
use svclb_e2e::{Cluster, repository, wait};

use crate::Test;
use crate::shared::{self, NAME, PATIENCE, run, said, svclb_e2e};

pub(crate) const TESTS: &[(&str, Test)] = &[
    (
        "kubectl_speaks_to_the_cluster",
        kubectl_speaks_to_the_cluster,
    ),
    ("kubectl_ends_as_kubectl_does", kubectl_ends_as_kubectl_does),
    (
        "exec_runs_a_command_on_a_host",
        exec_runs_a_command_on_a_host,
    ),
    (
        "the_kubeconfig_works_on_a_host",
        the_kubeconfig_works_on_a_host,
    ),
    (
        "status_shows_hosts_and_memory",
        status_shows_hosts_and_memory,
    ),
    (
        "load_brings_an_image_to_every_node",
        load_brings_an_image_to_every_node,
    ),
    (
        "a_kube_client_works_from_the_real_host",
        a_kube_client_works_from_the_real_host,
    ),
    (
        "a_service_account_has_its_own_rights",
        a_service_account_has_its_own_rights,
    ),
];

fn kubectl_speaks_to_the_cluster() -> Result<()> {
    shared::cluster()?;
    let nodes = run(&[
        "kubectl",
        "--name",
        NAME,
        "--",
        "get",
        "nodes",
        "--output=name",
    ])?;
    ensure!(
        nodes == "node/node-1\nnode/node-2\nnode/node-3\n",
        "{nodes}"
    );
    Ok(())
}

fn kubectl_ends_as_kubectl_does() -> Result<()> {
    shared::cluster()?;
    let output = svclb_e2e(&["kubectl", "--name", NAME, "get", "node", "node-4"]).output()?;
    ensure!(output.status.code() == Some(1), "{}", output.status);
    ensure!(said(&output).contains("NotFound"), "{}", said(&output));
    Ok(())
}

fn exec_runs_a_command_on_a_host() -> Result<()> {
    shared::cluster()?;
    let host = |name: &str, command: &[&str]| {
        run(&[&["exec", "--name", NAME, name, "--"], command].concat())
    };
    ensure!(host("client", &["hostname"])? == "client\n");
    let addresses = host("client", &["ip", "-brief", "address", "show", "eth0"])?;
    ensure!(
        addresses.contains("172.30.77.2/24") && addresses.contains("fd31:77::2/64"),
        "{addresses}"
    );
    // A node's /run is its own: no containerd of the real host answers there.
    let socket = [
        "ctr",
        "--address",
        "/run/containerd/containerd.sock",
        "version",
    ];
    ensure!(host("node-1", &socket)?.contains("Server:"));
    ensure!(
        !svclb_e2e(&["exec", "--name", NAME, "client", "--", "ls", socket[2]])
            .output()?
            .status
            .success()
    );
    let code = svclb_e2e(&["exec", "--name", NAME, "node-1", "--", "sh", "-c", "exit 7"])
        .status()?
        .code();
    ensure!(code == Some(7), "{code:?}");
    Ok(())
}

fn the_kubeconfig_works_on_a_host() -> Result<()> {
    shared::cluster()?;
    let path = run(&["kubeconfig", "--name", NAME])?;
    let kubectl = repository()
        .join("target/kubernetes/bin/kubectl")
        .display()
        .to_string();
    let config = format!("--kubeconfig={}", path.trim());
    // Without a cache in the user's home.
    let command = [
        &kubectl,
        &config,
        "--cache-dir=/run/kubectl",
        "auth",
        "can-i",
        "create",
        "nodes",
    ];
    let answer = run(&[&["exec", "--name", NAME, "node-2", "--"], &command[..]].concat())?;
    ensure!(answer == "yes\n", "{answer}");
    Ok(())
}

fn status_shows_hosts_and_memory() -> Result<()> {
    shared::cluster()?;
    let status = run(&["status"])?;
    let mut lines = status
        .lines()
        .skip_while(|line| !line.starts_with(&format!("{NAME}: ")));
    let memory = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse::<u64>().ok());
    // An API server alone has more than 100 MiB.
    ensure!(memory.is_some_and(|memory| memory > 100), "{status}");
    let node = lines.find(|line| line.trim_start().starts_with("node-3 "));
    ensure!(
        node.is_some_and(|line| line.ends_with("containerd kubelet kube-proxy")),
        "{status}"
    );
    Ok(())
}

fn load_brings_an_image_to_every_node() -> Result<()> {
    let cluster = shared::cluster()?;
    let image = "localhost/loaded-by-a-test:1";
    let archive = cluster
        .kubeconfig()
        .with_file_name("loaded.tar")
        .display()
        .to_string();
    let images = ["ctr", "--namespace", "k8s.io", "images"];
    let on = |node: usize, arguments: &[&str]| {
        let mut command = cluster.node(node).command(images[0]);
        command.args(&images[1..]).args(arguments).text()
    };
    on(1, &["tag", svclb_e2e::ECHO_IMAGE, image])?;
    on(1, &["export", &archive, image])?;
    on(1, &["remove", image])?;
    // What docker has in an archive goes, and an OCI archive remains. `up` has loaded docker-archives.
    let mut tar = cluster.node(1).command("tar");
    tar.args(["--delete", "--file", &archive, "manifest.json"]);
    tar.text()?;
    run(&["load", "--name", NAME, &archive])?;
    for node in 1..=3 {
        let found = on(node, &["list", "--quiet", &format!("name=={image}")])?;
        ensure!(found.trim() == image, "node-{node} has `{found}`");
    }
    let missing = svclb_e2e(&["load", "--name", NAME, "no-such.tar"]).output()?;
    ensure!(
        said(&missing) == "svclb-e2e: there is no image archive no-such.tar",
        "{}",
        said(&missing)
    );
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn node_names(cluster: &Cluster) -> Result<Vec<String>> {
    let nodes: Api<Node> = Api::all(cluster.kube()?);
    let list = nodes.list(&ListParams::default()).await?;
    Ok(list
        .items
        .into_iter()
        .filter_map(|node| node.metadata.name)
        .collect())
}

fn a_kube_client_works_from_the_real_host() -> Result<()> {
    let nodes = node_names(&shared::cluster()?)?;
    ensure!(nodes == ["node-1", "node-2", "node-3"], "{nodes:?}");
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn as_service_account(cluster: &Cluster) -> Result<(usize, bool)> {
    // Also from within a runtime.
    let kubeconfig = cluster.kubeconfig_for_service_account("default", "reader")?;
    let client = cluster.kube_as(&kubeconfig)?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let seen = pods.list(&ListParams::default()).await?.items.len();
    let nodes: Api<Node> = Api::all(client);
    let refused = nodes.list(&ListParams::default()).await;
    Ok((
        seen,
        matches!(refused, Err(kube::Error::Api(status)) if status.is_forbidden()),
    ))
}

fn a_service_account_has_its_own_rights() -> Result<()> {
    let cluster = shared::cluster()?;
    cluster.kubectl(&["create", "serviceaccount", "reader"])?;
    let role = [
        "create",
        "rolebinding",
        "reader",
        "--clusterrole=view",
        "--serviceaccount=default:reader",
    ];
    cluster.kubectl(&role)?;
    // The API server learns of a role binding by its own watch.
    let (pods, refused) = wait::until("the account may do what its role allows", PATIENCE, || {
        as_service_account(&cluster).map_err(|error| format!("{error:#}"))
    })?;
    ensure!(pods == 3, "{pods} pods are seen");
    ensure!(refused, "nodes can be listed");
    Ok(())
}
