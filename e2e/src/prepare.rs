//! What must be there before the first cluster: the system's packages, the Kubernetes binary, and the
//! images. Three scripts see to it, and do nothing when there is nothing to do.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::namespaces::ProcessGroup;
use crate::paths::repository;
use crate::progress::{Interrupted, Progress};

/// Runs the scripts. What they say goes to standard error.
pub(crate) fn everything(progress: &Progress) -> Result<(), Error> {
    run("e2e/packages.sh", &[], progress)?;
    run("e2e/kubernetes/build.sh", &[], progress)?;
    run("images/build.sh", &["pause", "echo"], progress)
}

fn run(script: &str, arguments: &[&str], progress: &Progress) -> Result<(), Error> {
    let script = repository().join(script);
    let start = |script: &PathBuf| -> io::Result<_> {
        Command::new(script)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(io::stderr().as_fd().try_clone_to_owned()?)
            // So that all of it can be stopped at once.
            .process_group_of_its_own()
            .spawn()
    };
    let mut child = match start(&script) {
        Ok(child) => child,
        Err(source) => return Err(Error::Start { script, source }),
    };
    loop {
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(_)) => return Err(Error::Failed { script }),
            Err(source) => return Err(Error::Start { script, source }),
        }
        if let Err(interrupted) = progress.check() {
            if let Ok(group) = i32::try_from(child.id()) {
                let _ = killpg(Pid::from_raw(group), Signal::SIGTERM);
            }
            let _ = child.wait();
            return Err(interrupted.into());
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Which script failed. What it has to say about it, it has said.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be run at all.
    #[error("cannot run {}", script.display())]
    Start {
        /// The script.
        script: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{} has failed, see above", script.display())]
    Failed {
        /// The script.
        script: PathBuf,
    },
    /// The user gave up.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}
