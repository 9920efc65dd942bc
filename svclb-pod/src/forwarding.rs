//! IP forwarding of the pod's interfaces: what the kernel says, and how it is switched on.
//!
//! IPv4 is a matter of each interface and can be set over rtnetlink with `CAP_NET_ADMIN` alone. IPv6 is
//! a matter of the whole network namespace and can only be set by writing to `/proc/sys`, which a
//! container may do if it is privileged.

use std::fs;
use std::io;

use nix::libc;
use nix::sys::socket::SockProtocol;

use crate::config::Family;
use crate::netlink::{self, ACK, DUMP, Message, Requests, Socket, attributes, find, number};

/// Bytes of `struct ifinfomsg` in linux/rtnetlink.h, and where its fields are.
const IFINFOMSG: usize = 16;
const IFI_INDEX: usize = 4;
const IFI_FLAGS: usize = 8;
/// `struct netconfmsg` in linux/netconf.h is one byte, padded.
const NETCONFMSG: usize = 4;

// linux/if_link.h
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_CONF: u16 = 2;
// linux/ip.h and linux/ipv6.h: the former count from 1, the latter from 0.
const IPV4_DEVCONF_FORWARDING: u16 = 1;
const DEVCONF_DISABLE_IPV6: usize = 26;
// linux/netconf.h
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
const NETCONFA_IFINDEX_ALL: i32 = -1;

const AF_INET: u16 = libc::AF_INET as u16;
const AF_INET6: u16 = libc::AF_INET6 as u16;
const IFLA_AF_SPEC: u16 = libc::IFLA_AF_SPEC;

const IPV6_FORWARDING: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

const WHAT_TO_DO: &str = "give the container CAP_NET_ADMIN, or the pod the sysctl \
    net.ipv4.ip_forward=1, which its kubelet has to allow";

/// Why nothing can be forwarded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The interfaces cannot be listed, which takes no capability.
    #[error(
        "cannot list the network interfaces; the container's seccomp profile has to allow netlink sockets"
    )]
    List(#[source] netlink::Error),
    /// The kernel does not let IPv4 forwarding be set.
    #[error("IPv4 forwarding of interface {index} is off and cannot be switched on; {WHAT_TO_DO}")]
    Set {
        /// The interface's index.
        index: i32,
        /// The kernel's reason.
        #[source]
        source: netlink::Error,
    },
    /// The kernel took the setting, and does not have it.
    #[error(
        "IPv4 forwarding of interface {index} stays off though it was switched on; {WHAT_TO_DO}"
    )]
    StaysOff {
        /// The interface's index.
        index: i32,
    },
    /// IPv6 forwarding is off, and `/proc/sys` cannot be written to.
    #[error(
        "IPv6 forwarding is off and cannot be switched on here; run `svclb-pod allow-ipv6-forwarding` \
         in a privileged init container, or give the pod the sysctl net.ipv6.conf.all.forwarding=1"
    )]
    Ipv6(#[source] io::Error),
}

/// A network interface, the loopback aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its number in the network namespace.
    pub index: i32,
    /// Whether it forwards IPv4; `None` if it has no IPv4.
    pub ipv4: Option<bool>,
    /// Whether it has IPv6 and is up: those that a module of the kernel puts into every network namespace
    /// (`sit0`) are not, and nobody can come by them.
    pub ipv6: bool,
}

impl Interface {
    /// Reads an `RTM_NEWLINK` message; `None` for the loopback.
    pub fn parse(message: &Message<'_>) -> Option<Self> {
        let index = number(message.payload, IFI_INDEX).map(i32::from_ne_bytes)?;
        let flags = number(message.payload, IFI_FLAGS).map(i32::from_ne_bytes)?;
        if flags & libc::IFF_LOOPBACK != 0 {
            return None;
        }
        let families = find(message.attributes(IFINFOMSG), IFLA_AF_SPEC).unwrap_or_default();
        let settings = |family, conf| find(attributes(find(attributes(families), family)?), conf);
        let at = |settings, place: usize| number(settings, 4 * place).map(i32::from_ne_bytes);
        let forwarding = usize::from(IPV4_DEVCONF_FORWARDING - 1);
        let ipv4 = settings(AF_INET, IFLA_INET_CONF).and_then(|it| at(it, forwarding));
        let disabled =
            settings(AF_INET6, IFLA_INET6_CONF).and_then(|it| at(it, DEVCONF_DISABLE_IPV6));
        Some(Self {
            index,
            ipv4: ipv4.map(|value| value != 0),
            ipv6: disabled == Some(0) && flags & libc::IFF_UP != 0,
        })
    }
}

/// The interfaces of a network namespace, and whether they forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// All but the loopback.
    pub interfaces: Vec<Interface>,
    /// Whether the namespace forwards IPv6.
    pub ipv6: bool,
}

