//! What a node's labels, taints, conditions and deletion do to its addresses.

use serde_json::json;

use super::{cluster, cluster_with, external};
use crate::fixtures::{Cluster, at, mk_slice};
use crate::settings::Settings;

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
    assert_eq!(cluster.wait(1).addresses("web"), ["10.0.0.2"]);
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
        cluster.set_ready("a", "Unknown").wait(300).addresses("web"),
        ["10.0.0.1", "10.0.0.2"]
    );
    cluster.end_outage();
    assert_eq!(cluster.wait(88).addresses("web"), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(cluster.wait(2).addresses("web"), ["10.0.0.2"]);
}

/// Node `a` was marked Unknown at the beginning; its kubelet's clock showed `heartbeat` when it last reported.
fn mark_unknown(cluster: &mut Cluster, heartbeat: i64) {
    let condition = json!({
        "type": "Ready",
        "status": "Unknown",
        "lastTransitionTime": at(0).to_string(),
        "lastHeartbeatTime": at(heartbeat).to_string(),
    });
    cluster.edit_node("a", json!({ "status": { "conditions": [condition] } }));
}

#[test]
fn a_node_whose_kubelet_has_reported_since_it_was_marked_unknown_stays() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({}))
        .pod("web", "b", json!({}))
        .act("web");
    cluster.memory.api_silent(cluster.now);
    cluster.end_outage();
    mark_unknown(&mut cluster, -9);
    cluster.act("web");
    mark_unknown(&mut cluster, 2);
    assert_eq!(
        cluster.wait(3600).addresses("web"),
        ["10.0.0.1", "10.0.0.2"]
    );
    // It reports again and again, until it learns that its condition was changed; then it dies.
    mark_unknown(&mut cluster, 12);
    cluster.set_ready("a", "True").act("web");
    mark_unknown(&mut cluster, 22);
    assert_eq!(cluster.act("web").addresses("web"), ["10.0.0.2"]);
}

#[test]
fn a_dead_node_whose_clock_was_ahead_leaves_as_any_other() {
    let mut cluster = cluster();
    cluster
        .pod("web", "a", json!({}))
        .pod("web", "b", json!({}))
        .act("web");
    mark_unknown(&mut cluster, 3600);
    assert_eq!(cluster.act("web").addresses("web"), ["10.0.0.2"]);
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
    assert_eq!(cluster.wait(300).addresses("web"), ["10.0.0.1"]);
    cluster.end_outage();
    assert_eq!(cluster.wait(50).addresses("web"), ["10.0.0.1"]);
    assert_eq!(cluster.wait(10).addresses("web"), [""; 0]);
}

#[test]
fn after_an_outage_an_address_that_waits_for_ready_stays_though_its_pod_is_marked_not_ready() {
    let mut cluster = cluster();
    external(&mut cluster, "a", "203.0.113.1");
    cluster.pod("web", "a", json!({})).act("web");
    cluster.memory.api_silent(cluster.now);
    cluster.end_outage();
    cluster
        .pod(
            "web",
            "a",
            json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } }),
        )
        .act("web");
    assert_eq!(cluster.addresses("web"), ["203.0.113.1"]);
    assert_eq!(cluster.wait(90).addresses("web"), [""; 0]);
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
    assert_eq!(cluster.wait(30).addresses("web"), ["10.0.0.2"]);
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
        .wait(3600);
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
