//! Design decision 14, clause by clause.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::fixtures::{Cluster, at, key, mk_node, mk_slice};
use crate::settings::{ProxyMode, Publish, Settings};
use crate::world::ObjectKey;

/// Nodes `a` and `b`, Service `web` with a DaemonSet; pods come and go by the test's hand.
fn cluster() -> Cluster {
    cluster_with(Settings::default(), json!({}))
}

fn cluster_with(settings: Settings, service: Value) -> Cluster {
    let mut cluster = Cluster::with(settings, &["a", "b"]);
    cluster.controllers = false;
    cluster.service("web", service).act("web");
    cluster
}

fn external(cluster: &mut Cluster, node: &str, address: &str) {
    let addresses = json!([
        { "type": "InternalIP", "address": if node == "a" { "10.0.0.1" } else { "10.0.0.2" } },
        { "type": "ExternalIP", "address": address },
    ]);
    cluster.edit_node(node, json!({ "status": { "addresses": addresses } }));
}

fn refused(message: &str) -> Value {
    json!({
        "metadata": { "name": "the-next-one", "uid": "the next one" },
        "spec": { "nodeName": null },
        "status": { "phase": "Pending", "conditions": [
            { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message },
        ] },
    })
}

const NO_PORTS: &str =
    "0/2 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
const NOT_READY: &str = r#"{ "status": { "phase": "Pending", "conditions": [] } }"#;

fn not_ready() -> Value {
    serde_json::from_str(NOT_READY).unwrap()
}

#[test]
fn nothing_is_published_without_a_pod() {
    assert_eq!(cluster().act("web").addresses("web"), [""; 0]);
}

#[test]
fn an_internal_ip_is_published_once_the_pod_is_bound() {
    let mut cluster = cluster();
    cluster.pod("web", "a", not_ready()).act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
}

#[test]
fn the_address_of_a_pod_that_is_not_bound_is_not_published() {
    let mut cluster = cluster();
    cluster
        .pod(
            "web",
            "a",
            refused("0/2 nodes are available: 1 Insufficient cpu."),
        )
        .act("web");
    assert_eq!(cluster.addresses("web"), [""; 0]);
}

#[test]
fn an_external_ip_waits_for_ready_and_leaves_when_it_is_lost() {
    let mut cluster = cluster();
    external(&mut cluster, "a", "203.0.113.1");
    cluster.pod("web", "a", not_ready()).act("web");
    assert_eq!(cluster.addresses("web"), [""; 0]);
    cluster.pod("web", "a", json!({})).act("web");
    assert_eq!(cluster.addresses("web"), ["203.0.113.1"]);
    cluster.pod("web", "a", not_ready()).act("web");
    assert_eq!(cluster.addresses("web"), [""; 0]);
}

#[test]
fn an_external_ip_that_is_an_internal_ip_too_does_not_wait() {
    let mut cluster = cluster();
    external(&mut cluster, "a", "10.0.0.1");
    cluster.pod("web", "a", not_ready()).act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
}

#[test]
fn ip_mode_proxy_waits_for_ready() {
    let mut cluster = cluster();
    cluster.edit_service(
        "web",
        json!({ "metadata": { "annotations": { "svclb.io/ip-mode": "Proxy" } } }),
    );
    cluster.pod("web", "a", not_ready()).act("web");
    assert_eq!(cluster.addresses("web"), [""; 0]);
    cluster.pod("web", "a", json!({})).act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
}

#[test]
fn publish_ready_waits_for_ready() {
    let mut cluster = cluster_with(
        Settings {
            publish: Publish::Ready,
            ..Settings::default()
        },
        json!({}),
    );
    cluster.pod("web", "a", not_ready()).act("web");
    assert_eq!(cluster.addresses("web"), [""; 0]);
    cluster.pod("web", "a", json!({})).act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
    cluster.pod("web", "a", not_ready()).act("web");
    assert_eq!(cluster.addresses("web"), [""; 0]);
}

