//! The conditions in a Service's status: for machines, the whole of what the events say.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::names::condition;
use crate::told::Notice;

/// The longest message that the API server takes.
const LONGEST: usize = 32 * 1024;

/// The conditions to set, and the types of those to remove, so that `there` becomes what the notices say.
pub(crate) fn changes(
    there: &[Condition],
    notices: &[Notice],
    now: Timestamp,
) -> (Vec<Condition>, Vec<&'static str>) {
    let (mut set, mut clear) = (Vec::new(), Vec::new());
    for kind in condition::OURS {
        let before = there.iter().find(|condition| condition.type_ == kind);
        match wanted(kind, notices, before, now) {
            Some(wanted) if before == Some(&wanted) => {}
            Some(wanted) => set.push(wanted),
            None if before.is_some() => clear.push(kind),
            None => {}
        }
    }
    (set, clear)
}

fn wanted(
    kind: &'static str,
    notices: &[Notice],
    before: Option<&Condition>,
    now: Timestamp,
) -> Option<Condition> {
    let of_kind = || {
        notices
            .iter()
            .filter(|notice| notice.condition == Some(kind))
    };
    let reason = of_kind().next()?.reason;
    let mut message = of_kind()
        .map(|notice| notice.note.as_str())
        .collect::<Vec<_>>()
        .join("; ");
    message.truncate(message.floor_char_boundary(LONGEST));
    // It has been true since it appeared; a change of its words is no transition.
    let since = before
        .filter(|before| before.status == "True")
        .map(|before| before.last_transition_time.clone());
    Some(Condition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: reason.to_owned(),
        message,
        last_transition_time: since.unwrap_or_else(|| Time(whole_second(now))),
        observed_generation: None,
    })
}

/// As the API server keeps it; with a fraction it would come back as another value.
fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
