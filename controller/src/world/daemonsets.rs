//! DaemonSets in the world: as the watch shows them, as we have just written them, and as they were before somebody deleted
//! them.

use k8s_openapi::api::apps::v1::DaemonSet;

use super::{ObjectKey, Touched, World};
use crate::facts::{DaemonSetFacts, ServiceFacts, ServiceKey};
use crate::names;
use crate::net::Port;

/// In which form a DaemonSet claims a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimForm {
    /// The watch shows it.
    Shown,
    /// We have written it, and the watch does not show that yet.
    Sent,
    /// Somebody deleted it, and its Service has not had its turn since.
    Vanished,
}

/// A DaemonSet that we have written and that the watch has not shown yet.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    facts: DaemonSetFacts,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    UnderWay,
    /// The API server has accepted it.
    Accepted,
    /// A list that was begun since has it, unless somebody has deleted it meanwhile.
    Listed,
}

impl World {
    /// A DaemonSet appeared or changed. All DaemonSets of the cluster may be shown; those without bearing are ignored.
    pub fn apply_daemonset(&mut self, daemonset: &DaemonSet) -> Touched {
        let mut facts = DaemonSetFacts::from(daemonset);
        let key = ObjectKey::new(&facts.namespace, &facts.name);
        let has_such_name =
            facts.namespace == self.settings.namespace && facts.name.starts_with("svclb-");
        let bears = facts.is_ours() || facts.servicelb || has_such_name;
        if !bears && !self.daemonsets.contains_key(&key) {
            return Touched::nothing();
        }
        if self
            .daemonsets
            .get(&key)
            .is_some_and(|before| **before == facts)
        {
            return Touched::nothing();
        }
        let compared = self.daemonsets.get(&key).is_some_and(|before| {
            before.content.text().is_none() && before.content == facts.content
        });
        if compared {
            facts.content.forget_text();
        }
        self.admissions.share(&mut facts.admission);
        let at_work = self.servicelb_at_work();
        let before = self.daemonsets.insert(key.clone(), Box::new(facts));
        let facts = &self.daemonsets[&key];
        let mut touched = self.touched_by(facts);
        if let Some(before) = &before {
            touched.merge(self.touched_by(before));
        }
        if facts.namespace == self.settings.namespace {
            // A deletion that nobody here decided: the Service keeps its ports until it has been looked at.
            if !facts.deleting {
                self.vanished.remove(&key.name);
            } else if let Some(before) = before {
                self.note_vanished(*before);
            }
            if self
                .sent
                .get(&key.name)
                .is_some_and(|sent| sent.facts.applied == self.daemonsets[&key].applied)
            {
                self.sent.remove(&key.name);
            }
            self.index_daemonset(&key.name);
        }
        touched.all |= at_work != self.servicelb_at_work();
        touched
    }

    /// The DaemonSet of this name in our namespace has been compared, and is as wanted: its text need not be kept.
    pub fn daemonset_as_wanted(&mut self, name: &str) {
        let key = self.in_our_namespace(name);
        if let Some(facts) = self.daemonsets.get_mut(&key) {
            facts.content.forget_text();
        }
    }

    /// A DaemonSet is gone.
    pub fn remove_daemonset(&mut self, key: &ObjectKey) -> Touched {
        let at_work = self.servicelb_at_work();
        let Some(before) = self.daemonsets.remove(key) else {
            return Touched::nothing();
        };
        if key.namespace == self.settings.namespace {
            // What was sent over it went with it.
            self.sent.remove(&key.name);
        }
        let mut touched = self.touched_by(&before);
        touched.all |= at_work != self.servicelb_at_work();
        self.note_vanished(*before);
        touched
    }

    fn note_vanished(&mut self, before: DaemonSetFacts) {
        let by_us = self.deleted.remove(&before.uid);
        let is_claim = before.is_ours() && !before.deleting;
        if is_claim && !by_us && before.namespace == self.settings.namespace {
            self.vanished.insert(before.name.clone(), before);
        } else {
            self.leave_index(&before);
        }
    }

    /// The Service has had its turn, and its writes are under way: what somebody deleted and it has not made anew claims
    /// nothing any more.
    pub fn service_had_its_turn(&mut self, service: &ServiceKey) -> Touched {
        let of_service = |facts: &&DaemonSetFacts| facts.service.as_ref() == Some(service);
        let gone: Vec<DaemonSetFacts> =
            self.vanished.values().filter(of_service).cloned().collect();
        let mut touched = Touched::nothing();
        for facts in gone {
            self.vanished.remove(&facts.name);
            self.leave_index(&facts);
            touched.merge(self.touched_by(&facts));
        }
        touched
    }

    /// A DaemonSet is about to be created or applied: its claims count from now on, before the watch shows it.
    pub fn daemonset_sent(&mut self, daemonset: &DaemonSet) {
        let facts = DaemonSetFacts::from(daemonset);
        let name = facts.name.clone();
        self.vanished.remove(&name);
        let stage = Stage::UnderWay;
        self.sent.insert(name.clone(), Sent { facts, stage });
        self.index_daemonset(&name);
    }

    /// The API server has accepted it.
    pub fn daemonset_accepted(&mut self, name: &str) {
        if let Some(sent) = self.sent.get_mut(name) {
            sent.stage = Stage::Accepted;
        }
    }

    /// The DaemonSets are about to be listed anew.
    pub fn daemonset_list_begins(&mut self) {
        for sent in self.sent.values_mut() {
            if sent.stage == Stage::Accepted {
                sent.stage = Stage::Listed;
            }
        }
    }

