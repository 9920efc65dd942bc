//! Carries out what was decided about one Service: its writes in their order, and what is told of them.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::conflict::{Holder, held_by};
use crate::decision::{DaemonSetStep, Decision, Event, FinalizerStep, StatusWrite};
use crate::facts::{Ingress, ServiceKey};
use crate::names::{FINALIZER, SERVICE_ACCOUNT};
use crate::recorder::{Recorder, Told};
use crate::write::{Error, TIMEOUT, Writer};

/// Pods in a page of the list that looks for a port's holder.
const PAGE: u32 = 25;

/// What became of a decision.
#[derive(Debug)]
pub struct Done {
    /// The Service.
    pub service: ServiceKey,
    /// The addresses that its status holds now, if they were written.
    pub written: Option<Vec<Ingress>>,
    /// The DaemonSets that were created or applied.
    pub sent: Vec<String>,
    /// Those that were to be, and were not.
    pub not_sent: Vec<String>,
    /// The UIDs of those that were to be deleted, and were not.
    pub not_deleted: Vec<String>,
    /// The first write that failed; those after it were not tried.
    pub result: Result<(), Error>,
}

impl Done {
    /// Nothing of the decision has been written yet.
    pub(crate) fn of(service: ServiceKey, decision: &Decision) -> Self {
        let steps = || decision.daemonsets.iter();
        Self {
            service,
            written: None,
            sent: Vec::new(),
            not_sent: steps().filter_map(sent_name).map(str::to_owned).collect(),
            not_deleted: steps().filter_map(deleted_uid).map(str::to_owned).collect(),
            result: Ok(()),
        }
    }

    /// The step has been accepted.
    pub(crate) fn step_done(&mut self, step: &DaemonSetStep) {
        if let Some(name) = sent_name(step) {
            self.not_sent.retain(|waiting| waiting != name);
            self.sent.push(name.to_owned());
        }
        if let Some(uid) = deleted_uid(step) {
            self.not_deleted.retain(|waiting| waiting != uid);
        }
    }
}

/// Writes, and tells.
#[derive(Clone)]
pub struct Hands {
    writer: Writer,
    recorder: Recorder,
}

impl Hands {
    /// By that writer, and with that recorder.
    pub fn new(writer: Writer, recorder: Recorder) -> Self {
        Self { writer, recorder }
    }

    /// Does everything that `decision` says, up to the first write that fails. `uid` is the Service's.
    pub async fn carry_out(self, service: ServiceKey, uid: String, decision: Decision) -> Done {
        let mut done = Done::of(service, &decision);
        done.result = self.steps(&mut done, &uid, decision).await;
        done
    }

    async fn steps(&self, done: &mut Done, uid: &str, decision: Decision) -> Result<(), Error> {
        let service = done.service.clone();
        if let FinalizerStep::Add { uid } = &decision.finalizer {
            let patch = json!({"metadata": {"finalizers": [FINALIZER]}});
            self.patch(&service, uid, patch).await?;
        }
        for step in decision.daemonsets {
            if let Some(event) = self.daemonset(&step).await? {
                self.tell(&service, uid, event);
            }
            done.step_done(&step);
        }
        if let Some(write) = decision.status {
            self.patch(&service, &write.uid, status_patch(&write))
                .await?;
            done.written = write.ingress;
            if let Some(event) = write.event {
                self.tell(&service, &write.uid, event);
            }
        }
        if let FinalizerStep::Remove { uid } = &decision.finalizer {
            let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
            self.patch(&service, uid, patch).await?;
        }
        Ok(())
    }

    async fn daemonset(&self, step: &DaemonSetStep) -> Result<Option<Event>, Error> {
        match step {
            DaemonSetStep::Create { object, event } => {
                self.writer.create_daemonset(object).await?;
                Ok(Some(event.clone()))
            }
            DaemonSetStep::Apply { uid, object, event } => {
                self.writer.apply_daemonset(object, uid).await?;
                Ok(Some(event.clone()))
            }
            DaemonSetStep::Delete {
                name, uid, event, ..
            } => {
                self.writer.delete_daemonset(name, uid).await?;
                Ok(event.clone())
            }
        }
    }

    async fn patch(&self, service: &ServiceKey, uid: &str, patch: Value) -> Result<(), Error> {
        let ServiceKey { namespace, name } = service;
        self.writer
            .patch_service_status(namespace, name, uid, patch)
            .await
    }

    /// Makes sure that the svclb pods have their ServiceAccount.
    pub async fn ensure_account(&self, namespace: &str) -> Result<(), Error> {
        self.writer
            .create_service_account(namespace, SERVICE_ACCOUNT)
            .await
    }

