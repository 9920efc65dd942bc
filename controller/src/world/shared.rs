//! What most DaemonSets demand of a node is the same: it is kept once.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Weak};

use crate::selector::Admission;

/// The admissions that DaemonSets hold now, by a hash of their JSON.
#[derive(Clone, Debug, Default)]
pub(super) struct Admissions {
    held: HashMap<u64, Weak<Admission>>,
    /// At this size those are dropped that no DaemonSet holds any more.
    tidy_at: usize,
}

impl Admissions {
    /// Puts the one that is there already in place of its equal.
    pub(super) fn share(&mut self, admission: &mut Arc<Admission>) {
        let mut hasher = DefaultHasher::new();
        admission.to_json().hash(&mut hasher);
        let hash = hasher.finish();
        match self.held.get(&hash).and_then(Weak::upgrade) {
            Some(there) if there == *admission => *admission = there,
            // Two of one hash: the second is not shared.
            Some(_) => {}
            None => {
                self.held.insert(hash, Arc::downgrade(admission));
            }
        }
        if self.held.len() > self.tidy_at {
            self.held.retain(|_, held| held.strong_count() > 0);
            self.tidy_at = 64 + 2 * self.held.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;

    use super::*;

    fn on(os: &str) -> Arc<Admission> {
        let selector = [("kubernetes.io/os".to_owned(), os.to_owned())];
        Arc::new(Admission::from(&PodSpec {
            node_selector: Some(selector.into()),
            ..PodSpec::default()
        }))
    }

    #[test]
    fn equal_admissions_become_one_and_others_stay_apart() {
        let mut admissions = Admissions::default();
        let (mut first, mut second, mut other) = (on("linux"), on("linux"), on("plan9"));
        for admission in [&mut first, &mut second, &mut other] {
            admissions.share(admission);
        }
        assert!(Arc::ptr_eq(&first, &second));
        assert_ne!(first, other);
    }

    #[test]
    fn what_nobody_holds_any_more_is_dropped() {
        let mut admissions = Admissions::default();
        for number in 0..1000 {
            admissions.share(&mut on(&number.to_string()));
        }
        assert!(admissions.held.len() <= 65, "{}", admissions.held.len());
    }
}
