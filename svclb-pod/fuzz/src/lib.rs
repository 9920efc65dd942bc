//! What the fuzz targets have in common: sets of forwards of any shape, and strict readers of what is
//! encoded from them.

#[path = "../../tests/wire/mod.rs"]
pub mod wire;

use std::fmt::Write as _;
use std::net::IpAddr;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use svclb_pod::config::{Config, Family};
use svclb_pod::rules::Rules;

/// What a Service asks for. Runs of ports and ranges make it long without a long input.
#[derive(Arbitrary, Debug)]
pub struct Service {
    klipper_form: bool,
    forwards: Vec<Ports>,
    destinations: Vec<IpAddr>,
    sources: Option<Vec<Ranges>>,
    families: Families,
}

#[derive(Arbitrary, Debug)]
struct Ports {
    protocol: Protocol,
    first: u16,
    to_first: u16,
    more: u16,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Arbitrary, Debug)]
struct Ranges {
    first: IpAddr,
    prefix: u8,
    more: u16,
}

#[derive(Arbitrary, Debug)]
enum Families {
    Both,
    OnlyIpv4,
    OnlyIpv6,
}

/// More of either than the kernel takes in one message; encoding even more tells nothing new.
const MOST: usize = 5000;

impl Service {
    /// The rules for it, if an environment can ask for it.
    pub fn rules(&self) -> Option<Rules> {
        let mut variables = Vec::new();
        if self.klipper_form {
            let ports = self.forwards.first()?;
            variables.push(("SRC_PORT", ports.first.to_string()));
            variables.push(("DEST_PROTO", ports.protocol.name().to_owned()));
            variables.push(("DEST_PORT", ports.to_first.to_string()));
        } else {
            variables.push(("SVCLB_FORWARDS", self.forwards()));
        }
        let destinations = self.destinations.iter().map(IpAddr::to_string);
        variables.push(("DEST_IPS", destinations.collect::<Vec<_>>().join(",")));
        if let Some(sources) = &self.sources {
            variables.push(("SRC_RANGES", ranges(sources)));
        }
        let config = Config::parse(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| value.into())
        });
        let config = config.ok()?;
        let mut families = config.families();
        families.retain(|family| match self.families {
            Families::Both => true,
            Families::OnlyIpv4 => *family == Family::V4,
            Families::OnlyIpv6 => *family == Family::V6,
        });
        Some(Rules::new(&config, &families))
    }

    fn forwards(&self) -> String {
        let mut list = String::new();
        let runs = self.forwards.iter().flat_map(|ports| {
            let first = u32::from(ports.first);
            let last = (first + u32::from(ports.more)).min(u32::from(u16::MAX));
            (first..=last).map(move |port| (ports, port, u32::from(ports.to_first) + port - first))
        });
        for (ports, port, to) in runs.take(MOST) {
            let to = to % u32::from(u16::MAX) + 1;
            // A String takes all that is written to it.
            let _ = write!(list, "{}/{port}={to},", ports.protocol.name());
        }
        list
    }
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

fn ranges(sources: &[Ranges]) -> String {
    let mut list = String::new();
    let runs = sources
        .iter()
        .flat_map(|ranges| (0..=ranges.more).map(move |more| (ranges, more)));
    for (ranges, more) in runs.take(MOST) {
        let (address, bits) = match ranges.first {
            IpAddr::V4(first) => {
                let address = first.to_bits().wrapping_add(u32::from(more) << 3);
                (IpAddr::from(address.to_be_bytes()), 32)
            }
            IpAddr::V6(first) => {
                let address = first.to_bits().wrapping_add(u128::from(more) << 3);
                (IpAddr::from(address.to_be_bytes()), 128)
            }
        };
        let _ = write!(list, "{address}/{},", ranges.prefix % (bits + 1));
    }
    list
}
