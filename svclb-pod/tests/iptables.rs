//! The legacy xtables backend against the kernel: what `iptables-legacy-save` lists is the text in
//! `tests/iptables/`, and other people's rules stay as they are. Needs root and the iptables tools.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod unshared;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use svclb_pod::config::Config;
use svclb_pod::iptables;
use svclb_pod::rules::Rules;
use unshared::in_network_namespace;

const SERVICE: [(&str, &str); 3] = [
    ("SVCLB_FORWARDS", "tcp/80=8080,udp/53=30053,sctp/9000=9000"),
    ("DEST_IPS", "10.43.0.10,fd00:43::10"),
    (
        "SRC_RANGES",
        "192.168.0.0/16,192.168.1.0/24,10.9.0.0/17,10.9.128.0/17,203.0.113.7/32,fd00:9::/64",
    ),
];

fn rules(environment: &[(&str, &str)]) -> Rules {
    let config = Config::parse(|variable| {
        let found = environment.iter().find(|(name, _)| *name == variable);
        found.map(|(_, value)| (*value).into())
    })
    .unwrap();
    let families = config.families();
    Rules::new(&config, &families)
}

fn port(port: &str, to: &str, sources: &str) -> Rules {
    rules(&[
        ("SRC_PORT", port),
        ("DEST_PROTO", "TCP"),
        ("DEST_PORT", to),
        ("DEST_IPS", "10.43.0.10"),
        ("SRC_RANGES", sources),
    ])
}

/// Runs a tool in this thread's network namespace.
fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Both families' tables without the comments, which hold the time; `options` for the tool.
fn listing(options: &str) -> String {
    let tools = ["iptables-legacy-save", "ip6tables-legacy-save"];
    let mut listing = String::new();
    for tool in tools {
        let output = run(&format!("{tool} {options}"));
        listing += &format!("# {tool}\n");
        for line in output.lines().filter(|line| !line.starts_with('#')) {
            listing += line;
            listing.push('\n');
        }
    }
    listing
}

fn text_of(file: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/iptables");
    folder.join(file)
}

#[track_caller]
fn assert_lists_as(file: &str) {
    let path = text_of(file);
    let (expected, found) = (fs::read_to_string(&path).unwrap(), listing(""));
    assert!(
        expected == found,
        "{} differs from what the kernel holds:\n{found}",
        path.display()
    );
}

#[test]
fn a_service_lists_as_its_text() {
    in_network_namespace(|| {
        let rules = rules(&SERVICE);
        assert!(!iptables::in_place(&rules).unwrap());
        iptables::install(&rules).unwrap();
        assert_lists_as("service.save");
        assert!(iptables::in_place(&rules).unwrap());
    });
}

#[test]
fn several_destinations_and_any_source_list_as_their_text() {
    in_network_namespace(|| {
        let rules = rules(&[
            ("SVCLB_FORWARDS", "tcp/80=8080"),
            ("DEST_IPS", "10.43.0.10,10.43.0.11,10.43.0.12"),
        ]);
        iptables::install(&rules).unwrap();
        assert_lists_as("destinations.save");
        assert!(iptables::in_place(&rules).unwrap());
    });
}

#[test]
fn ports_side_by_side_list_as_their_text_and_replace_only_themselves() {
    in_network_namespace(|| {
        let (http, https) = (
            port("80", "80", "0.0.0.0/0"),
            port("443", "8443", "10.0.0.0/8"),
        );
        iptables::install(&http).unwrap();
        iptables::install(&https).unwrap();
        assert_lists_as("ports.save");
        assert!(iptables::in_place(&http).unwrap());
        assert!(iptables::in_place(&https).unwrap());

        let changed = port("80", "8080", "0.0.0.0/0");
        assert!(!iptables::in_place(&changed).unwrap());
        iptables::install(&changed).unwrap();
        assert!(iptables::in_place(&changed).unwrap());
        assert!(iptables::in_place(&https).unwrap());
        iptables::install(&http).unwrap();
        assert_lists_as("ports.save");
    });
}

/// The same text given to the tool leaves the very bytes in the kernel that are wanted.
#[test]
fn the_tool_makes_the_same_of_the_text() {
    in_network_namespace(|| {
        let rules = rules(&SERVICE);
        let text = fs::read_to_string(text_of("service.save")).unwrap();
        let (ipv4, ipv6) = text.split_once("# ip6tables-legacy-save").unwrap();
        for (tool, text) in [
            ("iptables-legacy-restore", ipv4),
            ("ip6tables-legacy-restore", ipv6),
        ] {
            let mut tool = Command::new(tool).stdin(Stdio::piped()).spawn().unwrap();
            tool.stdin
                .take()
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
            assert!(tool.wait().unwrap().success());
        }
        assert!(iptables::in_place(&rules).unwrap());
    });
}

#[test]
fn a_restart_leaves_the_rules_and_what_they_have_counted() {
    in_network_namespace(|| {
        let rules = rules(&SERVICE);
        iptables::install(&rules).unwrap();
        run("iptables-legacy -R svclb-forward 7 -j DROP -c 5 500");
        let before = listing("-c");
        assert!(before.contains("[5:500] -A svclb-forward -j DROP"));
        iptables::install(&rules).unwrap();
        assert_eq!(before, listing("-c"));
    });
}

