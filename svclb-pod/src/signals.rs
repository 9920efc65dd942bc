//! The signals that end the process. They are blocked, so that it ends where it waits for them and
//! never in the middle of something.
//!
//! As PID 1 it gets only signals that it asks for, and blocked ones wait until it does.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::sys;

/// Blocks them, and SIGPIPE: nobody may be there to read the log, which is no reason to end.
pub fn block() -> Result<(), Errno> {
    let mut blocked = ending();
    blocked.add(Signal::SIGPIPE);
    blocked.thread_block()
}

/// Waits for one of them.
pub fn wait() -> Result<(), Errno> {
    ending().wait().map(drop)
}

/// Can be read from while one of them has come and is not waited for yet.
pub(crate) fn watch() -> Result<SignalFd, Errno> {
    SignalFd::with_flags(&ending(), SfdFlags::SFD_CLOEXEC)
}

/// Waits for one of them, but not longer than this; tells whether one came.
pub(crate) fn come_within(time: Duration) -> bool {
    sys::signal_within(&ending(), time)
}

fn ending() -> SigSet {
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT])
}
