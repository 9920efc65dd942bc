//! What is known, what is remembered, what is due and what is under way: the loop without its clock and its connections.

mod backoff;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use backoff::Backoff;

use crate::carry_out::Done;
use crate::decide::decide;
use crate::decision::{DaemonSetStep, Decision, FinalizerStep};
use crate::facts::ServiceKey;
use crate::memory::Memory;
use crate::queue::Queue;
use crate::settings::Settings;
use crate::watch::{Change, Stores};
use crate::world::{Touched, World};

/// What is known, what is remembered, what is due and what is under way.
#[derive(Debug)]
pub struct Ledger {
    stores: Stores,
    /// What the API's objects do not show.
    pub memory: Memory,
    queue: Queue,
    backoff: Backoff,
    writing: usize,
}

/// A Service has been decided on.
#[derive(Debug)]
pub struct Turn {
    /// The Service.
    pub service: ServiceKey,
    /// Its UID; empty if it is gone.
    pub uid: String,
    /// What is to be done.
    pub decision: Decision,
}

impl Ledger {
    /// Nothing has been told yet.
    pub fn new(settings: Arc<Settings>, now: Timestamp) -> Self {
        Self {
            stores: Stores::new(World::new(settings)),
            memory: Memory::new(now),
            queue: Queue::default(),
            backoff: Backoff::default(),
            writing: 0,
        }
    }

    /// What the watches have shown.
    pub fn world(&self) -> &World {
        &self.stores.world
    }

    /// Has everything been listed once?
    pub fn synced(&self) -> bool {
        self.stores.synced()
    }

    /// How many Services' writes are under way.
    pub fn writing(&self) -> usize {
        self.writing
    }

    /// When the next Service is due.
    pub fn next(&self) -> Option<Timestamp> {
        self.queue.next()
    }

    /// Takes in what a watch told.
    pub fn take_in(&mut self, change: Change, now: Timestamp) {
        let touched = self.stores.take_in(change);
        self.look_at(touched, now);
    }

    /// Every Service is due.
    pub fn look_at_all(&mut self, now: Timestamp) {
        for service in self.stores.world.services() {
            self.queue.add(service.key.clone(), now);
        }
    }

    /// The Service is due.
    pub fn look_again(&mut self, service: ServiceKey, now: Timestamp) {
        self.queue.add(service, now);
    }

    fn look_at(&mut self, touched: Touched, now: Timestamp) {
        if touched.all {
            self.look_at_all(now);
        }
        for service in touched.services {
            self.queue.add(service, now);
        }
    }

    /// Decides on the Service that has been due for longest. What there is to write counts as under way from now on: a claim
    /// counts from our write, not from the watch.
    pub fn decide(&mut self, now: Timestamp) -> Option<Turn> {
        let service = self.queue.pop(now)?;
        let world = &mut self.stores.world;
        let decision = decide(world, &service, &mut self.memory, now);
        if let Some(name) = &decision.as_wanted {
            world.daemonset_as_wanted(name);
        }
        let uid = world.service(&service).map(|facts| facts.uid.clone());
        if let Some(at) = decision.recheck_at {
            self.queue.add(service.clone(), at);
        }
        if has_writes(&decision) {
            for step in &decision.daemonsets {
                match step {
                    DaemonSetStep::Create { object, .. } | DaemonSetStep::Apply { object, .. } => {
                        world.daemonset_sent(object);
                    }
                    DaemonSetStep::Delete { uid, .. } => world.daemonset_deleted(uid),
                }
            }
            self.queue.begin(service.clone());
            self.writing += 1;
        } else if uid.is_none() {
            self.backoff.succeeded(&service);
        }
        let touched = self.stores.world.service_had_its_turn(&service);
        self.look_at(touched, now);
        Some(Turn {
            service,
            uid: uid.unwrap_or_default(),
            decision,
        })
    }

    /// The writes about a Service have ended.
    pub fn end(&mut self, done: &Done, now: Timestamp) {
        let service = &done.service;
        self.writing -= 1;
        self.queue.end(service);
        if let Some(ingress) = &done.written {
            self.memory.status_written(service, ingress);
        }
        for name in &done.sent {
            self.stores.world.daemonset_accepted(name);
        }
        for name in &done.not_sent {
            let touched = self.stores.world.daemonset_not_sent(name);
            self.look_at(touched, now);
        }
        for uid in &done.not_deleted {
            self.stores.world.daemonset_not_deleted(uid);
        }
        if done.result.is_ok() {
            self.backoff.succeeded(service);
        } else {
            self.memory.write_failed(service);
            let pause: SignedDuration = self.backoff.failed(service);
            self.queue.add(service.clone(), now + pause);
        }
    }
}

/// Is there anything in the decision to be written, events left aside?
#[must_use]
pub fn has_writes(decision: &Decision) -> bool {
    decision.finalizer != FinalizerStep::Keep
        || !decision.daemonsets.is_empty()
        || decision.status.is_some()
}

#[cfg(test)]
mod tests;
