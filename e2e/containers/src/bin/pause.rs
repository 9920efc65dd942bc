//! The process that holds a pod's namespaces open until it is told to end.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

fn main() -> nix::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGCHLD);
    // Blocked, so that they wait to be taken: PID 1 has no default actions.
    signals.thread_block()?;
    while signals.wait()? == Signal::SIGCHLD {
        reap()?;
    }
    Ok(())
}

/// Takes leave of every child that has ended. Where a pod's containers share a PID namespace, this
/// process inherits their orphans. One SIGCHLD may stand for several of them.
fn reap() -> nix::Result<()> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
}
