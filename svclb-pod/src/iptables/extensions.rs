//! The matches and targets that our rules use, as the bytes of `struct xt_entry_match` and
//! `struct xt_entry_target` with the data of their revision.

use std::net::IpAddr;

use nix::libc::{IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP};

use super::Family;
use super::layout::{EXTENSION, EXTENSION_NAME, xt_align};

/// `IP_CT_ESTABLISHED`, `IP_CT_RELATED` as bits of a state mask (`XT_CONNTRACK_STATE_BIT`).
const ESTABLISHED_OR_RELATED: u16 = 1 << 1 | 1 << 2;
/// `IPS_DST_NAT` of `linux/netfilter/nf_conntrack_common.h`: the destination was changed.
const STATUS_DNAT: u16 = 1 << 5;

/// `XT_CONNTRACK_STATE`, `XT_CONNTRACK_STATUS`, `XT_CONNTRACK_ORIGDST_PORT`: what is to be compared.
const COMPARE_STATE: u16 = 1 << 0;
const COMPARE_STATUS: u16 = 1 << 6;
const COMPARE_ORIGINAL_PORT: u16 = 1 << 9;

/// `NF_NAT_RANGE_MAP_IPS`, `NF_NAT_RANGE_PROTO_SPECIFIED` of `linux/netfilter/nf_nat.h`.
const RANGE_ADDRESS: u32 = 1 << 0;
const RANGE_PORT: u32 = 1 << 1;

/// `SCTP`'s `XT_SCTP_DEST_PORTS`: the destination port is to be compared.
const SCTP_DESTINATION_PORT: u32 = 0x02;

/// One match of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// `-m tcp --dport 80`, for the protocol of the rule.
    DestinationPort {
        /// An `IPPROTO_*` number: TCP, UDP or SCTP.
        protocol: u8,
        /// What the packet has now, after destination NAT.
        port: u16,
    },
    /// `-m conntrack --ctstate RELATED,ESTABLISHED`
    Established,
    /// `-m conntrack --ctstatus DNAT`, and `--ctorigdstport 80` for the port that was asked for.
    Translated {
        /// The destination port before destination NAT; any, without.
        original_port: Option<u16>,
    },
    /// `-m statistic --mode random`, true once in `out_of` times.
    Random {
        /// At least 1.
        out_of: u32,
    },
}

impl Match {
    pub(super) fn append(self, out: &mut Vec<u8>) {
        match self {
            Self::DestinationPort { protocol, port } => destination_port(out, protocol, port),
            Self::Established => conntrack(out, COMPARE_STATE, 0),
            Self::Translated {
                original_port: Some(port),
            } => conntrack(out, COMPARE_STATUS | COMPARE_ORIGINAL_PORT, port),
            Self::Translated {
                original_port: None,
            } => conntrack(out, COMPARE_STATUS, 0),
            Self::Random { out_of } => random(out, out_of),
        }
    }
}

/// `struct xt_tcp`, `struct xt_udp` (`linux/netfilter/xt_tcpudp.h`), `struct xt_sctp_info`
/// (`linux/netfilter/xt_sctp.h`); ports are in host order.
fn destination_port(out: &mut Vec<u8>, protocol: u8, port: u16) {
    let mut data = Vec::new();
    match i32::from(protocol) {
        IPPROTO_SCTP => {
            // Destination before source, unlike the other two.
            put_u16(&mut data, [port, port, 0, u16::MAX]);
            // No chunk is looked at: map, kind, flags of chunks and their number.
            data.resize(data.len() + 256 + 4 + 4 * 3 + 4, 0);
            put_u32(&mut data, [SCTP_DESTINATION_PORT, 0]);
            extension(out, "sctp", 0, &data);
        }
        IPPROTO_UDP => {
            put_u16(&mut data, [0, u16::MAX, port, port]);
            data.resize(data.len() + 2, 0);
            extension(out, "udp", 0, &data);
        }
        IPPROTO_TCP => {
            put_u16(&mut data, [0, u16::MAX, port, port]);
            data.resize(data.len() + 4, 0);
            extension(out, "tcp", 0, &data);
        }
        _ => {}
    }
}

/// `struct xt_conntrack_mtinfo3` (`linux/netfilter/xt_conntrack.h`)
fn conntrack(out: &mut Vec<u8>, compare: u16, original_port: u16) {
    let only = |flag: u16, value: u16| if compare & flag == 0 { 0 } else { value };
    // Four addresses with their masks, two times of expiry.
    let mut data = vec![0; 8 * 16 + 2 * 4];
    put_u16(&mut data, [0, 0, original_port, 0, 0]); // protocol, ports of both directions
    put_u16(&mut data, [compare, 0]); // and none of it inverted
    put_u16(
        &mut data,
        [
            only(COMPARE_STATE, ESTABLISHED_OR_RELATED),
            only(COMPARE_STATUS, STATUS_DNAT),
        ],
    );
    put_u16(&mut data, [0, original_port, 0, 0]); // the ranges' other ends
    data.resize(data.len().next_multiple_of(4), 0);
    extension(out, "conntrack", 3, &data);
}

/// `struct xt_statistic_info` (`linux/netfilter/xt_statistic.h`); its probability is of 2^31.
fn random(out: &mut Vec<u8>, out_of: u32) {
    const ALWAYS: u32 = 1 << 31;
    let mut data = Vec::new();
    put_u16(&mut data, [0, 0]); // XT_STATISTIC_MODE_RANDOM, not inverted
    put_u32(&mut data, [ALWAYS / out_of.max(1), 0, 0]);
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
        Family::Ipv4 => {
            put_u32(&mut data, [1, 0]);
            data.resize(data.len() + 2 * 4 + 2 * 2, 0);
        }
        Family::Ipv6 => data.resize(4 + 2 * 16 + 2 * 2, 0),
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
        let port = |protocol: i32| Match::DestinationPort {
            protocol: protocol as u8,
            port: 80,
        };
        assert_eq!(size_of_match(port(IPPROTO_TCP)), xt_align(12));
        assert_eq!(size_of_match(port(IPPROTO_UDP)), xt_align(10));
        assert_eq!(size_of_match(port(IPPROTO_SCTP)), xt_align(292));
        assert_eq!(size_of_match(Match::Established), xt_align(164));
        assert_eq!(size_of_match(Match::Random { out_of: 3 }), 24);
        assert_eq!(
            dnat(IpAddr::from([10, 0, 0, 1]), 80).len(),
            EXTENSION + xt_align(44)
        );
        assert_eq!(masquerade(Family::Ipv4).len(), EXTENSION + xt_align(20));
        assert_eq!(masquerade(Family::Ipv6).len(), EXTENSION + xt_align(40));
    }

    #[test]
    fn a_conntrack_match_names_the_port_twice_and_the_status() {
        let mut out = Vec::new();
        Match::Translated {
            original_port: Some(80),
        }
        .append(&mut out);
        let data = &out[EXTENSION..];
        let at = |offset: usize| u16::from_ne_bytes([data[offset], data[offset + 1]]);
        assert_eq!(at(140), 80, "origdst_port");
        assert_eq!(at(146), 1 << 6 | 1 << 9, "match_flags");
        assert_eq!(at(150), 0, "state_mask");
        assert_eq!(at(152), 1 << 5, "status_mask");
        assert_eq!(at(156), 80, "origdst_port_high");
    }
}
