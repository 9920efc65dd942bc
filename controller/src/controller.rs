//! The loop: takes in what the watches tell, decides on one Service after the other, and has the writes carried out.
//!
//! Everything here runs on one task, so that no two Services are decided on at once and a claim counts from the moment
//! that its write is sent. The writes themselves run beside each other, one Service's in their order.

mod backoff;
mod presence;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::runtime::watcher::Event;
use tokio::sync::watch;

use backoff::Backoff;
use presence::SILENT_AFTER;

use crate::carry_out::{Done, Hands, find_holders};
use crate::conflict::Holder;
use crate::decide::decide;
use crate::decision::{DaemonSetStep, Decision, FinalizerStep};
use crate::facts::ServiceKey;
use crate::http::Readiness;
use crate::lease::Seen;
use crate::memory::Memory;
use crate::metrics::{Metrics, Tally};
use crate::names;
use crate::queue::Queue;
use crate::settings::Settings;
use crate::watch::{self as watches, Change, Changes, Stores};
use crate::world::{Touched, World};
use crate::write::Error;

/// How many Services' writes run beside each other. Each needs a connection while it lasts.
const WRITES: usize = 8;

/// With nothing due the loop looks up this often nevertheless.
const IDLE: SignedDuration = SignedDuration::from_hours(1);

/// What the loop works with.
pub struct Parts {
    /// For the watches, and for looking up who holds a port.
    pub client: Client,
    /// What the operator decided.
    pub settings: Arc<Settings>,
    /// Have the API server stream the first lists.
    pub streaming_lists: bool,
    /// Who this replica is in the Lease.
    pub identity: String,
    /// What is seen of the Lease, and that the API server answers.
    pub seen: watch::Receiver<Seen>,
    /// Carries out decisions.
    pub hands: Hands,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Is told when everything has been listed.
    pub readiness: Readiness,
}

/// The loop's state.
pub struct Controller {
    parts: Parts,
    changes: Changes,
    stores: Stores,
    memory: Memory,
    queue: Queue,
    synced: bool,
    silent: bool,
    leading: bool,
    /// Another replica has held the Lease since this one did, or this one never has: what is remembered is void.
    superseded: bool,
    under_way: FuturesUnordered<BoxFuture<'static, Ended>>,
    writing: usize,
    backoff: Backoff,
    /// When Services without an address appeared.
    appeared: HashMap<ServiceKey, Instant>,
    tally: Tally,
}

/// What ran beside the loop and has ended.
enum Ended {
    Writes(Done),
    Search {
        service: ServiceKey,
        node: String,
        holders: Result<BTreeSet<Holder>, Error>,
    },
    Account(Result<(), Error>),
}

impl Controller {
    /// Starts the watches.
    pub fn new(parts: Parts) -> Self {
        Self {
            changes: watches::start(&parts.client, &parts.settings, parts.streaming_lists),
            stores: Stores::new(World::new(Arc::clone(&parts.settings))),
            memory: Memory::new(Timestamp::now()),
            queue: Queue::default(),
            synced: false,
            silent: false,
            leading: false,
            superseded: true,
            under_way: FuturesUnordered::new(),
            writing: 0,
            backoff: Backoff::default(),
            appeared: HashMap::new(),
            tally: Tally::default(),
            parts,
        }
    }

    /// Works until `finished` says so. It may be dropped at any time: what became of writes under way, whoever works next
    /// sees.
    pub async fn run(mut self, finished: impl Fn(&World) -> bool) {
        loop {
            self.notice_silence();
            self.notice_leadership();
            self.decide_what_is_due();
            if self.synced && self.leading && self.writing == 0 && finished(&self.stores.world) {
                return;
            }
            let wake = tokio::time::sleep(self.until_next());
            tokio::select! {
                biased;
                Ok(()) = self.parts.seen.changed() => self.hear(),
                Some(ended) = self.under_way.next() => self.finish(ended),
                Some(change) = self.changes.next() => self.take_in(change),
                () = wake => {}
            }
        }
    }

    /// How long there is nothing to do unless something happens.
    fn until_next(&self) -> Duration {
        let now = Timestamp::now();
        let silence = self.parts.seen.borrow().answered.filter(|_| !self.silent);
        let next = [
            silence.map(|answered| answered + SILENT_AFTER),
            self.queue.next().filter(|_| self.may_decide()),
        ];
        let next = next.into_iter().flatten().min().unwrap_or(now + IDLE);
        // A millisecond more: tokio's clock is no finer, and to wake too early would spin.
        Duration::try_from(next.duration_since(now)).unwrap_or_default() + Duration::from_millis(1)
    }

    fn may_decide(&self) -> bool {
        self.synced && self.leading && !self.silent && self.writing < WRITES
    }

    /// Takes in a change, and what else has arrived meanwhile, before anything is decided.
    fn take_in(&mut self, first: Change) {
        let mut next = Some(first);
        while let Some(change) = next {
            self.take_in_one(change);
            next = self.changes.next().now_or_never().flatten();
        }
        if !self.synced && self.stores.synced() {
            self.synced = true;
            self.parts.readiness.set();
            let services = self.stores.world.services().count();
            tracing::info!(services, "everything has been listed");
        }
    }

