//! Who holds which port on which node.
//!
//! A DaemonSet of ours is the claim: it holds its ports on each node that its affinity admits, whatever its pods do. A claim
//! is never taken from its holder; what is free goes to the oldest Service that can have all its ports on the node.

use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::facts::{DaemonSetFacts, NodeFacts, ServiceFacts, ServiceKey};
use crate::names;
use crate::net::Port;
use crate::nodes::{self, LeftOut};
use crate::standing::{Standing, standing};
use crate::wish::wish;
use crate::world::{ClaimForm, World};

/// One Service among all that have ports in common with it.
pub struct Contest<'a> {
    world: &'a World,
    service: &'a ServiceFacts,
    daemonset: String,
    older: OnceCell<Vec<&'a ServiceFacts>>,
}

/// Where a Service may be served.
#[derive(Debug, Default)]
pub struct Placement<'a> {
    /// On these nodes.
    pub wanted: BTreeMap<&'a str, &'a NodeFacts>,
    /// Not on these.
    pub left_out: BTreeMap<&'a str, LeftOut>,
}

/// Where `service` may be served: labels, then the cluster's own ports, then claims.
#[must_use]
pub fn placement<'a>(world: &'a World, service: &'a ServiceFacts) -> Placement<'a> {
    let contest = Contest::new(world, service);
    let mut placement = Placement::default();
    for node in world.nodes() {
        let verdict = nodes::admitted_by_labels(world, service, node)
            .and_then(|()| nodes::admitted_by_ports(world, service, node))
            .and_then(|()| contest.can_have_all_ports_on(node));
        match verdict {
            Ok(()) => drop(placement.wanted.insert(&node.name, node)),
            Err(reason) => drop(placement.left_out.insert(&node.name, reason)),
        }
    }
    placement
}

impl<'a> Contest<'a> {
    /// The contest as `service` sees it.
    #[must_use]
    pub fn new(world: &'a World, service: &'a ServiceFacts) -> Self {
        let daemonset = names::daemonset(&service.key.name, &service.uid);
        Self {
            world,
            service,
            daemonset,
            older: OnceCell::new(),
        }
    }

    /// Does the Service hold all its ports on the node, or may it take what it lacks? All or nothing.
    pub fn can_have_all_ports_on(&self, node: &NodeFacts) -> Result<(), LeftOut> {
        let mut lacks = false;
        for port in self.service.claims() {
            match self.holder(port, node) {
                Some(holder) if holder.name == self.daemonset => {}
                Some(holder) => {
                    return Err(LeftOut::Claimed {
                        port,
                        by: holder.service.clone(),
                    });
                }
                None => lacks = true,
            }
        }
        if !lacks {
            return Ok(());
        }
        let mut taken: BTreeMap<Port, &ServiceKey> = BTreeMap::new();
        for other in self.older_contenders() {
            if may_use(self.world, other, node) && self.finds_free(other, node, &taken) {
                taken.extend(other.claims().map(|port| (port, &other.key)));
            }
        }
        match self
            .service
            .claims()
            .find_map(|port| Some((port, taken.get(&port)?)))
        {
            Some((port, by)) => Err(LeftOut::Claimed {
                port,
                by: Some((*by).clone()),
            }),
            None => Ok(()),
        }
    }

    fn finds_free(
        &self,
        other: &ServiceFacts,
        node: &NodeFacts,
        taken: &BTreeMap<Port, &ServiceKey>,
    ) -> bool {
        let daemonset = names::daemonset(&other.key.name, &other.uid);
        other.claims().all(|port| {
            !taken.contains_key(&port)
                && self
                    .holder(port, node)
                    .is_none_or(|holder| holder.name == daemonset)
        })
    }

    /// Whose the port is on the node. Where two DaemonSets admit the node, the one with a pod there keeps it, else the older
    /// Service.
    fn holder(&self, port: Port, node: &NodeFacts) -> Option<&'a DaemonSetFacts> {
        self.world
            .claims_on(port)
            .filter(|(_, facts)| facts.admission.admits(node))
            .filter(|(form, facts)| *form != ClaimForm::Vanished || self.comes_back(facts, node))
            .map(|(_, facts)| facts)
            .max_by_key(|facts| (self.has_pod(facts, port, node), Reverse(self.age(facts))))
    }

    fn has_pod(&self, facts: &DaemonSetFacts, port: Port, node: &NodeFacts) -> bool {
        facts.service.as_ref().is_some_and(|service| {
            self.world.pods_of(service).any(|pod| {
                pod.app == facts.name && pod.is_live_on(&node.name) && pod.ports.contains(&port)
            })
        })
    }

    /// Older comes first; a DaemonSet whose Service is gone comes last.
    fn age(&self, facts: &'a DaemonSetFacts) -> (bool, jiff::Timestamp, &'a str) {
        match self.owner(facts) {
            Some(service) => (false, service.created, &service.uid),
            None => (true, jiff::Timestamp::MAX, &facts.name),
        }
    }

    fn owner(&self, facts: &DaemonSetFacts) -> Option<&'a ServiceFacts> {
        let service = self.world.service(facts.service.as_ref()?)?;
        (facts.service_uid.as_ref() == Some(&service.uid)).then_some(service)
    }

    /// A DaemonSet that somebody deleted still claims where its Service will make it anew.
    fn comes_back(&self, facts: &DaemonSetFacts, node: &NodeFacts) -> bool {
        self.owner(facts).is_some_and(|service| {
            facts
                .ports
                .iter()
                .all(|port| service.claims().any(|claim| claim == *port))
                && contends(self.world, service)
                && may_use(self.world, service, node)
        })
    }

    /// The older Services that may be in the way: those with a port in common, and those in the way of these.
    fn older_contenders(&self) -> &[&'a ServiceFacts] {
        self.older.get_or_init(|| {
            let mut seen = BTreeSet::from([&self.service.key]);
            let mut found = Vec::new();
            let mut open = vec![self.service];
            while let Some(next) = open.pop() {
                for other in next
                    .claims()
                    .flat_map(|port| self.world.services_with_port(port))
                {
                    let older =
                        (other.created, &other.uid) < (self.service.created, &self.service.uid);
                    if older && seen.insert(&other.key) && contends(self.world, other) {
                        found.push(other);
                        open.push(other);
                    }
                }
            }
            found.sort_by(|a, b| (a.created, &a.uid).cmp(&(b.created, &b.uid)));
            found
        })
    }
}

/// Would this Service get a DaemonSet if nobody were in the way?
fn contends(world: &World, service: &ServiceFacts) -> bool {
    standing(world, service) == Standing::Serve
        && wish(service, world.proxy_mode(), world.settings())
            .is_ok_and(|wish| !wish.open_families.is_empty())
}

fn may_use(world: &World, service: &ServiceFacts, node: &NodeFacts) -> bool {
    nodes::admitted_by_labels(world, service, node).is_ok()
        && nodes::admitted_by_ports(world, service, node).is_ok()
}

#[cfg(test)]
mod tests;
