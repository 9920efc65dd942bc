//! A table of any origin as chains of rules, from the kernel's bytes and back to them.
//!
//! The kernel knows no chains: it has one row of entries, in which the hooks start somewhere and
//! jumps are offsets. A rule more moves all that follows it, so a table is taken apart by name and
//! put together anew, as `iptables` itself does.

use super::DecodeError;
use super::layout::HOOKS;
use super::rule::{ACCEPT, ChainName, Entry, Rule, Target, append_error_entry, error_entry_size};
use crate::config::Family;

/// A table's entries as the kernel gives and takes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// A bit for each hook that the table has.
    pub valid_hooks: u32,
    /// Where each hook's first rule lies.
    pub hook_entry: [u32; HOOKS],
    /// Where each hook's policy lies.
    pub underflow: [u32; HOOKS],
    /// How many entries the bytes hold.
    pub number: usize,
    /// `struct ipt_entry` or `struct ip6t_entry`, one after the other.
    pub bytes: Vec<u8>,
}

/// Who a chain belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChainId {
    /// The kernel's chain at a hook: `NF_INET_PRE_ROUTING` and so on.
    Hook(usize),
    User(ChainName),
}

/// Rules in order, and what comes after them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chain {
    pub(super) id: ChainId,
    pub(super) rules: Vec<Rule>,
    /// The policy of a hook's chain; the return of a user's.
    pub(super) last: Rule,
}

/// The chains of one table in one family.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table {
    pub(super) family: Family,
    pub(super) chains: Vec<Chain>,
}

impl Table {
    /// A table as the kernel sets it up: its hooks' chains, empty, which let everything pass.
    pub(super) fn untouched(family: Family, hooks: &[usize]) -> Self {
        let chains = hooks.iter().map(|hook| Chain {
            id: ChainId::Hook(*hook),
            rules: Vec::new(),
            last: Rule::new(family, Target::Verdict(ACCEPT)),
        });
        Self {
            family,
            chains: chains.collect(),
        }
    }

    /// Takes the kernel's bytes apart.
    pub(super) fn decode(family: Family, entries: &Entries) -> Result<Self, DecodeError> {
        let mut started: Vec<(ChainId, Vec<Rule>, usize)> = Vec::new();
        let mut jumps = Vec::new();
        let mut targets = Vec::new();
        let (mut offset, mut number) = (0, 0);
        while offset < entries.bytes.len() {
            if let Some(hook) = entries.hook_at(offset) {
                started.push((ChainId::Hook(hook), Vec::new(), offset));
            }
            let (entry, next) = Entry::read(family, &entries.bytes, offset, number)?;
            match entry {
                Entry::Error(_) if next >= entries.bytes.len() => {}
                Entry::Error(name) => {
                    targets.push((next, name));
                    started.push((ChainId::User(name), Vec::new(), offset));
                }
                Entry::Rule { rule, jump } => {
                    let chain = started.len().wrapping_sub(1);
                    let (_, rules, last) = started
                        .get_mut(chain)
                        .ok_or(DecodeError::Entry { offset })?;
                    *last = offset;
                    if let Some(to) = jump {
                        jumps.push((chain, rules.len(), to));
                    }
                    rules.push(rule);
                }
            }
            (offset, number) = (next, number + 1);
        }
        for (chain, rule, to) in jumps {
            let target = targets.binary_search_by_key(&to, |(start, _)| *start);
            let (_, name) = targets[target.map_err(|_| DecodeError::Jump { offset: to })?];
            started[chain].1[rule].target = Target::Jump(name);
        }
        let chains = started.into_iter().map(|(id, mut rules, at)| {
            let last = rules.pop().filter(|last| match id {
                ChainId::Hook(hook) => usize::try_from(entries.underflow[hook]) == Ok(at),
                ChainId::User(_) => last.is_final_return(family),
            });
            let last = last.ok_or(DecodeError::Chain)?;
            Ok(Chain { id, rules, last })
        });
        Ok(Self {
            family,
            chains: chains.collect::<Result<_, _>>()?,
        })
    }

    /// Puts the chains together; `None` if a jump leads to a chain that there is not.
    pub(super) fn encode(&self) -> Option<Entries> {
        let mut entries = Entries::default();
        let mut starts = Vec::new();
        let mut offset = 0;
        for chain in &self.chains {
            let size: usize = chain.rules.iter().map(Rule::size).sum();
            match chain.id {
                ChainId::Hook(hook) => {
                    entries.valid_hooks |= 1 << hook;
                    entries.hook_entry[hook] = u32::try_from(offset).ok()?;
                    entries.underflow[hook] = u32::try_from(offset + size).ok()?;
                }
                ChainId::User(name) => {
                    offset += error_entry_size(self.family);
                    starts.push((name, offset));
                }
            }
            offset += size + chain.last.size();
        }
        let start_of = |name| {
            let found = starts.iter().find(|(known, _)| *known == name);
            found.map(|(_, offset)| *offset)
        };
        let out = &mut entries.bytes;
        out.reserve_exact(offset + error_entry_size(self.family));
        for chain in &self.chains {
            if let ChainId::User(name) = chain.id {
                append_error_entry(self.family, out, name);
                entries.number += 1;
            }
            for rule in chain.rules.iter().chain([&chain.last]) {
                rule.append(self.family, out, start_of)?;
                entries.number += 1;
            }
        }
        append_error_entry(self.family, out, ChainName::new("ERROR"));
        entries.number += 1;
        Some(entries)
    }

    /// For each entry of [`Table::encode`], the number of the entry that it was when read.
    pub(super) fn counted_as(&self) -> Vec<Option<usize>> {
        let mut numbers = Vec::new();
        for chain in &self.chains {
            if let ChainId::User(_) = chain.id {
                numbers.push(None);
            }
            let rules = chain.rules.iter().chain([&chain.last]);
            numbers.extend(rules.map(|rule| rule.counted_as));
        }
        numbers.push(None);
        numbers
    }
}

impl Entries {
    /// The hook whose first rule lies at `offset`.
    fn hook_at(&self, offset: usize) -> Option<usize> {
        (0..HOOKS).find(|hook| {
            self.valid_hooks & (1 << hook) != 0
                && usize::try_from(self.hook_entry[*hook]) == Ok(offset)
        })
    }
}

#[cfg(test)]
mod tests;
