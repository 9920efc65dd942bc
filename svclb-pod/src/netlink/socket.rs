//! The netlink socket: requests out, answers in.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::sockopt::SndBufForce;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
};

use super::{Message, Requests, messages, number};
use crate::sys;

/// Room for one datagram of the kernel's: it makes them of at most 8 KiB for readers with no more.
const DATAGRAM: usize = 8192;
/// What a netlink socket sends at once without being told (net.core.wmem_default is about 208 KiB
/// everywhere, and the kernel's own share comes off it).
const USUAL_SEND_BUFFER: usize = 128 << 10;

/// How often a list is asked for that changes while the kernel sends it.
const LISTINGS: usize = 10;

/// Why the kernel did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no socket for this netlink family.
    #[error("cannot open a netlink socket")]
    Open(#[source] Errno),
    /// The requests did not get to the kernel.
    #[error("cannot send to the kernel")]
    Send(#[source] Errno),
    /// The answer did not come.
    #[error("cannot receive from the kernel")]
    Receive(#[source] Errno),
    /// An answer is longer than any that the kernel should send.
    #[error("the kernel sent more than {DATAGRAM} bytes at once")]
    TooLong,
    /// The objects changed while they were listed.
    #[error("the list changed while the kernel sent it")]
    Changed,
    /// The kernel refused a request.
    #[error("the kernel refused request {sequence}")]
    Refused {
        /// The request's sequence number.
        sequence: u32,
        /// Its reason.
        #[source]
        errno: Errno,
    },
}

impl Error {
    /// What the kernel said, if it said anything.
    pub fn errno(self) -> Option<Errno> {
        match self {
            Self::Open(errno) | Self::Send(errno) | Self::Receive(errno) => Some(errno),
            Self::Refused { errno, .. } => Some(errno),
            Self::TooLong | Self::Changed => None,
        }
    }
}

/// A socket to one netlink family of the kernel, in the caller's network namespace.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Opens it.
    pub fn open(family: SockProtocol) -> Result<Self, Error> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            family,
        )
        .map_err(Error::Open)?;
        // A kernel that does not know it still does all else.
        let _ = sys::netlink_cap_ack(socket.as_fd());
        Ok(Self(socket))
    }

    /// Sends requests and hands the objects that the kernel answers with to `each`, until it has
    /// acknowledged one or has come to the end of a list. The first refusal ends it.
    pub fn exchange(
        &self,
        requests: &Requests,
        each: &mut dyn FnMut(Message<'_>),
    ) -> Result<(), Error> {
        let bytes = requests.bytes();
        if bytes.len() > USUAL_SEND_BUFFER {
            // Root of a user namespace of its own may not, and has to do with the usual room.
            let _ = setsockopt(&self.0, SndBufForce, &(2 * bytes.len()));
        }
        send(self.0.as_raw_fd(), bytes, MsgFlags::empty()).map_err(Error::Send)?;
        let mut datagram = vec![0; DATAGRAM];
        let mut changed = false;
        loop {
            let length = match recv(self.0.as_raw_fd(), &mut datagram, MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR) => continue,
                result => result.map_err(Error::Receive)?,
            };
            for message in messages(datagram.get(..length).ok_or(Error::TooLong)?) {
                changed |= message.flags & DUMP_INTERRUPTED != 0;
                if i32::from(message.kind) != libc::NLMSG_ERROR
                    && i32::from(message.kind) != libc::NLMSG_DONE
                {
                    each(message);
                    continue;
                }
                return match number(message.payload, 0).map_or(0, i32::from_ne_bytes) {
                    0 if changed => Err(Error::Changed),
                    0 => Ok(()),
                    error => Err(Error::Refused {
                        sequence: message.sequence,
                        errno: Errno::from_raw(-error),
                    }),
                };
            }
        }
    }

    /// What `each` makes of the objects that the kernel lists.
    pub fn list<T>(
        &self,
        request: &Requests,
        each: &mut dyn FnMut(Message<'_>, &mut Vec<T>),
    ) -> Result<Vec<T>, Error> {
        until_unchanged(|| {
            let mut objects = Vec::new();
            self.exchange(request, &mut |message| each(message, &mut objects))?;
            Ok(objects)
        })
    }

    /// Sends requests of which the last asks for an acknowledgement, and waits for it.
    pub fn commit(&self, requests: &Requests) -> Result<(), Error> {
        self.exchange(requests, &mut |_| {})
    }
}

/// Lists anew if the objects changed meanwhile, a few times.
pub(super) fn until_unchanged<T>(mut list: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    for _ in 1..LISTINGS {
        match list() {
            Err(Error::Changed) => {}
            result => return result,
        }
    }
    list()
}

/// `NLM_F_DUMP_INTR` in linux/netlink.h.
const DUMP_INTERRUPTED: u16 = 0x10;
