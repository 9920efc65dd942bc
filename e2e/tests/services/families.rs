//! IP families: IPv4, IPv6, both in both orders, and a cluster with IPv6 alone.

use std::net::IpAddr;

use anyhow::Result;
use serde_json::{Value, json};

use crate::apps::WEB;
use crate::counters::Backend;
use crate::own_path;
use crate::space::Space;
use crate::traffic;

/// Status has the Service's families in the Service's order, and every address answers.
pub(crate) fn every_combination(space: &Space<'_>) -> Result<()> {
    let (ipv4, ipv6) = (space.world.ipv4(), space.world.ipv6());
    space.app("web", 2)?;
    let combinations: [(&str, Value, Vec<IpAddr>); 4] = [
        ("ipv4", json!(["IPv4"]), ipv4.clone()),
        ("ipv6", json!(["IPv6"]), ipv6.clone()),
        (
            "ipv4-ipv6",
            json!(["IPv4", "IPv6"]),
            [ipv4.clone(), ipv6.clone()].concat(),
        ),
        ("ipv6-ipv4", json!(["IPv6", "IPv4"]), [ipv6, ipv4].concat()),
    ];
    for ((name, families, _), port) in combinations.iter().zip(8050..) {
        let both = families
            .as_array()
            .is_some_and(|families| families.len() == 2);
        let policy = if both {
            "RequireDualStack"
        } else {
            "SingleStack"
        };
        space.load_balancer(
            name,
            json!({
                "selector": {"app": "web"},
                "ipFamilies": families,
                "ipFamilyPolicy": policy,
                "ports": [{"port": port, "targetPort": WEB}],
            }),
        )?;
    }
    for ((name, _, addresses), port) in combinations.iter().zip(8050..) {
        space.expect_addresses(name, addresses)?;
        for address in addresses {
            traffic::ask_until(&space.world.client(), *address, port, 2)?;
        }
    }
    Ok(())
}

/// In a cluster with IPv6 alone, at addresses in status and through the pods.
pub(crate) fn ipv6_alone(space: &Space<'_>) -> Result<()> {
    let addresses = space.world.ipv6();
    own_path::serve(space, &addresses)?;
    for node in space.world.cluster().nodes() {
        let own = node.addresses();
        own_path::expect_counted(
            space,
            "proxy",
            &node,
            &own,
            own_path::PROXY,
            Backend::Nftables,
        )?;
    }
    for address in addresses {
        traffic::ask_until(&space.world.client(), address, own_path::VIP, 3)?;
    }
    Ok(())
}
