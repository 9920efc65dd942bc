//! One rule: `struct ipt_entry` or `struct ip6t_entry` with its matches and its target.

use std::fmt;
use std::net::IpAddr;

use nix::libc::NF_REPEAT;

use super::DecodeError;
use super::extensions::{Match, extension};
use super::layout::{CHAIN_NAME, COUNTERS, ERROR_TARGET, EXTENSION, EntryLayout, STANDARD_TARGET};
use crate::config::Family;

/// `NF_ACCEPT`, `NF_DROP` and `XT_RETURN`, as the standard target holds them.
pub(super) const ACCEPT: i32 = -nix::libc::NF_ACCEPT - 1;
pub(super) const DROP: i32 = -nix::libc::NF_DROP - 1;
pub(super) const RETURN: i32 = -NF_REPEAT - 1;

/// `IP6T_F_PROTO`: without it an IPv6 rule's protocol is not looked at.
const IPV6_COMPARE_PROTOCOL: u8 = 0x01;

/// A chain's name, padded with zeros as the kernel holds it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct ChainName([u8; CHAIN_NAME]);

impl ChainName {
    /// Cut to the 28 bytes that `iptables` allows (`XT_EXTENSION_MAXNAMELEN`).
    pub(super) fn new(name: &str) -> Self {
        let mut bytes = [0; CHAIN_NAME];
        for (to, from) in bytes.iter_mut().zip(name.bytes().take(CHAIN_NAME - 2)) {
            *to = from;
        }
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|byte| *byte == 0);
        &self.0[..end.unwrap_or(CHAIN_NAME)]
    }
}

impl fmt::Debug for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}

/// What happens to a packet that a rule's criteria fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// [`ACCEPT`], [`DROP`], [`RETURN`] or another of the standard target's negative numbers.
    Verdict(i32),
    /// On to a chain; the criteria's flags tell whether it comes back.
    Jump(ChainName),
    /// Only counts: on to the next rule.
    Next,
    /// A `struct xt_entry_target` that is not the standard one.
    Extension(Vec<u8>),
}

/// A rule of any origin. Two are equal if they do the same, whatever they have counted.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// The entry up to its target: selector and matches. What only the kernel sets is zero.
    criteria: Vec<u8>,
    pub(super) target: Target,
    /// Which entry of the table read this is, so that it can go on counting.
    pub(super) counted_as: Option<usize>,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.criteria == other.criteria && self.target == other.target
    }
}

impl Rule {
    /// A rule for every packet.
    pub(super) fn new(family: Family, target: Target) -> Self {
        Self {
            criteria: vec![0; EntryLayout::of(family).size],
            target,
            counted_as: None,
        }
    }

    /// `-s address/prefix`; the address has no bits beyond its prefix and is of the rule's family.
    pub(super) fn source(self, address: IpAddr, prefix: u8) -> Self {
        self.address(0, address, prefix)
    }

    /// `-d address`
    pub(super) fn destination(self, address: IpAddr) -> Self {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        self.address(1, address, prefix)
    }

    /// The selector begins with source, destination, source mask, destination mask.
    fn address(mut self, which: usize, address: IpAddr, prefix: u8) -> Self {
        let mut put = |octets: &[u8], mask: &[u8]| {
            let size = octets.len();
            self.criteria[which * size..][..size].copy_from_slice(octets);
            self.criteria[(which + 2) * size..][..size].copy_from_slice(mask);
        };
        let zeros = |bits: u32| bits.saturating_sub(u32::from(prefix));
        match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(zeros(32)).unwrap_or(0);
                put(&address.octets(), &mask.to_be_bytes());
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(zeros(128)).unwrap_or(0);
                put(&address.octets(), &mask.to_be_bytes());
            }
        }
        self
    }

    /// `-p protocol`, an `IPPROTO_*` number.
    pub(super) fn protocol(mut self, family: Family, protocol: u8) -> Self {
        // After four addresses, two names of interfaces and their masks.
        let (offset, flags) = match family {
            Family::V4 => (4 * 4 + 4 * 16, None),
            Family::V6 => (4 * 16 + 4 * 16, Some(3)),
        };
        self.criteria[offset..offset + 2].copy_from_slice(&u16::from(protocol).to_ne_bytes());
        if let Some(flags) = flags {
            self.criteria[offset + flags] |= IPV6_COMPARE_PROTOCOL;
        }
        self
    }

    /// `-m ...`
    pub(super) fn matching(mut self, wanted: Match) -> Self {
        wanted.append(&mut self.criteria);
        self
    }

    /// Every packet fits it.
    fn is_unconditional(&self, family: Family) -> bool {
        self.criteria.len() == EntryLayout::of(family).size
            && self.criteria.iter().all(|byte| *byte == 0)
    }

    /// Whether it sends every packet on to `chain`.
    pub(super) fn only_jumps_to(&self, family: Family, chain: ChainName) -> bool {
        self.target == Target::Jump(chain) && self.is_unconditional(family)
    }

    /// Whether this is what a chain made by a user ends with.
    pub(super) fn is_final_return(&self, family: Family) -> bool {
        self.target == Target::Verdict(RETURN) && self.is_unconditional(family)
    }

    /// `next_offset`: what [`Rule::append`] adds.
    pub(super) fn size(&self) -> usize {
        self.criteria.len()
            + match &self.target {
                Target::Extension(bytes) => bytes.len(),
                Target::Verdict(_) | Target::Jump(_) | Target::Next => STANDARD_TARGET,
            }
    }

    /// The rule's bytes; `jump` gives the offset of a chain's first rule.
    pub(super) fn append(
        &self,
        family: Family,
        out: &mut Vec<u8>,
        jump: impl Fn(ChainName) -> Option<usize>,
    ) -> Option<()> {
        let start = out.len();
        out.extend(&self.criteria);
        let verdict = match &self.target {
            Target::Verdict(verdict) => Some(*verdict),
            Target::Jump(chain) => Some(i32::try_from(jump(*chain)?).ok()?),
            Target::Next => Some(i32::try_from(start + self.size()).ok()?),
            Target::Extension(bytes) => {
                out.extend(bytes);
                None
            }
        };
        if let Some(verdict) = verdict {
            extension(out, "", 0, &verdict.to_ne_bytes());
        }
        put_offsets(family, &mut out[start..], self.criteria.len());
        Some(())
    }
}

