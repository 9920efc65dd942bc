//! Between two pods: what an address outlives, and what it does not.

use serde_json::json;

use super::{NO_PORTS, cluster, external, not_ready, refused};
use crate::fixtures::{Cluster, at};

#[test]
fn a_failed_pod_takes_the_address_at_once() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({}))
        .pod("web", "b", json!({}))
        .act("web");
    cluster
        .pod(
            "web",
            "a",
            json!({ "status": { "phase": "Failed", "reason": "NodePorts" } }),
        )
        .act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.2"]);
}

#[test]
fn after_a_failed_pod_the_next_one_publishes_only_when_ready() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({ "status": { "phase": "Failed" } }))
        .act("web");
    cluster
        .remove_pod_of("web", "a")
        .act("web")
        .pod("web", "a", not_ready())
        .act("web");
    assert_eq!(cluster.addresses("web"), [""; 0]);
    cluster.pod("web", "a", json!({})).act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
    // It has shown that it works: from here on it is as any other.
    cluster.pod("web", "a", not_ready()).act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
}

#[test]
fn between_two_pods_it_stays_for_at_most_a_minute() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({}))
        .act("web")
        .remove_pod_of("web", "a")
        .act("web");
    assert_eq!(cluster.wait(55).addresses("web"), ["10.0.0.1"]);
    assert_eq!(cluster.wait(5).addresses("web"), [""; 0]);
}

#[test]
fn between_two_pods_it_stays_until_the_next_is_bound() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({}))
        .act("web")
        .remove_pod_of("web", "a")
        .act("web")
        .pass(50);
    cluster.pod("web", "a", not_ready()).act("web").wait(600);
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
}

#[test]
fn a_deleted_pod_that_ends_has_not_failed() {
    // Seen: the kubelet sets the phase once the containers have ended, before the pod is gone.
    for phase in ["Succeeded", "Failed"] {
        let mut cluster = cluster();
        cluster.pod("web", "a", json!({})).act("web");
        let ended = json!({
            "metadata": { "deletionTimestamp": "2026-11-25T00:00:00Z" },
            "status": { "phase": phase },
        });
        cluster.pod("web", "a", ended).act("web");
        assert_eq!(cluster.addresses("web"), ["10.0.0.1"], "{phase}");
        cluster
            .remove_pod_of("web", "a")
            .act("web")
            .pod("web", "a", not_ready())
            .act("web");
        assert_eq!(cluster.addresses("web"), ["10.0.0.1"], "{phase}");
    }
}

#[test]
fn between_two_pods_it_leaves_when_the_scheduler_refuses_the_next_one_its_ports() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({}))
        .act("web")
        .remove_pod_of("web", "a");
    cluster.pod("web", "a", refused(NO_PORTS)).act("web");
    assert_eq!(cluster.addresses("web"), [""; 0]);
}

#[test]
fn a_refusal_for_another_reason_than_ports_does_not_take_the_address() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({}))
        .act("web")
        .remove_pod_of("web", "a");
    cluster
        .pod(
            "web",
            "a",
            refused("0/2 nodes are available: 1 Insufficient memory."),
        )
        .act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
}

#[test]
fn a_refusal_because_of_the_services_own_pod_on_its_way_out_is_none() {
    let mut cluster = cluster();
    cluster.pod("web", "a", json!({})).act("web");
    cluster.pod(
        "web",
        "a",
        json!({ "metadata": { "deletionTimestamp": at(0).to_string() } }),
    );
    cluster.pod("web", "a", refused(NO_PORTS)).act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
    // Seen: that verdict is still there when the old pod is gone, until the scheduler has looked again.
    cluster.remove_pod_of("web", "a").act("web");
    assert_eq!(cluster.wait(8).addresses("web"), ["10.0.0.1"]);
    assert_eq!(cluster.wait(2).addresses("web"), [""; 0]);
}

#[test]
fn a_daemonset_made_anew_keeps_the_address() {
    let mut cluster = cluster();
    cluster.pod("web", "a", json!({})).act("web");
    let daemonset = cluster.daemonset_key("web");
    cluster
        .remove_daemonset(&daemonset)
        .remove_pod_of("web", "a")
        .act("web");
    assert!(cluster.daemonset_of("web").is_some());
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
}

#[test]
fn a_take_over_keeps_the_addresses_that_it_finds() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.controllers = false;
    let ingress = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "10.0.0.1" }, { "ip": "10.0.0.2" }] } } });
    cluster.service("web", ingress).act("web").wait(50);
    assert_eq!(cluster.addresses("web"), ["10.0.0.1", "10.0.0.2"]);
    cluster.pod("web", "a", not_ready()).act("web").wait(10);
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
}

#[test]
fn a_take_over_keeps_addresses_that_wait_for_ready_for_a_minute() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.controllers = false;
    external(&mut cluster, "a", "203.0.113.1");
    external(&mut cluster, "b", "203.0.113.2");
    let ingress = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "203.0.113.1" }, { "ip": "203.0.113.2" }] } } });
    cluster.service("web", ingress).act("web").pass(30);
    cluster.pod("web", "a", json!({})).act("web");
    assert_eq!(cluster.addresses("web"), ["203.0.113.1", "203.0.113.2"]);
    assert_eq!(cluster.wait(30).addresses("web"), ["203.0.113.1"]);
}

#[test]
fn addresses_that_wait_for_ready_leave_while_their_pod_is_replaced() {
    let mut cluster = cluster();
    external(&mut cluster, "a", "203.0.113.1");
    cluster
        .pod("web", "a", json!({}))
        .act("web")
        .remove_pod_of("web", "a")
        .act("web");
    assert_eq!(cluster.addresses("web"), [""; 0]);
}
