//! Writes to the API server: each a single request with a deadline, a precondition on the object's UID and a count.
//!
//! A DaemonSet is created by POST, which never merges with one that somebody else made under the same name
//! meanwhile. POST books the fields as an `Update` of our manager, and server-side apply would leave a field that it
//! no longer names to that entry: a removed port would stay. So before the first apply the entry is turned into
//! the one of `Apply` (client-go calls this csaupgrade).

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Service, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::{Api, Client};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::timeout;

use crate::metrics::{Kind, Metrics, Outcome};
use crate::names::FIELD_MANAGER;

/// After this a write counts as failed. It may still take effect, which the watch then shows.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a write did not happen.
#[derive(Debug, Error)]
pub enum Error {
    /// The object was changed, removed or made anew by somebody else.
    #[error("{action}: it has changed meanwhile")]
    Conflict {
        /// Verb and object.
        action: String,
        /// The API server's answer.
        #[source]
        source: kube::Error,
    },
    /// The API server did not like it.
    #[error("{action}: refused")]
    Refused {
        /// Verb and object.
        action: String,
        /// The API server's answer.
        #[source]
        source: kube::Error,
    },
    /// The API server could not be reached.
    #[error("{action}")]
    Unreachable {
        /// Verb and object.
        action: String,
        /// What happened.
        #[source]
        source: kube::Error,
    },
    /// The API server did not answer within [`TIMEOUT`].
    #[error("{action}: no answer within {} s", TIMEOUT.as_secs())]
    NoAnswer {
        /// Verb and object.
        action: String,
    },
}

impl Error {
    pub(crate) fn of(action: String, source: kube::Error) -> Self {
        match &source {
            kube::Error::Api(status) if matches!(status.code, 404 | 409) => {
                Self::Conflict { action, source }
            }
            kube::Error::Api(_) => Self::Refused { action, source },
            _ => Self::Unreachable { action, source },
        }
    }

    /// Somebody else was faster: the watch brings what there is now.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// The API server gave an answer that stays the same however often it is asked.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Conflict { .. } => true,
            // 429 and 5xx pass.
            Self::Refused { source, .. } => {
                matches!(source, kube::Error::Api(status) if status.code < 500 && status.code != 429)
            }
            Self::Unreachable { .. } | Self::NoAnswer { .. } => false,
        }
    }
}

/// Writes objects, in the name of [`FIELD_MANAGER`].
#[derive(Clone)]
pub struct Writer {
    client: Client,
    daemonsets: Api<DaemonSet>,
    metrics: Arc<Metrics>,
}

impl Writer {
    /// DaemonSets are written in `namespace`.
    pub fn new(client: Client, namespace: &str, metrics: Arc<Metrics>) -> Self {
        Self {
            daemonsets: Api::namespaced(client.clone(), namespace),
            client,
            metrics,
        }
    }

    /// Creates a DaemonSet, or fails with a conflict if one of that name is there.
    pub async fn create_daemonset(&self, daemonset: &DaemonSet) -> Result<(), Error> {
        let parameters = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let action = format!("create DaemonSet {}", name_of(&daemonset.metadata));
        let request = self.daemonsets.create(&parameters, daemonset);
        send(&self.metrics, Kind::DaemonSet, action, request).await
    }

    /// Applies a DaemonSet over the one of ours with that UID.
    pub async fn apply_daemonset(&self, daemonset: &DaemonSet, uid: &str) -> Result<(), Error> {
        let name = name_of(&daemonset.metadata);
        self.own_by_apply(&name, uid).await?;
        let mut daemonset = daemonset.clone();
        daemonset.metadata.uid = Some(uid.to_owned());
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(&daemonset);
        let request = self.daemonsets.patch(&name, &parameters, &patch);
        let action = format!("apply DaemonSet {name}");
        send(&self.metrics, Kind::DaemonSet, action, request).await
    }

    /// Turns the `Update` entry that creation left into `Apply`, if it is still there.
    async fn own_by_apply(&self, name: &str, uid: &str) -> Result<(), Error> {
        let action = format!("read who manages DaemonSet {name}");
        let found = match timeout(TIMEOUT, self.daemonsets.get_metadata(name)).await {
            Ok(Ok(found)) => found.metadata,
            Ok(Err(source)) => return Err(Error::of(action, source)),
            Err(_) => return Err(Error::NoAnswer { action }),
        };
        let Some(entries) = applied_entries(found.managed_fields.unwrap_or_default()) else {
            return Ok(());
        };
        let patch = Patch::Merge(json!({"metadata": {
            "uid": uid,
            "resourceVersion": found.resource_version,
            "managedFields": entries,
        }}));
        let action = format!("take over the fields of DaemonSet {name}");
        let parameters = merge();
        let request = self.daemonsets.patch(name, &parameters, &patch);
        send(&self.metrics, Kind::DaemonSet, action, request).await
    }

