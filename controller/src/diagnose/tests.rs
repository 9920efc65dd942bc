//! What the user is told, and how often.

use serde_json::{Value, json};

use crate::facts::ServiceFacts;
use crate::fixtures::{Cluster, key, patched};
use crate::names::{self, condition};
use crate::world::ObjectKey;

fn conditions(cluster: &Cluster, service: &str) -> Vec<(String, String, String)> {
    ServiceFacts::from(&cluster.services[&key(service)])
        .conditions
        .into_iter()
        .map(|condition| (condition.type_, condition.reason, condition.message))
        .collect()
}

fn users_pod(cluster: &mut Cluster, spec: Value) {
    let pod = json!({
        "metadata": { "namespace": "shop", "name": "proxy" },
        "spec": spec,
        "status": { "phase": "Running" },
    });
    cluster.put_pod(serde_json::from_value(pod).unwrap());
}

#[test]
fn a_port_that_another_service_holds_names_it() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.service("first", json!({})).settle();
    cluster.service("second", json!({})).settle();
    let message = "port TCP/80 is held by Service default/first on a, b";
    assert_eq!(cluster.told("PortConflict"), [message]);
    let (kind, reason, text) = conditions(&cluster, "second").remove(0);
    assert_eq!(
        (kind.as_str(), reason.as_str(), text.as_str()),
        (condition::PORTS_ERROR, "PortConflict", message)
    );
}

#[test]
fn a_port_that_a_pod_has_by_host_port_names_it() {
    let mut cluster = Cluster::new(&["a", "b"]);
    let ports = json!([{ "containerPort": 8080, "hostPort": 80, "protocol": "TCP" }]);
    users_pod(
        &mut cluster,
        json!({ "nodeName": "a", "containers": [{ "name": "c", "ports": ports }] }),
    );
    cluster.service("web", json!({})).settle();
    assert_eq!(
        cluster.told("PortConflict"),
        ["port TCP/80 is held by pod shop/proxy (hostPort) on a"]
    );
    assert_eq!(cluster.addresses("web"), ["10.0.0.2"]);
}

#[test]
fn a_port_that_a_pod_has_by_host_network_names_it() {
    let mut cluster = Cluster::new(&["a"]);
    let ports = json!([{ "containerPort": 80 }]);
    let spec = json!({ "nodeName": "a", "hostNetwork": true, "containers": [{ "name": "c", "ports": ports }] });
    users_pod(&mut cluster, spec);
    cluster.service("web", json!({})).settle();
    assert_eq!(
        cluster.told("PortConflict"),
        ["port TCP/80 is held by pod shop/proxy (hostNetwork) on a"]
    );
}

#[test]
fn a_port_that_a_sidecar_has_names_its_pod() {
    let mut cluster = Cluster::new(&["a"]);
    let sidecar = json!({
        "name": "s",
        "restartPolicy": "Always",
        "ports": [{ "containerPort": 8080, "hostPort": 80 }],
    });
    let spec =
        json!({ "nodeName": "a", "containers": [{ "name": "c" }], "initContainers": [sidecar] });
    users_pod(&mut cluster, spec);
    cluster.service("web", json!({})).settle();
    assert_eq!(
        cluster.told("PortConflict"),
        ["port TCP/80 is held by pod shop/proxy (hostPort) on a"]
    );
}

#[test]
fn a_port_that_another_ones_svclb_pod_has_names_its_service_too() {
    let mut cluster = Cluster::new(&["a"]);
    let ports = json!([{ "containerPort": 80, "hostPort": 80 }]);
    let labels = json!({ names::SERVICE_NAMESPACE: "shop", names::SERVICE_NAME: "till" });
    let pod = json!({
        "metadata": { "namespace": "kube-system", "name": "svclb-till-x", "labels": labels },
        "spec": { "nodeName": "a", "containers": [{ "name": "c", "ports": ports }] },
    });
    cluster.put_pod(serde_json::from_value(pod).unwrap());
    cluster.service("web", json!({})).settle();
    assert_eq!(
        cluster.told("PortConflict"),
        [
            "port TCP/80 is held by pod kube-system/svclb-till-x (hostPort) of Service shop/till on a"
        ]
    );
}

#[test]
fn when_the_port_is_free_the_waiting_service_works_and_the_condition_is_gone() {
    let mut cluster = Cluster::new(&["a"]);
    let ports = json!([{ "containerPort": 8080, "hostPort": 80 }]);
    users_pod(
        &mut cluster,
        json!({ "nodeName": "a", "containers": [{ "name": "c", "ports": ports }] }),
    );
    cluster.service("web", json!({})).settle();
    assert_eq!(conditions(&cluster, "web").len(), 1);
    cluster.remove_pod(&ObjectKey::new("shop", "proxy"));
    cluster.settle();
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
    assert!(conditions(&cluster, "web").is_empty());
}

