//! What is remembered from one decision to the next: everything that the API's objects do not show.
//!
//! A restart forgets it; each rule says what follows from that.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;

use crate::conflict::Holder;
use crate::facts::{Ingress, ServiceKey};

/// The controller's memory.
#[derive(Clone, Debug)]
pub struct Memory {
    /// When this controller began to decide (as the leader).
    pub(crate) started: Timestamp,
    /// The API server has not answered since then.
    pub(crate) silent_since: Option<Timestamp>,
    /// When an outage of five seconds or more last ended.
    pub(crate) outage_ended: Option<Timestamp>,
    pub(crate) services: HashMap<ServiceKey, ServiceMemory>,
}

/// What is remembered of one Service.
#[derive(Clone, Debug, Default)]
pub struct ServiceMemory {
    /// Of the Service with this UID; of another one nothing is remembered.
    pub(crate) uid: String,
    /// Addresses by node that we stand by.
    pub(crate) nodes: BTreeMap<String, NodeMemory>,
    /// The addresses that we wrote last and saw in status, or are about to see.
    pub(crate) written: Option<Vec<Ingress>>,
    /// `written` has been seen in status.
    pub(crate) confirmed: bool,
    /// When somebody else wrote over it.
    pub(crate) overwritten: Vec<Timestamp>,
    /// Somebody else keeps writing the status: we stay away from it.
    pub(crate) stepped_back: Option<SteppedBack>,
    /// Since when status should be something else.
    pub(crate) differs_since: Option<Timestamp>,
    /// Who holds ports on nodes that refused a pod.
    pub(crate) holders: BTreeMap<String, FoundHolders>,
    /// What has been told.
    pub(crate) told: BTreeMap<&'static str, Told>,
}

/// What is remembered of a node for one Service.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeMemory {
    /// It has been published on the strength of a bound pod.
    pub(crate) published: bool,
    /// Since when there has been no pod there.
    pub(crate) podless_since: Option<Timestamp>,
    /// The last pod there failed: the next one must be Ready.
    pub(crate) failed: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct SteppedBack {
    pub(crate) manager: String,
    pub(crate) until: Timestamp,
    pub(crate) edition: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct FoundHolders {
    /// The pod that was refused when we asked.
    pub(crate) pod: String,
    pub(crate) asked: Timestamp,
    /// `None`: not answered yet.
    pub(crate) holders: Option<BTreeSet<Holder>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) note: String,
    pub(crate) at: Timestamp,
    pub(crate) times: u32,
}

impl Memory {
    /// Nothing is remembered; the controller begins now.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            started: now,
            silent_since: None,
            outage_ended: None,
            services: HashMap::new(),
        }
    }

    /// The API server has not answered for five seconds or more.
    pub fn api_silent(&mut self, since: Timestamp) {
        self.silent_since.get_or_insert(since);
    }

    /// The API server answers again.
    pub fn api_answers(&mut self, now: Timestamp) {
        if self.silent_since.take().is_some() {
            self.outage_ended = Some(now);
        }
    }

    /// A status write has been accepted.
    pub fn status_written(&mut self, service: &ServiceKey, ingress: &[Ingress]) {
        if let Some(memory) = self.services.get_mut(service) {
            memory.written = Some(ingress.to_vec());
            memory.confirmed = false;
        }
    }

    /// The pods on a node have been listed, as [`crate::decision::Decision::find_holders`] asked.
    pub fn holders_found(&mut self, service: &ServiceKey, node: &str, holders: BTreeSet<Holder>) {
        if let Some(found) = self
            .services
            .get_mut(service)
            .and_then(|memory| memory.holders.get_mut(node))
        {
            found.holders = Some(holders);
        }
    }

    /// A Service is gone.
    pub fn forget(&mut self, service: &ServiceKey) {
        self.services.remove(service);
    }
}
