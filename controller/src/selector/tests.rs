//! core/v1's rules for node selectors and tolerations.

use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Value, json};

use super::{Admission, Repelled};
use crate::facts::NodeFacts;
use crate::fixtures::{merge, mk_node};

fn admission(patch: Value) -> Admission {
    let mut spec = json!({ "containers": [] });
    merge(&mut spec, patch);
    let spec: PodSpec = serde_json::from_value(spec).unwrap();
    Admission::from(&spec)
}

fn with_terms(terms: Value) -> Admission {
    admission(json!({ "affinity": { "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms },
    } } }))
}

fn node(patch: Value) -> NodeFacts {
    NodeFacts::from(&mk_node("a", 1, patch))
}

#[test]
fn each_operator_of_a_requirement() {
    let node = node(json!({ "metadata": { "labels": { "zone": "x", "cores": "8" } } }));
    for (key, operator, values, admitted) in [
        ("zone", "In", json!(["x", "y"]), true),
        ("zone", "In", json!(["y"]), false),
        ("absent", "In", json!(["x"]), false),
        ("zone", "NotIn", json!(["y"]), true),
        ("zone", "NotIn", json!(["x"]), false),
        ("absent", "NotIn", json!(["x"]), true),
        ("zone", "Exists", json!(null), true),
        ("absent", "Exists", json!(null), false),
        ("absent", "DoesNotExist", json!(null), true),
        ("zone", "DoesNotExist", json!(null), false),
        ("cores", "Gt", json!(["7"]), true),
        ("cores", "Gt", json!(["8"]), false),
        ("cores", "Lt", json!(["9"]), true),
        ("zone", "Lt", json!(["9"]), false),
        ("zone", "Unheard", json!(["x"]), false),
    ] {
        let requirement = json!({ "key": key, "operator": operator, "values": values });
        let admission = with_terms(json!([{ "matchExpressions": [requirement] }]));
        assert_eq!(
            admission.admits(&node),
            admitted,
            "{key} {operator} {values}"
        );
    }
}

#[test]
fn terms_are_ored_and_what_is_in_one_is_anded() {
    let is = |key: &str, value: &str| json!({ "key": key, "operator": "In", "values": [value] });
    let node = node(json!({ "metadata": { "labels": { "zone": "x", "disk": "ssd" } } }));
    let both = json!({ "matchExpressions": [is("zone", "x"), is("disk", "hdd")] });
    let one = json!({ "matchExpressions": [is("disk", "ssd")] });
    assert!(!with_terms(json!([both])).admits(&node));
    assert!(with_terms(json!([both, one])).admits(&node));
    assert!(
        !with_terms(json!([])).admits(&node),
        "no term admits no node"
    );
    assert!(
        !with_terms(json!([{}])).admits(&node),
        "an empty term matches nothing"
    );
}

#[test]
fn a_node_is_left_out_by_its_name() {
    let out = |name: &str| {
        let fields = json!([
            { "key": "metadata.name", "operator": "NotIn", "values": ["z"] },
            { "key": "metadata.name", "operator": "NotIn", "values": [name] },
        ]);
        !with_terms(json!([{ "matchFields": fields }])).admits(&node(json!({})))
    };
    assert!(out("a"));
    assert!(!out("b"));
}

#[test]
fn a_node_selector_holds_beside_the_affinity() {
    let admission =
        admission(json!({ "nodeSelector": { "kubernetes.io/os": "linux", "disk": "ssd" } }));
    assert!(!admission.admits(&node(json!({}))));
    assert!(admission.admits(&node(
        json!({ "metadata": { "labels": { "disk": "ssd" } } })
    )));
}

#[test]
fn the_strongest_taint_that_is_not_tolerated_repels() {
    let taint = |effect: &str| json!({ "key": "k", "value": "v", "effect": effect });
    let tainted = |taints: Value| node(json!({ "spec": { "taints": taints } }));
    let none = admission(json!({}));
    assert_eq!(none.repelled_by(&tainted(json!([]))), None);
    assert_eq!(
        none.repelled_by(&tainted(json!([taint("PreferNoSchedule")]))),
        None
    );
    assert_eq!(
        none.repelled_by(&tainted(json!([taint("NoSchedule")]))),
        Some(Repelled::NewPods)
    );
    let both = tainted(json!([taint("NoSchedule"), taint("NoExecute")]));
    assert_eq!(none.repelled_by(&both), Some(Repelled::AllPods));
    for (toleration, left) in [
        (json!({ "operator": "Exists" }), None),
        (json!({ "key": "k", "operator": "Exists" }), None),
        (json!({ "key": "k", "value": "v" }), None),
        (json!({ "key": "k", "value": "w" }), Some(Repelled::AllPods)),
        (
            json!({ "key": "other", "operator": "Exists" }),
            Some(Repelled::AllPods),
        ),
        (
            json!({ "key": "k", "operator": "Exists", "effect": "NoExecute" }),
            Some(Repelled::NewPods),
        ),
        (
            json!({ "key": "k", "operator": "Exists", "effect": "NoSchedule" }),
            Some(Repelled::AllPods),
        ),
    ] {
        let admission = admission(json!({ "tolerations": [toleration] }));
        assert_eq!(admission.repelled_by(&both), left, "{toleration}");
    }
}

#[test]
fn what_the_daemonset_controller_tolerates_does_not_repel() {
    let taints = json!([
        { "key": "node.kubernetes.io/not-ready", "effect": "NoExecute" },
        { "key": "node.kubernetes.io/unreachable", "effect": "NoExecute" },
        { "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" },
    ]);
    let node = node(json!({ "spec": { "taints": taints } }));
    assert_eq!(admission(json!({})).repelled_by(&node), None);
    let network = json!({ "spec": { "taints": [{ "key": "node.kubernetes.io/network-unavailable", "effect": "NoSchedule" }] } });
    let node = self::node(network);
    assert_eq!(
        admission(json!({})).repelled_by(&node),
        Some(Repelled::NewPods),
        "without hostNetwork"
    );
}
