//! A cluster for the core's tests: objects from JSON, and a model of the API server, the DaemonSet controller and the
//! scheduler, so that decisions have their effect.

mod cluster;
mod convergence;
mod objects;

pub(crate) use cluster::Cluster;
pub(crate) use objects::{at, key, mk_daemonset, mk_node, mk_pod, mk_service, mk_slice, patched};

use serde_json::Value;

/// Puts `patch` over `value`, as a JSON merge patch does (RFC 7386).
pub(crate) fn merge(value: &mut Value, patch: Value) {
    match (value, patch) {
        (Value::Object(object), Value::Object(patch)) => {
            for (key, patch) in patch {
                if patch.is_null() {
                    object.remove(&key);
                } else {
                    merge(object.entry(key).or_insert(Value::Null), patch);
                }
            }
        }
        (value, Value::Object(patch)) => {
            *value = Value::Object(serde_json::Map::new());
            merge(value, Value::Object(patch));
        }
        (value, patch) => *value = patch,
    }
}
