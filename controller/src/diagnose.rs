//! Why a Service is not served as its user may expect: every reason that holds now, in words.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};

use crate::claims::Placement;
use crate::facts::{PodFacts, PodPhase, ServiceFacts};
use crate::holders::Known;
use crate::memory::ServiceMemory;
use crate::names::{self, condition, reason};
use crate::net::{Family, Port, Protocol};
use crate::nodes::LeftOut;
use crate::selector::Admission;
use crate::settings::IpMode;
use crate::told::{self, Notice};
use crate::wish::{ProxyBecause, Wish, WishError, wish};
use crate::world::World;

/// Nodes are named up to this number, and counted beyond it.
const NAMED: usize = 5;
/// How long the DaemonSet controller may take to make the pods.
const MAKING_PODS: SignedDuration = SignedDuration::from_secs(10);

fn warning(reason: &'static str, note: String) -> Notice {
    Notice {
        reason,
        note,
        warning: true,
        condition: Some(condition::DEGRADED),
    }
}

/// What the Service itself says that cannot be done, or not so.
pub(crate) fn of_wish(service: &ServiceFacts, wish: &Result<Wish, WishError>) -> Vec<Notice> {
    let mut notices = Vec::new();
    match wish {
        Err(error) if error.is_combination() => notices.push(warning(
            reason::UNSUPPORTED_CONFIGURATION,
            format!("{error}; what was served before is served on"),
        )),
        Err(error) => notices.push(warning(
            reason::INVALID_CONFIGURATION,
            format!("{error}; what was served before is served on"),
        )),
        Ok(wish) => {
            notices.extend(node_ports(service, wish));
            notices.extend(source_ranges(service, wish));
            if wish.proxy_because == Some(ProxyBecause::Ipvs) {
                let note = "addresses get ipMode Proxy: kube-proxy in ipvs mode would bind them on every node".to_owned();
                notices.push(Notice {
                    reason: reason::IP_MODE_CHOSEN,
                    note,
                    warning: false,
                    condition: None,
                });
            }
        }
    }
    if service.claims().any(|port| {
        port == Port {
            protocol: Protocol::Tcp,
            number: 22,
        }
    }) {
        let note = "port TCP/22 of the nodes goes to this Service: their own SSH servers cannot be reached at the addresses \
                    in status any more"
            .to_owned();
        notices.push(Notice {
            reason: reason::SSH_PORT,
            note,
            warning: true,
            condition: None,
        });
    }
    notices
}

fn node_ports(service: &ServiceFacts, wish: &Wish) -> Option<Notice> {
    let missing: Vec<String> = service
        .ports
        .iter()
        .filter(|port| service.local && port.node_port.is_none())
        .map(|port| port.port.to_string())
        .collect();
    if missing.is_empty() || wish.ip_mode == IpMode::Proxy {
        return None;
    }
    Some(warning(
        reason::NODE_PORT_MISSING,
        format!(
            "{} without a node port: with externalTrafficPolicy Local the svclb pod has nowhere to forward to, so only \
             kube-proxy answers, at the nodes' InternalIPs",
            missing.join(", ")
        ),
    ))
}

fn source_ranges(service: &ServiceFacts, wish: &Wish) -> Option<Notice> {
    let closed: Vec<&str> = service
        .families
        .iter()
        .filter(|family| !wish.open_families.contains(family))
        .map(|family: &Family| family.as_str())
        .collect();
    let mut parts = Vec::new();
    if !closed.is_empty() {
        parts.push(format!(
            "no source range is {0}, which kube-proxy would take for any: {0} addresses are left out",
            closed.join(" or ")
        ));
    }
    if wish.proxy_because == Some(ProxyBecause::RangesByAnnotation) {
        parts.push(format!(
            "kube-proxy does not read annotation {}: addresses get ipMode Proxy, so that the svclb pods enforce it \
             (spec.loadBalancerSourceRanges does without)",
            names::SOURCE_RANGES
        ));
    }
    (!parts.is_empty()).then(|| warning(reason::SOURCE_RANGES_NOT_ENFORCED, parts.join("; ")))
}

