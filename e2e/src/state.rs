//! What is on disk of a cluster, and who may change it: a lock on its folder is held while a cluster
//! is brought up or taken down, and dropped by the kernel however that ends.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::cgroups::Hierarchies;
use crate::component::Role;
use crate::files;
use crate::options::Options;
use crate::paths::{self, Paths};
use crate::process::ProcessId;

/// A cluster's `cluster.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) options: Options,
    /// False until all nodes are Ready: what a killed `up` leaves is not a cluster.
    pub(crate) complete: bool,
    /// The process that the cluster ends with, if it is not one that lives until `down`.
    pub(crate) owner: Option<ProcessId>,
    /// Controllers that cgroup v2 handed down from its root before the first of the clusters that are
    /// there at the same time. The last of them goes back to it.
    pub(crate) handed_down: BTreeSet<String>,
}

impl State {
    /// Writes that a cluster is coming up. To be called before its cgroups are made.
    pub(crate) fn begin(
        options: &Options,
        owner: Option<ProcessId>,
        paths: &Paths,
        hierarchies: &Hierarchies,
    ) -> Result<Self, Error> {
        let _lock = lock_all()?;
        let state = Self {
            options: options.clone(),
            complete: false,
            owner,
            handed_down: before_the_first(&others(paths), hierarchies.handed_down()),
        };
        state.write(paths)?;
        Ok(state)
    }

    /// Removes the file. The last cluster, whose cgroups have been removed before, leaves the root of
    /// cgroup v2 as the first has found it.
    pub(crate) fn remove(paths: &Paths, hierarchies: &Hierarchies) -> Result<(), Error> {
        let _lock = lock_all()?;
        if let Ok(Some(state)) = Self::read(paths)
            && others(paths).is_empty()
        {
            hierarchies.restore_handed_down(&state.handed_down);
        }
        Ok(files::remove_file(&paths.state())?)
    }

    pub(crate) fn write(&self, paths: &Paths) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self).map_err(|source| Error::Format {
            file: paths.state().display().to_string(),
            source,
        })?;
        Ok(files::replace(&paths.state(), text)?)
    }

    /// None if there is no cluster of this name, or none of its hosts was made.
    pub(crate) fn read(paths: &Paths) -> Result<Option<Self>, Error> {
        if !paths.state().exists() {
            return Ok(None);
        }
        let text = files::read(&paths.state())?;
        let parsed = serde_json::from_str(&text).map_err(|source| Error::Format {
            file: paths.state().display().to_string(),
            source,
        });
        parsed.map(Some)
    }

    /// Whether it is somebody's: complete, its hosts are there, and so is its owner if it has one.
    pub(crate) fn is_in_use(&self, paths: &Paths) -> bool {
        let switch = ProcessId::recorded(&paths.holder(Role::Switch));
        let owned = self.owner.is_none_or(ProcessId::is_alive);
        self.complete && owned && switch.is_some_and(ProcessId::is_alive)
    }
}

/// The other clusters of this repository, complete or not.
fn others(paths: &Paths) -> Vec<State> {
    let others = names().into_iter().map(|name| Paths::of(&name));
    others
        .filter(|other| other.folder() != paths.folder())
        .filter_map(|other| State::read(&other).ok()?)
        .collect()
}

/// What the root of cgroup v2 handed down before the first cluster: the others have it from each other,
/// since what is handed down `now` may be their doing.
fn before_the_first(others: &[State], now: BTreeSet<String>) -> BTreeSet<String> {
    let first = others.first().map(|other| other.handed_down.clone());
    first.unwrap_or(now)
}

/// Held for a moment by whoever changes what all clusters have in common. The kernel drops it.
fn lock_all() -> Result<Flock<File>, files::Error> {
    let folder = paths::clusters();
    let file =
        File::open(&folder).map_err(|source| files::Error::new("open folder", &folder, source))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, source)| files::Error::new("lock", &folder, source))
}

/// The right to change a cluster's folder.
#[derive(Debug)]
pub(crate) struct Claim {
    _lock: Flock<File>,
}

impl Claim {
    /// Makes the folder if it is not there. Somebody else's claim is an error.
    pub(crate) fn take(paths: &Paths, name: &str) -> Result<Self, Error> {
        let folder = paths.folder();
        let cannot = |source| files::Error::new("lock", folder, source);
        loop {
            files::make_folder(folder)?;
            let file = File::open(folder).map_err(cannot)?;
            let ours = file.metadata().map_err(cannot)?.ino();
            let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((_, Errno::EWOULDBLOCK)) => {
                    return Err(Error::Busy {
                        name: name.to_owned(),
                    });
                }
                Err((_, source)) => return Err(files::Error::new("lock", folder, source).into()),
            };
            // Whoever held the lock may have removed the folder: then ours is of one that is no more.
            if fs::metadata(folder).is_ok_and(|now| now.ino() == ours) {
                return Ok(Self { _lock: lock });
            }
        }
    }
}

/// The names of all clusters that have a folder, whether they are up or not.
pub(crate) fn names() -> Vec<String> {
    let entries = fs::read_dir(paths::clusters())
        .into_iter()
        .flatten()
        .flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// What stands against using a name, or a cluster's folder.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster is up.
    #[error(
        "cluster `{name}` is up already: take it down with `svclb-e2e down --name {name}`, or use another --name"
    )]
    InUse {
        /// The cluster's name.
        name: String,
    },
    /// Another `up` or `down` is at work.
    #[error(
        "cluster `{name}` is being brought up or taken down by another process: wait for it, or use another --name"
    )]
    Busy {
        /// The cluster's name.
        name: String,
    },
    /// No cluster of this name is up.
    #[error(
        "there is no cluster `{name}`{}: bring it up with `svclb-e2e up --name {name}`",
        among(others)
    )]
    NotThere {
        /// The cluster's name.
        name: String,
        /// Clusters that are up.
        others: Vec<String>,
    },
    /// `cluster.json` is not what we wrote.
    #[error("{file} is damaged: `svclb-e2e down` with the folder's name clears it away")]
    Format {
        /// The file.
        file: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The folder or the file.
    #[error(transparent)]
    File(#[from] files::Error),
}

fn among(others: &[String]) -> String {
    if others.is_empty() {
        return String::new();
    }
    format!(" (there is {})", others.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_that_overlap_have_the_baseline_of_the_first() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
        let cluster = |handed_down| State {
            options: Options::default(),
            complete: true,
            owner: None,
            handed_down,
        };
        let mut clusters = Vec::new();
        // What is found by the second and the third is what the first's kubelets have enabled.
        for found in ["memory pids", "cpu memory pids", "cpu io memory pids"] {
            let before = before_the_first(&clusters, words(found));
            assert_eq!(before, words("memory pids"), "{found}");
            clusters.push(cluster(before));
        }
        // Whatever the order in which they go, the last one knows it.
        clusters.drain(..2);
        assert_eq!(
            before_the_first(&clusters, words("cpu")),
            words("memory pids")
        );
        assert_eq!(before_the_first(&[], words("cpu")), words("cpu"));
    }
}
