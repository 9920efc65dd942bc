//! Every state that a Service's addresses go through, also those that are over in a moment.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use svclb_e2e::wait;
use tokio::task::JoinHandle;

use crate::space::published;
use crate::world::{PATIENCE, World};

/// A state of a Service.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// When it was seen.
    at: Instant,
    addresses: Vec<IpAddr>,
    resource_version: Option<String>,
}

/// A watch of one Service. It outlives the API server.
pub(crate) struct Watched<'w> {
    world: &'w World,
    api: Api<Service>,
    service: String,
    states: Arc<Mutex<Vec<State>>>,
    task: JoinHandle<()>,
}

impl<'w> Watched<'w> {
    /// Begins to watch.
    pub(crate) fn start(world: &'w World, namespace: &str, service: &str) -> Self {
        let states = Arc::default();
        let api = world.api::<Service>(namespace);
        let task = follow(
            api.clone(),
            format!("metadata.name={service}"),
            Arc::clone(&states),
        );
        Self {
            world,
            api,
            service: service.to_owned(),
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
            .find(|state| state.at >= moment && !state.addresses.contains(&address));
        state.map(|state| state.at)
    }

    /// Ends, and fails if one of these addresses was not in status at any time.
    pub(crate) fn expect_throughout(self, addresses: &[IpAddr], during: &str) -> Result<()> {
        let states = self.end()?;
        for state in &states {
            let missing: Vec<_> = addresses
                .iter()
                .filter(|address| !state.addresses.contains(address))
                .collect();
            ensure!(
                missing.is_empty(),
                "expected: {addresses:?} in status throughout {during}; seen: {missing:?} not in it after {:?}",
                state.at - states[0].at
            );
        }
        Ok(())
    }

    /// Ends, and fails if any address was in status at any time.
    pub(crate) fn expect_none_throughout(self, during: &str) -> Result<()> {
        let states = self.end()?;
        for state in &states {
            ensure!(
                state.addresses.is_empty(),
                "expected: no address in status throughout {during}; seen: {:?} after {:?}",
                state.addresses,
                state.at - states[0].at
            );
        }
        Ok(())
    }

    /// All states up to this moment: a watch that had died on the way would be no proof, so it must
    /// have seen the Service as it is now.
    fn end(self) -> Result<Vec<State>> {
        let expected = format!("Service {} as it is, seen by its watch", self.service);
        let states = wait::until(&expected, PATIENCE, || {
            let now = self
                .world
                .block_on(self.api.get(&self.service))
                .map_err(|error| error.to_string())?;
            let states = self.states();
            match states.last() {
                Some(last) if last.resource_version == now.metadata.resource_version => Ok(states),
                last => Err(format!(
                    "{last:?} instead of {:?}",
                    now.metadata.resource_version
                )),
            }
        })?;
        Ok(states)
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Lists and watches until it is aborted. After a break it lists again.
async fn follow(api: Api<Service>, field: String, states: Arc<Mutex<Vec<State>>>) {
    let note = |service: &Service| {
        let addresses = published(service).unwrap_or_default();
        let state = State {
            at: Instant::now(),
            addresses: addresses.into_iter().map(|(address, _)| address).collect(),
            resource_version: service.metadata.resource_version.clone(),
        };
        let mut states = states.lock().unwrap_or_else(PoisonError::into_inner);
        states.push(state);
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