#[test]
fn nftables_mode_waits_for_ready() {
    let mut cluster = cluster();
    cluster.set_proxy_mode(ProxyMode::Nftables);
    cluster.pod("web", "a", not_ready()).act("web");
    assert_eq!(cluster.addresses("web"), [""; 0]);
    cluster.pod("web", "a", json!({})).act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
}

#[test]
fn an_address_is_not_published_while_its_pod_lacks_a_port_of_the_service() {
    let mut cluster = cluster();
    let two = json!({ "spec": { "ports": [{ "port": 80, "protocol": "TCP" }, { "port": 443, "protocol": "TCP" }] } });
    let pod_of_one = json!({ "spec": { "containers": [{ "name": "svclb", "ports": [
        { "containerPort": 80, "hostPort": 80, "protocol": "TCP" },
    ] }] } });
    cluster
        .edit_service("web", two)
        .pod("web", "a", pod_of_one)
        .act("web");
    assert_eq!(cluster.addresses("web"), [""; 0]);
}

#[test]
fn while_a_change_of_ports_rolls_the_address_stays_where_nobody_has_the_new_port() {
    let mut cluster = cluster();
    cluster.edit_node(
        "b",
        json!({ "metadata": { "labels": { "svccontroller.k3s.cattle.io/lbpool": "p" } } }),
    );
    cluster
        .pod("web", "a", json!({}))
        .pod("web", "b", json!({}))
        .act("web");
    // Another Service has the new port on node b.
    cluster.service(
        "other",
        json!({
            "metadata": { "labels": { "svccontroller.k3s.cattle.io/lbpool": "p" } },
            "spec": { "ports": [{ "port": 443, "protocol": "TCP" }] },
        }),
    );
    cluster.act("other");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1", "10.0.0.2"]);
    cluster
        .edit_service("web", json!({ "spec": { "ports": [{ "port": 80, "protocol": "TCP" }, { "port": 443, "protocol": "TCP" }] } }))
        .act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
}

#[test]
fn once_published_it_stays_whatever_its_container_does() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({}))
        .act("web")
        .pod("web", "a", not_ready())
        .pass(600)
        .act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
}

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
    assert_eq!(cluster.pass(55).act("web").addresses("web"), ["10.0.0.1"]);
    assert_eq!(cluster.pass(5).act("web").addresses("web"), [""; 0]);
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
    cluster
        .pod("web", "a", not_ready())
        .act("web")
        .pass(600)
        .act("web");
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
    assert_eq!(cluster.pass(8).act("web").addresses("web"), ["10.0.0.1"]);
    assert_eq!(cluster.pass(2).act("web").addresses("web"), [""; 0]);
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
    cluster
        .service("web", ingress)
        .act("web")
        .pass(50)
        .act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1", "10.0.0.2"]);
    cluster
        .pod("web", "a", not_ready())
        .act("web")
        .pass(10)
        .act("web");
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
    assert_eq!(
        cluster.pass(30).act("web").addresses("web"),
        ["203.0.113.1"]
    );
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

#[test]
fn a_node_that_the_affinity_no_longer_admits_leaves_at_once() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({}))
        .pod("web", "b", json!({}))
        .act("web");
    let exclude = json!({ "metadata": { "labels": { "node.kubernetes.io/exclude-from-external-load-balancers": "" } } });
    assert_eq!(
        cluster.edit_node("a", exclude).act("web").addresses("web"),
        ["10.0.0.2"]
    );
}

#[test]
fn a_node_with_a_no_execute_taint_that_is_not_tolerated_leaves_at_once() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({}))
        .pod("web", "b", json!({}))
        .act("web");
    let taint = json!({ "spec": { "taints": [{ "key": "k", "effect": "NoExecute" }] } });
    assert_eq!(
        cluster.edit_node("a", taint).act("web").addresses("web"),
        ["10.0.0.2"]
    );
}