/// The entry that begins a user's chain, and (named `ERROR`) the one that ends the table.
pub(super) fn append_error_entry(family: Family, out: &mut Vec<u8>, name: ChainName) {
    let start = out.len();
    let target = EntryLayout::of(family).size;
    out.resize(start + target, 0);
    extension(out, "ERROR", 0, &name.0);
    put_offsets(family, &mut out[start..], target);
}

/// What [`append_error_entry`] adds.
pub(super) fn error_entry_size(family: Family) -> usize {
    EntryLayout::of(family).size + ERROR_TARGET
}

fn put_offsets(family: Family, entry: &mut [u8], target: usize) {
    let at = EntryLayout::of(family).target_offset;
    let next = entry.len();
    entry[at..at + 2].copy_from_slice(&(target as u16).to_ne_bytes());
    entry[at + 2..at + 4].copy_from_slice(&(next as u16).to_ne_bytes());
}

/// An entry as it was read.
pub(super) enum Entry {
    /// It begins a user's chain or ends the table.
    Error(ChainName),
    Rule {
        /// Its target is [`Target::Next`] if there is an offset.
        rule: Rule,
        /// Where a jump leads.
        jump: Option<usize>,
    },
}

impl Entry {
    /// Reads the entry at `offset`; gives also the offset of the next one.
    pub(super) fn read(
        family: Family,
        table: &[u8],
        offset: usize,
        number: usize,
    ) -> Result<(Self, usize), DecodeError> {
        let layout = EntryLayout::of(family);
        let damaged = DecodeError::Entry { offset };
        let entry = table.get(offset..).unwrap_or_default();
        let u16_at = |at: usize| {
            let bytes = entry.get(at..at + 2)?.try_into().ok()?;
            Some(usize::from(u16::from_ne_bytes(bytes)))
        };
        let (Some(target_offset), Some(next_offset)) = (
            u16_at(layout.target_offset),
            u16_at(layout.target_offset + 2),
        ) else {
            return Err(damaged);
        };
        let (Some(criteria), Some(target)) = (
            entry
                .get(..target_offset)
                .filter(|criteria| criteria.len() >= layout.size),
            entry
                .get(target_offset..next_offset)
                .filter(|target| target.len() >= EXTENSION),
        ) else {
            return Err(damaged);
        };
        let next = offset + next_offset;
        let name = name_in(&target[2..EXTENSION - 1]);
        let data = &target[EXTENSION..];
        if name == b"ERROR" {
            let bytes = data.get(..CHAIN_NAME).and_then(|name| name.try_into().ok());
            return Ok((Self::Error(ChainName(bytes.ok_or(damaged)?)), next));
        }
        let mut criteria = criteria.to_vec();
        // Offsets follow from the sizes; `nfcache` and `comefrom` are the kernel's; counters are
        // kept by the entry's number.
        criteria[layout.selector..layout.counters + COUNTERS].fill(0);
        let (target, jump) = if name.is_empty() {
            let verdict = data.get(..4).and_then(|bytes| bytes.try_into().ok());
            let verdict = i32::from_ne_bytes(verdict.ok_or(damaged)?);
            match usize::try_from(verdict) {
                Ok(to) if to == next => (Target::Next, None),
                Ok(to) => (Target::Next, Some(to)),
                Err(_) => (Target::Verdict(verdict), None),
            }
        } else {
            (Target::Extension(target.to_vec()), None)
        };
        let rule = Rule {
            criteria,
            target,
            counted_as: Some(number),
        };
        Ok((Self::Rule { rule, jump }, next))
    }
}

/// A name up to its first zero.
fn name_in(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0);
    &bytes[..end.unwrap_or(bytes.len())]
}