#[test]
fn another_reason_for_pending_is_named_as_what_it_is() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.controllers = false;
    cluster.service("web", json!({})).act("web");
    let refused = json!({ "spec": { "nodeName": null }, "status": { "phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu.",
    }] } });
    cluster.pod("web", "a", refused).act("web");
    assert_eq!(cluster.told("PortConflict"), [""; 0]);
    assert_eq!(
        cluster.told("PodUnschedulable"),
        ["the svclb pod is not scheduled on a: 0/1 nodes are available: 1 Insufficient cpu."]
    );
}

fn broken(state: Value, last: Value) -> Value {
    json!({ "status": {
        "phase": "Pending",
        "conditions": [],
        "containerStatuses": [{
            "name": "svclb", "image": "localhost/svclb-pod:1", "imageID": "", "ready": false, "restartCount": 3,
            "state": state, "lastState": last,
        }],
    } })
}

fn told_of(pod: Value) -> Vec<String> {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.controllers = false;
    cluster
        .service("web", json!({}))
        .act("web")
        .pod("web", "a", pod)
        .act("web");
    cluster
        .told("PodNotRunning")
        .into_iter()
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_pod_that_cannot_run_says_why_in_its_last_line() {
    let ended = json!({ "terminated": { "exitCode": 1, "message": "svclb-pod 0.1.0\nno NET_ADMIN: grant it\n" } });
    let waiting = json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 10s restarting" } });
    let expected =
        ["the svclb pod does not run on a: it ends with exit code 1: no NET_ADMIN: grant it"];
    // The same words for both halves of the cycle, so that it is one matter.
    assert_eq!(told_of(broken(waiting, ended.clone())), expected);
    assert_eq!(told_of(broken(ended, json!({}))), expected);
    for reason in ["ErrImagePull", "ImagePullBackOff"] {
        let waiting = json!({ "waiting": { "reason": reason, "message": "whatever" } });
        assert_eq!(
            told_of(broken(waiting, json!({}))),
            ["the svclb pod does not run on a: image localhost/svclb-pod:1 cannot be pulled"]
        );
    }
    let rejected = json!({ "status": { "phase": "Failed", "reason": "NodePorts", "message": "Pod was rejected" } });
    assert_eq!(
        told_of(rejected),
        ["the svclb pod does not run on a: NodePorts: Pod was rejected"]
    );
    let starting = broken(
        json!({ "waiting": { "reason": "ContainerCreating" } }),
        json!({}),
    );
    assert_eq!(told_of(starting), [""; 0]);
}

#[test]
fn pods_that_cannot_be_created_are_told_after_a_while() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.controllers = false;
    let class = json!({ "svccontroller.k3s.cattle.io/priorityclassname": "none-such" });
    let service = json!({ "metadata": { "annotations": class } });
    cluster.service("web", service).act("web");
    let status = |current: i32| {
        json!({ "status": {
            "desiredNumberScheduled": 1, "currentNumberScheduled": current, "numberMisscheduled": 0, "numberReady": 0,
        } })
    };
    let set = |cluster: &mut Cluster, current| {
        let daemonset = patched(cluster.daemonset_of("web").unwrap(), status(current));
        cluster.put_daemonset(daemonset).act("web");
    };
    set(&mut cluster, 0);
    cluster.pass(8).act("web");
    assert_eq!(cluster.told("PodsNotCreated"), [""; 0]);
    cluster.pass(2).act("web");
    assert_eq!(
        cluster.told("PodsNotCreated"),
        [
            "the svclb pods cannot be created, as when there is no PriorityClass none-such, a quota is used up or a policy \
          forbids them; why, this says: kubectl -n kube-system describe daemonset svclb-web-web00000"
        ]
    );
    assert_eq!(conditions(&cluster, "web")[0].0, condition::DEGRADED);
    set(&mut cluster, 1);
    assert!(conditions(&cluster, "web").is_empty());
}

#[test]
fn no_eligible_node_is_told_with_each_reason_counted() {
    let mut cluster = Cluster::new(&["a", "b", "c", "d"]);
    cluster.edit_node(
        "a",
        json!({ "metadata": { "labels": { "kubernetes.io/os": "windows" } } }),
    );
    let exclude = json!({ "metadata": { "labels": { "node.kubernetes.io/exclude-from-external-load-balancers": "true" } } });
    cluster.edit_node("b", exclude);
    let pool = json!({ "metadata": { "labels": { "svccontroller.k3s.cattle.io/lbpool": "p" } } });
    cluster.service("web", pool).settle();
    assert_eq!(
        cluster.told("UnAvailableLoadBalancer"),
        ["There are no available nodes for LoadBalancer: of 4 nodes \
          1 excluded by label node.kubernetes.io/exclude-from-external-load-balancers, \
          1 not Linux, 2 not in the Service's pool"]
    );
    assert_eq!(conditions(&cluster, "web")[0].0, condition::DEGRADED);
}

