//! What must be there before the first cluster: the system's packages, the Kubernetes binary, and the
//! images. Three scripts see to it, and do nothing when there is nothing to do.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::namespaces::ProcessGroup;
use crate::paths::{MARK, repository};
use crate::progress::{Interrupted, Progress};

/// How long a script may take to end when asked to: apt-get may be in the middle of something.
pub(crate) const GRACE: Duration = Duration::from_secs(30);
/// Between two looks at a script.
const PAUSE: Duration = Duration::from_millis(5);

/// Runs the scripts. What they say goes to standard error. They carry the mark of the cluster that
/// they are run for: when this process is killed, they are found and ended with what there is of it.
pub(crate) fn everything(nodes: usize, cluster: &Path, progress: &Progress) -> Result<(), Error> {
    let run = |script: &str, arguments: &[&str]| run(script, arguments, cluster, progress);
    run("e2e/packages.sh", &[])?;
    run("e2e/kubernetes/build.sh", &[])?;
    if nodes > 0 {
        run("images/build.sh", &["pause", "echo"])?;
    }
    Ok(())
}

fn run(script: &str, arguments: &[&str], cluster: &Path, progress: &Progress) -> Result<(), Error> {
    let script = repository().join(script);
    let start = |script: &PathBuf| -> io::Result<_> {
        Command::new(script)
            .args(arguments)
            .env(MARK, cluster)
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
            end(&mut child, GRACE);
            return Err(interrupted.into());
        }
        thread::sleep(PAUSE);
    }
}

/// Asks a script and all that it has started to end, and kills them if they have not after `grace`.
fn end(script: &mut Child, grace: Duration) {
    let group = i32::try_from(script.id()).map(Pid::from_raw);
    let signal = |signal| group.map(|group| killpg(group, signal));
    let deadline = Instant::now() + grace;
    let _ = signal(Signal::SIGTERM);
    while let Ok(None) = script.try_wait() {
        if Instant::now() >= deadline {
            let _ = signal(Signal::SIGKILL);
            let _ = script.wait();
            return;
        }
        thread::sleep(PAUSE);
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

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    /// Starts a script that says `ready`, and waits until it has.
    fn started(script: &str) -> Child {
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdout(Stdio::piped())
            .process_group_of_its_own()
            .spawn()
            .unwrap();
        let mut ready = [0; 6];
        let stdout = child.stdout.as_mut().unwrap();
        stdout.read_exact(&mut ready).unwrap();
        child
    }

    #[test]
    fn a_script_is_asked_to_end_with_all_that_it_has_started() {
        let mut script = started("sleep 1000 & echo ready; wait");
        let mut stdout = script.stdout.take().unwrap();
        end(&mut script, Duration::from_secs(100));
        assert_eq!(script.wait().unwrap().signal(), Some(15));
        // Its end of the pipe is closed when the last of them has ended.
        stdout.read_to_end(&mut Vec::new()).unwrap();
    }

    #[test]
    fn a_script_that_does_not_end_is_killed() {
        let mut script = started("trap '' TERM; echo ready; while :; do sleep 1000; done");
        end(&mut script, Duration::from_millis(10));
        assert_eq!(script.wait().unwrap().signal(), Some(9));
    }
}
