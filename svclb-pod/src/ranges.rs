//! Ranges of source addresses: as written (CIDR), and as what they cover once overlaps are merged.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::Family;

/// A network in CIDR notation (RFC 4632, RFC 4291), its host bits cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The network of `prefix` bits that holds `address`; `None` if the address has fewer bits.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let host_bits = width(Family::of(address)).checked_sub(u32::from(prefix))?;
        let network = bits(address) & !low_bits(host_bits);
        Some(Self {
            address: from_bits(Family::of(address), network),
            prefix,
        })
    }

    /// `10.0.0.0/8`; like iptables, it takes an address alone for the network that has no other, and
    /// ignores host bits.
    pub fn parse(text: &str) -> Option<Self> {
        let Some((address, prefix)) = text.split_once('/') else {
            let address: IpAddr = text.parse().ok()?;
            return Self::new(address, if address.is_ipv4() { 32 } else { 128 });
        };
        let is_number = prefix.bytes().all(|byte| byte.is_ascii_digit());
        Self::new(
            address.parse().ok()?,
            prefix.parse().ok().filter(|_| is_number)?,
        )
    }

    /// Its first address.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// How many leading bits its addresses have in common.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Its IP family.
    pub fn family(self) -> Family {
        Family::of(self.address)
    }

    fn range(self) -> Range {
        let family = self.family();
        let host_bits = width(family) - u32::from(self.prefix);
        let last = from_bits(family, bits(self.address) | low_bits(host_bits));
        Range {
            first: self.address,
            last,
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// All addresses from `first` to `last`, both of them included; of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The lowest address.
    pub first: IpAddr,
    /// The highest address.
    pub last: IpAddr,
}

impl Range {
    /// The address after the last, unless the last is the family's last.
    pub fn end(self) -> Option<IpAddr> {
        let family = Family::of(self.last);
        let next = bits(self.last).checked_add(1)?;
        (next <= low_bits(width(family))).then(|| from_bits(family, next))
    }

    /// Whether it holds every address of its family.
    pub fn is_everything(self) -> bool {
        bits(self.first) == 0 && bits(self.last) == low_bits(width(Family::of(self.last)))
    }

    /// The fewest networks that together hold the same addresses, in ascending order.
    pub fn cidrs(self) -> Vec<Cidr> {
        let family = Family::of(self.first);
        let last = bits(self.last);
        let mut next = Some(bits(self.first));
        let mut cidrs = Vec::new();
        while let Some(first) = next.filter(|&first| first <= last) {
            // The largest network that starts here: as many host bits as the start has zeros at its
            // end, but not beyond the last address.
            let mut host_bits = first.trailing_zeros().min(width(family));
            while first | low_bits(host_bits) > last {
                host_bits -= 1;
            }
            let prefix = u8::try_from(width(family) - host_bits).unwrap_or(u8::MAX);
            cidrs.push(Cidr {
                address: from_bits(family, first),
                prefix,
            });
            next = (first | low_bits(host_bits)).checked_add(1);
        }
        cidrs
    }
}

/// What the networks of one family hold together: sorted ranges that neither overlap nor touch.
pub fn merge(cidrs: &[Cidr], family: Family) -> Vec<Range> {
    let of_family = cidrs.iter().filter(|cidr| cidr.family() == family);
    let mut ranges: Vec<Range> = of_family.map(|cidr| cidr.range()).collect();
    ranges.sort_by_key(|range| range.first);
    let mut merged: Vec<Range> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(before) if before.end().is_none_or(|end| range.first <= end) => {
                before.last = before.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

fn width(family: Family) -> u32 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

fn low_bits(count: u32) -> u128 {
    1u128.checked_shl(count).map_or(u128::MAX, |bit| bit - 1)
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn from_bits(family: Family, bits: u128) -> IpAddr {
    match family {
        Family::V4 => {
            let [.., a, b, c, d] = bits.to_be_bytes();
            Ipv4Addr::new(a, b, c, d).into()
        }
        Family::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}

#[cfg(test)]
mod tests;
