//! Ports that are taken: who holds them is said, nobody loses what they have, and who waits is
//! served as soon as the port is free.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use svclb_e2e::{Host, wait};

use crate::apps::WEB;
use crate::space::{Space, is_ready, node_of};
use crate::traffic;
use crate::world::{CONTROLLER, NAMESPACE, PATIENCE, World};

const PORT: u16 = 8090;
/// core/v1's condition of a Service whose ports cannot be had.
const PORTS_ERROR: &str = "LoadBalancerPortsError";

fn ports(ports: &[u16]) -> Value {
    let ports: Vec<Value> = ports
        .iter()
        .map(|port| json!({"name": format!("web-{port}"), "port": port, "targetPort": WEB}))
        .collect();
    json!({"ports": ports})
}

/// Two Services want one port. Whatever is changed about the first, it keeps the port on every node;
/// when it goes, the second one works.
pub(crate) fn two_services(space: &Space<'_>) -> Result<()> {
    let world = space.world;
    let nodes = world.cluster().nodes();
    space.deploy("loser", 1, None)?;
    space.app("winner", 1)?;
    space.wait_for_app("loser")?;
    space.load_balancer("winner", ports(&[PORT]))?;
    space.expect_addresses("winner", &world.ipv4())?;
    let winning = space.watch_addresses("winner");
    space.load_balancer("loser", ports(&[PORT]))?;
    let losing = space.watch_addresses("loser");
    space.expect_event(
        "loser",
        "PortConflict",
        &[&PORT.to_string(), "TCP", "winner", "node-1", "node-3"],
    )?;
    let condition = wait::until("the loser's condition", PATIENCE, || {
        let condition = space
            .condition("loser", PORTS_ERROR)
            .map_err(|error| format!("{error:#}"))?;
        condition.ok_or_else(|| "none".to_owned())
    })?;
    ensure!(
        condition.status == "True" && condition.message.contains("winner"),
        "the loser's condition is {condition:?}"
    );

    let edits: [(&str, &dyn Fn() -> Result<()>); 3] = [
        ("ports", &|| patch_spec(space, &ports(&[PORT, PORT + 1]))),
        ("ranges", &|| {
            patch_spec(
                space,
                &json!({"loadBalancerSourceRanges": ["172.30.77.0/24"]}),
            )
        }),
        ("image", &|| use_another_image(world)),
    ];
    for (what, edit) in edits {
        edit()?;
        space.expect_ready_pods("winner", &nodes)?;
        expect_the_winner_has_it(space, &world.ipv4())
            .with_context(|| format!("after an edit of {what}"))?;
    }

    winning.expect_throughout(&world.ipv4(), "edits of the Service")?;

    let of_the_controller = world.controller_pods()?;
    let cut = nodes
        .iter()
        .find(|node| {
            of_the_controller
                .iter()
                .all(|pod| node_of(pod) != node.name())
        })
        .context("the controller is on every node")?;
    let others: Vec<&Host> = nodes
        .iter()
        .filter(|node| node.name() != cut.name())
        .collect();
    let winning = space.watch_addresses("winner");
    let pods_before = space.svclb_pods("winner")?;
    cut.cut()?;
    patch_spec(space, &ports(&[PORT, PORT + 2]))?;
    for node in &others {
        wait::until(
            &format!("a new svclb pod Ready on {node}"),
            PATIENCE,
            || {
                let pods = space
                    .svclb_pods("winner")
                    .map_err(|error| format!("{error:#}"))?;
                let new = pods.iter().find(|pod| {
                    node_of(pod) == node.name()
                        && is_ready(pod)
                        && pods_before
                            .iter()
                            .all(|before| before.metadata.uid != pod.metadata.uid)
                });
                new.map(drop)
                    .ok_or_else(|| format!("{:?}", pods.iter().map(node_of).collect::<Vec<_>>()))
            },
        )?;
    }
    cut.heal()?;
    space.expect_ready_pods("winner", &nodes)?;
    space.expect_addresses("winner", &world.ipv4())?;
    expect_the_winner_has_it(space, &world.ipv4()).context("after an edit with a node cut off")?;
    let addresses: Vec<IpAddr> = others
        .iter()
        .filter_map(|node| Some(node.ipv4()?.into()))
        .collect();
    winning.expect_throughout(&addresses, "an edit with another node cut off")?;
    losing.expect_none_throughout("the time in which another Service has its port")?;

    space.delete_service("winner")?;
    space.expect_addresses("loser", &world.ipv4())?;
    space.expect_ready_pods("loser", &nodes)?;
    for address in world.ipv4() {
        expect_answer_of(space, address, "loser")?;
    }
    ensure!(
        space
            .condition("loser", PORTS_ERROR)?
            .is_none_or(|condition| condition.status != "True"),
        "the condition stays although the port is held"
    );
    world.kubectl(&["apply", "-f", &crate::world::manifest()])?;
    world.wait_for_controller()
}

fn patch_spec(space: &Space<'_>, spec: &Value) -> Result<()> {
    space.patch_service("winner", json!({"spec": spec}))?;
    Ok(())
}

/// The same image by another name: all DaemonSets roll.
fn use_another_image(world: &World) -> Result<()> {
    let image = concat!("localhost/svclb-pod:", env!("CARGO_PKG_VERSION"));
    let other = "localhost/svclb-pod:other";
    for node in world.cluster().nodes() {
        let socket = "/run/containerd/containerd.sock";
        let tag = [
            "--address",
            socket,
            "--namespace",
            "k8s.io",
            "images",
            "tag",
            "--force",
            image,
            other,
        ];
        node.command("ctr").args(tag).text()?;
    }
    let deployment = format!("deployment/{CONTROLLER}");
    world.kubectl(&[
        "set",
        "env",
        "-n",
        NAMESPACE,
        &deployment,
        &format!("SVCLB_POD_IMAGE={other}"),
    ])?;
    world.wait_for_controller()
}

