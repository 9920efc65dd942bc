//! The environment, parsed into a [`Config`].
//!
//! Two forms are understood: klipper-lb's (`SRC_PORT`, `DEST_PROTO`, `DEST_PORT`: one forward) and our
//! own (`SVCLB_FORWARDS`: all ports of a Service). Both take `DEST_IPS` and `SRC_RANGES`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};

use super::{Backend, Config, Form, Forward, Protocol};
use crate::ranges::Cidr;

/// Why an environment cannot be obeyed. One line, with the variable, its value and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A variable that the form needs is missing.
    #[error("{variable} is not set; it must be {allowed}")]
    NotSet {
        /// Which variable.
        variable: &'static str,
        /// What it may be.
        allowed: &'static str,
    },
    /// A value, or one item of a list, is not allowed.
    #[error("{variable}: {value:?} is not {allowed}")]
    Invalid {
        /// Which variable.
        variable: &'static str,
        /// The value, or the item of the list that is at fault.
        value: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// `SVCLB_FORWARDS` names a protocol and port more than once.
    #[error("{FORWARDS}: {protocol}/{port} is there twice; each protocol and port is allowed once")]
    Twice {
        /// The protocol of both.
        protocol: Protocol,
        /// The port of both.
        port: u16,
    },
    /// klipper-lb's variables beside `SVCLB_FORWARDS`.
    #[error(
        "{variable}={value:?} and {FORWARDS} are both set; allowed is either {FORWARDS} or klipper-lb's {SRC_PORT}, {DEST_PROTO} and {DEST_PORT}"
    )]
    BothForms {
        /// The variable of klipper-lb's.
        variable: &'static str,
        /// Its value.
        value: String,
    },
    /// No source range is of a family that a destination has, so nothing would ever pass.
    #[error(
        "{SRC_RANGES}: {value:?} has no range of the family of any address in {DEST_IPS}; at least one must match"
    )]
    NoCommonFamily {
        /// The ranges.
        value: String,
    },
}

const FORWARDS: &str = "SVCLB_FORWARDS";
const BACKEND: &str = "SVCLB_BACKEND";
const SRC_PORT: &str = "SRC_PORT";
const SRC_RANGES: &str = "SRC_RANGES";
const DEST_PROTO: &str = "DEST_PROTO";
const DEST_PORT: &str = "DEST_PORT";
const DEST_IPS: &str = "DEST_IPS";

const A_PORT: &str = "a port from 1 to 65535";
const A_PROTOCOL: &str = "tcp, udp or sctp";
const A_FORWARD: &str = "protocol/port=destination port, like tcp/80=8080, with tcp, udp or sctp and ports from 1 to 65535";
const AN_ADDRESS: &str = "an IPv4 or IPv6 address that packets can be sent to";
const A_RANGE: &str = "an IPv4 or IPv6 range, like 10.0.0.0/8";
const A_BACKEND: &str = "nftables or iptables";
const SOME_FORWARDS: &str = "a list of protocol/port=destination port, with at least one entry";
const SOME_ADDRESSES: &str = "a list of IPv4 or IPv6 addresses, with at least one entry";
const SOME_RANGES: &str =
    "a list of IPv4 or IPv6 ranges, with at least one entry (unset, it lets any source in)";

impl Config {
    /// Reads the environment through `variable`, which gives a variable's value if it is set.
    pub fn parse(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self, Error> {
        let environment = Environment(&variable);
        let forwards = environment.forwards()?;
        let destinations = environment.destinations()?;
        let config = Self {
            form: if environment.get(FORWARDS)?.is_some() {
                Form::Service
            } else {
                Form::Port
            },
            sources: environment.sources()?,
            backend: environment.backend()?,
            forwards,
            destinations,
        };
        match environment.get(SRC_RANGES)? {
            Some(value) if config.families().is_empty() => Err(Error::NoCommonFamily { value }),
            _ => Ok(config),
        }
    }
}

struct Environment<'a, F>(&'a F);

