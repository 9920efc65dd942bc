//! What the kernel holds of a table, read back and compared with the transaction that should have made
//! it.
//!
//! The transaction itself is the yardstick: each object that it makes has to be there, with every
//! attribute that it was made with. What the kernel adds of its own (handles, counters, defaults) does
//! not matter; anything else that a rule's expression has beyond that does: it may mean the opposite.

use nix::libc::{self, c_int};

use super::batch::{
    NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE, NFTA_DATA_VALUE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS,
    NFTA_RULE_TABLE, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_ELEMENTS,
    NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ID, NFTA_SET_NAME, NFTA_SET_TABLE,
    NFTA_TABLE_FLAGS, NFTA_TABLE_NAME, nft_message,
};
use super::expressions::{
    NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_LOOKUP_SET_ID, NFTA_NAT_REG_ADDR_MIN,
    NFTA_NAT_REG_PROTO_MIN,
};
use crate::netlink::{
    self, Attribute, DUMP, Message, Requests, Socket, attributes, find, messages, number,
};
use crate::nfnetlink::{self, HEADER};

const NFTA_NAT_REG_ADDR_MAX: u16 = 4;
const NFTA_NAT_REG_PROTO_MAX: u16 = 6;
const NFTA_NAT_FLAGS: u16 = 7;
/// `NF_NAT_RANGE_MAP_IPS | NF_NAT_RANGE_PROTO_SPECIFIED` in linux/netfilter/nf_nat.h.
const NAT_ADDRESS_AND_PORT: u32 = 1 | 1 << 1;

/// The attributes of the objects of one table, each as the kernel or a transaction has them.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// The table's `NFT_TABLE_F_*`.
    flags: u32,
    chains: Vec<Vec<u8>>,
    /// In the order in which they run.
    rules: Vec<Vec<u8>>,
    sets: Vec<(Vec<u8>, Elements)>,
}

/// The elements of a set, sorted, as the kernel keeps them in no order of ours.
type Elements = Vec<Vec<u8>>;

/// Asks the kernel for all objects of a table of a family (`NFPROTO_*`), if it is there.
pub(super) fn read(
    socket: &Socket,
    family: c_int,
    table: &str,
) -> Result<Option<Objects>, netlink::Error> {
    let list = |kind, attribute| list(socket, family, kind, attribute, table);
    let tables = list(libc::NFT_MSG_GETTABLE, NFTA_TABLE_NAME)?;
    let Some(made) = tables.first() else {
        return Ok(None);
    };
    let mut objects = Objects {
        flags: table_flags(made),
        chains: list(libc::NFT_MSG_GETCHAIN, NFTA_CHAIN_TABLE)?,
        rules: list(libc::NFT_MSG_GETRULE, NFTA_RULE_TABLE)?,
        sets: Vec::new(),
    };
    for set in list(libc::NFT_MSG_GETSET, NFTA_SET_TABLE)? {
        let name = find(attributes(&set), NFTA_SET_NAME)
            .unwrap_or_default()
            .to_vec();
        let header = nfnetlink::header(family, 0);
        let kind = nft_message(libc::NFT_MSG_GETSETELEM);
        let request = Requests::one(kind, DUMP, &header, |a| {
            a.text(NFTA_SET_ELEM_LIST_TABLE, table)
                .bytes(NFTA_SET_ELEM_LIST_SET, &name);
        });
        let mut elements = socket.list(&request, &mut |message, elements: &mut Elements| {
            elements.extend(elements_of(message))
        })?;
        elements.sort_unstable();
        objects.sets.push((set, elements));
    }
    Ok(Some(objects))
}

/// Whether there is a table of that family and name.
pub(super) fn is_there(
    socket: &Socket,
    family: c_int,
    table: &str,
) -> Result<bool, netlink::Error> {
    let tables = list(
        socket,
        family,
        libc::NFT_MSG_GETTABLE,
        NFTA_TABLE_NAME,
        table,
    )?;
    Ok(!tables.is_empty())
}

