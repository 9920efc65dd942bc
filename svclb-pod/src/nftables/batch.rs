//! One nf_tables transaction, and the objects that it makes: table, chain, set, elements, rule.
//!
//! Attribute numbers are those of linux/netfilter/nf_tables.h, under their own names.

use nix::libc::{self, c_int};

use super::expressions::Expressions;
use crate::netlink::{self, Attributes, Requests};
use crate::nfnetlink;

/// `NFNL_MSG_BATCH_BEGIN` and `NFNL_MSG_BATCH_END` in linux/netfilter/nfnetlink.h.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// Elements in one message: a list of them is an attribute, so it has to stay below 64 KiB, and the
/// longest element (an IPv6 destination and its number) takes 40 bytes.
pub const ELEMENTS_PER_MESSAGE: usize = 1000;

pub(super) const NFTA_LIST_ELEM: u16 = 1;
pub(super) const NFTA_TABLE_NAME: u16 = 1;
pub(super) const NFTA_TABLE_FLAGS: u16 = 2;
pub(super) const NFTA_CHAIN_TABLE: u16 = 1;
pub(super) const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
pub(super) const NFTA_RULE_TABLE: u16 = 1;
pub(super) const NFTA_RULE_CHAIN: u16 = 2;
pub(super) const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub(super) const NFTA_SET_TABLE: u16 = 1;
pub(super) const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
pub(super) const NFTA_SET_ID: u16 = 10;
const NFTA_SET_USERDATA: u16 = 13;
pub(super) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub(super) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(super) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub(super) const NFTA_SET_ELEM_LIST_SET_ID: u16 = 4;
pub(super) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(super) const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
pub(super) const NFTA_DATA_VALUE: u16 = 1;

/// The type of an nf_tables message.
pub(super) fn nft_message(kind: c_int) -> u16 {
    // All of NFT_MSG_* fit in the lower byte.
    nfnetlink::message_type(libc::NFNL_SUBSYS_NFTABLES, kind as u16)
}

/// Data types as the `nft` tool numbers them (its `enum datatypes`). The kernel only keeps them, for
/// `nft list` to print values as what they are.
#[derive(Clone, Copy)]
pub(super) enum Type {
    Integer = 4,
    Ipv4Addr = 7,
    Ipv6Addr = 8,
    InetService = 13,
}

impl Type {
    fn length(self) -> u32 {
        match self {
            Self::InetService => 2,
            Self::Integer | Self::Ipv4Addr => 4,
            Self::Ipv6Addr => 16,
        }
    }
}

/// A set of keys, or a map from keys to data.
pub(super) struct Set<'a> {
    pub(super) name: &'a str,
    /// `NFT_SET_*`.
    pub(super) flags: c_int,
    pub(super) key: Type,
    pub(super) data: Option<Type>,
}

/// A value in a set: a number or an address, of at most 16 bytes. In place, as there may be thousands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Value {
    bytes: [u8; 16],
    length: usize,
}

impl Value {
    pub(super) fn new<const N: usize>(value: [u8; N]) -> Self {
        let mut bytes = [0; 16];
        for (place, byte) in bytes.iter_mut().zip(value) {
            *place = byte;
        }
        Self {
            bytes,
            length: N.min(16),
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// A key, or the end of an interval, and its data in a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) key: Value,
    pub(super) data: Option<Value>,
    /// The key is the first one after an interval.
    pub(super) ends_interval: bool,
}

/// A transaction under construction, of one table.
pub(super) struct Batch<'a> {
    requests: Requests,
    /// `NFPROTO_*`
    family: c_int,
    table: &'a str,
    /// How many sets it has made.
    sets: u32,
}

const CREATE: u16 = libc::NLM_F_CREATE as u16;
/// A second one of the same name would not be refused otherwise, but put into the first.
const CREATE_ONCE: u16 = CREATE | libc::NLM_F_EXCL as u16;
const APPEND: u16 = libc::NLM_F_APPEND as u16;

impl<'a> Batch<'a> {
    pub(super) fn new(family: c_int, table: &'a str) -> Self {
        let mut requests = Requests::default();
        requests.push(BATCH_BEGIN, 0, &batch_header(), |_| {});
        Self {
            requests,
            family,
            table,
            sets: 0,
        }
    }

    /// Ends the transaction. Its last message asks for the acknowledgement, as not every kernel
    /// acknowledges `BATCH_END`.
    pub(super) fn finish(mut self) -> Requests {
        self.requests.acknowledge_last();
        self.requests.push(BATCH_END, 0, &batch_header(), |_| {});
        self.requests
    }

