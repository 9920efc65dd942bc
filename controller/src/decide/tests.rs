//! Whose a Service is, and what happens to those that are not ours, or no longer.

use serde_json::{Value, json};

use crate::decision::{DaemonSetStep, Decision, FinalizerStep};
use crate::facts::ServiceFacts;
use crate::fixtures::{Cluster, at, key, mk_daemonset, patched};
use crate::names;
use crate::settings::Settings;

fn finalizer(cluster: &Cluster, service: &str) -> bool {
    ServiceFacts::from(&cluster.services[&key(service)]).finalizer
}

fn marked(mark: &str) -> Value {
    json!({ "metadata": { "labels": { mark: "false" } } })
}

const K3S: &str = "svccontroller.k3s.cattle.io/nodeselector";

fn without_classless() -> Settings {
    Settings {
        classless: false,
        ..Settings::default()
    }
}

#[test]
fn a_service_without_a_class_is_served() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.service("web", json!({})).settle();
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
    assert!(finalizer(&cluster, "web"));
    let reasons: Vec<&str> = cluster
        .events
        .iter()
        .map(|(_, event)| event.reason)
        .collect();
    assert_eq!(reasons, ["AppliedDaemonSet", "UpdatedLoadBalancer"]);
    assert_eq!(
        cluster.told("UpdatedLoadBalancer"),
        ["Updated LoadBalancer with new IPs: [] -> [10.0.0.1]"]
    );
    // Finalizer, DaemonSet, status.
    assert_eq!(cluster.writes, 3);
}

#[test]
fn a_service_of_our_class_is_served_whatever_the_flag_says() {
    let mut cluster = Cluster::with(without_classless(), &["a"]);
    cluster.service(
        "ours",
        json!({ "spec": { "loadBalancerClass": "svclb.io/svclb" } }),
    );
    cluster
        .service("nobodys", json!({ "spec": { "ports": [{ "port": 81 }] } }))
        .settle();
    assert_eq!(cluster.addresses("ours"), ["10.0.0.1"]);
    assert_eq!(cluster.addresses("nobodys"), [""; 0]);
    assert!(!finalizer(&cluster, "nobodys"));
}

/// As Google's cloud provider leaves a Service, with the condition whose type is Kubernetes' own.
fn googles() -> Value {
    json!({
        "metadata": {
            "finalizers": [names::FINALIZER],
            "managedFields": [{
                "manager": "cloud-controller-manager",
                "subresource": "status",
                "fieldsV1": { "f:status": {
                    "f:conditions": { "k:{\"type\":\"LoadBalancerPortsError\"}": {} },
                    "f:loadBalancer": { "f:ingress": {} },
                } },
            }],
        },
        "status": {
            "loadBalancer": { "ingress": [{ "ip": "203.0.113.1" }] },
            "conditions": [{
                "type": "LoadBalancerPortsError",
                "status": "True",
                "reason": "PortsError",
                "message": "",
                "lastTransitionTime": at(0).to_string(),
            }],
        },
    })
}

#[test]
fn a_condition_on_ports_that_another_controller_has_set_makes_no_service_ours() {
    let mut cluster = Cluster::with(without_classless(), &["a"]);
    cluster.service("web", googles());
    assert_eq!(cluster.decide("web"), Decision::default());
    let mut cluster = Cluster::new(&["a"]);
    let class = json!({ "spec": { "loadBalancerClass": "example.com/other" } });
    cluster.service("web", googles()).edit_service("web", class);
    assert_eq!(cluster.decide("web"), Decision::default());
    cluster.edit_service("web", json!({ "spec": { "type": "ClusterIP" } }));
    assert_eq!(cluster.decide("web"), Decision::default());
}

