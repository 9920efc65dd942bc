//! Rules that replace others: under traffic, killed half-way, and for UDP senders that never close.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{
    CLIENT, Connections, Download, Environment, Lab, PATIENCE, POD, Pod, Server, ask_udp,
    on_both_backends,
};

on_both_backends!(
    a_restart_breaks_no_connection_and_refuses_none,
    a_udp_sender_with_a_fixed_port_follows_a_change_of_destination,
    a_udp_sender_that_was_there_before_the_rules_is_forwarded,
    a_udp_sender_of_a_forward_that_is_gone_is_cut_off,
);

fn environment(backend: &str, forwards: &str, destinations: &str) -> Environment {
    Environment::new(&[
        &format!("SVCLB_BACKEND={backend}"),
        &format!("SVCLB_FORWARDS={forwards}"),
        &format!("DEST_IPS={destinations}"),
    ])
}

fn a_restart_breaks_no_connection_and_refuses_none(backend: &str) {
    let lab = Arc::new(Lab::new());
    Server::start(&lab, &[8080]);
    // Something changes each time, but not for those who are connected.
    let environments = [
        "tcp/80=8080",
        "tcp/80=8080,udp/53=53",
        "tcp/80=8080,tcp/81=81",
    ]
    .map(|forwards| environment(backend, forwards, "10.43.0.10"));
    let mut pod = Pod::start(&lab.pod, &environments[0]);
    let download = Download::start(&lab.client, CLIENT[0], POD, 80);
    let connections = Connections::start(&lab, CLIENT[0], POD, 80);
    for restart in 1..=24 {
        assert!(pod.stop().success());
        pod = Pod::start(&lab.pod, &environments[restart % 3]);
        download.goes_on_for(100_000);
        connections.go_on_for(5);
    }
    download.stop();
    connections.stop();
}

fn a_udp_sender_with_a_fixed_port_follows_a_change_of_destination(backend: &str) {
    let lab = Lab::new();
    Server::start(&lab, &[8080, 8081]);
    let socket = lab
        .client
        .run(|| UdpSocket::bind((CLIENT[0], 5353)).unwrap());
    for (forward, destination, server) in [
        ("udp/53=8080", "10.43.0.10", "0:8080"),
        ("udp/53=8080", "10.43.1.10", "1:8080"),
        ("udp/53=8081", "10.43.1.10", "1:8081"),
    ] {
        let pod = Pod::start(&lab.pod, &environment(backend, forward, destination));
        let forgets = server != "0:8080";
        pod.wait_for_log(if forgets {
            "forgotten: 1"
        } else {
            "rules in place by"
        });
        let answer = ask_udp(&socket, POD, 53, PATIENCE);
        assert_eq!(answer, Some(format!("{server} sees {POD}")));
    }
}

fn a_udp_sender_that_was_there_before_the_rules_is_forwarded(backend: &str) {
    let lab = Lab::new();
    Server::start(&lab, &[8080]);
    // Connection tracking begins with the first rules that need it, here another forward's.
    let _other = Pod::start(&lab.pod, &environment(backend, "tcp/80=8080", "10.43.0.10"));
    let socket = lab
        .client
        .run(|| UdpSocket::bind((CLIENT[0], 5353)).unwrap());
    assert_eq!(ask_udp(&socket, POD, 53, Duration::from_secs(1)), None);
    let pod = Pod::start(&lab.pod, &environment(backend, "udp/53=8080", "10.43.0.10"));
    pod.wait_for_log("forgotten: 1");
    assert_eq!(
        ask_udp(&socket, POD, 53, PATIENCE),
        Some(format!("0:8080 sees {POD}"))
    );
}

fn a_udp_sender_of_a_forward_that_is_gone_is_cut_off(backend: &str) {
    let lab = Lab::new();
    Server::start(&lab, &[8080]);
    let both = environment(backend, "udp/53=8080,udp/54=8080", "10.43.0.10");
    let pod = Pod::start(&lab.pod, &both);
    let sockets = [5353, 5354].map(|port| {
        let socket = lab
            .client
            .run(|| UdpSocket::bind((CLIENT[0], port)).unwrap());
        assert!(ask_udp(&socket, POD, port - 5300, PATIENCE).is_some());
        socket
    });
    pod.stop();
    let pod = Pod::start(&lab.pod, &environment(backend, "udp/54=8080", "10.43.0.10"));
    pod.wait_for_log("forgotten: 1");
    assert_eq!(ask_udp(&sockets[0], POD, 53, Duration::from_secs(1)), None);
    assert!(ask_udp(&sockets[1], POD, 54, PATIENCE).is_some());
}
