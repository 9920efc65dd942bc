//! What a pod is told to do, as values.

mod environment;

pub use environment::Error;

use std::fmt;
use std::net::IpAddr;

use crate::ranges::Cidr;

/// A transport protocol that a Service can have; the discriminants are IANA's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// RFC 9293.
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
    /// RFC 9260.
    Sctp = 132,
}

impl Protocol {
    /// All that there are, sorted.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Its number in the IP header.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Its name in lower case, as iptables and nft write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// The protocol of that name, in any case.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|protocol| protocol.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, in the order in which everything here handles them.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What arrives for `protocol` and `port` goes to `to_port` of a destination address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Forward {
    /// The protocol of what arrives, and of what leaves.
    pub protocol: Protocol,
    /// The port at which it arrives; never 0.
    pub port: u16,
    /// The port to which it goes; never 0.
    pub to_port: u16,
}

/// Who else may have rules in this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `SVCLB_FORWARDS`: the pod's namespace is ours alone.
    Service,
    /// klipper-lb's variables: a container for each port, all of them in one namespace.
    Port,
}

/// A kernel interface for rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// nf_tables over nfnetlink.
    Nftables,
    /// Legacy xtables over socket options.
    Iptables,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        })
    }
}

/// What the environment asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The form in which it was asked for.
    pub form: Form,
    /// At least one; no protocol and port twice; one only in `Form::Port`.
    pub forwards: Vec<Forward>,
    /// At least one, none twice, in the order given.
    pub destinations: Vec<IpAddr>,
    /// The ranges that may connect, none twice; `None` lets any source in.
    pub sources: Option<Vec<Cidr>>,
    /// The backend to use; `None` finds out what the kernel takes.
    pub backend: Option<Backend>,
}

impl Config {
    /// The families that are wanted: a destination has it, and so has a source range where there are any.
    pub fn families(&self) -> Vec<Family> {
        Family::ALL
            .into_iter()
            .filter(|&family| {
                let sources = self.sources.as_ref();
                self.destinations
                    .iter()
                    .any(|&address| Family::of(address) == family)
                    && sources
                        .is_none_or(|ranges| ranges.iter().any(|range| range.family() == family))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
