//! Faults: nodes cut off, the API server away, everything restarted, all under traffic.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, ListParams};
use serde_json::json;
use svclb_e2e::{Component, Host, wait};

use crate::apps::WEB;
use crate::counters;
use crate::flow::{Flow, Record};
use crate::replicas::{delete_first, node_at_work, restarts, scale_controller};
use crate::report::measured;
use crate::space::{Space, is_ready, node_of};
use crate::traffic;
use crate::world::{CONTROLLER, NAMESPACE, PATIENCE, World, name_of};

const PORT: u16 = 8110;
/// A noisy machine gets so much more than a limit that the kernel and Kubernetes keep on a quiet one.
const SLACK: Duration = Duration::from_secs(4);

/// How long the API server is away.
const OUTAGE: Duration = Duration::from_secs(30);

fn front(port: u16) -> serde_json::Value {
    json!({"selector": {"app": "web"}, "ports": [{"port": port, "targetPort": WEB}]})
}

/// A node's address leaves when the node is cut off, and is back when the node is: without the
/// controller at work on it, with it and a second replica elsewhere, and with the only one.
pub(crate) fn a_node_is_cut_off(space: &Space<'_>) -> Result<()> {
    let world = space.world;
    scale_controller(world, 2)?;
    space.app("web", 2)?;
    space.load_balancer("web", front(PORT))?;
    space.expect_addresses("web", &world.ipv4())?;

    let replicas = world.controller_pods()?;
    let nodes = world.cluster().nodes();
    let without = nodes
        .iter()
        .find(|node| replicas.iter().all(|pod| node_of(pod) != node.name()));
    let without = without.context("a replica on every node")?;
    let gone = cut_and_heal(space, without)?;
    measured(&format!(
        "a node without the controller cut off: its address is gone after {gone:.1?}"
    ));
    let limit = world.cluster().options().node_monitor_grace + Duration::from_secs(1);
    ensure!(
        gone <= limit + SLACK,
        "expected: the address of a dead node gone within {limit:?}; seen: {gone:?}"
    );

    let with = node_at_work(world)?;
    let gone = cut_and_heal(space, &with)?;
    measured(&format!(
        "the working controller's node cut off, two replicas: its address is gone after {gone:.1?}"
    ));

    // A node that was cut off before: the third one has been Ready for long.
    let before = [without.name(), with.name()];
    let replicas = world.controller_pods()?;
    let elsewhere = |pod: &&Pod| before.iter().all(|node| node_of(pod) != node);
    if let Some(pod) = replicas.iter().find(elsewhere) {
        delete_first(world, pod)?;
    }
    scale_controller(world, 1)?;
    let gone = cut_and_heal(space, &node_at_work(world)?)?;
    measured(&format!(
        "the controller's own node cut off, one replica: its address is gone after {gone:.1?}"
    ));
    Ok(())
}

/// How long it takes until the node's address is gone. Afterwards all is as before.
fn cut_and_heal(space: &Space<'_>, node: &Host) -> Result<Duration> {
    expect_another_long_ready(space.world, node)?;
    let address: IpAddr = node.ipv4().context("no IPv4 address")?.into();
    let watched = space.watch_addresses("web");
    let cut = Instant::now();
    node.cut()?;
    let mut unknown = None;
    let gone = wait::until(&format!("the address of {node} gone"), PATIENCE, || {
        if unknown.is_none() && ready_is(space.world, node, "Unknown")? {
            unknown = Some(Instant::now());
        }
        let gone = watched.gone_after(cut, address);
        gone.ok_or_else(|| format!("{:?}", watched.states().last()))
    })?;
    let after_mark = unknown.map(|unknown| gone.saturating_duration_since(unknown));
    if let Some(time) = after_mark {
        measured(&format!(
            "{node} marked Unknown to its address gone: {time:.1?}"
        ));
    }
    node.heal()?;
    space.expect_addresses("web", &space.world.ipv4())?;
    space.expect_ready_pods("web", &space.world.cluster().nodes())?;
    space.world.wait_for_controller()?;
    Ok(gone - cut)
}

/// Whether a node's condition Ready has this status.
fn ready_is(world: &World, node: &Host, status: &str) -> Result<bool, String> {
    let got = world.block_on(world.node_api().get(&node.name()));
    let node = got.map_err(|error| error.to_string())?;
    Ok(ready(node).is_some_and(|ready| ready.status == status))
}

fn ready(node: Node) -> Option<NodeCondition> {
    let conditions = node.status.and_then(|status| status.conditions);
    let mut conditions = conditions.into_iter().flatten();
    conditions.find(|condition| condition.type_ == "Ready")
}

