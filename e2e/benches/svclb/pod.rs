//! The part `pod`: the program that a svclb pod runs, beside what klipper-lb's containers run.
//!
//! Needs no cluster: a pod is a network namespace.

mod contender;
mod memory;
mod size;
mod start;
mod traffic;

use anyhow::Result;

use crate::folders::Folders;
use crate::report::Figure;
use contender::Contenders;

/// What the figures are set against.
const NFT: &str = "klipper-lb's way, iptables-nft";
const LEGACY: &str = "klipper-lb's way, iptables-legacy";

/// So many ports only ours are asked for: theirs would be as many shells, and take hours.
const MANY: u16 = 2000;

/// Measures all figures of the part.
pub(crate) fn run(folders: &Folders, say: &dyn Fn(&str)) -> Result<Vec<Figure>> {
    let contenders = Contenders::find(folders)?;
    let mut figures = start::figures(&contenders, say)?;
    figures.extend(size::figures(&contenders, say)?);
    figures.extend(memory::figures(&contenders, say)?);
    figures.extend(traffic::figures(&contenders, say)?);
    Ok(figures)
}