    fn take_in_one(&mut self, change: Change) {
        match &change {
            Change::Broke { kind, error } => {
                self.parts.metrics.watch_broke();
                tracing::debug!(%kind, %error, "a watch broke");
            }
            Change::Service(Event::Apply(service)) if self.synced => {
                let key = ServiceKey::new(
                    service.metadata.namespace.clone().unwrap_or_default(),
                    service.metadata.name.clone().unwrap_or_default(),
                );
                if self.stores.world.service(&key).is_none() {
                    self.appeared.insert(key, Instant::now());
                }
            }
            _ => {}
        }
        if !matches!(change, Change::Broke { .. }) {
            self.answered();
        }
        let touched = self.stores.take_in(change);
        self.look_at(touched);
    }

    fn look_at(&mut self, touched: Touched) {
        let now = Timestamp::now();
        if touched.all {
            for service in self.stores.world.services() {
                self.queue.add(service.key.clone(), now);
            }
        }
        for service in touched.services {
            self.queue.add(service, now);
        }
    }

    fn decide_what_is_due(&mut self) {
        while self.may_decide() {
            let Some(service) = self.queue.pop(Timestamp::now()) else {
                return;
            };
            self.decide_on(service);
        }
    }

    fn decide_on(&mut self, service: ServiceKey) {
        let began = Instant::now();
        let decision = decide(
            &self.stores.world,
            &service,
            &mut self.memory,
            Timestamp::now(),
        );
        self.parts.metrics.reconciled(began.elapsed());
        if let Some(name) = &decision.as_wanted {
            self.stores.world.daemonset_as_wanted(name);
        }
        self.count(&service);
        if let Some(at) = decision.recheck_at {
            self.queue.add(service.clone(), at);
        }
        let uid = match self.stores.world.service(&service) {
            Some(facts) => facts.uid.clone(),
            None => {
                self.memory.forget(&service);
                self.backoff.succeeded(&service);
                self.appeared.remove(&service);
                String::new()
            }
        };
        for event in &decision.events {
            self.parts.hands.tell(&service, &uid, event.clone());
        }
        for node in &decision.find_holders {
            self.search(service.clone(), node.clone());
        }
        if writes(&decision) {
            self.send(service, uid, decision);
        }
    }

    fn send(&mut self, service: ServiceKey, uid: String, decision: Decision) {
        for step in &decision.daemonsets {
            match step {
                DaemonSetStep::Create { object, .. } | DaemonSetStep::Apply { object, .. } => {
                    self.stores.world.daemonset_sent(object);
                }
                DaemonSetStep::Delete { uid, .. } => self.stores.world.daemonset_deleted(uid),
            }
        }
        self.queue.begin(service.clone());
        self.writing += 1;
        let hands = self.parts.hands.clone();
        self.under_way.push(
            async move { Ended::Writes(hands.carry_out(service, uid, decision).await) }.boxed(),
        );
    }

    fn search(&mut self, service: ServiceKey, node: String) {
        let client = self.parts.client.clone();
        self.under_way.push(
            async move {
                let holders = find_holders(client, &node).await;
                Ended::Search {
                    service,
                    node,
                    holders,
                }
            }
            .boxed(),
        );
    }

    fn finish(&mut self, ended: Ended) {
        match ended {
            Ended::Writes(done) => self.finish_writes(done),
            Ended::Search {
                service,
                node,
                holders,
            } => match holders {
                Ok(holders) => {
                    self.memory.holders_found(&service, &node, holders);
                    self.queue.add(service, Timestamp::now());
                }
                Err(error) => {
                    tracing::warn!(%service, error = &error as &dyn std::error::Error, "search for a port's holder")
                }
            },
            Ended::Account(Ok(())) => {}
            Ended::Account(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "svclb pods may lack their ServiceAccount"
                );
            }
        }
    }

    fn finish_writes(&mut self, done: Done) {
        let Done {
            service,
            written,
            not_sent,
            not_deleted,
            result,
        } = done;
        self.writing -= 1;
        self.queue.end(&service);
        if let Some(ingress) = written {
            self.memory.status_written(&service, &ingress);
            if !ingress.is_empty()
                && let Some(appeared) = self.appeared.remove(&service)
            {
                self.parts.metrics.first_address(appeared.elapsed());
            }
        }
        for name in not_sent {
            let touched = self.stores.world.daemonset_not_sent(&name);
            self.look_at(touched);
        }
        for uid in not_deleted {
            self.stores.world.daemonset_not_deleted(&uid);
        }
        let Err(error) = result else {
            self.backoff.succeeded(&service);
            return;
        };
        self.memory.write_failed(&service);
        let pause = self.backoff.failed(&service);
        if error.is_conflict() {
            tracing::debug!(%service, error = &error as &dyn std::error::Error, "decided anew");
        } else {
            tracing::warn!(%service, error = &error as &dyn std::error::Error, "a write failed and is tried again");
        }
        self.queue.add(service, Timestamp::now() + pause);
    }

    fn count(&mut self, service: &ServiceKey) {
        let facts = self.stores.world.service(service);
        let served = facts
            .filter(|facts| facts.load_balancer && facts.finalizer)
            .map(|facts| {
                let conflict = names::condition::PORTS_ERROR;
                (
                    facts.ingress.len(),
                    facts
                        .conditions
                        .iter()
                        .any(|condition| condition.type_ == conflict),
                )
            });
        self.tally.set(service, served);
        self.parts.metrics.served(&self.tally);
    }
}

/// Is there anything in the decision to be written, events left aside?
fn writes(decision: &Decision) -> bool {
    decision.finalizer != FinalizerStep::Keep
        || !decision.daemonsets.is_empty()
        || decision.status.is_some()
}
