//! What of each watched object bears on a decision, and nothing else.
//!
//! An object is reduced once, when it arrives, and thrown away. That keeps 10,000 pods small, and "has anything changed
//! that matters?" is `==`: a node's heartbeat changes no fact.

mod daemonset;
mod node;
mod pod;
mod service;
mod slice;

pub(crate) use daemonset::content as daemonset_content;
pub use daemonset::{Content, DaemonSetFacts};
pub use node::{AddressKind, NodeFacts, Readiness};
pub use pod::{PodFacts, PodPhase, Refusal, host_ports};
pub use service::{Ingress, ServiceFacts, ServiceKey, ServicePort, StatusWriter};
pub use slice::{Endpoint, SliceFacts};