    /// Tells something about the Service.
    pub fn tell(&self, service: &ServiceKey, uid: &str, event: Event) {
        self.recorder.tell(Told {
            service: service.clone(),
            uid: uid.to_owned(),
            event,
        });
    }
}

/// The name of a DaemonSet whose ports count as claimed while the step is under way.
fn sent_name(step: &DaemonSetStep) -> Option<&str> {
    match step {
        DaemonSetStep::Create { object, .. } | DaemonSetStep::Apply { object, .. } => {
            object.metadata.name.as_deref()
        }
        DaemonSetStep::Delete { .. } => None,
    }
}

fn deleted_uid(step: &DaemonSetStep) -> Option<&str> {
    match step {
        DaemonSetStep::Delete { uid, .. } => Some(uid),
        DaemonSetStep::Create { .. } | DaemonSetStep::Apply { .. } => None,
    }
}

/// A strategic merge patch: conditions of other types stay, `ingress` is replaced as a whole.
fn status_patch(write: &StatusWrite) -> Value {
    let mut status = json!({});
    if let Some(ingress) = &write.ingress {
        status["loadBalancer"] = match ingress.as_slice() {
            [] => json!({"ingress": null}),
            entries => json!({"ingress": entries.iter().map(entry).collect::<Vec<_>>()}),
        };
    }
    let set = write
        .set_conditions
        .iter()
        .map(|condition| json!(condition));
    let clear = write
        .clear_conditions
        .iter()
        .map(|kind| json!({"$patch": "delete", "type": kind}));
    let conditions: Vec<_> = set.chain(clear).collect();
    if !conditions.is_empty() {
        status["conditions"] = Value::from(conditions);
    }
    json!({"metadata": {}, "status": status})
}

fn entry(ingress: &Ingress) -> Value {
    match ingress.ip_mode {
        Some(mode) => json!({"ip": ingress.address, "ipMode": mode.as_str()}),
        None => json!({"hostname": ingress.address}),
    }
}

/// What the pods on a node hold there: one list in pages, and no watch over all pods.
pub async fn find_holders(client: Client, node: &str) -> Result<BTreeSet<Holder>, Error> {
    let action = format!("list the pods on node {node}");
    let pods = Api::<Pod>::all(client);
    let mut parameters = ListParams::default()
        .fields(&format!("spec.nodeName={node}"))
        .limit(PAGE);
    let mut holders = BTreeSet::new();
    loop {
        let page = match timeout(TIMEOUT, pods.list(&parameters)).await {
            Ok(Ok(page)) => page,
            Ok(Err(source)) => return Err(Error::of(action, source)),
            Err(_) => return Err(Error::NoAnswer { action }),
        };
        holders.extend(page.items.iter().flat_map(held_by));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(holders),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;
    use crate::settings::IpMode;

    fn write() -> StatusWrite {
        StatusWrite {
            uid: "1".to_owned(),
            ingress: None,
            set_conditions: Vec::new(),
            clear_conditions: Vec::new(),
            event: None,
        }
    }

    #[test]
    fn addresses_are_written_with_their_mode_and_the_conditions_are_left_alone() {
        let write = StatusWrite {
            ingress: Some(vec![Ingress {
                address: "192.0.2.1".to_owned(),
                ip_mode: Some(IpMode::Proxy),
            }]),
            ..write()
        };
        let expected =
            json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "Proxy"}]}});
        assert_eq!(status_patch(&write)["status"], expected);
    }

    #[test]
    fn no_address_clears_the_list() {
        let write = StatusWrite {
            ingress: Some(Vec::new()),
            ..write()
        };
        assert_eq!(
            status_patch(&write)["status"],
            json!({"loadBalancer": {"ingress": null}})
        );
    }

    #[test]
    fn conditions_are_set_and_removed_by_their_type() {
        let write = StatusWrite {
            set_conditions: vec![Condition {
                last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
                message: "m".to_owned(),
                observed_generation: None,
                reason: "R".to_owned(),
                status: "True".to_owned(),
                type_: "A".to_owned(),
            }],
            clear_conditions: vec!["B"],
            ..write()
        };
        assert_eq!(
            status_patch(&write)["status"],
            json!({"conditions": [
                {
                    "type": "A",
                    "status": "True",
                    "reason": "R",
                    "message": "m",
                    "lastTransitionTime": "1970-01-01T00:00:00Z",
                },
                {"$patch": "delete", "type": "B"},
            ]})
        );
    }
}
