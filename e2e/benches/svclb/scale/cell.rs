//! One size: so many Services on so many nodes, from nothing until every address is in status.

use std::collections::HashSet;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{Stream, StreamExt, TryStreamExt, future, stream};
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use serde::de::DeserializeOwned;
use svclb_e2e::wait;

use super::objects;
use crate::controller::{Controller, Memory, SERVICE_LABEL};

/// Nothing takes longer, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// Nothing has happened for so long: nothing more will.
const QUIET: Duration = Duration::from_secs(2);

/// How much there is.
#[derive(Clone, Copy)]
pub(super) struct Size {
    pub(super) services: usize,
    pub(super) nodes: usize,
    /// svclb pods of each Service, each on a node of its own.
    pub(super) pods: usize,
}

impl Size {
    /// What the controller's work grows with: pods, and as many addresses in status.
    pub(super) fn work(self) -> f64 {
        (2 * self.services * self.pods) as f64
    }

    /// As the table names it.
    pub(super) fn name(self) -> String {
        let Self {
            services,
            nodes,
            pods,
        } = self;
        match pods {
            1 => format!("{services} Services x {nodes} nodes"),
            _ => format!(
                "{services} Services x {nodes} nodes, {} pods",
                services * pods
            ),
        }
    }
}

/// What one cell measured.
pub(super) struct Outcome {
    /// From the first request for a Service until the last DaemonSet was seen, in seconds.
    pub(super) daemonsets: f64,
    /// The same until the last address was seen.
    pub(super) converged: f64,
    /// CPU time that the controller used for it, in seconds.
    pub(super) cpu: f64,
    /// The controller's resident memory once all is quiet, and its peak, in MB.
    pub(super) memory: f64,
    pub(super) peak: f64,
    /// Writes that the API server took, by kind: DaemonSets, Services' status, events.
    pub(super) writes: [f64; 3],
}

/// The kinds of writes, by the controller's own label of them.
pub(super) const KINDS: [&str; 3] = ["daemonset", "service_status", "event"];

/// Creates everything and waits until all addresses are in status.
pub(super) async fn grow(client: &Client, controller: &Controller, size: Size) -> Result<Outcome> {
    let cpu = controller.cpu_seconds()?;
    let begun = Instant::now();
    let create = objects::each(0..size.services, |number| {
        objects::create_service(client, number)
    });
    let all = future::try_join3(
        create,
        play_daemonset_controller(client, size),
        until_addresses(client, size),
    );
    let ((), daemonsets, converged) = tokio::time::timeout(PATIENCE, all)
        .await
        .context("the Services have no addresses yet")??;
    quiet(controller).await?;
    let mut writes = [0.0; 3];
    for (writes, kind) in writes.iter_mut().zip(KINDS) {
        *writes = controller.metric(&format!(
            "svclb_api_writes_total{{kind=\"{kind}\",outcome=\"ok\"}}"
        ))?;
    }
    Ok(Outcome {
        daemonsets: (daemonsets - begun).as_secs_f64(),
        converged: (converged - begun).as_secs_f64(),
        cpu: controller.cpu_seconds()? - cpu,
        memory: controller.memory(Memory::Now)?,
        peak: controller.memory(Memory::Peak)?,
        writes,
    })
}

/// Deletes everything, and waits until the controller has taken its own away.
pub(super) async fn clear(client: &Client, controller: &Controller, size: Size) -> Result<()> {
    objects::delete_services(client, size.services).await?;
    let left = async || {
        let daemonsets = objects::daemonsets(client)
            .list_metadata(&ListParams::default())
            .await;
        match daemonsets.map_err(|error| error.to_string())?.items.len() {
            0 => Ok(()),
            some => Err(format!("{some} DaemonSets")),
        }
    };
    wait::until_async("no DaemonSet", PATIENCE, left).await?;
    quiet(controller).await
}

/// Waits until the controller decides and writes nothing any more.
pub(super) async fn quiet(controller: &Controller) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut last = (Activity::of(controller)?, Instant::now());
    while last.1.elapsed() < QUIET {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = Activity::of(controller)?;
        if !now.is_at_rest_since(last.0) {
            last = (now, Instant::now());
        }
        if Instant::now() > deadline {
            bail!(
                "the controller does not come to rest: {} decisions and {} writes",
                now.decisions,
                now.writes
            );
        }
    }
    Ok(())
}

/// What a controller has done, since its start or in a time.
#[derive(Clone, Copy)]
pub(super) struct Activity {
    pub(super) decisions: f64,
    pub(super) writes: f64,
    /// CPU time, in seconds.
    pub(super) cpu: f64,
}

impl Activity {
    /// Since the controller's start.
    pub(super) fn of(controller: &Controller) -> Result<Self> {
        Ok(Self {
            decisions: controller.metric("svclb_reconcile_seconds_count")?,
            writes: controller.writes()?,
            cpu: controller.cpu_seconds()?,
        })
    }

    /// What came on top of `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            decisions: self.decisions - before.decisions,
            writes: self.writes - before.writes,
            cpu: self.cpu - before.cpu,
        }
    }

    /// Whether nothing was decided and written in between.
    fn is_at_rest_since(self, before: Self) -> bool {
        self.decisions == before.decisions && self.writes == before.writes
    }
}

/// Makes the pods of each DaemonSet that appears, and tells when the last one had appeared.
async fn play_daemonset_controller(client: &Client, size: Size) -> Result<Instant> {
    let seen = Mutex::new(HashSet::new());
    let api = objects::daemonsets(client);
    let appeared = watch(&api).try_filter_map(|daemonset: DaemonSet| {
        let is_new = daemonset.labels().contains_key(SERVICE_LABEL)
            && seen
                .lock()
                .is_ok_and(|mut seen| seen.insert(daemonset.name_any()));
        future::ready(Ok(is_new.then(|| (Instant::now(), daemonset))))
    });
    let made = appeared
        .take(size.services)
        .map_ok(|(at, daemonset)| async move {
            // Services begin at different nodes, so that all nodes have their part.
            let first = daemonset
                .name_any()
                .bytes()
                .fold(0, |sum, byte| (sum * 31 + usize::from(byte)) % size.nodes);
            for pod in 0..size.pods {
                objects::create_pod(client, &daemonset, (first + pod) % size.nodes).await?;
            }
            Ok(at)
        });
    let times: Vec<Instant> = made.try_buffer_unordered(16).try_collect().await?;
    times.into_iter().max().context("there were no DaemonSets")
}

/// When the last Service had all its addresses.
async fn until_addresses(client: &Client, size: Size) -> Result<Instant> {
    let mut done = HashSet::new();
    let api = objects::services(client);
    let mut services = pin!(watch(&api));
    while let Some(service) = services.try_next().await? {
        let ingress = service
            .status
            .as_ref()
            .and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
        if ingress.is_some_and(|ingress| ingress.len() == size.pods) {
            done.insert(service.name_any());
        }
        if done.len() == size.services {
            return Ok(Instant::now());
        }
    }
    bail!("the watch of Services ended")
}

/// Every state of every object, beginning with what there is. A watch that ends begins anew.
fn watch<K>(api: &Api<K>) -> impl Stream<Item = Result<K>>
where
    K: Clone + Debug + DeserializeOwned + 'static,
{
    let states = |event: kube::Result<WatchEvent<K>>| {
        future::ready(match event {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => Some(Ok(object)),
            _ => None,
        })
    };
    stream::repeat(())
        .then(move |()| async move {
            let events = api
                .watch(&WatchParams::default(), "0")
                .await
                .context("watching")?;
            anyhow::Ok(events.filter_map(states))
        })
        .try_flatten()
}
