//! Which nodes a pod template admits: node selector, required node affinity, taints (core/v1's rules).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, PodSpec, Taint, Toleration,
};
use serde_json::json;

use crate::facts::NodeFacts;

/// What a pod template demands of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admission {
    selector: BTreeMap<String, String>,
    /// `None`: no required node affinity, so every node. An empty list admits none.
    terms: Option<Vec<NodeSelectorTerm>>,
    tolerations: Vec<Toleration>,
}

/// A taint's effect on a DaemonSet's pod that does not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repelled {
    /// `NoSchedule`: no new pod comes, a running one stays.
    NewPods,
    /// `NoExecute`: running pods are evicted too.
    AllPods,
}

impl From<&PodSpec> for Admission {
    fn from(spec: &PodSpec) -> Self {
        let affinity = spec
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.as_ref());
        let required = affinity.and_then(|node| {
            node.required_during_scheduling_ignored_during_execution
                .as_ref()
        });
        Self {
            selector: spec.node_selector.clone().unwrap_or_default(),
            terms: required.map(|required| required.node_selector_terms.clone()),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
        }
    }
}

impl Admission {
    /// All of it as text, to tell equal ones.
    pub(crate) fn to_json(&self) -> String {
        json!([self.selector, self.terms, self.tolerations]).to_string()
    }

    /// Do the node selector and the affinity admit the node? Taints left aside.
    #[must_use]
    pub fn admits(&self, node: &NodeFacts) -> bool {
        self.selector
            .iter()
            .all(|(key, value)| node.labels.get(key) == Some(value))
            && self
                .terms
                .as_ref()
                .is_none_or(|terms| terms.iter().any(|term| term_matches(term, node)))
    }

    /// The strongest taint of the node that pods of a DaemonSet with this template do not tolerate.
    #[must_use]
    pub fn repelled_by(&self, node: &NodeFacts) -> Option<Repelled> {
        node.taints
            .iter()
            .filter(|taint| {
                !self
                    .tolerations
                    .iter()
                    .any(|toleration| tolerates(toleration, taint))
            })
            .filter(|taint| !daemonset_controller_tolerates(taint))
            .filter_map(|taint| match taint.effect.as_str() {
                "NoExecute" => Some(Repelled::AllPods),
                "NoSchedule" => Some(Repelled::NewPods),
                _ => None,
            })
            .max()
    }
}

/// A term without expressions matches nothing (core/v1).
fn term_matches(term: &NodeSelectorTerm, node: &NodeFacts) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    (!expressions.is_empty() || !fields.is_empty())
        && expressions
            .iter()
            .all(|requirement| holds(requirement, node.labels.get(&requirement.key)))
        && fields.iter().all(|requirement| {
            requirement.key == "metadata.name" && holds(requirement, Some(&node.name))
        })
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let compares = |ordering| match (value, values.first()) {
        (Some(value), Some(bound)) => match (value.parse::<i64>(), bound.parse::<i64>()) {
            (Ok(value), Ok(bound)) => value.cmp(&bound) == ordering,
            _ => false,
        },
        _ => false,
    };
    match requirement.operator.as_str() {
        "In" => value.is_some_and(|value| values.contains(value)),
        // An absent label is not in any list.
        "NotIn" => value.is_none_or(|value| !values.contains(value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compares(std::cmp::Ordering::Greater),
        "Lt" => compares(std::cmp::Ordering::Less),
        _ => false,
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let key_fits = given(&toleration.key).is_none_or(|key| key == taint.key);
    let effect_fits = given(&toleration.effect).is_none_or(|effect| effect == taint.effect);
    key_fits
        && effect_fits
        && match toleration.operator.as_deref() {
            Some("Exists") => true,
            None | Some("" | "Equal") => {
                toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default()
            }
            Some(_) => false,
        }
}

/// What the DaemonSet controller adds to each of its pods (`AddOrUpdateDaemonPodTolerations`).
fn daemonset_controller_tolerates(taint: &Taint) -> bool {
    match taint.effect.as_str() {
        "NoExecute" => matches!(
            taint.key.as_str(),
            "node.kubernetes.io/not-ready" | "node.kubernetes.io/unreachable"
        ),
        "NoSchedule" => matches!(
            taint.key.as_str(),
            "node.kubernetes.io/disk-pressure"
                | "node.kubernetes.io/memory-pressure"
                | "node.kubernetes.io/pid-pressure"
                | "node.kubernetes.io/unschedulable"
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