#[test]
fn a_node_with_a_no_schedule_taint_that_is_not_tolerated_leaves_with_the_pod() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({}))
        .pod("web", "b", json!({}))
        .act("web");
    cluster
        .edit_node(
            "a",
            json!({ "spec": { "taints": [{ "key": "k", "effect": "NoSchedule" }] } }),
        )
        .act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(
        cluster
            .remove_pod_of("web", "a")
            .act("web")
            .addresses("web"),
        ["10.0.0.2"]
    );
}

#[test]
fn a_taint_that_is_tolerated_takes_nothing() {
    let mut cluster = cluster();
    let tolerations = json!({ "metadata": { "annotations": {
        "svccontroller.k3s.cattle.io/tolerations": "[{key: k, operator: Exists}]",
    } } });
    cluster
        .edit_service("web", tolerations)
        .pod("web", "a", json!({}))
        .act("web");
    cluster
        .edit_node(
            "a",
            json!({ "spec": { "taints": [{ "key": "k", "effect": "NoExecute" }] } }),
        )
        .act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
}

#[test]
fn a_node_whose_ready_is_unknown_leaves_at_once() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({}))
        .pod("web", "b", json!({}))
        .act("web");
    assert_eq!(
        cluster
            .set_ready("a", "Unknown")
            .act("web")
            .addresses("web"),
        ["10.0.0.2"]
    );
}

#[test]
fn a_node_whose_ready_is_false_leaves_ten_seconds_later() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({}))
        .pod("web", "b", json!({}))
        .act("web");
    cluster.set_ready("a", "False").act("web").pass(9);
    let decision = cluster.decide("web");
    assert_eq!(decision.status, None);
    assert!(
        decision
            .recheck_at
            .is_some_and(|at| at <= cluster.now + jiff::SignedDuration::from_secs(1))
    );
    assert_eq!(cluster.pass(1).act("web").addresses("web"), ["10.0.0.2"]);
    assert_eq!(
        cluster.set_ready("a", "True").act("web").addresses("web"),
        ["10.0.0.1", "10.0.0.2"]
    );
}

#[test]
fn a_node_that_is_not_ready_is_not_published_in_its_first_ten_seconds() {
    let mut cluster = cluster();
    cluster
        .set_ready("a", "False")
        .pod("web", "a", json!({}))
        .pod("web", "b", json!({}))
        .act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.2"]);
}

#[test]
fn an_outage_of_the_api_server_takes_no_address_away() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({}))
        .pod("web", "b", json!({}))
        .act("web");
    cluster.memory.api_silent(cluster.now);
    assert_eq!(
        cluster
            .set_ready("a", "Unknown")
            .pass(300)
            .act("web")
            .addresses("web"),
        ["10.0.0.1", "10.0.0.2"]
    );
    cluster.memory.api_answers(cluster.now);
    assert_eq!(
        cluster.pass(88).act("web").addresses("web"),
        ["10.0.0.1", "10.0.0.2"]
    );
    assert_eq!(cluster.pass(2).act("web").addresses("web"), ["10.0.0.2"]);
}

#[test]
fn a_node_whose_kubelet_has_reported_since_it_was_marked_unknown_stays() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({}))
        .pod("web", "b", json!({}))
        .act("web");
    let marked = |heartbeat: Timestamp, cluster: &Cluster| {
        json!({ "status": { "conditions": [{
            "type": "Ready",
            "status": "Unknown",
            "lastTransitionTime": cluster.now.to_string(),
            "lastHeartbeatTime": heartbeat.to_string(),
        }] } })
    };
    let (before, since) = (
        cluster.now - SignedDuration::from_secs(9),
        cluster.now + SignedDuration::from_secs(2),
    );
    let alive = marked(since, &cluster);
    assert_eq!(
        cluster
            .edit_node("a", alive)
            .pass(3600)
            .act("web")
            .addresses("web"),
        ["10.0.0.1", "10.0.0.2"]
    );
    let dead = marked(before, &cluster);
    assert_eq!(
        cluster.edit_node("a", dead).act("web").addresses("web"),
        ["10.0.0.2"]
    );
}

