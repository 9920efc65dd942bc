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
use crate::memory::{FoundHolders, Memory, ServiceMemory};
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
/// How soon the holders of a port are searched again.
const SEARCH_AGAIN: SignedDuration = SignedDuration::from_mins(30);

/// Decides about a Service that is served.
pub(crate) fn serve(
    world: &World,
    service: &ServiceFacts,
    memory: &mut Memory,
    now: Timestamp,
    decision: &mut Decision,
) {
    let name = names::daemonset(&service.key.name, &service.uid);
    let is_new = memory
        .services
        .get(&service.key)
        .is_none_or(|memory| memory.uid != service.uid);
    let mut of_service = std::mem::take(memory.of(service));
    if is_new
        && !service.ingress.is_empty()
        && world.daemonset(&name).is_none_or(|there| !there.is_ours())
    {
        of_service.taken_over_until = Some(now + TAKE_OVER);
    }
    status::watch_for_others(service, &mut of_service, now);
    if service.finalizer {
        of_service.finalizer_asked = None;
        of_service.removal_asked = None;
    } else if not_lately(&mut of_service.finalizer_asked, now, decision) {
        decision.finalizer = FinalizerStep::Add {
            uid: service.uid.clone(),
        };
    }

    let wish = wish(service, world.proxy_mode(), world.settings());
    let mut notices = diagnose::of_wish(service, &wish);
    let ingress = match &wish {
        Ok(wish) => as_wished(
            world,
            service,
            &name,
            wish,
            memory,
            &mut of_service,
            &mut notices,
            now,
            decision,
        ),
        Err(_) => as_before(
            world,
            service,
            &name,
            memory,
            &mut of_service,
            now,
            decision,
        ),
    };
    notices.extend(diagnose::pods(world, service, &name));
    if let Some(back) = &of_service.stepped_back {
        notices.push(diagnose::status_conflict(&back.manager));
    }

    let (events, recheck_at) = told::tell(
        &mut of_service,
        &notices,
        world.settings().repeat_warnings,
        now,
    );
    decision.events.extend(events);
    decision.recheck_at = earliest(decision.recheck_at, recheck_at);
    notices.extend(told::lingering(&of_service));
    status::write(service, ingress, &notices, &mut of_service, now, decision);
    *memory.of(service) = of_service;
}

/// With a wish that can be read: the DaemonSet is made what it should be.
#[expect(
    clippy::too_many_arguments,
    reason = "one decision in two halves, of which the other needs as much"
)]
fn as_wished(
    world: &World,
    service: &ServiceFacts,
    name: &str,
    wish: &Wish,
    memory: &Memory,
    of_service: &mut ServiceMemory,
    notices: &mut Vec<Notice>,
    now: Timestamp,
    decision: &mut Decision,
) -> Vec<Ingress> {
    let placement = placement(world, service);
    let addresses = AddressRules::new(wish, world.proxy_mode(), world.settings());
    search_holders(world, service, name, &placement, of_service, now, decision);
    notices.extend(diagnose::ports(
        world, service, &placement, of_service, name,
    ));
    if placement.wanted.is_empty() || wish.open_families.is_empty() {
        if placement.wanted.is_empty() {
            notices.extend(diagnose::no_node(&placement, None));
        }
        decision.daemonsets.extend(delete_own(world, name));
        of_service.nodes.clear();
        return Vec::new();
    }
    let rules = NodeRules {
        allow_listing: world.allow_listing(),
        left_out: placement
            .left_out
            .iter()
            .filter(|(_, why)| !why.by_label())
            .map(|(name, _)| *name)
            .collect(),
    };
    let roll_out = roll_out(world, name, &placement, wish, &addresses);
    let wanted = daemonset(service, wish, &rules, roll_out, world.settings());
    let template = wanted
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref());
    let admission = template.map(Admission::from).unwrap_or_default();
    notices.extend(diagnose::no_node(&placement, Some(&admission)));
    decision.daemonsets.extend(step(world, name, wanted));

    let ports: BTreeSet<Port> = service.claims().collect();
    let ground = Ground {
        service,
        daemonset: name,
        wanted: &placement.wanted,
        admission: &admission,
        ports: &ports,
        families: &wish.open_families,
        addresses: &addresses,
        ip_mode: wish.ip_mode,
    };
    published(world, &ground, memory, of_service, now, decision)
}

