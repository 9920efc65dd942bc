//! Taking a cluster away. It works from what is on disk and in `/proc` alone, so that it also clears
//! away what a killed `up` or a killed test has left.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::cgroups::Hierarchies;
use crate::files;
use crate::paths::Paths;
use crate::prepare;
use crate::process::{self, ProcessId};
use crate::state::{self, Claim, State};

/// The kernel takes some time to end a process that has much memory or many mounts.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at what is still there.
const PAUSE: Duration = Duration::from_millis(20);

/// Ends all processes of the cluster and removes its cgroups and its folder. A cluster that is not
/// there is no error: the answer says whether there was one.
pub(crate) fn take_down(paths: &Paths, name: &str) -> Result<bool, Error> {
    let there = paths.folder().exists() || !process::marked(paths.folder()).is_empty();
    remove(paths, &Claim::take(paths, name)?)?;
    Ok(there)
}

/// Removes all that there is of a cluster. The claim is the right to do so.
pub(crate) fn remove(paths: &Paths, _claim: &Claim) -> Result<(), Error> {
    clear(paths)?;
    Ok(files::remove_folder(paths.folder())?)
}

/// Removes all that there is of a cluster but its folder, on which the caller has a claim.
///
/// Namespaces and all that is in them (links, addresses, routes, mounts) go with the last process.
pub(crate) fn clear(paths: &Paths) -> Result<(), Error> {
    let hierarchies = Hierarchies::mounted()?;
    end_scripts(paths);
    end_processes(paths, &hierarchies)?;
    hierarchies.remove(&paths.cgroup(), PATIENCE)?;
    State::remove(paths, &hierarchies)?;
    let folder = paths.folder();
    let entries =
        fs::read_dir(folder).map_err(|source| files::Error::new("read folder", folder, source))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files::remove_folder(&path)?;
        } else {
            files::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Scripts that a killed `up` has left: they are asked first, since apt-get may be in the middle of
/// something.
fn end_scripts(paths: &Paths) {
    let scripts = || {
        let marked = process::marked(paths.folder()).into_iter();
        let scripts = marked.filter(|(_, host)| host.is_empty());
        scripts.map(|(process, _)| process).collect::<Vec<_>>()
    };
    for script in scripts() {
        script.signal(Signal::SIGTERM);
    }
    let deadline = Instant::now() + prepare::GRACE;
    while !scripts().is_empty() && Instant::now() < deadline {
        thread::sleep(PAUSE);
    }
}

/// Nothing that they would save by a clean end is kept, so they are not asked. Again until there are
/// none: some have started others in the meantime.
fn end_processes(paths: &Paths, hierarchies: &Hierarchies) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let processes = processes(paths, hierarchies);
        if processes.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let pids = processes.iter().map(|process| process.pid()).collect();
            return Err(Error::Survivors { pids });
        }
        for process in processes {
            process.signal(Signal::SIGKILL);
        }
        thread::sleep(PAUSE);
    }
}

/// Our own programs carry the mark; what runs in pods is in the cgroups.
fn processes(paths: &Paths, hierarchies: &Hierarchies) -> HashSet<ProcessId> {
    let marked = process::marked(paths.folder())
        .into_iter()
        .map(|(process, _)| process);
    let in_cgroups = hierarchies
        .processes(&paths.cgroup())
        .into_iter()
        .filter_map(ProcessId::of);
    let current = ProcessId::current();
    marked
        .chain(in_cgroups)
        .filter(|process| Some(*process) != current)
        .collect()
}

/// What could not be taken away.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has not ended them.
    #[error("processes {pids:?} of the cluster do not end, although killed")]
    Survivors {
        /// Their pids.
        pids: BTreeSet<i32>,
    },
    /// Somebody else is at it.
    #[error(transparent)]
    State(#[from] state::Error),
    /// A file or folder, or a cgroup.
    #[error(transparent)]
    File(#[from] files::Error),
}