/// Ports that are somebody else's, and by whom. While a search for a holder is under way, what was told before holds.
pub(crate) fn ports(
    world: &World,
    service: &ServiceFacts,
    placement: &Placement<'_>,
    memory: &ServiceMemory,
    daemonset: &str,
) -> Option<Notice> {
    let mut taken: BTreeMap<(Port, String), BTreeSet<&str>> = BTreeMap::new();
    for (node, left_out) in &placement.left_out {
        let (port, holder) = match left_out {
            LeftOut::Claimed { port, by: Some(by) } => (port, format!("held by Service {by}")),
            LeftOut::Claimed { port, by: None } => (
                port,
                "held by a DaemonSet of a Service that is gone".to_owned(),
            ),
            LeftOut::Protected(port) => (
                port,
                "kept from all Services (--protected-ports)".to_owned(),
            ),
            LeftOut::ApiServer(port) => (port, "the API server's".to_owned()),
            LeftOut::Kubelet(port) => (port, "the kubelet's".to_owned()),
            _ => continue,
        };
        taken.entry((*port, holder)).or_default().insert(node);
    }
    for pod in refused(world, service, daemonset, true) {
        let Some(node) = pod
            .target
            .as_deref()
            .filter(|node| placement.wanted.contains_key(node))
        else {
            continue;
        };
        let holders = match memory.holders.of(node, pod) {
            Known::By(holders) => holders,
            Known::Unsettled => continue,
            Known::Searching => return told::port_conflict(memory),
        };
        for holder in &holders {
            taken
                .entry((holder.port, format!("held by {holder}")))
                .or_default()
                .insert(node);
        }
        for port in pod.ports.iter().filter(|_| holders.is_empty()) {
            let holder =
                "perhaps held by a pod that has gone since (the scheduler refused the svclb pod)"
                    .to_owned();
            taken.entry((*port, holder)).or_default().insert(node);
        }
    }
    if taken.is_empty() {
        return None;
    }
    let parts: Vec<String> = taken
        .iter()
        .map(|((port, holder), nodes)| {
            format!("port {port} is {holder} on {}", list(nodes.iter().copied()))
        })
        .collect();
    Some(Notice {
        reason: reason::PORT_CONFLICT,
        note: parts.join("; "),
        warning: true,
        condition: Some(condition::PORTS_ERROR),
    })
}

/// The svclb pods that the scheduler refuses, for their ports or for something else.
pub(crate) fn refused<'a>(
    world: &'a World,
    service: &ServiceFacts,
    daemonset: &'a str,
    ports: bool,
) -> impl Iterator<Item = &'a PodFacts> {
    world.pods_of(&service.key).filter(move |pod| {
        pod.app == daemonset
            && !pod.deleting
            && pod
                .refusal
                .as_ref()
                .is_some_and(|refusal| refusal.ports == ports)
    })
}

