//! A Service that is served: its DaemonSet, its addresses, and what there is to say.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::DaemonSet;

use crate::addresses::AddressRules;
use crate::claims::{Contest, Placement, placement};
use crate::daemonset::{NodeRules, RollOut, daemonset};
use crate::decide::{delete_own, not_lately};
use crate::decision::{DaemonSetStep, Decision, Event, FinalizerStep};
use crate::diagnose;
use crate::drift;
use crate::facts::{Ingress, NodeFacts, Readiness, ServiceFacts};
use crate::memory::{Memory, Outages, ServiceMemory};
use crate::names::{self, reason};
use crate::net::Port;
use crate::publish::{Ground, earliest, publish};
use crate::selector::Admission;
use crate::settings::IpMode;
use crate::status;
use crate::told::{self, Notice};
use crate::trust::Trust;
use crate::wish::{Wish, wish};
use crate::world::World;

/// How long addresses that we found stay without a Ready pod of ours.
const TAKE_OVER: SignedDuration = SignedDuration::from_secs(60);

/// One Service at one moment.
struct Turn<'a> {
    world: &'a World,
    service: &'a ServiceFacts,
    /// Its DaemonSet's name.
    name: &'a str,
    outages: Outages,
    now: Timestamp,
    memory: ServiceMemory,
    notices: Vec<Notice>,
    decision: &'a mut Decision,
}

/// Decides about a Service that is served.
pub(crate) fn serve(
    world: &World,
    service: &ServiceFacts,
    memory: &mut Memory,
    now: Timestamp,
    decision: &mut Decision,
) {
    let name = names::daemonset(&service.key.name, &service.uid);
    let is_new = !memory.knows(service);
    let mut turn = Turn {
        world,
        service,
        name: &name,
        outages: memory.outages,
        now,
        memory: std::mem::take(memory.of(service)),
        notices: Vec::new(),
        decision,
    };
    if is_new {
        turn.begin();
    }
    turn.serve();
    *memory.of(service) = turn.memory;
}

impl Turn<'_> {
    /// Addresses without a DaemonSet of ours are another's, whose place we take.
    fn begin(&mut self) {
        let there = self.world.daemonset(self.name);
        if !self.service.ingress.is_empty() && there.is_none_or(|there| !there.is_ours()) {
            self.memory.taken_over_until = Some(self.now + TAKE_OVER);
        }
    }

    fn serve(&mut self) {
        status::watch_for_others(self.service, &mut self.memory, self.now);
        self.ask_for_finalizer();
        let wish = wish(self.service, self.world.proxy_mode(), self.world.settings());
        self.notices = diagnose::of_wish(self.service, &wish);
        let ingress = match &wish {
            Ok(wish) => self.as_wished(wish),
            Err(_) => self.as_before(),
        };
        let (world, service) = (self.world, self.service);
        let (not_created, due) =
            diagnose::pods_not_created(world, service, self.name, &mut self.memory, self.now);
        self.recheck(due);
        self.notices.extend(not_created);
        self.notices
            .extend(diagnose::pods(world, service, self.name));
        if let Some(back) = &self.memory.stepped_back {
            self.notices.push(diagnose::status_conflict(&back.manager));
        }
        let repeat = self.world.settings().repeat_warnings;
        let (events, recheck_at) = told::tell(&mut self.memory, &self.notices, repeat, self.now);
        self.decision.events.extend(events);
        self.recheck(recheck_at);
        self.notices.extend(told::lingering(&self.memory));
        status::write(
            self.service,
            ingress,
            &self.notices,
            &mut self.memory,
            self.now,
            self.decision,
        );
    }

    fn recheck(&mut self, at: Option<Timestamp>) {
        self.decision.recheck_at = earliest(self.decision.recheck_at, at);
    }

    fn ask_for_finalizer(&mut self) {
        if self.service.finalizer {
            self.memory.finalizer_asked = None;
            self.memory.removal_asked = None;
        } else if not_lately(&mut self.memory.finalizer_asked, self.now, self.decision) {
            self.decision.finalizer = FinalizerStep::Add {
                uid: self.service.uid.clone(),
            };
        }
    }

    /// With a wish that can be read: the DaemonSet is made what it should be.
    fn as_wished(&mut self, wish: &Wish) -> Vec<Ingress> {
        let (world, service) = (self.world, self.service);
        let placement = placement(world, service);
        self.search_holders(&placement);
        self.notices.extend(diagnose::ports(
            world,
            service,
            &placement,
            &self.memory,
            self.name,
        ));
        if placement.wanted.is_empty() || wish.open_families.is_empty() {
            if placement.wanted.is_empty() {
                self.notices.extend(diagnose::no_node(&placement, None));
            }
            self.decision
                .daemonsets
                .extend(delete_own(world, self.name));
            self.memory.nodes.clear();
            return Vec::new();
        }
        let addresses = AddressRules::new(wish, world.proxy_mode(), world.settings());
        let left_out = placement.left_out.iter().filter(|(_, why)| !why.by_label());
        let rules = NodeRules {
            allow_listing: world.allow_listing(),
            left_out: left_out.map(|(name, _)| *name).collect(),
        };
        let roll_out = roll_out(world, self.name, &placement, wish, &addresses);
        let wanted = daemonset(service, wish, &rules, roll_out, world.settings());
        let template = wanted
            .spec
            .as_ref()
            .and_then(|spec| spec.template.spec.as_ref());
        let admission = template.map(Admission::from).unwrap_or_default();
        self.notices
            .extend(diagnose::no_node(&placement, Some(&admission)));
        match step(world, self.name, wanted) {
            Step::AsWanted => self.decision.as_wanted = Some(self.name.to_owned()),
            Step::Later => {}
            Step::Now(step) => self.decision.daemonsets.push(step),
        }

        let ports: BTreeSet<Port> = service.claims().collect();
        self.publish(&Ground {
            service,
            daemonset: self.name,
            wanted: &placement.wanted,
            admission: &admission,
            ports: &ports,
            families: &wish.open_families,
            addresses: &addresses,
            ip_mode: wish.ip_mode,
        })
    }

    /// With a wish that cannot be read: what worked works on, and nothing comes to it.
    fn as_before(&mut self) -> Vec<Ingress> {
        let (world, service) = (self.world, self.service);
        let Some(there) = world.daemonset(self.name).filter(|there| there.is_ours()) else {
            return Vec::new();
        };
        let contest = Contest::new(world, service);
        let admitted = world.nodes().filter(|node| there.admission.admits(node));
        let wanted: BTreeMap<&str, &NodeFacts> = admitted
            .filter(|node| contest.can_have_all_ports_on(node).is_ok())
            .map(|node| (node.name.as_str(), node))
            .collect();
        let may_stay = self.publish(&Ground {
            service,
            daemonset: self.name,
            wanted: &wanted,
            admission: &there.admission,
            ports: &there.ports,
            families: &service.families,
            addresses: &AddressRules::any_of(world.proxy_mode(), world.settings()),
            ip_mode: IpMode::Vip,
        });
        let listed = status::listed(service, &self.memory).iter();
        let stays = |old: &&Ingress| may_stay.iter().any(|new| new.address == old.address);
        listed.filter(stays).cloned().collect()
    }

    fn publish(&mut self, ground: &Ground<'_>) -> Vec<Ingress> {
        let candidates = ground.wanted.values().filter(|node| !node.leaving).copied();
        let trust = Trust::new(self.outages, candidates, self.now);
        let listed = status::listed(self.service, &self.memory).to_vec();
        let published = publish(
            self.world,
            ground,
            &trust,
            &listed,
            &mut self.memory,
            self.now,
        );
        self.recheck(published.recheck_at);
        published.ingress
    }

    /// Asks who holds the ports on nodes that refused a pod.
    fn search_holders(&mut self, placement: &Placement<'_>) {
        let refused = diagnose::refused(self.world, self.service, self.name, true)
            .filter_map(|pod| Some((pod.target.as_deref()?, pod)))
            .filter(|(node, _)| placement.wanted.contains_key(node))
            .collect();
        let (nodes, look_again) = self.memory.holders.nodes_to_search(&refused, self.now);
        self.decision.find_holders.extend(nodes);
        self.recheck(look_again);
    }
}