#[test]
fn an_outage_while_a_pod_is_replaced_gives_the_next_one_its_minute_anew() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({}))
        .act("web")
        .remove_pod_of("web", "a")
        .act("web");
    cluster.memory.api_silent(cluster.now);
    assert_eq!(cluster.pass(300).act("web").addresses("web"), ["10.0.0.1"]);
    cluster.memory.api_answers(cluster.now);
    assert_eq!(cluster.pass(50).act("web").addresses("web"), ["10.0.0.1"]);
    assert_eq!(cluster.pass(10).act("web").addresses("web"), [""; 0]);
}

#[test]
fn after_an_outage_an_address_that_waits_for_ready_stays_though_its_pod_is_marked_not_ready() {
    let mut cluster = cluster();
    external(&mut cluster, "a", "203.0.113.1");
    cluster.pod("web", "a", json!({})).act("web");
    cluster.memory.api_silent(cluster.now);
    cluster.memory.api_answers(cluster.now);
    cluster
        .pod(
            "web",
            "a",
            json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } }),
        )
        .act("web");
    assert_eq!(cluster.addresses("web"), ["203.0.113.1"]);
    assert_eq!(cluster.pass(90).act("web").addresses("web"), [""; 0]);
}

#[test]
fn after_our_own_start_ready_takes_nothing_for_a_while() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({}))
        .pod("web", "b", json!({}))
        .act("web");
    cluster
        .set_ready("a", "Unknown")
        .set_ready("b", "True")
        .restart()
        .act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(cluster.pass(30).act("web").addresses("web"), ["10.0.0.2"]);
}

#[test]
fn after_our_own_start_ready_counts_where_a_candidate_has_been_ready_for_a_minute() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({}))
        .pod("web", "b", json!({}))
        .act("web");
    cluster.set_ready("a", "Unknown").restart().act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.2"]);
}

#[test]
fn while_no_candidate_is_ready_all_stay() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({}))
        .pod("web", "b", json!({}))
        .act("web");
    cluster
        .set_ready("a", "Unknown")
        .set_ready("b", "False")
        .pass(3600)
        .act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1", "10.0.0.2"]);
}

#[test]
fn a_candidate_of_a_local_service_is_also_a_node_without_endpoints() {
    let mut cluster = cluster_with(
        Settings::default(),
        json!({ "spec": { "externalTrafficPolicy": "Local" } }),
    );
    cluster.put_slice(mk_slice("web", &["a"], json!({ "ready": true })));
    cluster
        .pod("web", "a", json!({}))
        .pod("web", "b", json!({}))
        .act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
    // Node b is Ready, so there is something better than a, though it is not published itself.
    assert_eq!(
        cluster
            .set_ready("a", "Unknown")
            .act("web")
            .addresses("web"),
        [""; 0]
    );
}

#[test]
fn a_deleted_node_leaves_at_once() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({}))
        .pod("web", "b", json!({}))
        .act("web");
    assert_eq!(
        cluster.remove_node("a").act("web").addresses("web"),
        ["10.0.0.2"]
    );
}

#[test]
fn a_node_that_is_being_deleted_leaves_at_once() {
    for leaving in [
        json!({ "metadata": { "deletionTimestamp": at(0).to_string() } }),
        json!({ "spec": { "taints": [{ "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule" }] } }),
    ] {
        let mut cluster = cluster();
        cluster
            .pod("web", "a", json!({}))
            .pod("web", "b", json!({}))
            .act("web");
        assert_eq!(
            cluster.edit_node("a", leaving).act("web").addresses("web"),
            ["10.0.0.2"]
        );
    }
}

