//! A rule's expressions: the instructions that the kernel runs for a packet, in order, until one does
//! not hold or one decides.
//!
//! Each is named as in the kernel and in `nft --debug=netlink`. Attribute numbers are those of
//! linux/netfilter/nf_tables.h.

use nix::libc::{self, c_int};

use super::batch::{NFTA_DATA_VALUE, NFTA_LIST_ELEM};
use crate::netlink::Attributes;

pub(super) const NFTA_EXPR_NAME: u16 = 1;
pub(super) const NFTA_EXPR_DATA: u16 = 2;
const NFTA_META_DREG: u16 = 1;
const NFTA_META_KEY: u16 = 2;
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFTA_CT_DIRECTION: u16 = 3;
const NFTA_PAYLOAD_DREG: u16 = 1;
const NFTA_PAYLOAD_BASE: u16 = 2;
const NFTA_PAYLOAD_OFFSET: u16 = 3;
const NFTA_PAYLOAD_LEN: u16 = 4;
const NFTA_CMP_SREG: u16 = 1;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_BITWISE_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_LEN: u16 = 3;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
pub(super) const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_DREG: u16 = 3;
pub(super) const NFTA_LOOKUP_SET_ID: u16 = 4;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_NG_DREG: u16 = 1;
const NFTA_NG_MODULUS: u16 = 2;
const NFTA_NG_TYPE: u16 = 3;
const NFTA_NAT_TYPE: u16 = 1;
const NFTA_NAT_FAMILY: u16 = 2;
pub(super) const NFTA_NAT_REG_ADDR_MIN: u16 = 3;
pub(super) const NFTA_NAT_REG_PROTO_MIN: u16 = 5;

/// A register of 16 bytes, which is as long as any value here.
#[derive(Clone, Copy)]
pub(super) enum Register {
    /// `NFT_REG_1`.
    One = 1,
    /// `NFT_REG_2`.
    Two = 2,
}

/// By what a rule finds a set.
#[derive(Clone, Copy)]
pub(super) struct SetName<'a> {
    pub(super) name: &'a str,
    /// Its number in the transaction, for one to which the kernel gives its name.
    pub(super) id: Option<u32>,
}

/// The expressions of one rule under construction.
pub(super) struct Expressions<'a, 'b>(&'a mut Attributes<'b>);

impl<'a, 'b> Expressions<'a, 'b> {
    pub(super) fn new(list: &'a mut Attributes<'b>) -> Self {
        Self(list)
    }

    fn push(&mut self, name: &str, data: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.0.nest(NFTA_LIST_ELEM, |a| {
            a.text(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, data);
        });
        self
    }

    /// `meta load KEY => reg TO`, with `NFT_META_*`.
    pub(super) fn meta(&mut self, key: c_int, to: Register) -> &mut Self {
        self.push("meta", |a| {
            a.be32(NFTA_META_KEY, key as u32)
                .be32(NFTA_META_DREG, to as u32);
        })
    }

    /// `ct load KEY => reg TO`, with `NFT_CT_*`.
    pub(super) fn ct(&mut self, key: c_int, to: Register) -> &mut Self {
        self.push("ct", |a| {
            a.be32(NFTA_CT_KEY, key as u32)
                .be32(NFTA_CT_DREG, to as u32);
        })
    }

    /// `ct load KEY => reg TO , dir original`: as the connection's first packet had it.
    pub(super) fn ct_original(&mut self, key: c_int, to: Register) -> &mut Self {
        self.push("ct", |a| {
            a.be32(NFTA_CT_KEY, key as u32)
                .be32(NFTA_CT_DREG, to as u32)
                .bytes(NFTA_CT_DIRECTION, &[IP_CT_DIR_ORIGINAL]);
        })
    }

    /// `payload load LENGTHb @ BASE header + OFFSET => reg TO`, with `NFT_PAYLOAD_*_HEADER`.
    pub(super) fn payload(
        &mut self,
        base: c_int,
        offset: u32,
        length: u32,
        to: Register,
    ) -> &mut Self {
        self.push("payload", |a| {
            a.be32(NFTA_PAYLOAD_DREG, to as u32)
                .be32(NFTA_PAYLOAD_BASE, base as u32)
                .be32(NFTA_PAYLOAD_OFFSET, offset)
                .be32(NFTA_PAYLOAD_LEN, length);
        })
    }

    /// `cmp eq reg FROM VALUE`
    pub(super) fn equals(&mut self, from: Register, value: &[u8]) -> &mut Self {
        self.compare(libc::NFT_CMP_EQ, from, value)
    }

