//! Rules with nf_tables: one `inet` table, replaced in one transaction over nfnetlink.

mod batch;
mod encode;
mod expressions;
mod held;

pub use batch::ELEMENTS_PER_MESSAGE;
pub use encode::replace;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use crate::netlink::{self, Requests, Socket};
use crate::rules::Rules;

/// Why there are no nf_tables rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The kernel could not be asked.
    #[error("nf_tables cannot be reached")]
    Unreachable(#[source] netlink::Error),
    /// The kernel refused a transaction, all of it.
    #[error("the kernel refused the nf_tables {object}")]
    Refused {
        /// What it refused.
        object: &'static str,
        /// Its reason.
        #[source]
        errno: Errno,
    },
}

impl Error {
    /// What the kernel said, if it said anything.
    pub fn errno(self) -> Option<Errno> {
        match self {
            Self::Unreachable(error) => error.errno(),
            Self::Refused { errno, .. } => Some(errno),
        }
    }
}

/// Replaces the rules of that name by these, in one transaction.
///
/// The socket is handed back, to be kept until nobody waits any more: closing it blocks for some
/// milliseconds while the kernel frees what was replaced.
pub fn install(rules: &Rules) -> Result<Socket, Error> {
    let socket = open()?;
    commit(&socket, &encode::replace(rules))?;
    Ok(socket)
}

/// Takes away the table of these rules, if there is one.
pub fn remove(rules: &Rules) -> Result<(), Error> {
    commit(&open()?, &encode::remove(rules.family, &rules.name))
}

/// Whether there is a table of that family and name, whatever it holds.
pub fn is_there(rules: &Rules) -> Result<bool, Error> {
    let family = encode::table_family(rules.family);
    held::is_there(&open()?, family, &rules.name).map_err(Error::Unreachable)
}

/// Whether the kernel holds these rules under their name, and nothing else.
pub fn in_place(rules: &Rules) -> Result<bool, Error> {
    let socket = open()?;
    let family = encode::table_family(rules.family);
    let held = held::read(&socket, family, &rules.name).map_err(Error::Unreachable)?;
    Ok(held.is_some_and(|held| held::is_all_of(&held, &encode::replace(rules))))
}

fn open() -> Result<Socket, Error> {
    Socket::open(SockProtocol::NetlinkNetFilter).map_err(Error::Unreachable)
}

fn commit(socket: &Socket, requests: &Requests) -> Result<(), Error> {
    match socket.commit(requests) {
        Err(netlink::Error::Refused { sequence, errno }) => Err(Error::Refused {
            object: batch::object(requests, sequence),
            errno,
        }),
        result => result.map_err(Error::Unreachable),
    }
}

#[cfg(test)]
mod tests;