/// Waits until another node has been Ready for over a minute, as on a cluster whose nodes are not cut
/// off one after the other: it tells a controller that has just started that there was no outage.
fn expect_another_long_ready(world: &World, node: &Host) -> Result<()> {
    let expected = format!("a node beside {node} that has been Ready for over a minute");
    wait::until(&expected, PATIENCE * 2, || {
        let listed = world.block_on(world.node_api().list(&ListParams::default()));
        let mut seen = Vec::new();
        for other in listed.map_err(|error| error.to_string())? {
            let name = name_of(&other.metadata).to_owned();
            let since = ready(other)
                .filter(|ready| ready.status == "True")
                .and_then(|ready| ready.last_transition_time);
            let time = since.map(|since| Timestamp::now().duration_since(since.0));
            if name != node.name() && time > Some(SignedDuration::from_mins(1)) {
                return Ok(());
            }
            seen.push((name, time));
        }
        Err(format!("{seen:?}"))
    })?;
    Ok(())
}

/// The nodes that are not Ready at any time from now on, for so long.
fn marked_within(world: &World, time: Duration) -> Result<BTreeSet<String>> {
    let begun = Instant::now();
    let mut marked = BTreeSet::new();
    while begun.elapsed() < time {
        for node in world.block_on(world.node_api().list(&ListParams::default()))? {
            let name = name_of(&node.metadata).to_owned();
            if ready(node).is_none_or(|ready| ready.status != "True") {
                marked.insert(name);
            }
        }
        thread::sleep(Duration::from_millis(500));
    }
    Ok(marked)
}

/// The API server is away for 30 s, with traffic flowing: no address leaves status afterwards, while the
/// nodes are marked as silent and come back one by one.
pub(crate) fn the_api_server_is_away_for_longer_than_the_grace(space: &Space<'_>) -> Result<()> {
    api_server_away(space).map(drop)
}

/// Likewise where nodes may be silent for longer: not one request fails.
pub(crate) fn the_api_server_is_away_for_less_than_the_grace(space: &Space<'_>) -> Result<()> {
    for flow in api_server_away(space)? {
        flow.expect_no_gap("an outage of the API server")?;
    }
    Ok(())
}

fn api_server_away(space: &Space<'_>) -> Result<Vec<Record>> {
    let world = space.world;
    space.app("web", 3)?;
    space.load_balancer("web", front(PORT + 21))?;
    let addresses: Vec<IpAddr> = {
        let nodes = world.cluster().nodes();
        let seen = wait::until("an address of every node", PATIENCE, || {
            let seen = space
                .published("web")
                .map_err(|error| format!("{error:#}"))?;
            if seen.len() == nodes.len() {
                Ok(seen)
            } else {
                Err(format!("{seen:?}"))
            }
        })?;
        seen.into_iter().map(|(address, _)| address).collect()
    };
    let asked: Vec<IpAddr> = world
        .ipv4()
        .into_iter()
        .filter(|address| addresses.contains(address))
        .collect();
    for address in &asked {
        traffic::await_answer(world.cluster(), *address, PORT + 21)?;
    }
    let watched = space.watch_addresses("web");
    let flows: Vec<Flow> = asked
        .iter()
        .map(|address| Flow::http(&world.client(), *address, PORT + 21))
        .collect();
    let control_plane = world.cluster().control_plane();
    // Not asked to end: it would wait ten seconds for the watches.
    control_plane.kill(Component::KubeApiserver)?;
    thread::sleep(OUTAGE);
    control_plane.start(Component::KubeApiserver)?;
    wait::until("the API server", PATIENCE, || {
        space
            .service("web")
            .map(drop)
            .map_err(|error| format!("{error:#}"))
    })?;
    // The node lifecycle controller marks the nodes within its grace, and the kubelets take it back.
    let back = Instant::now();
    // By chance its own watch comes back first, and there is nothing to take back.
    let marked = marked_within(world, Duration::from_secs(12))?;
    expect_nodes_ready(world)?;
    measured(&format!(
        "the API server away for {OUTAGE:?}: {} of the nodes marked as silent, all Ready {:.1?} after it is back",
        marked.len(),
        back.elapsed()
    ));
    thread::sleep(Duration::from_secs(5));
    watched.expect_throughout(&addresses, "an outage of the API server")?;
    let records = flows.into_iter().map(Flow::stop).collect();
    // Their watches wait for up to a minute before they try again, and with them what is deleted.
    control_plane.restart(Component::KubeControllerManager)?;
    for node in world.cluster().nodes() {
        node.restart(Component::Kubelet)?;
    }
    records
}

