//! The svclb pods' own path: where kube-proxy does not answer, their rules do, and count it.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use svclb_e2e::Host;

use crate::apps::WEB;
use crate::counters::{self, Backend};
use crate::space::{Space, node_of};
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
    expect_least_privilege(space, "vip")?;
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

/// What a Service's svclb pods may do, as the kernel has it: `CAP_NET_ADMIN` (bit 12) and nothing else,
/// no more by any program that they might start, and system calls by the runtime's default filter.
fn expect_least_privilege(space: &Space<'_>, service: &str) -> Result<()> {
    let nodes = space.world.cluster().nodes();
    for pod in space.expect_ready_pods(service, &nodes)? {
        let node = space.world.cluster().host(node_of(&pod))?;
        let status = format!("/proc/{}/status", counters::pid(&node, &pod)?);
        let status = node.command("cat").arg(status).text()?;
        for (field, expected) in [
            ("CapInh", "0000000000000000"),
            ("CapPrm", "0000000000001000"),
            ("CapEff", "0000000000001000"),
            ("CapBnd", "0000000000001000"),
            ("CapAmb", "0000000000000000"),
            ("NoNewPrivs", "1"),
            // SECCOMP_MODE_FILTER, include/uapi/linux/seccomp.h
            ("Seccomp", "2"),
        ] {
            let seen = status
                .lines()
                .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            ensure!(
                seen.map(str::trim) == Some(expected),
                "expected: {field} {expected} of the svclb pod on {node}; seen: {status}"
            );
        }
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
        .find(|pod| node_of(pod) == node.name())
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
