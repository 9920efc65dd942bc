//! `manifests/svclb.yaml`, compared with what the controller needs, and checked against each way in which k3s or a
//! cluster could trip over it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod rights;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, PodSpec, ServiceAccount, Taint, Toleration};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use svclb_controller::flags::{Command, Flags};
use svclb_controller::names;
use svclb_controller::settings::Settings;

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/svclb.yaml")
}

fn text() -> String {
    std::fs::read_to_string(path()).expect("read the manifest")
}

fn objects() -> Vec<Value> {
    serde_saphyr::from_multiple(&text()).expect("parse the manifest")
}

/// The one object of this kind and name, as its type.
fn object<T: DeserializeOwned>(kind: &str, name: &str) -> T {
    let mut found: Vec<Value> = objects()
        .into_iter()
        .filter(|object| object["kind"] == kind && object["metadata"]["name"] == name)
        .collect();
    assert_eq!(found.len(), 1, "{kind} {name}");
    serde_json::from_value(found.remove(0)).unwrap_or_else(|error| panic!("{kind} {name}: {error}"))
}

fn deployment() -> Deployment {
    object("Deployment", "svclb-controller")
}

fn pod() -> PodSpec {
    deployment().spec.unwrap().template.spec.unwrap()
}

fn container() -> Container {
    let mut containers = pod().containers;
    assert_eq!(containers.len(), 1);
    containers.remove(0)
}

fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(|&item| item.to_owned()).collect()
}

/// Every key of a mapping anywhere in it.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                found.insert(key.clone());
                keys(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
        _ => {}
    }
}

fn all_keys() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for object in objects() {
        keys(&object, &mut found);
    }
    found
}

#[test]
fn k3s_does_not_delete_the_file_with_servicelb() {
    // The deploy controller removes `<disabled>.yaml` and whatever lies in a folder `<disabled>/`.
    let path = path().canonicalize().unwrap();
    let addon = path.file_name().unwrap().to_str().unwrap();
    assert_eq!(addon, "svclb.yaml");
    assert_ne!(path.parent().unwrap().file_name().unwrap(), "servicelb");
}

#[test]
fn k3s_does_not_delete_what_is_in_it_with_servicelb() {
    let keys = all_keys();
    for mark in names::SERVICELB_MARKS {
        assert!(!keys.contains(mark), "{mark}");
    }
    for object in objects() {
        assert_ne!(object["metadata"]["name"], "servicelb");
    }
}

#[test]
fn k3s_would_replace_no_template_in_it() {
    // `%{NAME}%` is filled in for k3s' own manifests alone: here it would stay as it is.
    assert!(!text().contains("%{"));
}

#[test]
fn it_asks_the_kubelet_for_no_unsafe_sysctl_and_the_node_for_nothing() {
    let keys = all_keys();
    for key in [
        "sysctls",
        "hostNetwork",
        "hostPID",
        "hostPort",
        "hostPath",
        "privileged",
        "add",
    ] {
        assert!(!keys.contains(key), "{key}");
    }
}

#[test]
fn these_objects_and_no_others_are_in_it() {
    let found: Vec<String> = objects()
        .iter()
        .map(|object| {
            let field = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            let metadata = &object["metadata"];
            let namespace = field(&metadata["namespace"]);
            format!(
                "{} {namespace} {}",
                field(&object["kind"]),
                field(&metadata["name"])
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            "ServiceAccount kube-system svclb-controller",
            "ServiceAccount kube-system svclb",
            "PriorityClass - svclb",
            "ClusterRole - svclb-controller",
            "ClusterRoleBinding - svclb-controller",
            "Role kube-system svclb-controller",
            "RoleBinding kube-system svclb-controller",
            "Role kube-system svclb-controller-kube-proxy",
            "RoleBinding kube-system svclb-controller-kube-proxy",
            "Deployment kube-system svclb-controller",
        ]
    );
}

#[test]
fn svclb_pods_never_evict_another_pod() {
    let class: PriorityClass = object("PriorityClass", names::PRIORITY_CLASS);
    assert_eq!(class.preemption_policy.as_deref(), Some("Never"));
    assert_eq!(class.value, 1_000_000_000);
    assert_ne!(class.global_default, Some(true));
}

#[test]
fn svclb_pods_get_no_token() {
    let account: ServiceAccount = object("ServiceAccount", names::SERVICE_ACCOUNT);
    assert_eq!(account.automount_service_account_token, Some(false));
}

#[test]
fn the_images_are_those_of_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        container().image.unwrap(),
        format!("localhost/svclb-controller:{version}")
    );
    let variable = container()
        .env
        .unwrap()
        .into_iter()
        .find(|variable| variable.name == "SVCLB_POD_IMAGE")
        .unwrap();
    assert_eq!(variable.value.unwrap(), Settings::default().image);
    assert_eq!(
        container().image_pull_policy.as_deref(),
        Some("IfNotPresent")
    );
}

#[test]
fn every_variable_of_the_deployment_is_a_flags() {
    let command = Flags::command();
    let known: BTreeSet<&str> = command
        .get_arguments()
        .filter_map(|argument| argument.get_env()?.to_str())
        .collect();
    for variable in container().env.unwrap() {
        assert!(
            known.contains(variable.name.as_str()),
            "{} is not one of {known:?}",
            variable.name
        );
    }
    assert_eq!(container().args, None);
}