#[test]
fn a_condition_that_we_have_set_is_a_trace_of_ours() {
    let mut cluster = Cluster::with(without_classless(), &["a"]);
    let mut ours = googles();
    ours["metadata"]["managedFields"] = json!([{
        "manager": names::FIELD_MANAGER,
        "subresource": "status",
        "fieldsV1": { "f:status": {
            "f:conditions": { "k:{\"type\":\"LoadBalancerPortsError\"}": {} },
        } },
    }]);
    cluster.service("web", ours).settle();
    assert_eq!(cluster.addresses("web"), [""; 0]);
    assert!(!finalizer(&cluster, "web"));
}

#[test]
fn a_service_of_a_foreign_class_is_never_touched() {
    let mut cluster = Cluster::new(&["a"]);
    let foreign = json!({
        "metadata": { "finalizers": [names::FINALIZER] },
        "spec": { "loadBalancerClass": "example.com/other" },
        "status": { "loadBalancer": { "ingress": [{ "hostname": "lb.example.com" }] } },
    });
    cluster.service("web", foreign);
    assert_eq!(cluster.decide("web"), Decision::default());
    cluster.delete_service("web");
    assert_eq!(cluster.decide("web"), Decision::default());
    // The API server drops the class with the type; it still was not ours.
    cluster.edit_service("web", json!({ "spec": { "type": "ClusterIP" } }));
    assert_eq!(cluster.decide("web"), Decision::default());
}

#[test]
fn one_that_we_served_and_that_comes_back_with_a_foreign_class_loses_only_its_daemonset() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.service("web", json!({})).settle();
    // While we do not look, the type goes away and comes back.
    cluster
        .edit_service(
            "web",
            json!({ "spec": { "loadBalancerClass": "example.com/other" } }),
        )
        .settle();
    assert_eq!(cluster.daemonsets.len(), 0);
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
    assert!(finalizer(&cluster, "web"));
}

#[test]
fn while_servicelb_is_at_work_services_without_a_class_are_left_alone() {
    for mark in names::SERVICELB_MARKS {
        let mut cluster = Cluster::new(&["a"]);
        cluster.put_daemonset(mk_daemonset(
            "kube-system",
            "svclb-traefik-12345678",
            marked(mark),
        ));
        cluster.service("web", json!({})).service(
            "ours",
            json!({ "spec": { "loadBalancerClass": "svclb.io/svclb" } }),
        );
        cluster.settle();
        assert_eq!(cluster.addresses("ours"), ["10.0.0.1"]);
        assert_eq!(cluster.addresses("web"), [""; 0]);
        assert!(!finalizer(&cluster, "web"));
        cluster.pass(7200).settle();
        let told = cluster.told("ServiceLBActive");
        assert_eq!(told.len(), 1, "said once");
        assert!(
            told[0].contains("kubectl -n kube-system delete daemonset svclb-traefik-12345678"),
            "{}",
            told[0]
        );
    }
}

#[test]
fn servicelb_is_at_work_in_any_namespace() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.put_daemonset(mk_daemonset("lb", "svclb-traefik-12345678", marked(K3S)));
    assert_eq!(
        cluster.service("web", json!({})).settle().addresses("web"),
        [""; 0]
    );
}

#[test]
fn when_servicelb_is_gone_its_services_are_taken_over_without_a_moment_without_an_address() {
    let mut cluster = Cluster::new(&["a", "b"]);
    let theirs = json!({
        "metadata": { "finalizers": [names::FINALIZER] },
        "status": { "loadBalancer": { "ingress": [{ "ip": "10.0.0.1", "ipMode": "VIP" }, { "ip": "10.0.0.2", "ipMode": "VIP" }] } },
    });
    cluster.service("web", theirs);
    cluster
        .put_daemonset(mk_daemonset(
            "kube-system",
            &cluster.daemonset_name("web"),
            marked(K3S),
        ))
        .settle();
    let daemonset = cluster.daemonset_key("web");
    cluster.remove_daemonset(&daemonset);
    for _ in 0..20 {
        cluster.round();
        assert_eq!(cluster.addresses("web"), ["10.0.0.1", "10.0.0.2"]);
    }
    assert!(cluster.daemonset_of("web").is_some());
    assert_eq!(cluster.told("UpdatedLoadBalancer"), [""; 0]);
}