#[test]
fn a_changed_address_of_a_node_shows_at_once() {
    let mut cluster = cluster();
    cluster.pod("web", "a", json!({})).act("web");
    cluster.put_node(mk_node("a", 77, json!({})));
    assert_eq!(cluster.act("web").addresses("web"), ["10.0.0.77"]);
}

#[test]
fn in_ipvs_mode_addresses_are_of_mode_proxy() {
    let mut cluster = cluster();
    cluster.set_proxy_mode(ProxyMode::Ipvs);
    cluster.pod("web", "a", json!({})).act("web");
    let service = serde_json::to_value(&cluster.services[&key("web")]).unwrap();
    assert_eq!(
        service["status"]["loadBalancer"]["ingress"],
        json!([{ "ip": "10.0.0.1", "ipMode": "Proxy" }])
    );
    assert_eq!(cluster.told("IPModeChosen").len(), 1);
}

#[test]
fn a_local_service_is_published_where_kube_proxy_has_endpoints_to_use() {
    for (conditions, usable) in [
        (json!({}), true),
        (json!({ "ready": true }), true),
        (json!({ "ready": false }), false),
        (
            json!({ "ready": false, "serving": true, "terminating": true }),
            true,
        ),
        (
            json!({ "ready": false, "serving": false, "terminating": true }),
            false,
        ),
    ] {
        let mut cluster = cluster_with(
            Settings::default(),
            json!({ "spec": { "externalTrafficPolicy": "Local" } }),
        );
        cluster.put_slice(mk_slice("web", &["a"], conditions.clone()));
        cluster
            .pod("web", "a", json!({}))
            .pod("web", "b", json!({}))
            .act("web");
        let expected: &[&str] = if usable { &["10.0.0.1"] } else { &[] };
        assert_eq!(cluster.addresses("web"), expected, "{conditions}");
    }
}

#[test]
fn a_local_service_is_published_by_family() {
    let dual =
        json!({ "spec": { "externalTrafficPolicy": "Local", "ipFamilies": ["IPv6", "IPv4"] } });
    let mut cluster = cluster_with(Settings::default(), dual);
    cluster.put_slice(mk_slice("web", &["a"], json!({})));
    cluster.pod("web", "a", json!({})).act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
}

#[test]
fn a_local_port_without_a_node_port_is_published_where_kube_proxy_answers() {
    let local = json!({ "spec": { "externalTrafficPolicy": "Local", "ports": [{ "port": 80, "protocol": "TCP" }] } });
    let mut cluster = cluster_with(Settings::default(), local);
    external(&mut cluster, "b", "203.0.113.2");
    cluster.put_slice(mk_slice("web", &["a", "b"], json!({})));
    cluster
        .pod("web", "a", json!({}))
        .pod("web", "b", json!({}))
        .act("web");
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
    assert_eq!(cluster.told("NodePortMissing").len(), 1);
}

#[test]
fn rootless_has_one_address_and_waits_for_ready() {
    let mut cluster = cluster_with(
        Settings {
            rootless: true,
            ..Settings::default()
        },
        json!({}),
    );
    cluster.pod("web", "a", not_ready()).act("web");
    assert_eq!(cluster.addresses("web"), [""; 0]);
    cluster
        .pod("web", "a", json!({}))
        .pod("web", "b", json!({}))
        .act("web");
    assert_eq!(cluster.addresses("web"), ["127.0.0.1"]);
}

#[test]
fn pods_of_a_service_of_the_same_name_before_do_not_count() {
    let mut cluster = cluster();
    cluster
        .pod(
            "web",
            "a",
            json!({ "metadata": { "labels": { "app": "svclb-web-another0" } } }),
        )
        .act("web");
    assert_eq!(cluster.addresses("web"), [""; 0]);
    assert!(!cluster.pods.contains_key(&ObjectKey::new("default", "web")));
}
