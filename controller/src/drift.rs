//! Is what is there what is wanted? Fields that we do not set are other people's.

use k8s_openapi::api::apps::v1::DaemonSet;
use serde_json::Value;

use crate::facts::{DaemonSetFacts, daemonset_content};
use crate::names;

/// Does the DaemonSet that is there hold all of `wanted`, and nothing that we wanted earlier?
#[must_use]
pub fn is_as_wanted(there: &DaemonSetFacts, wanted: &DaemonSet) -> bool {
    let applied = wanted
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(names::APPLIED));
    // Cheap, and the only trace of a field that was dropped.
    if there.applied.as_ref() != applied {
        return false;
    }
    let Some(text) = there.content.text() else {
        return true;
    };
    serde_json::from_str::<Value>(text)
        .is_ok_and(|there| holds(&there, &daemonset_content(wanted), ""))
}

/// Does `there` hold `wanted`? The API server adds its defaults, and others their fields and list entries.
fn holds(there: &Value, wanted: &Value, field: &str) -> bool {
    match (there, wanted) {
        (_, Value::Null) => true,
        (Value::Object(there), Value::Object(wanted)) => wanted.iter().all(|(key, wanted)| {
            wanted.is_null()
                || there
                    .get(key)
                    .is_some_and(|there| holds(there, wanted, key))
        }),
        (Value::Array(there), Value::Array(wanted)) => list_holds(there, wanted, field),
        (Value::String(there), Value::String(wanted)) => {
            there == wanted || same_quantity(there, wanted)
        }
        _ => there == wanted,
    }
}

/// Lists that server-side apply merges hold our entries among others'; all other lists are wholly ours.
fn list_holds(there: &[Value], wanted: &[Value], field: &str) -> bool {
    match merge_key(field) {
        Some(keys) => wanted.iter().all(|wanted| {
            there.iter().any(|there| {
                keys.iter().all(|key| there.get(*key) == wanted.get(*key))
                    && holds(there, wanted, "")
            })
        }),
        None => {
            there.len() == wanted.len()
                && there
                    .iter()
                    .zip(wanted)
                    .all(|(there, wanted)| holds(there, wanted, ""))
        }
    }
}

/// The `x-kubernetes-list-map-keys` of the lists that we set.
fn merge_key(field: &str) -> Option<&'static [&'static str]> {
    match field {
        "containers" | "initContainers" | "env" | "imagePullSecrets" | "sysctls" => Some(&["name"]),
        "ports" => Some(&["containerPort", "protocol"]),
        _ => None,
    }
}

/// The API server writes quantities its own way: `1024Mi` comes back as `1Gi`.
fn same_quantity(a: &str, b: &str) -> bool {
    matches!((quantity(a), quantity(b)), (Some(a), Some(b)) if a == b)
}

/// In thousandths, which is as fine as quantities of CPU and memory go.
fn quantity(text: &str) -> Option<i128> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let thousandths: i128 = match suffix {
        "m" => 1,
        "" => 1_000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut value = whole.parse::<i128>().ok()?.checked_mul(thousandths)?;
    if !fraction.is_empty() {
        let divisor = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        value += fraction.parse::<i128>().ok()?.checked_mul(thousandths)? / divisor;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_compared_by_value() {
        assert!(same_quantity("1024Mi", "1Gi"));
        assert!(same_quantity("0.5", "500m"));
        assert!(!same_quantity("32Mi", "32M"));
        assert!(!same_quantity("kube-system", "kube"));
    }

    #[test]
    fn defaults_and_others_entries_are_no_drift() {
        let wanted = json!({"containers": [{"name": "svclb", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]});
        let there = json!({
            "dnsPolicy": "ClusterFirst",
            "containers": [
                {"name": "theirs"},
                {"name": "svclb", "ports": [{"containerPort": 9, "protocol": "TCP"}, {"containerPort": 80, "protocol": "TCP"}]},
            ],
        });
        assert!(holds(&there, &wanted, ""));
        assert!(!holds(&wanted, &there, ""));
    }

    #[test]
    fn a_list_that_is_wholly_ours_must_be_the_same() {
        let wanted = json!({"tolerations": [{"key": "a"}]});
        assert!(holds(&json!({"tolerations": [{"key": "a"}]}), &wanted, ""));
        assert!(!holds(
            &json!({"tolerations": [{"key": "a"}, {"key": "b"}]}),
            &wanted,
            ""
        ));
        assert!(!holds(&json!({"tolerations": [{"key": "b"}]}), &wanted, ""));
    }
}
