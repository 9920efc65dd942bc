//! Whole values: the DaemonSet that a Service gets.

use serde_json::{Value, json};

use super::{NodeRules, RollOut, daemonset};
use crate::facts::ServiceFacts;
use crate::fixtures::{Cluster, merge, mk_service};
use crate::settings::{Ipv6Forwarding, ProxyMode, Publish, Settings};
use crate::wish::wish;

const EVERY_NODE: NodeRules<'static> = NodeRules {
    allow_listing: false,
    left_out: Vec::new(),
};

/// The DaemonSet of `mk_service("web", patch)`, without the hash of itself.
fn made(patch: Value, rules: &NodeRules<'_>, settings: &Settings) -> Value {
    let service = ServiceFacts::from(&mk_service("web", patch));
    let wish = wish(&service, ProxyMode::Unknown, settings).unwrap();
    let mut made = daemonset(&service, &wish, rules, RollOut::AllAtOnce, settings);
    assert!(
        made.metadata
            .annotations
            .take()
            .is_some_and(|annotations| annotations.len() == 1)
    );
    serde_json::to_value(made).unwrap()
}

fn usual(patch: Value) -> Value {
    made(patch, &EVERY_NODE, &Settings::default())
}

fn container(made: &Value) -> &Value {
    &made["spec"]["template"]["spec"]["containers"][0]
}

fn terms(made: &Value) -> &Value {
    &made["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        ["nodeSelectorTerms"]
}

fn not_excluded(mut expressions: Vec<Value>, fields: Value) -> Vec<Value> {
    let key = "node.kubernetes.io/exclude-from-external-load-balancers";
    let last = [
        json!({ "key": key, "operator": "DoesNotExist" }),
        json!({ "key": key, "operator": "In", "values": ["0", "f", "F", "false", "FALSE", "False"] }),
    ];
    last.into_iter()
        .map(|last| {
            expressions.push(last);
            let mut term = json!({ "matchExpressions": expressions });
            if !fields.is_null() {
                term["matchFields"] = fields.clone();
            }
            expressions.pop();
            term
        })
        .collect()
}

fn linux() -> Value {
    json!({ "key": "kubernetes.io/os", "operator": "In", "values": ["linux"] })
}

#[test]
fn the_whole_of_it() {
    let labels = json!({
        "svccontroller.k3s.cattle.io/svcname": "web",
        "svccontroller.k3s.cattle.io/svcnamespace": "default",
    });
    let (mut own, mut of_pod) = (labels.clone(), labels);
    merge(&mut own, json!({ "svclb.io/service-uid": "web00000-uid" }));
    merge(&mut of_pod, json!({ "app": "svclb-web-web00000" }));
    let expected = json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": "svclb-web-web00000", "namespace": "kube-system", "labels": own },
        "spec": {
            "revisionHistoryLimit": 1,
            "selector": { "matchLabels": { "app": "svclb-web-web00000" } },
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": "100%" } },
            "template": {
                "metadata": { "labels": of_pod },
                "spec": {
                    "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": not_excluded(vec![linux()], Value::Null),
                    } } },
                    "automountServiceAccountToken": false,
                    "containers": [{
                        "name": "svclb",
                        "image": concat!("localhost/svclb-pod:", env!("CARGO_PKG_VERSION")),
                        "imagePullPolicy": "IfNotPresent",
                        "env": [
                            { "name": "SVCLB_FORWARDS", "value": "tcp/80=80" },
                            { "name": "DEST_IPS", "value": "10.43.0.10" },
                            { "name": "SRC_RANGES", "value": "0.0.0.0/0" },
                        ],
                        "lifecycle": { "postStart": { "exec": { "command": ["/svclb-pod", "check"] } } },
                        "ports": [{ "name": "lb-tcp-80", "containerPort": 80, "hostPort": 80, "protocol": "TCP" }],
                        "resources": {
                            "requests": { "cpu": "1m", "memory": "8Mi" },
                            "limits": { "memory": "32Mi" },
                        },
                        "securityContext": {
                            "allowPrivilegeEscalation": false,
                            "capabilities": { "add": ["NET_ADMIN"], "drop": ["ALL"] },
                            "readOnlyRootFilesystem": true,
                        },
                        "terminationMessagePolicy": "FallbackToLogsOnError",
                    }],
                    "enableServiceLinks": false,
                    "priorityClassName": "svclb",
                    "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
                    "serviceAccountName": "svclb",
                    "tolerations": [
                        { "key": "node-role.kubernetes.io/master", "operator": "Exists", "effect": "NoSchedule" },
                        { "key": "node-role.kubernetes.io/control-plane", "operator": "Exists", "effect": "NoSchedule" },
                        { "key": "CriticalAddonsOnly", "operator": "Exists" },
                    ],
                },
            },
        },
    });
    assert_eq!(usual(json!({})), expected);
}

