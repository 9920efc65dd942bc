//! Other clusters: kube-proxy in nftables mode, where it depends on the order of their start whether
//! kube-proxy or the port mapping of the pods comes first; IPv6 alone; nodes that may be silent for long.

use std::time::Duration;

use anyhow::Result;
use svclb_e2e::{Component, IpFamily, NodeSettings, Options, ProxyMode};

use crate::world::World;
use crate::{conflicts, everyday, families, faults, local, own_path, run};

/// kube-proxy registered its chains last, and comes first.
pub(crate) fn nftables() -> Result<()> {
    let world = World::up(&Options {
        name: "services-nftables".to_owned(),
        proxy_mode: ProxyMode::Nftables,
        ..Options::default()
    })?;
    run(&world, "nftables-three-replicas", everyday::three_replicas)?;
    run(&world, "nftables-own-path", own_path::both_backends)?;
    run(
        &world,
        "nftables-local",
        local::status_follows_the_endpoints,
    )?;
    run(&world, "nftables-source-ranges", local::source_ranges)?;
    run(
        &world,
        "nftables-not-enforced",
        local::ranges_that_kube_proxy_ignores,
    )
}

/// The port mapping comes first, until kube-proxy is restarted.
pub(crate) fn nftables_portmap_last() -> Result<()> {
    let world = World::up(&Options {
        name: "services-portmap".to_owned(),
        proxy_mode: ProxyMode::Nftables,
        portmap_last: true,
        ..Options::default()
    })?;
    run(
        &world,
        "portmap-last-three-replicas",
        everyday::three_replicas,
    )?;
    run(&world, "portmap-last-own-path", own_path::both_backends)?;
    run(
        &world,
        "portmap-last-comes-first",
        local::the_pods_come_first,
    )?;
    for node in world.cluster().nodes() {
        node.restart(Component::KubeProxy)?;
    }
    run(
        &world,
        "portmap-last-local",
        local::status_follows_the_endpoints,
    )
}

/// No IPv4 anywhere.
pub(crate) fn ipv6_alone() -> Result<()> {
    let world = World::up(&Options {
        name: "services-ipv6".to_owned(),
        nodes: 2,
        ip_family: IpFamily::Ipv6,
        ..Options::default()
    })?;
    run(&world, "ipv6-alone", families::ipv6_alone)
}

/// Nodes may be silent for a minute, and one of them has the API server's address as its own.
pub(crate) fn long_grace() -> Result<()> {
    let shared = NodeSettings {
        internal_ips: vec!["10.231.0.10".parse()?],
        ..NodeSettings::default()
    };
    let world = World::up(&Options {
        name: "services-grace".to_owned(),
        node_monitor_grace: Duration::from_secs(60),
        node_settings: [(3, shared)].into(),
        ..Options::default()
    })?;
    run(&world, "api-servers-port", conflicts::the_api_servers_port)?;
    run(
        &world,
        "api-server-away-30s",
        faults::the_api_server_is_away_for_less_than_the_grace,
    )
}