/// All objects of a kind that the table has. Not every kernel leaves other tables' out of a list.
fn list(
    socket: &Socket,
    family: c_int,
    kind: c_int,
    table_attribute: u16,
    table: &str,
) -> Result<Vec<Vec<u8>>, netlink::Error> {
    let header = nfnetlink::header(family, 0);
    let request = Requests::one(nft_message(kind), DUMP, &header, |a| {
        a.text(table_attribute, table);
    });
    socket.list(&request, &mut |message, objects| {
        let name = find(message.attributes(HEADER), table_attribute).unwrap_or_default();
        if name.strip_suffix(&[0]) == Some(table.as_bytes()) {
            objects.push(message.payload.get(HEADER..).unwrap_or_default().to_vec());
        }
    })
}

/// Whether `held` is what `transaction` makes, no less and no more.
pub(super) fn is_all_of(held: &Objects, transaction: &Requests) -> bool {
    let wanted = made_by(transaction);
    let same_sets = wanted.sets.len() == held.sets.len()
        && wanted.sets.iter().all(|(set, elements)| {
            held.sets.iter().any(|(held_set, held_elements)| {
                elements == held_elements && has(held_set, set, is_set_id)
            })
        });
    let same_chains = wanted.chains.len() == held.chains.len()
        && wanted
            .chains
            .iter()
            .all(|chain| held.chains.iter().any(|it| has(it, chain, nothing)));
    let same_rules = chain_names(&wanted).all(|name| {
        let (wanted, held) = (rules_of(&wanted, name), rules_of(held, name));
        wanted.len() == held.len()
            && held
                .iter()
                .zip(wanted)
                .all(|(held, wanted)| has_expressions(held, wanted))
    });
    held.flags == wanted.flags && same_sets && same_chains && same_rules
}

pub(super) fn made_by(transaction: &Requests) -> Objects {
    let mut objects = Objects::default();
    for message in messages(transaction.bytes()) {
        let is = |kind| message.kind == nft_message(kind);
        let payload = message.payload.get(HEADER..).unwrap_or_default();
        if is(libc::NFT_MSG_NEWTABLE) {
            objects.flags = table_flags(payload);
        } else if is(libc::NFT_MSG_NEWCHAIN) {
            objects.chains.push(payload.to_vec());
        } else if is(libc::NFT_MSG_NEWRULE) {
            objects.rules.push(payload.to_vec());
        } else if is(libc::NFT_MSG_NEWSET) {
            objects.sets.push((payload.to_vec(), Vec::new()));
        } else if is(libc::NFT_MSG_NEWSETELEM)
            && let Some((_, elements)) = objects.sets.last_mut()
        {
            elements.extend(elements_of(message));
        }
    }
    for (_, elements) in &mut objects.sets {
        elements.sort_unstable();
    }
    objects
}

fn table_flags(table: &[u8]) -> u32 {
    find(attributes(table), NFTA_TABLE_FLAGS)
        .and_then(|flags| number(flags, 0))
        .map_or(0, u32::from_be_bytes)
}

/// The elements that a message lists, in one form whatever its origin: the kernel marks no nesting.
fn elements_of(message: Message<'_>) -> impl Iterator<Item = Vec<u8>> {
    let list = find(message.attributes(HEADER), NFTA_SET_ELEM_LIST_ELEMENTS).unwrap_or_default();
    attributes(list).map(|element| {
        let mut parts = Vec::new();
        for part in attributes(element.value) {
            parts.extend(part.kind.to_ne_bytes());
            parts.extend(match part.kind {
                NFTA_SET_ELEM_KEY | NFTA_SET_ELEM_DATA => {
                    find(attributes(part.value), NFTA_DATA_VALUE).unwrap_or_default()
                }
                _ => part.value,
            });
        }
        parts
    })
}

