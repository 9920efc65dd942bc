//! Ports: many, of both protocols, by name, and changed while traffic flows.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use svclb_e2e::wait;

use crate::apps::{TCP, UDP, WEB};
use crate::counters::{self, Backend, Counted};
use crate::flow::{Flow, Record};
use crate::report::measured;
use crate::space::{Space, is_ready, node_of};
use crate::traffic;
use crate::world::PATIENCE;

/// What kube-proxy may take beside its pause between two syncs, on a machine that is busy otherwise.
const SLACK: Duration = Duration::from_secs(9);

/// TCP and UDP on one port, several ports, ports of the pods by name: on kube-proxy's path, and through the svclb pods.
pub(crate) fn protocols_and_names(space: &Space<'_>) -> Result<()> {
    let (world, client) = (space.world, space.world.client());
    space.app("mixed", 2)?;
    let ports = json!([
        {"name": "web", "port": 8040, "targetPort": "web"},
        {"name": "tcp", "port": 8041, "targetPort": "tcp"},
        {"name": "udp", "port": 8041, "targetPort": "udp", "protocol": "UDP"},
        {"name": "number", "port": 8042, "targetPort": UDP, "protocol": "UDP"},
    ]);
    let asks: [&dyn Fn(IpAddr) -> Result<()>; 4] = [
        &|address| traffic::ask_patiently(&client, address, 8040).map(drop),
        &|address| traffic::echo_tcp(&client, address, 8041),
        &|address| traffic::ask_udp(&client, address, 8041).map(drop),
        &|address| traffic::ask_udp(&client, address, 8042).map(drop),
    ];
    space.load_balancer("mixed", json!({"ports": ports}))?;
    space.expect_addresses("mixed", &world.ipv4())?;
    for address in world.ipv4() {
        asks.iter().try_for_each(|ask| ask(address))?;
    }

    let proxy = json!({"metadata": {"annotations": {"svclb.io/ip-mode": "Proxy"}}});
    space.patch_service("mixed", proxy)?;
    space.expect_mode("mixed", &world.ipv4(), "Proxy")?;
    let pods = space.expect_ready_pods("mixed", &world.cluster().nodes())?;
    for (pod, address) in pods.iter().zip(world.ipv4()) {
        for (number, ask) in asks.iter().enumerate() {
            expect_pod_counts(space, pod, &format!("question {number}"), || ask(address))?;
        }
    }
    Ok(())
}

/// The pod sees what is asked, once kube-proxy has given the address up.
fn expect_pod_counts(
    space: &Space<'_>,
    pod: &Pod,
    question: &str,
    ask: impl Fn() -> Result<()>,
) -> Result<()> {
    let node = space.world.cluster().host(node_of(pod))?;
    let expected = format!("{question} to {node} let pass by its svclb pod");
    wait::until(&expected, PATIENCE, || {
        let said = |error: anyhow::Error| format!("{error:#}");
        let read = || counters::read(&node, pod, Backend::Nftables).map_err(said);
        let before = read()?;
        ask().map_err(said)?;
        let after = read()?;
        if after.accepted > before.accepted {
            Ok(())
        } else {
            Err(format!("{before:?}, then {after:?}"))
        }
    })?;
    Ok(())
}

fn web(port: u16) -> Value {
    json!({"name": format!("web-{port}"), "port": port, "targetPort": WEB})
}

fn set_ports(space: &Space<'_>, service: &str, ports: &[Value]) -> Result<()> {
    space.patch_service(service, json!({"spec": {"ports": ports}}))?;
    Ok(())
}

