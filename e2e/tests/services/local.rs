//! Who may come, and how they are seen: `externalTrafficPolicy: Local`, and source ranges.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use svclb_e2e::{Host, wait};

use crate::apps::WEB;
use crate::counters::{self, Backend};
use crate::space::{Space, node_of};
use crate::traffic;
use crate::world::PATIENCE;

const PORT: u16 = 8060;

/// Status follows the endpoints; at its addresses the client's own address arrives; elsewhere the
/// pods answer, and the app sees another one.
pub(crate) fn status_follows_the_endpoints(space: &Space<'_>) -> Result<()> {
    let cluster = space.world.cluster();
    let client = space.world.client();
    space.app_on("local", &cluster.node(1))?;
    space.load_balancer(
        "local",
        json!({
            "externalTrafficPolicy": "Local",
            "ipFamilyPolicy": "PreferDualStack",
            "ports": [{"port": PORT, "targetPort": WEB}],
        }),
    )?;
    for node in [cluster.node(1), cluster.node(2)] {
        space.deploy("local", 1, Some(&node.name()))?;
        space.wait_for_app("local")?;
        space.expect_addresses("local", &node.addresses())?;
        for address in node.addresses() {
            let own = own_address(&client, address)?;
            wait::until(
                &format!("the app on {node} to see the client's address"),
                PATIENCE,
                || {
                    let answer = traffic::ask(&client, address, PORT)?;
                    if answer.client == own && answer.node == node.name() {
                        Ok(())
                    } else {
                        Err(format!("{answer:?}"))
                    }
                },
            )?;
        }
    }
    // At a node that is not in status.
    expect_pod_answers(space, "local", &cluster.node(3), PORT)?;
    space.deploy("local", 0, Some("node-2"))?;
    space.expect_addresses("local", &[])
}

/// Where the port mapping of the pods comes before kube-proxy, they answer at the addresses in status too.
pub(crate) fn the_pods_come_first(space: &Space<'_>) -> Result<()> {
    let node = space.world.cluster().node(1);
    space.app_on("first", &node)?;
    space.load_balancer(
        "first",
        json!({
            "externalTrafficPolicy": "Local",
            "ipFamilyPolicy": "PreferDualStack",
            "ports": [{"port": PORT + 2, "targetPort": WEB}],
        }),
    )?;
    space.expect_addresses("first", &node.addresses())?;
    expect_pod_answers(space, "first", &node, PORT + 2)
}

/// At the node's addresses its svclb pod answers, and the app sees another address than the client's.
fn expect_pod_answers(space: &Space<'_>, service: &str, node: &Host, port: u16) -> Result<()> {
    let client = space.world.client();
    let pods = space.expect_ready_pods(service, &space.world.cluster().nodes())?;
    let pod = pods
        .iter()
        .find(|pod| node_of(pod) == node.name())
        .context("no svclb pod on the node")?;
    for address in node.addresses() {
        let before = counters::read(node, pod, Backend::Nftables)?;
        let answer = traffic::ask_patiently(&client, address, port)?;
        let after = counters::read(node, pod, Backend::Nftables)?;
        ensure!(
            after.accepted > before.accepted,
            "expected: packets to {address} let pass by the svclb pod; seen: {before:?}, then {after:?}"
        );
        ensure!(
            answer.client != own_address(&client, address)?,
            "at {address}, where the svclb pod answers, the client's address arrives: {answer:?}"
        );
    }
    Ok(())
}

/// A host's address of the same family.
fn own_address(host: &Host, peer: IpAddr) -> Result<IpAddr> {
    let own = host.addresses();
    own.into_iter()
        .find(|own| own.is_ipv4() == peer.is_ipv4())
        .context("the host has no address of the family")
}

fn dual_stack(ranges: &Value) -> Value {
    json!({
        "ipFamilyPolicy": "RequireDualStack",
        "loadBalancerSourceRanges": ranges,
        "ports": [{"port": PORT + 1, "targetPort": WEB}],
    })
}

/// The client is in the ranges, the control plane's host is not: on kube-proxy's path, and through
/// the pods.
pub(crate) fn source_ranges(space: &Space<'_>) -> Result<()> {
    let addresses = [space.world.ipv4(), space.world.ipv6()].concat();
    space.app("ranges", 1)?;
    space.load_balancer(
        "ranges",
        dual_stack(&json!(["172.30.77.0/24", "fd31:77::/64"])),
    )?;
    space.expect_mode("ranges", &addresses, "VIP")?;
    let pods = space.expect_ready_pods("ranges", &space.world.cluster().nodes())?;
    expect_client_past_the_pods(space, &pods, &addresses, PORT + 1)?;

    let proxy = json!({"metadata": {"annotations": {"svclb.io/ip-mode": "Proxy"}}});
    space.patch_service("ranges", proxy)?;
    space.expect_mode("ranges", &addresses, "Proxy")?;
    let pods = space.expect_ready_pods("ranges", &space.world.cluster().nodes())?;
    expect_client_alone(space, &addresses, PORT + 1)?;
    for family in [space.world.ipv4(), space.world.ipv6()] {
        expect_pods_decide(space, &pods, &family, PORT + 1)?;
    }
    Ok(())
}

