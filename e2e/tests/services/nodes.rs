//! Which nodes serve a Service: labels that come and go, pools, exclusion, taints; and the priority of
//! the pods that do.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::apps::WEB;
use crate::space::Space;
use crate::traffic;
use crate::world::World;

const ENABLE: &str = "svccontroller.k3s.cattle.io/enablelb";
const POOL: &str = "svccontroller.k3s.cattle.io/lbpool";
const IN_POOL_A: &str = "lbpool.svccontroller.k3s.cattle.io/a";
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Every Node label that a test sets.
pub(crate) const LABELS: [&str; 4] = [ENABLE, POOL, IN_POOL_A, EXCLUDE];

const PORT: u16 = 8080;

/// `enablelb`, both pool labels, the exclude label: each set, changed and taken away while Services
/// are there.
pub(crate) fn labels_come_and_go(space: &Space<'_>) -> Result<()> {
    let world = space.world;
    space.app("web", 1)?;
    let front = json!({"selector": {"app": "web"}, "ports": [{"port": PORT, "targetPort": WEB}]});
    space.load_balancer("web", front)?;
    let pool =
        json!({"selector": {"app": "web"}, "ports": [{"port": PORT + 1, "targetPort": WEB}]});
    space.load_balancer_with("pool-a", json!({"labels": {POOL: "a"}}), pool)?;
    expect(space, &[1, 2, 3], &[])?;
    space.expect_event(
        "pool-a",
        "UnAvailableLoadBalancer",
        &["not in the Service's pool"],
    )?;

    world.label_node("node-1", POOL, Some("a"))?;
    expect(space, &[1, 2, 3], &[1])?;
    world.label_node("node-2", IN_POOL_A, Some("true"))?;
    expect(space, &[1, 2, 3], &[1, 2])?;

    world.label_node("node-2", ENABLE, Some("true"))?;
    expect(space, &[2], &[2])?;
    world.label_node("node-3", ENABLE, Some("false"))?;
    world.label_node("node-1", ENABLE, Some("true"))?;
    expect(space, &[1, 2], &[1, 2])?;
    traffic::expect_silence(&world.client(), &[address(world, 3)?], PORT)?;

    world.label_node("node-1", EXCLUDE, Some(""))?;
    expect(space, &[2], &[2])?;
    world.label_node("node-1", EXCLUDE, Some("false"))?;
    expect(space, &[1, 2], &[1, 2])?;

    for node in world.cluster().nodes() {
        for label in LABELS {
            world.label_node(&node.name(), label, None)?;
        }
    }
    expect(space, &[1, 2, 3], &[])?;
    for number in 1..=3 {
        traffic::ask_patiently(&world.client(), address(world, number)?, PORT)?;
    }
    Ok(())
}

fn address(world: &World, number: usize) -> Result<IpAddr> {
    Ok(world
        .cluster()
        .node(number)
        .ipv4()
        .context("no IPv4 address")?
        .into())
}

/// The nodes that serve the Service without a pool, and the one of pool `a`.
fn expect(space: &Space<'_>, web: &[usize], pool: &[usize]) -> Result<()> {
    for (service, numbers) in [("web", web), ("pool-a", pool)] {
        let addresses = numbers
            .iter()
            .map(|number| address(space.world, *number))
            .collect::<Result<Vec<_>>>()?;
        space.expect_addresses(service, &addresses)?;
        if !numbers.is_empty() {
            let nodes: Vec<_> = numbers
                .iter()
                .map(|number| space.world.cluster().node(*number))
                .collect();
            space.expect_ready_pods(service, &nodes)?;
        }
    }
    Ok(())
}

/// A taint keeps svclb's pods away but for those of a Service that tolerates it.
pub(crate) fn taints(space: &Space<'_>) -> Result<()> {
    let world = space.world;
    space.app_on("web", &world.cluster().node(1))?;
    let front = |port: u16| json!({"selector": {"app": "web"}, "ports": [{"port": port, "targetPort": WEB}]});
    let tolerations = "[{key: gpu, operator: Exists}]";
    let annotations =
        json!({"annotations": {"svccontroller.k3s.cattle.io/tolerations": tolerations}});
    space.load_balancer("web", front(PORT + 2))?;
    space.load_balancer_with("tolerant", annotations, front(PORT + 3))?;
    space.expect_addresses("web", &world.ipv4())?;
    space.expect_addresses("tolerant", &world.ipv4())?;

    let two = [address(world, 1)?, address(world, 2)?];
    taint(
        world,
        json!([{"key": "gpu", "value": "yes", "effect": "NoExecute"}]),
    )?;
    space.expect_addresses("web", &two)?;
    space.expect_addresses("tolerant", &world.ipv4())?;
    space.expect_ready_pods("tolerant", &world.cluster().nodes())?;
    traffic::ask_patiently(&world.client(), address(world, 3)?, PORT + 3)?;

    taint(world, Value::Null)?;
    space.expect_addresses("web", &world.ipv4())?;
    taint(
        world,
        json!([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]),
    )?;
    // The pods that are there stay, and with them the addresses; a Service that comes now gets none.
    space.load_balancer("late", front(PORT + 4))?;
    space.expect_addresses("late", &two)?;
    space.expect_addresses("web", &world.ipv4())?;
    taint(world, Value::Null)?;
    space.expect_addresses("late", &world.ipv4())
}

fn taint(world: &World, taints: Value) -> Result<()> {
    world.patch_node("node-3", &json!({"spec": {"taints": taints}}))
}

/// Ours by default, another one or none by annotation.
pub(crate) fn priority_classes(space: &Space<'_>) -> Result<()> {
    let annotation = "svccontroller.k3s.cattle.io/priorityclassname";
    space.app("web", 1)?;
    for (port, class, expected) in [
        (PORT + 5, None, (Some("svclb"), Some(1_000_000_000))),
        (
            PORT + 6,
            Some("system-node-critical"),
            (Some("system-node-critical"), Some(2_000_001_000)),
        ),
        (PORT + 7, Some(""), (None, Some(0))),
    ] {
        let name = format!("priority-{port}");
        let spec =
            json!({"selector": {"app": "web"}, "ports": [{"port": port, "targetPort": WEB}]});
        let annotations = class
            .map(|class| (annotation, class))
            .into_iter()
            .collect::<BTreeMap<_, _>>();
        space.load_balancer_with(&name, json!({"annotations": annotations}), spec)?;
        for pod in space.expect_ready_pods(&name, &space.world.cluster().nodes())? {
            let spec = pod.spec.context("a pod without spec")?;
            let class = spec
                .priority_class_name
                .as_deref()
                .filter(|name| !name.is_empty());
            ensure!(
                (class, spec.priority) == expected,
                "expected: {expected:?} for the annotation {class:?}; seen: {class:?}, {:?}",
                spec.priority
            );
        }
    }
    Ok(())
}