    fn compare(&mut self, operator: c_int, from: Register, value: &[u8]) -> &mut Self {
        self.push("cmp", |a| {
            a.be32(NFTA_CMP_SREG, from as u32)
                .be32(NFTA_CMP_OP, operator as u32)
                .nest(NFTA_CMP_DATA, |a| {
                    a.bytes(NFTA_DATA_VALUE, value);
                });
        })
    }

    /// `bitwise reg R = ( reg R & BITS ) ^ 0` and `cmp neq reg R 0`. What `ct` and `meta` load is in
    /// the byte order of the machine.
    pub(super) fn has_any_of(&mut self, register: Register, bits: u32) -> &mut Self {
        self.push("bitwise", |a| {
            a.be32(NFTA_BITWISE_SREG, register as u32)
                .be32(NFTA_BITWISE_DREG, register as u32)
                .be32(NFTA_BITWISE_LEN, 4)
                .nest(NFTA_BITWISE_MASK, |a| {
                    a.bytes(NFTA_DATA_VALUE, &bits.to_ne_bytes());
                })
                .nest(NFTA_BITWISE_XOR, |a| {
                    a.bytes(NFTA_DATA_VALUE, &[0; 4]);
                });
        })
        .compare(libc::NFT_CMP_NEQ, register, &[0; 4])
    }

    /// `lookup reg FROM set SET`
    pub(super) fn is_in(&mut self, set: SetName<'_>, from: Register) -> &mut Self {
        self.lookup(set, from, None)
    }

    /// `lookup reg FROM set SET dreg TO`
    pub(super) fn map(&mut self, set: SetName<'_>, from: Register, to: Register) -> &mut Self {
        self.lookup(set, from, Some(to))
    }

    fn lookup(&mut self, set: SetName<'_>, from: Register, to: Option<Register>) -> &mut Self {
        self.push("lookup", |a| {
            a.text(NFTA_LOOKUP_SET, set.name)
                .be32(NFTA_LOOKUP_SREG, from as u32);
            if let Some(to) = to {
                a.be32(NFTA_LOOKUP_DREG, to as u32);
            }
            if let Some(id) = set.id {
                a.be32(NFTA_LOOKUP_SET_ID, id);
            }
        })
    }

    /// `numgen reg TO = random mod MODULUS`
    pub(super) fn random(&mut self, modulus: u32, to: Register) -> &mut Self {
        self.push("numgen", |a| {
            a.be32(NFTA_NG_DREG, to as u32)
                .be32(NFTA_NG_MODULUS, modulus)
                .be32(NFTA_NG_TYPE, libc::NFT_NG_RANDOM as u32);
        })
    }

    /// `immediate reg TO VALUE`
    pub(super) fn immediate(&mut self, value: &[u8], to: Register) -> &mut Self {
        self.push("immediate", |a| {
            a.be32(NFTA_IMMEDIATE_DREG, to as u32)
                .nest(NFTA_IMMEDIATE_DATA, |a| {
                    a.bytes(NFTA_DATA_VALUE, value);
                });
        })
    }

    /// `immediate reg 0 VERDICT`, with `NF_ACCEPT` or `NF_DROP`.
    pub(super) fn verdict(&mut self, verdict: c_int) -> &mut Self {
        self.push("immediate", |a| {
            a.be32(NFTA_IMMEDIATE_DREG, libc::NFT_REG_VERDICT as u32)
                .nest(NFTA_IMMEDIATE_DATA, |a| {
                    a.nest(NFTA_DATA_VERDICT, |a| {
                        a.bytes(NFTA_VERDICT_CODE, &verdict.to_be_bytes());
                    });
                });
        })
    }

    /// `nat dnat FAMILY addr_min reg ADDRESS proto_min reg PORT`; holds only for packets of the family
    /// (`NFPROTO_*`).
    pub(super) fn dnat(&mut self, family: c_int, address: Register, port: Register) -> &mut Self {
        self.push("nat", |a| {
            a.be32(NFTA_NAT_TYPE, libc::NFT_NAT_DNAT as u32)
                .be32(NFTA_NAT_FAMILY, family as u32)
                .be32(NFTA_NAT_REG_ADDR_MIN, address as u32)
                .be32(NFTA_NAT_REG_PROTO_MIN, port as u32);
        })
    }

    /// `masq`
    pub(super) fn masquerade(&mut self) -> &mut Self {
        self.push("masq", |_| {})
    }

    /// `counter`
    pub(super) fn counter(&mut self) -> &mut Self {
        self.push("counter", |_| {})
    }
}

/// `enum ip_conntrack_dir` in linux/netfilter/nf_conntrack_tuple_common.h.
pub(super) const IP_CT_DIR_ORIGINAL: u8 = 0;
pub(super) const IP_CT_DIR_REPLY: u8 = 1;
