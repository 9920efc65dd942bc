//! Which addresses a Service has now: when one is published, and when it goes.
//!
//! Where kube-proxy carries the traffic a port that is held is enough: the scheduler binds a svclb pod only where its host
//! ports are free, and from then on kube-proxy answers at every address in status. Elsewhere the pod must be Ready.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::addresses::AddressRules;
use crate::endpoints;
use crate::facts::{Ingress, NodeFacts, PodFacts, PodPhase, ServiceFacts};
use crate::holders::NEXT_VERDICT;
use crate::memory::{NodeMemory, ServiceMemory};
use crate::net::{Family, Port};
use crate::selector::{Admission, Repelled};
use crate::settings::IpMode;
use crate::trust::{Gate, Trust};
use crate::world::World;

/// How long an address stays between two pods.
const GAP: SignedDuration = SignedDuration::from_secs(60);

/// What a Service is served with.
#[derive(Debug)]
pub struct Ground<'a> {
    /// The Service.
    pub service: &'a ServiceFacts,
    /// Its DaemonSet's name.
    pub daemonset: &'a str,
    /// The nodes that its DaemonSet wants.
    pub wanted: &'a BTreeMap<&'a str, &'a NodeFacts>,
    /// What its template demands of a node.
    pub admission: &'a Admission,
    /// The ports that a pod must hold.
    pub ports: &'a BTreeSet<Port>,
    /// The families that are open, in the Service's order.
    pub families: &'a [Family],
    /// Which addresses.
    pub addresses: &'a AddressRules,
    /// `ipMode` of each.
    pub ip_mode: IpMode,
}

/// What is to be in status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// The addresses.
    pub ingress: Vec<Ingress>,
    /// When to look again.
    pub recheck_at: Option<Timestamp>,
}

/// What holds the ports on a node.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// A bound pod, or the gap between two.
    bound: bool,
    /// A Ready pod.
    ready: bool,
    /// A pod is there that lacks nothing but Ready.
    present: bool,
}

/// The addresses of a Service now. `listed` are those in status.
pub fn publish(
    world: &World,
    ground: &Ground<'_>,
    trust: &Trust,
    listed: &[Ingress],
    memory: &mut ServiceMemory,
    now: Timestamp,
) -> Published {
    let listed: BTreeSet<&str> = listed
        .iter()
        .map(|ingress| ingress.address.as_str())
        .collect();
    let rootless = world.settings().rootless;
    let path_missing = ground.service.local
        && ground
            .service
            .ports
            .iter()
            .any(|port| port.node_port.is_none());
    let mut published = Published::default();
    let mut by_family: BTreeMap<Family, BTreeSet<String>> = BTreeMap::new();
    forget_unwanted(world, ground, memory);
    let taken_over = memory.taken_over_until.filter(|until| now < *until);
    for (name, node) in ground.wanted {
        let is_listed = node
            .addresses
            .iter()
            .any(|(_, address)| listed.contains(address.to_string().as_str()))
            || (rootless && !listed.is_empty());
        let mut of_node = memory.nodes.remove(*name).unwrap_or_else(|| NodeMemory {
            held: is_listed,
            ..NodeMemory::default()
        });
        let held = hold(
            world,
            ground,
            node,
            trust.is_silent(),
            &mut of_node,
            &mut published,
            now,
        );
        if is_listed || of_node.held || of_node.failed {
            memory.nodes.insert((*name).to_owned(), of_node.clone());
        }
        if node.leaving {
            continue;
        }
        let (gate, changes_at) = trust.gate(node, now);
        published.recheck(changes_at);
        if gate == Gate::Closed {
            continue;
        }
        for family in ground.families {
            if ground.service.local
                && !endpoints::has_usable(world, &ground.service.key, name, *family)
            {
                continue;
            }
            for address in ground.addresses.of_node(node, *family) {
                let text = address.address.to_string();
                let is_listed = listed.contains(text.as_str()) || (rootless && is_listed);
                let stays = is_listed && trust.is_suspended() && held.present;
                let waits = is_listed && of_node.held && taken_over.is_some();
                let answers = match address.by_kube_proxy {
                    true => held.bound,
                    // Without a node port only kube-proxy could answer, and at this address it does not.
                    false if path_missing => false,
                    false if held.ready || waits => true,
                    false => {
                        published.recheck(trust.until().filter(|_| stays));
                        stays
                    }
                };
                if answers && (gate == Gate::Open || is_listed) {
                    by_family.entry(*family).or_default().insert(text);
                }
            }
        }
    }
    if taken_over.is_some() {
        published.recheck(taken_over);
    }
    published.ingress = ground
        .families
        .iter()
        .flat_map(|family| by_family.remove(family).unwrap_or_default())
        .map(|address| Ingress {
            address,
            ip_mode: Some(ground.ip_mode),
        })
        .collect();
    if rootless && !published.ingress.is_empty() {
        published.ingress = vec![Ingress {
            address: "127.0.0.1".to_owned(),
            ip_mode: Some(ground.ip_mode),
        }];
    }
    published
}

