//! Pods, Services and hostPorts, as packets see them.

use anyhow::{Context, Result, ensure};
use svclb_e2e::Cluster;

use crate::Test;
use crate::shared::{self, HOST_PORT, NODE_PORT, get, get_from_pod, pod_on};

pub(crate) const TESTS: &[(&str, Test)] = &[
    (
        "a_pod_reaches_a_pod_on_another_node",
        a_pod_reaches_a_pod_on_another_node,
    ),
    (
        "a_pod_keeps_its_address_on_the_way",
        a_pod_keeps_its_address_on_the_way,
    ),
    (
        "a_cluster_ip_answers_pods_and_nodes",
        a_cluster_ip_answers_pods_and_nodes,
    ),
    (
        "a_node_port_answers_on_every_node",
        a_node_port_answers_on_every_node,
    ),
    (
        "a_host_port_answers_and_sees_the_client",
        a_host_port_answers_and_sees_the_client,
    ),
];

/// The addresses of the pod on a node, or of anything else: IPv4 and IPv6.
fn both(addresses: Vec<String>) -> Result<Vec<String>> {
    let ipv4 = addresses
        .iter()
        .filter(|address| address.contains('.'))
        .count();
    ensure!(
        addresses.len() == 2 && ipv4 == 1,
        "one address of each family is expected: {addresses:?}"
    );
    Ok(addresses)
}

fn pod_addresses(cluster: &Cluster, pod: &str) -> Result<Vec<String>> {
    both(shared::field(
        cluster,
        &format!("pod/{pod}"),
        ".status.podIPs[*].ip",
    )?)
}

fn a_pod_reaches_a_pod_on_another_node() -> Result<()> {
    let cluster = shared::cluster()?;
    let (from, to) = (
        pod_on(&cluster, &cluster.node(1))?,
        pod_on(&cluster, &cluster.node(2))?,
    );
    for address in pod_addresses(&cluster, &to)? {
        let answer = get_from_pod(&cluster, &from, &address, 8080, "hostname")?;
        ensure!(
            answer == to,
            "{address} is answered by {answer}, not by {to}"
        );
    }
    Ok(())
}

fn a_pod_keeps_its_address_on_the_way() -> Result<()> {
    let cluster = shared::cluster()?;
    let (from, to) = (
        pod_on(&cluster, &cluster.node(1))?,
        pod_on(&cluster, &cluster.node(2))?,
    );
    let own = pod_addresses(&cluster, &from)?;
    for address in pod_addresses(&cluster, &to)? {
        let seen = get_from_pod(&cluster, &from, &address, 8080, "clientip")?;
        ensure!(own.contains(&seen), "{own:?} is seen as {seen}");
    }
    Ok(())
}

fn a_cluster_ip_answers_pods_and_nodes() -> Result<()> {
    let cluster = shared::cluster()?;
    let pod = pod_on(&cluster, &cluster.node(3))?;
    for address in both(shared::field(
        &cluster,
        "service/echo",
        ".spec.clusterIPs[*]",
    )?)? {
        get(&cluster.node(1), &address, 80, "hostname").context("from a node")?;
        get_from_pod(&cluster, &pod, &address, 80, "hostname").context("from a pod")?;
    }
    Ok(())
}

fn a_node_port_answers_on_every_node() -> Result<()> {
    let cluster = shared::cluster()?;
    for node in cluster.nodes() {
        for address in node.addresses() {
            get(
                &cluster.client(),
                &address.to_string(),
                NODE_PORT,
                "hostname",
            )?;
        }
    }
    Ok(())
}

fn a_host_port_answers_and_sees_the_client() -> Result<()> {
    let cluster = shared::cluster()?;
    let client = cluster.client();
    for node in cluster.nodes() {
        let pod = pod_on(&cluster, &node)?;
        for (address, own) in node.addresses().iter().zip(client.addresses()) {
            let answered_by = get(&client, &address.to_string(), HOST_PORT, "hostname")?;
            ensure!(
                answered_by == pod,
                "{address} is answered by {answered_by}, not by {pod}"
            );
            let seen = get(&client, &address.to_string(), HOST_PORT, "clientip")?;
            ensure!(
                seen == own.to_string(),
                "{own} is seen as {seen} at {address}"
            );
        }
    }
    Ok(())
}