impl State {
    /// Asks the kernel.
    pub fn read() -> Result<Self, Error> {
        let socket = open()?;
        let all = Requests::one(libc::RTM_GETLINK, DUMP, &ifinfomsg(0), |_| {});
        let interfaces = socket
            .list(&all, &mut |message, interfaces| {
                interfaces.extend(Interface::parse(&message))
            })
            .map_err(Error::List)?;
        let mut state = Self {
            interfaces,
            ipv6: false,
        };
        if state.has(Family::V6) {
            state.ipv6 = read_ipv6(&socket).map_err(Error::List)?;
        }
        Ok(state)
    }

    /// Whether any interface has the family.
    pub fn has(&self, family: Family) -> bool {
        self.interfaces.iter().any(|interface| match family {
            Family::V4 => interface.ipv4.is_some(),
            Family::V6 => interface.ipv6,
        })
    }

    /// Whether packets of the family are forwarded, by whatever interface they arrive.
    pub fn forwards(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.without_ipv4().next().is_none(),
            Family::V6 => self.ipv6,
        }
    }

    /// The interfaces that have IPv4 and do not forward it.
    fn without_ipv4(&self) -> impl Iterator<Item = i32> {
        let off = |interface: &&Interface| interface.ipv4 == Some(false);
        self.interfaces
            .iter()
            .filter(off)
            .map(|interface| interface.index)
    }

    fn confirm(&self, families: &[Family]) -> Result<(), Error> {
        for &family in families {
            match (family, self.without_ipv4().next()) {
                (Family::V4, Some(index)) => return Err(Error::StaysOff { index }),
                (Family::V6, _) if !self.ipv6 => return Err(Error::Ipv6(stays_off())),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Switches forwarding of these families on where it is off, and makes sure that it is on.
pub fn switch_on(state: &State, families: &[Family]) -> Result<(), Error> {
    let off = |family: &Family| !state.forwards(*family);
    let off: Vec<_> = families.iter().copied().filter(off).collect();
    for family in &off {
        match family {
            Family::V4 => switch_on_ipv4(state)?,
            Family::V6 => fs::write(IPV6_FORWARDING, "1").map_err(Error::Ipv6)?,
        }
    }
    if off.is_empty() {
        return Ok(());
    }
    // An interface that has gone meanwhile is no concern.
    State::read()?.confirm(&off)
}

/// Switches IPv6 forwarding on where there is IPv6 and it is off; tells whether there is IPv6.
pub fn allow_ipv6() -> io::Result<bool> {
    match fs::read_to_string(IPV6_FORWARDING) {
        Ok(setting) if setting.trim() != "0" => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        _ => {
            fs::write(IPV6_FORWARDING, "1")?;
            match fs::read_to_string(IPV6_FORWARDING)?.trim() {
                "0" => Err(stays_off()),
                _ => Ok(true),
            }
        }
    }
}

fn stays_off() -> io::Error {
    io::Error::other("it stays off though it was switched on")
}

fn switch_on_ipv4(state: &State) -> Result<(), Error> {
    let socket = open()?;
    for index in state.without_ipv4() {
        socket
            .commit(&set_ipv4(index))
            .map_err(|source| Error::Set { index, source })?;
    }
    Ok(())
}

fn open() -> Result<Socket, Error> {
    Socket::open(SockProtocol::NetlinkRoute).map_err(Error::List)
}

fn read_ipv6(socket: &Socket) -> Result<bool, netlink::Error> {
    let header = [libc::AF_INET6 as u8, 0, 0, 0];
    let request = Requests::one(libc::RTM_GETNETCONF, ACK, &header, |a| {
        a.bytes(NETCONFA_IFINDEX, &NETCONFA_IFINDEX_ALL.to_ne_bytes());
    });
    let mut forwarding = None;
    socket.exchange(&request, &mut |message| {
        let value = find(message.attributes(NETCONFMSG), NETCONFA_FORWARDING);
        forwarding = value
            .and_then(|value| number(value, 0))
            .map(i32::from_ne_bytes);
    })?;
    Ok(forwarding.is_some_and(|value| value != 0))
}

/// `ip link set dev INDEX ...` has no word for it; it is what `sysctl
/// net.ipv4.conf.INTERFACE.forwarding=1` does.
fn set_ipv4(index: i32) -> Requests {
    Requests::one(libc::RTM_SETLINK, ACK, &ifinfomsg(index), |a| {
        a.nest(IFLA_AF_SPEC, |a| {
            a.nest(AF_INET, |a| {
                a.nest(IFLA_INET_CONF, |a| {
                    a.bytes(IPV4_DEVCONF_FORWARDING, &1u32.to_ne_bytes());
                });
            });
        });
    })
}

fn ifinfomsg(index: i32) -> [u8; IFINFOMSG] {
    let mut header = [0; IFINFOMSG];
    for (place, byte) in header.iter_mut().skip(IFI_INDEX).zip(index.to_ne_bytes()) {
        *place = byte;
    }
    header
}

#[cfg(test)]
mod tests;
