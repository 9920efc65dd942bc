//! `sessionAffinity`: None spreads, ClientIP sticks, and with a timeout lets go.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use svclb_e2e::wait;

use crate::apps::WEB;
use crate::space::Space;
use crate::traffic;
use crate::world::PATIENCE;

const PORT: u16 = 8030;
/// By chance, one of three replicas alone answers so many requests once in 10^14 runs.
const REQUESTS: usize = 30;

/// All of it at one node's address.
pub(crate) fn none_and_client_ip(space: &Space<'_>) -> Result<()> {
    let client = space.world.client();
    let address: IpAddr = space
        .world
        .cluster()
        .node(1)
        .ipv4()
        .context("no IPv4 address")?
        .into();
    space.app("web", 3)?;
    let service =
        space.load_balancer("web", json!({"ports": [{"port": PORT, "targetPort": WEB}]}))?;
    let affinity = service.spec.and_then(|spec| spec.session_affinity);
    ensure!(
        affinity.as_deref() == Some("None"),
        "the API server's default is {affinity:?}"
    );
    space.expect_addresses("web", &space.world.ipv4())?;
    traffic::ask_until(&client, address, PORT, 3)?;

    let sticky = |seconds: u32| {
        json!({"spec": {
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}},
        }})
    };
    space.patch_service("web", sticky(600))?;
    wait::until("one replica alone answering", PATIENCE, || {
        let mut seen = BTreeSet::new();
        for _ in 0..REQUESTS {
            seen.insert(traffic::ask(&client, address, PORT)?.pod);
        }
        if seen.len() == 1 {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })?;

    space.patch_service("web", sticky(2))?;
    let mut seen = BTreeSet::new();
    wait::until(
        "another replica answering after the timeout",
        PATIENCE,
        || {
            thread::sleep(Duration::from_secs(3));
            seen.insert(traffic::ask(&client, address, PORT)?.pod);
            if seen.len() > 1 {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        },
    )?;
    // So the short timeout is in effect. Within it, one replica answers.
    for _ in 0..5 {
        let (first, second) = wait::until("two answers in half the timeout", PATIENCE, || {
            let start = Instant::now();
            let first = traffic::ask(&client, address, PORT)?;
            let second = traffic::ask(&client, address, PORT)?;
            match start.elapsed() {
                short if short < Duration::from_secs(1) => Ok((first.pod, second.pod)),
                long => Err(format!("two answers in {long:?}")),
            }
        })?;
        ensure!(
            first == second,
            "expected: one replica within the timeout; seen: {first}, then {second}"
        );
    }
    Ok(())
}