#[test]
fn the_probes_ask_where_the_controller_answers() {
    let command = Flags::command();
    let address = command
        .get_arguments()
        .find(|argument| argument.get_id() == "metrics_address")
        .and_then(|argument| argument.get_default_values().first()?.to_str())
        .unwrap();
    let address: std::net::SocketAddr = address.parse().unwrap();
    let container = container();
    let ports = serde_json::to_value(container.ports.unwrap()).unwrap();
    assert_eq!(
        ports,
        json!([{"name": "metrics", "containerPort": address.port()}])
    );
    for (probe, path) in [
        (container.liveness_probe, "/healthz"),
        (container.readiness_probe, "/readyz"),
    ] {
        let action = serde_json::to_value(probe.unwrap().http_get).unwrap();
        assert_eq!(action, json!({"path": path, "port": "metrics"}));
    }
}

#[test]
fn the_controller_runs_with_the_least_privilege() {
    assert_eq!(
        serde_json::to_value(pod().security_context).unwrap(),
        json!({
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        })
    );
    assert_eq!(
        serde_json::to_value(container().security_context).unwrap(),
        json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        })
    );
}

/// As the scheduler and the taint manager judge it (core/v1's `ToleratesTaint`).
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let same = |wanted: &Option<String>, actual: &str| {
        wanted.as_deref().is_none_or(|wanted| wanted == actual)
    };
    same(&toleration.effect, &taint.effect)
        && same(&toleration.key, &taint.key)
        && (toleration.operator.as_deref() == Some("Exists")
            || toleration.value.clone().unwrap_or_default()
                == taint.value.clone().unwrap_or_default())
}

#[test]
fn it_tolerates_what_a_k3s_server_may_be_tainted_with() {
    let taint = |key: &str, value: &str, effect: &str| Taint {
        key: key.to_owned(),
        value: Some(value.to_owned()),
        effect: effect.to_owned(),
        time_added: None,
    };
    let tolerations = pod().tolerations.unwrap();
    for tolerated in [
        taint(
            "node-role.kubernetes.io/control-plane",
            "true",
            "NoSchedule",
        ),
        taint("node-role.kubernetes.io/master", "true", "NoSchedule"),
        // What k3s' documentation taints servers with to keep users' pods away.
        taint("CriticalAddonsOnly", "true", "NoExecute"),
    ] {
        let by = tolerations
            .iter()
            .find(|toleration| tolerates(toleration, &tolerated));
        let by = by.unwrap_or_else(|| panic!("{tolerated:?}"));
        assert_eq!(by.toleration_seconds, None, "{tolerated:?}");
    }
}

#[test]
fn it_leaves_a_dead_node_within_seconds() {
    let tolerations = pod().tolerations.unwrap();
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let toleration = tolerations
            .iter()
            .find(|toleration| toleration.key.as_deref() == Some(key))
            .unwrap_or_else(|| panic!("{key}"));
        assert_eq!(toleration.effect.as_deref(), Some("NoExecute"), "{key}");
        let seconds = toleration.toleration_seconds.unwrap();
        assert!((1..=10).contains(&seconds), "{key}: {seconds}");
    }
}

#[test]
fn a_new_controller_is_ready_before_the_old_one_goes() {
    let spec = deployment().spec.unwrap();
    assert_eq!(spec.replicas, Some(1));
    assert_eq!(
        serde_json::to_value(spec.strategy).unwrap(),
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}})
    );
}

#[test]
fn the_deployment_selects_its_own_pods() {
    let spec = deployment().spec.unwrap();
    let labels = spec.template.metadata.unwrap().labels.unwrap();
    let selector = spec.selector.match_labels.unwrap();
    assert!(!selector.is_empty());
    for (key, value) in &selector {
        assert_eq!(labels.get(key), Some(value), "{key}");
    }
    for constraint in pod().topology_spread_constraints.unwrap() {
        assert_eq!(
            constraint.label_selector.unwrap().match_labels.as_ref(),
            Some(&selector)
        );
    }
}

#[test]
fn the_release_job_runs_as_the_deployments_pods_do() {
    let path = path().with_file_name("release.yaml");
    let text = std::fs::read_to_string(path).expect("read the Job's manifest");
    let job: Job = serde_saphyr::from_str(&text).expect("parse the Job's manifest");
    let job = job.spec.unwrap().template.spec.unwrap();
    let released = &job.containers[0];
    let arguments = released.args.clone().unwrap();
    let flags = Flags::try_parse_from([&["svclb-controller".to_owned()], &arguments[..]].concat());
    assert_eq!(flags.unwrap().command, Some(Command::Release));

    let (pod, container) = (pod(), container());
    assert_eq!(job.service_account_name, pod.service_account_name);
    assert_eq!(job.security_context, pod.security_context);
    assert_eq!(job.node_selector, pod.node_selector);
    assert_eq!(released.image, container.image);
    assert_eq!(released.image_pull_policy, container.image_pull_policy);
    assert_eq!(released.security_context, container.security_context);
    assert_eq!(released.resources, container.resources);
}

#[test]
fn memory_is_limited_and_the_processor_is_not() {
    let resources = container().resources.unwrap();
    assert!(resources.requests.unwrap().contains_key("memory"));
    let limits = resources.limits.unwrap();
    assert!(limits.contains_key("memory") && !limits.contains_key("cpu"));
}
