//! Faults: nodes cut off, the controller killed, the API server away, everything restarted, all under
//! traffic.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, ListParams};
use serde_json::json;
use svclb_e2e::{Component, Host, wait};

use crate::counters;
use crate::measured;
use crate::random::Random;
use crate::space::{Space, WEB, node_of};
use crate::traffic::{self, Flow};
use crate::world::{CONTROLLER, NAMESPACE, PATIENCE, World, name_of};

const PORT: u16 = 8110;
/// A noisy machine gets so much more than a limit that the kernel and Kubernetes keep on a quiet one.
const SLACK: Duration = Duration::from_secs(4);

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
    let gone = cut_and_heal(space, without.context("a replica on every node")?)?;
    measured(&format!(
        "a node without the controller cut off: its address is gone after {gone:.1?}"
    ));
    let limit = world.cluster().options().node_monitor_grace + Duration::from_secs(1);
    ensure!(
        gone <= limit + SLACK,
        "expected: the address of a dead node gone within {limit:?}; seen: {gone:?}"
    );

    let gone = cut_and_heal(space, &node_at_work(world)?)?;
    measured(&format!(
        "the working controller's node cut off, two replicas: its address is gone after {gone:.1?}"
    ));

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
    let gone = wait::until(&format!("the address of {node} gone"), PATIENCE, || {
        let gone = watched.gone_after(cut, address);
        gone.ok_or_else(|| format!("{:?}", watched.states().last()))
    })?;
    node.heal()?;
    space.expect_addresses("web", &space.world.ipv4())?;
    space.expect_ready_pods("web", &space.world.cluster().nodes())?;
    space.world.wait_for_controller()?;
    Ok(gone - cut)
}

/// Waits until another node has been Ready for over a minute, as on a cluster whose nodes are not cut
/// off one after the other: it tells a controller that has just started that there was no outage.
fn expect_another_long_ready(world: &World, node: &Host) -> Result<()> {
    let expected = format!("a node beside {node} that has been Ready for over a minute");
    wait::until(&expected, PATIENCE * 2, || {
        let listed = world.block_on(world.node_api().list(&ListParams::default()));
        let mut seen = Vec::new();
        for other in listed.map_err(|error| error.to_string())? {
            let conditions = other.status.and_then(|status| status.conditions);
            let ready = conditions
                .into_iter()
                .flatten()
                .find(|condition| condition.type_ == "Ready" && condition.status == "True");
            let since = ready.and_then(|ready| ready.last_transition_time);
            let time = since.map(|since| Timestamp::now().duration_since(since.0));
            if name_of(&other.metadata) != node.name() && time > Some(SignedDuration::from_mins(1))
            {
                return Ok(());
            }
            seen.push((name_of(&other.metadata).to_owned(), time));
        }
        Err(format!("{seen:?}"))
    })?;
    Ok(())
}

/// The pod whose name is in the Lease.
fn pod_at_work(world: &World) -> Result<Pod> {
    let leases = world.api::<Lease>(NAMESPACE);
    let pods = world.api::<Pod>(NAMESPACE);
    let pod = wait::until("a running controller in the Lease", PATIENCE, || {
        let lease = world
            .block_on(leases.get(CONTROLLER))
            .map_err(|error| error.to_string())?;
        let holder = lease
            .spec
            .and_then(|spec| spec.holder_identity)
            .ok_or("nobody")?;
        world
            .block_on(pods.get(&holder))
            .map_err(|error| format!("{holder}: {error}"))
    })?;
    Ok(pod)
}

fn node_at_work(world: &World) -> Result<Host> {
    Ok(world.cluster().host(node_of(&pod_at_work(world)?))?)
}

fn scale_controller(world: &World, replicas: u8) -> Result<()> {
    let deployment = format!("deployment/{CONTROLLER}");
    let replicas = format!("--replicas={replicas}");
    world.kubectl(&["scale", "-n", NAMESPACE, &deployment, &replicas])?;
    world.wait_for_controller()
}

