//! When the status is written: only when it differs, not in a burst, and not against somebody else.

use jiff::{SignedDuration, Timestamp};

use crate::decision::{Decision, Event, StatusWrite};
use crate::facts::{Ingress, ServiceFacts};
use crate::memory::{ServiceMemory, SteppedBack};
use crate::names::reason;
use crate::publish::earliest;
use crate::told::Notice;

/// How long a change waits for others. The first address does not.
const BATCH: SignedDuration = SignedDuration::from_millis(100);
/// Somebody who writes over us twice within this time is another manager.
const FIGHT: SignedDuration = SignedDuration::from_secs(60);
/// How long we stay away then.
const STEP_BACK: SignedDuration = SignedDuration::from_mins(10);
/// When we stop waiting for the watch to show what we wrote.
const UNSEEN: SignedDuration = SignedDuration::from_secs(5);

/// The addresses in status: what we wrote, where the watch does not show it yet.
pub(crate) fn listed<'a>(service: &'a ServiceFacts, memory: &'a ServiceMemory) -> &'a [Ingress] {
    match &memory.written {
        Some(written) if !written.seen => &written.ingress,
        _ => &service.ingress,
    }
}

/// Learns from the status that is there whether somebody else writes it too.
pub(crate) fn watch_for_others(service: &ServiceFacts, memory: &mut ServiceMemory, now: Timestamp) {
    let edited = |back: &SteppedBack| back.edition != service.edition || back.until <= now;
    if memory.stepped_back.as_ref().is_some_and(edited) {
        memory.stepped_back = None;
        memory.overwritten.clear();
    }
    if !service.load_balancer {
        // The API server itself has cleared the addresses.
        memory.written = None;
    }
    let Some(written) = &mut memory.written else {
        return;
    };
    if written.ingress == service.ingress {
        written.seen = true;
        written.unseen_since = None;
        return;
    }
    if !written.seen {
        if now < *written.unseen_since.get_or_insert(now) + UNSEEN {
            return;
        }
        // Lost, or somebody was so fast that the watch showed us his version at once.
        if service.status_writer == memory.written_over {
            memory.written = None;
            return;
        }
    }
    memory.written = None;
    memory.overwritten.retain(|at| now < *at + FIGHT);
    memory.overwritten.push(now);
    if memory.overwritten.len() >= 2 {
        let manager = service
            .status_writer
            .as_ref()
            .map_or("another controller", |writer| &writer.manager);
        memory.stepped_back = Some(SteppedBack {
            manager: manager.to_owned(),
            until: now + STEP_BACK,
            edition: service.edition,
        });
    }
}

/// Decides whether to write `wanted` now.
pub(crate) fn write(
    service: &ServiceFacts,
    wanted: Vec<Ingress>,
    notices: &[Notice],
    memory: &mut ServiceMemory,
    now: Timestamp,
    decision: &mut Decision,
) {
    if let Some(back) = &memory.stepped_back {
        decision.recheck_at = earliest(decision.recheck_at, Some(back.until));
        return;
    }
    if let Some(since) = memory
        .written
        .as_ref()
        .and_then(|written| written.unseen_since)
    {
        decision.recheck_at = earliest(decision.recheck_at, Some(since + UNSEEN));
    }
    let listed = listed(service, memory);
    let (set_conditions, clear_conditions) =
        crate::condition::changes(&service.conditions, notices, now);
    let differs = listed != wanted;
    if !differs && set_conditions.is_empty() && clear_conditions.is_empty() {
        memory.differs_since = None;
        return;
    }
    let first = listed.is_empty() && differs;
    let event = if differs {
        updated(listed, &wanted)
    } else {
        None
    };
    let due = *memory.differs_since.get_or_insert(now) + BATCH;
    if !first && now < due {
        decision.recheck_at = earliest(decision.recheck_at, Some(due));
        return;
    }
    memory.differs_since = None;
    if differs {
        memory.written_over.clone_from(&service.status_writer);
    }
    decision.status = Some(StatusWrite {
        uid: service.uid.clone(),
        ingress: differs.then_some(wanted),
        set_conditions,
        clear_conditions,
        event,
    });
}

/// The contract's event for a change of addresses.
pub(crate) fn updated(old: &[Ingress], new: &[Ingress]) -> Option<Event> {
    let list = |ingress: &[Ingress]| {
        ingress
            .iter()
            .map(|one| one.address.as_str())
            .collect::<Vec<_>>()
            .join(" ")
    };
    (old != new).then(|| {
        let note = format!(
            "Updated LoadBalancer with new IPs: [{}] -> [{}]",
            list(old),
            list(new)
        );
        Event::normal(reason::UPDATED_LOAD_BALANCER, note)
    })
}

#[cfg(test)]
mod tests;
