//! Which Services a change concerns, and what a heartbeat does: nothing.

use serde_json::{Value, json};

use super::{ObjectKey, Touched};
use crate::fixtures::{
    Cluster, at, key, mk_daemonset, mk_node, mk_pod, mk_service, mk_slice, patched,
};

fn these(services: &[&str]) -> Touched {
    Touched {
        all: false,
        services: services.iter().map(|name| key(name)).collect(),
    }
}

fn everything() -> Touched {
    Touched {
        all: true,
        ..Touched::default()
    }
}

fn port(number: u16) -> Value {
    json!({ "spec": { "ports": [{ "port": number, "protocol": "TCP" }] } })
}

#[test]
fn a_nodes_heartbeat_concerns_nobody() {
    let mut cluster = Cluster::new(&["a"]);
    let beat = json!({
        "metadata": { "resourceVersion": "2", "annotations": { "some": "annotation" } },
        "status": {
            "conditions": [{
                "type": "Ready", "status": "True",
                "lastHeartbeatTime": at(10).to_string(), "lastTransitionTime": at(-3600).to_string(),
            }],
            "images": [{ "names": ["a"], "sizeBytes": 5 }],
        },
    });
    assert!(
        cluster
            .world
            .apply_node(&mk_node("a", 1, beat))
            .is_nothing()
    );
}

#[test]
fn what_matters_of_a_node_concerns_all() {
    let mut cluster = Cluster::new(&["a"]);
    for patch in [
        json!({ "metadata": { "labels": { "svccontroller.k3s.cattle.io/enablelb": "true" } } }),
        json!({ "status": { "addresses": [{ "type": "InternalIP", "address": "10.0.0.9" }] } }),
        json!({ "status": { "conditions": [{ "type": "Ready", "status": "Unknown" }] } }),
        json!({ "spec": { "taints": [{ "key": "k", "effect": "NoExecute" }] } }),
        json!({ "metadata": { "deletionTimestamp": at(0).to_string() } }),
    ] {
        assert_eq!(
            cluster.world.apply_node(&mk_node("a", 1, patch.clone())),
            everything(),
            "{patch}"
        );
    }
    assert_eq!(cluster.world.remove_node("a"), everything());
    assert!(cluster.world.remove_node("a").is_nothing());
}

#[test]
fn a_service_concerns_itself_and_those_with_a_port_of_it() {
    let mut cluster = Cluster::new(&[]);
    cluster.service("a", port(80)).service("b", port(443));
    assert_eq!(
        cluster.world.apply_service(&mk_service("c", port(80))),
        these(&["a", "c"])
    );
    assert!(
        cluster
            .world
            .apply_service(&mk_service("c", port(80)))
            .is_nothing()
    );
    assert_eq!(
        cluster.world.apply_service(&mk_service("c", port(443))),
        these(&["a", "b", "c"])
    );
    assert_eq!(cluster.world.remove_service(&key("c")), these(&["b", "c"]));
}

#[test]
fn a_status_concerns_its_service_alone() {
    let mut cluster = Cluster::new(&[]);
    cluster.service("a", port(80)).service("b", port(80));
    let status = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "10.0.0.1" }] } } });
    let service = patched(&cluster.services[&key("a")], status);
    assert_eq!(cluster.world.apply_service(&service), these(&["a"]));
}

#[test]
fn a_daemonset_concerns_its_service_and_those_that_want_its_ports() {
    let mut cluster = Cluster::new(&["n"]);
    cluster
        .service("a", port(80))
        .service("b", port(80))
        .service("c", port(81))
        .act("a");
    let daemonset = cluster.daemonset_key("a");
    assert_eq!(
        cluster.world.remove_daemonset(&daemonset),
        these(&["a", "b"])
    );
}

#[test]
fn daemonsets_without_bearing_concern_nobody() {
    let mut cluster = Cluster::new(&[]);
    assert!(
        cluster
            .world
            .apply_daemonset(&mk_daemonset("kube-system", "calico", json!({})))
            .is_nothing()
    );
    assert!(
        cluster
            .world
            .remove_daemonset(&ObjectKey::new("kube-system", "calico"))
            .is_nothing()
    );
}

#[test]
fn the_coming_and_going_of_servicelb_concerns_all() {
    let mut cluster = Cluster::new(&[]);
    let marked = json!({ "metadata": { "labels": { "svccontroller.k3s.cattle.io/nodeselector": "false" } } });
    let object = mk_daemonset("lb", "svclb-a", marked);
    assert!(cluster.world.apply_daemonset(&object).all);
    assert!(
        !cluster
            .world
            .apply_daemonset(&mk_daemonset("lb", "other", json!({})))
            .all
    );
    assert!(
        cluster
            .world
            .remove_daemonset(&ObjectKey::new("lb", "svclb-a"))
            .all
    );
}

#[test]
fn a_pod_concerns_its_service_and_only_when_it_matters() {
    let mut cluster = Cluster::new(&["n"]);
    cluster.service("a", json!({}));
    let pod = mk_pod(&cluster.services[&key("a")], "n", json!({}));
    assert_eq!(cluster.world.apply_pod(&pod), these(&["a"]));
    let later = patched(
        &pod,
        json!({ "metadata": { "resourceVersion": "9" }, "status": { "podIP": "10.42.0.5" } }),
    );
    assert!(cluster.world.apply_pod(&later).is_nothing());
    let name = ObjectKey::new("kube-system", pod.metadata.name.clone().unwrap());
    assert_eq!(cluster.world.remove_pod(&name), these(&["a"]));
    assert!(cluster.world.remove_pod(&name).is_nothing());
}

#[test]
fn endpoints_concern_local_services_alone() {
    let mut cluster = Cluster::new(&["n"]);
    cluster
        .service("a", json!({}))
        .service("l", json!({ "spec": { "externalTrafficPolicy": "Local" } }));
    assert!(
        cluster
            .world
            .apply_slice(&mk_slice("a", &["n"], json!({})))
            .is_nothing()
    );
    assert_eq!(
        cluster.world.apply_slice(&mk_slice("l", &["n"], json!({}))),
        these(&["l"])
    );
    // More endpoints of the same kind on the same node change nothing.
    let more = patched(&mk_slice("l", &["n", "n"], json!({})), json!({}));
    assert!(cluster.world.apply_slice(&more).is_nothing());
    assert_eq!(
        cluster
            .world
            .remove_slice(&ObjectKey::new("default", "l-x")),
        these(&["l"])
    );
}
