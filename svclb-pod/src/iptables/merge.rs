//! Our chains put into a table that may hold other people's, and taken out of it.

use super::rule::{ChainName, RETURN, Rule, Target};
use super::table::{Chain, ChainId, Table};
use crate::config::Family;

/// What the names of all chains begin with that svclb makes.
const ANY: &[u8] = b"svclb-";

/// What is ours in one table of one family.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ours {
    /// The name of the set of rules: its chains are `name-prerouting` and so on.
    pub(super) name: String,
    /// The chains that are to be there, with their rules.
    pub(super) chains: Vec<(ChainName, Vec<Rule>)>,
    /// Which hook goes through which of the chains, before anybody else's rules.
    pub(super) jumps: Vec<(usize, ChainName)>,
}

impl Ours {
    /// No chains: those that there are have to go.
    pub(super) fn nothing(name: &str) -> Self {
        Self {
            name: name.into(),
            chains: Vec::new(),
            jumps: Vec::new(),
        }
    }

    /// Whether a chain belongs to this set, now or before a change. The other set's `svclb-tcp-80-forward`
    /// begins like `svclb-forward` but goes on with a dash.
    fn owns(&self, chain: &ChainName) -> bool {
        let rest = chain.as_bytes().strip_prefix(self.name.as_bytes());
        rest.and_then(|rest| rest.strip_prefix(b"-"))
            .is_some_and(|rest| !rest.contains(&b'-'))
    }
}

impl Table {
    /// The table with our chains as they are to be, and everybody else's as they were. Putting in
    /// what is there already changes nothing.
    pub(super) fn with(mut self, ours: &Ours) -> Self {
        let family = self.family;
        let unwanted = |name: &ChainName| {
            ours.owns(name) && !ours.chains.iter().any(|(wanted, _)| wanted == name)
        };
        self.chains.retain(|chain| match &chain.id {
            ChainId::User(name) => !unwanted(name),
            ChainId::Hook(_) => true,
        });
        for (name, rules) in &ours.chains {
            let id = ChainId::User(*name);
            match self.chains.iter_mut().find(|chain| chain.id == id) {
                Some(chain) if chain.rules == *rules => {}
                Some(chain) => chain.rules.clone_from(rules),
                None => self.chains.push(Chain {
                    id,
                    rules: rules.clone(),
                    last: Rule::new(family, Target::Verdict(RETURN)),
                }),
            }
        }
        for chain in &mut self.chains {
            if let ChainId::Hook(hook) = chain.id {
                let wanted = ours.jumps.iter().find(|(at, _)| *at == hook);
                put_jump(
                    family,
                    &mut chain.rules,
                    ours,
                    wanted.map(|(_, name)| *name),
                );
            }
        }
        self
    }
}

/// One jump to `wanted` and to none other of our names. It stays where it is if only jumps to
/// chains like ours are before it (several containers may share the table), else it comes first.
fn put_jump(family: Family, rules: &mut Vec<Rule>, ours: &Ours, wanted: Option<ChainName>) {
    let leading = rules.iter().take_while(|rule| match &rule.target {
        Target::Jump(name) if name.as_bytes().starts_with(ANY) => rule.only_jumps_to(family, *name),
        _ => false,
    });
    let mut leading = leading.map(|rule| &rule.target);
    let kept = wanted.and_then(|name| leading.position(|target| *target == Target::Jump(name)));
    let mut index = 0;
    rules.retain(|rule| {
        let ours = matches!(&rule.target, Target::Jump(name) if ours.owns(name));
        let keep = !ours || kept == Some(index);
        index += 1;
        keep
    });
    if let (Some(name), None) = (wanted, kept) {
        rules.insert(0, Rule::new(family, Target::Jump(name)));
    }
}
