//! When the status is written, and what happens when somebody else writes it too.

use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::facts::ServiceFacts;
use crate::fixtures::{Cluster, key};

fn pods_at(cluster: &mut Cluster, nodes: &[&str]) {
    for node in nodes {
        cluster.pod("web", node, json!({}));
    }
}

fn without_controllers(nodes: &[&str]) -> Cluster {
    let mut cluster = Cluster::new(nodes);
    cluster.controllers = false;
    cluster.service("web", json!({})).act("web");
    cluster
}

/// Somebody else puts his own address into status.
fn write_over(cluster: &mut Cluster, manager: &str) {
    let managed = json!([{
        "manager": manager,
        "subresource": "status",
        "time": cluster.now.to_string(),
        "fieldsV1": { "f:status": { "f:loadBalancer": { "f:ingress": {} } } },
    }]);
    cluster.edit_service(
        "web",
        json!({
            "metadata": { "managedFields": managed },
            "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.1", "ipMode": "VIP" }] } },
        }),
    );
}

#[test]
fn the_first_address_is_written_at_once() {
    let mut cluster = without_controllers(&["a", "b"]);
    pods_at(&mut cluster, &["a"]);
    assert!(cluster.decide("web").status.is_some());
}

#[test]
fn later_changes_wait_a_tenth_of_a_second_for_others() {
    let mut cluster = without_controllers(&["a", "b", "c"]);
    pods_at(&mut cluster, &["a"]);
    cluster.act("web");
    cluster.writes = 0;
    pods_at(&mut cluster, &["b"]);
    let decision = cluster.decide("web");
    assert_eq!(decision.status, None);
    assert_eq!(
        decision.recheck_at,
        Some(cluster.now + SignedDuration::from_millis(100))
    );
    cluster.now += SignedDuration::from_millis(50);
    pods_at(&mut cluster, &["c"]);
    assert_eq!(cluster.decide("web").status, None);
    cluster.now += SignedDuration::from_millis(50);
    let write = cluster.decide("web").status.unwrap();
    let addresses: Vec<String> = write
        .ingress
        .unwrap()
        .into_iter()
        .map(|ingress| ingress.address)
        .collect();
    assert_eq!(addresses, ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
}

#[test]
fn a_write_that_the_watch_has_not_shown_yet_is_not_repeated() {
    let mut cluster = without_controllers(&["a"]);
    pods_at(&mut cluster, &["a"]);
    let write = cluster.decide("web").status.unwrap();
    cluster
        .memory
        .status_written(&key("web"), &write.ingress.unwrap());
    cluster.pass(1);
    assert_eq!(cluster.decide("web").status, None);
    // The watch does not show it at all: it is lost.
    cluster.pass(5);
    assert!(cluster.decide("web").status.is_some());
}

#[test]
fn somebody_who_writes_the_status_once_is_corrected() {
    let mut cluster = without_controllers(&["a"]);
    pods_at(&mut cluster, &["a"]);
    cluster.act("web");
    write_over(&mut cluster, "kubectl");
    cluster.act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
    cluster.pass(61);
    write_over(&mut cluster, "kubectl");
    cluster.act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
    assert_eq!(cluster.told("StatusConflict"), [""; 0]);
}

fn fight() -> Cluster {
    let mut cluster = without_controllers(&["a"]);
    pods_at(&mut cluster, &["a"]);
    cluster.act("web");
    for _ in 0..2 {
        write_over(&mut cluster, "metallb-controller");
        cluster.act("web");
    }
    cluster
}

#[test]
fn somebody_who_writes_it_twice_within_a_minute_may_have_it_and_is_named() {
    let mut cluster = fight();
    assert_eq!(cluster.addresses("web"), ["192.0.2.1"]);
    let told = cluster.told("StatusConflict");
    assert!(
        told.len() == 1 && told[0].starts_with("metallb-controller keeps writing"),
        "{told:?}"
    );
    cluster.writes = 0;
    cluster.pass(500).act("web");
    assert_eq!(cluster.writes, 0);
    assert!(cluster.daemonset_of("web").is_some(), "the DaemonSet stays");
}

#[test]
fn somebody_who_writes_over_us_before_we_see_our_own_write_is_noticed_too() {
    let mut cluster = without_controllers(&["a"]);
    pods_at(&mut cluster, &["a"]);
    let (mut writes, mut told) = (0, 0);
    for _ in 0..300 {
        let decision = cluster.decide("web");
        told += decision
            .events
            .iter()
            .filter(|event| event.reason == "StatusConflict")
            .count();
        if let Some(ingress) = decision.status.and_then(|write| write.ingress) {
            writes += 1;
            cluster.memory.status_written(&key("web"), &ingress);
            write_over(&mut cluster, "metallb-controller");
        }
        cluster.pass(1);
    }
    assert_eq!((writes, told), (2, 1));
}

#[test]
fn after_ten_minutes_we_try_again() {
    let mut cluster = fight();
    let at = cluster.decide("web").recheck_at.unwrap();
    assert!(at <= cluster.now + SignedDuration::from_mins(10));
    assert_eq!(cluster.pass(600).act("web").addresses("web"), ["10.0.0.1"]);
}

#[test]
fn when_spec_labels_or_annotations_change_we_try_again() {
    for edit in [
        json!({ "metadata": { "labels": { "a": "b" } } }),
        json!({ "metadata": { "annotations": { "a": "b" } } }),
        json!({ "spec": { "sessionAffinity": "ClientIP" } }),
    ] {
        let mut cluster = fight();
        cluster.edit_service("web", edit).act("web");
        assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
    }
}

#[test]
fn a_release_does_not_fight_either() {
    let mut cluster = without_controllers(&["a"]);
    pods_at(&mut cluster, &["a"]);
    cluster.act("web").delete_service("web");
    for _ in 0..2 {
        cluster.turn_once("web");
        write_over(&mut cluster, "metallb-controller");
        cluster.pass(6);
    }
    cluster.act("web");
    assert!(
        !cluster.services.contains_key(&key("web")),
        "it does not hang"
    );
}

#[test]
fn a_release_that_leaves_the_addresses_to_another_clears_our_conditions() {
    let mut cluster = fight();
    let condition = json!({
        "type": "svclb.io/Degraded",
        "status": "True",
        "reason": "PodNotRunning",
        "message": "",
        "lastTransitionTime": cluster.now.to_string(),
    });
    cluster.edit_service("web", json!({ "status": { "conditions": [condition] } }));
    cluster.delete_service("web");
    cluster.turn_once("web");
    let service = ServiceFacts::from(&cluster.services[&key("web")]);
    assert!(service.conditions.is_empty(), "{service:?}");
    assert_eq!(cluster.addresses("web"), ["192.0.2.1"]);
}

#[test]
fn what_the_api_server_clears_with_the_type_nobody_has_written_over() {
    let mut cluster = without_controllers(&["a"]);
    for _ in 0..3 {
        pods_at(&mut cluster, &["a"]);
        cluster.act("web");
        assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
        cluster.edit_service("web", json!({ "spec": { "type": "ClusterIP" } }));
        cluster.act("web");
        cluster.edit_service("web", json!({ "spec": { "type": "LoadBalancer" } }));
    }
    assert_eq!(cluster.told("StatusConflict"), [""; 0]);
}

#[test]
fn the_addresses_are_in_the_order_of_the_families_sorted_and_without_doubles() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster
        .service("web", json!({ "spec": { "ipFamilies": ["IPv6", "IPv4"], "clusterIPs": ["fd00:43::a", "10.43.0.10"] } }))
        .settle();
    assert_eq!(
        cluster.addresses("web"),
        ["fd00::1", "fd00::2", "10.0.0.1", "10.0.0.2"]
    );
}

