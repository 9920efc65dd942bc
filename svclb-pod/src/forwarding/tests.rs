//! What the kernel says of interfaces, and what follows from it, as values.

use super::*;

/// A link as the kernel tells of it, as far as it is read.
fn link(index: i32, flags: i32, ipv4: Option<i32>, ipv6_disabled: Option<i32>) -> Requests {
    let mut header = ifinfomsg(index);
    header[IFI_FLAGS..IFI_FLAGS + 4].copy_from_slice(&flags.to_ne_bytes());
    let settings = |length: usize, place: usize, value: i32| {
        let mut settings = vec![0; 4 * length];
        settings[4 * place..4 * place + 4].copy_from_slice(&value.to_ne_bytes());
        settings
    };
    Requests::one(libc::RTM_NEWLINK, 0, &header, |a| {
        a.text(libc::IFLA_IFNAME, "eth0").nest(IFLA_AF_SPEC, |a| {
            if let Some(forwarding) = ipv4 {
                a.nest(AF_INET, |a| {
                    a.bytes(IFLA_INET_CONF, &settings(32, 0, forwarding));
                });
            }
            if let Some(disabled) = ipv6_disabled {
                a.nest(AF_INET6, |a| {
                    a.be32(1, 0)
                        .bytes(IFLA_INET6_CONF, &settings(50, 26, disabled));
                });
            }
        });
    })
}

fn parse(link: &Requests) -> Option<Interface> {
    Interface::parse(&netlink::messages(link.bytes()).next().unwrap())
}

#[test]
fn an_interface_has_what_the_kernel_says() {
    let interface = |ipv4, ipv6| {
        Some(Interface {
            index: 3,
            ipv4,
            ipv6,
        })
    };
    assert_eq!(
        parse(&link(3, 1, Some(0), Some(0))),
        interface(Some(false), true)
    );
    assert_eq!(
        parse(&link(3, 1, Some(1), Some(1))),
        interface(Some(true), false)
    );
    assert_eq!(parse(&link(3, 1, None, None)), interface(None, false));
    let down = parse(&link(3, 0, Some(0), Some(0)));
    assert_eq!(down, interface(Some(false), false));
}

#[test]
fn the_loopback_does_not_count() {
    assert_eq!(parse(&link(1, libc::IFF_LOOPBACK, Some(0), Some(0))), None);
}

/// Interfaces 2, 3 and so on, and whether the namespace forwards IPv6.
fn state(ipv4: &[Option<bool>], ipv6: bool) -> State {
    let interface = |(index, &ipv4)| Interface {
        index,
        ipv4,
        ipv6: true,
    };
    State {
        interfaces: (2..).zip(ipv4).map(interface).collect(),
        ipv6,
    }
}

#[test]
fn forwarding_that_is_not_what_it_was_set_to_is_an_error() {
    let only_ipv4 = state(&[Some(true), None], false);
    assert!(only_ipv4.confirm(&[Family::V4]).is_ok());
    let error = only_ipv4.confirm(&Family::ALL).unwrap_err();
    assert!(matches!(error, Error::Ipv6(_)), "{error:?}");
    let only_ipv6 = state(&[Some(true), Some(false)], true);
    assert!(only_ipv6.confirm(&[Family::V6]).is_ok());
    let error = only_ipv6.confirm(&Family::ALL).unwrap_err();
    assert!(matches!(error, Error::StaysOff { index: 3 }), "{error:?}");
}

#[test]
fn forwarding_that_cannot_be_set_says_what_to_do() {
    let refused = Error::Set {
        index: 2,
        source: netlink::Error::Refused {
            sequence: 0,
            errno: nix::errno::Errno::EPERM,
        },
    };
    for error in [refused, Error::StaysOff { index: 2 }] {
        let line = error.to_string();
        for said in ["interface 2", "CAP_NET_ADMIN", "net.ipv4.ip_forward=1"] {
            assert!(line.contains(said), "{said:?} is not in {line:?}");
        }
    }
}

#[test]
fn a_family_is_forwarded_if_no_interface_is_left_out() {
    assert!(state(&[Some(true), None, Some(true)], false).forwards(Family::V4));
    assert!(!state(&[Some(true), Some(false)], true).forwards(Family::V4));
    assert!(state(&[Some(false)], true).forwards(Family::V6));
    assert!(!state(&[Some(true)], false).forwards(Family::V6));
    assert!(!state(&[None], false).has(Family::V4));
    assert!(!state(&[], false).has(Family::V6));
}
