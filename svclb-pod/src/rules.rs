//! What must hold in a network namespace, free of any backend: one table with chains of rules, in
//! netfilter's terms, that a backend can encode.
//!
//! A set of rules is installed and replaced as a whole. No chain drops by its policy: while the kernel
//! replaces nf_tables chains, the old one lives on for a moment without its rules but with its policy,
//! and would drop what the new one lets through. A last rule that drops has no such moment.
//!
//! Rules hold the sets and maps that they look things up in, so there is none that names a set that is
//! not there, and what needs a family or a protocol to make sense has it from what it holds.

mod pod;

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{Family, Protocol};
use crate::ranges::Range;

/// Everything that one process keeps in its network namespace: a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whose packets it sees.
    pub family: TableFamily,
    /// The name of the nf_tables table, and the prefix of the xtables chains. Only what bears it is
    /// ever replaced.
    pub name: String,
    /// What the kernel does with the table as a whole.
    pub flags: TableFlags,
    /// The chains, in the order in which a packet meets them.
    pub chains: Vec<Chain>,
}

/// The family of a table (`NFPROTO_*` in linux/netfilter.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFamily {
    /// IPv4 and IPv6.
    Inet,
    /// One of them.
    Only(Family),
}

/// `enum nft_table_flags` in linux/netfilter/nf_tables.h.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableFlags {
    /// `NFT_TABLE_F_OWNER`: nobody else can change the table, and it goes away with the socket that
    /// made it, however its process ends.
    pub owner: bool,
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
pub mod priority {
    /// `NF_IP_PRI_NAT_DST`
    pub const NAT_DST: i32 = -100;
    /// `NF_IP_PRI_FILTER`
    pub const FILTER: i32 = 0;
    /// `NF_IP_PRI_NAT_SRC`
    pub const NAT_SRC: i32 = 100;
}

/// If all of `matches` hold, the statements are done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What must hold of the packet.
    pub matches: Vec<Match>,
    /// What is done.
    pub statements: Vec<Statement>,
}

/// What can be asked of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// It is of this family.
    Family(Family),
    /// It belongs to a connection (or is an error about one) whose destination was rewritten.
    StatusDnat,
    /// It goes in this direction of its connection.
    Direction(Direction),
    /// It is an error about a connection, or belongs to one that a connection expects.
    StateRelated,
    /// It is of this protocol, and its connection was opened to this port.
    OriginalPort(Protocol, u16),
    /// It is of the set's family, and its source address is in the set.
    Source(Arc<AddressSet>),
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
    /// Counts it (xtables always counts).
    Counter,
    /// Lets it pass.
    Accept,
    /// Drops it.
    Drop,
    /// If it is of the addresses' family and of the map's protocol, and the map has its destination
    /// port: rewrites its destination to one of the addresses, with equal chances, and to the port that
    /// the map has.
    Dnat {
        /// Where it goes.
        to: Destinations,
        /// Which port goes to which.
        ports: Arc<PortMap>,
    },
    /// Rewrites the source to an address of the interface by which the packet leaves.
    Masquerade,
}

/// Addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressSet {
    /// Its name; with the family's number it is that of the nf_tables set.
    pub name: &'static str,
    /// Of all its addresses.
    pub family: Family,
    /// Sorted, and apart from each other. Nothing is in a set without ranges.
    pub ranges: Vec<Range>,
}

/// From the port at which a packet of one protocol arrives to the port to which it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMap {
    /// Of the packets, and by name the first half of the nf_tables map's name.
    pub protocol: Protocol,
    /// Sorted; no port twice.
    pub ports: Vec<(u16, u16)>,
}

/// One or more addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destinations {
    family: Family,
    addresses: Vec<IpAddr>,
}

impl Destinations {
    /// Those of the addresses that are of the family; `None` if none is.
    pub fn new(addresses: &[IpAddr], family: Family) -> Option<Self> {
        let of_family = |address: &&IpAddr| Family::of(**address) == family;
        let addresses: Vec<_> = addresses.iter().filter(of_family).copied().collect();
        (!addresses.is_empty()).then_some(Self { family, addresses })
    }

    /// The family of them all.
    pub fn family(&self) -> Family {
        self.family
    }

    /// At least one.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }
}

impl Rule {
    /// Whether it can have to do with packets of the family.
    pub fn is_for(&self, family: Family) -> bool {
        let asked = self.matches.iter().filter_map(|wanted| match wanted {
            Match::Family(family) => Some(*family),
            Match::Source(set) => Some(set.family),
            Match::StatusDnat
            | Match::Direction(_)
            | Match::StateRelated
            | Match::OriginalPort(..) => None,
        });
        let done = self
            .statements
            .iter()
            .filter_map(|statement| match statement {
                Statement::Dnat { to, .. } => Some(to.family),
                Statement::Counter
                | Statement::Accept
                | Statement::Drop
                | Statement::Masquerade => None,
            });
        asked.chain(done).all(|only| only == family)
    }
}

impl Rules {
    /// All rules, in the order in which a packet meets them.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.chains.iter().flat_map(|chain| &chain.rules)
    }

    /// Where packets of the family are sent, and by which ports.
    pub fn dnat(&self, family: Family) -> impl Iterator<Item = (&Destinations, &Arc<PortMap>)> {
        let statements = self.rules().flat_map(|rule| &rule.statements);
        statements.filter_map(move |statement| match statement {
            Statement::Dnat { to, ports } if to.family == family => Some((to, ports)),
            _ => None,
        })
    }

    /// The maps that rules look ports up in, each once.
    pub fn port_maps(&self) -> Vec<&Arc<PortMap>> {
        let all = Family::ALL
            .into_iter()
            .flat_map(|family| self.dnat(family).map(|(_, ports)| ports));
        each_once(all)
    }

    /// The sets that rules look sources up in, each once.
    pub fn address_sets(&self) -> Vec<&Arc<AddressSet>> {
        let matches = self.rules().flat_map(|rule| &rule.matches);
        each_once(matches.filter_map(|wanted| match wanted {
            Match::Source(set) => Some(set),
            _ => None,
        }))
    }
}

fn each_once<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}

#[cfg(test)]
mod tests;
