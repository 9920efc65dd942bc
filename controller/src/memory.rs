//! What is remembered from one decision to the next: everything that the API's objects do not show.
//!
//! A restart forgets it; each rule says what follows from that.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;

use crate::conflict::Holder;
use crate::facts::{Ingress, ServiceFacts, ServiceKey, StatusWriter};
use crate::holders::Holders;

/// The controller's memory.
#[derive(Clone, Debug)]
pub struct Memory {
    pub(crate) outages: Outages,
    // Boxed: half of the map's places are empty.
    pub(crate) services: HashMap<ServiceKey, Box<ServiceMemory>>,
}

/// When it may be that nodes are marked not Ready though nothing is wrong with them.
#[derive(Clone, Copy, Debug)]
pub struct Outages {
    /// When this controller began to decide (as the leader).
    pub(crate) started: Timestamp,
    /// The API server has not answered since then.
    pub(crate) silent_since: Option<Timestamp>,
    /// When an outage of five seconds or more last ended.
    pub(crate) ended: Option<Timestamp>,
}

/// What is remembered of one Service.
#[derive(Clone, Debug, Default)]
pub struct ServiceMemory {
    /// Of the Service with this UID; of another one nothing is remembered.
    pub(crate) uid: String,
    /// Nodes whose addresses are in status, or may soon be.
    pub(crate) nodes: BTreeMap<String, NodeMemory>,
    /// Until then the addresses that were there when we came stay, though they would wait for a Ready pod.
    pub(crate) taken_over_until: Option<Timestamp>,
    /// When we last asked for the finalizer.
    pub(crate) finalizer_asked: Option<Timestamp>,
    /// When we last asked to remove it.
    pub(crate) removal_asked: Option<Timestamp>,
    /// When we last asked to clear the status.
    pub(crate) clearing_asked: Option<Timestamp>,
    /// The addresses that we wrote last.
    pub(crate) written: Option<Written>,
    /// Who else had written the status when we last decided to.
    pub(crate) written_over: Option<StatusWriter>,
    /// When somebody else wrote over them.
    pub(crate) overwritten: Vec<Timestamp>,
    /// Somebody else keeps writing the status: we stay away from it.
    pub(crate) stepped_back: Option<SteppedBack>,
    /// Since when status should be something else.
    pub(crate) differs_since: Option<Timestamp>,
    /// Since when the DaemonSet has lacked pods.
    pub(crate) lacks_pods_since: Option<Timestamp>,
    /// Who holds ports on nodes that refused a pod.
    pub(crate) holders: Holders,
    /// What has been told, by reason.
    pub(crate) told: BTreeMap<&'static str, Told>,
}

/// What is remembered of a node for one Service.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeMemory {
    /// The Service's ports are held there, by a bound pod or between two.
    pub(crate) held: bool,
    /// Since when there has been no pod there.
    pub(crate) podless_since: Option<Timestamp>,
    /// A pod of the Service is on its way out there, and has the ports until it has ended.
    pub(crate) old_one_lingers: bool,
    /// From then on the scheduler has had the time to look again, after the old pod has ended.
    pub(crate) verdict_counts_from: Option<Timestamp>,
    /// The last pod there failed: the next one must be Ready. (A restart forgets it.)
    pub(crate) failed: bool,
}

/// Addresses that we wrote.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) ingress: Vec<Ingress>,
    /// The watch has shown them.
    pub(crate) seen: bool,
    /// Since when we have waited for the watch to show them.
    pub(crate) unseen_since: Option<Timestamp>,
}

/// Somebody else writes the status.
#[derive(Clone, Debug)]
pub(crate) struct SteppedBack {
    pub(crate) manager: String,
    pub(crate) until: Timestamp,
    /// What the user wanted then; another wish is a reason to try again.
    pub(crate) edition: u64,
}

/// Something that has been told.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) note: String,
    pub(crate) at: Timestamp,
    /// How often it has been repeated.
    pub(crate) repeated: u32,
    /// Since when it has held no more.
    pub(crate) gone_since: Option<Timestamp>,
}

impl Memory {
    /// Nothing is remembered; the controller begins now.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self {
            outages: Outages {
                started: now,
                silent_since: None,
                ended: None,
            },
            services: HashMap::new(),
        }
    }

    /// The API server has not answered for five seconds or more.
    pub fn api_silent(&mut self, since: Timestamp) {
        self.outages.silent_since.get_or_insert(since);
    }

    /// The API server answers again.
    pub fn api_answers(&mut self, now: Timestamp) {
        if self.outages.silent_since.take().is_none() {
            return;
        }
        self.outages.ended = Some(now);
        // Nobody could make the next pod meanwhile: its time begins anew.
        for node in self
            .services
            .values_mut()
            .flat_map(|service| service.nodes.values_mut())
        {
            node.podless_since = node.podless_since.map(|_| now);
        }
    }

    /// A status write that set the addresses has been accepted.
    pub fn status_written(&mut self, service: &ServiceKey, ingress: &[Ingress]) {
        if let Some(memory) = self.services.get_mut(service) {
            memory.written = Some(Written {
                ingress: ingress.to_vec(),
                seen: false,
                unseen_since: None,
            });
        }
    }

    /// The pods on a node have been listed, as [`crate::decision::Decision::find_holders`] asked; `None` if that failed.
    pub fn holders_found(
        &mut self,
        service: &ServiceKey,
        node: &str,
        holders: Option<BTreeSet<Holder>>,
    ) {
        if let Some(memory) = self.services.get_mut(service) {
            memory.holders.found(node, holders);
        }
    }

    /// A write for this Service has failed: none of those that were asked for is under way any more.
    pub fn write_failed(&mut self, service: &ServiceKey) {
        if let Some(memory) = self.services.get_mut(service) {
            memory.finalizer_asked = None;
            memory.removal_asked = None;
            memory.clearing_asked = None;
        }
    }

    /// Is anything remembered of this very Service?
    pub(crate) fn knows(&self, service: &ServiceFacts) -> bool {
        let memory = self.services.get(&service.key);
        memory.is_some_and(|memory| memory.uid == service.uid)
    }

    /// What is remembered of this very Service.
    pub(crate) fn of(&mut self, service: &ServiceFacts) -> &mut ServiceMemory {
        let memory = self.services.entry(service.key.clone()).or_default();
        if memory.uid != service.uid {
            **memory = ServiceMemory {
                uid: service.uid.clone(),
                ..ServiceMemory::default()
            };
        }
        memory
    }

    /// A Service is gone.
    pub fn forget(&mut self, service: &ServiceKey) {
        self.services.remove(service);
    }
}
