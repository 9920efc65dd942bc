//! Tables that were never in a kernel: what is put together comes apart the same, and nothing that
//! could be read makes the reader fall over.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::config::Config;
use crate::iptables::chains;
use crate::rules::{Kind, Rules};

const HOOKS_OF_NAT: [usize; 4] = [0, 1, 3, 4];

fn rules(forwards: &str, sources: &str) -> Rules {
    let config = Config::parse(|variable| {
        let value = match variable {
            "SVCLB_FORWARDS" => forwards,
            "DEST_IPS" => "10.43.0.10,10.43.0.11,fd00:43::10",
            "SRC_RANGES" => sources,
            _ => return None,
        };
        Some(value.into())
    });
    let config = config.unwrap_or_else(|error| panic!("{error}"));
    Rules::new(&config, &Family::ALL)
}

fn tables() -> Vec<Table> {
    let rules = rules("tcp/80=8080,udp/53=53,sctp/9=9", "10.0.0.0/8,fd00::/8");
    let mut tables = Vec::new();
    for family in Family::ALL {
        for (kind, hooks) in [
            (Kind::Filter, [1, 2, 3].as_slice()),
            (Kind::Nat, &HOOKS_OF_NAT),
        ] {
            let ours = chains::ours(&rules, kind, family);
            tables.push(Table::untouched(family, hooks).with(&ours));
        }
    }
    tables
}

fn encoded(table: &Table) -> Entries {
    let entries = table.encode();
    entries.unwrap_or_else(|| panic!("a jump leads nowhere in {table:?}"))
}

#[test]
fn what_is_put_together_comes_apart_the_same() {
    for table in tables() {
        let entries = encoded(&table);
        assert_eq!(Table::decode(table.family, &entries), Ok(table));
    }
}

#[test]
fn entries_are_numbered_for_their_counters() {
    for table in tables() {
        let entries = encoded(&table);
        assert_eq!(table.counted_as().len(), entries.number);
        let read = Table::decode(table.family, &entries).unwrap_or_else(|error| panic!("{error}"));
        for (number, counted_as) in read.counted_as().into_iter().enumerate() {
            assert!(counted_as.is_none_or(|entry| entry == number));
        }
    }
}

#[test]
fn a_table_without_its_chains_is_untouched_again() {
    for table in tables() {
        let nothing = crate::iptables::merge::Ours::nothing("svclb");
        let hooks: Vec<_> = table
            .chains
            .iter()
            .filter_map(|chain| match chain.id {
                ChainId::Hook(hook) => Some(hook),
                ChainId::User(_) => None,
            })
            .collect();
        let family = table.family;
        assert_eq!(table.with(&nothing), Table::untouched(family, &hooks));
    }
}

#[test]
fn a_jump_into_the_middle_of_a_chain_is_an_error() {
    let table = Table::untouched(Family::V4, &HOOKS_OF_NAT);
    let mut entries = encoded(&table);
    let verdict = entries.bytes.len() - error_entry_size(Family::V4) - 8;
    entries.bytes[verdict..verdict + 4].copy_from_slice(&8i32.to_ne_bytes());
    assert_eq!(
        Table::decode(Family::V4, &entries),
        Err(DecodeError::Jump { offset: 8 })
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_tables_are_read_or_refused(
        which in 0..4usize,
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let table = &tables()[which];
        let mut entries = encoded(table);
        for (place, value) in damage {
            let place = place.index(entries.bytes.len());
            entries.bytes[place] = value;
        }
        let _ = Table::decode(table.family, &entries);
        entries.bytes.truncate(cut.index(entries.bytes.len()));
        let _ = Table::decode(table.family, &entries);
    }
}
