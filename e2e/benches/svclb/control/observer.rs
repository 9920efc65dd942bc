//! What the API shows, and when: watches of all that a Service of type LoadBalancer touches, each
//! event with the time at which it arrived here.

use std::pin::pin;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use futures::future::join_all;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ApiResource, DynamicObject, WatchEvent, WatchParams};
use serde_json::Value;
use svclb_e2e::Cluster;
use tokio::sync::oneshot;

use super::bare;
use crate::controller::SERVICE_LABEL;

/// Nothing that is waited for takes longer, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The kinds that are watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Service,
    DaemonSet,
    Pod,
    Node,
    EndpointSlice,
}

/// One event of a watch.
pub(super) struct Seen {
    pub(super) at: Instant,
    pub(super) kind: Kind,
    pub(super) deleted: bool,
    pub(super) object: Value,
}

impl Seen {
    /// Whether it is about the object of this kind and name, which is still there.
    pub(super) fn is(&self, kind: Kind, name: &str) -> bool {
        self.kind == kind && !self.deleted && self.text("/metadata/name") == name
    }

    /// A string of the object, by JSON pointer; empty if there is none.
    pub(super) fn text(&self, pointer: &str) -> &str {
        self.object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// The addresses in a Service's status.
    pub(super) fn addresses(&self) -> Vec<&str> {
        let ingress = self
            .object
            .pointer("/status/loadBalancer/ingress")
            .and_then(Value::as_array);
        ingress
            .into_iter()
            .flatten()
            .filter_map(|entry| entry["ip"].as_str())
            .collect()
    }

    /// The name of the Service that a DaemonSet or a svclb pod belongs to, whoever made it.
    pub(super) fn service(&self) -> &str {
        let label = |name| self.object["metadata"]["labels"][name].as_str();
        let name = label(SERVICE_LABEL).or_else(|| label(bare::LABEL));
        name.unwrap_or_default()
    }
}

/// The watches, and what they have seen since [`Observer::begin`].
pub(super) struct Observer {
    events: Receiver<Seen>,
    log: Vec<Seen>,
    /// Dropped with the observer, which ends the watches.
    _stop: oneshot::Sender<()>,
}

impl Observer {
    /// Begins to watch the cluster, on a thread of its own.
    pub(super) fn start(cluster: &Cluster) -> Result<Self> {
        let (sender, events) = channel();
        let (stop, stopped) = oneshot::channel();
        let cluster = cluster.clone();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("making a runtime")?;
        thread::spawn(move || {
            runtime.block_on(async {
                let Ok(client) = cluster.kube() else { return };
                let every = |kind: Kind, resource: ApiResource| {
                    let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
                    follow(api, kind, sender.clone())
                };
                let watches = join_all([
                    every(Kind::Service, ApiResource::erase::<Service>(&())),
                    every(Kind::DaemonSet, ApiResource::erase::<DaemonSet>(&())),
                    every(Kind::Pod, ApiResource::erase::<Pod>(&())),
                    every(Kind::Node, ApiResource::erase::<Node>(&())),
                    every(
                        Kind::EndpointSlice,
                        ApiResource::erase::<EndpointSlice>(&()),
                    ),
                ]);
                tokio::select! {
                    _ = watches => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self {
            events,
            log: Vec::new(),
            _stop: stop,
        })
    }

    /// Forgets what was seen so far: something new begins.
    pub(super) fn begin(&mut self) {
        while self.events.try_recv().is_ok() {}
        self.log.clear();
    }

    /// When the first event that `is_it` accepts was seen, since the beginning or from now on.
    pub(super) fn when(
        &mut self,
        what: &str,
        mut is_it: impl FnMut(&Seen) -> bool,
    ) -> Result<Instant> {
        let deadline = Instant::now() + PATIENCE;
        let mut next = 0;
        loop {
            while let Some(seen) = self.log.get(next) {
                if is_it(seen) {
                    return Ok(seen.at);
                }
                next += 1;
            }
            match self
                .events
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(seen) => self.log.push(seen),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("not seen within {} s: {what}", PATIENCE.as_secs())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the watches ended before this was seen: {what}")
                }
            }
        }
    }

    /// When the last event so far that `is_it` accepts was seen, no later than `until`.
    pub(super) fn last(&self, until: Instant, is_it: impl Fn(&Seen) -> bool) -> Option<Instant> {
        self.log
            .iter()
            .rev()
            .find(|seen| seen.at <= until && is_it(seen))
            .map(|seen| seen.at)
    }
}

/// Watches until nobody listens any more. One that breaks begins anew and shows all objects again.
async fn follow(api: Api<DynamicObject>, kind: Kind, sender: Sender<Seen>) {
    loop {
        if let Ok(stream) = api.watch(&WatchParams::default(), "0").await {
            let mut stream = pin!(stream);
            while let Some(Ok(event)) = stream.next().await {
                let at = Instant::now();
                let (object, deleted) = match event {
                    WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
                    WatchEvent::Deleted(object) => (object, true),
                    WatchEvent::Bookmark(_) | WatchEvent::Error(_) => continue,
                };
                let object = serde_json::to_value(object).unwrap_or_default();
                if sender
                    .send(Seen {
                        at,
                        kind,
                        deleted,
                        object,
                    })
                    .is_err()
                {
                    return;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