#[test]
fn one_of_ours_that_servicelb_adopted_is_its_own_and_made_anew_when_it_goes() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.service("web", json!({})).settle();
    let adopted = patched(cluster.daemonset_of("web").unwrap(), marked(K3S));
    let daemonset = cluster.daemonset_key("web");
    cluster.put_daemonset(adopted).settle();
    assert!(
        cluster.daemonsets.contains_key(&daemonset),
        "not ours to delete"
    );
    cluster.remove_daemonset(&daemonset);
    cluster.round();
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
    cluster.settle();
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
    assert!(cluster.daemonsets.contains_key(&daemonset));
}

#[test]
fn one_of_our_name_with_neither_mark_is_deleted_and_made_anew() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.service("web", json!({}));
    let name = cluster.daemonset_name("web");
    cluster
        .put_daemonset(mk_daemonset("kube-system", &name, json!({})))
        .settle();
    let there = cluster.daemonset_of("web").unwrap();
    assert!(
        there
            .metadata
            .labels
            .as_ref()
            .unwrap()
            .contains_key(names::SERVICE_UID)
    );
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
}

#[test]
fn a_type_that_changed_away_takes_everything_with_it() {
    let mut cluster = Cluster::new(&["a"]);
    cluster
        .service(
            "web",
            json!({ "metadata": { "annotations": { "svclb.io/addresses": "external" } } }),
        )
        .settle();
    // A warning holds, so there is a condition, which the API server does not clear.
    cluster
        .edit_service(
            "web",
            json!({ "metadata": { "annotations": { "svclb.io/addresses": "wrong" } } }),
        )
        .settle();
    assert_eq!(
        ServiceFacts::from(&cluster.services[&key("web")])
            .conditions
            .len(),
        1
    );
    cluster
        .edit_service("web", json!({ "spec": { "type": "ClusterIP" } }))
        .settle();
    let service = ServiceFacts::from(&cluster.services[&key("web")]);
    assert!(service.ingress.is_empty() && service.conditions.is_empty() && !service.finalizer);
    assert!(cluster.daemonsets.is_empty());
    assert_eq!(cluster.told("DeletedDaemonSet").len(), 1);
}

#[test]
fn a_deleted_service_does_not_hang() {
    let mut cluster = Cluster::new(&["a"]);
    cluster
        .service("web", json!({}))
        .settle()
        .delete_service("web");
    assert!(
        cluster.services.contains_key(&key("web")),
        "the finalizer holds it"
    );
    let before = cluster.now;
    cluster.settle();
    assert!(cluster.services.is_empty() && cluster.daemonsets.is_empty());
    assert!(cluster.now < before + jiff::SignedDuration::from_secs(2));
}

#[test]
fn a_service_deleted_as_soon_as_it_was_created_does_not_hang() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.service("web", json!({})).round();
    cluster.delete_service("web");
    let before = cluster.now;
    cluster.settle();
    assert!(cluster.services.is_empty() && cluster.daemonsets.is_empty());
    assert!(cluster.now < before + jiff::SignedDuration::from_secs(2));
}

#[test]
fn the_finalizer_that_servicelb_left_on_a_deleted_service_is_removed() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.service("web", json!({
        "metadata": { "finalizers": [names::FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z" },
        "status": { "loadBalancer": { "ingress": [{ "ip": "10.0.0.1", "ipMode": "VIP" }] } },
    }));
    assert!(cluster.settle().services.is_empty());
}

#[test]
fn the_finalizer_goes_last() {
    let mut cluster = Cluster::new(&["a"]);
    cluster
        .service("web", json!({}))
        .settle()
        .delete_service("web");
    let first = cluster.decide("web");
    assert!(
        matches!(
            first.daemonsets.as_slice(),
            [DaemonSetStep::Delete { event: Some(_), .. }]
        ),
        "{first:?}"
    );
    assert!(
        first
            .status
            .is_some_and(|write| write.ingress == Some(Vec::new()))
    );
    assert_eq!(first.finalizer, FinalizerStep::Keep);
}

#[test]
fn class_less_serving_switched_off_takes_everything_with_it() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.service("web", json!({})).settle();
    cluster.settings = without_classless().into();
    cluster.restart().settle();
    assert_eq!(cluster.addresses("web"), [""; 0]);
    assert!(!finalizer(&cluster, "web") && cluster.daemonsets.is_empty());
}

