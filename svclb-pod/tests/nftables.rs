//! The nf_tables encoder against the kernel, with rules that no svclb pod has yet: other families,
//! hooks' priorities and flags. Needs root and the nft tool.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod unshared;

use std::process::Command;
use std::sync::Arc;

use nix::errno::Errno;
use svclb_pod::config::{Family, Protocol};
use svclb_pod::iptables;
use svclb_pod::nftables::{self, Error};
use svclb_pod::ranges::{Cidr, merge};
use svclb_pod::rules::{
    AddressSet, Chain, Destinations, Direction, Hook, Kind, Match, PortMap, Rule, Rules, Statement,
    TableFamily, TableFlags, priority,
};
use unshared::in_network_namespace;

fn listing() -> String {
    let output = Command::new("nft")
        .args(["-s", "list", "ruleset"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn nft(command: &str) -> bool {
    Command::new("nft")
        .arg(command)
        .output()
        .unwrap()
        .status
        .success()
}

/// An IPv4 table that goes away with its owner, and comes before everybody else's.
fn owned() -> Rules {
    let near = AddressSet {
        name: "near",
        family: Family::V4,
        ranges: merge(&[Cidr::parse("10.0.0.0/8").unwrap()], Family::V4),
    };
    let rule = |matches: &[Match], statements: &[Statement]| Rule {
        matches: matches.to_vec(),
        statements: statements.to_vec(),
    };
    let near = Match::Source(Arc::new(near));
    let answers = Match::Direction(Direction::Reply);
    Rules {
        family: TableFamily::Only(Family::V4),
        name: "svclb-host".into(),
        flags: TableFlags { owner: true },
        chains: vec![Chain {
            name: "early",
            kind: Kind::Filter,
            hook: Hook::Prerouting,
            priority: -300,
            rules: vec![
                rule(std::slice::from_ref(&near), &[Statement::Counter]),
                rule(&[near, answers], &[Statement::Counter, Statement::Accept]),
            ],
        }],
    }
}

const OWNED: &str = "\
table ip svclb-host { # progname svclb
	flags owner

	set near4 {
		type ipv4_addr
		flags interval
		elements = { 10.0.0.0/8 }
	}

	chain early {
		type filter hook prerouting priority raw; policy accept;
		ip saddr @near4 counter
		ip saddr @near4 ct direction reply counter accept
	}
}
";

#[test]
fn other_families_priorities_and_flags_are_listed_as_they_are_and_end_with_their_owner() {
    in_network_namespace(|| {
        let rules = owned();
        let owner = nftables::install(&rules).unwrap();
        // Who owns it is a process, which `nft` names in a comment.
        let without_comment = |text: &str| -> String {
            let line = |line: &str| format!("{}\n", line.split(" #").next().unwrap());
            text.lines().map(line).collect()
        };
        assert_eq!(without_comment(&listing()), without_comment(OWNED));
        assert!(nftables::in_place(&rules).unwrap());
        assert!(!nft("flush table ip svclb-host"), "it is owned");
        drop(owner);
        assert_eq!(listing(), "");
        assert!(!nftables::in_place(&rules).unwrap());
    });
}

#[test]
fn flags_are_compared() {
    in_network_namespace(|| {
        let rules = Rules {
            flags: TableFlags::default(),
            ..owned()
        };
        nftables::install(&rules).unwrap();
        assert!(nftables::in_place(&rules).unwrap());
        assert!(!nftables::in_place(&owned()).unwrap(), "nobody owns it");
        assert!(nft("add table ip svclb-host { flags dormant; }"));
        assert!(!nftables::in_place(&rules).unwrap(), "it sleeps");
        // What is asleep is replaced like everything else.
        nftables::install(&rules).unwrap();
        assert!(nftables::in_place(&rules).unwrap());
        nftables::remove(&rules).unwrap();
        assert_eq!(listing(), "");
    });
}

#[test]
fn a_rule_that_means_the_opposite_is_no_rule_of_ours() {
    in_network_namespace(|| {
        let rules = Rules {
            flags: TableFlags::default(),
            ..owned()
        };
        nftables::install(&rules).unwrap();
        for (source, in_place) in [("@near4", true), ("!= @near4", false)] {
            assert!(nft("flush chain ip svclb-host early"));
            for rest in ["counter", "ct direction reply counter accept"] {
                let rule = format!("ip saddr {source} {rest}");
                assert!(nft(&format!("add rule ip svclb-host early {rule}")));
            }
            assert_eq!(nftables::in_place(&rules).unwrap(), in_place, "{source}");
        }
    });
}

#[test]
fn what_legacy_xtables_has_no_words_for_is_refused_there() {
    in_network_namespace(|| {
        let mut rules = owned();
        for (flags, priority) in [
            (TableFlags { owner: true }, 0),
            (TableFlags::default(), -300),
        ] {
            rules.flags = flags;
            rules.chains[0].hook = Hook::Forward;
            rules.chains[0].priority = priority;
            let refusal = iptables::install(&rules).unwrap_err();
            assert!(refusal.to_string().contains("svclb-host"), "{refusal}");
            assert!(!iptables::in_place(&rules).unwrap());
        }
        // From these sources only: it would have to drop, or rewrite, by a chain that accepts.
        rules.chains[0].priority = priority::FILTER;
        rules.chains[0].rules.remove(0);
        iptables::install(&rules).unwrap();
        rules.chains[0].rules[0].statements = vec![Statement::Drop];
        iptables::install(&rules).unwrap_err();
    });
}

/// A table that sends what arrives by these ports to one address, a rule for each map.
fn to_one(maps: &[&[(u16, u16)]]) -> Rules {
    let to = Destinations::new(&["10.43.0.10".parse().unwrap()], Family::V4).unwrap();
    let rule = |ports: &&[(u16, u16)]| Rule {
        matches: Vec::new(),
        statements: vec![Statement::Dnat {
            to: to.clone(),
            ports: Arc::new(PortMap {
                protocol: Protocol::Tcp,
                ports: ports.to_vec(),
            }),
        }],
    };
    Rules {
        family: TableFamily::Inet,
        name: "svclb".into(),
        flags: TableFlags::default(),
        chains: vec![Chain {
            name: "prerouting",
            kind: Kind::Nat,
            hook: Hook::Prerouting,
            priority: priority::NAT_DST,
            rules: maps.iter().map(rule).collect(),
        }],
    }
}

#[test]
fn two_maps_of_one_name_are_refused_and_not_mixed() {
    in_network_namespace(|| {
        let one = [(80, 8080)];
        nftables::install(&to_one(&[&one, &one])).unwrap();
        let before = listing();
        let refused = Error::Refused {
            object: "set",
            errno: Errno::EEXIST,
        };
        let two = to_one(&[&one, &[(81, 8081)]]);
        assert_eq!(nftables::install(&two).unwrap_err(), refused);
        assert_eq!(listing(), before);
    });
}

/// The kernel answers a refusal with the whole message that it is about, if it is not told better.
#[test]
fn the_refusal_of_a_long_message_says_why() {
    in_network_namespace(|| {
        let mut ports: Vec<_> = (1..=900).map(|port| (port, port)).collect();
        // A port that goes to two.
        ports.push((900, 1));
        match nftables::install(&to_one(&[&ports])).unwrap_err() {
            // By the kernel's version.
            Error::Refused {
                object: "set elements",
                errno: Errno::EEXIST | Errno::EBUSY,
            } => {}
            other => panic!("{other:?}"),
        }
    });
}