#[test]
fn it_does_not_carry_the_label_by_which_k3s_deletes_its_own() {
    assert!(!usual(json!({})).to_string().contains("nodeselector\""));
}

#[test]
fn there_is_one_container_for_all_ports() {
    let made = usual(json!({ "spec": { "ports": [
        { "port": 53, "protocol": "UDP", "nodePort": 30053 },
        { "port": 53, "protocol": "TCP", "nodePort": 30053 },
        { "port": 38412, "protocol": "SCTP", "nodePort": 30412 },
    ] } }));
    assert_eq!(
        made["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        container(&made)["env"][0]["value"],
        "udp/53=53,tcp/53=53,sctp/38412=38412"
    );
    assert_eq!(
        container(&made)["ports"],
        json!([
            { "name": "lb-udp-53", "containerPort": 53, "hostPort": 53, "protocol": "UDP" },
            { "name": "lb-tcp-53", "containerPort": 53, "hostPort": 53, "protocol": "TCP" },
            { "name": "lb-sctp-38412", "containerPort": 38412, "hostPort": 38412, "protocol": "SCTP" },
        ])
    );
}

#[test]
fn local_goes_to_the_nodes_own_node_ports() {
    let made = usual(json!({ "spec": { "externalTrafficPolicy": "Local" } }));
    assert_eq!(
        container(&made)["env"],
        json!([
            { "name": "SVCLB_FORWARDS", "value": "tcp/80=30080" },
            { "name": "DEST_IPS", "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": "status.hostIPs" } } },
            { "name": "SRC_RANGES", "value": "0.0.0.0/0" },
        ])
    );
}

#[test]
fn a_local_port_without_a_node_port_is_held_and_not_forwarded() {
    let made = usual(
        json!({ "spec": { "externalTrafficPolicy": "Local", "ports": [
        { "port": 80, "protocol": "TCP", "nodePort": 30080 },
        { "port": 81, "protocol": "TCP" },
    ] } }),
    );
    assert_eq!(container(&made)["env"][0]["value"], "tcp/80=30080");
    assert_eq!(container(&made)["ports"].as_array().unwrap().len(), 2);
    assert_eq!(container(&made).get("command"), None);
}

#[test]
fn a_local_service_without_any_node_port_only_holds_its_ports() {
    let made = usual(
        json!({ "spec": { "externalTrafficPolicy": "Local", "ports": [{ "port": 80, "protocol": "TCP" }] } }),
    );
    assert_eq!(container(&made)["command"], json!(["/svclb-pod", "hold"]));
    assert_eq!(container(&made).get("env"), None);
    assert_eq!(container(&made).get("lifecycle"), None);
}

#[test]
fn an_ipv6_family_gets_a_privileged_init_container() {
    let dual = json!({ "spec": { "ipFamilies": ["IPv4", "IPv6"], "clusterIPs": ["10.43.0.10", "fd00:43::a"] } });
    let made = usual(dual.clone());
    let pod = &made["spec"]["template"]["spec"];
    assert_eq!(
        pod["initContainers"][0]["command"],
        json!(["/svclb-pod", "allow-ipv6-forwarding"])
    );
    assert_eq!(
        pod["initContainers"][0]["securityContext"]["privileged"],
        true
    );
    assert_eq!(pod["securityContext"].get("sysctls"), None);
    assert_eq!(container(&made)["env"][1]["value"], "10.43.0.10,fd00:43::a");
    assert_eq!(container(&made)["env"][2]["value"], "0.0.0.0/0,::/0");

    let by_sysctl = Settings {
        ipv6_forwarding: Ipv6Forwarding::Sysctl,
        ..Settings::default()
    };
    let pod = &self::made(dual, &EVERY_NODE, &by_sysctl)["spec"]["template"]["spec"];
    assert_eq!(pod.get("initContainers"), None);
    assert_eq!(
        pod["securityContext"]["sysctls"],
        json!([{ "name": "net.ipv6.conf.all.forwarding", "value": "1" }])
    );
}