/// With a wish that cannot be read: what worked works on, and nothing comes to it.
fn as_before(
    world: &World,
    service: &ServiceFacts,
    name: &str,
    memory: &Memory,
    of_service: &mut ServiceMemory,
    now: Timestamp,
    decision: &mut Decision,
) -> Vec<Ingress> {
    let Some(there) = world.daemonset(name).filter(|there| there.is_ours()) else {
        return Vec::new();
    };
    let contest = Contest::new(world, service);
    let wanted: BTreeMap<&str, &NodeFacts> = world
        .nodes()
        .filter(|node| there.admission.admits(node) && contest.can_have_all_ports_on(node).is_ok())
        .map(|node| (node.name.as_str(), node))
        .collect();
    let addresses = AddressRules::any_of(world.proxy_mode(), world.settings());
    let ground = Ground {
        service,
        daemonset: name,
        wanted: &wanted,
        admission: &there.admission,
        ports: &there.ports,
        families: &service.families,
        addresses: &addresses,
        ip_mode: IpMode::Vip,
    };
    let may_stay = published(world, &ground, memory, of_service, now, decision);
    let listed = status::listed(service, of_service);
    listed
        .iter()
        .filter(|old| may_stay.iter().any(|new| new.address == old.address))
        .cloned()
        .collect()
}

fn published(
    world: &World,
    ground: &Ground<'_>,
    memory: &Memory,
    of_service: &mut ServiceMemory,
    now: Timestamp,
    decision: &mut Decision,
) -> Vec<Ingress> {
    let candidates = ground.wanted.values().filter(|node| !node.leaving).copied();
    let trust = Trust::new(memory, candidates, now);
    let listed = status::listed(ground.service, of_service).to_vec();
    let published = publish(world, ground, &trust, &listed, of_service, now);
    decision.recheck_at = earliest(decision.recheck_at, published.recheck_at);
    published.ingress
}

/// What brings the DaemonSet that is there to what is wanted.
fn step(world: &World, name: &str, wanted: DaemonSet) -> Option<DaemonSetStep> {
    let applied = wanted
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(names::APPLIED));
    let in_flight = world.daemonset_in_flight(name);
    if in_flight.is_some_and(|in_flight| in_flight.applied.as_ref() == applied) {
        return None;
    }
    let namespace = &world.settings().namespace;
    let note = format!("Applied LoadBalancer DaemonSet {namespace}/{name}");
    let event = Event::normal(reason::APPLIED_DAEMONSET, note);
    let Some(there) = world.daemonset(name) else {
        // One that is being created has no UID yet to apply over.
        return in_flight.is_none().then(|| DaemonSetStep::Create {
            object: Box::new(wanted),
            event,
        });
    };
    if there.deleting || world.is_being_deleted(&there.uid) {
        return None;
    }
    if !there.is_ours() {
        // ServiceLB's own is its own; anybody else's has no business under this name.
        return (!there.servicelb).then(|| DaemonSetStep::Delete {
            namespace: there.namespace.clone(),
            name: there.name.clone(),
            uid: there.uid.clone(),
            event: None,
        });
    }
    if in_flight.is_none() && drift::is_as_wanted(there, &wanted) {
        return None;
    }
    Some(DaemonSetStep::Apply {
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

/// Asks who holds the ports on nodes that refused a pod: once for each pod, and again now and then.
fn search_holders(
    world: &World,
    service: &ServiceFacts,
    name: &str,
    placement: &Placement<'_>,
    memory: &mut ServiceMemory,
    now: Timestamp,
    decision: &mut Decision,
) {
    let refused: BTreeMap<&str, &str> = diagnose::refused(world, service, name, true)
        .filter_map(|pod| Some((pod.target.as_deref()?, pod.uid.as_str())))
        .filter(|(node, _)| placement.wanted.contains_key(node))
        .collect();
    memory
        .holders
        .retain(|node, _| refused.contains_key(node.as_str()));
    for (node, pod) in refused {
        let found = memory.holders.get(node).filter(|found| found.pod == pod);
        let search_again = found
            .map(|found| found.asked + SEARCH_AGAIN)
            .filter(|at| now < *at);
        decision.recheck_at = earliest(decision.recheck_at, search_again);
        if search_again.is_none() {
            let before = memory.holders.remove(node).and_then(|found| found.holders);
            let asked = FoundHolders {
                pod: pod.to_owned(),
                asked: now,
                holders: before,
            };
            memory.holders.insert(node.to_owned(), asked);
            decision.find_holders.push(node.to_owned());
        }
    }
}
