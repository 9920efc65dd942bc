//! What is told, and how often: events end after an hour, so what still holds is repeated, and nothing is told in a loop.

use jiff::{SignedDuration, Timestamp};

use crate::decision::Event;
use crate::memory::{ServiceMemory, Told};
use crate::names::{condition, reason};
use crate::publish::earliest;

/// How soon the same matter may be told in other words.
const CHANGE: SignedDuration = SignedDuration::from_secs(30);
/// What comes back within this time has not been gone: a container that ends again and again is one matter.
const LINGER: SignedDuration = SignedDuration::from_secs(60);

/// Something that holds now and that the user should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// One of [`crate::names::reason`]; there is at most one notice for each.
    pub reason: &'static str,
    /// The whole of it, in a sentence.
    pub note: String,
    /// A Warning is repeated while it holds, anything else is told once.
    pub warning: bool,
    /// The type of the condition that says so too.
    pub condition: Option<&'static str>,
}

/// Which of the notices to tell now, and when to look again. A Warning that still holds comes again after `repeat`.
pub(crate) fn tell(
    memory: &mut ServiceMemory,
    notices: &[Notice],
    repeat: SignedDuration,
    now: Timestamp,
) -> (Vec<Event>, Option<Timestamp>) {
    let (mut events, mut recheck_at) = (Vec::new(), None);
    for notice in notices {
        let event = |repeated| Event {
            warning: notice.warning,
            reason: notice.reason,
            note: notice.note.clone(),
            repeated,
        };
        let Some(told) = memory.told.get_mut(notice.reason) else {
            let told = Told {
                note: notice.note.clone(),
                at: now,
                repeated: 0,
                gone_since: None,
            };
            memory.told.insert(notice.reason, told);
            events.push(event(0));
            recheck_at = earliest(recheck_at, notice.warning.then_some(now + repeat));
            continue;
        };
        told.gone_since = None;
        let changed = told.note != notice.note;
        let due = if changed {
            Some(told.at + CHANGE)
        } else {
            notice.warning.then_some(told.at + repeat)
        };
        if due.is_some_and(|due| due <= now) {
            told.repeated = if changed { 0 } else { told.repeated + 1 };
            told.note.clone_from(&notice.note);
            told.at = now;
            events.push(event(told.repeated));
            recheck_at = earliest(recheck_at, notice.warning.then_some(now + repeat));
        } else {
            recheck_at = earliest(recheck_at, due);
        }
    }
    for (reason, told) in &mut memory.told {
        if !notices.iter().any(|notice| notice.reason == *reason) {
            let gone_since = *told.gone_since.get_or_insert(now);
            recheck_at = earliest(recheck_at, Some(gone_since + LINGER));
        }
    }
    memory
        .told
        .retain(|_, told| told.gone_since.is_none_or(|since| now < since + LINGER));
    (events, recheck_at)
}

/// What has gone so lately that it may come back in a moment: a container between two ends.
pub(crate) fn lingering(memory: &ServiceMemory) -> Option<Notice> {
    let told = memory.told.get(reason::POD_NOT_RUNNING)?;
    (told.gone_since.is_some()).then(|| again(told, reason::POD_NOT_RUNNING, condition::DEGRADED))
}

/// The conflict of ports that was told last, if it still holds as far as is known.
pub(crate) fn port_conflict(memory: &ServiceMemory) -> Option<Notice> {
    let told = memory.told.get(reason::PORT_CONFLICT)?;
    (told.gone_since.is_none()).then(|| again(told, reason::PORT_CONFLICT, condition::PORTS_ERROR))
}

fn again(told: &Told, reason: &'static str, condition: &'static str) -> Notice {
    Notice {
        reason,
        note: told.note.clone(),
        warning: true,
        condition: Some(condition),
    }
}
