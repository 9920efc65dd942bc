//! What environments are understood as, and what is said of those that are not.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::*;

fn parse(variables: &[(&str, &str)]) -> Result<Config, Error> {
    Config::parse(|variable| {
        let found = variables.iter().find(|(name, _)| *name == variable);
        found.map(|(_, value)| value.into())
    })
}

fn service(forwards: &str, more: &[(&str, &str)]) -> Result<Config, Error> {
    let mut variables = more.to_vec();
    variables.extend([("SVCLB_FORWARDS", forwards), ("DEST_IPS", "10.43.0.10")]);
    parse(&variables)
}

fn klipper(more: &[(&str, &str)]) -> Result<Config, Error> {
    let mut variables = more.to_vec();
    variables.extend([
        ("SRC_PORT", "80"),
        ("SRC_RANGES", "0.0.0.0/0"),
        ("DEST_PROTO", "TCP"),
        ("DEST_PORT", "8080"),
        ("DEST_IPS", "10.43.0.10"),
    ]);
    parse(&variables)
}

fn forward(protocol: Protocol, port: u16, to_port: u16) -> Forward {
    Forward {
        protocol,
        port,
        to_port,
    }
}

fn cidrs(ranges: &[&str]) -> Option<Vec<Cidr>> {
    Some(
        ranges
            .iter()
            .map(|range| Cidr::parse(range).unwrap())
            .collect(),
    )
}

#[test]
fn our_form_has_all_ports_of_a_service() {
    assert_eq!(
        service("tcp/80=8080,udp/53=30053, SCTP/65535=1", &[]),
        Ok(Config {
            form: Form::Service,
            forwards: vec![
                forward(Protocol::Tcp, 80, 8080),
                forward(Protocol::Udp, 53, 30053),
                forward(Protocol::Sctp, 65535, 1),
            ],
            destinations: vec!["10.43.0.10".parse().unwrap()],
            sources: None,
            backend: None,
        })
    );
}

#[test]
fn klipper_lbs_form_has_one_port() {
    assert_eq!(
        klipper(&[]),
        Ok(Config {
            form: Form::Port,
            forwards: vec![forward(Protocol::Tcp, 80, 8080)],
            destinations: vec!["10.43.0.10".parse().unwrap()],
            sources: cidrs(&["0.0.0.0/0"]),
            backend: None,
        })
    );
}

#[test]
fn lists_are_separated_by_commas_and_white_space() {
    for list in [
        "10.43.0.10,fd00::1",
        "10.43.0.10 fd00::1",
        " 10.43.0.10,\t\n, fd00::1,",
    ] {
        let config = klipper(&[("DEST_IPS", list)]).unwrap();
        assert_eq!(
            config.destinations,
            ["10.43.0.10", "fd00::1"].map(|it| it.parse::<IpAddr>().unwrap())
        );
    }
}

#[test]
fn doubled_addresses_and_ranges_are_merged() {
    let config = klipper(&[
        ("DEST_IPS", "10.43.0.10,10.43.0.11,10.43.0.10"),
        ("SRC_RANGES", "10.0.0.0/8,10.1.2.3/8,192.168.0.0/16"),
    ])
    .unwrap();
    assert_eq!(config.destinations.len(), 2);
    assert_eq!(config.sources, cidrs(&["10.0.0.0/8", "192.168.0.0/16"]));
}

#[test]
fn protocols_are_taken_in_any_case() {
    for (name, protocol) in [
        ("tcp", Protocol::Tcp),
        ("Tcp", Protocol::Tcp),
        ("UDP", Protocol::Udp),
        ("sCTp", Protocol::Sctp),
    ] {
        let config = klipper(&[("DEST_PROTO", name)]).unwrap();
        assert_eq!(config.forwards, [forward(protocol, 80, 8080)]);
    }
}

#[test]
fn a_backend_can_be_asked_for() {
    for (name, backend) in [
        ("nftables", Backend::Nftables),
        ("iptables", Backend::Iptables),
    ] {
        assert_eq!(
            klipper(&[("SVCLB_BACKEND", name)]).unwrap().backend,
            Some(backend)
        );
    }
}