/// A node that is not wanted any more starts anew when it is wanted again.
fn forget_unwanted(world: &World, ground: &Ground<'_>, memory: &mut ServiceMemory) {
    memory.nodes.retain(|name, _| world.node(name).is_some());
    for (name, of_node) in &mut memory.nodes {
        if !ground.wanted.contains_key(name.as_str()) {
            *of_node = NodeMemory::default();
        }
    }
}

/// Who holds the ports on `node`, and for how much longer.
fn hold(
    world: &World,
    ground: &Ground<'_>,
    node: &NodeFacts,
    silent: bool,
    memory: &mut NodeMemory,
    published: &mut Published,
    now: Timestamp,
) -> Held {
    let repelled = ground.admission.repelled_by(node);
    let pods: Vec<&PodFacts> = world
        .pods_of(&ground.service.key)
        .filter(|pod| pod.app == ground.daemonset)
        .collect();
    let here: Vec<&&PodFacts> = pods
        .iter()
        .filter(|pod| pod.node.as_deref() == Some(&node.name))
        .collect();
    let live = || here.iter().filter(|pod| pod.is_live_on(&node.name));
    let has_all_ports = |pod: &PodFacts| ground.ports.is_subset(&pod.ports);
    let present = live().any(|pod| has_all_ports(pod));
    let ready = live().any(|pod| has_all_ports(pod) && pod.ready);

    // A pod that is deleted ends too, in phase Succeeded or Failed: that is no failure.
    if here
        .iter()
        .any(|pod| pod.phase == PodPhase::Ended && !pod.deleting)
    {
        memory.failed = true;
    }
    if ready {
        memory.failed = false;
    }
    let there = live().next().is_some();
    if there {
        memory.podless_since = None;
        memory.old_one_lingers = false;
        memory.verdict_counts_from = None;
    }
    if repelled == Some(Repelled::AllPods) || (memory.failed && !ready) {
        memory.held = false;
    } else if present {
        memory.held = true;
    } else if !there && memory.held {
        // While a pod of the same Service is still on its way out, the scheduler refuses the next one because of it, and
        // for a while longer that verdict is all there is.
        let lingers = here.iter().any(|pod| pod.phase != PodPhase::Ended);
        if !lingers && memory.old_one_lingers {
            memory.verdict_counts_from = Some(now + NEXT_VERDICT);
        }
        memory.old_one_lingers = lingers;
        let is_refused = pods.iter().any(|pod| {
            pod.target.as_deref() == Some(&node.name)
                && pod.refusal.as_ref().is_some_and(|refusal| refusal.ports)
        });
        let counts_from = memory.verdict_counts_from.filter(|from| now < *from);
        let refused = is_refused && !lingers && counts_from.is_none();
        published.recheck(counts_from.filter(|_| is_refused));
        let end = *memory.podless_since.get_or_insert(now) + GAP;
        if refused || repelled.is_some() || (now >= end && !silent) {
            memory.held = false;
        } else {
            // Silence ends the wait for nobody, and its own end gives everybody another turn.
            published.recheck(Some(end).filter(|_| !silent));
        }
    }
    let allowed = repelled != Some(Repelled::AllPods);
    Held {
        bound: memory.held,
        ready: ready && allowed,
        present: present && allowed,
    }
}

impl Published {
    fn recheck(&mut self, at: Option<Timestamp>) {
        self.recheck_at = earliest(self.recheck_at, at);
    }
}

/// The earlier of two moments, of which either may be missing.
pub(crate) fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests;
