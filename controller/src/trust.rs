//! Whether a node's condition Ready may take addresses away at the moment.
//!
//! After an outage of the API server the node lifecycle controller marks nodes Unknown though nothing is wrong with them: as
//! long as its own watches wait before they try again it sees no kubelet's heartbeat, and marks each node anew as often as
//! the kubelet takes it back.

use jiff::{SignedDuration, Timestamp};

use crate::facts::{NodeFacts, Readiness};
use crate::memory::Outages;

/// How long after an outage no address leaves because of Ready. client-go's reflectors wait for up to 60 s before they
/// try again (30 s, and as much again by chance), and what they then see takes a moment to be acted upon.
const AFTER_OUTAGE: SignedDuration = SignedDuration::from_secs(90);
/// How long after our own start: there may have been an outage just before.
const AFTER_START: SignedDuration = SignedDuration::from_secs(30);
/// A node that has been Ready for as long shows that there was no outage just before our start.
const LONG_READY: SignedDuration = SignedDuration::from_secs(60);
/// A kubelet that restarts says `False` for a shorter time.
const NOT_READY: SignedDuration = SignedDuration::from_secs(10);

/// What a node's readiness means for its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// They may come and stay.
    Open,
    /// Those in status may stay.
    Stay,
    /// They leave.
    Closed,
}

/// Whether Ready may take addresses away at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trust {
    ready_counts: bool,
    silent: bool,
    /// When that will change by itself.
    until: Option<Timestamp>,
}

impl Trust {
    /// `candidates` are the nodes that the Service's DaemonSet wants, whatever their Ready says.
    pub fn new<'a>(
        outages: Outages,
        candidates: impl IntoIterator<Item = &'a NodeFacts>,
        now: Timestamp,
    ) -> Self {
        let (mut any_ready, mut any_long_ready) = (false, false);
        for node in candidates {
            if let Readiness::Ready(since) = node.readiness {
                any_ready = true;
                any_long_ready |= since + LONG_READY < now;
            }
        }
        let after_outage = outages.ended.map(|ended| ended + AFTER_OUTAGE);
        let after_start = Some(outages.started + AFTER_START).filter(|_| !any_long_ready);
        let until = after_outage.max(after_start).filter(|end| now < *end);
        Self {
            // While no candidate is Ready there is nothing better to send clients to.
            ready_counts: any_ready && outages.silent_since.is_none() && until.is_none(),
            silent: outages.silent_since.is_some(),
            until,
        }
    }

    /// Does the API server not answer? Then nobody can make a pod either.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.silent
    }

    /// Does Ready take nothing away now, of nodes or of pods (the node lifecycle controller sets both)?
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        !self.ready_counts
    }

    /// When Ready counts again, if that comes by itself.
    #[must_use]
    pub fn until(&self) -> Option<Timestamp> {
        self.until
    }

    /// What this node's readiness means now, and when that changes by itself.
    #[must_use]
    pub fn gate(&self, node: &NodeFacts, now: Timestamp) -> (Gate, Option<Timestamp>) {
        let since = match node.readiness {
            Readiness::Ready(_) => return (Gate::Open, None),
            Readiness::UnknownButAlive => return (Gate::Stay, None),
            Readiness::NotReady(since) => Some(since),
            Readiness::Unknown { .. } => None,
        };
        if self.is_suspended() {
            return (Gate::Stay, self.until);
        }
        match since
            .map(|since| since + NOT_READY)
            .filter(|end| now < *end)
        {
            Some(end) => (Gate::Stay, Some(end)),
            None => (Gate::Closed, None),
        }
    }
}