    /// Deletes the DaemonSet with that UID, its pods after it. One that is gone already is no error.
    pub async fn delete_daemonset(&self, name: &str, uid: &str) -> Result<(), Error> {
        let parameters = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                ..Preconditions::default()
            }),
            ..DeleteParams::default()
        };
        let action = format!("delete DaemonSet {name}");
        let request = self.daemonsets.delete(name, &parameters);
        match send(&self.metrics, Kind::DaemonSet, action, request).await {
            Err(Error::Conflict { source, .. }) if is_not_found(&source) => Ok(()),
            other => other,
        }
    }

    /// Patches a Service's status subresource. `patch` is a strategic merge patch: lists of conditions and
    /// finalizers merge, so that what other controllers put there meanwhile stays.
    pub async fn patch_service_status(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        mut patch: Value,
    ) -> Result<(), Error> {
        patch["metadata"]["uid"] = Value::from(uid);
        let services = Api::<Service>::namespaced(self.client.clone(), namespace);
        let action = format!("patch the status of Service {namespace}/{name}");
        let parameters = merge();
        let patch = Patch::Strategic(patch);
        let request = services.patch_status(name, &parameters, &patch);
        send(&self.metrics, Kind::ServiceStatus, action, request).await
    }

    /// Creates the ServiceAccount of the svclb pods, unless it is there. It carries no token and no right.
    pub async fn create_service_account(&self, namespace: &str, name: &str) -> Result<(), Error> {
        let account = ServiceAccount {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                ..ObjectMeta::default()
            },
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        };
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let parameters = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let action = format!("create ServiceAccount {namespace}/{name}");
        let request = accounts.create(&parameters, &account);
        match send(&self.metrics, Kind::ServiceAccount, action, request).await {
            Err(Error::Conflict { .. }) => Ok(()),
            other => other,
        }
    }
}

/// Sends one request within [`TIMEOUT`] and counts what became of it.
pub(crate) async fn send<T>(
    metrics: &Metrics,
    kind: Kind,
    action: String,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<(), Error> {
    let started = Instant::now();
    let result = match timeout(TIMEOUT, request).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(source)) => Err(Error::of(action, source)),
        Err(_) => Err(Error::NoAnswer { action }),
    };
    let outcome = match &result {
        Ok(()) => Outcome::Ok,
        Err(error) if error.is_conflict() => Outcome::Conflict,
        Err(_) => Outcome::Error,
    };
    metrics.written(kind, outcome, started.elapsed());
    result
}

/// The entries with our `Update` of the object itself turned into `Apply`; nothing if there is none.
fn applied_entries(mut entries: Vec<ManagedFieldsEntry>) -> Option<Vec<ManagedFieldsEntry>> {
    let is = |entry: &ManagedFieldsEntry, operation: &str| {
        entry.manager.as_deref() == Some(FIELD_MANAGER)
            && entry.operation.as_deref() == Some(operation)
            && entry.subresource.as_deref().unwrap_or_default().is_empty()
    };
    let created = entries.iter().position(|entry| is(entry, "Update"))?;
    if entries.iter().any(|entry| is(entry, "Apply")) {
        // An apply happened before: its entry names every field that the next one may drop.
        entries.remove(created);
    } else if let Some(entry) = entries.get_mut(created) {
        entry.operation = Some("Apply".to_owned());
    }
    Some(entries)
}

fn merge() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

fn name_of(metadata: &ObjectMeta) -> String {
    metadata.name.clone().unwrap_or_default()
}

fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, operation: &str, subresource: Option<&str>) -> ManagedFieldsEntry {
        ManagedFieldsEntry {
            manager: Some(manager.to_owned()),
            operation: Some(operation.to_owned()),
            subresource: subresource.map(str::to_owned),
            ..ManagedFieldsEntry::default()
        }
    }

    #[test]
    fn what_creation_left_becomes_the_entry_of_apply() {
        let status = entry("kube-controller-manager", "Update", Some("status"));
        let entries = vec![entry(FIELD_MANAGER, "Update", None), status.clone()];
        assert_eq!(
            applied_entries(entries),
            Some(vec![entry(FIELD_MANAGER, "Apply", None), status])
        );
    }

    #[test]
    fn nothing_is_to_be_done_once_the_fields_are_owned_by_apply() {
        let entries = vec![
            entry(FIELD_MANAGER, "Apply", None),
            entry("kubectl-edit", "Update", None),
        ];
        assert_eq!(applied_entries(entries), None);
    }

    #[test]
    fn an_update_beside_an_apply_is_dropped() {
        let apply = entry(FIELD_MANAGER, "Apply", None);
        let entries = vec![apply.clone(), entry(FIELD_MANAGER, "Update", None)];
        assert_eq!(applied_entries(entries), Some(vec![apply]));
    }
}
