//! What the rules of a pod say, as values.

use super::*;
use crate::config::Config;
use crate::ranges::{Cidr, merge};

fn config(variables: &[(&str, &str)]) -> Config {
    Config::parse(|variable| {
        let found = variables.iter().find(|(name, _)| *name == variable);
        found.map(|(_, value)| value.into())
    })
    .unwrap()
}

fn service(sources: Option<&'static str>) -> Config {
    let mut variables = vec![
        ("SVCLB_FORWARDS", "udp/53=30053,tcp/80=8080"),
        ("DEST_IPS", "10.43.0.10,fd00::10,10.43.0.11"),
    ];
    variables.extend(sources.map(|ranges| ("SRC_RANGES", ranges)));
    config(&variables)
}

fn port(sources: &'static str) -> Config {
    config(&[
        ("SRC_PORT", "80"),
        ("SRC_RANGES", sources),
        ("DEST_PROTO", "TCP"),
        ("DEST_PORT", "8080"),
        ("DEST_IPS", "10.43.0.10"),
    ])
}

fn chain<'a>(rules: &'a Rules, name: &str) -> &'a Chain {
    rules
        .chains
        .iter()
        .find(|chain| chain.name == name)
        .unwrap()
}

/// The rules of `forward`: what they ask for, without what each of them asks for, and what they do.
fn filter(rules: &Rules, own: &[Match]) -> Vec<(Vec<Match>, Statement)> {
    let without_own = |rule: &Rule| {
        let others = rule.matches.iter().filter(|it| !own.contains(it));
        let [Statement::Counter, statement] = rule.statements.as_slice() else {
            panic!("{rule:?}");
        };
        (others.cloned().collect(), statement.clone())
    };
    let rules = chain(rules, "forward").rules.iter();
    rules.map(without_own).collect()
}

/// What comes from these ranges.
fn source(ranges: &[&str]) -> Match {
    let cidrs: Vec<_> = ranges.iter().map(|it| Cidr::parse(it).unwrap()).collect();
    let family = cidrs[0].family();
    Match::Source(Arc::new(AddressSet {
        name: "sources",
        family,
        ranges: merge(&cidrs, family),
    }))
}

/// What goes to these addresses by these ports of a protocol.
fn dnat(to: &[&str], protocol: Protocol, ports: &[(u16, u16)]) -> Statement {
    let to: Vec<_> = to.iter().map(|address| address.parse().unwrap()).collect();
    Statement::Dnat {
        to: Destinations::new(&to, Family::of(to[0])).unwrap(),
        ports: Arc::new(PortMap {
            protocol,
            ports: ports.to_vec(),
        }),
    }
}

const ORIGINAL: Match = Match::Direction(Direction::Original);
const REPLY: Match = Match::Direction(Direction::Reply);

const V4: Match = Match::Family(Family::V4);
const V6: Match = Match::Family(Family::V6);

#[test]
fn a_forward_goes_to_the_destinations_of_the_packets_family() {
    let rules = Rules::new(&service(None), &Family::ALL);
    let statements = |rule: &Rule| rule.statements.clone();
    let done: Vec<_> = chain(&rules, "prerouting")
        .rules
        .iter()
        .flat_map(statements)
        .collect();
    let four = ["10.43.0.10", "10.43.0.11"];
    assert_eq!(
        done,
        [
            dnat(&four, Protocol::Tcp, &[(80, 8080)]),
            dnat(&four, Protocol::Udp, &[(53, 30053)]),
            dnat(&["fd00::10"], Protocol::Tcp, &[(80, 8080)]),
            dnat(&["fd00::10"], Protocol::Udp, &[(53, 30053)]),
        ]
    );
    assert_eq!(rules.port_maps().len(), 2, "families share them");
}

#[test]
fn destinations_are_of_one_family_and_at_least_one() {
    let both = ["10.43.0.10", "fd00::10"].map(|address| address.parse().unwrap());
    let of = |family| Destinations::new(&both, family).unwrap();
    assert_eq!(
        (of(Family::V4).addresses(), of(Family::V6).addresses()),
        (&both[..1], &both[1..])
    );
    assert_eq!(Destinations::new(&both[..1], Family::V6), None);
}

