//! Rules as an nf_tables transaction. The nft text of what is encoded stands above the code.

use std::net::IpAddr;

use nix::libc::{self, c_int};

use super::batch::{Batch, Element, Set, Type, Value};
use super::expressions::{Expressions, IP_CT_DIR_ORIGINAL, IP_CT_DIR_REPLY, Register, SetName};
use crate::config::Family;
use crate::conntrack::IPS_DST_NAT;
use crate::netlink::Requests;
use crate::ranges::Range;
use crate::rules::{
    AddressSet, Chain, Destinations, Direction, Hook, Kind, Match, PortMap, Rule, Rules, Statement,
    TableFamily, TableFlags,
};

/// `NF_CT_STATE_BIT(IP_CT_RELATED)` in linux/netfilter/nf_conntrack_common.h.
const STATE_RELATED: u32 = 1 << 2;
/// The kernel completes it.
const NAMELESS_MAP: &str = "__map%d";

/// The transaction that replaces whatever the table holds by these rules.
///
/// Adding, deleting and adding the table again is what works on every kernel: deleting alone fails if
/// it is not there, and `NFT_MSG_DESTROYTABLE` needs Linux 6.3.
pub fn replace(rules: &Rules) -> Requests {
    let mut batch = Batch::new(table_family(rules.family), &rules.name);
    batch.add_table(0);
    batch.delete_table();
    batch.add_table(table_flags(rules.flags));
    for chain in &rules.chains {
        let kind = match chain.kind {
            Kind::Filter => "filter",
            Kind::Nat => "nat",
        };
        batch.add_chain(chain.name, kind, hook(chain.hook), chain.priority);
    }
    for map in rules.port_maps() {
        add_port_map(&mut batch, map);
    }
    for set in rules.address_sets() {
        add_address_set(&mut batch, set);
    }
    for chain in &rules.chains {
        for rule in &chain.rules {
            add_rule(&mut batch, rules.family, chain, rule);
        }
    }
    batch.finish()
}

/// The transaction that takes the table away, if it is there.
pub(super) fn remove(family: TableFamily, name: &str) -> Requests {
    let mut batch = Batch::new(table_family(family), name);
    batch.add_table(0);
    batch.delete_table();
    batch.finish()
}

/// `map tcp-ports { type inet_service : inet_service; elements = { 80 : 8080 } }`
fn add_port_map(batch: &mut Batch<'_>, map: &PortMap) {
    let set = Set {
        name: &map_name(map),
        flags: libc::NFT_SET_MAP,
        key: Type::InetService,
        data: Some(Type::InetService),
    };
    let mut elements = map.ports.iter().map(|(port, to_port)| Element {
        key: Value::new(port.to_be_bytes()),
        data: Some(Value::new(to_port.to_be_bytes())),
        ends_interval: false,
    });
    batch.add_set(&set, &mut elements);
}

/// `set sources4 { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 } }`
fn add_address_set(batch: &mut Batch<'_>, addresses: &AddressSet) {
    let set = Set {
        name: &set_name(addresses),
        flags: libc::NFT_SET_INTERVAL,
        key: address_type(addresses.family),
        data: None,
    };
    batch.add_set(&set, &mut intervals(&addresses.ranges));
}

