//! What is forwarded, and what is not.

use std::net::UdpSocket;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::support::{
    BACKENDS, CLIENT, Environment, Lab, PATIENCE, POD, POD6, Pod, Sctp, Server, ask_tcp, ask_udp,
    connect, is_kept_out, on_both_backends,
};

on_both_backends!(
    tcp_and_udp_arrive_from_the_pod_in_both_families,
    sctp_arrives_from_the_pod_in_both_families,
    many_ports_go_each_to_its_own,
    connections_are_spread_over_the_destinations_of_a_family,
    only_sources_in_the_ranges_pass,
    the_neighbours_of_a_range_are_kept_out,
    the_range_of_everything_lets_everything_in,
    a_family_without_a_range_is_closed,
    what_is_no_forward_stays_out,
    errors_about_a_connection_come_back_through,
    counters_count_what_passes_and_what_does_not,
);

fn forwards(backend: &str, forwards: &str, destinations: &str) -> Environment {
    Environment::new(&[
        &format!("SVCLB_BACKEND={backend}"),
        &format!("SVCLB_FORWARDS={forwards}"),
        &format!("DEST_IPS={destinations}"),
    ])
}

fn tcp_and_udp_arrive_from_the_pod_in_both_families(backend: &str) {
    let lab = Lab::new();
    lab.allow_ipv6_forwarding();
    Server::start(&lab, &[8080]);
    let environment = forwards(backend, "tcp/80=8080,udp/80=8080", "10.43.0.10,fd00:43::10");
    let pod = Pod::start(&lab.pod, &environment);
    pod.wait_for_log(&format!("rules in place by {backend}"));
    for (from, to) in CLIENT.iter().zip([POD, POD6]) {
        let answer = format!("0:8080 sees {to}");
        assert_eq!(ask_tcp(&lab.client, from, to, 80).unwrap(), answer);
        let socket = lab.client.run(|| UdpSocket::bind((*from, 0)).unwrap());
        assert_eq!(ask_udp(&socket, to, 80, PATIENCE), Some(answer));
    }
}

fn sctp_arrives_from_the_pod_in_both_families(backend: &str) {
    let lab = Lab::new();
    lab.allow_ipv6_forwarding();
    let environment = forwards(backend, "sctp/7000=7001", "10.43.0.10,fd00:43::10");
    let _pod = Pod::start(&lab.pod, &environment);
    for (family, to) in [POD, POD6].into_iter().enumerate() {
        let (send, seen) = mpsc::channel();
        Sctp::open(&lab.backends[0], BACKENDS[0][family]).serve(move |packet| {
            let _ = send.send(packet);
        });
        let answer = Sctp::open(&lab.client, CLIENT[family]).associate(4321, to, 7000);
        let answer = answer.expect("an answer to the association's first packet");
        assert_eq!((answer.from, answer.from_port), (to.parse().unwrap(), 7000));
        let arrived = seen.recv_timeout(PATIENCE).unwrap();
        assert_eq!((arrived.from, arrived.to_port), (to.parse().unwrap(), 7001));
    }
}

fn many_ports_go_each_to_its_own(backend: &str) {
    let lab = Lab::new();
    Server::start(&lab, &[8080, 8081]);
    let list: Vec<_> = (0..300)
        .map(|index| format!("tcp/{}={}", 2000 + index, 8080 + index % 2))
        .collect();
    let _pod = Pod::start(&lab.pod, &forwards(backend, &list.join(" "), "10.43.0.10"));
    for index in [0, 1, 150, 298, 299] {
        let answer = ask_tcp(&lab.client, CLIENT[0], POD, 2000 + index).unwrap();
        assert_eq!(answer, format!("0:{} sees {POD}", 8080 + index % 2));
    }
    for port in [1999, 2300] {
        let error = connect(&lab.client, CLIENT[0], POD, port, PATIENCE).unwrap_err();
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionRefused,
            "port {port}"
        );
    }
}

