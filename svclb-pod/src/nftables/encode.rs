//! Rules as an nf_tables transaction. The nft text of what is encoded stands above the code.

use std::net::IpAddr;

use nix::libc::{self, c_int};

use super::batch::{Batch, Element, Set, Type, Value};
use super::expressions::{Expressions, IP_CT_DIR_ORIGINAL, IP_CT_DIR_REPLY, Register};
use crate::config::{Family, Forward, Protocol};
use crate::conntrack::IPS_DST_NAT;
use crate::netlink::Requests;
use crate::ranges::Range;
use crate::rules::{Chain, Direction, Hook, Kind, Match, Rule, Rules, Statement};

/// `NF_CT_STATE_BIT(IP_CT_RELATED)` there.
const STATE_RELATED: u32 = 1 << 2;

/// The transaction that replaces whatever the table holds by these rules.
///
/// Adding, deleting and adding the table again is what works on every kernel: deleting alone fails if
/// it is not there, and `NFT_MSG_DESTROYTABLE` needs Linux 6.3.
pub fn replace(rules: &Rules) -> Requests {
    let mut batch = Batch::new(&rules.name);
    batch.add_table();
    batch.delete_table();
    batch.add_table();
    for chain in &rules.chains {
        let kind = match chain.kind {
            Kind::Filter => "filter",
            Kind::Nat => "nat",
        };
        batch.add_chain(chain.name, kind, hook(chain.hook), chain.priority);
    }
    let mut table = Table { batch, sets: 0 };
    let sets = table.add_sets(rules);
    for chain in &rules.chains {
        for rule in &chain.rules {
            table.add_rule(chain, rule, &sets);
        }
    }
    table.batch.finish()
}

/// The transaction that takes the table away, if it is there.
pub(super) fn remove(name: &str) -> Requests {
    let mut batch = Batch::new(name);
    batch.add_table();
    batch.delete_table();
    batch.finish()
}

struct Table<'a> {
    batch: Batch<'a>,
    sets: u32,
}

/// The sets that rules refer to by what they hold.
struct Sets {
    ports: Vec<(Protocol, Set)>,
    sources: Vec<(Family, Set)>,
}

impl Table<'_> {
    fn add_sets(&mut self, rules: &Rules) -> Sets {
        let mut sets = Sets {
            ports: Vec::new(),
            sources: Vec::new(),
        };
        for of_protocol in rules.forwards.chunk_by(|a, b| a.protocol == b.protocol) {
            let protocol = of_protocol.first().map(|forward| forward.protocol);
            sets.ports
                .extend(protocol.map(|it| (it, self.add_ports(it, of_protocol))));
        }
        for family in Family::ALL {
            let ranges = rules.sources(family);
            if !ranges.is_empty() {
                sets.sources
                    .push((family, self.add_sources(family, ranges)));
            }
        }
        sets
    }

    /// `map tcp-ports { type inet_service : inet_service; elements = { 80 : 8080 } }`
    fn add_ports(&mut self, protocol: Protocol, forwards: &[Forward]) -> Set {
        let mut elements = forwards.iter().map(|forward| Element {
            key: Value::new(forward.port.to_be_bytes()),
            data: Some(Value::new(forward.to_port.to_be_bytes())),
            ends_interval: false,
        });
        let name = match protocol {
            Protocol::Tcp => "tcp-ports",
            Protocol::Udp => "udp-ports",
            Protocol::Sctp => "sctp-ports",
        };
        let data = Some(Type::InetService);
        self.add_set(
            name,
            libc::NFT_SET_MAP,
            Type::InetService,
            data,
            &mut elements,
        )
    }

    /// `set sources4 { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 } }`
    fn add_sources(&mut self, family: Family, ranges: &[Range]) -> Set {
        let name = match family {
            Family::V4 => "sources4",
            Family::V6 => "sources6",
        };
        let elements = &mut intervals(ranges);
        self.add_set(
            name,
            libc::NFT_SET_INTERVAL,
            address_type(family),
            None,
            elements,
        )
    }

    /// `{ 0 : 10.43.0.10, 1 : 10.43.0.11 }`, which the kernel gives a name of its own.
    fn add_destinations(&mut self, family: Family, addresses: &[IpAddr]) -> Set {
        let mut elements = (0u32..).zip(addresses).map(|(index, &address)| Element {
            // What numgen makes is in the byte order of the machine.
            key: Value::new(index.to_ne_bytes()),
            data: Some(octets(address)),
            ends_interval: false,
        });
        let flags = libc::NFT_SET_ANONYMOUS | libc::NFT_SET_CONSTANT | libc::NFT_SET_MAP;
        let data = Some(address_type(family));
        self.add_set("__map%d", flags, Type::Integer, data, &mut elements)
    }

    fn add_set(
        &mut self,
        name: &'static str,
        flags: c_int,
        key: Type,
        data: Option<Type>,
        elements: &mut dyn Iterator<Item = Element>,
    ) -> Set {
        self.sets += 1;
        let set = Set {
            name,
            id: self.sets,
            flags,
            key,
            data,
        };
        self.batch.add_set(&set, elements);
        set
    }

    fn add_rule(&mut self, chain: &Chain, rule: &Rule, sets: &Sets) {
        match (&rule.statement, rule.family) {
            (Statement::Dnat { to }, Some(family)) => self.add_dnat(chain, family, to, sets),
            _ => self
                .batch
                .add_rule(chain.name, |e| write_rule(e, rule, sets)),
        }
    }

    /// With one destination, and with more:
    ///
    /// ```text
    /// meta l4proto tcp dnat ip to 10.43.0.10:tcp dport map @tcp-ports
    /// meta l4proto tcp dnat ip to numgen random mod 2 map { … }:tcp dport map @tcp-ports
    /// ```
    fn add_dnat(&mut self, chain: &Chain, family: Family, to: &[IpAddr], sets: &Sets) {
        for (protocol, ports) in &sets.ports {
            let spread = (to.len() > 1).then(|| self.add_destinations(family, to));
            self.batch.add_rule(chain.name, |e| {
                e.meta(libc::NFT_META_L4PROTO, Register::One)
                    .equals(Register::One, &[protocol.number()]);
                match (&spread, to) {
                    (Some(destinations), _) => {
                        let modulus = u32::try_from(to.len()).unwrap_or(u32::MAX);
                        e.random(modulus, Register::One).map(
                            destinations,
                            Register::One,
                            Register::One,
                        );
                    }
                    (None, [only, ..]) => {
                        e.immediate(octets(*only).as_bytes(), Register::One);
                    }
                    (None, []) => return,
                }
                // The destination port is at the same place in the headers of all three protocols.
                e.payload(libc::NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, Register::Two)
                    .map(ports, Register::Two, Register::Two)
                    .dnat(nfproto(family), Register::One, Register::Two);
            });
        }
    }
}

