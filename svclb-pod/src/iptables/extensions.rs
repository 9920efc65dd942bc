//! The matches and targets that our rules use, as the bytes of `struct xt_entry_match` and
//! `struct xt_entry_target` with the data of their revision.

use std::net::IpAddr;

use super::layout::{EXTENSION, EXTENSION_NAME, xt_align};
use crate::config::{Family, Protocol};
use crate::rules::Direction;

/// `XT_CONNTRACK_*` of linux/netfilter/xt_conntrack.h: what is compared.
mod compare {
    pub(super) const STATE: u16 = 1 << 0;
    pub(super) const ORIGINAL_PORT: u16 = 1 << 9;
    pub(super) const DIRECTION: u16 = 1 << 12;
}

/// `NF_NAT_RANGE_MAP_IPS`, `NF_NAT_RANGE_PROTO_SPECIFIED` of `linux/netfilter/nf_nat.h`.
const RANGE_ADDRESS: u32 = 1 << 0;
const RANGE_PORT: u32 = 1 << 1;

/// `XT_SCTP_DEST_PORTS` of linux/netfilter/xt_sctp.h: the destination port is to be compared.
const SCTP_DESTINATION_PORT: u32 = 0x02;

/// One match of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// `-m tcp --dport 80`, for the protocol of the rule: the port of the packet as it is now.
    DestinationPort(Protocol, u16),
    /// `-m conntrack`
    Conntrack(Conntrack),
    /// `-m statistic --mode random`, true once in so many times.
    OnceIn(u32),
}

/// What the packet's connection must be; the default fits any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Conntrack {
    /// `--ctstate`
    pub(super) state: Option<State>,
    /// `--ctorigdstport`: the destination port before it was rewritten.
    pub(super) original_port: Option<u16>,
    /// `--ctdir`
    pub(super) direction: Option<Direction>,
}

/// The state of a packet in its connection, or of the connection, as a bit of a mask
/// (`XT_CONNTRACK_STATE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum State {
    /// `IP_CT_ESTABLISHED`: there has been an answer.
    Established = 1 << 1,
    /// `IP_CT_RELATED`: an error about a connection, or one that a connection expects.
    Related = 1 << 2,
    /// The connection's destination was rewritten.
    Dnat = 1 << 7,
}

impl Match {
    pub(super) fn append(self, out: &mut Vec<u8>) {
        match self {
            Self::DestinationPort(protocol, port) => destination_port(out, protocol, port),
            Self::Conntrack(wanted) => conntrack(out, wanted),
            Self::OnceIn(times) => random(out, times),
        }
    }
}

/// `struct xt_tcp`, `struct xt_udp` (linux/netfilter/xt_tcpudp.h), `struct xt_sctp_info`
/// (linux/netfilter/xt_sctp.h); ports are in host order.
fn destination_port(out: &mut Vec<u8>, protocol: Protocol, port: u16) {
    let mut data = Vec::new();
    match protocol {
        Protocol::Tcp => {
            put_u16(&mut data, [0, u16::MAX, port, port]);
            data.extend([0; 4]); // no option, no flags, nothing inverted
        }
        Protocol::Udp => {
            put_u16(&mut data, [0, u16::MAX, port, port]);
            data.extend([0; 2]); // nothing inverted
        }
        Protocol::Sctp => {
            // Destination before source, unlike the other two; the source is not compared.
            put_u16(&mut data, [port, port, 0, 0]);
            // Nor is any chunk: no bit in the map, no kind of match, no chunk in four places for
            // chunks with flags, none of them used.
            data.extend([0; 256 + 4]);
            data.extend([[u8::MAX, 0, 0]; 4].iter().flatten());
            data.extend([0; 4]);
            put_u32(&mut data, [SCTP_DESTINATION_PORT, 0]);
        }
    }
    extension(out, protocol.name(), 0, &data);
}

/// `struct xt_conntrack_mtinfo3` (linux/netfilter/xt_conntrack.h)
fn conntrack(out: &mut Vec<u8>, wanted: Conntrack) {
    let only = |wanted: bool, flag: u16| if wanted { flag } else { 0 };
    let compared = only(wanted.state.is_some(), compare::STATE)
        | only(wanted.original_port.is_some(), compare::ORIGINAL_PORT)
        | only(wanted.direction.is_some(), compare::DIRECTION);
    // What is compared is the original direction.
    let inverted = only(
        wanted.direction == Some(Direction::Reply),
        compare::DIRECTION,
    );
    let state = wanted.state.map_or(0, |state| state as u16);
    let port = wanted.original_port.unwrap_or(0);
    // Four addresses with their masks, two times of expiry.
    let mut data = vec![0; 8 * 16 + 2 * 4];
    put_u16(&mut data, [0, 0, port, 0, 0]); // protocol, ports of both directions
    put_u16(&mut data, [compared, inverted]);
    put_u16(&mut data, [state, 0]); // and no status
    put_u16(&mut data, [0, port, 0, 0]); // the ranges' other ends
    data.resize(data.len().next_multiple_of(4), 0);
    extension(out, "conntrack", 3, &data);
}

