//! The rules of a svclb pod, in a network namespace of its own: forwards and source ranges become
//! destinations to rewrite, and what passes.

use std::sync::Arc;

use super::{
    AddressSet, Chain, Destinations, Direction, Hook, Kind, Match, PortMap, Rule, Rules, Statement,
    TableFamily, TableFlags, priority,
};
use crate::config::{Config, Family, Form, Protocol};
use crate::ranges::merge;

impl Rules {
    /// The rules for what `config` asks for, in those of its families that are among `families`.
    pub fn new(config: &Config, families: &[Family]) -> Self {
        let mut wanted = config.families();
        wanted.retain(|family| families.contains(family));
        let own = own(config);
        Self {
            family: TableFamily::Inet,
            name: name(config),
            // The rules have to outlive the process: a restart must have no gap.
            flags: TableFlags::default(),
            chains: vec![
                prerouting(config, &wanted),
                forward(config, &wanted, &own),
                postrouting(own),
            ],
        }
    }
}

/// Each container of klipper-lb's form has a name of its own, as they share a network namespace.
fn name(config: &Config) -> String {
    match (config.form, config.forwards.as_slice()) {
        (Form::Port, [only]) => format!("svclb-{}-{}", only.protocol, only.port),
        _ => "svclb".into(),
    }
}

/// What tells the connections of these rules from those of the rules of other containers.
fn own(config: &Config) -> Vec<Match> {
    let mut matches = vec![Match::StatusDnat];
    if let (Form::Port, [only]) = (config.form, config.forwards.as_slice()) {
        matches.push(Match::OriginalPort(only.protocol, only.port));
    }
    matches
}

fn prerouting(config: &Config, families: &[Family]) -> Chain {
    let maps = port_maps(config);
    let mut rules = Vec::new();
    for &family in families {
        // A family that is wanted has a destination.
        if let Some(to) = Destinations::new(&config.destinations, family) {
            rules.extend(maps.iter().map(|ports| Rule {
                matches: Vec::new(),
                statements: vec![Statement::Dnat {
                    to: to.clone(),
                    ports: Arc::clone(ports),
                }],
            }));
        }
    }
    Chain {
        name: "prerouting",
        kind: Kind::Nat,
        hook: Hook::Prerouting,
        priority: priority::NAT_DST,
        rules,
    }
}

/// A map for each protocol that a forward has.
fn port_maps(config: &Config) -> Vec<Arc<PortMap>> {
    let mut forwards = config.forwards.clone();
    forwards.sort_unstable();
    let maps = Protocol::ALL.map(|protocol| {
        let of_protocol = forwards.iter().filter(|it| it.protocol == protocol);
        let ports = of_protocol.map(|forward| (forward.port, forward.to_port));
        PortMap {
            protocol,
            ports: ports.collect(),
        }
    });
    let is_used = |map: &PortMap| !map.ports.is_empty();
    maps.into_iter().filter(is_used).map(Arc::new).collect()
}

/// What has been let in stays in: a connection that was made through a forward goes on when the forward
/// is gone, as with klipper-lb's rules and kube-proxy's. Its source is another matter: every packet is
/// asked for it, not only the first of a connection, so a range that has been taken away closes the
/// connections that it had (they get no answer any more, not even a refusal).
fn forward(config: &Config, families: &[Family], own: &[Match]) -> Chain {
    let rule = |matches: &[&[Match]], statement| Rule {
        matches: matches.concat(),
        statements: vec![Statement::Counter, statement],
    };
    let original = [Match::Direction(Direction::Original)];
    // Answers first: they are most of the traffic.
    let reply = [Match::Direction(Direction::Reply)];
    let mut rules = vec![rule(&[own, &reply], Statement::Accept)];
    for &family in families {
        let from = sources(config, family).map(Match::Source);
        rules.push(rule(
            &[&[Match::Family(family)], own, &original, from.as_slice()],
            Statement::Accept,
        ));
    }
    match config.form {
        Form::Service => {
            // Errors about a connection come from routers, which no source range lists.
            rules.push(rule(&[own, &[Match::StateRelated]], Statement::Accept));
            rules.push(rule(&[], Statement::Drop));
        }
        // Errors are of another protocol, so they are not met by what drops here.
        Form::Port => rules.push(rule(&[own, &original], Statement::Drop)),
    }
    Chain {
        name: "forward",
        kind: Kind::Filter,
        hook: Hook::Forward,
        priority: priority::FILTER,
        rules,
    }
}

/// The source ranges of a family; `None` if any source may connect.
fn sources(config: &Config, family: Family) -> Option<Arc<AddressSet>> {
    let ranges = merge(config.sources.as_ref()?, family);
    let is_restricted = !ranges.iter().any(|range| range.is_everything());
    is_restricted.then(|| {
        Arc::new(AddressSet {
            name: "sources",
            family,
            ranges,
        })
    })
}

fn postrouting(own: Vec<Match>) -> Chain {
    Chain {
        name: "postrouting",
        kind: Kind::Nat,
        hook: Hook::Postrouting,
        priority: priority::NAT_SRC,
        rules: vec![Rule {
            matches: own,
            statements: vec![Statement::Masquerade],
        }],
    }
}
