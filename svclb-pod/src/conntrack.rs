//! UDP connections that the kernel tracks from before the rules changed.
//!
//! NAT is decided once a connection, and a UDP "connection" lives for as long as its sender keeps
//! sending from the same port: it would go on to a destination that is no longer wanted, or to the pod
//! itself if its first packet came before the rules. So what the rules would now treat in another way
//! is deleted over ctnetlink, and its next packet is a first one again.

use std::net::IpAddr;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::SockProtocol;

use crate::config::{Config, Family, Form, Forward, Protocol};
use crate::netlink::{self, ACK, DUMP, Message, Requests, Socket, attributes, find, number};
use crate::nfnetlink::{self, HEADER};

// linux/netfilter/nfnetlink_conntrack.h
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const IPCTNL_MSG_CT_GET_STATS: u16 = 5;
const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
/// `IPS_DST_NAT` in linux/netfilter/nf_conntrack_common.h.
pub(crate) const IPS_DST_NAT: u32 = 1 << 5;

/// A connection that the kernel tracks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// IANA's number of its protocol.
    pub protocol: u8,
    /// The port that its first packet was sent to.
    pub port: u16,
    /// Whether its destination was rewritten.
    pub is_dnat: bool,
    /// Who answers: the destination after rewriting.
    pub answerer: (IpAddr, u16),
    /// `CTA_TUPLE_ORIG`, `CTA_ZONE` and `CTA_ID`, by which the kernel knows it.
    identity: Vec<(u16, Vec<u8>)>,
}

impl Connection {
    /// Reads an `IPCTNL_MSG_CT_NEW` message; `None` if it is of a protocol without ports.
    pub fn parse(message: &Message<'_>) -> Option<Self> {
        let attribute = |kind| find(message.attributes(HEADER), kind);
        let original = attribute(CTA_TUPLE_ORIG)?;
        let reply = attribute(CTA_TUPLE_REPLY)?;
        let protocol = find(
            attributes(find(attributes(original), CTA_TUPLE_PROTO)?),
            CTA_PROTO_NUM,
        )?;
        let status = number(attribute(CTA_STATUS)?, 0).map(u32::from_be_bytes)?;
        let identity = [CTA_TUPLE_ORIG, CTA_ZONE, CTA_ID]
            .into_iter()
            .filter_map(|kind| Some((kind, attribute(kind)?.to_vec())));
        Some(Self {
            protocol: *protocol.first()?,
            port: tuple_port(original, CTA_PROTO_DST_PORT)?,
            is_dnat: status & IPS_DST_NAT != 0,
            answerer: (tuple_source(reply)?, tuple_port(reply, CTA_PROTO_SRC_PORT)?),
            identity: identity.collect(),
        })
    }

    /// Whether the rules for `config` in these families would treat its first packet in another way.
    ///
    /// Takes what was sent to a forward's port for what was sent to the forward. So it is in a pod's
    /// own network namespace; in a node's it would have to look at the address as well.
    pub fn is_stale(&self, config: &Config, families: &[Family]) -> bool {
        if self.protocol != Protocol::Udp.number() {
            return false;
        }
        let (address, port) = self.answerer;
        let is_ours = |it: &&Forward| it.protocol == Protocol::Udp && it.port == self.port;
        match config.forwards.iter().find(is_ours) {
            Some(forward) if families.contains(&Family::of(address)) => {
                let is_wanted = config.destinations.contains(&address) && forward.to_port == port;
                !(self.is_dnat && is_wanted)
            }
            // Its family is no longer served.
            Some(_) => self.is_dnat,
            // Beside klipper-lb's form there may be containers with other ports.
            None => self.is_dnat && config.form == Form::Service,
        }
    }

    fn delete(&self) -> Requests {
        let family = match self.answerer.0 {
            IpAddr::V4(_) => libc::AF_INET,
            IpAddr::V6(_) => libc::AF_INET6,
        };
        let header = nfnetlink::header(family, 0);
        Requests::one(ctnetlink(IPCTNL_MSG_CT_DELETE), ACK, &header, |a| {
            for (kind, value) in &self.identity {
                let nested = if *kind == CTA_TUPLE_ORIG {
                    netlink::NESTED
                } else {
                    0
                };
                a.bytes(kind | nested, value);
            }
        })
    }
}

/// A socket for [`forget_stale`]. After nf_tables rules were replaced, closing it takes as long as
/// closing theirs: the caller does that when nobody waits any more.
pub fn open() -> Result<Socket, netlink::Error> {
    Socket::open(SockProtocol::NetlinkNetFilter)
}

/// Deletes the stale connections, and tells how many there were.
pub fn forget_stale(
    socket: &Socket,
    config: &Config,
    families: &[Family],
) -> Result<usize, netlink::Error> {
    // For a list, the kernel walks through the tables of all network namespaces, which takes it
    // milliseconds; how many connections this one has, it knows. At first there are none.
    if count(socket)? == 0 {
        return Ok(0);
    }
    let all = Requests::one(
        ctnetlink(IPCTNL_MSG_CT_GET),
        DUMP,
        &nfnetlink::header(libc::AF_UNSPEC, 0),
        |_| {},
    );
    let stale = socket.list(&all, &mut |message, stale: &mut Vec<Connection>| {
        let connection = Connection::parse(&message);
        stale.extend(connection.filter(|connection| connection.is_stale(config, families)));
    })?;
    for connection in &stale {
        match socket.commit(&connection.delete()) {
            // It ended by itself.
            Err(netlink::Error::Refused {
                errno: Errno::ENOENT,
                ..
            }) => {}
            result => result?,
        }
    }
    Ok(stale.len())
}

fn count(socket: &Socket) -> Result<u32, netlink::Error> {
    let header = nfnetlink::header(libc::AF_UNSPEC, 0);
    let request = Requests::one(ctnetlink(IPCTNL_MSG_CT_GET_STATS), ACK, &header, |_| {});
    let mut count = 0;
    socket.exchange(&request, &mut |message| {
        let entries = find(message.attributes(HEADER), CTA_STATS_GLOBAL_ENTRIES);
        count = entries
            .and_then(|value| number(value, 0))
            .map_or(0, u32::from_be_bytes);
    })?;
    Ok(count)
}

fn tuple_source(tuple: &[u8]) -> Option<IpAddr> {
    let ip = find(attributes(tuple), CTA_TUPLE_IP)?;
    let v4 = || {
        Some(IpAddr::from(number::<4>(
            find(attributes(ip), CTA_IP_V4_SRC)?,
            0,
        )?))
    };
    let v6 = || {
        Some(IpAddr::from(number::<16>(
            find(attributes(ip), CTA_IP_V6_SRC)?,
            0,
        )?))
    };
    v4().or_else(v6)
}

fn tuple_port(tuple: &[u8], kind: u16) -> Option<u16> {
    let protocol = find(attributes(tuple), CTA_TUPLE_PROTO)?;
    number(find(attributes(protocol), kind)?, 0).map(u16::from_be_bytes)
}

/// The type of a ctnetlink message.
fn ctnetlink(kind: u16) -> u16 {
    nfnetlink::message_type(libc::NFNL_SUBSYS_CTNETLINK, kind)
}

#[cfg(test)]
mod tests;