fn connections_are_spread_over_the_destinations_of_a_family(backend: &str) {
    let lab = Lab::new();
    lab.allow_ipv6_forwarding();
    Server::start(&lab, &[8080]);
    // Two destinations of one family, one of the other.
    let destinations = "10.43.0.10,10.43.1.10,fd00:43:1::10";
    let _pod = Pod::start(&lab.pod, &forwards(backend, "tcp/80=8080", destinations));
    let mut reached = [0, 0];
    for _ in 0..64 {
        let answer = ask_tcp(&lab.client, CLIENT[0], POD, 80).unwrap();
        reached[usize::from(answer.starts_with("1:"))] += 1;
        assert!(
            ask_tcp(&lab.client, CLIENT[1], POD6, 80)
                .unwrap()
                .starts_with("1:8080")
        );
    }
    // By chance alone, one of them gets fewer than 8 of 64 once in some ten billion runs.
    assert!(reached.iter().all(|&count| count >= 8), "{reached:?}");
}

/// Which of the client's addresses get an answer, and which get none.
fn assert_sources(lab: &Lab, to: &str, let_in: &[&str], kept_out: &[&str]) {
    for from in let_in {
        let answer = ask_tcp(&lab.client, from, to, 80);
        assert_eq!(
            answer.unwrap_or_default(),
            format!("0:8080 sees {to}"),
            "from {from}"
        );
    }
    // Each of these takes its time limit.
    thread::scope(|scope| {
        for from in kept_out {
            let client = &lab.client;
            scope.spawn(move || assert!(is_kept_out(client, from, to, 80), "{from} is let in"));
        }
    });
}

fn only_sources_in_the_ranges_pass(backend: &str) {
    let lab = Lab::new();
    lab.allow_ipv6_forwarding();
    Server::start(&lab, &[8080]);
    // One inside another, one next to it of a single address, one given twice; the same in IPv6.
    let ranges = "192.0.2.0/25,192.0.2.64/26,192.0.2.128/32,198.51.100.0/24,198.51.100.0/24,\
                  2001:db8::/112,2001:db8::ffff/128";
    let environment = forwards(backend, "tcp/80=8080", "10.43.0.10,fd00:43::10")
        .with(&[&format!("SRC_RANGES={ranges}")]);
    let _pod = Pod::start(&lab.pod, &environment);
    let let_in = ["192.0.2.2", "192.0.2.127", "192.0.2.128", "198.51.100.2"];
    assert_sources(&lab, POD, &let_in, &["192.0.2.129", "192.0.2.255"]);
    assert_sources(
        &lab,
        POD6,
        &["2001:db8::2", "2001:db8::ffff"],
        &["2001:db8::1:0", "2001:db8:1::2"],
    );
}

fn the_neighbours_of_a_range_are_kept_out(backend: &str) {
    let lab = Lab::new();
    lab.allow_ipv6_forwarding();
    Server::start(&lab, &[8080]);
    let environment = forwards(backend, "tcp/80=8080,udp/80=8080", "10.43.0.10,fd00:43::10")
        .with(&["SRC_RANGES=192.0.2.128/32,2001:db8::ffff/128"]);
    let _pod = Pod::start(&lab.pod, &environment);
    for (to, inside, outside) in [
        (POD, "192.0.2.128", ["192.0.2.127", "192.0.2.129"]),
        (POD6, "2001:db8::ffff", ["2001:db8::fffe", "2001:db8::1:0"]),
    ] {
        assert_sources(&lab, to, &[inside], &outside);
        let ask_from = |from: &str, patience| {
            let socket = lab.client.run(|| UdpSocket::bind((from, 0)).unwrap());
            ask_udp(&socket, to, 80, patience)
        };
        for from in outside {
            assert_eq!(ask_from(from, Duration::from_secs(1)), None, "from {from}");
        }
        assert!(ask_from(inside, PATIENCE).is_some(), "from {inside}");
    }
}

