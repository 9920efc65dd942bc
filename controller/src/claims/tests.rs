//! Design decision 11, clause by clause.

use serde_json::{Value, json};

use super::placement;
use crate::fixtures::{Cluster, at, key, mk_node};
use crate::net::{Port, Protocol};
use crate::nodes::LeftOut;

fn ports(numbers: &[u16]) -> Value {
    json!(
        numbers
            .iter()
            .map(|number| json!({ "port": number, "protocol": "TCP" }))
            .collect::<Vec<_>>()
    )
}

/// A Service, `age` seconds old.
fn add(cluster: &mut Cluster, name: &str, age: i64, numbers: &[u16]) {
    add_in_pool(cluster, name, age, numbers, "");
}

fn add_in_pool(cluster: &mut Cluster, name: &str, age: i64, numbers: &[u16], pool: &str) {
    cluster.service(
        name,
        json!({
            "metadata": {
                "creationTimestamp": at(-age).to_string(),
                "labels": { "svccontroller.k3s.cattle.io/lbpool": pool },
            },
            "spec": { "ports": ports(numbers) },
        }),
    );
}

fn into_pool(cluster: &mut Cluster, node: &str, pool: &str) {
    let label = format!("lbpool.svccontroller.k3s.cattle.io/{pool}");
    cluster.edit_node(node, json!({ "metadata": { "labels": { label: "true" } } }));
}

/// The nodes where a Service may be served.
fn nodes(cluster: &Cluster, name: &str) -> Vec<String> {
    let placement = placement(&cluster.world, cluster.world.service(&key(name)).unwrap());
    placement
        .wanted
        .keys()
        .map(|node| (*node).to_owned())
        .collect()
}

fn left_out(cluster: &Cluster, name: &str, node: &str) -> Option<LeftOut> {
    placement(&cluster.world, cluster.world.service(&key(name)).unwrap())
        .left_out
        .get(node)
        .cloned()
}

fn claimed(number: u16, by: &str) -> Option<LeftOut> {
    Some(LeftOut::Claimed {
        port: Port {
            protocol: Protocol::Tcp,
            number,
        },
        by: Some(key(by)),
    })
}

#[test]
fn the_daemonset_is_the_claim_whatever_its_pods_do() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.controllers = false;
    add(&mut cluster, "young", 10, &[80]);
    cluster.act("young");
    add(&mut cluster, "old", 100, &[80]);
    assert_eq!(left_out(&cluster, "old", "a"), claimed(80, "young"));
    assert_eq!(cluster.act("old").daemonset_of("old"), None);
}

#[test]
fn a_claim_is_of_node_protocol_and_port() {
    let mut cluster = Cluster::new(&["a", "b"]);
    into_pool(&mut cluster, "a", "p");
    add_in_pool(&mut cluster, "pooled", 100, &[80], "p");
    cluster.act("pooled");
    add(&mut cluster, "everywhere", 10, &[80]);
    assert_eq!(nodes(&cluster, "everywhere"), ["b"]);
    cluster.service(
        "udp",
        json!({ "spec": { "ports": [{ "port": 80, "protocol": "UDP" }] } }),
    );
    assert_eq!(nodes(&cluster, "udp"), ["a", "b"]);
}

