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
use crate::rules::{
    self, AddressSet, Destinations, Direction, Hook, Kind, PortMap, Rules, Statement, TableFamily,
    TableFlags, priority,
};

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
    let mut ours = Ours::nothing(&rules.name);
    if rules.family != TableFamily::Inet && rules.family != TableFamily::Only(family) {
        return ours;
    }
    let translation = Translation { rules, family };
    for chain in rules.chains.iter().filter(|chain| chain.kind == kind) {
        let name = chain_name(rules, chain.name);
        let of_family = chain.rules.iter().filter(|rule| rule.is_for(family));
        let translated: Vec<Rule> = of_family.flat_map(|rule| translation.rule(rule)).collect();
        if !translated.is_empty() {
            ours.jumps.push((hook_number(chain.hook), name));
            ours.chains.push((name, translated));
        }
    }
    for set in rules.address_sets() {
        let name = chain_name(rules, set.name);
        let mut all = ours.chains.iter().flat_map(|(_, rules)| rules);
        if set.family == family && all.any(|rule| rule.target == Target::Jump(name)) {
            ours.chains.push((name, translation.sources(set)));
        }
    }
    ours
}

/// Whether xtables has words for the rules: its tables have no flags, each has its place at a hook, a
/// rule does one thing, and a source is asked for where it is let in.
pub(super) fn is_expressible(rules: &Rules) -> bool {
    let has_place = |chain: &rules::Chain| {
        matches!(
            (chain.kind, chain.hook, chain.priority),
            (Kind::Filter, Hook::Forward, priority::FILTER)
                | (Kind::Nat, Hook::Prerouting, priority::NAT_DST)
                | (Kind::Nat, Hook::Postrouting, priority::NAT_SRC)
        )
    };
    let has_words = |rule: &rules::Rule| match only_statement(rule) {
        Some(Statement::Accept) => true,
        Some(_) => !rule
            .matches
            .iter()
            .any(|it| matches!(it, rules::Match::Source(_))),
        None => false,
    };
    rules.flags == TableFlags::default()
        && rules.chains.iter().all(has_place)
        && rules.rules().all(has_words)
}

/// What a rule does besides counting, if it is one thing.
fn only_statement(rule: &rules::Rule) -> Option<&Statement> {
    let mut statements = rule
        .statements
        .iter()
        .filter(|it| **it != Statement::Counter);
    statements.next().filter(|_| statements.next().is_none())
}

/// Whether the rules forward anything of this family.
pub(super) fn is_forwarded(rules: &Rules, family: Family) -> bool {
    rules.dnat(family).next().is_some()
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
}

impl Translation<'_> {
    fn rule(&self, rule: &rules::Rule) -> Vec<Rule> {
        let mut criteria = Criteria::default();
        for wanted in &rule.matches {
            self.narrow(&mut criteria, wanted);
        }
        // Where no connection is rewritten, there is nothing to say about those that are.
        if criteria.dnat && !is_forwarded(self.rules, self.family) {
            return Vec::new();
        }
        let target = match only_statement(rule) {
            Some(Statement::Dnat { to, ports }) => return self.dnat(&criteria, to, ports),
            Some(Statement::Accept) => match criteria.source {
                Some(chain) => Target::Jump(chain),
                None => Target::Verdict(ACCEPT),
            },
            Some(Statement::Drop) => Target::Verdict(DROP),
            Some(Statement::Masquerade) => Target::Extension(extensions::masquerade(self.family)),
            Some(Statement::Counter) | None => Target::Next,
        };
        let is_accepted = only_statement(rule) == Some(&Statement::Accept);
        if is_accepted && criteria.is_to_a_forward() {
            return self.let_in(criteria, &target);
        }
        vec![criteria.rule(self.family, target)]
    }

    fn narrow(&self, criteria: &mut Criteria, wanted: &rules::Match) {
        match wanted {
            // Each family has tables of its own.
            rules::Match::Family(_) => {}
            rules::Match::StatusDnat => criteria.dnat = true,
            rules::Match::Direction(direction) => criteria.direction = Some(*direction),
            rules::Match::StateRelated => criteria.state = Some(State::Related),
            rules::Match::OriginalPort(protocol, port) => {
                criteria.protocol = Some(*protocol);
                criteria.original_port = Some(*port);
            }
            rules::Match::Source(set) => criteria.source = Some(chain_name(self.rules, set.name)),
        }
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
        for (to, map) in self.rules.dnat(self.family) {
            for (port, to_port) in &map.ports {
                rules.extend(to.addresses().iter().map(|address| {
                    let new = Criteria {
                        protocol: Some(map.protocol),
                        original_port: Some(*port),
                        destination: Some((*address, *to_port)),
                        ..criteria
                    };
                    new.rule(self.family, target.clone())
                }));
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
    fn dnat(&self, criteria: &Criteria, to: &Destinations, map: &PortMap) -> Vec<Rule> {
        let mut rules = Vec::new();
        let addresses = to.addresses();
        for (port, to_port) in &map.ports {
            for (address, left) in addresses.iter().zip((1..=addresses.len()).rev()) {
                let target = extensions::dnat(*address, *to_port);
                let mut rule = criteria
                    .rule(self.family, Target::Extension(target))
                    .protocol(self.family, map.protocol.number())
                    .matching(Match::DestinationPort(map.protocol, *port));
                if let Ok(times @ 2..) = u32::try_from(left) {
                    rule = rule.matching(Match::OnceIn(times));
                }
                rules.push(rule);
            }
        }
        rules
    }

    /// The chain that accepts what comes from the addresses of a set.
    fn sources(&self, set: &AddressSet) -> Vec<Rule> {
        let accept = |address, prefix| {
            Rule::new(self.family, Target::Verdict(ACCEPT)).source(address, prefix)
        };
        let cidrs = set.ranges.iter().flat_map(|range| range.cidrs());
        cidrs
            .map(|cidr| accept(cidr.address(), cidr.prefix()))
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
    /// Accepted is what this chain accepts.
    source: Option<ChainName>,
}

impl Criteria {
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