#[test]
fn release_lets_everything_go() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.service("web", json!({}));
    cluster.service(
        "ours",
        json!({ "spec": { "loadBalancerClass": "svclb.io/svclb", "ports": [{ "port": 81 }] } }),
    );
    cluster.settle();
    cluster.settings = Settings {
        releasing: true,
        ..Settings::default()
    }
    .into();
    cluster.restart().settle();
    assert!(cluster.daemonsets.is_empty());
    for service in ["web", "ours"] {
        assert_eq!(cluster.addresses(service), [""; 0]);
        assert!(!finalizer(&cluster, service));
    }
}

#[test]
fn the_orphan_of_a_time_when_we_did_not_run_is_deleted() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.service("web", json!({})).settle();
    cluster.services.clear();
    cluster.restart().settle();
    assert!(cluster.daemonsets.is_empty());
}

#[test]
fn the_daemonset_of_a_service_of_the_same_name_before_is_deleted() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.service("web", json!({})).settle();
    cluster.services.clear();
    cluster
        .restart()
        .service("web", json!({ "metadata": { "uid": "another0-uid" } }))
        .settle();
    assert_eq!(
        cluster
            .daemonsets
            .keys()
            .map(|key| key.name.as_str())
            .collect::<Vec<_>>(),
        ["svclb-web-another0"]
    );
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
}

#[test]
fn nothing_is_written_that_has_not_changed() {
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster.service("web", json!({})).settle().writes = 0;
    cluster.pass(86400).settle().restart().settle();
    assert_eq!(cluster.writes, 0);
}

#[test]
fn somebodys_edit_of_a_field_of_ours_is_put_right_and_other_fields_are_theirs() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.service("web", json!({})).settle();
    let theirs = json!({
        "metadata": { "labels": { "team": "blue" } },
        "spec": { "template": { "spec": { "dnsPolicy": "Default", "terminationGracePeriodSeconds": 5 } } },
    });
    cluster
        .put_daemonset(patched(cluster.daemonset_of("web").unwrap(), theirs))
        .writes = 0;
    cluster.settle();
    assert_eq!(cluster.writes, 0);
    let ours = json!({ "spec": { "template": { "spec": { "serviceAccountName": "default" } } } });
    cluster
        .put_daemonset(patched(cluster.daemonset_of("web").unwrap(), ours))
        .settle();
    assert_eq!(cluster.writes, 1);
}

#[test]
fn the_selector_follows_any_change_of_labels_and_the_loss_of_a_node() {
    // k3s#14625: the allow-list stayed after the last label, or the last labelled node, was gone.
    let enabled = |value: Value| json!({ "metadata": { "labels": { "svccontroller.k3s.cattle.io/enablelb": value } } });
    let mut cluster = Cluster::new(&["a", "b"]);
    cluster
        .edit_node("a", enabled(json!("true")))
        .service("web", json!({}))
        .settle();
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
    cluster.edit_node("a", enabled(Value::Null)).settle();
    assert_eq!(cluster.addresses("web"), ["10.0.0.1", "10.0.0.2"]);
    cluster.edit_node("a", enabled(json!("true"))).settle();
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
    cluster.remove_node("a").settle();
    assert_eq!(cluster.addresses("web"), ["10.0.0.2"]);
}
