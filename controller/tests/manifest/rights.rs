//! What the controller may do, and that it is its own account that may.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};

use serde_json::{Value, json};
use svclb_controller::names;

use super::{object, pod, set};

/// `verb group/resource`, with the names where a rule is for some alone.
fn rights(rules: Vec<PolicyRule>) -> BTreeSet<String> {
    let mut rights = BTreeSet::new();
    for rule in rules {
        let names = rule.resource_names.unwrap_or_default();
        for group in rule.api_groups.unwrap_or_default() {
            for resource in rule.resources.iter().flatten() {
                for verb in &rule.verbs {
                    let mut right = format!("{verb} {group}/{resource}");
                    if !names.is_empty() {
                        right = format!("{right} {}", names.join(","));
                    }
                    rights.insert(right);
                }
            }
        }
    }
    rights
}

#[test]
fn the_rights_are_the_least_that_do() {
    let everywhere: ClusterRole = object("ClusterRole", "svclb-controller");
    assert_eq!(
        rights(everywhere.rules.unwrap()),
        set(&[
            "list /services",
            "watch /services",
            "list /nodes",
            "watch /nodes",
            "list /pods",
            "watch /pods",
            "list discovery.k8s.io/endpointslices",
            "watch discovery.k8s.io/endpointslices",
            "list apps/daemonsets",
            "watch apps/daemonsets",
            "patch /services/status",
            "create events.k8s.io/events",
            "patch events.k8s.io/events",
        ])
    );
    let own_namespace: Role = object("Role", "svclb-controller");
    assert_eq!(
        rights(own_namespace.rules.unwrap()),
        set(&[
            "get apps/daemonsets",
            "create apps/daemonsets",
            "patch apps/daemonsets",
            "delete apps/daemonsets",
            "create /serviceaccounts",
            "get coordination.k8s.io/leases",
            "create coordination.k8s.io/leases",
            "patch coordination.k8s.io/leases",
        ])
    );
    let kube_proxy: Role = object("Role", "svclb-controller-kube-proxy");
    assert_eq!(
        rights(kube_proxy.rules.unwrap()),
        set(&[
            "list /configmaps kube-proxy",
            "watch /configmaps kube-proxy"
        ])
    );
}

#[test]
fn each_role_is_bound_to_the_controllers_account() {
    for (kind, role_kind, name) in [
        (
            "ClusterRoleBinding",
            "ClusterRole",
            names::FIELD_MANAGER.to_owned(),
        ),
        ("RoleBinding", "Role", names::FIELD_MANAGER.to_owned()),
        (
            "RoleBinding",
            "Role",
            format!("{}-kube-proxy", names::FIELD_MANAGER),
        ),
    ] {
        let binding: Value = object(kind, &name);
        assert_eq!(binding["roleRef"]["kind"], role_kind, "{name}");
        assert_eq!(binding["roleRef"]["name"], name);
        let account = pod().service_account_name.unwrap();
        assert_eq!(
            binding["subjects"],
            json!([{"kind": "ServiceAccount", "name": account, "namespace": "kube-system"}])
        );
    }
}