/// The client is let in at these addresses past the pods, and the control plane's host kept out.
fn expect_client_past_the_pods(
    space: &Space<'_>,
    pods: &[Pod],
    addresses: &[IpAddr],
    port: u16,
) -> Result<()> {
    // Until kube-proxy's next sync it is the pods that answer.
    wait::until(
        &format!("the client alone let in at {addresses:?}, past the svclb pods"),
        PATIENCE,
        || {
            let said = |error: anyhow::Error| format!("{error:#}");
            let cluster = space.world.cluster();
            let before = counters::read_all(cluster, pods).map_err(said)?;
            for address in addresses {
                traffic::ask(&space.world.client(), *address, port)?;
            }
            traffic::expect_silence(&cluster.control_plane(), addresses, port).map_err(said)?;
            let after = counters::read_all(cluster, pods).map_err(said)?;
            // Whom kube-proxy does not let in goes on to the port mapping, and it is the pods that drop it.
            let mut of_each = before.iter().zip(&after);
            if of_each.all(|(before, after)| after.accepted == before.accepted) {
                Ok(())
            } else {
                Err(format!("{before:?}, then {after:?}"))
            }
        },
    )?;
    Ok(())
}

/// At the address of each node, its pod lets the client in and keeps the control plane's host out.
fn expect_pods_decide(
    space: &Space<'_>,
    pods: &[Pod],
    addresses: &[IpAddr],
    port: u16,
) -> Result<()> {
    // Until kube-proxy's next sync its rules still answer, and the pods see nothing.
    wait::until(
        &format!("packets to {addresses:?} let in and kept out by the pods"),
        PATIENCE,
        || {
            let said = |error: anyhow::Error| format!("{error:#}");
            let cluster = space.world.cluster();
            let before = counters::read_all(cluster, pods).map_err(said)?;
            for address in addresses {
                traffic::ask(&space.world.client(), *address, port)?;
            }
            traffic::expect_silence(&cluster.control_plane(), addresses, port).map_err(said)?;
            let after = counters::read_all(cluster, pods).map_err(said)?;
            let mut of_each = before.iter().zip(&after);
            if of_each.all(|(before, after)| {
                after.accepted > before.accepted && after.dropped > before.dropped
            }) {
                Ok(())
            } else {
                Err(format!("{before:?}, then {after:?}"))
            }
        },
    )?;
    Ok(())
}

/// Ranges that kube-proxy would not enforce leave no way in.
pub(crate) fn ranges_that_kube_proxy_ignores(space: &Space<'_>) -> Result<()> {
    let (ipv4, ipv6) = (space.world.ipv4(), space.world.ipv6());
    space.app("half", 1)?;
    space.load_balancer("half", dual_stack(&json!(["172.30.77.0/24"])))?;
    space.expect_addresses("half", &ipv4)?;
    space.expect_event("half", "SourceRangesNotEnforced", &["IPv6"])?;
    space.expect_ready_pods("half", &space.world.cluster().nodes())?;
    expect_client_alone(space, &ipv4, PORT + 1)?;
    let outsider = space.world.cluster().control_plane();
    traffic::expect_silence(&space.world.client(), &ipv6, PORT + 1)?;
    traffic::expect_silence(&outsider, &ipv6, PORT + 1)?;
    space.delete_service("half")?;
    space.expect_nothing_left()?;

    let addresses = [space.world.ipv4(), space.world.ipv6()].concat();
    let annotation = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let annotations = json!({"annotations": {annotation: "172.30.77.0/24,fd31:77::/64"}});
    space.load_balancer_with("half", annotations, dual_stack(&Value::Null))?;
    space.expect_mode("half", &addresses, "Proxy")?;
    space.expect_ready_pods("half", &space.world.cluster().nodes())?;
    expect_client_alone(space, &addresses, PORT + 1)
}

fn expect_client_alone(space: &Space<'_>, addresses: &[IpAddr], port: u16) -> Result<()> {
    for address in addresses {
        traffic::ask_patiently(&space.world.client(), *address, port)?;
    }
    traffic::expect_silence(&space.world.cluster().control_plane(), addresses, port)
}
