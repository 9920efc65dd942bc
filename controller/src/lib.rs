//! The controller of svclb: it serves Services of `type: LoadBalancer` with the nodes' own addresses.
//!
//! The core is pure: no clock, no network. [`world::World`] holds the facts of all watched objects ([`facts`]),
//! [`memory::Memory`] what they do not show, and [`decide::decide`] answers, for one Service and one moment, what is to be done
//! ([`decision::Decision`]). The shell feeds the watches into the world, decides again for whom a change touches, and carries
//! out what was decided, one Service's claims at a time:
//!
//! ```text
//! watch event -> world.apply_…(&object) / remove_…(key) -> Touched: these Services again
//! decide(&world, &key, &mut memory, now) -> Decision
//!   finalizer Add                    -> patch services/status
//!   DaemonSetStep::Create, Apply     -> world.daemonset_sent(&object) first; on failure world.daemonset_not_sent(name)
//!   DaemonSetStep::Delete            -> world.daemonset_deleted(uid) first
//!   StatusWrite                      -> patch services/status; when accepted memory.status_written(&key, &ingress)
//!   find_holders                     -> list the pods of each node, conflict::held_by each, memory.holders_found(..), decide again
//!   finalizer Remove                 -> patch services/status
//!   events                           -> tell; a step's own event only when the step is done
//!   recheck_at                       -> decide again then
//! no answer for 5 s -> memory.api_silent(since); an answer again -> memory.api_answers(now), decide again for all
//! after a watch has been listed anew: remove_… whatever the list no longer has
//! ```

pub mod addresses;
pub mod carry_out;
pub mod claims;
pub mod client;
mod condition;
pub mod conflict;
pub mod controller;
pub mod daemonset;
pub mod decide;
pub mod decision;
mod diagnose;
pub mod drift;
pub mod endpoints;
pub mod facts;
pub mod flags;
mod holders;
pub mod http;
pub mod lease;
pub mod ledger;
pub mod logs;
pub mod memory;
pub mod metrics;
pub mod names;
pub mod net;
pub mod nodes;
pub mod publish;
pub mod queue;
pub mod recorder;
pub mod release;
pub mod run;
pub mod selector;
mod serve;
pub mod settings;
pub mod standing;
mod status;
pub mod told;
pub mod tolerations;
pub mod trust;
pub mod watch;
pub mod wish;
pub mod world;
pub mod write;

#[cfg(test)]
mod fixtures;