#[test]
fn one_port_claimed_by_another_leaves_the_node_out_by_name() {
    let mut cluster = Cluster::new(&["a", "b"]);
    into_pool(&mut cluster, "a", "p");
    add_in_pool(&mut cluster, "pooled", 100, &[443], "p");
    cluster.settle();
    add(&mut cluster, "two", 10, &[80, 443]);
    cluster.settle();
    let daemonset = serde_json::to_value(cluster.daemonset_of("two")).unwrap();
    let terms = &daemonset["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        ["nodeSelectorTerms"];
    for term in terms.as_array().unwrap() {
        assert_eq!(
            term["matchFields"],
            json!([{ "key": "metadata.name", "operator": "NotIn", "values": ["a"] }])
        );
    }
    assert_eq!(cluster.addresses("two"), ["10.0.0.2"]);
}

#[test]
fn no_node_left_means_no_daemonset() {
    let mut cluster = Cluster::new(&["a"]);
    add(&mut cluster, "first", 10, &[80]);
    cluster.settle();
    add(&mut cluster, "second", 100, &[80]);
    assert_eq!(cluster.settle().daemonset_of("second"), None);
    assert_eq!(cluster.told("UnAvailableLoadBalancer").len(), 1);
}

#[test]
fn a_claim_is_never_taken_from_its_holder() {
    let mut cluster = Cluster::new(&["a"]);
    add(&mut cluster, "young", 10, &[80]);
    cluster.settle();
    add(&mut cluster, "old", 100, &[80]);
    cluster.settle();
    // Not while its pod is replaced, and not by a restart of the controller.
    cluster.remove_pod_of("young", "a").restart().settle();
    assert_eq!(nodes(&cluster, "young"), ["a"]);
    assert_eq!(nodes(&cluster, "old"), [""; 0]);
}

#[test]
fn what_is_free_goes_to_the_oldest_that_can_have_all_its_ports() {
    let mut cluster = Cluster::new(&["a"]);
    add(&mut cluster, "holder", 500, &[443]);
    cluster.settle();
    add(&mut cluster, "oldest", 400, &[80, 443]);
    add(&mut cluster, "middle", 300, &[80]);
    add(&mut cluster, "youngest", 200, &[80]);
    // The oldest lacks 443, and who waits reserves nothing.
    assert_eq!(left_out(&cluster, "youngest", "a"), claimed(80, "middle"));
    assert_eq!(nodes(&cluster, "middle"), ["a"]);
    cluster.settle();
    assert_eq!(cluster.addresses("middle"), ["10.0.0.1"]);
    assert_eq!(left_out(&cluster, "oldest", "a"), claimed(80, "middle"));
}

#[test]
fn of_the_same_age_the_lower_uid_is_older() {
    let mut cluster = Cluster::new(&["a"]);
    add(&mut cluster, "yy", 100, &[80]);
    add(&mut cluster, "xx", 100, &[80]);
    assert_eq!(nodes(&cluster, "xx"), ["a"]);
    assert_eq!(left_out(&cluster, "yy", "a"), claimed(80, "xx"));
}

#[test]
fn a_service_in_the_way_of_one_in_the_way_makes_room() {
    let mut cluster = Cluster::new(&["a"]);
    add(&mut cluster, "first", 300, &[1]);
    add(&mut cluster, "second", 200, &[1, 2]);
    add(&mut cluster, "third", 100, &[2]);
    // The second cannot have port 1, so the third may have port 2.
    assert_eq!(nodes(&cluster, "third"), ["a"]);
}

#[test]
fn a_service_that_is_not_served_takes_nothing() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.service(
        "foreign",
        json!({ "spec": { "loadBalancerClass": "example.com/other" } }),
    );
    cluster.service("internal", json!({ "spec": { "type": "ClusterIP" } }));
    cluster.service(
        "malformed",
        json!({ "metadata": { "annotations": { "svclb.io/ip-mode": "both" } } }),
    );
    add(&mut cluster, "web", 1, &[80]);
    assert_eq!(nodes(&cluster, "web"), ["a"]);
}

#[test]
fn where_two_daemonsets_admit_a_node_the_one_with_a_bound_pod_keeps_it() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.controllers = false;
    into_pool(&mut cluster, "a", "p");
    into_pool(&mut cluster, "b", "q");
    add_in_pool(&mut cluster, "old", 100, &[80], "p");
    add_in_pool(&mut cluster, "young", 10, &[80], "q");
    cluster.act("old").act("young").pod("young", "b", json!({}));
    // Node b comes into the other pool as well.
    into_pool(&mut cluster, "b", "p");
    assert_eq!(nodes(&cluster, "young"), ["b"]);
    assert_eq!(left_out(&cluster, "old", "b"), claimed(80, "young"));
}

#[test]
fn where_two_daemonsets_admit_a_node_without_a_pod_the_older_service_has_it() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.controllers = false;
    into_pool(&mut cluster, "a", "p");
    into_pool(&mut cluster, "b", "q");
    add_in_pool(&mut cluster, "old", 100, &[80], "p");
    add_in_pool(&mut cluster, "young", 10, &[80], "q");
    cluster.act("old").act("young");
    into_pool(&mut cluster, "b", "p");
    assert_eq!(nodes(&cluster, "old"), ["a", "b"]);
    assert_eq!(left_out(&cluster, "young", "b"), claimed(80, "old"));
    // The other one leaves it out at once: none is left for it.
    assert_eq!(cluster.act("young").daemonset_of("young"), None);
}