/// No node left, counted by reason.
pub(crate) fn no_node(placement: &Placement<'_>, admission: Option<&Admission>) -> Option<Notice> {
    let repelled = |node: &&&crate::facts::NodeFacts| {
        admission.is_some_and(|admission| admission.repelled_by(node).is_some())
    };
    let tainted = placement.wanted.values().filter(repelled).count();
    if tainted < placement.wanted.len() {
        return None;
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for left_out in placement.left_out.values() {
        let why = match left_out {
            LeftOut::NotLinux => "not Linux",
            LeftOut::NotEnabled => {
                "without label svccontroller.k3s.cattle.io/enablelb=true while others have it"
            }
            LeftOut::NotInPool => "not in the Service's pool",
            LeftOut::Excluded => {
                "excluded by label node.kubernetes.io/exclude-from-external-load-balancers"
            }
            LeftOut::Protected(_) | LeftOut::ApiServer(_) | LeftOut::Kubelet(_) => {
                "with a port that the cluster needs"
            }
            LeftOut::Claimed { .. } => "with a port that another Service holds",
        };
        *counts.entry(why).or_default() += 1;
    }
    if tainted > 0 {
        counts.insert("with a taint that the svclb pods do not tolerate", tainted);
    }
    let mut note = "There are no available nodes for LoadBalancer".to_owned();
    let all = placement.left_out.len() + placement.wanted.len();
    for (index, (why, count)) in counts.iter().enumerate() {
        let lead = if index == 0 {
            format!(": of {all} nodes ")
        } else {
            ", ".to_owned()
        };
        // Writing to a String cannot fail.
        let _ = write!(note, "{lead}{count} {why}");
    }
    if all == 0 {
        note.push_str(": there is no node");
    }
    Some(warning(reason::UNAVAILABLE_LOAD_BALANCER, note))
}

/// The DaemonSet that lacks pods for longer than it takes to make them. Why, only its own events say, which we may not read.
pub(crate) fn pods_not_created(
    world: &World,
    service: &ServiceFacts,
    daemonset: &str,
    memory: &mut ServiceMemory,
    now: Timestamp,
) -> (Option<Notice>, Option<Timestamp>) {
    let there = world.daemonset(daemonset);
    let Some(there) = there.filter(|there| there.lacks_pods && !there.deleting) else {
        memory.lacks_pods_since = None;
        return (None, None);
    };
    let due = *memory.lacks_pods_since.get_or_insert(now) + MAKING_PODS;
    if now < due {
        return (None, Some(due));
    }
    let class = match wish(service, world.proxy_mode(), world.settings()) {
        Ok(Wish {
            priority_class: Some(class),
            ..
        }) => format!("there is no PriorityClass {class}, "),
        _ => String::new(),
    };
    let (namespace, name) = (&there.namespace, &there.name);
    let note = format!(
        "the svclb pods cannot be created, as when {class}a quota is used up or a policy forbids them; why, this says: \
         kubectl -n {namespace} describe daemonset {name}"
    );
    (Some(warning(reason::PODS_NOT_CREATED, note)), None)
}

/// svclb pods that wait for something else than ports, and those that do not run.
pub(crate) fn pods(world: &World, service: &ServiceFacts, daemonset: &str) -> Vec<Notice> {
    let mut waiting: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for pod in refused(world, service, daemonset, false) {
        let message = pod
            .refusal
            .as_ref()
            .map_or("", |refusal| refusal.message.as_str());
        waiting
            .entry(message)
            .or_default()
            .insert(pod.target.as_deref().unwrap_or("no node"));
    }
    let mut broken: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for pod in world
        .pods_of(&service.key)
        .filter(|pod| pod.app == daemonset && !pod.deleting)
    {
        if let (Some(trouble), Some(node)) = (&pod.trouble, &pod.node)
            && (pod.phase == PodPhase::Ended || !pod.ready)
        {
            broken.entry(trouble).or_default().insert(node);
        }
    }
    let told = |what: &str, by_text: &BTreeMap<&str, BTreeSet<&str>>| {
        let parts = by_text
            .iter()
            .map(|(text, nodes)| format!("{what} on {}: {text}", list(nodes.iter().copied())));
        parts.collect::<Vec<_>>().join("; ")
    };
    let mut notices = Vec::new();
    if !waiting.is_empty() {
        notices.push(warning(
            reason::POD_UNSCHEDULABLE,
            told("the svclb pod is not scheduled", &waiting),
        ));
    }
    if !broken.is_empty() {
        notices.push(warning(
            reason::POD_NOT_RUNNING,
            told("the svclb pod does not run", &broken),
        ));
    }
    notices
}

/// ServiceLB is at work, and how to end that.
pub(crate) fn servicelb(world: &World) -> Notice {
    let by = world.servicelb_daemonsets().next();
    let (namespace, name) = by.map_or(("", ""), |by| (&by.namespace, &by.name));
    Notice {
        reason: reason::SERVICELB_ACTIVE,
        note: format!(
            "ServiceLB is at work, as DaemonSet {namespace}/{name} shows, and Services without a class are left to it. \
             Start k3s with --disable=servicelb to have them served by svclb, or give this one spec.loadBalancerClass \
             {}. If ServiceLB is off and the DaemonSet stays: kubectl -n {namespace} delete daemonset {name}",
            world.settings().class
        ),
        warning: false,
        condition: None,
    }
}

/// Somebody else keeps writing the status.
pub(crate) fn status_conflict(manager: &str) -> Notice {
    let note = format!(
        "{manager} keeps writing the status of this Service too: svclb leaves it to {manager}, and tries again in ten \
         minutes, or when the Service's spec, labels or annotations change"
    );
    Notice {
        reason: reason::STATUS_CONFLICT,
        note,
        warning: true,
        condition: None,
    }
}

fn list<'a>(nodes: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = nodes.len().saturating_sub(NAMED);
    let named = nodes.take(NAMED).collect::<Vec<_>>().join(", ");
    if more == 0 {
        named
    } else {
        format!("{named} and {more} more nodes")
    }
}

#[cfg(test)]
mod tests;