/// On kube-proxy's path a port that stays is not interrupted when others come and go, nor is a connection that is open.
pub(crate) fn kube_proxys_path_is_not_interrupted(space: &Space<'_>) -> Result<()> {
    // What the flows' host sends again is to be theirs alone.
    let (client, another) = (space.world.client(), space.world.cluster().control_plane());
    let nodes = space.world.cluster().nodes();
    let kept = json!({"name": "kept", "port": 8039, "targetPort": TCP});
    space.app("web", 2)?;
    space.load_balancer("web", json!({"ports": [web(8043), kept]}))?;
    space.expect_addresses("web", &space.world.ipv4())?;
    for address in space.world.ipv4() {
        traffic::await_answer(space.world.cluster(), address, 8043)?;
    }
    let mut flows: Vec<Flow> = space
        .world
        .ipv4()
        .into_iter()
        .map(|address| Flow::http(&client, address, 8043))
        .collect();
    // Until kube-proxy's next sync it is the pods that answer, and a connection would stay theirs.
    wait::until("requests answered past the svclb pods", PATIENCE, || {
        expect_past_the_pods(space, &flows).map_err(|error| format!("{error:#}"))
    })?;
    for address in space.world.ipv4() {
        flows.push(Flow::kept(&client, address, 8039));
    }
    for ports in [
        &[web(8043), kept.clone(), web(8044)][..],
        &[web(8043), kept],
    ] {
        set_ports(space, "web", ports)?;
        space.expect_ready_pods("web", &nodes)?;
        if ports.len() == 2 {
            traffic::expect_silence(&another, &space.world.ipv4(), 8044)?;
        } else {
            for address in space.world.ipv4() {
                traffic::ask_patiently(&another, address, 8044)?;
            }
        }
        space.expect_addresses("web", &space.world.ipv4())?;
    }
    expect_past_the_pods(space, &flows)?;
    for flow in flows {
        flow.stop()?.expect_no_gap("changes of other ports")?;
    }
    Ok(())
}

/// Requests are answered that none of the svclb pods has seen.
fn expect_past_the_pods(space: &Space<'_>, flows: &[Flow]) -> Result<()> {
    let pods = space.expect_ready_pods("web", &space.world.cluster().nodes())?;
    let before = counters::read_all(space.world.cluster(), &pods)?;
    for flow in flows {
        for _ in 0..10 {
            flow.answered_after(Instant::now())?;
        }
    }
    let after = counters::read_all(space.world.cluster(), &pods)?;
    let accepted = |counted: &[Counted]| -> Vec<u64> {
        counted.iter().map(|counted| counted.accepted).collect()
    };
    ensure!(
        accepted(&after) == accepted(&before),
        "expected: requests answered past the svclb pods; seen: {before:?}, then {after:?}"
    );
    Ok(())
}

/// On the pods' own path a change of ports costs a new pod: how long TCP stands still is measured, and
/// who sends UDP from one port is answered soon after.
pub(crate) fn the_pods_path_comes_back(space: &Space<'_>) -> Result<()> {
    let client = space.world.client();
    let node = space.world.cluster().node(1);
    let address: IpAddr = node.ipv4().context("no IPv4 address")?.into();
    let udp = json!({"name": "udp", "port": 8046, "targetPort": UDP, "protocol": "UDP"});
    space.app("own", 2)?;
    space.load_balancer_with(
        "own",
        json!({"annotations": {"svclb.io/ip-mode": "Proxy"}}),
        json!({"ports": [web(8045), udp]}),
    )?;
    space.expect_mode("own", &space.world.ipv4(), "Proxy")?;
    traffic::await_answer(space.world.cluster(), address, 8045)?;
    traffic::ask_udp(&client, address, 8046)?;
    let old = pod_on(space, &node.name())?.context("no svclb pod")?;

    let tcp_flow = Flow::http(&client, address, 8045);
    let udp_flow = Flow::udp(&client, address, 8046, 40046);
    let start = Instant::now();
    tcp_flow.answered_after(start)?;
    udp_flow.answered_after(start)?;
    set_ports(space, "own", &[web(8045), udp, web(8047)])?;
    let ready = wait::until("a new svclb pod Ready on the node", PATIENCE, || {
        let said = |error: anyhow::Error| format!("{error:#}");
        match pod_on(space, &node.name()).map_err(said)? {
            Some((uid, true)) if uid != old.0 => Ok(Instant::now()),
            other => Err(format!("{other:?}, before {old:?}")),
        }
    })?;
    let answered = udp_flow.answered_after(ready)?;
    let after = answered.saturating_duration_since(ready);
    ensure!(
        after <= Duration::from_secs(5),
        "expected: a UDP sender with one port answered within 5 s of the new pod being Ready; seen: {after:?}"
    );
    tcp_flow.answered_after(ready)?;
    space.expect_ready_pods("own", &space.world.cluster().nodes())?;
    traffic::ask_patiently(&client, address, 8047)?;
    let (tcp, udp) = (
        tcp_flow.stop()?.longest_gap(),
        udp_flow.stop()?.longest_gap(),
    );
    measured(&format!(
        "ports changed, the pods' own path: TCP stands still for {tcp:.1?}, UDP from one port for {udp:.1?}"
    ));
    Ok(())
}