fn chain_names(objects: &Objects) -> impl Iterator<Item = &[u8]> {
    objects
        .chains
        .iter()
        .filter_map(|chain| find(attributes(chain), NFTA_CHAIN_NAME))
}

fn rules_of<'a>(objects: &'a Objects, chain: &[u8]) -> Vec<&'a [u8]> {
    let of_chain = |rule: &&Vec<u8>| find(attributes(rule), NFTA_RULE_CHAIN) == Some(chain);
    objects
        .rules
        .iter()
        .filter(of_chain)
        .map(Vec::as_slice)
        .collect()
}

fn has_expressions(held: &[u8], wanted: &[u8]) -> bool {
    let expressions = |rule| {
        attributes(find(attributes(rule), NFTA_RULE_EXPRESSIONS).unwrap_or_default())
            .map(|expression| expression.value)
            .collect::<Vec<_>>()
    };
    let (held, wanted) = (expressions(held), expressions(wanted));
    held.len() == wanted.len()
        && held
            .into_iter()
            .zip(wanted)
            .all(|(held, wanted)| has_expression(held, wanted))
}

fn has_expression(held: &[u8], wanted: &[u8]) -> bool {
    let name = find(attributes(wanted), NFTA_EXPR_NAME);
    let data = |expression| find(attributes(expression), NFTA_EXPR_DATA).unwrap_or_default();
    let left_out = if name == Some(b"lookup\0") {
        is_lookup_id
    } else {
        nothing
    };
    let (held_data, wanted_data) = (data(held), data(wanted));
    find(attributes(held), NFTA_EXPR_NAME) == name
        && has(held_data, wanted_data, left_out)
        && attributes(held_data).all(|attribute| {
            find(attributes(wanted_data), attribute.kind).is_some()
                || is_added(name.unwrap_or_default(), attribute, wanted_data)
        })
}

/// Whether the kernel tells this of an expression that was made without it: what it counted, the end of
/// a range of registers that is its start, flags that say what else there is, and what is off.
fn is_added(expression: &[u8], attribute: Attribute<'_>, wanted: &[u8]) -> bool {
    let is = |other| find(attributes(wanted), other) == Some(attribute.value);
    match (expression, attribute.kind) {
        (b"counter\0", _) => true,
        (b"nat\0", NFTA_NAT_REG_ADDR_MAX) => is(NFTA_NAT_REG_ADDR_MIN),
        (b"nat\0", NFTA_NAT_REG_PROTO_MAX) => is(NFTA_NAT_REG_PROTO_MIN),
        (b"nat\0", NFTA_NAT_FLAGS) => {
            let flags = number(attribute.value, 0).map(u32::from_be_bytes);
            flags.is_some_and(|flags| flags & !NAT_ADDRESS_AND_PORT == 0)
        }
        _ => attribute.value.iter().all(|&byte| byte == 0),
    }
}

/// Whether there is every wanted attribute, `left_out` aside, and all that it holds.
fn has(held: &[u8], wanted: &[u8], left_out: fn(u16) -> bool) -> bool {
    attributes(wanted)
        .filter(|attribute| !left_out(attribute.kind))
        .all(|wanted| {
            find(attributes(held), wanted.kind).is_some_and(|held| has_value(held, wanted))
        })
}

fn has_value(held: &[u8], wanted: Attribute<'_>) -> bool {
    if wanted.nested {
        return has(held, wanted.value, nothing);
    }
    // The kernel completes the name of a map that has none of its own. Only that name is told so: an
    // address may well end in the same bytes.
    match wanted.value.strip_suffix(b"%d\0") {
        Some(start) if start == b"__map" => held.starts_with(start),
        _ => held == wanted.value,
    }
}

/// Set numbers exist only within the transaction.
fn is_set_id(attribute: u16) -> bool {
    attribute == NFTA_SET_ID
}

fn is_lookup_id(attribute: u16) -> bool {
    attribute == NFTA_LOOKUP_SET_ID
}

fn nothing(_: u16) -> bool {
    false
}