    fn push(&mut self, kind: c_int, flags: u16, attributes: impl FnOnce(&mut Attributes<'_>)) {
        let header = nfnetlink::header(self.family, 0);
        self.requests
            .push(nft_message(kind), flags, &header, attributes);
    }

    /// A table with these `NFT_TABLE_F_*`. Without any, one that is there stays as it is.
    pub(super) fn add_table(&mut self, flags: u32) {
        let table = self.table;
        self.push(libc::NFT_MSG_NEWTABLE, CREATE, |a| {
            a.text(NFTA_TABLE_NAME, table);
            if flags != 0 {
                a.be32(NFTA_TABLE_FLAGS, flags);
            }
        });
    }

    pub(super) fn delete_table(&mut self) {
        let table = self.table;
        self.push(libc::NFT_MSG_DELTABLE, 0, |a| {
            a.text(NFTA_TABLE_NAME, table);
        });
    }

    /// A base chain: its type (`filter`, `nat`), its hook (`NF_INET_*`) and its priority there.
    pub(super) fn add_chain(&mut self, name: &str, kind: &str, hook: c_int, priority: i32) {
        let table = self.table;
        self.push(libc::NFT_MSG_NEWCHAIN, CREATE_ONCE, |a| {
            a.text(NFTA_CHAIN_TABLE, table)
                .text(NFTA_CHAIN_NAME, name)
                .nest(NFTA_CHAIN_HOOK, |a| {
                    a.bytes(NFTA_HOOK_HOOKNUM, &hook.to_be_bytes())
                        .bytes(NFTA_HOOK_PRIORITY, &priority.to_be_bytes());
                });
            a.bytes(NFTA_CHAIN_POLICY, &libc::NF_ACCEPT.to_be_bytes())
                .text(NFTA_CHAIN_TYPE, kind);
        });
    }

    pub(super) fn add_rule(
        &mut self,
        chain: &str,
        expressions: impl FnOnce(&mut Expressions<'_, '_>),
    ) {
        let table = self.table;
        self.push(libc::NFT_MSG_NEWRULE, CREATE | APPEND, |a| {
            a.text(NFTA_RULE_TABLE, table)
                .text(NFTA_RULE_CHAIN, chain)
                .nest(NFTA_RULE_EXPRESSIONS, |a| {
                    expressions(&mut Expressions::new(a))
                });
        });
    }

    /// A set with its elements. The number that it gets tells it from the others of this transaction.
    pub(super) fn add_set(
        &mut self,
        set: &Set<'_>,
        mut elements: &mut dyn Iterator<Item = Element>,
    ) -> u32 {
        self.sets += 1;
        let (table, id) = (self.table, self.sets);
        self.push(libc::NFT_MSG_NEWSET, CREATE_ONCE, |a| {
            a.text(NFTA_SET_TABLE, table)
                .text(NFTA_SET_NAME, set.name)
                .be32(NFTA_SET_FLAGS, set.flags as u32)
                .be32(NFTA_SET_KEY_TYPE, set.key as u32)
                .be32(NFTA_SET_KEY_LEN, set.key.length());
            if let Some(data) = set.data {
                a.be32(NFTA_SET_DATA_TYPE, data as u32)
                    .be32(NFTA_SET_DATA_LEN, data.length());
            }
            a.be32(NFTA_SET_ID, id);
            if matches!(set.key, Type::Integer) {
                a.bytes(NFTA_SET_USERDATA, &host_endian_keys());
            }
        });
        loop {
            let mut part = (&mut elements).take(ELEMENTS_PER_MESSAGE).peekable();
            if part.peek().is_none() {
                break;
            }
            self.push(libc::NFT_MSG_NEWSETELEM, CREATE, |a| {
                a.text(NFTA_SET_ELEM_LIST_TABLE, table)
                    .text(NFTA_SET_ELEM_LIST_SET, set.name)
                    .be32(NFTA_SET_ELEM_LIST_SET_ID, id)
                    .nest(NFTA_SET_ELEM_LIST_ELEMENTS, |a| {
                        for element in part {
                            a.nest(NFTA_LIST_ELEM, |a| write_element(a, &element));
                        }
                    });
            });
        }
        id
    }
}

/// What tells `nft list` that the keys are numbers in the byte order of the machine: type
/// `NFTNL_UDATA_SET_KEYBYTEORDER` (libnftnl's udata.h), length, `BYTEORDER_HOST_ENDIAN` (nft's
/// datatype.h).
fn host_endian_keys() -> [u8; 6] {
    let [a, b, c, d] = 1u32.to_ne_bytes();
    [0, 4, a, b, c, d]
}

fn write_element(a: &mut Attributes<'_>, element: &Element) {
    a.nest(NFTA_SET_ELEM_KEY, |a| {
        a.bytes(NFTA_DATA_VALUE, element.key.as_bytes());
    });
    if let Some(data) = element.data {
        a.nest(NFTA_SET_ELEM_DATA, |a| {
            a.bytes(NFTA_DATA_VALUE, data.as_bytes());
        });
    }
    if element.ends_interval {
        a.be32(NFTA_SET_ELEM_FLAGS, libc::NFT_SET_ELEM_INTERVAL_END as u32);
    }
}

/// Of a batch's begin and end, the resource is the subsystem that the batch is for.
fn batch_header() -> [u8; nfnetlink::HEADER] {
    nfnetlink::header(libc::AF_UNSPEC, libc::NFNL_SUBSYS_NFTABLES as u16)
}

/// What the message with this number is about.
pub(super) fn object(requests: &Requests, sequence: u32) -> &'static str {
    let mut messages = netlink::messages(requests.bytes());
    let kind = messages
        .find(|message| message.sequence == sequence)
        .map(|message| message.kind);
    let is = |of: c_int| kind == Some(nft_message(of));
    if is(libc::NFT_MSG_NEWTABLE) || is(libc::NFT_MSG_DELTABLE) {
        "table"
    } else if is(libc::NFT_MSG_NEWCHAIN) {
        "chain"
    } else if is(libc::NFT_MSG_NEWSET) {
        "set"
    } else if is(libc::NFT_MSG_NEWSETELEM) {
        "set elements"
    } else if is(libc::NFT_MSG_NEWRULE) {
        "rule"
    } else {
        "transaction"
    }
}