#[test]
fn what_is_not_allowed_names_the_variable_the_value_and_what_is() {
    for (variable, value, at_fault, allowed) in [
        ("SRC_PORT", "0", "\"0\"", "a port from 1 to 65535"),
        ("SRC_PORT", "65536", "\"65536\"", "a port from 1 to 65535"),
        ("SRC_PORT", "+80", "\"+80\"", "a port from 1 to 65535"),
        ("SRC_PORT", "", "\"\"", "a port from 1 to 65535"),
        ("DEST_PORT", "http", "\"http\"", "a port from 1 to 65535"),
        ("DEST_PROTO", "icmp", "\"icmp\"", "tcp, udp or sctp"),
        (
            "DEST_IPS",
            "10.43.0.10,10.43.0.256",
            "\"10.43.0.256\"",
            "an IPv4 or IPv6 address",
        ),
        ("DEST_IPS", " , ", "\" , \"", "at least one entry"),
        ("SRC_RANGES", "", "\"\"", "at least one entry"),
        (
            "SRC_RANGES",
            "10.0.0.0/33",
            "\"10.0.0.0/33\"",
            "like 10.0.0.0/8",
        ),
        (
            "SRC_RANGES",
            "fd00::/129",
            "\"fd00::/129\"",
            "like 10.0.0.0/8",
        ),
        (
            "SRC_RANGES",
            "10.0.0.0/+8",
            "\"10.0.0.0/+8\"",
            "like 10.0.0.0/8",
        ),
        ("SRC_RANGES", "10.0.0.0/8\nrm", "\"rm\"", "like 10.0.0.0/8"),
        ("SVCLB_BACKEND", "", "\"\"", "nftables or iptables"),
    ] {
        let error = klipper(&[(variable, value)]).unwrap_err().to_string();
        for part in [variable, at_fault, allowed] {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
        assert!(!error.contains('\n'), "more than a line: {error:?}");
    }
}

#[test]
fn forwards_that_are_not_allowed_are_named() {
    for item in [
        "tcp/0=1",
        "tcp/1=0",
        "tcp/65536=1",
        "icmp/1=1",
        "tcp/80",
        "tcp=80",
        "80=80",
        "tcp/80=a",
    ] {
        let error = service(&format!("udp/53=53,{item}"), &[])
            .unwrap_err()
            .to_string();
        for part in ["SVCLB_FORWARDS", item, "protocol/port=destination port"] {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }
    assert!(
        service(",", &[])
            .unwrap_err()
            .to_string()
            .contains("at least one entry")
    );
}

#[test]
fn a_protocol_and_port_is_allowed_once() {
    assert_eq!(
        service("tcp/80=1,udp/80=1,TCP/80=2", &[]),
        Err(Error::Twice {
            protocol: Protocol::Tcp,
            port: 80
        })
    );
}

#[test]
fn both_forms_at_once_are_not_allowed() {
    for variable in ["SRC_PORT", "DEST_PROTO", "DEST_PORT"] {
        let error = service("tcp/80=80", &[(variable, "x")]).unwrap_err();
        assert_eq!(
            error,
            Error::BothForms {
                variable,
                value: "x".into()
            }
        );
        assert!(error.to_string().contains("SVCLB_FORWARDS"));
    }
}

#[test]
fn what_is_missing_is_named() {
    let missing = |variables: &[(&str, &str)]| match parse(variables) {
        Err(Error::NotSet { variable, .. }) => variable,
        other => panic!("{other:?}"),
    };
    assert_eq!(missing(&[]), "SVCLB_FORWARDS");
    assert_eq!(missing(&[("SVCLB_FORWARDS", "tcp/80=80")]), "DEST_IPS");
    assert_eq!(missing(&[("SRC_PORT", "80")]), "DEST_PROTO");
    assert_eq!(missing(&[("DEST_PROTO", "TCP")]), "SRC_PORT");
    assert_eq!(
        missing(&[("DEST_PROTO", "TCP"), ("SRC_PORT", "80")]),
        "DEST_PORT"
    );
}

#[test]
fn what_is_no_text_is_not_allowed() {
    let config = Config::parse(|variable| {
        (variable == "SVCLB_FORWARDS").then(|| OsString::from_vec(b"tcp/80=80\xff".to_vec()))
    });
    assert!(config.unwrap_err().to_string().contains("UTF-8"));
}

#[test]
fn a_family_is_wanted_if_destinations_have_it_and_so_have_ranges() {
    let families = |destinations, ranges| {
        let mut variables = vec![("DEST_IPS", destinations)];
        variables.extend(ranges);
        service("tcp/80=80", &variables).unwrap().families()
    };
    let both = "10.43.0.10,fd00::1";
    assert_eq!(families(both, None), Family::ALL);
    assert_eq!(families("fd00::1", None), [Family::V6]);
    assert_eq!(
        families(both, Some(("SRC_RANGES", "10.0.0.0/8"))),
        [Family::V4]
    );
    assert_eq!(families(both, Some(("SRC_RANGES", "::/0"))), [Family::V6]);
    assert_eq!(
        families(both, Some(("SRC_RANGES", "0.0.0.0/0,::/0"))),
        Family::ALL
    );
}

#[test]
fn ranges_of_another_family_only_are_not_allowed() {
    assert_eq!(
        klipper(&[("SRC_RANGES", "fd00::/8")]),
        Err(Error::NoCommonFamily {
            value: "fd00::/8".into()
        })
    );
}

#[test]
fn a_destination_is_another_hosts_address() {
    for address in [
        "0.0.0.0",
        "::",
        "127.0.0.1",
        "::1",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
    ] {
        let invalid = Error::Invalid {
            variable: "DEST_IPS",
            value: address.into(),
            allowed: "an IPv4 or IPv6 address that packets can be sent to",
        };
        assert_eq!(klipper(&[("DEST_IPS", address)]), Err(invalid));
    }
}