/// `struct xt_statistic_info` (`linux/netfilter/xt_statistic.h`); its probability is of 2^31.
fn random(out: &mut Vec<u8>, times: u32) {
    const ALWAYS: u32 = 1 << 31;
    let mut data = Vec::new();
    put_u16(&mut data, [0, 0]); // XT_STATISTIC_MODE_RANDOM, not inverted
    put_u32(&mut data, [ALWAYS / times.max(1), 0, 0]);
    data.resize(data.len() + 8, 0); // the kernel's own pointer
    extension(out, "statistic", 0, &data);
}

/// `DNAT` to one address and port: revision 2, `struct nf_nat_range2`, serves both families.
pub(super) fn dnat(address: IpAddr, port: u16) -> Vec<u8> {
    let mut data = Vec::new();
    put_u32(&mut data, [RANGE_ADDRESS | RANGE_PORT]);
    for _ in ["first", "last"] {
        match address {
            IpAddr::V4(address) => {
                data.extend(address.octets());
                data.extend([0; 12]);
            }
            IpAddr::V6(address) => data.extend(address.octets()),
        }
    }
    // First, last and base, in network order.
    let [high, low] = port.to_be_bytes();
    data.extend([high, low, high, low, 0, 0]);
    data.resize(data.len().next_multiple_of(4), 0);
    let mut target = Vec::new();
    extension(&mut target, "DNAT", 2, &data);
    target
}

/// `MASQUERADE` without a range of ports: `struct nf_nat_ipv4_multi_range_compat`, which needs one
/// range, and `struct nf_nat_range`.
pub(super) fn masquerade(family: Family) -> Vec<u8> {
    let mut data = Vec::new();
    match family {
        Family::V4 => {
            put_u32(&mut data, [1, 0]);
            data.resize(data.len() + 2 * 4 + 2 * 2, 0);
        }
        Family::V6 => data.resize(4 + 2 * 16 + 2 * 2, 0),
    }
    let mut target = Vec::new();
    extension(&mut target, "MASQUERADE", 0, &data);
    target
}

/// `struct xt_entry_match` or `struct xt_entry_target`: size, name, revision, and the data padded.
pub(super) fn extension(out: &mut Vec<u8>, name: &str, revision: u8, data: &[u8]) {
    let start = out.len();
    let size = xt_align(EXTENSION + data.len());
    out.extend((size as u16).to_ne_bytes());
    out.extend(name.bytes().take(EXTENSION_NAME - 1));
    out.resize(start + EXTENSION - 1, 0);
    out.push(revision);
    out.extend(data);
    out.resize(start + size, 0);
}

fn put_u16<const N: usize>(out: &mut Vec<u8>, values: [u16; N]) {
    out.extend(values.into_iter().flat_map(u16::to_ne_bytes));
}

fn put_u32<const N: usize>(out: &mut Vec<u8>, values: [u32; N]) {
    out.extend(values.into_iter().flat_map(u32::to_ne_bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_match(wanted: Match) -> usize {
        let mut out = Vec::new();
        wanted.append(&mut out);
        let size = usize::from(u16::from_ne_bytes([out[0], out[1]]));
        assert_eq!(size, out.len(), "{wanted:?}");
        size - EXTENSION
    }

    #[test]
    fn data_is_as_long_as_the_kernel_wants_it() {
        let port = |protocol| size_of_match(Match::DestinationPort(protocol, 80));
        assert_eq!(port(Protocol::Tcp), xt_align(12));
        assert_eq!(port(Protocol::Udp), xt_align(10));
        assert_eq!(port(Protocol::Sctp), xt_align(292));
        assert_eq!(
            size_of_match(Match::Conntrack(Conntrack::default())),
            xt_align(164)
        );
        assert_eq!(size_of_match(Match::OnceIn(3)), 24);
        let address = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(dnat(address, 80).len(), EXTENSION + xt_align(44));
        assert_eq!(masquerade(Family::V4).len(), EXTENSION + xt_align(20));
        assert_eq!(masquerade(Family::V6).len(), EXTENSION + xt_align(40));
    }

    #[test]
    fn a_conntrack_match_compares_what_is_asked_for() {
        let mut out = Vec::new();
        let wanted = Conntrack {
            state: Some(State::Dnat),
            original_port: Some(80),
            direction: Some(Direction::Reply),
        };
        Match::Conntrack(wanted).append(&mut out);
        let data = &out[EXTENSION..];
        let at = |offset: usize| u16::from_ne_bytes([data[offset], data[offset + 1]]);
        assert_eq!(at(140), 80, "origdst_port");
        assert_eq!(at(146), 1 << 0 | 1 << 9 | 1 << 12, "match_flags");
        assert_eq!(at(148), 1 << 12, "invert_flags");
        assert_eq!(at(150), 1 << 7, "state_mask");
        assert_eq!(at(156), 80, "origdst_port_high");
    }
}
