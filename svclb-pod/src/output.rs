//! What the program says, to somebody who may be slow to read it or may have gone: neither is a reason
//! not to do what it is there for.

use std::os::fd::{AsFd, AsRawFd, IntoRawFd};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd;

use crate::signals;

/// As much as a pipe that is not full takes at once.
const PIECE: usize = libc::PIPE_BUF;

/// Has something in each of the places of stdin, stdout and stderr. In one that is closed, whatever is
/// opened next would come to be, a socket to the kernel even, and be written what the program says.
///
/// Rust's runtime does so with `/dev/null`, but this program begins without it, and an image may have
/// none. Nobody is at the other end of this socket: writing to it fails at once.
pub fn take_closed_places() {
    while let Ok(place) = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::empty(),
        None,
    ) {
        if place.as_raw_fd() > libc::STDERR_FILENO {
            break;
        }
        // It stays there, also when the program starts anew to sleep.
        let _ = place.into_raw_fd();
    }
}

/// Writes to `output` for as long as anybody takes it. While nobody does, a signal that ends the process
/// ends this, too, and stays there for [`signals::wait`].
pub fn write(output: impl AsFd, text: &str) {
    let mut rest = text.as_bytes();
    while !rest.is_empty() && takes_more(&output) {
        let piece = rest.get(..PIECE).unwrap_or(rest);
        match unistd::write(&output, piece) {
            Ok(length @ 1..) => rest = rest.get(length..).unwrap_or_default(),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// Waits until something can be written, and be it in vain; false if a signal came first.
fn takes_more(output: &impl AsFd) -> bool {
    // Without it, it is written all the same.
    let Ok(signals) = signals::watch() else {
        return true;
    };
    let mut either = [
        PollFd::new(output.as_fd(), PollFlags::POLLOUT),
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
    ];
    while poll(&mut either, PollTimeout::NONE) == Err(Errno::EINTR) {}
    let [output, signals] = either.map(|it| it.any());
    output == Some(true) || signals != Some(true)
}