/// `{ 0 : 10.43.0.10, 1 : 10.43.0.11 }`, which the kernel gives a name of its own.
fn add_destinations(batch: &mut Batch<'_>, to: &Destinations) -> SetName<'static> {
    let set = Set {
        name: NAMELESS_MAP,
        flags: libc::NFT_SET_ANONYMOUS | libc::NFT_SET_CONSTANT | libc::NFT_SET_MAP,
        key: Type::Integer,
        data: Some(address_type(to.family())),
    };
    let mut elements = (0u32..)
        .zip(to.addresses())
        .map(|(index, &address)| Element {
            // What numgen makes is in the byte order of the machine.
            key: Value::new(index.to_ne_bytes()),
            data: Some(octets(address)),
            ends_interval: false,
        });
    let id = batch.add_set(&set, &mut elements);
    SetName {
        name: NAMELESS_MAP,
        id: Some(id),
    }
}

fn add_rule(batch: &mut Batch<'_>, family: TableFamily, chain: &Chain, rule: &Rule) {
    // A set has to be there before the rule that looks something up in it.
    let maps = rule.statements.iter().map(|statement| match statement {
        Statement::Dnat { to, .. } if to.addresses().len() > 1 => Some(add_destinations(batch, to)),
        _ => None,
    });
    let maps: Vec<_> = maps.collect();
    batch.add_rule(chain.name, |e| {
        // Other packets do not come to a table of one family.
        let mut family = match family {
            TableFamily::Inet => None,
            TableFamily::Only(family) => Some(family),
        };
        for condition in &rule.matches {
            write_match(e, condition, &mut family);
        }
        for (statement, spread) in rule.statements.iter().zip(maps) {
            write_statement(e, statement, spread);
        }
    });
}

/// `family` is the only one that comes this far: some matches make sense in one only.
fn write_match(e: &mut Expressions<'_, '_>, condition: &Match, family: &mut Option<Family>) {
    match condition {
        Match::Family(wanted) => write_family(e, *wanted, family),
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
        Match::Source(set) => {
            write_family(e, set.family, family);
            let (offset, length) = source_address(set.family);
            e.payload(
                libc::NFT_PAYLOAD_NETWORK_HEADER,
                offset,
                length,
                Register::One,
            )
            .is_in(named(&set_name(set)), Register::One);
        }
    }
}

/// `meta nfproto ipv4`, unless no other comes this far.
fn write_family(e: &mut Expressions<'_, '_>, family: Family, only: &mut Option<Family>) {
    if only.replace(family) != Some(family) {
        e.meta(libc::NFT_META_NFPROTO, Register::One)
            .equals(Register::One, &[nfproto(family) as u8]);
    }
}

/// `spread` is the map of a DNAT statement that has several addresses.
fn write_statement(
    e: &mut Expressions<'_, '_>,
    statement: &Statement,
    spread: Option<SetName<'_>>,
) {
    match statement {
        Statement::Counter => e.counter(),
        Statement::Accept => e.verdict(libc::NF_ACCEPT),
        Statement::Drop => e.verdict(libc::NF_DROP),
        Statement::Masquerade => e.masquerade(),
        Statement::Dnat { to, ports } => write_dnat(e, to, ports, spread),
    };
}

/// With one destination, and with more:
///
/// ```text
/// meta l4proto tcp dnat ip to 10.43.0.10:tcp dport map @tcp-ports
/// meta l4proto tcp dnat ip to numgen random mod 2 map { … }:tcp dport map @tcp-ports
/// ```
fn write_dnat<'a, 'b, 'c>(
    e: &'a mut Expressions<'b, 'c>,
    to: &Destinations,
    ports: &PortMap,
    spread: Option<SetName<'_>>,
) -> &'a mut Expressions<'b, 'c> {
    e.meta(libc::NFT_META_L4PROTO, Register::One)
        .equals(Register::One, &[ports.protocol.number()]);
    if let Some(map) = spread {
        let modulus = u32::try_from(to.addresses().len()).unwrap_or(u32::MAX);
        e.random(modulus, Register::One)
            .map(map, Register::One, Register::One);
    } else if let Some(only) = to.addresses().first() {
        e.immediate(octets(*only).as_bytes(), Register::One);
    }
    // The destination port is at the same place in the headers of all three protocols.
    e.payload(libc::NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, Register::Two)
        .map(named(&map_name(ports)), Register::Two, Register::Two)
        .dnat(nfproto(to.family()), Register::One, Register::Two)
}

fn map_name(map: &PortMap) -> String {
    format!("{}-ports", map.protocol)
}

fn set_name(set: &AddressSet) -> String {
    let number = match set.family {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    format!("{}{number}", set.name)
}

fn named(name: &str) -> SetName<'_> {
    SetName { name, id: None }
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

pub(super) fn table_family(family: TableFamily) -> c_int {
    match family {
        TableFamily::Inet => libc::NFPROTO_INET,
        TableFamily::Only(family) => nfproto(family),
    }
}

/// `NFT_TABLE_F_OWNER` in linux/netfilter/nf_tables.h.
const OWNER: u32 = 1 << 1;

fn table_flags(flags: TableFlags) -> u32 {
    if flags.owner { OWNER } else { 0 }
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
