//! A Service's type changes, and it is deleted: each time nothing is left over.

use anyhow::{Result, ensure};
use serde_json::json;
use svclb_e2e::{Host, wait};

use crate::apps::WEB;
use crate::space::Space;
use crate::traffic;
use crate::world::PATIENCE;

const PORT: u16 = 8020;

/// LoadBalancer -> ClusterIP -> LoadBalancer -> NodePort -> LoadBalancer -> deleted.
pub(crate) fn nothing_is_left_over(space: &Space<'_>) -> Result<()> {
    space.app("web", 1)?;
    space.load_balancer("web", json!({"ports": [{"port": PORT, "targetPort": WEB}]}))?;
    for other in ["ClusterIP", "NodePort"] {
        expect_served(space)?;
        patch_type(space, other)?;
        let service = space.expect_released("web")?;
        ensure!(
            service.spec.and_then(|spec| spec.type_).as_deref() == Some(other),
            "the type changed again"
        );
        expect_no_port(space)?;
        patch_type(space, "LoadBalancer")?;
    }
    expect_served(space)?;
    space.delete_service("web")?;
    space.expect_nothing_left()?;
    expect_no_port(space)
}

fn patch_type(space: &Space<'_>, to: &str) -> Result<()> {
    let patch = json!({"spec": {"type": to}}).to_string();
    space.world.kubectl(&[
        "patch",
        "service",
        "web",
        "-n",
        space.name(),
        "--patch",
        &patch,
    ])?;
    Ok(())
}

fn expect_served(space: &Space<'_>) -> Result<()> {
    let world = space.world;
    space.expect_addresses("web", &world.ipv4())?;
    space.expect_ready_pods("web", &world.cluster().nodes())?;
    for address in world.ipv4() {
        traffic::ask_patiently(&world.client(), address, PORT)?;
    }
    for node in world.cluster().nodes() {
        ensure!(
            !rules(&node)?.is_empty(),
            "no rule about port {PORT} on {node}, which has the port"
        );
    }
    Ok(())
}

/// No node takes the port, and no rule is about it.
fn expect_no_port(space: &Space<'_>) -> Result<()> {
    traffic::expect_silence(&space.world.client(), &space.world.ipv4(), PORT)?;
    for node in space.world.cluster().nodes() {
        wait::until(
            &format!("no rule about port {PORT} on {node}"),
            PATIENCE,
            || {
                let rules = rules(&node).map_err(|error| format!("{error:#}"))?;
                if rules.is_empty() {
                    Ok(())
                } else {
                    Err(format!("{rules:?}"))
                }
            },
        )?;
    }
    Ok(())
}

/// What kube-proxy and the network plugins have to do with the port, both families.
fn rules(node: &Host) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for save in ["iptables-save", "ip6tables-save"] {
        let saved = node.command(save).text()?;
        let port = PORT.to_string();
        let about = |line: &&str| {
            let mut words = line.split_whitespace();
            words.any(|word| word.starts_with("--dport")) && words.next() == Some(&port)
        };
        // The ClusterIP's own port stays.
        let ours = saved
            .lines()
            .filter(about)
            .filter(|line| !line.contains("KUBE-SVC-"));
        found.extend(ours.map(str::to_owned));
    }
    Ok(found)
}