    /// The list is complete: what it should have had and did not is gone, and no watch will ever show it.
    pub fn daemonset_list_ended(&mut self) -> Touched {
        let sent = self.sent.iter();
        let gone: Vec<String> = sent
            .filter(|(_, sent)| sent.stage == Stage::Listed)
            .map(|(name, _)| name.clone())
            .collect();
        let mut touched = Touched::nothing();
        for name in gone {
            touched.merge(self.daemonset_not_sent(&name));
        }
        touched
    }

    /// The write did not happen: its claims are void.
    pub fn daemonset_not_sent(&mut self, name: &str) -> Touched {
        match self.sent.remove(name) {
            Some(Sent { facts, .. }) => {
                self.leave_index(&facts);
                self.touched_by(&facts)
            }
            None => Touched::nothing(),
        }
    }

    /// We are about to delete the DaemonSet of this UID: once it goes, it claims nothing.
    pub fn daemonset_deleted(&mut self, uid: &str) {
        self.deleted.insert(uid.to_owned());
    }

    /// The deletion did not happen.
    pub fn daemonset_not_deleted(&mut self, uid: &str) {
        self.deleted.remove(uid);
    }

    /// Have we deleted the DaemonSet of this UID, and the watch does not show that yet?
    #[must_use]
    pub fn is_being_deleted(&self, uid: &str) -> bool {
        self.deleted.contains(uid)
    }

    /// The indices name a DaemonSet in any of its forms; who reads them looks at the DaemonSet itself.
    fn index_daemonset(&mut self, name: &str) {
        let facts = [
            self.daemonset_in_flight(name),
            self.vanished.get(name),
            self.daemonset(name),
        ];
        let facts = facts.into_iter().flatten();
        let (services, ports): (Vec<_>, Vec<_>) = facts
            .map(|facts| (facts.service.clone(), facts.ports.clone()))
            .unzip();
        for service in services.into_iter().flatten() {
            self.by_service.add(service, name.to_owned());
        }
        for port in ports.into_iter().flatten() {
            self.by_port.add(port, name.to_owned());
        }
    }

    /// The last form of a DaemonSet is gone from the indices as well.
    fn leave_index(&mut self, gone: &DaemonSetFacts) {
        let name = &gone.name;
        let remains = self.sent.contains_key(name)
            || self.vanished.contains_key(name)
            || self.daemonset(name).is_some();
        if remains || gone.namespace != self.settings.namespace {
            return;
        }
        if let Some(service) = &gone.service {
            self.by_service.remove(service, name);
        }
        for port in &gone.ports {
            self.by_port.remove(port, name);
        }
    }

    /// The Service that a DaemonSet is for, the one whose DaemonSet would have its name, and those that want one of its ports.
    fn touched_by(&self, facts: &DaemonSetFacts) -> Touched {
        let displaced = (facts.service.is_none() && facts.name.starts_with("svclb-"))
            .then(|| {
                let own = |service: &&ServiceFacts| {
                    names::daemonset(&service.key.name, &service.uid) == facts.name
                };
                self.services().find(own)
            })
            .flatten()
            .map(|service| &service.key);
        let others = facts.ports.iter().flat_map(|port| self.wanting.of(port));
        Touched::these(others.chain(&facts.service).chain(displaced).cloned())
    }

    /// Is k3s' or RKE2's own ServiceLB at work? Its mark on any DaemonSet says so, whoever made that.
    #[must_use]
    pub fn servicelb_at_work(&self) -> bool {
        self.servicelb_daemonsets().next().is_some()
    }

    /// The DaemonSets that carry ServiceLB's mark.
    pub fn servicelb_daemonsets(&self) -> impl Iterator<Item = &DaemonSetFacts> {
        let all = self.daemonsets.values().map(Box::as_ref);
        all.filter(|facts| facts.servicelb)
    }

    /// The DaemonSets that we made and that are still there, whoever has put a mark on them since.
    pub fn our_daemonsets(&self) -> impl Iterator<Item = &DaemonSetFacts> {
        let all = self.daemonsets.values().map(Box::as_ref);
        all.filter(|facts| facts.is_ours())
    }

    /// The DaemonSet of this name in our namespace, as the watch shows it.
    #[must_use]
    pub fn daemonset(&self, name: &str) -> Option<&DaemonSetFacts> {
        let there = self.daemonsets.get(&self.in_our_namespace(name));
        there.map(Box::as_ref)
    }

    /// The DaemonSet of this name that we have sent and the watch has not shown yet.
    #[must_use]
    pub fn daemonset_in_flight(&self, name: &str) -> Option<&DaemonSetFacts> {
        self.sent.get(name).map(|sent| &sent.facts)
    }

    /// The DaemonSets in our namespace that are for this Service or one of its name before it.
    pub fn daemonsets_of<'a>(
        &'a self,
        service: &ServiceKey,
    ) -> impl Iterator<Item = &'a DaemonSetFacts> + use<'a> {
        let names = self.by_service.of(service).iter();
        names.filter_map(|name| self.daemonset(name))
    }

    /// The DaemonSets of ours that claim this port somewhere, in each form in which they do.
    pub fn claims_on(&self, port: Port) -> impl Iterator<Item = (ClaimForm, &DaemonSetFacts)> {
        self.by_port.of(&port).iter().flat_map(move |name| {
            let shown = self
                .daemonset(name)
                .filter(|facts| facts.is_ours() && !facts.deleting);
            let forms = [
                (ClaimForm::Shown, shown),
                (ClaimForm::Sent, self.daemonset_in_flight(name)),
                (ClaimForm::Vanished, self.vanished.get(name)),
            ];
            forms.into_iter().filter_map(move |(form, facts)| {
                Some((form, facts.filter(|facts| facts.ports.contains(&port))?))
            })
        })
    }

    fn in_our_namespace(&self, name: &str) -> ObjectKey {
        ObjectKey::new(&self.settings.namespace, name)
    }
}
