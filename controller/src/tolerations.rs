//! Tolerations as text: a list in JSON or YAML, under core/v1's rules.

use k8s_openapi::api::core::v1::Toleration;
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
    let list: Vec<Toleration> = serde_json::from_str(text)
        .or_else(|_| serde_saphyr::from_str(text))
        .map_err(|error| TolerationsError::Syntax(first_line(&error.to_string())))?;
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