/// What is to be done about the DaemonSet.
enum Step {
    /// Nothing: it has been compared.
    AsWanted,
    /// Nothing now: something is under way, or it is not ours to touch.
    Later,
    /// This.
    Now(DaemonSetStep),
}

/// What brings the DaemonSet that is there to what is wanted.
fn step(world: &World, name: &str, wanted: DaemonSet) -> Step {
    let applied = wanted
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(names::APPLIED));
    let in_flight = world.daemonset_in_flight(name);
    if in_flight.is_some_and(|in_flight| in_flight.applied.as_ref() == applied) {
        return Step::Later;
    }
    let namespace = &world.settings().namespace;
    let note = format!("Applied LoadBalancer DaemonSet {namespace}/{name}");
    let event = Event::normal(reason::APPLIED_DAEMONSET, note);
    let Some(there) = world.daemonset(name) else {
        // One that is being created has no UID yet to apply over.
        if in_flight.is_some() {
            return Step::Later;
        }
        return Step::Now(DaemonSetStep::Create {
            object: Box::new(wanted),
            event,
        });
    };
    if there.deleting || world.is_being_deleted(&there.uid) {
        return Step::Later;
    }
    if !there.is_ours() {
        // ServiceLB's own is its own; anybody else's has no business under this name.
        if there.servicelb {
            return Step::Later;
        }
        return Step::Now(DaemonSetStep::Delete {
            namespace: there.namespace.clone(),
            name: there.name.clone(),
            uid: there.uid.clone(),
            event: None,
        });
    }
    if in_flight.is_none() && drift::is_as_wanted(there, &wanted) {
        return Step::AsWanted;
    }
    Step::Now(DaemonSetStep::Apply {
        uid: there.uid.clone(),
        object: Box::new(wanted),
        event,
    })
}

/// All pods at once where kube-proxy carries all traffic meanwhile.
fn roll_out(
    world: &World,
    name: &str,
    placement: &Placement<'_>,
    wish: &Wish,
    addresses: &AddressRules,
) -> RollOut {
    let of_node = |node: &&NodeFacts| {
        wish.open_families
            .iter()
            .flat_map(|family| addresses.of_node(node, *family))
            .collect::<Vec<_>>()
    };
    let all: Vec<_> = placement.wanted.values().flat_map(of_node).collect();
    let carried = if all.is_empty() {
        addresses.kube_proxy_carries()
    } else {
        all.iter().all(|one| one.by_kube_proxy)
    };
    if carried {
        return RollOut::AllAtOnce;
    }
    let rolling = world.daemonset(name).is_some_and(|there| there.rolling);
    let dead = placement
        .wanted
        .values()
        .filter(|node| rolling && !matches!(node.readiness, Readiness::Ready(_)));
    RollOut::OneByOne { dead: dead.count() }
}