#[test]
fn a_new_node_that_two_daemonsets_admit_goes_to_the_older_service() {
    let mut cluster = Cluster::new(&["a", "b"]);
    into_pool(&mut cluster, "a", "p");
    into_pool(&mut cluster, "b", "q");
    add_in_pool(&mut cluster, "old", 100, &[80], "p");
    add_in_pool(&mut cluster, "young", 10, &[80], "q");
    cluster.settle();
    let labels = json!({ "metadata": { "labels": {
        "lbpool.svccontroller.k3s.cattle.io/p": "true",
        "lbpool.svccontroller.k3s.cattle.io/q": "true",
    } } });
    cluster.put_node(crate::fixtures::mk_node("c", 3, labels));
    cluster.settle();
    assert_eq!(cluster.addresses("old"), ["10.0.0.1", "10.0.0.3"]);
    assert_eq!(cluster.addresses("young"), ["10.0.0.2"]);
}

#[test]
fn one_deleted_by_hand_is_made_anew_before_anybodys_turn() {
    let mut cluster = Cluster::new(&["a"]);
    add(&mut cluster, "young", 10, &[80]);
    cluster.settle();
    add(&mut cluster, "old", 100, &[80]);
    cluster.settle();
    let daemonset = cluster.daemonset_key("young");
    cluster.remove_daemonset(&daemonset);
    // The older Service waits, and has its turn first.
    assert_eq!(cluster.act("old").daemonset_of("old"), None);
    cluster.act("young").settle();
    assert_eq!(cluster.addresses("young"), ["10.0.0.1"]);
    assert_eq!(cluster.addresses("old"), [""; 0]);
}

#[test]
fn one_that_we_delete_frees_its_ports() {
    let mut cluster = Cluster::new(&["a"]);
    add(&mut cluster, "first", 100, &[80]);
    cluster.settle();
    add(&mut cluster, "second", 10, &[80]);
    cluster.settle().delete_service("first").settle();
    assert_eq!(cluster.addresses("second"), ["10.0.0.1"]);
    assert!(!cluster.services.contains_key(&key("first")));
}

#[test]
fn a_deletion_timestamp_ends_the_claim() {
    let mut cluster = Cluster::new(&["a"]);
    add(&mut cluster, "first", 100, &[80]);
    cluster.act("first");
    let mut daemonset = cluster.daemonset_of("first").unwrap().clone();
    cluster.edit_service("first", json!({ "spec": { "type": "ClusterIP" } }));
    daemonset.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)));
    cluster.put_daemonset(daemonset);
    add(&mut cluster, "second", 10, &[80]);
    assert_eq!(nodes(&cluster, "second"), ["a"]);
}

#[test]
fn an_edit_ends_the_claim_on_what_is_no_longer_in_it() {
    let mut cluster = Cluster::new(&["a"]);
    add(&mut cluster, "first", 100, &[80, 443]);
    cluster.settle();
    add(&mut cluster, "second", 10, &[443]);
    cluster.settle();
    assert_eq!(cluster.addresses("second"), [""; 0]);
    cluster
        .edit_service("first", json!({ "spec": { "ports": ports(&[80]) } }))
        .settle();
    assert_eq!(cluster.addresses("second"), ["10.0.0.1"]);
    assert_eq!(cluster.addresses("first"), ["10.0.0.1"]);
}

#[test]
fn a_conflict_takes_ports_that_worked_as_well() {
    let mut cluster = Cluster::new(&["a"]);
    add(&mut cluster, "holder", 10, &[443]);
    add(&mut cluster, "web", 100, &[80]);
    cluster.settle();
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
    cluster
        .edit_service("web", json!({ "spec": { "ports": ports(&[80, 443]) } }))
        .settle();
    assert_eq!(cluster.addresses("web"), [""; 0]);
    assert_eq!(cluster.daemonset_of("web"), None);
    assert_eq!(
        cluster.told("PortConflict"),
        ["port TCP/443 is held by Service default/holder on a"]
    );
}

#[test]
fn local_services_claim_every_node_they_may_run_on() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster
        .service(
            "local",
            json!({ "spec": { "externalTrafficPolicy": "Local" } }),
        )
        .settle();
    add(&mut cluster, "web", 10, &[80]);
    assert_eq!(nodes(&cluster, "web"), [""; 0]);
}