#[test]
fn containers_that_start_at_once_do_not_lose_each_other() {
    in_network_namespace(|| {
        let ports: Vec<_> = (1..=8)
            .map(|number| port(&format!("{number}000"), "80", "0.0.0.0/0"))
            .collect();
        // Threads are in the network namespace of the one that starts them.
        thread::scope(|scope| {
            for rules in &ports {
                scope.spawn(|| iptables::install(rules).unwrap());
            }
        });
        for rules in &ports {
            assert!(iptables::in_place(rules).unwrap(), "{}", rules.name);
        }
    });
}

#[test]
fn what_others_have_stays_with_what_it_has_counted() {
    in_network_namespace(|| {
        for command in [
            "iptables-legacy -P INPUT DROP",
            "iptables-legacy -N theirs",
            "iptables-legacy -A theirs -s 10.1.0.0/16 ! -i lo -m limit --limit 5/min -m comment --comment x",
            "iptables-legacy -A theirs -p tcp -m multiport --dports 1,2,3 -j REJECT --reject-with tcp-reset -c 7 700",
            "iptables-legacy -A FORWARD -g theirs -c 5 300",
            "iptables-legacy -A FORWARD -j ACCEPT -c 18446744073709551615 1",
            "iptables-legacy -t nat -A PREROUTING -p udp --dport 9 -j REDIRECT --to-ports 10",
            "ip6tables-legacy -t nat -A POSTROUTING -s fd00::/8 ! -o lo -j MASQUERADE -c 3 33",
            "ip6tables-legacy -A FORWARD -p icmpv6 -j DROP",
        ] {
            run(command);
        }
        let before = listing("-c");
        let rules = rules(&SERVICE);
        iptables::install(&rules).unwrap();
        let theirs = |line: &&str| !line.contains("svclb");
        let after = listing("-c");
        assert_eq!(
            before.lines().collect::<Vec<_>>(),
            after.lines().filter(theirs).collect::<Vec<_>>()
        );
        iptables::remove("svclb").unwrap();
        assert_eq!(before, listing("-c"));
    });
}

#[test]
fn our_rules_come_before_those_of_others() {
    in_network_namespace(|| {
        let rules = rules(&SERVICE);
        iptables::install(&rules).unwrap();
        run("iptables-legacy -I FORWARD -j ACCEPT");
        assert!(!iptables::in_place(&rules).unwrap());
        iptables::install(&rules).unwrap();
        assert!(iptables::in_place(&rules).unwrap());
        let rules = run("iptables-legacy -S FORWARD");
        let rules: Vec<_> = rules.lines().skip(1).collect();
        assert_eq!(
            rules,
            ["-A FORWARD -j svclb-forward", "-A FORWARD -j ACCEPT"]
        );
    });
}

#[test]
fn in_place_sees_what_is_missing() {
    in_network_namespace(|| {
        let rules = rules(&SERVICE);
        for tampering in [
            "iptables-legacy -t nat -F svclb-prerouting",
            "iptables-legacy -D svclb-sources 1",
            "iptables-legacy -t nat -D PREROUTING -j svclb-prerouting",
            "ip6tables-legacy -I svclb-forward -j ACCEPT",
        ] {
            iptables::install(&rules).unwrap();
            assert!(iptables::in_place(&rules).unwrap(), "before {tampering}");
            run(tampering);
            assert!(!iptables::in_place(&rules).unwrap(), "after {tampering}");
        }
    });
}

#[test]
fn a_family_that_is_no_longer_forwarded_is_closed() {
    in_network_namespace(|| {
        iptables::install(&rules(&SERVICE)).unwrap();
        let rules = rules(&[("SVCLB_FORWARDS", "tcp/80=80"), ("DEST_IPS", "10.43.0.10")]);
        iptables::install(&rules).unwrap();
        assert_lists_as("one-family.save");
        assert!(iptables::in_place(&rules).unwrap());
    });
}

#[test]
fn looking_for_what_was_never_there_sets_up_no_table() {
    in_network_namespace(|| {
        assert!(!iptables::in_place(&rules(&SERVICE)).unwrap());
        assert_eq!(
            listing(""),
            "# iptables-legacy-save\n# ip6tables-legacy-save\n"
        );
    });
}

#[test]
fn removing_what_was_never_there_sets_up_no_table() {
    in_network_namespace(|| {
        iptables::remove("svclb").unwrap();
        assert_eq!(
            listing(""),
            "# iptables-legacy-save\n# ip6tables-legacy-save\n"
        );
    });
}

#[test]
fn thousands_of_ports_and_ranges_go_in() {
    in_network_namespace(|| {
        let forwards: Vec<_> = (1..=2000)
            .map(|port| format!("tcp/{port}={port}"))
            .collect();
        let ranges: Vec<_> = (0..2000)
            .map(|n| format!("10.{}.{}.0/25", n / 200, n % 200))
            .collect();
        let rules = rules(&[
            ("SVCLB_FORWARDS", &forwards.join(",")),
            ("DEST_IPS", "10.43.0.10"),
            ("SRC_RANGES", &ranges.join(",")),
        ]);
        iptables::install(&rules).unwrap();
        assert!(iptables::in_place(&rules).unwrap());
    });
}
