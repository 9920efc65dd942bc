//! The kernel's half of a host: a network, a mount and a UTS (host name) namespace of its own.
//!
//! They are made by a thread that leaves the ones of the process, and held open by a process that does
//! nothing else: no name in `/run/netns`, no mount. When it ends, the kernel takes them back.

use std::env;
use std::fs::File;
use std::io;
use std::panic;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, ScopedJoinHandle};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::sethostname;

use crate::machine;
use crate::paths::{HOST_MARK, MARK};
use crate::process::{self, ProcessId};

const NAMESPACES: [(&str, CloneFlags); 3] = [
    ("net", CloneFlags::CLONE_NEWNET),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// Makes a host's namespaces, lets `furnish` mount in them, and returns the process that holds them.
/// If this process is killed on the way, nothing remains.
pub(crate) fn create(
    cluster: &Path,
    host: &str,
    furnish: impl FnOnce() -> Result<(), machine::Error> + Send,
) -> Result<ProcessId, Error> {
    on_a_thread(|| {
        unshare(all_new()).map_err(|source| Error::Create {
            host: host.to_owned(),
            source,
        })?;
        sethostname(host).map_err(|source| Error::Create {
            host: host.to_owned(),
            source,
        })?;
        furnish()?;
        let holder = Command::new("sleep")
            .arg("infinity")
            .current_dir("/")
            .env_clear()
            .env(MARK, cluster)
            .env(HOST_MARK, host)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C in the terminal that `up` ran in is not for it.
            .process_group_of_its_own()
            .spawn()
            .map_err(|source| Error::Hold {
                host: host.to_owned(),
                source,
            })?;
        Ok(process::leave_to_itself(holder))
    })
}

/// Whether such namespaces can be made here at all.
pub(crate) fn probe() -> Result<(), Errno> {
    on_a_thread(|| unshare(all_new()))
}

/// CLONE_FS: the thread's root and working directory become its own, as setns demands.
fn all_new() -> CloneFlags {
    NAMESPACES
        .iter()
        .fold(CloneFlags::CLONE_FS, |all, (_, flag)| all | *flag)
}

/// Runs `f` on a thread that has entered a host's namespaces. Sockets that it opens, files that it
/// reads and processes that it starts are the host's.
pub(crate) fn within<T: Send>(
    holder: ProcessId,
    host: &str,
    f: impl FnOnce() -> T + Send,
) -> Result<T, Error> {
    let mut doors = Vec::new();
    for (name, flag) in NAMESPACES {
        doors.push((
            File::open(format!("/proc/{}/ns/{name}", holder.pid())),
            flag,
        ));
    }
    // Asked after opening: what is open now was the holder's, not that of a later owner of its pid.
    if !holder.is_alive() {
        return Err(Error::Gone {
            host: host.to_owned(),
        });
    }
    let directory = env::current_dir();
    on_a_thread(move || {
        let enter = || {
            unshare(CloneFlags::CLONE_FS)?;
            doors
                .into_iter()
                .try_for_each(|(door, flag)| setns(door?, flag).map_err(io::Error::from))
        };
        enter().map_err(|source| Error::Enter {
            host: host.to_owned(),
            source,
        })?;
        if let Ok(directory) = directory {
            // setns left it at the root. A directory that the host has not is no reason to stop.
            let _ = env::set_current_dir(directory);
        }
        Ok(f())
    })
}

/// Runs `f` on a thread of its own. Namespaces are a thread's: one that has left the process's own is
/// good for nothing else afterwards.
pub(crate) fn on_a_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| joined(scope.spawn(f)))
}

/// What a thread has come to. If it has panicked, the panic goes on in this one.
pub(crate) fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|cause| panic::resume_unwind(cause))
}

/// `Command::process_group(0)`, by a name that says it.
pub(crate) trait ProcessGroup {
    /// Signals from the terminal do not reach the process.
    fn process_group_of_its_own(&mut self) -> &mut Self;
}

impl ProcessGroup for Command {
    fn process_group_of_its_own(&mut self) -> &mut Self {
        std::os::unix::process::CommandExt::process_group(self, 0)
    }
}

/// Why a host could not be made or entered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused new namespaces.
    #[error("cannot make namespaces for {host}")]
    Create {
        /// The host's name.
        host: String,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// The mounts of the host could not be made.
    #[error(transparent)]
    Furnish(#[from] machine::Error),
    /// The process that holds the namespaces could not be started.
    #[error("cannot start the process that holds the namespaces of {host}")]
    Hold {
        /// The host's name.
        host: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The kernel refused to let us in.
    #[error("cannot enter the namespaces of {host}")]
    Enter {
        /// The host's name.
        host: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The holder has ended.
    #[error("{host} is gone: the process that held its namespaces has ended")]
    Gone {
        /// The host's name.
        host: String,
    },
}