/// UID of the node's present svclb pod, and whether it is Ready.
fn pod_on(space: &Space<'_>, node: &str) -> Result<Option<(String, bool)>> {
    let pods = space.svclb_pods("own")?;
    let pod = pods.iter().find(|pod| node_of(pod) == node);
    Ok(pod.map(|pod| (pod.metadata.uid.clone().unwrap_or_default(), is_ready(pod))))
}

/// A Service is edited to a port that another one has: the other one's traffic goes astray until
/// kube-proxy knows that the first has no address any more, and not afterwards.
pub(crate) fn a_port_that_another_has(space: &Space<'_>) -> Result<()> {
    let client = space.world.client();
    let addresses = space.world.ipv4();
    space.deploy("mover", 1, None)?;
    space.app("holder", 1)?;
    space.wait_for_app("mover")?;
    for (service, port) in [("holder", 8048), ("mover", 8049)] {
        space.load_balancer(service, json!({"ports": [web(port)]}))?;
        space.expect_addresses(service, &addresses)?;
        for address in &addresses {
            traffic::await_answer(space.world.cluster(), *address, port)?;
        }
    }

    let flows: Vec<Flow> = addresses
        .iter()
        .map(|address| Flow::http(&client, *address, 8048))
        .collect();
    set_ports(space, "mover", &[web(8048)])?;
    let edited = Instant::now();
    space.expect_addresses("mover", &[])?;
    let patched = Instant::now();
    // kube-proxy syncs once a second; then two seconds without anything astray are the proof.
    wait::until(
        "two seconds in which the holder alone has answered",
        PATIENCE,
        || {
            let since = Instant::now()
                .checked_sub(Duration::from_secs(2))
                .filter(|since| *since > patched);
            let since = since.ok_or("too early to tell")?;
            match flows
                .iter()
                .filter_map(|flow| last_astray(&flow.so_far()))
                .max()
            {
                Some(last) if last >= since => {
                    Err(format!("astray {:?} after our patch", last - patched))
                }
                _ => Ok(()),
            }
        },
    )?;
    thread::sleep(Duration::from_secs(2));
    let settled = Instant::now()
        .checked_sub(Duration::from_secs(4))
        .unwrap_or(patched);
    let mut last = None;
    for flow in flows {
        let record = flow.stop()?;
        record.expect_no_failure("another Service's edit to its port")?;
        last = last.max(last_astray(&record));
    }
    ensure!(
        last.is_none_or(|last| last < settled),
        "requests go astray again, {:?} after our patch",
        last.map(|last| last - patched)
    );
    let limit = space.world.cluster().options().proxy_min_sync + SLACK;
    let after_patch = last.map(|last| last.saturating_duration_since(patched));
    ensure!(
        after_patch.is_none_or(|time| time <= limit),
        "expected: nothing astray {limit:?} after our patch; seen: {after_patch:?}"
    );
    measured(&format!(
        "a Service edited to another one's port: {:.2?} until our patch, {}",
        patched - edited,
        match last {
            Some(last) => format!(
                "the last request astray {:.2?} after the edit",
                last.saturating_duration_since(edited)
            ),
            None => "not one request astray".to_owned(),
        }
    ));
    space.expect_event("mover", "PortConflict", &["8048", "holder"])?;
    Ok(())
}

/// When the last request was sent that another app than the holder answered.
fn last_astray(record: &Record) -> Option<Instant> {
    let astray = record.outcomes.iter().rev().find(|outcome| {
        outcome
            .result
            .as_ref()
            .is_ok_and(|pod| !pod.starts_with("holder"))
    });
    astray.map(|outcome| outcome.at)
}