#[test]
fn nodes_whose_taints_are_not_tolerated_are_no_available_nodes() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.edit_node(
        "a",
        json!({ "spec": { "taints": [{ "key": "k", "effect": "NoSchedule" }] } }),
    );
    cluster.service("web", json!({})).settle();
    assert_eq!(
        cluster.told("UnAvailableLoadBalancer"),
        [
            "There are no available nodes for LoadBalancer: of 1 nodes 1 with a taint that the svclb pods do not tolerate"
        ]
    );
}

#[test]
fn a_false_exclusion_does_not_exclude() {
    let mut cluster = Cluster::new(&["a"]);
    let exclude = json!({ "metadata": { "labels": { "node.kubernetes.io/exclude-from-external-load-balancers": "false" } } });
    cluster
        .edit_node("a", exclude)
        .service("web", json!({}))
        .settle();
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
}

#[test]
fn pools_work_without_an_allow_list_in_both_forms() {
    let mut cluster = Cluster::new(&["a", "b", "c"]);
    cluster.edit_node(
        "a",
        json!({ "metadata": { "labels": { "svccontroller.k3s.cattle.io/lbpool": "p" } } }),
    );
    let several = json!({ "metadata": { "labels": {
        "lbpool.svccontroller.k3s.cattle.io/p": "true",
        "lbpool.svccontroller.k3s.cattle.io/q": "true",
    } } });
    cluster.edit_node("b", several);
    let pool = json!({ "metadata": { "labels": { "svccontroller.k3s.cattle.io/lbpool": "p" } } });
    cluster.service("web", pool).settle();
    assert_eq!(cluster.addresses("web"), ["10.0.0.1", "10.0.0.2"]);
}

#[test]
fn port_22_is_served_with_a_warning() {
    let mut cluster = Cluster::new(&["a"]);
    cluster
        .service(
            "git",
            json!({ "spec": { "ports": [{ "port": 22, "protocol": "TCP" }] } }),
        )
        .settle();
    assert_eq!(cluster.addresses("git"), ["10.0.0.1"]);
    assert_eq!(cluster.told("SSHPort").len(), 1);
    assert!(conditions(&cluster, "git").is_empty());
}

#[test]
fn a_warning_that_still_holds_is_repeated_every_half_hour_as_one_series() {
    let mut cluster = Cluster::new(&["a"]);
    cluster
        .service(
            "git",
            json!({ "spec": { "ports": [{ "port": 22, "protocol": "TCP" }] } }),
        )
        .settle();
    for minutes in 1..=90 {
        cluster.pass(60).round();
        assert!(cluster.told("SSHPort").len() <= 1 + minutes / 30);
    }
    let repeated: Vec<u32> = cluster
        .events
        .iter()
        .filter(|(_, event)| event.reason == "SSHPort")
        .map(|(_, event)| event.repeated)
        .collect();
    assert_eq!(repeated, [0, 1, 2, 3]);
    let at = cluster.decide("git").recheck_at.unwrap();
    assert!(at <= cluster.now + jiff::SignedDuration::from_mins(30));
}

#[test]
fn no_event_in_a_loop() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.controllers = false;
    cluster.service("web", json!({})).act("web");
    let ended = json!({ "terminated": { "exitCode": 1, "message": "no" } });
    let crashed = broken(
        json!({ "waiting": { "reason": "CrashLoopBackOff" } }),
        ended,
    );
    let running = json!({ "status": { "phase": "Running", "conditions": [] } });
    for _ in 0..40 {
        cluster.pod("web", "a", crashed.clone()).act("web").pass(20);
        cluster.pod("web", "a", running.clone()).act("web").pass(20);
    }
    assert_eq!(cluster.told("PodNotRunning").len(), 1);
    // Nor does the condition come and go.
    assert_eq!(conditions(&cluster, "web").len(), 1);
    assert!(cluster.writes <= 4, "{}", cluster.writes);
}

#[test]
fn other_words_for_the_same_matter_wait_half_a_minute() {
    let mut cluster = Cluster::new(&["a"]);
    cluster
        .service(
            "web",
            json!({ "spec": { "ports": [{ "port": 2379, "protocol": "TCP" }] } }),
        )
        .settle();
    for n in 2..12 {
        cluster.put_node(crate::fixtures::mk_node(&format!("n{n}"), n, json!({})));
        cluster.round();
        cluster.pass(5);
    }
    assert_eq!(cluster.told("PortConflict").len(), 2);
    cluster.settle();
    let last = cluster.told("PortConflict").pop().unwrap();
    assert!(
        last.ends_with("on a, n10, n11, n2, n3 and 6 more nodes"),
        "{last}"
    );
}
