//! What is forwarded, and what is not.

use std::net::UdpSocket;
use std::sync::mpsc;

use crate::support::{
    BACKENDS, CLIENT, Environment, Lab, PATIENCE, POD, POD6, Pod, Sctp, Server, ask_tcp, ask_udp,
    connect, on_both_backends,
};

on_both_backends!(
    tcp_and_udp_arrive_from_the_pod_in_both_families,
    sctp_arrives_from_the_pod_in_both_families,
    many_ports_go_each_to_its_own,
    connections_are_spread_over_the_destinations_of_a_family,
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
    assert!(
        pod.log.contains(&format!("rules in place by {backend}")),
        "{}",
        pod.log
    );
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
