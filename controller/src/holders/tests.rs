//! When holders are searched, and when they are told of.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::conflict::Holder;
use crate::fixtures::{Cluster, key};
use crate::net::{Port, Protocol};

/// A verdict of the scheduler's that a host port is taken.
fn refused() -> Value {
    json!({ "spec": { "nodeName": null }, "status": { "phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.",
    }] } })
}

/// Pod `shop/<name>`, which holds TCP/80.
fn holder(name: &str, leaving: bool) -> BTreeSet<Holder> {
    let port = Port {
        protocol: Protocol::Tcp,
        number: 80,
    };
    BTreeSet::from([Holder {
        port,
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        host_network: false,
        leaving,
        service: None,
    }])
}

/// A Service whose pods are refused on these nodes, and the searches are answered by the test.
fn refused_on(nodes: &[&str]) -> Cluster {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.controllers = false;
    cluster.service("web", json!({})).act("web");
    for node in nodes {
        cluster.pod("web", node, refused());
    }
    cluster
}

/// The Service's turn: the nodes to search, and the conflict that is told now.
fn turn(cluster: &mut Cluster) -> (Vec<String>, Vec<String>) {
    let decision = cluster.decide("web");
    let events = decision.events.into_iter();
    let conflicts = events.filter(|event| event.reason == "PortConflict");
    (
        decision.find_holders,
        conflicts.map(|event| event.note).collect(),
    )
}

fn found(cluster: &mut Cluster, node: &str, holders: BTreeSet<Holder>) {
    cluster
        .memory
        .holders_found(&key("web"), node, Some(holders));
}

fn is_nothing((nodes, told): &(Vec<String>, Vec<String>)) -> bool {
    nodes.is_empty() && told.is_empty()
}

#[test]
fn the_holder_is_searched_once_and_nothing_is_told_before_he_is_known() {
    let mut cluster = refused_on(&["a"]);
    assert_eq!(turn(&mut cluster), (vec!["a".to_owned()], vec![]));
    assert!(is_nothing(&turn(&mut cluster)));
    found(&mut cluster, "a", holder("proxy", false));
    let told = "port TCP/80 is held by pod shop/proxy (hostPort) on a".to_owned();
    assert_eq!(turn(&mut cluster), (vec![], vec![told]));
    cluster.pass(29 * 60);
    assert!(is_nothing(&turn(&mut cluster)));
    cluster.pass(60);
    assert_eq!(turn(&mut cluster).0, ["a"]);
}

#[test]
fn a_holder_who_is_gone_when_he_is_searched_is_told_only_if_the_scheduler_stays_at_it() {
    let mut cluster = refused_on(&["a"]);
    turn(&mut cluster);
    found(&mut cluster, "a", BTreeSet::new());
    assert!(is_nothing(&turn(&mut cluster)));
    cluster.pass(10);
    assert_eq!(turn(&mut cluster).0, ["a"]);
    found(&mut cluster, "a", BTreeSet::new());
    let (_, told) = turn(&mut cluster);
    assert!(
        told[0].starts_with("port TCP/80 is perhaps held by a pod that has gone since"),
        "{told:?}"
    );
}

#[test]
fn our_own_pods_on_their_way_out_after_a_change_of_type_are_no_conflict() {
    let mut cluster = refused_on(&["a"]);
    turn(&mut cluster);
    // The kubelet has not ended the pod of the DaemonSet before yet.
    found(&mut cluster, "a", holder("svclb-web", true));
    assert!(is_nothing(&turn(&mut cluster)));
    cluster.pass(9);
    assert!(is_nothing(&turn(&mut cluster)));
    cluster.pod("web", "a", json!({})).act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
    assert_eq!(cluster.told("PortConflict"), [""; 0]);
}

#[test]
fn who_does_not_go_is_named_all_the_same() {
    let mut cluster = refused_on(&["a"]);
    for _ in 0..2 {
        assert_eq!(turn(&mut cluster).0, ["a"]);
        found(&mut cluster, "a", holder("stuck", true));
        cluster.pass(10);
    }
    assert_eq!(
        turn(&mut cluster).1,
        ["port TCP/80 is held by pod shop/stuck (hostPort) on a"]
    );
}

#[test]
fn a_second_holder_on_another_node_is_named_as_soon_as_it_may_be_told() {
    let mut cluster = refused_on(&["a"]);
    turn(&mut cluster);
    found(&mut cluster, "a", holder("first", false));
    assert_eq!(turn(&mut cluster).1.len(), 1);
    cluster.pass(20).pod("web", "b", refused());
    // The first one may be another by now.
    assert_eq!(turn(&mut cluster).0, ["a", "b"]);
    found(&mut cluster, "b", holder("second", false));
    found(&mut cluster, "a", holder("other", false));
    assert!(is_nothing(&turn(&mut cluster)));
    let again = cluster.decide("web").recheck_at.unwrap();
    assert!(again <= cluster.now + jiff::SignedDuration::from_secs(10));
    cluster.pass(10);
    assert_eq!(
        turn(&mut cluster).1,
        ["port TCP/80 is held by pod shop/other (hostPort) on a; \
          port TCP/80 is held by pod shop/second (hostPort) on b"]
    );
}

#[test]
fn a_search_that_failed_is_made_again() {
    let mut cluster = refused_on(&["a"]);
    turn(&mut cluster);
    for _ in 0..3 {
        cluster.memory.holders_found(&key("web"), "a", None);
        assert!(is_nothing(&turn(&mut cluster)));
        cluster.pass(10);
        assert_eq!(turn(&mut cluster).0, ["a"]);
    }
    found(&mut cluster, "a", holder("proxy", false));
    assert_eq!(turn(&mut cluster).1.len(), 1);
}
