//! When an address comes and when it goes, clause by clause.

mod between;
mod nodes;

use serde_json::{Value, json};

use crate::fixtures::{Cluster, key, mk_node, mk_slice};
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
        .wait(600);
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
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
