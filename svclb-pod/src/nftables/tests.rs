//! Transactions as bytes, and what is compared of them with what the kernel holds.

use super::*;
use crate::config::{Config, Family};
use crate::netlink::{attributes, find, messages};
use crate::rules::{
    AddressSet, Chain, Destinations, Hook, Kind, Match, PortMap, Rule, Statement, TableFamily,
    TableFlags, priority,
};

fn rules(forwards: &str, destinations: &str, ranges: &str) -> Rules {
    let config = Config::parse(|variable| match variable {
        "SVCLB_FORWARDS" => Some(forwards.into()),
        "DEST_IPS" => Some(destinations.into()),
        "SRC_RANGES" => Some(ranges.into()),
        _ => None,
    });
    Rules::new(&config.unwrap(), &Family::ALL)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(target_endian = "little")]
#[test]
fn a_transaction_is_these_very_bytes() {
    let requests = replace(&rules("tcp/80=8080", "10.43.0.10", "10.0.0.0/8"));
    let written: Vec<_> = messages(requests.bytes())
        .map(|message| {
            format!(
                "{:04x} {:03x} {}",
                message.kind,
                message.flags,
                hex(message.payload)
            )
        })
        .collect();
    let expected = include_str!("../../tests/nftables/transaction.hex");
    assert_eq!(written, expected.lines().collect::<Vec<_>>());
}

#[test]
fn only_the_last_message_of_the_transaction_is_acknowledged() {
    let requests = replace(&rules("tcp/80=8080", "10.43.0.10", "10.0.0.0/8"));
    let asked: Vec<_> = messages(requests.bytes())
        .map(|message| message.flags & netlink::ACK != 0)
        .collect();
    let (_end, ordinary) = asked.split_last().unwrap();
    let (last, others) = ordinary.split_last().unwrap();
    assert!(*last && !others.contains(&true));
}

#[test]
fn a_refused_message_is_named_by_what_it_is_about() {
    let requests = replace(&rules("tcp/80=8080", "10.43.0.10", "10.0.0.0/8"));
    let objects: Vec<_> = messages(requests.bytes())
        .map(|message| batch::object(&requests, message.sequence))
        .collect();
    assert_eq!(
        objects,
        [
            "transaction",
            "table",
            "table",
            "table",
            "chain",
            "chain",
            "chain",
            "set",
            "set elements",
            "set",
            "set elements",
            "rule",
            "rule",
            "rule",
            "rule",
            "rule",
            "rule",
            "transaction",
        ]
    );
}

/// A table with a single rule.
fn table(rule: Rule) -> Rules {
    Rules {
        family: TableFamily::Inet,
        name: "svclb".into(),
        flags: TableFlags::default(),
        chains: vec![Chain {
            name: "prerouting",
            kind: Kind::Nat,
            hook: Hook::Prerouting,
            priority: priority::NAT_DST,
            rules: vec![rule],
        }],
    }
}

/// The names of the rule's expressions, in order.
fn expressions(rule: Rule) -> Vec<String> {
    let requests = replace(&table(rule));
    let rule = messages(requests.bytes())
        .find(|message| message.kind == batch::nft_message(nix::libc::NFT_MSG_NEWRULE))
        .unwrap();
    let list = find(rule.attributes(4), batch::NFTA_RULE_EXPRESSIONS).unwrap();
    let name = |expression: netlink::Attribute<'_>| {
        let name = find(attributes(expression.value), expressions::NFTA_EXPR_NAME).unwrap();
        String::from_utf8(name.strip_suffix(&[0]).unwrap().to_vec()).unwrap()
    };
    attributes(list).map(name).collect()
}

fn to_web() -> Statement {
    Statement::Dnat {
        to: Destinations::new(&["10.43.0.10".parse().unwrap()], Family::V4).unwrap(),
        ports: PortMap {
            protocol: crate::config::Protocol::Tcp,
            ports: vec![(80, 8080)],
        }
        .into(),
    }
}

#[test]
fn all_that_a_rule_asks_and_does_is_written() {
    let rule = Rule {
        matches: vec![Match::Family(Family::V4), Match::StatusDnat],
        statements: vec![Statement::Counter, to_web()],
    };
    let (family, status) = (["meta", "cmp"], ["ct", "bitwise", "cmp"]);
    let dnat = ["meta", "cmp", "immediate", "payload", "lookup", "nat"];
    let wanted = [&family[..], &status, &["counter"], &dnat].concat();
    assert_eq!(expressions(rule), wanted);
}

#[test]
fn a_set_of_no_sources_lets_none_in() {
    let nobody = AddressSet {
        name: "sources",
        family: Family::V4,
        ranges: Vec::new(),
    };
    let rule = Rule {
        matches: vec![Match::Source(nobody.into())],
        statements: vec![Statement::Accept],
    };
    // An address is only where it is looked for in packets of its family.
    let wanted = ["meta", "cmp", "payload", "lookup", "immediate"];
    assert_eq!(expressions(rule), wanted);
}

/// What the kernel would hold of a transaction, had it taken it as it is.
fn held(forwards: &str, destinations: &str, ranges: &str) -> held::Objects {
    held::made_by(&replace(&rules(forwards, destinations, ranges)))
}

#[test]
fn rules_are_told_from_others() {
    const BOTH: &str = "10.0.0.0/8,fd00::/8";
    let wanted = replace(&rules("tcp/80=8080", "10.43.0.10,fd00::1", BOTH));
    let same = held("tcp/80=8080", "10.43.0.10,fd00::1", BOTH);
    assert!(held::is_all_of(&same, &wanted));
    for (what, other) in [
        ("a port", held("tcp/81=8080", "10.43.0.10,fd00::1", BOTH)),
        (
            "a destination port",
            held("tcp/80=8081", "10.43.0.10,fd00::1", BOTH),
        ),
        (
            "a protocol",
            held("udp/80=8080", "10.43.0.10,fd00::1", BOTH),
        ),
        (
            "a destination",
            held("tcp/80=8080", "10.43.0.11,fd00::1", BOTH),
        ),
        (
            "one destination more",
            held("tcp/80=8080", "10.43.0.10,10.43.0.11,fd00::1", BOTH),
        ),
        (
            "a range",
            held("tcp/80=8080", "10.43.0.10,fd00::1", "10.0.0.0/9,fd00::/8"),
        ),
        (
            "any source",
            held("tcp/80=8080", "10.43.0.10,fd00::1", "0.0.0.0/0,fd00::/8"),
        ),
        ("an owner", {
            let mut owned = rules("tcp/80=8080", "10.43.0.10,fd00::1", BOTH);
            owned.flags.owner = true;
            held::made_by(&replace(&owned))
        }),
        ("a family fewer", held("tcp/80=8080", "10.43.0.10", BOTH)),
        ("nothing", held::Objects::default()),
    ] {
        assert!(!held::is_all_of(&other, &wanted), "{what}");
    }
}