fn the_range_of_everything_lets_everything_in(backend: &str) {
    let lab = Lab::new();
    Server::start(&lab, &[8080]);
    let environment =
        forwards(backend, "tcp/80=8080", "10.43.0.10").with(&["SRC_RANGES=0.0.0.0/0,192.0.2.0/24"]);
    let _pod = Pod::start(&lab.pod, &environment);
    assert_sources(&lab, POD, &["192.0.2.255", "198.51.100.2"], &[]);
}

fn a_family_without_a_range_is_closed(backend: &str) {
    let lab = Lab::new();
    Server::start(&lab, &[8080]);
    let environment =
        forwards(backend, "tcp/80=8080", "10.43.0.10,fd00:43::10").with(&["SRC_RANGES=0.0.0.0/0"]);
    let _pod = Pod::start(&lab.pod, &environment);
    assert_sources(&lab, POD, &["192.0.2.2"], &[]);
    connect(&lab.client, CLIENT[1], POD6, 80, PATIENCE).unwrap_err();
}

fn what_is_no_forward_stays_out(backend: &str) {
    let lab = Lab::new();
    Server::start(&lab, &[8080]);
    let _pod = Pod::start(&lab.pod, &forwards(backend, "tcp/80=8080", "10.43.0.10"));
    // Another port is the pod's own, where nobody listens; so is another protocol.
    let refused = connect(&lab.client, CLIENT[0], POD, 8080, PATIENCE).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let socket = lab.client.run(|| UdpSocket::bind((CLIENT[0], 0)).unwrap());
    assert_eq!(ask_udp(&socket, POD, 80, Duration::from_secs(1)), None);
    // A packet for a backend itself that takes its way over the pod is not for any forward.
    lab.route_over_the_pod();
    assert!(is_kept_out(&lab.client, CLIENT[0], BACKENDS[0][0], 8080));
}

fn errors_about_a_connection_come_back_through(backend: &str) {
    let lab = Lab::new();
    lab.allow_ipv6_forwarding();
    Server::start(&lab, &[8080]);
    // The node, which sends the errors, is in none of the ranges.
    let environment = forwards(backend, "tcp/80=8080", "10.43.0.10,fd00:43::10")
        .with(&["SRC_RANGES=192.0.2.2/32,2001:db8::2/128"]);
    let _pod = Pod::start(&lab.pod, &environment);
    lab.assert_that_packets_are_made_to_fit();
}

fn counters_count_what_passes_and_what_does_not(backend: &str) {
    let lab = Lab::new();
    Server::start(&lab, &[8080]);
    let environment =
        forwards(backend, "tcp/80=8080", "10.43.0.10").with(&["SRC_RANGES=192.0.2.2/32"]);
    let _pod = Pod::start(&lab.pod, &environment);
    let forward_rules = || match backend {
        "nftables" => lab
            .pod
            .output(&["nft", "list", "chain", "inet", "svclb", "forward"]),
        _ => lab
            .pod
            .output(&["iptables-legacy-save", "-c", "-t", "filter"]),
    };
    let count = |rule: &str| {
        let rules = forward_rules();
        let counted = rules
            .lines()
            .find(|line| line.contains(rule))
            .unwrap_or_default();
        let number = match backend {
            "nftables" => counted
                .split_whitespace()
                .skip_while(|word| *word != "packets")
                .nth(1),
            _ => counted
                .strip_prefix('[')
                .and_then(|rest| rest.split(':').next()),
        };
        number.unwrap_or_default().parse::<u64>().expect(&rules)
    };
    let (answers, let_in, kept_out) = match backend {
        "nftables" => ("direction reply", "@sources4", "drop"),
        _ => ("REPLY -j ACCEPT", "-s 192.0.2.2/32 -j ACCEPT", "-j DROP"),
    };
    assert_eq!((count(answers), count(let_in), count(kept_out)), (0, 0, 0));
    assert_sources(&lab, POD, &["192.0.2.2"], &["192.0.2.129"]);
    let (answers, let_in, kept_out) = (count(answers), count(let_in), count(kept_out));
    // A handshake has two packets of the client's and one of the server's, at least.
    assert!(
        answers >= 1 && let_in >= 2 && kept_out >= 1,
        "{}",
        forward_rules()
    );
}