/// Fifty changes of eight Services, and three times in between the controller is killed: two crashes,
/// and a pod that is gone without having left the Lease. Afterwards all is as it was last wanted.
pub(crate) fn the_controller_is_killed(space: &Space<'_>) -> Result<()> {
    let world = space.world;
    let mut random = Random::new();
    space.app("web", 1)?;
    let name = |number: u16| format!("web-{number}");
    let mut second_ports = [false; 8];
    for number in 0..8 {
        space.load_balancer(&name(number), front(PORT + 1 + number))?;
    }
    let kills = [
        random.below(15),
        15 + random.below(15),
        30 + random.below(20),
    ];
    for change in 0..50 {
        match kills.iter().position(|kill| *kill == change) {
            Some(1) => delete_at_once(world)?,
            Some(_) => crash(world)?,
            None => {}
        }
        let number = random.below(8);
        let has_second = &mut second_ports[usize::from(number)];
        *has_second = !*has_second;
        let mut ports = vec![json!({"name": "web", "port": PORT + 1 + number, "targetPort": WEB})];
        if *has_second {
            ports.push(json!({"name": "second", "port": PORT + 11 + number, "targetPort": WEB}));
        }
        space.patch_service(&name(number), json!({"spec": {"ports": ports}}))?;
        thread::sleep(Duration::from_millis(u64::from(random.below(200))));
    }
    for number in 0..8 {
        let name = name(number);
        let mut wanted = vec![i32::from(PORT + 1 + number)];
        wanted.extend(second_ports[usize::from(number)].then_some(i32::from(PORT + 11 + number)));
        wait::until(
            &format!("a DaemonSet of Service {name} with the ports {wanted:?}"),
            PATIENCE,
            || {
                let daemonset = space
                    .daemonset(&name)
                    .map_err(|error| format!("{error:#}"))?;
                let spec = daemonset
                    .and_then(|daemonset| daemonset.spec?.template.spec)
                    .ok_or("none")?;
                let ports = spec
                    .containers
                    .iter()
                    .flat_map(|container| container.ports.iter().flatten());
                let ports: Vec<i32> = ports.filter_map(|port| port.host_port).collect();
                if ports == wanted {
                    Ok(())
                } else {
                    Err(format!("{ports:?}"))
                }
            },
        )?;
        space.expect_ready_pods(&name, &world.cluster().nodes())?;
        space.expect_addresses(&name, &world.ipv4())?;
        for port in wanted {
            traffic::ask_patiently(&world.client(), world.ipv4()[0], u16::try_from(port)?)?;
        }
    }
    world.wait_for_controller()
}

/// The process is killed; the kubelet starts it again.
fn crash(world: &World) -> Result<()> {
    let pod = pod_at_work(world)?;
    let node = world.cluster().host(node_of(&pod))?;
    if let Ok(pid) = counters::pid(&node, &pod) {
        node.command("kill").args(["-KILL", &pid]).text()?;
    }
    Ok(())
}

/// The pod is gone at once; another one is made.
fn delete_at_once(world: &World) -> Result<()> {
    let pod = pod_at_work(world)?;
    let at_once = DeleteParams::default().grace_period(0);
    let pods = world.api::<Pod>(NAMESPACE);
    world.block_on(pods.delete(name_of(&pod.metadata), &at_once))?;
    Ok(())
}

/// The working one of two replicas goes: the other one works on.
pub(crate) fn a_second_replica_takes_over(space: &Space<'_>) -> Result<()> {
    let world = space.world;
    scale_controller(world, 2)?;
    let first = pod_at_work(world)?;
    let start = Instant::now();
    world.kubectl(&[
        "delete",
        "pod",
        "-n",
        NAMESPACE,
        name_of(&first.metadata),
        "--wait=false",
    ])?;
    space.load_balancer("web", front(PORT + 20))?;
    space.expect_addresses("web", &world.ipv4())?;
    measured(&format!(
        "the working replica deleted: the next Service is served after {:.1?}",
        start.elapsed()
    ));
    let second = pod_at_work(world)?;
    ensure!(
        second.metadata.uid != first.metadata.uid,
        "the Lease is still the first replica's"
    );
    scale_controller(world, 1)
}

/// The API server is away for a while, with traffic flowing: no address leaves status afterwards,
/// while the nodes are marked as silent and come back one by one.
pub(crate) fn the_api_server_is_away_for_longer_than_the_grace(space: &Space<'_>) -> Result<()> {
    let grace = space.world.cluster().options().node_monitor_grace;
    api_server_away(space, grace + Duration::from_secs(4))?;
    Ok(())
}

/// Likewise for 30 s, shorter than nodes may be silent: not one request fails.
pub(crate) fn the_api_server_is_away_for_less_than_the_grace(space: &Space<'_>) -> Result<()> {
    for flow in api_server_away(space, Duration::from_secs(30))? {
        flow.expect_no_failure("an outage of the API server")?;
    }
    Ok(())
}

fn api_server_away(space: &Space<'_>, time: Duration) -> Result<Vec<traffic::Record>> {
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
    thread::sleep(time);
    control_plane.start(Component::KubeApiserver)?;
    wait::until("the API server", PATIENCE, || {
        space
            .service("web")
            .map(drop)
            .map_err(|error| format!("{error:#}"))
    })?;
    // The node lifecycle controller marks the nodes within its grace, and the kubelets take it back.
    thread::sleep(Duration::from_secs(12));
    expect_nodes_ready(world)?;
    watched.expect_throughout(&addresses, "an outage of the API server")?;
    // Its watches wait for up to half a minute before they try again, and with them what is deleted.
    control_plane.restart(Component::KubeControllerManager)?;
    flows.into_iter().map(Flow::stop).collect()
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

    for pod in &pods {
        let node = cluster.host(node_of(pod))?;
        node.command("kill")
            .args(["-KILL", &counters::pid(&node, pod)?])
            .text()?;
    }
    space.expect_ready_pods("web", &cluster.nodes())?;
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
        flow.stop()?.expect_no_failure("restarts of everything")?;
    }
    Ok(())
}
