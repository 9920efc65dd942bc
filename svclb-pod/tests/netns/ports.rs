//! klipper-lb's form: a container for each port, all of them in one network namespace.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{
    BACKENDS, CLIENT, Connections, Download, Environment, Lab, PATIENCE, POD, POD6, Pod, Server,
    ask_tcp, connect, is_kept_out, on_both_backends,
};

on_both_backends!(
    a_port_restarts_without_touching_the_one_beside_it,
    each_port_has_its_own_ranges,
    both_families_as_in_a_dual_stack_service,
    errors_about_a_connection_come_back_through,
    what_is_nobodys_is_left_alone,
);

fn port(backend: &str, port: u16, to: u16) -> Environment {
    Environment::new(&[
        &format!("SVCLB_BACKEND={backend}"),
        &format!("SRC_PORT={port}"),
        "SRC_RANGES=0.0.0.0/0",
        "DEST_PROTO=TCP",
        &format!("DEST_PORT={to}"),
        "DEST_IPS=10.43.0.10",
    ])
}

fn a_port_restarts_without_touching_the_one_beside_it(backend: &str) {
    let lab = Arc::new(Lab::new());
    Server::start(&lab, &[8080, 8443]);
    let mut http = Pod::start(&lab.pod, &port(backend, 80, 8080));
    let _https = Pod::start(&lab.pod, &port(backend, 443, 8443));
    let download = Download::start(&lab.client, CLIENT[0], POD, 443);
    let connections = Connections::tcp(&lab, CLIENT[0], POD, 443);
    let itself = Connections::tcp(&lab, CLIENT[0], POD, 80);
    for restart in 0..12 {
        assert!(http.stop().success());
        let ranges = ["SRC_RANGES=0.0.0.0/0", "SRC_RANGES=192.0.2.0/24"][restart % 2];
        http = Pod::start(&lab.pod, &port(backend, 80, 8080).with(&[ranges]));
        download.goes_on_for(100_000);
        connections.go_on_for(5);
        itself.go_on_for(5);
    }
    download.stop();
    connections.stop();
    itself.stop();
}

fn each_port_has_its_own_ranges(backend: &str) {
    let lab = Lab::new();
    Server::start(&lab, &[8080, 8443]);
    let near = port(backend, 80, 8080).with(&["SRC_RANGES=192.0.2.0/24"]);
    let far = port(backend, 443, 8443).with(&["SRC_RANGES=198.51.100.0/24"]);
    let _pods = [Pod::start(&lab.pod, &near), Pod::start(&lab.pod, &far)];
    for (from, open, closed) in [("192.0.2.2", 80, 443), ("198.51.100.2", 443, 80)] {
        assert!(
            ask_tcp(&lab.client, from, POD, open)
                .unwrap()
                .starts_with("0:")
        );
        assert!(
            is_kept_out(&lab.client, from, POD, closed),
            "{from} at port {closed}"
        );
    }
}

fn both_families_as_in_a_dual_stack_service(backend: &str) {
    let lab = Lab::new();
    lab.allow_ipv6_forwarding();
    Server::start(&lab, &[8080]);
    let environment = port(backend, 80, 8080).with(&[
        "DEST_IPS=10.43.0.10,fd00:43::10",
        "SRC_RANGES=0.0.0.0/0,::/0",
    ]);
    let _pod = Pod::start(&lab.pod, &environment);
    for (from, to) in CLIENT.iter().zip([POD, POD6]) {
        let answer = ask_tcp(&lab.client, from, to, 80).unwrap();
        assert_eq!(answer, format!("0:8080 sees {to}"));
    }
}

fn errors_about_a_connection_come_back_through(backend: &str) {
    let lab = Lab::new();
    lab.allow_ipv6_forwarding();
    Server::start(&lab, &[8080]);
    // The node, which sends the errors, is in none of the ranges.
    let environment = port(backend, 80, 8080).with(&[
        "DEST_IPS=10.43.0.10,fd00:43::10",
        "SRC_RANGES=192.0.2.2/32,2001:db8::2/128",
    ]);
    let _pod = Pod::start(&lab.pod, &environment);
    lab.assert_that_packets_are_made_to_fit();
}

/// As a counter-test to what keeps out whatever is no forward: here, other containers may have rules
/// for it.
fn what_is_nobodys_is_left_alone(backend: &str) {
    let lab = Lab::new();
    Server::start(&lab, &[8080, 8443]);
    let closed = port(backend, 80, 8080).with(&["SRC_RANGES=203.0.113.0/24"]);
    let _pod = Pod::start(&lab.pod, &closed);
    lab.route_over_the_pod();
    connect(&lab.client, CLIENT[0], BACKENDS[0][0], 8080, PATIENCE).unwrap();
    assert!(is_kept_out(&lab.client, CLIENT[0], POD, 80));
    let refused = connect(&lab.client, CLIENT[0], POD, 443, Duration::from_secs(30)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}
