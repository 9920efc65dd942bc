//! What is to be done about one Service: a value that the shell carries out.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::facts::Ingress;

/// What is to be done about one Service. The order of the writes is the order of the fields: the finalizer is there before
/// anything that it protects, and a `Remove` comes alone, after all else is gone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// What happens to [`crate::names::FINALIZER`].
    pub finalizer: FinalizerStep,
    /// What happens to DaemonSets.
    pub daemonsets: Vec<DaemonSetStep>,
    /// What is written to the Service's status.
    pub status: Option<StatusWrite>,
    /// What is told now, whatever becomes of the writes.
    pub events: Vec<Event>,
    /// Nodes of which the pods must be listed, to learn who holds a port (see [`crate::conflict`]).
    pub find_holders: Vec<String>,
    /// The DaemonSet of this name has been compared and is as wanted (see [`crate::world::World::daemonset_as_wanted`]).
    pub as_wanted: Option<String>,
    /// When to decide again though nothing has changed.
    pub recheck_at: Option<Timestamp>,
}

/// What happens to the finalizer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FinalizerStep {
    /// Nothing.
    #[default]
    Keep,
    /// Add it to the Service of this UID.
    Add {
        /// The Service's UID.
        uid: String,
    },
    /// Remove it from the Service of this UID.
    Remove {
        /// The Service's UID.
        uid: String,
    },
}

/// What happens to a DaemonSet.
#[derive(Clone, Debug, PartialEq)]
pub enum DaemonSetStep {
    /// Create it; there is none of this name.
    Create {
        /// What is wanted.
        object: Box<DaemonSet>,
        /// Told when it is done.
        event: Event,
    },
    /// Apply it over the one of ours that has this UID.
    Apply {
        /// The DaemonSet's UID.
        uid: String,
        /// What is wanted.
        object: Box<DaemonSet>,
        /// Told when it is done.
        event: Event,
    },
    /// Delete the one that has this UID.
    Delete {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The DaemonSet's UID.
        uid: String,
        /// Told when it is done; `None` where there is no Service to tell it of.
        event: Option<Event>,
    },
}

/// What is written to a Service's status, in one patch.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusWrite {
    /// The Service's UID.
    pub uid: String,
    /// All that `loadBalancer.ingress` shall hold; `None` leaves it alone.
    pub ingress: Option<Vec<Ingress>>,
    /// Conditions to set.
    pub set_conditions: Vec<Condition>,
    /// Types of conditions to remove.
    pub clear_conditions: Vec<&'static str>,
    /// Told when it is done.
    pub event: Option<Event>,
}

/// An event on a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Warning or Normal.
    pub warning: bool,
    /// One of [`crate::names::reason`].
    pub reason: &'static str,
    /// What happened, in a sentence.
    pub note: String,
    /// How often this very thing has been told before; above 0 it goes on the series that the first one started.
    pub repeated: u32,
}

impl Event {
    pub(crate) fn normal(reason: &'static str, note: String) -> Self {
        Self {
            warning: false,
            reason,
            note,
            repeated: 0,
        }
    }
}
