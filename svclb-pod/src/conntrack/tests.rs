//! Which connections are stale, as values, and how they are read and deleted.

use super::*;

fn config(variables: &[(&str, &str)]) -> Config {
    Config::parse(|variable| {
        let found = variables.iter().find(|(name, _)| *name == variable);
        found.map(|(_, value)| value.into())
    })
    .unwrap()
}

fn service() -> Config {
    config(&[
        ("SVCLB_FORWARDS", "udp/53=30053,tcp/80=80"),
        ("DEST_IPS", "10.43.0.10,fd00::10"),
    ])
}

fn connection(protocol: Protocol, port: u16, answerer: (&str, u16), is_dnat: bool) -> Connection {
    Connection {
        protocol: protocol.number(),
        port,
        is_dnat,
        answerer: (answerer.0.parse().unwrap(), answerer.1),
        identity: Vec::new(),
    }
}

fn is_stale(connection: &Connection) -> bool {
    connection.is_stale(&service(), &Family::ALL)
}

#[test]
fn what_goes_where_it_is_wanted_stays() {
    assert!(!is_stale(&connection(
        Protocol::Udp,
        53,
        ("10.43.0.10", 30053),
        true
    )));
    assert!(!is_stale(&connection(
        Protocol::Udp,
        53,
        ("fd00::10", 30053),
        true
    )));
}

#[test]
fn another_destination_or_none_is_stale() {
    assert!(is_stale(&connection(
        Protocol::Udp,
        53,
        ("10.43.0.11", 30053),
        true
    )));
    assert!(is_stale(&connection(
        Protocol::Udp,
        53,
        ("10.43.0.10", 53),
        true
    )));
    // It came before the rules, and was for the pod itself.
    assert!(is_stale(&connection(
        Protocol::Udp,
        53,
        ("10.244.0.2", 53),
        false
    )));
}

#[test]
fn a_forward_that_is_gone_is_stale_unless_it_may_be_anothers() {
    let gone = connection(Protocol::Udp, 54, ("10.43.0.10", 30053), true);
    assert!(is_stale(&gone));
    let port = config(&[
        ("SRC_PORT", "53"),
        ("DEST_PROTO", "UDP"),
        ("DEST_PORT", "30053"),
        ("DEST_IPS", "10.43.0.10"),
    ]);
    assert!(!gone.is_stale(&port, &[Family::V4]));
    let own = connection(Protocol::Udp, 53, ("10.43.0.11", 30053), true);
    assert!(own.is_stale(&port, &[Family::V4]));
}

#[test]
fn a_family_that_is_no_longer_served_is_stale() {
    let of_v6 = connection(Protocol::Udp, 53, ("fd00::10", 30053), true);
    assert!(of_v6.is_stale(&service(), &[Family::V4]));
    let port = |destinations| {
        config(&[
            ("SRC_PORT", "53"),
            ("DEST_PROTO", "UDP"),
            ("DEST_PORT", "30053"),
            ("DEST_IPS", destinations),
        ])
    };
    assert!(!of_v6.is_stale(&port("10.43.0.10,fd00::10"), &Family::ALL));
    assert!(of_v6.is_stale(&port("10.43.0.10,fd00::10"), &[Family::V4]));
    assert!(of_v6.is_stale(&port("10.43.0.10"), &[Family::V4]));
    // What the pod got itself is no concern of rules that have nothing to do with its family.
    let not_forwarded = connection(Protocol::Udp, 53, ("fd00:244::2", 53), false);
    assert!(!not_forwarded.is_stale(&port("10.43.0.10"), &[Family::V4]));
}

#[test]
fn what_is_not_udp_or_not_forwarded_is_no_concern() {
    assert!(!is_stale(&connection(
        Protocol::Tcp,
        80,
        ("10.43.0.11", 80),
        true
    )));
    assert!(!is_stale(&connection(
        Protocol::Udp,
        123,
        ("192.0.2.1", 123),
        false
    )));
}

#[test]
fn a_connection_is_read_as_the_kernel_sends_it_and_deleted_by_what_it_has() {
    let tuple = |a: &mut netlink::Attributes<'_>, from: [u8; 4], from_port: u16, to_port: u16| {
        a.nest(CTA_TUPLE_IP, |a| {
            a.bytes(CTA_IP_V4_SRC, &from).bytes(2, &[10, 244, 0, 2]);
        });
        a.nest(CTA_TUPLE_PROTO, |a| {
            a.bytes(CTA_PROTO_NUM, &[17])
                .bytes(CTA_PROTO_SRC_PORT, &from_port.to_be_bytes())
                .bytes(CTA_PROTO_DST_PORT, &to_port.to_be_bytes());
        });
    };
    let message = Requests::one(0x100, 0, &nfnetlink::header(libc::AF_INET, 0), |a| {
        a.nest(CTA_TUPLE_ORIG, |a| tuple(a, [192, 0, 2, 2], 5353, 53))
            .nest(CTA_TUPLE_REPLY, |a| tuple(a, [10, 43, 0, 10], 30053, 5353))
            .be32(CTA_STATUS, IPS_DST_NAT | 2)
            .be32(CTA_ID, 77);
    });
    let message = netlink::messages(message.bytes()).next().unwrap();
    let connection = Connection::parse(&message).unwrap();
    assert_eq!(connection.answerer, ("10.43.0.10".parse().unwrap(), 30053));
    assert_eq!(
        (connection.protocol, connection.port, connection.is_dnat),
        (17, 53, true)
    );

    let delete = connection.delete();
    let delete = netlink::messages(delete.bytes()).next().unwrap();
    assert_eq!((delete.kind, delete.payload[0]), (0x102, 2));
    for kind in [CTA_TUPLE_ORIG, CTA_ID] {
        assert_eq!(
            find(delete.attributes(HEADER), kind),
            find(message.attributes(HEADER), kind)
        );
    }
    assert_eq!(delete.attributes(HEADER).count(), 2);
}
