//! A network namespace for a test that calls the library itself.

use std::thread;

use nix::sched::{CloneFlags, unshare};

/// Runs `test` in a network namespace of its own, which ends with it.
pub(crate) fn in_network_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
