//! What must hold in the network namespace, free of any backend: forwards and source ranges become
//! chains of rules, in netfilter's terms, that either backend can encode.
//!
//! A set of rules is installed and replaced as a whole. No chain drops by its policy: while the kernel
//! replaces nf_tables chains, the old one lives on for a moment without its rules but with its policy,
//! and would drop what the new one lets through. A last rule that drops has no such moment.

use std::net::IpAddr;

use crate::config::{Config, Family, Form, Forward, Protocol};
use crate::ranges::{Range, merge};

/// Everything that one process keeps in its network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The name of the nf_tables table, and the prefix of the xtables chains. Only what bears it is
    /// ever replaced.
    pub name: String,
    /// Which port goes where; sorted. `Statement::Dnat` looks it up.
    pub forwards: Vec<Forward>,
    /// The source ranges of IPv4, for `Match::Source`; merged and sorted, empty if any source may
    /// connect.
    pub sources4: Vec<Range>,
    /// The source ranges of IPv6, likewise.
    pub sources6: Vec<Range>,
    /// The chains, in the order in which a packet meets them.
    pub chains: Vec<Chain>,
}

/// Rules that the kernel runs for each packet at one point of its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name in the table.
    pub name: &'static str,
    /// What its rules may do.
    pub kind: Kind,
    /// Where on a packet's way.
    pub hook: Hook,
    /// Its place among the chains of the same hook (`enum nf_ip_hook_priorities`).
    pub priority: i32,
    /// Run in order until one decides; a packet that none decides on goes its way.
    pub rules: Vec<Rule>,
}

/// A chain's type in nf_tables, a table's name in xtables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Decides whether a packet passes.
    Filter,
    /// Decides, for the first packet of a connection, how its addresses change.
    Nat,
}

/// A netfilter hook (`enum nf_inet_hooks` in linux/netfilter.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A packet has arrived; it is not routed yet.
    Prerouting,
    /// A packet is for another host.
    Forward,
    /// A packet is about to leave.
    Postrouting,
}

/// `enum nf_ip_hook_priorities` in linux/netfilter_ipv4.h.
mod priority {
    pub(super) const NAT_DST: i32 = -100;
    pub(super) const FILTER: i32 = 0;
    pub(super) const NAT_SRC: i32 = 100;
}

/// If all of `matches` hold, `statement` is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The family that it applies to; `None` for both.
    pub family: Option<Family>,
    /// What must hold of the packet.
    pub matches: Vec<Match>,
    /// Whether the packets for which they held are counted (xtables always counts).
    pub counter: bool,
    /// What is done.
    pub statement: Statement,
}

/// What can be asked of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// It belongs to a connection (or is an error about one) whose destination was rewritten.
    StatusDnat,
    /// It goes in this direction of its connection.
    Direction(Direction),
    /// It is an error about a connection, or belongs to one that a connection expects.
    StateRelated,
    /// It is of this protocol, and its connection was opened to this port.
    OriginalPort(Protocol, u16),
    /// Its source address is in the rules' source ranges of its family.
    Source,
}

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From who opened it.
    Original,
    /// Back to who opened it.
    Reply,
}

/// What a rule does with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// Lets it pass.
    Accept,
    /// Drops it.
    Drop,
    /// Rewrites the destination to one of `to`, with equal chances, and the port to that of the forward
    /// for the packet's protocol and port; does nothing if there is no such forward. `to` is not empty
    /// and of the rule's family.
    Dnat {
        /// The destination addresses.
        to: Vec<IpAddr>,
    },
    /// Rewrites the source to an address of the interface by which the packet leaves.
    Masquerade,
}

impl Rules {
    /// The rules for what `config` asks for, in those of its families that are among `families`.
    pub fn new(config: &Config, families: &[Family]) -> Self {
        let mut wanted = config.families();
        wanted.retain(|family| families.contains(family));
        let families = wanted.as_slice();
        let mut forwards = config.forwards.clone();
        forwards.sort_unstable();
        let sources = |family| {
            let ranges = match &config.sources {
                Some(cidrs) if families.contains(&family) => merge(cidrs, family),
                _ => Vec::new(),
            };
            let restrict = !ranges.iter().any(|range| range.is_everything());
            if restrict { ranges } else { Vec::new() }
        };
        let mut rules = Self {
            name: name(config),
            forwards,
            sources4: sources(Family::V4),
            sources6: sources(Family::V6),
            chains: Vec::new(),
        };
        let own = own(config);
        rules.chains = vec![
            prerouting(config, families),
            rules.forward(config.form, families, &own),
            postrouting(&own),
        ];
        rules
    }

    /// The source ranges of one family; empty if any source may connect.
    pub fn sources(&self, family: Family) -> &[Range] {
        match family {
            Family::V4 => &self.sources4,
            Family::V6 => &self.sources6,
        }
    }

    fn forward(&self, form: Form, families: &[Family], own: &[Match]) -> Chain {
        let rule = |family, matches: &[Match], statement| Rule {
            family,
            matches: [own, matches].concat(),
            counter: true,
            statement,
        };
        // Answers first: they are most of the traffic.
        let mut rules = vec![rule(
            None,
            &[Match::Direction(Direction::Reply)],
            Statement::Accept,
        )];
        for &family in families {
            // Every packet is asked for its source, not only the first of a connection: a range that
            // has been taken away closes the connections that it had.
            let from = if self.sources(family).is_empty() {
                None
            } else {
                Some(Match::Source)
            };
            let matches: Vec<_> = [Match::Direction(Direction::Original)]
                .into_iter()
                .chain(from)
                .collect();
            rules.push(rule(Some(family), &matches, Statement::Accept));
        }
        match form {
            Form::Service => {
                // Errors about a connection come from routers, which no source range lists.
                rules.push(rule(None, &[Match::StateRelated], Statement::Accept));
                rules.push(Rule {
                    family: None,
                    matches: Vec::new(),
                    counter: true,
                    statement: Statement::Drop,
                });
            }
            // Errors are of another protocol, so they are not met by what drops here.
            Form::Port => {
                let matches = [Match::Direction(Direction::Original)];
                rules.push(rule(None, &matches, Statement::Drop));
            }
        }
        Chain {
            name: "forward",
            kind: Kind::Filter,
            hook: Hook::Forward,
            priority: priority::FILTER,
            rules,
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
    let rules = families.iter().map(|&family| {
        let of_family = |&&address: &&IpAddr| Family::of(address) == family;
        let to = config
            .destinations
            .iter()
            .filter(of_family)
            .copied()
            .collect();
        Rule {
            family: Some(family),
            matches: Vec::new(),
            counter: false,
            statement: Statement::Dnat { to },
        }
    });
    Chain {
        name: "prerouting",
        kind: Kind::Nat,
        hook: Hook::Prerouting,
        priority: priority::NAT_DST,
        rules: rules.collect(),
    }
}

fn postrouting(own: &[Match]) -> Chain {
    Chain {
        name: "postrouting",
        kind: Kind::Nat,
        hook: Hook::Postrouting,
        priority: priority::NAT_SRC,
        rules: vec![Rule {
            family: None,
            matches: own.to_vec(),
            counter: false,
            statement: Statement::Masquerade,
        }],
    }
}

#[cfg(test)]
mod tests;