impl<F: Fn(&str) -> Option<OsString>> Environment<'_, F> {
    fn get(&self, variable: &'static str) -> Result<Option<String>, Error> {
        let value = (self.0)(variable).map(OsString::into_string).transpose();
        value.map_err(|bytes| Error::Invalid {
            variable,
            value: bytes.to_string_lossy().into_owned(),
            allowed: "text in UTF-8",
        })
    }

    fn required(&self, variable: &'static str, allowed: &'static str) -> Result<String, Error> {
        self.get(variable)?
            .ok_or(Error::NotSet { variable, allowed })
    }

    fn forwards(&self) -> Result<Vec<Forward>, Error> {
        let Some(list) = self.get(FORWARDS)? else {
            return Ok(vec![self.klipper_forward()?]);
        };
        for variable in [SRC_PORT, DEST_PROTO, DEST_PORT] {
            if let Some(value) = self.get(variable)? {
                return Err(Error::BothForms { variable, value });
            }
        }
        let forwards: Vec<_> = items(FORWARDS, &list, SOME_FORWARDS)?
            .map(|item| forward(item).ok_or_else(|| invalid(FORWARDS, item, A_FORWARD)))
            .collect::<Result<_, _>>()?;
        match repeated(&forwards) {
            Some((protocol, port)) => Err(Error::Twice { protocol, port }),
            None => Ok(forwards),
        }
    }

    fn klipper_forward(&self) -> Result<Forward, Error> {
        // Nothing set at all is most likely a person at a shell, who should hear of our own form.
        if [SRC_PORT, DEST_PROTO, DEST_PORT]
            .iter()
            .all(|variable| (self.0)(variable).is_none())
        {
            return Err(Error::NotSet {
                variable: FORWARDS,
                allowed: SOME_FORWARDS,
            });
        }
        let port = |variable| {
            let value = self.required(variable, A_PORT)?;
            port(value.trim()).ok_or_else(|| invalid(variable, &value, A_PORT))
        };
        let protocol = self.required(DEST_PROTO, A_PROTOCOL)?;
        Ok(Forward {
            port: port(SRC_PORT)?,
            protocol: Protocol::parse(protocol.trim())
                .ok_or_else(|| invalid(DEST_PROTO, &protocol, A_PROTOCOL))?,
            to_port: port(DEST_PORT)?,
        })
    }

    fn destinations(&self) -> Result<Vec<IpAddr>, Error> {
        let list = self.required(DEST_IPS, SOME_ADDRESSES)?;
        let addresses = items(DEST_IPS, &list, SOME_ADDRESSES)?.map(|item| {
            item.parse()
                .ok()
                .filter(|&address| is_a_hosts(address))
                .ok_or_else(|| invalid(DEST_IPS, item, AN_ADDRESS))
        });
        without_doubles(addresses)
    }

    fn sources(&self) -> Result<Option<Vec<Cidr>>, Error> {
        let Some(list) = self.get(SRC_RANGES)? else {
            return Ok(None);
        };
        let ranges = items(SRC_RANGES, &list, SOME_RANGES)?
            .map(|item| Cidr::parse(item).ok_or_else(|| invalid(SRC_RANGES, item, A_RANGE)));
        without_doubles(ranges).map(Some)
    }

    fn backend(&self) -> Result<Option<Backend>, Error> {
        let Some(value) = self.get(BACKEND)? else {
            return Ok(None);
        };
        match value.as_str() {
            "nftables" => Ok(Some(Backend::Nftables)),
            "iptables" => Ok(Some(Backend::Iptables)),
            _ => Err(invalid(BACKEND, &value, A_BACKEND)),
        }
    }
}

/// Whether it can be the address of another host.
fn is_a_hosts(address: IpAddr) -> bool {
    let is_broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    let is_nobodys = address.is_unspecified() || address.is_loopback();
    !is_broadcast && !is_nobodys && !address.is_multicast()
}

/// Splits a list at commas and white space, as klipper-lb does; an empty one is an error.
fn items<'a>(
    variable: &'static str,
    list: &'a str,
    allowed: &'static str,
) -> Result<impl Iterator<Item = &'a str>, Error> {
    let mut items = list
        .split(|c: char| c == ',' || c.is_ascii_whitespace())
        .filter(|item| !item.is_empty())
        .peekable();
    match items.peek() {
        Some(_) => Ok(items),
        None => Err(invalid(variable, list, allowed)),
    }
}

/// A protocol and port of more than one forward.
fn repeated(forwards: &[Forward]) -> Option<(Protocol, u16)> {
    let mut arrivals: Vec<_> = forwards
        .iter()
        .map(|forward| (forward.protocol, forward.port))
        .collect();
    arrivals.sort_unstable();
    arrivals
        .array_windows()
        .find(|[one, next]| one == next)
        .map(|[arrival, _]| *arrival)
}

fn forward(item: &str) -> Option<Forward> {
    let (arrival, to_port) = item.split_once('=')?;
    let (protocol, from_port) = arrival.split_once('/')?;
    Some(Forward {
        protocol: Protocol::parse(protocol)?,
        port: port(from_port)?,
        to_port: port(to_port)?,
    })
}

fn port(digits: &str) -> Option<u16> {
    // `parse` alone would take "+80".
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|&port| is_number && port != 0)
}

fn invalid(variable: &'static str, value: &str, allowed: &'static str) -> Error {
    Error::Invalid {
        variable,
        value: value.into(),
        allowed,
    }
}

/// In the order in which they come first.
fn without_doubles<T: Ord + Copy>(
    items: impl Iterator<Item = Result<T, Error>>,
) -> Result<Vec<T>, Error> {
    let mut seen = BTreeSet::new();
    let is_new = |item: &Result<T, Error>| item.as_ref().map_or(true, |&item| seen.insert(item));
    items.filter(is_new).collect()
}