fn expect_the_winner_has_it(space: &Space<'_>, addresses: &[IpAddr]) -> Result<()> {
    space.expect_addresses("winner", addresses)?;
    for address in addresses {
        expect_answer_of(space, *address, "winner")?;
    }
    let (published, pods) = (space.published("loser")?, space.svclb_pods("loser")?);
    ensure!(
        published.is_empty() && pods.iter().all(|pod| node_of(pod).is_empty()),
        "the loser has {published:?}, and pods on {:?}",
        pods.iter().map(node_of).collect::<Vec<_>>()
    );
    Ok(())
}

fn expect_answer_of(space: &Space<'_>, address: IpAddr, app: &str) -> Result<()> {
    wait::until(
        &format!("an answer of {app} from {address}"),
        PATIENCE,
        || {
            let answer = traffic::ask(&space.world.client(), address, PORT)?;
            if answer.pod.starts_with(app) {
                Ok(())
            } else {
                Err(format!("{answer:?}"))
            }
        },
    )?;
    Ok(())
}

/// A pod of priority 0 has the port on one node: it is named, and it stays.
pub(crate) fn a_users_pod(space: &Space<'_>) -> Result<()> {
    let world = space.world;
    let node = world.cluster().node(2);
    let pods = world.api::<Pod>(space.name());
    let holder: Pod = serde_json::from_value(json!({
        "metadata": {"name": "holder"},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node.name()},
            "priority": 0,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "echo",
                "image": concat!("localhost/svclb-echo:", env!("CARGO_PKG_VERSION")),
                "args": ["--http", WEB.to_string(), "--grace", "0"],
                "ports": [{"containerPort": WEB, "hostPort": PORT + 5}],
            }],
        },
    }))?;
    let uid = world
        .block_on(pods.create(&PostParams::default(), &holder))?
        .metadata
        .uid;
    let ready_holder = || {
        wait::until("the user's pod Ready", PATIENCE, || {
            let pod = world
                .block_on(pods.get("holder"))
                .map_err(|error| error.to_string())?;
            if is_ready(&pod) {
                Ok(pod)
            } else {
                Err(format!("{:?}", pod.status))
            }
        })
    };
    ready_holder()?;

    space.app("web", 1)?;
    space.load_balancer("web", ports(&[PORT + 5]))?;
    let others: Vec<IpAddr> = [1, 3]
        .iter()
        .filter_map(|number| Some(world.cluster().node(*number).ipv4()?.into()))
        .collect();
    space.expect_addresses("web", &others)?;
    let holder = format!("{}/holder", space.name());
    space.expect_event(
        "web",
        "PortConflict",
        &[&(PORT + 5).to_string(), "TCP", "node-2", &holder],
    )?;
    let condition = space
        .condition("web", PORTS_ERROR)?
        .context("no condition")?;
    ensure!(
        condition.message.contains(&holder),
        "the condition is {condition:?}"
    );
    for address in &others {
        traffic::ask_patiently(&world.client(), *address, PORT + 5)?;
    }

    let still = ready_holder()?;
    let containers = still
        .status
        .and_then(|status| status.container_statuses)
        .unwrap_or_default();
    ensure!(
        still.metadata.uid == uid && still.metadata.deletion_timestamp.is_none(),
        "the user's pod was evicted"
    );
    ensure!(
        containers
            .iter()
            .all(|container| container.restart_count == 0),
        "its container was restarted"
    );

    world.block_on(pods.delete("holder", &DeleteParams::default()))?;
    space.expect_addresses("web", &world.ipv4())?;
    space.expect_ready_pods("web", &world.cluster().nodes())?;
    let address = node.ipv4().context("no IPv4 address")?;
    traffic::ask_patiently(&world.client(), address.into(), PORT + 5)?;
    Ok(())
}

/// A Service on the API server's port, in a cluster where a node has the API server's address as its
/// InternalIP: that node is left out, and the API server's traffic goes on.
pub(crate) fn the_api_servers_port(space: &Space<'_>) -> Result<()> {
    let world = space.world;
    let control_plane = world.cluster().control_plane();
    let api = SocketAddr::new(
        control_plane.ipv4().context("no IPv4 address")?.into(),
        6443,
    );
    let nodes = world.cluster().nodes();
    let Some((shared, others)) = nodes.split_last() else {
        bail!("no nodes");
    };
    space.app("web", 1)?;
    space.load_balancer("web", ports(&[6443]))?;
    let expected: Vec<IpAddr> = others
        .iter()
        .filter_map(Host::ipv4)
        .map(Into::into)
        .collect();
    space.expect_addresses("web", &expected)?;
    space.expect_event(
        "web",
        "PortConflict",
        &["6443", "API server", &shared.name()],
    )?;
    // Only once kube-proxy has the Service's rules, the API server's address is proven to be in none.
    for address in expected {
        traffic::ask_patiently(&world.client(), address, 6443)?;
    }
    for node in &nodes {
        let said = traffic::first_line(node, api).map_err(anyhow::Error::msg)?;
        ensure!(
            said.contains("HTTPS server"),
            "expected: the API server's answer at {api} on {node}; seen: {said}"
        );
    }
    Ok(())
}