#[test]
fn a_family_that_the_node_does_not_have_has_no_rules() {
    let rules = Rules::new(&service(Some("10.0.0.0/8,fd00::/8")), &[Family::V4]);
    let only_v6 = |rule: &Rule| rule.is_for(Family::V6) && !rule.is_for(Family::V4);
    assert!(!rules.rules().any(only_v6));
    assert_eq!(rules.dnat(Family::V6).count(), 0);
}

#[test]
fn with_ranges_only_what_comes_from_them_passes() {
    let rules = Rules::new(&service(Some("10.0.0.0/8,fd00::/8")), &Family::ALL);
    assert_eq!(
        filter(&rules, &[Match::StatusDnat]),
        [
            (vec![REPLY], Statement::Accept),
            (
                vec![V4, ORIGINAL, source(&["10.0.0.0/8"])],
                Statement::Accept
            ),
            (vec![V6, ORIGINAL, source(&["fd00::/8"])], Statement::Accept),
            (vec![Match::StateRelated], Statement::Accept),
            (vec![], Statement::Drop),
        ]
    );
    assert!(rules.rules().all(|rule| {
        rule.statements.contains(&Statement::Drop)
            || rule.matches.contains(&Match::StatusDnat)
            || chain(&rules, "prerouting").rules.contains(rule)
    }));
}

#[test]
fn a_range_of_everything_asks_for_no_source() {
    for sources in [None, Some("0.0.0.0/0,10.0.0.0/8,::/1,8000::/1")] {
        let rules = Rules::new(&service(sources), &Family::ALL);
        assert_eq!(rules.address_sets(), [] as [&Arc<AddressSet>; 0]);
    }
}

#[test]
fn klipper_lbs_form_is_named_after_its_port_and_minds_no_other() {
    let rules = Rules::new(&port("10.0.0.0/8"), &[Family::V4]);
    assert_eq!(rules.name, "svclb-tcp-80");
    let own = [Match::StatusDnat, Match::OriginalPort(Protocol::Tcp, 80)];
    assert_eq!(
        filter(&rules, &own),
        [
            (vec![REPLY], Statement::Accept),
            (
                vec![V4, ORIGINAL, source(&["10.0.0.0/8"])],
                Statement::Accept
            ),
            (vec![ORIGINAL], Statement::Drop),
        ]
    );
    // Every rule but the one that looks its port up itself asks for what is its own.
    for name in ["forward", "postrouting"] {
        for rule in &chain(&rules, name).rules {
            assert!(own.iter().all(|it| rule.matches.contains(it)), "{rule:?}");
        }
    }
}

#[test]
fn only_what_was_rewritten_gets_the_pods_address() {
    let rules = Rules::new(&service(None), &Family::ALL);
    let wanted = Rule {
        matches: vec![Match::StatusDnat],
        statements: vec![Statement::Masquerade],
    };
    assert_eq!(chain(&rules, "postrouting").rules, [wanted]);
}

#[test]
fn a_rule_for_one_family_is_for_no_other() {
    let rule = |matches: &[Match], statement: Statement| Rule {
        matches: matches.to_vec(),
        statements: vec![statement],
    };
    let families = |rule: Rule| Family::ALL.map(|family| rule.is_for(family));
    let to_v6 = dnat(&["fd00::10"], Protocol::Tcp, &[(80, 80)]);
    assert_eq!(families(rule(&[REPLY], Statement::Accept)), [true, true]);
    assert_eq!(families(rule(&[V4], Statement::Accept)), [true, false]);
    assert_eq!(
        families(rule(&[source(&["fd00::/8"])], Statement::Drop)),
        [false, true]
    );
    assert_eq!(families(rule(&[], to_v6.clone())), [false, true]);
    assert_eq!(families(rule(&[V4], to_v6)), [false, false]);
}
