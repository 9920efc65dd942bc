use super::*;

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

/// The rules of `forward`, without what each of them begins with.
fn filter<'a>(
    rules: &'a Rules,
    own: &[Match],
) -> Vec<(Option<Family>, &'a [Match], &'a Statement)> {
    let rules = chain(rules, "forward").rules.iter();
    let without_own = |rule: &'a Rule| rule.matches.strip_prefix(own).unwrap_or(&rule.matches);
    rules
        .map(|rule| (rule.family, without_own(rule), &rule.statement))
        .collect()
}

const ORIGINAL: Match = Match::Direction(Direction::Original);
const REPLY: Match = Match::Direction(Direction::Reply);

#[test]
fn a_forward_goes_to_the_destinations_of_the_packets_family() {
    let rules = Rules::new(&service(None), &Family::ALL);
    let to = |addresses: &[&str]| Statement::Dnat {
        to: addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect(),
    };
    let dnat: Vec<_> = chain(&rules, "prerouting")
        .rules
        .iter()
        .map(|rule| (rule.family, &rule.statement))
        .collect();
    assert_eq!(
        dnat,
        [
            (Some(Family::V4), &to(&["10.43.0.10", "10.43.0.11"])),
            (Some(Family::V6), &to(&["fd00::10"])),
        ]
    );
    assert_eq!(rules.forwards[0].protocol, Protocol::Tcp, "sorted");
}

#[test]
fn a_family_that_the_node_does_not_have_has_no_rules() {
    let rules = Rules::new(&service(Some("10.0.0.0/8,fd00::/8")), &[Family::V4]);
    let families = rules
        .chains
        .iter()
        .flat_map(|chain| &chain.rules)
        .map(|rule| rule.family);
    assert!(
        families
            .into_iter()
            .all(|family| family != Some(Family::V6))
    );
    assert_eq!(rules.sources6, []);
}

#[test]
fn with_ranges_only_what_comes_from_them_passes() {
    let rules = Rules::new(&service(Some("10.0.0.0/8,fd00::/8")), &Family::ALL);
    assert_eq!(
        filter(&rules, &[Match::StatusDnat]),
        [
            (None, &[REPLY][..], &Statement::Accept),
            (
                Some(Family::V4),
                &[ORIGINAL, Match::Source],
                &Statement::Accept
            ),
            (
                Some(Family::V6),
                &[ORIGINAL, Match::Source],
                &Statement::Accept
            ),
            (None, &[Match::StateRelated], &Statement::Accept),
            (None, &[], &Statement::Drop),
        ]
    );
    assert_eq!((rules.sources4.len(), rules.sources6.len()), (1, 1));
}

#[test]
fn a_range_of_everything_asks_for_no_source() {
    for sources in [None, Some("0.0.0.0/0,10.0.0.0/8,::/1,8000::/1")] {
        let rules = Rules::new(&service(sources), &Family::ALL);
        assert_eq!(
            (&rules.sources4[..], &rules.sources6[..]),
            (&[][..], &[][..])
        );
        let all = rules.chains.iter().flat_map(|chain| &chain.rules);
        assert!(
            all.into_iter()
                .all(|rule| !rule.matches.contains(&Match::Source))
        );
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
            (None, &[REPLY][..], &Statement::Accept),
            (
                Some(Family::V4),
                &[ORIGINAL, Match::Source],
                &Statement::Accept
            ),
            (None, &[ORIGINAL], &Statement::Drop),
        ]
    );
    // Every rule but the one that looks its port up itself begins with what is its own.
    for name in ["forward", "postrouting"] {
        assert!(
            chain(&rules, name)
                .rules
                .iter()
                .all(|rule| rule.matches.starts_with(&own))
        );
    }
}

#[test]
fn only_what_was_rewritten_gets_the_pods_address() {
    let rules = Rules::new(&service(None), &Family::ALL);
    let postrouting = &chain(&rules, "postrouting").rules;
    assert_eq!(postrouting.len(), 1);
    assert_eq!(postrouting[0].matches, [Match::StatusDnat]);
    assert_eq!(postrouting[0].statement, Statement::Masquerade);
}
