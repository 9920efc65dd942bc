//! Every state that a Service's addresses go through, also those that are over in a moment.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use tokio::task::JoinHandle;

use crate::space::published;
use crate::world::World;

/// When a state was seen, and its addresses.
type State = (Instant, Vec<IpAddr>);

/// A watch of one Service. It outlives the API server.
pub(crate) struct Watched {
    states: Arc<Mutex<Vec<State>>>,
    task: JoinHandle<()>,
}

impl Watched {
    /// Begins to watch.
    pub(crate) fn start(world: &World, namespace: &str, service: &str) -> Self {
        let states = Arc::default();
        let api = world.api::<Service>(namespace);
        let task = follow(api, format!("metadata.name={service}"), Arc::clone(&states));
        Self {
            states,
            task: world.spawn(task),
        }
    }

    /// The states so far.
    pub(crate) fn states(&self) -> Vec<State> {
        self.states
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// When the Service was first seen without this address, after this moment.
    pub(crate) fn gone_after(&self, moment: Instant, address: IpAddr) -> Option<Instant> {
        let states = self.states();
        let state = states
            .iter()
            .find(|(at, addresses)| *at >= moment && !addresses.contains(&address));
        state.map(|(at, _)| *at)
    }

    /// Ends, and fails if one of these addresses was not in status at any time.
    pub(crate) fn expect_throughout(self, addresses: &[IpAddr], during: &str) -> Result<()> {
        let states = self.states();
        self.task.abort();
        ensure!(!states.is_empty(), "the Service was never seen");
        for (at, seen) in &states {
            let missing: Vec<_> = addresses
                .iter()
                .filter(|address| !seen.contains(address))
                .collect();
            ensure!(
                missing.is_empty(),
                "expected: {addresses:?} in status throughout {during}; seen: {missing:?} not in it after {:?}",
                *at - states[0].0
            );
        }
        Ok(())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Lists and watches until it is aborted. After a break it lists again.
async fn follow(api: Api<Service>, field: String, states: Arc<Mutex<Vec<State>>>) {
    let note = |service: &Service| {
        let addresses = published(service).unwrap_or_default();
        let addresses = addresses.into_iter().map(|(address, _)| address).collect();
        let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
        states.push((Instant::now(), addresses));
    };
    loop {
        if let Ok(list) = api.list(&ListParams::default().fields(&field)).await {
            list.items.iter().for_each(note);
            let version = list.metadata.resource_version.unwrap_or_default();
            let parameters = WatchParams::default().fields(&field);
            if let Ok(events) = api.watch(&parameters, &version).await {
                let mut events = events.boxed();
                while let Ok(Some(event)) = events.try_next().await {
                    if let WatchEvent::Added(service) | WatchEvent::Modified(service) = event {
                        note(&service);
                    }
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
