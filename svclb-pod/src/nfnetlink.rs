//! What the messages of all netfilter subsystems have in common (linux/netfilter/nfnetlink.h).

use nix::libc::{self, c_int};

/// Bytes of `struct nfgenmsg`, with which each message begins.
pub(crate) const HEADER: usize = 4;

/// `struct nfgenmsg`: the family, and what the subsystem calls its resource.
pub(crate) fn header(family: c_int, resource: u16) -> [u8; HEADER] {
    let [high, low] = resource.to_be_bytes();
    [family as u8, libc::NFNETLINK_V0 as u8, high, low]
}

/// The type of a message: one of `NFNL_SUBSYS_*`, and that subsystem's own number, which fits in a byte.
pub(crate) fn message_type(subsystem: c_int, kind: u16) -> u16 {
    (subsystem as u16) << 8 | kind
}