fn with_addresses(addresses: &[(&str, &str)], service: Value) -> Vec<String> {
    let list: Vec<Value> = addresses
        .iter()
        .map(|(kind, address)| json!({ "type": kind, "address": address }))
        .collect();
    let mut cluster = Cluster::new(&["a"]);
    cluster
        .edit_node("a", json!({ "status": { "addresses": list } }))
        .service("web", service)
        .settle();
    cluster.addresses("web")
}

#[test]
fn addresses_are_chosen_per_family() {
    // An IPv6 Service on a node whose only ExternalIP is IPv4 got no address from ServiceLB.
    let node = [
        ("InternalIP", "10.0.0.1"),
        ("InternalIP", "fd00::1"),
        ("ExternalIP", "203.0.113.1"),
    ];
    let of = |families: Value| with_addresses(&node, json!({ "spec": { "ipFamilies": families } }));
    assert_eq!(of(json!(["IPv6"])), ["fd00::1"]);
    assert_eq!(of(json!(["IPv4", "IPv6"])), ["203.0.113.1", "fd00::1"]);
}

#[test]
fn one_node_with_an_external_ip_does_not_hide_the_others() {
    // ServiceLB published only ExternalIPs as soon as any node had one.
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.edit_node(
        "a",
        json!({ "status": { "addresses": [{ "type": "ExternalIP", "address": "203.0.113.1" }] } }),
    );
    cluster.service("web", json!({})).settle();
    assert_eq!(cluster.addresses("web"), ["10.0.0.2", "203.0.113.1"]);
}

#[test]
fn the_choice_of_addresses_can_be_set() {
    let node = [
        ("InternalIP", "10.0.0.1"),
        ("ExternalIP", "203.0.113.1"),
        ("ExternalIP", "198.51.100.1"),
        ("ExternalIP", "10.0.0.1"),
    ];
    for (choice, expected) in [
        ("external", vec!["10.0.0.1", "198.51.100.1", "203.0.113.1"]),
        ("internal", vec!["10.0.0.1"]),
        ("all", vec!["10.0.0.1", "198.51.100.1", "203.0.113.1"]),
        (
            "198.51.100.0/24,10.0.0.0/8",
            vec!["10.0.0.1", "198.51.100.1"],
        ),
        ("192.0.2.0/24", vec![]),
    ] {
        let service = json!({ "metadata": { "annotations": { "svclb.io/addresses": choice } } });
        assert_eq!(with_addresses(&node, service), expected, "{choice}");
    }
}

#[test]
fn conditions_keep_the_time_since_when_they_hold() {
    let mut cluster = Cluster::new(&["a"]);
    cluster
        .service(
            "web",
            json!({ "spec": { "ports": [{ "port": 2379, "protocol": "TCP" }] } }),
        )
        .settle();
    let since = |cluster: &Cluster| {
        let service = ServiceFacts::from(&cluster.services[&key("web")]);
        let of = |kind: &str| {
            service
                .conditions
                .iter()
                .find(|condition| condition.type_ == kind)
                .cloned()
        };
        let condition = of("LoadBalancerPortsError").unwrap();
        (condition.message, condition.last_transition_time)
    };
    let first = since(&cluster);
    cluster.put_node(crate::fixtures::mk_node("b", 2, json!({})));
    cluster.pass(60).settle();
    let second = since(&cluster);
    assert!(
        first.0 != second.0 && first.1 == second.1,
        "{first:?} {second:?}"
    );
    cluster
        .edit_service(
            "web",
            json!({ "spec": { "ports": [{ "port": 80, "protocol": "TCP" }] } }),
        )
        .settle();
    assert!(
        ServiceFacts::from(&cluster.services[&key("web")])
            .conditions
            .is_empty()
    );
}
