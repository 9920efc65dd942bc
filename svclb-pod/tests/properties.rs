//! Properties of the pure parts: merged ranges hold the same addresses, and long lists of elements
//! come in messages that netlink can take.

#[expect(
    unreachable_pub,
    dead_code,
    reason = "the fuzz targets share it, from a crate of their own"
)]
mod wire;

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use svclb_pod::config::{Config, Family};
use svclb_pod::iptables;
use svclb_pod::nftables;
use svclb_pod::ranges::{Cidr, Range, merge};
use svclb_pod::rules::{Kind, Rules};

/// A narrow space of addresses, so that ranges overlap, touch and repeat; its ends are the family's.
fn cidr() -> impl Strategy<Value = Cidr> {
    let ipv4 = (any::<u8>(), any::<bool>(), 22..=32u8).prop_map(|(low, top, prefix)| {
        let address = if top { u32::MAX << 8 } else { 0 } | u32::from(low);
        (IpAddr::from(address.to_be_bytes()), prefix)
    });
    let ipv6 = (any::<u8>(), any::<bool>(), 118..=128u8).prop_map(|(low, top, prefix)| {
        let address = if top { u128::MAX << 8 } else { 0 } | u128::from(low);
        (IpAddr::from(address.to_be_bytes()), prefix)
    });
    let everything = prop_oneof![Just(("0.0.0.0", 0)), Just(("::", 0))]
        .prop_map(|(address, prefix)| (parse(address), prefix));
    prop_oneof![20 => ipv4, 20 => ipv6, 1 => everything].prop_map(|(address, prefix)| {
        Cidr::new(address, prefix).unwrap_or_else(|| panic!("{address}/{prefix}"))
    })
}

fn parse(address: &str) -> IpAddr {
    address
        .parse()
        .unwrap_or_else(|error| panic!("{address}: {error}"))
}

/// Whether the first `prefix` bits are the same: what a range means, said without arithmetic on ranges.
fn holds(cidr: Cidr, address: IpAddr) -> bool {
    let bits = |address| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let bit = |octets: &[u8], n: usize| octets[n / 8] >> (7 - n % 8) & 1;
    let (network, address) = (bits(cidr.address()), bits(address));
    network.len() == address.len()
        && (0..usize::from(cidr.prefix())).all(|n| bit(&network, n) == bit(&address, n))
}

fn in_range(range: Range, address: IpAddr) -> bool {
    range.first.is_ipv4() == address.is_ipv4() && range.first <= address && address <= range.last
}

/// All addresses of the narrow space, and some of the wide one between.
fn addresses() -> Vec<IpAddr> {
    let low = 0..1024u32;
    let high = (0..1024u32).map(|n| u32::MAX - n);
    let mut addresses = vec![parse("128.0.0.0"), parse("8000::")];
    for number in low.chain(high) {
        addresses.push(IpAddr::from(number.to_be_bytes()));
        let wide = if number < 1024 {
            u128::from(number)
        } else {
            u128::MAX - u128::from(!number)
        };
        addresses.push(IpAddr::from(wide.to_be_bytes()));
    }
    addresses
}

/// As many forwards, and of each family as many ranges and destinations, as asked for; no two ranges
/// touch.
fn rules(forwards: u16, ranges: u16, destinations: u16) -> Rules {
    let forwards: Vec<_> = (1..=forwards)
        .map(|port| format!("tcp/{port}={port}"))
        .collect();
    let ranges: Vec<_> = (0..ranges)
        .flat_map(|n| {
            let [high, low] = n.to_be_bytes();
            [format!("10.{high}.{low}.0/25"), format!("fd00:{n:x}::/64")]
        })
        .collect();
    let destinations: Vec<_> = (0..destinations)
        .flat_map(|n| {
            let [high, low] = n.to_be_bytes();
            [format!("10.43.{high}.{low}"), format!("fd00:43::{n:x}")]
        })
        .collect();
    let config = Config::parse(|variable| {
        let value = match variable {
            "SVCLB_FORWARDS" => forwards.join(","),
            "DEST_IPS" => destinations.join(","),
            "SRC_RANGES" => ranges.join(","),
            _ => return None,
        };
        Some(value.into())
    });
    Rules::new(
        &config.unwrap_or_else(|error| panic!("{error}")),
        &Family::ALL,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn merged_ranges_hold_what_the_networks_held(cidrs in vec(cidr(), 1..24)) {
        let merged = Family::ALL.map(|family| merge(&cidrs, family)).concat();
        let networks: Vec<_> = merged.iter().flat_map(|range| range.cidrs()).collect();
        for address in addresses() {
            let held = cidrs.iter().any(|cidr| holds(*cidr, address));
            prop_assert_eq!(merged.iter().any(|range| in_range(*range, address)), held, "{}", address);
            prop_assert_eq!(networks.iter().any(|it| holds(*it, address)), held, "{}", address);
        }
    }

    #[test]
    fn merged_ranges_are_sorted_and_apart(cidrs in vec(cidr(), 1..24)) {
        for family in Family::ALL {
            for pair in merge(&cidrs, family).windows(2) {
                let end = pair[0].end();
                prop_assert!(end.is_some_and(|end| end < pair[1].first), "{:?}", pair);
            }
        }
    }

}

proptest! {
    // Of these, each is about much.
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn long_lists_are_split_and_complete(
        forwards in 1..6000u16,
        ranges in 1..3000u16,
        destinations in 2..3000u16,
    ) {
        // NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM, and NFTA_SET_ELEM_LIST_ELEMENTS
        const NEW_ELEMENTS: u16 = 10 << 8 | 12;
        const ELEMENTS: u16 = 3;
        let rules = rules(forwards, ranges, destinations);
        let messages = wire::read_netlink(nftables::replace(&rules).bytes());
        let lists: Vec<_> = messages.iter()
            .filter(|message| message.kind == NEW_ELEMENTS)
            .flat_map(|message| message.attributes.iter().filter(|it| it.kind == ELEMENTS))
            .map(|list| list.held.len())
            .collect();
        // A range has a first element and one after its last address.
        let of_a_family = 2 * usize::from(ranges) + usize::from(destinations);
        prop_assert_eq!(lists.iter().sum::<usize>(), usize::from(forwards) + 2 * of_a_family);
        prop_assert!(lists.iter().all(|list| *list <= nftables::ELEMENTS_PER_MESSAGE));
    }

    #[test]
    fn tables_are_complete(forwards in 1..3000u16, ranges in 1..3000u16) {
        let rules = rules(forwards, ranges, 1);
        for family in Family::ALL {
            for (kind, wanted) in [(Kind::Filter, forwards + ranges), (Kind::Nat, forwards)] {
                let entries = iptables::encode(&rules, kind, family);
                let entries = entries.unwrap_or_else(|| panic!("too long"));
                prop_assert!(wire::read_xtables(family, &entries) > usize::from(wanted));
            }
        }
    }
}
