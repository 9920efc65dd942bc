//! What must hold, as chains of one xtables table of one family.
//!
//! Two things are said here that nf_tables needs no words for. There are no maps, so a rule is written
//! for each forward and destination, and the source ranges are a chain that accepts. And tables are
//! replaced one after the other, `filter` before `nat`: so a new connection passes only if port and
//! destination belong together in the *new* set, whatever the `nat` table of the old one still does.

use std::net::IpAddr;

use super::extensions::{self, Conntrack, Match, State};
use super::merge::Ours;
use super::rule::{ACCEPT, ChainName, DROP, Rule, Target};
use crate::config::{Family, Protocol};
use crate::rules::{self, Direction, Hook, Kind, Rules, Statement};

/// Our chains in the table of `kind`.
///
/// ```text
/// *filter
/// -A FORWARD -j svclb-forward
/// ... (see `let_in`)
/// -A svclb-sources -s 10.0.0.0/8 -j ACCEPT
///
/// *nat
/// -A PREROUTING -j svclb-prerouting
/// -A POSTROUTING -j svclb-postrouting
/// -A svclb-prerouting -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.43.0.10:8080
/// -A svclb-postrouting -m conntrack --ctstate DNAT -j MASQUERADE
/// ```
pub(super) fn ours(rules: &Rules, kind: Kind, family: Family) -> Ours {
    let translation = Translation {
        rules,
        family,
        destinations: destinations(rules, family),
        sources: chain_name(rules, "sources"),
    };
    let mut ours = Ours::nothing(&rules.name);
    for chain in rules.chains.iter().filter(|chain| chain.kind == kind) {
        let name = chain_name(rules, chain.name);
        let translated: Vec<Rule> = chain
            .rules
            .iter()
            .filter(|rule| rule.family.is_none_or(|only| only == family))
            .flat_map(|rule| translation.rule(rule))
            .collect();
        if !translated.is_empty() {
            ours.jumps.push((hook_number(chain.hook), name));
            ours.chains.push((name, translated));
        }
    }
    if kind == Kind::Filter {
        let sources = translation.source_rules();
        if !sources.is_empty() {
            ours.chains.push((translation.sources, sources));
        }
    }
    ours
}

/// Whether the rules forward anything of this family.
pub(super) fn is_forwarded(rules: &Rules, family: Family) -> bool {
    !destinations(rules, family).is_empty()
}

/// Where the rules send what arrives.
fn destinations(rules: &Rules, family: Family) -> &[IpAddr] {
    let all = rules.chains.iter().flat_map(|chain| &chain.rules);
    all.filter(|rule| rule.family.is_none_or(|only| only == family))
        .find_map(|rule| match &rule.statement {
            Statement::Dnat { to } => Some(to.as_slice()),
            Statement::Accept | Statement::Drop | Statement::Masquerade => None,
        })
        .unwrap_or_default()
}

/// At most 28 bytes, `iptables`' limit, which `svclb-sctp-65535-postrouting` just meets.
fn chain_name(rules: &Rules, chain: &str) -> ChainName {
    ChainName::new(&format!("{}-{chain}", rules.name))
}

/// `enum nf_inet_hooks` of linux/netfilter.h.
fn hook_number(hook: Hook) -> usize {
    match hook {
        Hook::Prerouting => 0,
        Hook::Forward => 2,
        Hook::Postrouting => 4,
    }
}

struct Translation<'a> {
    rules: &'a Rules,
    family: Family,
    destinations: &'a [IpAddr],
    sources: ChainName,
}

