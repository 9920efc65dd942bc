//! Who holds the ports on nodes where the scheduler refused a svclb pod for them: when that is searched, and what counts.
//!
//! A pod that is on its way out holds its ports until it has ended, and the scheduler's refusal stands for a while longer. So
//! a search that finds nobody who stays is no answer yet: it is asked once more.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::conflict::Holder;
use crate::facts::PodFacts;
use crate::publish::earliest;

/// How long the scheduler may take to look at a refused pod again: the most that it backs off.
pub(crate) const NEXT_VERDICT: SignedDuration = SignedDuration::from_secs(10);
/// How soon the holders of a port are searched again while the conflict lasts.
const SEARCH_AGAIN: SignedDuration = SignedDuration::from_mins(30);

/// What is known of the holders of ports, by node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holders(BTreeMap<String, Search>);

/// The search on one node.
#[derive(Clone, Debug)]
struct Search {
    /// The pod that was refused when we asked.
    pod: String,
    asked: Timestamp,
    answered: bool,
    /// Searches for this pod that have been answered.
    answers: u32,
    /// What the last search that has not failed found.
    found: Option<BTreeSet<Holder>>,
}

/// What is known of a node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known<'a> {
    /// The first search is under way.
    Searching,
    /// Nobody who stays was found, which may be because the scheduler has not looked again yet.
    Unsettled,
    /// These hold ports of the pod; none: whoever did has gone since.
    By(Vec<&'a Holder>),
}

impl Holders {
    /// The nodes to search now, of those that refused a pod, and when to look again. All of them are searched when their
    /// number changes: who takes one port often takes another.
    pub(crate) fn nodes_to_search(
        &mut self,
        refused: &BTreeMap<&str, &PodFacts>,
        now: Timestamp,
    ) -> (Vec<String>, Option<Timestamp>) {
        let before = self.0.len();
        self.0.retain(|node, _| refused.contains_key(node.as_str()));
        let is_new = |(node, pod): (&&str, &&PodFacts)| {
            self.0.get(*node).is_none_or(|search| search.pod != pod.uid)
        };
        let changed = self.0.len() < before || refused.iter().any(is_new);
        let (mut nodes, mut look_again) = (Vec::new(), None);
        for (node, pod) in refused {
            let last = self.0.get(*node);
            let same_pod = last.filter(|search| search.pod == pod.uid);
            if let Some(search) = same_pod {
                let due = search.due(pod, changed);
                if due.is_none_or(|due| now < due) {
                    look_again = earliest(look_again, due);
                    continue;
                }
            }
            let next = Search {
                pod: pod.uid.clone(),
                asked: now,
                answered: false,
                answers: same_pod.map_or(0, |search| search.answers),
                found: last.and_then(|search| search.found.clone()),
            };
            self.0.insert((*node).to_owned(), next);
            nodes.push((*node).to_owned());
        }
        (nodes, look_again)
    }

    /// What a search found; nothing if it failed.
    pub(crate) fn found(&mut self, node: &str, holders: Option<BTreeSet<Holder>>) {
        let Some(search) = self.0.get_mut(node) else {
            return;
        };
        search.answered = true;
        if holders.is_some() {
            search.answers += 1;
            search.found = holders;
        }
    }

    /// Who holds ports of `pod`, which `node` refused.
    pub(crate) fn of(&self, node: &str, pod: &PodFacts) -> Known<'_> {
        let Some(search) = self.0.get(node) else {
            return Known::Searching;
        };
        match &search.found {
            None if !search.answered => Known::Searching,
            None => Known::Unsettled,
            Some(_) if search.is_unsettled(pod) => Known::Unsettled,
            Some(found) => {
                let of_pod = found
                    .iter()
                    .filter(|holder| pod.ports.contains(&holder.port));
                Known::By(of_pod.collect())
            }
        }
    }
}

impl Search {
    /// When to search again; not before the search that is under way is answered.
    fn due(&self, pod: &PodFacts, refusals_changed: bool) -> Option<Timestamp> {
        if !self.answered {
            return None;
        }
        let pause = if refusals_changed || self.is_unsettled(pod) {
            NEXT_VERDICT
        } else {
            SEARCH_AGAIN
        };
        Some(self.asked + pause)
    }

    fn is_unsettled(&self, pod: &PodFacts) -> bool {
        let stays = |holder: &Holder| pod.ports.contains(&holder.port) && !holder.leaving;
        self.answers < 2 && !self.found.iter().flatten().any(stays)
    }
}

#[cfg(test)]
mod tests;