#[test]
fn a_claim_counts_from_our_write_not_from_the_watch() {
    let mut cluster = Cluster::new(&["a"]);
    add(&mut cluster, "young", 10, &[80]);
    add(&mut cluster, "old", 100, &[80]);
    cluster.edit_service(
        "old",
        json!({ "metadata": { "annotations": { "svclb.io/ip-mode": "both" } } }),
    );
    let decision = cluster.decide("young");
    let [crate::decision::DaemonSetStep::Create { object, .. }] = decision.daemonsets.as_slice()
    else {
        panic!("{decision:?}");
    };
    cluster.world.daemonset_sent(object);
    cluster.edit_service("old", json!({ "metadata": { "annotations": null } }));
    assert_eq!(left_out(&cluster, "old", "a"), claimed(80, "young"));
    cluster
        .world
        .daemonset_not_sent(object.metadata.name.as_deref().unwrap());
    assert_eq!(nodes(&cluster, "old"), ["a"]);
}

#[test]
fn the_orphan_of_a_service_that_is_gone_claims_until_it_is_deleted() {
    let mut cluster = Cluster::new(&["a"]);
    add(&mut cluster, "gone", 100, &[80]);
    cluster.act("gone");
    cluster.services.remove(&key("gone"));
    cluster.restart();
    add(&mut cluster, "web", 10, &[80]);
    let port = Port {
        protocol: Protocol::Tcp,
        number: 80,
    };
    assert_eq!(
        left_out(&cluster, "web", "a"),
        Some(LeftOut::Claimed {
            port,
            by: Some(key("gone"))
        })
    );
    cluster.settle();
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
    assert_eq!(cluster.daemonsets.len(), 1);
}

#[test]
fn the_ports_that_the_cluster_lives_on_are_never_claimed() {
    let mut cluster = Cluster::new(&["a", "b"]);
    let api = json!({
        "metadata": { "namespace": "default", "name": "kubernetes", "labels": { "kubernetes.io/service-name": "kubernetes" } },
        "addressType": "IPv4",
        "ports": [{ "port": 6443 }],
        "endpoints": [{ "addresses": ["10.0.0.1"] }],
    });
    cluster.put_slice(serde_json::from_value(api).unwrap());
    add(&mut cluster, "api", 1, &[6443]);
    add(&mut cluster, "kubelet", 1, &[10250]);
    add(&mut cluster, "etcd", 1, &[2379]);
    cluster.service(
        "udp",
        json!({ "spec": { "ports": [{ "port": 10250, "protocol": "UDP" }] } }),
    );
    assert_eq!(nodes(&cluster, "api"), ["b"]);
    assert_eq!(nodes(&cluster, "kubelet"), [""; 0]);
    assert_eq!(nodes(&cluster, "etcd"), [""; 0]);
    assert_eq!(nodes(&cluster, "udp"), ["a", "b"]);
    cluster.settle();
    assert_eq!(cluster.addresses("api"), ["10.0.0.2"]);
    let told = cluster.told("PortConflict");
    assert!(
        told.contains(&"port TCP/6443 is the API server's on a"),
        "{told:?}"
    );
    assert!(
        told.contains(&"port TCP/10250 is the kubelet's on a, b"),
        "{told:?}"
    );
    assert!(
        told.contains(&"port TCP/2379 is kept from all Services (--protected-ports) on a, b"),
        "{told:?}"
    );
}

#[test]
fn one_deleted_by_hand_that_its_service_cannot_make_anew_claims_nothing_any_more() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.service("holder", json!({})).settle();
    let older = json!({ "metadata": { "creationTimestamp": at(-7200).to_string() } });
    cluster.service("older", older).settle();
    assert_eq!(cluster.addresses("older"), [""; 0]);
    // Its turn comes when there is no node.
    let daemonset = cluster.daemonset_key("holder");
    cluster
        .remove_daemonset(&daemonset)
        .remove_node("a")
        .settle();
    cluster.put_node(mk_node("a", 1, json!({})));
    cluster.settle();
    assert_eq!(cluster.addresses("older"), ["10.0.0.1"]);
    assert_eq!(cluster.addresses("holder"), [""; 0]);
}
