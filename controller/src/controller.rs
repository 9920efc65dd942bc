//! The loop: takes in what the watches tell, decides on one Service after the other, and has the writes carried out.
//!
//! Everything here runs on one task, so that no two Services are decided on at once and a claim counts from the moment
//! that its write is sent. The writes themselves run beside each other, one Service's in their order.

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
use tokio::sync::{Semaphore, watch};

use presence::SILENT_AFTER;

use crate::carry_out::{Done, Hands, find_holders};
use crate::conflict::Holder;
use crate::facts::ServiceKey;
use crate::http::Readiness;
use crate::lease::Seen;
use crate::ledger::{Ledger, Turn, has_writes};
use crate::metrics::{Metrics, Tally};
use crate::names;
use crate::settings::Settings;
use crate::watch::{self as watches, Change, Changes};
use crate::world::World;
use crate::write::Error;

/// How many Services' writes run beside each other. Each needs a connection while it lasts.
const WRITES: usize = 8;

/// How many nodes are searched for a port's holder at once. Each search has a page of whole pods in memory.
const SEARCHES: usize = 4;

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
    ledger: Ledger,
    synced: bool,
    silent: bool,
    leading: bool,
    /// Another replica has held the Lease since this one did, or this one never has: what is remembered is void.
    superseded: bool,
    under_way: FuturesUnordered<BoxFuture<'static, Ended>>,
    searches: Arc<Semaphore>,
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
            ledger: Ledger::new(Arc::clone(&parts.settings), Timestamp::now()),
            synced: false,
            silent: false,
            leading: false,
            superseded: true,
            under_way: FuturesUnordered::new(),
            searches: Arc::new(Semaphore::new(SEARCHES)),
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
            let at_rest = self.synced && self.leading && self.ledger.writing() == 0;
            if at_rest && finished(self.ledger.world()) {
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
            self.ledger.next().filter(|_| self.may_decide()),
        ];
        let next = next.into_iter().flatten().min().unwrap_or(now + IDLE);
        // A millisecond more: tokio's clock is no finer, and to wake too early would spin.
        Duration::try_from(next.duration_since(now)).unwrap_or_default() + Duration::from_millis(1)
    }

    fn may_decide(&self) -> bool {
        self.synced && self.leading && !self.silent && self.ledger.writing() < WRITES
    }

    /// Takes in a change, and what else has arrived meanwhile, before anything is decided.
    fn take_in(&mut self, first: Change) {
        let mut next = Some(first);
        while let Some(change) = next {
            self.take_in_one(change);
            next = self.changes.next().now_or_never().flatten();
        }
        if !self.synced && self.ledger.synced() {
            self.synced = true;
            self.parts.readiness.set();
            let services = self.ledger.world().services().count();
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
                if self.ledger.world().service(&key).is_none() {
                    self.appeared.insert(key, Instant::now());
                }
            }
            _ => {}
        }
        self.ledger.take_in(change, Timestamp::now());
    }

    fn decide_what_is_due(&mut self) {
        while self.may_decide() {
            let began = Instant::now();
            let Some(turn) = self.ledger.decide(Timestamp::now()) else {
                return;
            };
            self.parts.metrics.reconciled(began.elapsed());
            self.carry_out(turn);
        }
    }

    fn carry_out(&mut self, turn: Turn) {
        let Turn {
            service,
            uid,
            decision,
        } = turn;
        self.count(&service);
        if self.ledger.world().service(&service).is_none() {
            self.appeared.remove(&service);
        }
        for event in &decision.events {
            self.parts.hands.tell(&service, &uid, event.clone());
        }
        for node in &decision.find_holders {
            self.search(service.clone(), node.clone());
        }
        if has_writes(&decision) {
            let hands = self.parts.hands.clone();
            let writes =
                async move { Ended::Writes(hands.carry_out(service, uid, decision).await) };
            self.under_way.push(writes.boxed());
        }
    }

    fn search(&mut self, service: ServiceKey, node: String) {
        let client = self.parts.client.clone();
        let searches = Arc::clone(&self.searches);
        self.under_way.push(
            async move {
                // Nobody closes it: this only waits for a turn.
                let _turn = searches.acquire().await;
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
            Ended::Writes(done) => self.finish_writes(&done),
            Ended::Search {
                service,
                node,
                holders,
            } => {
                if let Err(error) = &holders {
                    tracing::warn!(%service, error = error as &dyn std::error::Error, "search for a port's holder");
                }
                self.ledger
                    .memory
                    .holders_found(&service, &node, holders.ok());
                self.ledger.look_again(service, Timestamp::now());
            }
            Ended::Account(Ok(())) => {}
            Ended::Account(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "svclb pods may lack their ServiceAccount"
                );
            }
        }
    }

    fn finish_writes(&mut self, done: &Done) {
        self.ledger.end(done, Timestamp::now());
        let service = &done.service;
        if done
            .written
            .as_ref()
            .is_some_and(|written| !written.is_empty())
            && let Some(appeared) = self.appeared.remove(service)
        {
            self.parts.metrics.first_address(appeared.elapsed());
        }
        match &done.result {
            Ok(()) => {}
            Err(error) if error.is_conflict() => {
                tracing::debug!(%service, error = error as &dyn std::error::Error, "decided anew");
            }
            Err(error) => {
                tracing::warn!(%service, error = error as &dyn std::error::Error, "a write failed and is tried again");
            }
        }
    }

    fn count(&mut self, service: &ServiceKey) {
        let facts = self.ledger.world().service(service);
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
