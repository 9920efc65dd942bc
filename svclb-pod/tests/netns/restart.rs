//! Rules that replace others: under traffic, killed half-way, and for UDP senders that never close.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{
    CLIENT, Connections, Download, Environment, Lab, PATIENCE, POD, POD6, Pod, Server, ask_udp,
    connect, on_both_backends,
};

on_both_backends!(
    a_restart_breaks_no_connection_and_refuses_none,
    a_udp_sender_with_a_fixed_port_follows_a_change_of_destination,
    a_udp_sender_that_was_there_before_the_rules_is_forwarded,
    a_udp_sender_of_a_forward_that_is_gone_is_cut_off,
    a_udp_sender_of_a_family_that_is_gone_is_cut_off_in_klipper_lbs_form,
    a_tcp_connection_outlives_its_forward_but_not_its_source_range,
);

const RESTARTS: usize = 24;

fn environment(backend: &str, forwards: &str, destinations: &str) -> Environment {
    Environment::new(&[
        &format!("SVCLB_BACKEND={backend}"),
        &format!("SVCLB_FORWARDS={forwards}"),
        &format!("DEST_IPS={destinations}"),
    ])
}

fn a_restart_breaks_no_connection_and_refuses_none(backend: &str) {
    let lab = Arc::new(Lab::new());
    lab.allow_ipv6_forwarding();
    Server::start(&lab, &[8080]);
    // Something changes each time, but not for those who are connected.
    let environments = ["", ",udp/53=53", ",tcp/81=81"].map(|more| {
        let forwards = format!("tcp/80=8080,udp/80=8080{more}");
        environment(backend, &forwards, "10.43.0.10,fd00:43::10")
    });
    let mut pod = Pod::start(&lab.pod, &environments[0]);
    let download = Download::start(&lab.client, CLIENT[0], POD, 80);
    let connections: Vec<_> = CLIENT
        .into_iter()
        .zip([POD, POD6])
        .flat_map(|(from, to)| {
            [
                Connections::tcp(&lab, from, to, 80),
                Connections::udp(&lab, from, to, 80),
            ]
        })
        .collect();
    for restart in 1..=RESTARTS {
        assert!(pod.stop().success());
        pod = Pod::start(&lab.pod, &environments[restart % 3]);
        download.goes_on_for(100_000);
        for each in &connections {
            each.go_on_for(5);
        }
    }
    download.stop();
    for each in connections {
        each.stop();
    }
    // A first packet that is lost is sent again a second later, and its connection does not fail.
    let lost = sent_again(&lab);
    assert!(lost < RESTARTS / 4, "{lost} first packets were lost");
}

/// How many first packets of TCP connections the client has sent again, which it also does when the
/// machine has no time for the answer within a second.
fn sent_again(lab: &Lab) -> usize {
    let counters = lab.client.output(&["cat", "/proc/thread-self/net/netstat"]);
    let mut lines = counters.lines().filter(|line| line.starts_with("TcpExt:"));
    let mut words = || lines.next().unwrap().split(' ');
    let (names, values) = (words(), words());
    let mut counters = names.zip(values);
    let (_, count) = counters.find(|(name, _)| *name == "TCPSynRetrans").unwrap();
    count.parse().unwrap()
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

fn a_udp_sender_of_a_family_that_is_gone_is_cut_off_in_klipper_lbs_form(backend: &str) {
    let lab = Lab::new();
    lab.allow_ipv6_forwarding();
    Server::start(&lab, &[8080]);
    let both = Environment::new(&[
        &format!("SVCLB_BACKEND={backend}"),
        "SRC_PORT=53",
        "SRC_RANGES=0.0.0.0/0,::/0",
        "DEST_PROTO=UDP",
        "DEST_PORT=8080",
        "DEST_IPS=10.43.0.10,fd00:43::10",
    ]);
    let pod = Pod::start(&lab.pod, &both);
    let to = [POD, POD6];
    let sockets = CLIENT.map(|from| lab.client.run(|| UdpSocket::bind((from, 5353)).unwrap()));
    for (socket, to) in sockets.iter().zip(to) {
        assert_eq!(
            ask_udp(socket, to, 53, PATIENCE),
            Some(format!("0:8080 sees {to}"))
        );
    }
    pod.stop();
    let pod = Pod::start(&lab.pod, &both.with(&["DEST_IPS=10.43.0.10"]));
    pod.wait_for_log("forgotten: 1");
    assert_eq!(ask_udp(&sockets[1], POD6, 53, Duration::from_secs(1)), None);
    assert!(ask_udp(&sockets[0], POD, 53, PATIENCE).is_some());
}

fn a_tcp_connection_outlives_its_forward_but_not_its_source_range(backend: &str) {
    let lab = Lab::new();
    Server::start(&lab, &[8080]);
    let both = environment(backend, "tcp/80=8080,tcp/81=8080", "10.43.0.10");
    let one = environment(backend, "tcp/80=8080", "10.43.0.10");
    let pod = Pod::start(&lab.pod, &both);
    let mut stream = connect(&lab.client, CLIENT[0], POD, 81, PATIENCE).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let mut ask = |patience| {
        stream.write_all(b"who\n").unwrap();
        stream.set_read_timeout(Some(patience)).unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).map(|_| answer)
    };
    assert!(ask(PATIENCE).unwrap().starts_with("0:8080"));
    pod.stop();
    let pod = Pod::start(&lab.pod, &one);
    assert!(ask(PATIENCE).unwrap().starts_with("0:8080"), "it goes on");
    let refused = connect(&lab.client, CLIENT[0], POD, 81, PATIENCE).unwrap_err();
    assert_eq!(
        refused.kind(),
        ErrorKind::ConnectionRefused,
        "a new one does not"
    );
    pod.stop();
    let elsewhere = one.clone().with(&["SRC_RANGES=198.51.100.0/24"]);
    let pod = Pod::start(&lab.pod, &elsewhere);
    let silence = ask(Duration::from_secs(1)).unwrap_err();
    assert_eq!(silence.kind(), ErrorKind::WouldBlock);
    // It was not ended, only cut off.
    pod.stop();
    let _pod = Pod::start(&lab.pod, &one);
    assert!(ask(PATIENCE).unwrap().starts_with("0:8080"));
}
