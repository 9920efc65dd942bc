//! What everybody does: three replicas behind a Service of type LoadBalancer.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::apps::WEB;
use crate::space::Space;
use crate::traffic;
use crate::world::{NAMESPACE, SERVICE_NAME, name_of};

/// Every node's address answers, from every replica; the Service's other ways go on working; its
/// pods are found and tell what they forward.
pub(crate) fn three_replicas(space: &Space<'_>) -> Result<()> {
    let world = space.world;
    let addresses = world.ipv4();
    space.app("web", 3)?;
    let ports = json!({"ports": [{"name": "http", "port": 80, "targetPort": WEB}]});
    let service = space.load_balancer("web", ports)?;
    space.expect_addresses("web", &addresses)?;

    for address in &addresses {
        traffic::ask_until(&world.client(), *address, 80, 3)?;
    }
    let shown = world.kubectl(&["get", "service", "web", "-n", space.name(), "--no-headers"])?;
    let listed: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    ensure!(
        shown.split_whitespace().nth(3) == Some(&listed.join(",")),
        "kubectl shows {shown}"
    );

    let spec = service.spec.context("no spec")?;
    let node_port = spec.ports.iter().flatten().find_map(|port| port.node_port);
    let node_port = u16::try_from(node_port.context("no node port")?)?;
    let cluster_ip = spec.cluster_ip.context("no ClusterIP")?.parse()?;
    for (node, address) in world.cluster().nodes().iter().zip(&addresses) {
        traffic::ask_until(&world.client(), *address, node_port, 3)?;
        traffic::ask_until(node, cluster_ip, 80, 3)?;
    }

    let uid = service.metadata.uid.context("no UID")?;
    let daemonset = space
        .daemonset("web")?
        .context("no DaemonSet has the Service's labels")?;
    ensure!(
        name_of(&daemonset.metadata) == format!("svclb-web-{}", &uid[..8]),
        "the DaemonSet is called {}",
        name_of(&daemonset.metadata)
    );
    for pod in space.expect_ready_pods("web", &world.cluster().nodes())? {
        let log = world.kubectl(&["logs", "-n", NAMESPACE, name_of(&pod.metadata)])?;
        let expected = format!("tcp 80 -> {cluster_ip}:80 from 0.0.0.0/0");
        ensure!(
            log.lines().any(|line| line == expected),
            "expected: a line {expected:?} in the log; seen: {log}"
        );
    }
    let by_label = world.kubectl(&[
        "get",
        "pods",
        "-A",
        "-l",
        &format!("{SERVICE_NAME}=web"),
        "-o",
        "name",
    ])?;
    ensure!(by_label.lines().count() == 3, "found by label: {by_label}");
    Ok(())
}
