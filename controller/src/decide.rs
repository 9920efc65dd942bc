//! One Service, one moment: what is to be done.

use jiff::{SignedDuration, Timestamp};

use crate::condition;
use crate::decision::{DaemonSetStep, Decision, Event, FinalizerStep, StatusWrite};
use crate::diagnose;
use crate::facts::{DaemonSetFacts, ServiceFacts, ServiceKey};
use crate::memory::{Memory, ServiceMemory};
use crate::names::{self, reason};
use crate::publish::earliest;
use crate::serve;
use crate::standing::{Standing, standing};
use crate::status;
use crate::told;
use crate::world::World;

/// How long a write may take until the watch shows it; then it is asked for again.
const IN_FLIGHT: SignedDuration = SignedDuration::from_secs(5);

/// What is to be done about the Service of this key now, or about what is left of it.
pub fn decide(world: &World, key: &ServiceKey, memory: &mut Memory, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    let Some(service) = world.service(key) else {
        memory.forget(key);
        decision.daemonsets = world
            .daemonsets_of(key)
            .filter(|left| may_delete(world, left))
            .map(delete)
            .collect();
        return decision;
    };
    let own = names::daemonset(&service.key.name, &service.uid);
    // Left over from a Service of the same name, or from a time when we did not run.
    let strays = world
        .daemonsets_of(key)
        .filter(|left| left.name != own && may_delete(world, left));
    decision.daemonsets = strays.map(delete).collect();
    match standing(world, service) {
        Standing::Serve => serve::serve(world, service, memory, now, &mut decision),
        Standing::Release => release(world, service, &own, memory.of(service), now, &mut decision),
        Standing::Foreign => {
            memory.forget(key);
            decision.daemonsets.extend(delete_own(world, &own));
        }
        Standing::ServiceLb => {
            let memory = memory.of(service);
            *memory = ServiceMemory {
                uid: service.uid.clone(),
                told: std::mem::take(&mut memory.told),
                ..ServiceMemory::default()
            };
            (decision.events, decision.recheck_at) = told::tell(
                memory,
                &[diagnose::servicelb(world)],
                world.settings().repeat_warnings,
                now,
            );
        }
        Standing::LeaveAlone => memory.forget(key),
    }
    decision
}

/// DaemonSet first, then status and conditions, then the finalizer: nothing is left, and nothing hangs.
fn release(
    world: &World,
    service: &ServiceFacts,
    own: &str,
    memory: &mut ServiceMemory,
    now: Timestamp,
    decision: &mut Decision,
) {
    decision.daemonsets.extend(delete_own(world, own));
    status::watch_for_others(service, memory, now);
    // Somebody who keeps writing the addresses may have them; the conditions are ours.
    let left_to_other = memory.stepped_back.is_some();
    let has_addresses = !service.ingress.is_empty() && !left_to_other;
    if has_addresses || !service.conditions.is_empty() {
        if not_lately(&mut memory.clearing_asked, now, decision) {
            let (_, clear_conditions) = condition::changes(&service.conditions, &[], now);
            decision.status = Some(StatusWrite {
                uid: service.uid.clone(),
                ingress: has_addresses.then(Vec::new),
                set_conditions: Vec::new(),
                clear_conditions,
                event: if has_addresses {
                    status::updated(&service.ingress, &[])
                } else {
                    None
                },
            });
        }
        return;
    }
    memory.clearing_asked = None;
    let daemonset_gone = world.daemonset_in_flight(own).is_none()
        && world
            .daemonset(own)
            .is_none_or(|own| own.deleting || !own.is_ours() || own.servicelb);
    if !service.finalizer {
        memory.removal_asked = None;
    } else if daemonset_gone && not_lately(&mut memory.removal_asked, now, decision) {
        decision.finalizer = FinalizerStep::Remove {
            uid: service.uid.clone(),
        };
    }
}

/// The deletion of a Service's own DaemonSet, told to its user.
pub(crate) fn delete_own(world: &World, own: &str) -> Option<DaemonSetStep> {
    let own = world.daemonset(own).filter(|own| may_delete(world, own))?;
    let mut step = delete(own);
    if let DaemonSetStep::Delete { event, .. } = &mut step {
        let note = format!(
            "Deleted LoadBalancer DaemonSet {}/{}",
            own.namespace, own.name
        );
        *event = Some(Event::normal(reason::DELETED_DAEMONSET, note));
    }
    Some(step)
}

fn delete(daemonset: &DaemonSetFacts) -> DaemonSetStep {
    DaemonSetStep::Delete {
        namespace: daemonset.namespace.clone(),
        name: daemonset.name.clone(),
        uid: daemonset.uid.clone(),
        event: None,
    }
}

/// One that ServiceLB has taken for its own is its own.
fn may_delete(world: &World, daemonset: &DaemonSetFacts) -> bool {
    daemonset.is_ours()
        && !daemonset.servicelb
        && !daemonset.deleting
        && !world.is_being_deleted(&daemonset.uid)
}

/// Whether to ask for a write: not again while the last patch may still be under way.
pub(crate) fn not_lately(
    asked: &mut Option<Timestamp>,
    now: Timestamp,
    decision: &mut Decision,
) -> bool {
    let again = asked
        .map(|asked| asked + IN_FLIGHT)
        .filter(|again| now < *again);
    if again.is_some() {
        decision.recheck_at = earliest(decision.recheck_at, again);
        return false;
    }
    *asked = Some(now);
    true
}

#[cfg(test)]
mod tests;
