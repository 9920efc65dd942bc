//! One at a time: a table is read, changed and written back, and what somebody else writes in between
//! would be lost if it leaves the number of entries as it was (the kernel compares nothing else).
//!
//! `/run/xtables.lock` serves processes that share a file system. Containers of one pod share a network
//! namespace instead, which is what an abstract UNIX socket's name is bound to; iptables 1.4.20 locked
//! by this very name. The kernel frees it when the process ends, however it ends.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use super::Error;
use crate::signals;

const NAME: &str = "xtables";
/// A holder is done within milliseconds, also on a busy machine within a few hundred.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(1);

/// Held until dropped.
pub(super) struct Lock {
    _socket: UnixDatagram,
}

impl Lock {
    pub(super) fn take() -> Result<Self, Error> {
        let address = SocketAddr::from_abstract_name(NAME).map_err(Error::Lock)?;
        let started = Instant::now();
        loop {
            match UnixDatagram::bind_addr(&address) {
                Ok(socket) => return Ok(Self { _socket: socket }),
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    return Err(Error::Lock(error));
                }
                Err(error) if started.elapsed() >= PATIENCE => return Err(Error::Lock(error)),
                // Whoever is to end need not wait for somebody else first.
                Err(_) if signals::come_within(PAUSE) => return Err(Error::Stopped),
                Err(_) => {}
            }
        }
    }
}
