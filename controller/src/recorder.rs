//! Events on Services, by events.k8s.io/v1: one object for what is told, and a series on it where it is told again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as Object;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::decision::Event;
use crate::facts::ServiceKey;
use crate::metrics::{Kind, Metrics};
use crate::names::FIELD_MANAGER;
use crate::write::{self, send};

/// How many events may wait for the API server. Three for each of a thousand Services created at once fit.
const WAITING: usize = 4096;

/// The API's limit on `note`, in bytes.
const LONGEST_NOTE: usize = 1024;

/// After this an event is not told any more: it would be news no longer.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// An event that has not been told again for as long is not there any more: API servers keep one for an hour.
const GONE_AFTER: Duration = Duration::from_hours(2);

/// The first pause after a failure; each further one is twice as long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An event, and what it is about.
#[derive(Clone, Debug)]
pub struct Told {
    /// The Service.
    pub service: ServiceKey,
    /// Its UID: `kubectl describe` shows the events of that one alone.
    pub uid: String,
    /// What is told.
    pub event: Event,
}

/// Hands events to the task that writes them, one after the other: nothing else waits for an event.
#[derive(Clone, Debug)]
pub struct Recorder {
    waiting: mpsc::Sender<Told>,
}

/// The task that writes events.
pub struct Scribe {
    client: Client,
    metrics: Arc<Metrics>,
    identity: String,
    waiting: mpsc::Receiver<Told>,
    /// Where a Warning was told first and when last, by the Service's UID and the reason.
    series: HashMap<(String, &'static str), (String, Instant)>,
    told: u64,
}

/// `identity` is the replica that tells.
pub fn recorder(client: Client, metrics: Arc<Metrics>, identity: String) -> (Recorder, Scribe) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let scribe = Scribe {
        client,
        metrics,
        identity,
        waiting: receiver,
        series: HashMap::new(),
        told: 0,
    };
    (Recorder { waiting: sender }, scribe)
}

impl Recorder {
    /// Logs the event, and has it written when its turn comes.
    pub fn tell(&self, told: Told) {
        let Told {
            service,
            event: Event { reason, note, .. },
            ..
        } = &told;
        if told.event.warning {
            tracing::warn!(%service, reason, "{note}");
        } else {
            tracing::info!(%service, reason, "{note}");
        }
        if self.waiting.try_send(told).is_err() {
            tracing::warn!("too many events wait for the API server: one is left out");
        }
    }
}

impl Scribe {
    /// Writes what is told, until nobody can tell anything any more.
    pub async fn run(mut self) {
        while let Some(told) = self.waiting.recv().await {
            self.write(&told).await;
        }
    }

    async fn write(&mut self, told: &Told) {
        let started = Instant::now();
        let mut pause = RETRY_AFTER;
        loop {
            match self.try_write(told).await {
                Ok(()) => return,
                Err(error) if error.is_final() || started.elapsed() > GIVE_UP_AFTER => {
                    let service = &told.service;
                    tracing::debug!(%service, error = &error as &dyn std::error::Error, "event left out");
                    return;
                }
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause *= 2;
        }
    }

    async fn try_write(&mut self, told: &Told) -> Result<(), write::Error> {
        let key = (told.uid.clone(), told.event.reason);
        if told.event.repeated > 0
            && let Some((name, last)) = self.series.get_mut(&key)
        {
            *last = Instant::now();
            let name = name.clone();
            match self.repeat(told, &name).await {
                // It has ended its hour: begin another.
                Err(error) if error.is_conflict() => {}
                other => return other,
            }
        }
        self.told += 1;
        let name = event_name(&told.service.name, Timestamp::now(), self.told);
        self.create(told, &name).await?;
        if told.event.warning {
            self.series
                .retain(|_, (_, last)| last.elapsed() < GONE_AFTER);
            self.series.insert(key, (name, Instant::now()));
        }
        Ok(())
    }

    async fn create(&self, told: &Told, name: &str) -> Result<(), write::Error> {
        let event = object(told, name, &self.identity, Timestamp::now());
        let parameters = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let events = self.events(told);
        let action = format!("create event {}/{name}", told.service.namespace);
        let request = events.create(&parameters, &event);
        send(&self.metrics, Kind::Event, action, request).await
    }

    async fn repeat(&self, told: &Told, name: &str) -> Result<(), write::Error> {
        let patch = Patch::Merge(json!({"series": {
            "count": told.event.repeated.saturating_add(1),
            "lastObservedTime": MicroTime(Timestamp::now()),
        }}));
        let parameters = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let events = self.events(told);
        let action = format!("repeat event {}/{name}", told.service.namespace);
        let request = events.patch(name, &parameters, &patch);
        send(&self.metrics, Kind::Event, action, request).await
    }

    fn events(&self, told: &Told) -> Api<Object> {
        Api::namespaced(self.client.clone(), &told.service.namespace)
    }
}

fn object(told: &Told, name: &str, identity: &str, now: Timestamp) -> Object {
    let Told {
        service,
        uid,
        event,
    } = told;
    Object {
        metadata: ObjectMeta {
            namespace: Some(service.namespace.clone()),
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(event.reason.to_owned()),
        action: Some(event.reason.to_owned()),
        note: Some(shortened(&event.note, LONGEST_NOTE)),
        regarding: Some(ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: Some(service.namespace.clone()),
            name: Some(service.name.clone()),
            uid: Some(uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(FIELD_MANAGER.to_owned()),
        reporting_instance: Some(shortened(identity, 128)),
        ..Object::default()
    }
}

/// A name as client-go makes it: unique by the time, and by a number for two of one nanosecond.
fn event_name(service: &str, now: Timestamp, number: u64) -> String {
    format!("{service}.{:x}.{number:x}", now.as_nanosecond())
}

/// At most `longest` bytes, an ellipsis at the end if something was cut.
fn shortened(text: &str, longest: usize) -> String {
    const ELLIPSIS: &str = "…";
    if text.len() <= longest {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(longest.saturating_sub(ELLIPSIS.len()));
    format!("{}{ELLIPSIS}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_at_a_character_and_within_the_apis_limit() {
        assert_eq!(shortened("short", 5), "short");
        assert_eq!(shortened("longer", 5), "lo…");
        assert_eq!(shortened("ééééé", 8), "éé…");
        let cut = shortened(&"é".repeat(1000), LONGEST_NOTE);
        assert!(
            cut.len() <= LONGEST_NOTE && cut.ends_with('…'),
            "{}",
            cut.len()
        );
    }

    #[test]
    fn an_event_is_about_its_service_and_says_who_tells_it() {
        let told = Told {
            service: ServiceKey::new("web", "shop"),
            uid: "35a5ccb3".to_owned(),
            event: Event {
                warning: true,
                reason: "PortConflict",
                note: "port TCP/80".to_owned(),
                repeated: 0,
            },
        };
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let event = object(&told, "shop.1", "svclb-controller-0", now);
        assert_eq!(
            serde_json::to_value(event).unwrap(),
            json!({
                "apiVersion": "events.k8s.io/v1",
                "kind": "Event",
                "metadata": {"namespace": "web", "name": "shop.1"},
                "eventTime": "2023-11-14T22:13:20.000000Z",
                "type": "Warning",
                "reason": "PortConflict",
                "action": "PortConflict",
                "note": "port TCP/80",
                "regarding": {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "namespace": "web",
                    "name": "shop",
                    "uid": "35a5ccb3",
                },
                "reportingController": "svclb-controller",
                "reportingInstance": "svclb-controller-0",
            })
        );
    }
}