impl Translation<'_> {
    fn rule(&self, rule: &rules::Rule) -> Vec<Rule> {
        let mut criteria = Criteria::default();
        for wanted in &rule.matches {
            criteria.narrow(*wanted);
        }
        // Where no connection is rewritten, there is nothing to say about those that are.
        if criteria.dnat && self.destinations.is_empty() {
            return Vec::new();
        }
        let target = match &rule.statement {
            Statement::Dnat { to } => return self.dnat(&criteria, to),
            Statement::Accept if criteria.source => Target::Jump(self.sources),
            Statement::Accept => Target::Verdict(ACCEPT),
            Statement::Drop => Target::Verdict(DROP),
            Statement::Masquerade => Target::Extension(extensions::masquerade(self.family)),
        };
        if rule.statement == Statement::Accept && criteria.is_to_a_forward() {
            return self.let_in(criteria, &target);
        }
        vec![criteria.rule(self.family, target)]
    }

    /// A packet on its way in. Most belong to connections that have been let in, so these come first.
    ///
    /// ```text
    /// -A svclb-forward -m conntrack --ctstate DNAT --ctdir ORIGINAL -m conntrack --ctstate ESTABLISHED -j svclb-sources
    /// -A svclb-forward -d 10.43.0.10/32 -p tcp -m tcp --dport 8080 -m conntrack --ctstate DNAT --ctorigdstport 80 --ctdir ORIGINAL -j svclb-sources
    /// ```
    fn let_in(&self, criteria: Criteria, target: &Target) -> Vec<Rule> {
        let established = Criteria {
            state: Some(State::Established),
            ..criteria
        };
        let mut rules = vec![established.rule(self.family, target.clone())];
        for forward in &self.rules.forwards {
            for destination in self.destinations {
                let new = Criteria {
                    protocol: Some(forward.protocol),
                    original_port: Some(forward.port),
                    destination: Some((*destination, forward.to_port)),
                    ..criteria
                };
                rules.push(new.rule(self.family, target.clone()));
            }
        }
        rules
    }

    /// Each of the addresses with equal chances: the first of three once in three times, the second
    /// every other time of those that are left, the third always.
    ///
    /// ```text
    /// -A svclb-prerouting -p tcp -m tcp --dport 80 -m statistic --mode random --probability 0.5 -j DNAT --to-destination 10.43.0.10:8080
    /// -A svclb-prerouting -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.43.0.11:8080
    /// ```
    fn dnat(&self, criteria: &Criteria, to: &[IpAddr]) -> Vec<Rule> {
        let mut rules = Vec::new();
        for forward in &self.rules.forwards {
            for (address, left) in to.iter().zip((1..=to.len()).rev()) {
                let target = extensions::dnat(*address, forward.to_port);
                let mut rule = criteria
                    .rule(self.family, Target::Extension(target))
                    .protocol(self.family, forward.protocol.number())
                    .matching(Match::DestinationPort(forward.protocol, forward.port));
                if let Ok(times @ 2..) = u32::try_from(left) {
                    rule = rule.matching(Match::OnceIn(times));
                }
                rules.push(rule);
            }
        }
        rules
    }

    /// The chain that accepts what comes from the source ranges, if any rule goes there.
    fn source_rules(&self) -> Vec<Rule> {
        if self.destinations.is_empty() {
            return Vec::new();
        }
        let cidrs = self.rules.sources(self.family).iter();
        cidrs
            .flat_map(|range| range.cidrs())
            .map(|cidr| {
                Rule::new(self.family, Target::Verdict(ACCEPT))
                    .source(cidr.address(), cidr.prefix())
            })
            .collect()
    }
}

/// What a rule asks of a packet.
#[derive(Clone, Copy, Default)]
struct Criteria {
    protocol: Option<Protocol>,
    /// Address and port as they are now; the port needs the protocol.
    destination: Option<(IpAddr, u16)>,
    dnat: bool,
    original_port: Option<u16>,
    direction: Option<Direction>,
    state: Option<State>,
    source: bool,
}

impl Criteria {
    fn narrow(&mut self, wanted: rules::Match) {
        match wanted {
            rules::Match::StatusDnat => self.dnat = true,
            rules::Match::Direction(direction) => self.direction = Some(direction),
            rules::Match::StateRelated => self.state = Some(State::Related),
            rules::Match::OriginalPort(protocol, port) => {
                self.protocol = Some(protocol);
                self.original_port = Some(port);
            }
            rules::Match::Source => self.source = true,
        }
    }

    /// Whether this is what opens a connection to a forward, and goes on in it.
    fn is_to_a_forward(&self) -> bool {
        self.dnat && self.state.is_none() && self.direction == Some(Direction::Original)
    }

    fn rule(&self, family: Family, target: Target) -> Rule {
        let mut rule = Rule::new(family, target);
        if let Some(protocol) = self.protocol {
            rule = rule.protocol(family, protocol.number());
        }
        if let (Some((address, port)), Some(protocol)) = (self.destination, self.protocol) {
            rule = rule
                .destination(address)
                .matching(Match::DestinationPort(protocol, port));
        }
        let connection = Conntrack {
            state: self.dnat.then_some(State::Dnat),
            original_port: self.original_port,
            direction: self.direction,
        };
        // States in one match are alternatives, so the packet's own needs a match of its own.
        let packet = Conntrack {
            state: self.state,
            ..Conntrack::default()
        };
        for wanted in [connection, packet] {
            if wanted != Conntrack::default() {
                rule = rule.matching(Match::Conntrack(wanted));
            }
        }
        rule
    }
}
