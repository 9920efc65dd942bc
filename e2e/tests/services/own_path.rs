//! The svclb pods' own path: where kube-proxy does not answer, their rules do, and count it.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use svclb_e2e::Host;

use crate::counters::{self, Backend};
use crate::space::{Space, WEB};
use crate::traffic;
use crate::world::{NAMESPACE, name_of};

/// Of a Service whose addresses kube-proxy leaves alone.
pub(crate) const PROXY: u16 = 8070;
/// Of a Service that kube-proxy answers for at the addresses in status.
pub(crate) const VIP: u16 = 8071;

/// `ipMode: Proxy`, and an address of the node that is not in status, both with both backends.
pub(crate) fn both_backends(space: &Space<'_>) -> Result<()> {
    let cluster = space.world.cluster();
    let node = cluster.node(1);
    let second: Vec<IpAddr> = vec!["10.231.9.1".parse()?, "fd31:231::9:1".parse()?];
    for address in &second {
        cluster.add_address(&node, *address)?;
    }
    let all = [space.world.ipv4(), space.world.ipv6()].concat();
    serve(space, &all)?;
    for backend in [Backend::Nftables, Backend::Iptables] {
        if backend == Backend::Iptables {
            for service in ["proxy", "vip"] {
                use_iptables(space, service)?;
            }
        }
        for node in cluster.nodes() {
            expect_counted(space, "proxy", &node, &node.addresses(), PROXY, backend)?;
        }
        expect_counted(space, "vip", &node, &second, VIP, backend)?;
    }
    Ok(())
}

/// Two Services on all nodes, IPv4 and IPv6, each in front of three replicas.
pub(crate) fn serve(space: &Space<'_>, addresses: &[IpAddr]) -> Result<()> {
    space.deploy("proxy", 3, None)?;
    space.app("vip", 3)?;
    space.wait_for_app("proxy")?;
    let ports = |port: u16| json!({"ipFamilyPolicy": "PreferDualStack", "ports": [{"port": port, "targetPort": WEB}]});
    let annotations = json!({"annotations": {"svclb.io/ip-mode": "Proxy"}});
    space.load_balancer_with("proxy", annotations, ports(PROXY))?;
    space.load_balancer("vip", ports(VIP))?;
    space.expect_mode("proxy", addresses, "Proxy")?;
    space.expect_mode("vip", addresses, "VIP")
}

/// Another one's edit of the DaemonSet: what svclb does not set is theirs.
fn use_iptables(space: &Space<'_>, service: &str) -> Result<()> {
    let daemonset = space.daemonset(service)?.context("no DaemonSet")?;
    let daemonset = format!("daemonset/{}", name_of(&daemonset.metadata));
    space.world.kubectl(&[
        "set",
        "env",
        "-n",
        NAMESPACE,
        &daemonset,
        "SVCLB_BACKEND=iptables",
    ])?;
    Ok(())
}

/// Answers of all replicas come from these addresses, and the rules of the node's svclb pod have
/// counted their packets.
pub(crate) fn expect_counted(
    space: &Space<'_>,
    service: &str,
    node: &Host,
    addresses: &[IpAddr],
    port: u16,
    backend: Backend,
) -> Result<()> {
    let pods = space.expect_ready_pods(service, &space.world.cluster().nodes())?;
    let pod = pods
        .iter()
        .find(|pod| crate::space::node_of(pod) == node.name())
        .context("no svclb pod on the node")?;
    for address in addresses {
        let before = counters::read(node, pod, backend)?;
        traffic::ask_until(&space.world.client(), *address, port, 3)?;
        let after = counters::read(node, pod, backend)?;
        ensure!(
            after.accepted > before.accepted && after.dropped == before.dropped,
            "expected: packets to {address} port {port} counted by {backend:?} on {node}; \
             seen: {before:?}, then {after:?}"
        );
    }
    Ok(())
}
