//! What the kernel lists is what stands as nft text beside the code that encodes it.

use std::fs;

use crate::support::{Environment, Lab, Pod};

/// Installs the rules for an environment and compares them with a file, which `nft -f` takes as well.
fn assert_listed(file: &str, environment: &[&str]) {
    let path = format!("{}/tests/nftables/{file}", env!("CARGO_MANIFEST_DIR"));
    let expected = fs::read_to_string(&path).unwrap();
    let lab = Lab::new();
    lab.allow_ipv6_forwarding();
    let environment = Environment::new(environment).with(&["SVCLB_BACKEND=nftables"]);
    let _pod = Pod::start(&lab.pod, &environment);
    let list = ["nft", "-s", "list", "ruleset"];
    let listed = lab.pod.output(&list);
    assert!(
        listed == expected,
        "{file} is not what is listed:\n{listed}"
    );
    assert!(environment.run(&lab.pod, &["check"]).status.success());
    // The text does not only look like it.
    lab.backends[0].output(&["nft", "-f", &path]);
    assert_eq!(lab.backends[0].output(&list), expected);
}

#[test]
fn all_that_a_service_can_have() {
    assert_listed(
        "service.nft",
        &[
            "SVCLB_FORWARDS=tcp/80=8080,tcp/443=8443,udp/53=30053,sctp/7=7",
            "DEST_IPS=10.43.0.10,10.43.0.11,fd00:43::10",
            "SRC_RANGES=192.168.0.0/16,10.0.0.0/9,10.128.0.0/9,10.1.0.0/16,203.0.113.7,fd00::/8,::1/128",
        ],
    );
}

#[test]
fn any_source() {
    assert_listed(
        "any-source.nft",
        &["SVCLB_FORWARDS=tcp/80=80", "DEST_IPS=10.43.0.10"],
    );
}

#[test]
fn ranges_up_to_the_last_address() {
    assert_listed(
        "last-address.nft",
        &[
            "SVCLB_FORWARDS=udp/53=53",
            "DEST_IPS=10.43.0.10,fd00:43::10",
            "SRC_RANGES=255.255.255.255/32,240.0.0.0/8,ffff::/16",
        ],
    );
}

#[test]
fn klipper_lbs_form() {
    assert_listed(
        "port.nft",
        &[
            "SRC_PORT=80",
            "SRC_RANGES=10.0.0.0/8",
            "DEST_PROTO=TCP",
            "DEST_PORT=30080",
            "DEST_IPS=10.43.0.10",
        ],
    );
}

#[test]
fn thousands_of_ports_and_ranges_take_more_than_one_message() {
    let lab = Lab::new();
    let forwards: Vec<_> = (1..=4000)
        .map(|port| format!("tcp/{port}={port}"))
        .collect();
    let ranges: Vec<_> = (0..4000)
        .map(|i| format!("10.{}.{}.0/28", i / 250, i % 250))
        .collect();
    let environment = Environment::new(&[
        "SVCLB_BACKEND=nftables",
        &format!("SVCLB_FORWARDS={}", forwards.join(",")),
        "DEST_IPS=10.43.0.10",
        &format!("SRC_RANGES={}", ranges.join(",")),
    ]);
    let _pod = Pod::start(&lab.pod, &environment);
    assert!(environment.run(&lab.pod, &["check"]).status.success());
    let listed = lab.pod.output(&["nft", "-s", "list", "ruleset"]);
    for element in [
        " 1 : 1,",
        " 2000 : 2000,",
        " 4000 : 4000",
        "10.0.0.0/28",
        "10.15.249.0/28",
    ] {
        assert!(listed.contains(element), "no {element} in {listed}");
    }
}
