//! Tolerations as text: a list in JSON or YAML, under core/v1's rules.

use k8s_openapi::api::core::v1::Toleration;
use serde_json::Value;
use thiserror::Error;

use crate::names;

/// The tolerations that every svclb pod has (ServiceLB's).
#[must_use]
pub fn built_in() -> Vec<Toleration> {
    let exists = |key: &str, effect: Option<&str>| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: effect.map(str::to_owned),
        ..Toleration::default()
    };
    vec![
        exists("node-role.kubernetes.io/master", Some("NoSchedule")),
        exists("node-role.kubernetes.io/control-plane", Some("NoSchedule")),
        exists("CriticalAddonsOnly", None),
    ]
}

/// What is wrong with a list of tolerations.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TolerationsError {
    /// Neither JSON nor YAML.
    #[error("no list of tolerations in JSON or YAML: {0}")]
    Syntax(String),
    /// An unknown operator.
    #[error("toleration {index}: operator {value:?} is neither Equal nor Exists")]
    Operator {
        /// Which, from 0.
        index: usize,
        /// What it says.
        value: String,
    },
    /// An unknown effect.
    #[error(
        "toleration {index}: effect {value:?} is neither NoSchedule, PreferNoSchedule nor NoExecute"
    )]
    Effect {
        /// Which, from 0.
        index: usize,
        /// What it says.
        value: String,
    },
    /// The key is no label key.
    #[error("toleration {index}: {value:?} is no key of a taint")]
    Key {
        /// Which, from 0.
        index: usize,
        /// What it says.
        value: String,
    },
    /// The value is no label value.
    #[error("toleration {index}: {value:?} is no value of a taint")]
    Value {
        /// Which, from 0.
        index: usize,
        /// What it says.
        value: String,
    },
    /// An empty key stands for all keys.
    #[error("toleration {index}: without a key the operator must be Exists")]
    KeyMissing {
        /// Which, from 0.
        index: usize,
    },
    /// `Exists` stands for all values.
    #[error("toleration {index}: with the operator Exists there must be no value")]
    ValueWithExists {
        /// Which, from 0.
        index: usize,
    },
    /// Only evictions wait.
    #[error("toleration {index}: tolerationSeconds needs the effect NoExecute")]
    Seconds {
        /// Which, from 0.
        index: usize,
    },
}

/// Parses a list in JSON or YAML. Empty text is an empty list; an empty operator becomes `Equal`.
pub fn parse(text: &str) -> Result<Vec<Toleration>, TolerationsError> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    // JSON is YAML too. By way of a value, since YAML for each type that is read costs a tenth of a megabyte of program.
    let value: Value = serde_saphyr::from_str(text)
        .map_err(|error| TolerationsError::Syntax(first_line(&error.to_string())))?;
    let list: Vec<Toleration> = serde_json::from_value(value)
        .map_err(|error| TolerationsError::Syntax(error.to_string()))?;
    list.into_iter()
        .enumerate()
        .map(|(index, toleration)| check(index, toleration))
        .collect()
}

fn check(index: usize, mut toleration: Toleration) -> Result<Toleration, TolerationsError> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    toleration.key = given(&toleration.key);
    toleration.value = given(&toleration.value);
    toleration.effect = given(&toleration.effect);
    let operator = given(&toleration.operator).unwrap_or_else(|| "Equal".to_owned());
    match operator.as_str() {
        "Exists" if toleration.value.is_some() => {
            return Err(TolerationsError::ValueWithExists { index });
        }
        "Equal" if toleration.key.is_none() => return Err(TolerationsError::KeyMissing { index }),
        "Exists" | "Equal" => {}
        _ => {
            return Err(TolerationsError::Operator {
                index,
                value: operator,
            });
        }
    }
    if let Some(value) = toleration
        .key
        .clone()
        .filter(|key| !names::is_label_key(key))
    {
        return Err(TolerationsError::Key { index, value });
    }
    if let Some(value) = toleration
        .value
        .clone()
        .filter(|value| !names::is_label_value(value))
    {
        return Err(TolerationsError::Value { index, value });
    }
    match toleration.effect.as_deref() {
        None | Some("NoSchedule" | "PreferNoSchedule" | "NoExecute") => {}
        Some(value) => {
            return Err(TolerationsError::Effect {
                index,
                value: value.to_owned(),
            });
        }
    }
    if toleration.toleration_seconds.is_some() && toleration.effect.as_deref() != Some("NoExecute")
    {
        return Err(TolerationsError::Seconds { index });
    }
    toleration.operator = Some(operator);
    Ok(toleration)
}

/// A YAML error draws the place below its message; an event has one line.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(text: &str) -> serde_json::Value {
        serde_json::to_value(parse(text).unwrap()).unwrap()
    }

    #[test]
    fn json_and_yaml_mean_the_same() {
        let expected =
            json!([{ "key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule" }]);
        assert_eq!(
            parsed(r#"[{"key": "a", "value": "b", "effect": "NoSchedule"}]"#),
            expected
        );
        assert_eq!(
            parsed("- key: a\n  operator: ''\n  value: b\n  effect: NoSchedule\n"),
            expected
        );
        assert_eq!(parsed("[{key: a, value: b, effect: NoSchedule}]"), expected);
    }

    #[test]
    fn nothing_is_an_empty_list() {
        assert_eq!(parsed(""), json!([]));
        assert_eq!(parsed("[]"), json!([]));
    }

    #[test]
    fn an_empty_key_with_exists_tolerates_everything() {
        assert_eq!(
            parsed("[{operator: Exists}]"),
            json!([{ "operator": "Exists" }])
        );
    }

    #[test]
    fn what_core_v1_refuses_is_refused() {
        let error = |text: &str| parse(text).unwrap_err();
        assert_eq!(
            error("[{value: b}]"),
            TolerationsError::KeyMissing { index: 0 }
        );
        assert_eq!(
            error("[{key: a}, {key: a, operator: Exists, value: b}]"),
            TolerationsError::ValueWithExists { index: 1 }
        );
        assert!(matches!(
            error("[{key: a, operator: Lt}]"),
            TolerationsError::Operator { .. }
        ));
        assert!(matches!(
            error("[{key: a, effect: Never}]"),
            TolerationsError::Effect { .. }
        ));
        assert!(matches!(
            error("[{key: 'a b'}]"),
            TolerationsError::Key { .. }
        ));
        assert!(matches!(
            error("[{key: a, value: 'b c'}]"),
            TolerationsError::Value { .. }
        ));
        assert_eq!(
            error("[{key: a, effect: NoSchedule, tolerationSeconds: 5}]"),
            TolerationsError::Seconds { index: 0 }
        );
        assert!(matches!(error("{"), TolerationsError::Syntax(_)));
        assert!(matches!(error("key: a"), TolerationsError::Syntax(_)));
    }
}
