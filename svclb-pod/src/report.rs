//! What a pod says of itself in its log.

use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::{Config, Family, Forward};
use crate::ranges::Cidr;

/// So many items of a list are written out; there can be thousands.
const WRITTEN_OUT: usize = 8;

/// A line for each family that is wanted and that the node does not have.
pub fn left_out(families: &[Family]) -> String {
    let line = |family| format!("{family} is left out: this node does not have it\n");
    families.iter().map(line).collect()
}

/// A line for each forward: `tcp 80 -> 10.43.0.10:80 from 0.0.0.0/0`.
pub fn forwards(config: &Config, families: &[Family]) -> String {
    let to = |address: &&IpAddr| families.contains(&Family::of(**address));
    let destinations: Vec<IpAddr> = config.destinations.iter().filter(to).copied().collect();
    let from = sources(config, families);
    let mut lines = String::new();
    for Forward {
        protocol,
        port,
        to_port,
    } in &config.forwards
    {
        let to = destinations
            .iter()
            .map(|&address| SocketAddr::new(address, *to_port));
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{protocol} {port} -> {} from {from}", List(to));
    }
    lines
}

/// A duration in milliseconds, to the microsecond.
pub struct Milliseconds(pub Duration);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let microseconds = self.0.as_micros();
        write!(f, "{}.{:03} ms", microseconds / 1000, microseconds % 1000)
    }
}

fn sources(config: &Config, families: &[Family]) -> String {
    let of_family = |range: &&Cidr| families.contains(&range.family());
    match &config.sources {
        Some(ranges) => List(ranges.iter().filter(of_family)).to_string(),
        None => List(families.iter().map(|family| match family {
            Family::V4 => "0.0.0.0/0",
            Family::V6 => "::/0",
        }))
        .to_string(),
    }
}

struct List<I>(I);

impl<I: Iterator<Item: fmt::Display> + Clone> fmt::Display for List<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.clone().take(WRITTEN_OUT).enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{item}")?;
        }
        match self.0.clone().skip(WRITTEN_OUT).count() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests;