fn write_rule(e: &mut Expressions<'_, '_>, rule: &Rule, sets: &Sets) {
    // meta nfproto ipv4
    if let Some(family) = rule.family {
        e.meta(libc::NFT_META_NFPROTO, Register::One)
            .equals(Register::One, &[nfproto(family) as u8]);
    }
    for condition in &rule.matches {
        write_match(e, *condition, rule.family, sets);
    }
    if rule.counter {
        e.counter();
    }
    match rule.statement {
        Statement::Accept => e.verdict(libc::NF_ACCEPT),
        Statement::Drop => e.verdict(libc::NF_DROP),
        Statement::Masquerade => e.masquerade(),
        // Without a family there is no address that it could be rewritten to.
        Statement::Dnat { .. } => e,
    };
}

fn write_match(e: &mut Expressions<'_, '_>, condition: Match, family: Option<Family>, sets: &Sets) {
    match condition {
        // ct status dnat
        Match::StatusDnat => {
            e.ct(libc::NFT_CT_STATUS, Register::One)
                .has_any_of(Register::One, IPS_DST_NAT);
        }
        // ct direction reply
        Match::Direction(direction) => {
            let direction = match direction {
                Direction::Original => IP_CT_DIR_ORIGINAL,
                Direction::Reply => IP_CT_DIR_REPLY,
            };
            e.ct(libc::NFT_CT_DIRECTION, Register::One)
                .equals(Register::One, &[direction]);
        }
        // ct state related
        Match::StateRelated => {
            e.ct(libc::NFT_CT_STATE, Register::One)
                .has_any_of(Register::One, STATE_RELATED);
        }
        // meta l4proto tcp ct original proto-dst 80
        Match::OriginalPort(protocol, port) => {
            e.meta(libc::NFT_META_L4PROTO, Register::One)
                .equals(Register::One, &[protocol.number()])
                .ct_original(libc::NFT_CT_PROTO_DST, Register::One)
                .equals(Register::One, &port.to_be_bytes());
        }
        // ip saddr @sources4
        Match::Source => {
            let of_family = |(of, _): &&(Family, Set)| Some(*of) == family;
            if let Some((family, set)) = sets.sources.iter().find(of_family) {
                let (offset, length) = source_address(*family);
                e.payload(
                    libc::NFT_PAYLOAD_NETWORK_HEADER,
                    offset,
                    length,
                    Register::One,
                )
                .is_in(set, Register::One);
            }
        }
    }
}

/// An interval set holds where each range starts and, as an end mark, the address after it; the last
/// address of a family has none after it, and its range no end mark.
fn intervals(ranges: &[Range]) -> impl Iterator<Item = Element> {
    let mark = |address, ends_interval| Element {
        key: octets(address),
        data: None,
        ends_interval,
    };
    ranges.iter().flat_map(move |range| {
        let end = range.end().map(|end| mark(end, true));
        std::iter::once(mark(range.first, false)).chain(end)
    })
}

/// Where the source address is in the header of RFC 791 and of RFC 8200: offset and length.
fn source_address(family: Family) -> (u32, u32) {
    match family {
        Family::V4 => (12, 4),
        Family::V6 => (8, 16),
    }
}

fn address_type(family: Family) -> Type {
    match family {
        Family::V4 => Type::Ipv4Addr,
        Family::V6 => Type::Ipv6Addr,
    }
}

fn nfproto(family: Family) -> c_int {
    match family {
        Family::V4 => libc::NFPROTO_IPV4,
        Family::V6 => libc::NFPROTO_IPV6,
    }
}

fn hook(hook: Hook) -> c_int {
    match hook {
        Hook::Prerouting => libc::NF_INET_PRE_ROUTING,
        Hook::Forward => libc::NF_INET_FORWARD,
        Hook::Postrouting => libc::NF_INET_POST_ROUTING,
    }
}

fn octets(address: IpAddr) -> Value {
    match address {
        IpAddr::V4(address) => Value::new(address.octets()),
        IpAddr::V6(address) => Value::new(address.octets()),
    }
}