fn expect_nodes_ready(world: &World) -> Result<()> {
    world.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "nodes",
        "--all",
        // The kubelets' and the controller manager's watches wait for up to a minute before they try again.
        "--timeout=180s",
    ])?;
    Ok(())
}

/// kubelet, containerd, svclb pods and controller restarted, killed and replaced: no client notices,
/// and no address leaves.
pub(crate) fn everything_restarts_under_traffic(space: &Space<'_>) -> Result<()> {
    let world = space.world;
    let cluster = world.cluster();
    space.app("web", 3)?;
    space.load_balancer("web", front(PORT + 22))?;
    space.expect_addresses("web", &world.ipv4())?;
    let pods = space.expect_ready_pods("web", &cluster.nodes())?;
    let mut flows = Vec::new();
    for address in world.ipv4() {
        traffic::await_answer(cluster, address, PORT + 22)?;
        flows.push(Flow::http(&world.client(), address, PORT + 22));
    }
    let watched = space.watch_addresses("web");

    kill_pods(space, "web", &pods)?;
    kill_pods_on_their_own_path(space)?;
    for pod in space.svclb_pods("web")? {
        world.block_on(
            world
                .api::<Pod>(NAMESPACE)
                .delete(name_of(&pod.metadata), &DeleteParams::default()),
        )?;
    }
    wait::until("other svclb pods", PATIENCE, || {
        let now = space
            .svclb_pods("web")
            .map_err(|error| format!("{error:#}"))?;
        let same = now.iter().any(|pod| {
            pods.iter()
                .any(|before| before.metadata.uid == pod.metadata.uid)
        });
        if same {
            Err("the old ones".to_owned())
        } else {
            Ok(())
        }
    })?;
    space.expect_ready_pods("web", &cluster.nodes())?;
    world.kubectl(&[
        "rollout",
        "restart",
        "-n",
        NAMESPACE,
        &format!("deployment/{CONTROLLER}"),
    ])?;
    world.wait_for_controller()?;
    cluster.node(1).restart(Component::Kubelet)?;
    cluster.node(2).restart(Component::Containerd)?;
    expect_nodes_ready(world)?;
    // A restarted kubelet reports its node and its pods within some seconds.
    thread::sleep(Duration::from_secs(5));
    space.expect_ready_pods("web", &cluster.nodes())?;

    watched.expect_throughout(&world.ipv4(), "restarts of everything")?;
    for flow in flows {
        flow.stop()?.expect_no_gap("restarts of everything")?;
    }
    Ok(())
}

/// Kills the processes of these pods, and waits until the kubelets have started them again.
fn kill_pods(space: &Space<'_>, service: &str, pods: &[Pod]) -> Result<()> {
    for pod in pods {
        let node = space.world.cluster().host(node_of(pod))?;
        node.command("kill")
            .args(["-KILL", &counters::pid(&node, pod)?])
            .text()?;
    }
    wait::until("the killed pods Ready again", PATIENCE, || {
        let now = space
            .svclb_pods(service)
            .map_err(|error| format!("{error:#}"))?;
        let again = |before: &Pod| {
            now.iter().any(|pod| {
                pod.metadata.uid == before.metadata.uid
                    && restarts(pod) > restarts(before)
                    && is_ready(pod)
            })
        };
        if pods.iter().all(again) {
            Ok(())
        } else {
            let seen = now.iter().map(|pod| (restarts(pod), is_ready(pod)));
            Err(format!("{:?}", seen.collect::<Vec<_>>()))
        }
    })?;
    Ok(())
}

/// Where nobody but the pods forwards, their rules stay in place while they are killed and started again.
fn kill_pods_on_their_own_path(space: &Space<'_>) -> Result<()> {
    let world = space.world;
    let annotations = json!({"annotations": {"svclb.io/ip-mode": "Proxy"}});
    space.load_balancer_with("own", annotations, front(PORT + 23))?;
    space.expect_mode("own", &world.ipv4(), "Proxy")?;
    let pods = space.expect_ready_pods("own", &world.cluster().nodes())?;
    let mut flows = Vec::new();
    for address in world.ipv4() {
        traffic::await_answer(world.cluster(), address, PORT + 23)?;
        flows.push(Flow::http(&world.client(), address, PORT + 23));
    }
    kill_pods(space, "own", &pods)?;
    for flow in flows {
        flow.stop()?
            .expect_no_gap("the svclb pods killed, on their own path")?;
    }
    space.delete_service("own")
}
