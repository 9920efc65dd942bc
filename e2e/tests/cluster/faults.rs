//! What is taken away comes back.

use anyhow::{Result, bail, ensure};
use svclb_e2e::{Component, wait};

use crate::Test;
use crate::shared::{
    self, HOST_PORT, NAME, PATIENCE, field, get, run, said, svclb_e2e, wait_for_ready,
    wait_for_signs_of_life,
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    (
        "a_node_that_is_cut_off_is_not_ready_until_healed",
        a_node_that_is_cut_off_is_not_ready_until_healed,
    ),
    (
        "the_api_server_can_be_away_and_come_back",
        the_api_server_can_be_away_and_come_back,
    ),
    ("etcd_keeps_what_it_had", etcd_keeps_what_it_had),
    (
        "pods_outlive_their_runtime_and_kubelet",
        pods_outlive_their_runtime_and_kubelet,
    ),
    (
        "a_component_that_restarts_is_another_process",
        a_component_that_restarts_is_another_process,
    ),
    ("a_component_has_its_host", a_component_has_its_host),
];

fn a_node_that_is_cut_off_is_not_ready_until_healed() -> Result<()> {
    let cluster = shared::cluster()?;
    let node = cluster.node(2);
    run(&["fault", "--name", NAME, "cut", "node-2"])?;
    let arguments = shared::curl("10.231.1.2", HOST_PORT, "hostname");
    ensure!(
        cluster
            .client()
            .command("curl")
            .args(arguments)
            .text()
            .is_err(),
        "node-2 still answers"
    );
    wait_for_ready(&cluster, &node, "Unknown")?;
    run(&["fault", "--name", NAME, "heal", "node-2"])?;
    wait_for_ready(&cluster, &node, "True")?;
    for address in node.addresses() {
        get(
            &cluster.client(),
            &address.to_string(),
            HOST_PORT,
            "hostname",
        )?;
    }
    Ok(())
}

fn the_api_server_can_be_away_and_come_back() -> Result<()> {
    let cluster = shared::cluster()?;
    let fault = |what: &str| {
        run(&[
            "fault",
            "--name",
            NAME,
            what,
            "control-plane",
            "kube-apiserver",
        ])
    };
    fault("stop")?;
    let Err(error) = cluster.kubectl(&["get", "nodes"]) else {
        bail!("the API server still answers");
    };
    ensure!(error.to_string().contains("refused"), "{error}");
    fault("start")?;
    wait::until("the API server is ready again", PATIENCE, || {
        cluster
            .kubectl(&["get", "--raw=/readyz"])
            .map_err(|error| error.to_string())
    })?;
    // What it says of the nodes is what it knew. They are there when they have spoken to it.
    wait_for_signs_of_life(&cluster, &cluster.nodes())?;
    for node in cluster.nodes() {
        wait_for_ready(&cluster, &node, "True")?;
    }
    Ok(())
}

fn etcd_keeps_what_it_had() -> Result<()> {
    let cluster = shared::cluster()?;
    cluster.kubectl(&["create", "configmap", "kept"])?;
    cluster.control_plane().kill(Component::Etcd)?;
    ensure!(
        cluster.control_plane().process(Component::Etcd).is_none(),
        "etcd still runs"
    );
    cluster.control_plane().start(Component::Etcd)?;
    wait::until("the object is still there", PATIENCE, || {
        field(&cluster, "configmap/kept", ".metadata.name").map_err(|error| format!("{error:#}"))
    })?;
    Ok(())
}

fn pods_outlive_their_runtime_and_kubelet() -> Result<()> {
    let cluster = shared::cluster()?;
    let node = cluster.node(1);
    // Container, pid and state, as containerd has them.
    let tasks = || -> Result<Vec<String>> {
        let list = ["--namespace", "k8s.io", "tasks", "list"];
        let listed = node.command("ctr").args(list).text()?;
        let mut tasks: Vec<_> = listed.lines().skip(1).map(str::to_owned).collect();
        tasks.sort();
        Ok(tasks)
    };
    let before = tasks()?;
    // The echo pod's container, and the one that holds its namespaces.
    ensure!(before.len() >= 2, "{before:?}");
    node.stop(Component::Kubelet)?;
    node.stop(Component::Containerd)?;
    get(&cluster.client(), "10.231.1.1", HOST_PORT, "hostname")?;
    node.start(Component::Containerd)?;
    node.start(Component::Kubelet)?;
    wait_for_signs_of_life(&cluster, std::slice::from_ref(&node))?;
    wait_for_ready(&cluster, &node, "True")?;
    let after = tasks()?;
    ensure!(after == before, "{before:?} have become {after:?}");
    get(&cluster.client(), "10.231.1.1", HOST_PORT, "hostname")?;
    Ok(())
}

fn a_component_that_restarts_is_another_process() -> Result<()> {
    let node = shared::cluster()?.node(2);
    let before = node.process(Component::KubeProxy);
    run(&["fault", "--name", NAME, "restart", "node-2", "kube-proxy"])?;
    let after = node.process(Component::KubeProxy);
    ensure!(
        before.is_some() && after.is_some() && before != after,
        "{before:?} has become {after:?}"
    );
    ensure!(
        before.is_some_and(|before| !before.is_alive()),
        "both of them run"
    );
    Ok(())
}

fn a_component_has_its_host() -> Result<()> {
    shared::cluster()?;
    let wrong_host = svclb_e2e(&["fault", "--name", NAME, "stop", "node-1", "etcd"]).output()?;
    ensure!(!wrong_host.status.success());
    ensure!(
        said(&wrong_host) == "svclb-e2e: etcd does not run on node-1",
        "{}",
        said(&wrong_host)
    );
    let no_component =
        svclb_e2e(&["fault", "--name", NAME, "stop", "node-1", "docker"]).output()?;
    ensure!(
        said(&no_component).contains("there is no component `docker`"),
        "{}",
        said(&no_component)
    );
    Ok(())
}