#[test]
fn there_are_no_unsafe_sysctls_and_no_privileged_container_for_ipv4() {
    let made = usual(json!({})).to_string();
    assert!(
        !made.contains("sysctl") && !made.contains("privileged"),
        "{made}"
    );
}

#[test]
fn source_ranges_are_those_of_the_services_families() {
    for (families, ranges, expected) in [
        (
            json!(["IPv4"]),
            json!(["10.0.0.0/8", "fd00::/8"]),
            "10.0.0.0/8",
        ),
        (
            json!(["IPv4"]),
            json!(["10.0.0.0/8", "10.0.0.0/8", "192.0.2.1/32"]),
            "10.0.0.0/8,192.0.2.1/32",
        ),
        // A family is open only if no range was given at all.
        (json!(["IPv4", "IPv6"]), json!(["10.0.0.0/8"]), "10.0.0.0/8"),
        (
            json!(["IPv6", "IPv4"]),
            json!(["fd00::/8", "10.0.0.0/8"]),
            "10.0.0.0/8,fd00::/8",
        ),
    ] {
        let made = usual(
            json!({ "spec": { "ipFamilies": families, "loadBalancerSourceRanges": ranges } }),
        );
        assert_eq!(
            container(&made)["env"][2],
            json!({ "name": "SRC_RANGES", "value": expected })
        );
    }
}

#[test]
fn the_affinity_follows_the_allow_list_the_pool_and_the_nodes_left_out() {
    let enabled = json!({ "key": "svccontroller.k3s.cattle.io/enablelb", "operator": "In", "values": ["true"] });
    let pool =
        json!({ "key": "svccontroller.k3s.cattle.io/lbpool", "operator": "In", "values": ["p"] });
    let pools = json!({ "key": "lbpool.svccontroller.k3s.cattle.io/p", "operator": "In", "values": ["true"] });
    let fields = json!([
        { "key": "metadata.name", "operator": "NotIn", "values": ["a"] },
        { "key": "metadata.name", "operator": "NotIn", "values": ["b"] },
    ]);
    let rules = NodeRules {
        allow_listing: true,
        left_out: vec!["a", "b"],
    };
    let in_pool =
        json!({ "metadata": { "labels": { "svccontroller.k3s.cattle.io/lbpool": "p" } } });
    let made = made(in_pool, &rules, &Settings::default());
    let mut expected = not_excluded(vec![linux(), enabled.clone(), pool], fields.clone());
    expected.extend(not_excluded(vec![linux(), enabled, pools], fields));
    assert_eq!(terms(&made), &json!(expected));
}

#[test]
fn settings_and_annotations_reach_the_pod() {
    let settings = Settings {
        namespace: "lb".to_owned(),
        image: "registry.example.com/svclb-pod:1".to_owned(),
        image_pull_policy: "Always".to_owned(),
        image_pull_secrets: vec!["secret".to_owned()],
        priority_class: None,
        tolerations: vec![
            crate::tolerations::parse("[{key: a, operator: Exists}]")
                .unwrap()
                .remove(0),
        ],
        host_users: false,
        ..Settings::default()
    };
    let annotations = json!({ "metadata": { "annotations": {
        "svccontroller.k3s.cattle.io/tolerations": r#"[{"key": "b", "operator": "Exists"}]"#,
    } } });
    let made = made(annotations, &EVERY_NODE, &settings);
    let pod = &made["spec"]["template"]["spec"];
    assert_eq!(made["metadata"]["namespace"], "lb");
    assert_eq!(
        container(&made)["image"],
        "registry.example.com/svclb-pod:1"
    );
    assert_eq!(container(&made)["imagePullPolicy"], "Always");
    assert_eq!(pod["imagePullSecrets"], json!([{ "name": "secret" }]));
    assert_eq!(pod["hostUsers"], false);
    assert_eq!(pod.get("priorityClassName"), None);
    assert_eq!(
        pod["tolerations"][3],
        json!({ "key": "a", "operator": "Exists" })
    );
    assert_eq!(
        pod["tolerations"][4],
        json!({ "key": "b", "operator": "Exists" })
    );
}

#[test]
fn the_priority_annotation_is_kept_and_empty_means_none() {
    let key = "svccontroller.k3s.cattle.io/priorityclassname";
    let of = |value: &str| {
        let made = usual(json!({ "metadata": { "annotations": { key: value } } }));
        made["spec"]["template"]["spec"]
            .get("priorityClassName")
            .cloned()
    };
    assert_eq!(
        of("system-node-critical"),
        Some(json!("system-node-critical"))
    );
    assert_eq!(of(""), None);
}

#[test]
fn pods_roll_all_at_once_where_kube_proxy_carries_the_traffic_and_one_by_one_elsewhere() {
    let strategy = |cluster: &mut Cluster| {
        let made = serde_json::to_value(cluster.settle().daemonset_of("web")).unwrap();
        made["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"].clone()
    };
    let mut cluster = Cluster::new(&["a", "b"]);
    assert_eq!(strategy(cluster.service("web", json!({}))), "100%");
    cluster.set_proxy_mode(ProxyMode::Nftables);
    assert_eq!(strategy(&mut cluster), 1);
    let ready = Settings {
        publish: Publish::Ready,
        ..Settings::default()
    };
    assert_eq!(
        strategy(Cluster::with(ready, &["a"]).service("web", json!({}))),
        1
    );
    let proxy = json!({ "metadata": { "annotations": { "svclb.io/ip-mode": "Proxy" } } });
    assert_eq!(strategy(Cluster::new(&["a"]).service("web", proxy)), 1);
}

#[test]
fn a_dead_node_does_not_stop_a_roll() {
    let mut cluster = Cluster::with(
        Settings {
            publish: Publish::Ready,
            ..Settings::default()
        },
        &["a", "b", "c"],
    );
    cluster.service("web", json!({})).settle();
    cluster.set_ready("c", "Unknown").settle();
    let there = cluster.daemonset_of("web").unwrap().clone();
    let strategy = |object: &k8s_openapi::api::apps::v1::DaemonSet| {
        serde_json::to_value(object).unwrap()["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"].clone()
    };
    assert_eq!(strategy(&there), 1, "no write while nothing rolls");
    let rolling = json!({ "status": {
        "currentNumberScheduled": 3, "desiredNumberScheduled": 3, "numberMisscheduled": 0, "numberReady": 2,
        "updatedNumberScheduled": 1,
    } });
    cluster
        .put_daemonset(crate::fixtures::patched(&there, rolling))
        .settle();
    assert_eq!(strategy(cluster.daemonset_of("web").unwrap()), 2);
}

#[test]
fn what_the_api_server_adds_is_no_drift_and_a_port_that_is_gone_is() {
    use crate::drift::is_as_wanted;
    use crate::facts::DaemonSetFacts;
    use crate::fixtures::patched;

    let make = |patch: Value| {
        let service = ServiceFacts::from(&mk_service("web", patch));
        let wish = wish(&service, ProxyMode::Unknown, &Settings::default()).unwrap();
        daemonset(
            &service,
            &wish,
            &EVERY_NODE,
            RollOut::AllAtOnce,
            &Settings::default(),
        )
    };
    let two = json!({ "spec": { "ports": [{ "port": 80, "protocol": "TCP" }, { "port": 81, "protocol": "TCP" }] } });
    let (one, two) = (make(json!({})), make(two));
    let defaulted = patched(
        &two,
        json!({
            "metadata": { "generation": 1 },
            "spec": { "template": { "spec": { "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler" } } },
        }),
    );
    assert!(is_as_wanted(&DaemonSetFacts::from(&defaulted), &two));
    assert!(!is_as_wanted(&DaemonSetFacts::from(&defaulted), &one));
    assert!(!is_as_wanted(&DaemonSetFacts::from(&one), &two));
}
