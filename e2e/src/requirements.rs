//! What this machine must have. Each lack is said in one line before anything is made.

use std::fs;

use nix::errno::Errno;
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use nix::unistd::geteuid;

use crate::files;
use crate::namespaces;
use crate::paths;

/// etcd, API server, controllers and scheduler: 380 MiB when nothing goes on.
const CONTROL_PLANE_MEMORY: u64 = 600 << 20;
/// containerd, kubelet and kube-proxy: 90 MiB when nothing goes on, and some small pods.
const NODE_MEMORY: u64 = 200 << 20;
/// The database, of which 128 MiB are set aside at once, and logs.
const CONTROL_PLANE_DISK: u64 = 300 << 20;
/// Logs, and the images of a few tests.
const NODE_DISK: u64 = 100 << 20;

/// Namespaces and other users' processes are root's alone, whatever is to be done with a cluster.
pub(crate) fn check_root() -> Result<(), Error> {
    if geteuid().is_root() {
        return Ok(());
    }
    Err(Error::NotRoot)
}

/// Looks at everything that would stop a cluster of so many nodes later on.
pub(crate) fn check(nodes: usize) -> Result<(), Error> {
    check_root()?;
    namespaces::probe().map_err(Error::NoNamespaces)?;
    let nodes = nodes as u64;
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    if let Some(available) = available_memory(&meminfo) {
        enough(
            "memory",
            CONTROL_PLANE_MEMORY + nodes * NODE_MEMORY,
            available,
        )?;
    }
    let clusters = paths::clusters();
    let folder = clusters.display().to_string();
    files::make_folder(&clusters)?;
    let disk = statfs(&clusters).map_err(|source| Error::Disk {
        folder: folder.clone(),
        source,
    })?;
    if disk.filesystem_type() == OVERLAYFS_SUPER_MAGIC && nodes > 0 {
        return Err(Error::OnOverlay { folder });
    }
    let block = u64::try_from(disk.block_size()).unwrap_or(0);
    enough(
        "disk space",
        CONTROL_PLANE_DISK + nodes * NODE_DISK,
        disk.blocks_available() * block,
    )?;
    Ok(())
}

/// What `prepare` should have left, in case its scripts found another place.
pub(crate) fn check_files() -> Result<(), Error> {
    let images = paths::images();
    let kubernetes = paths::kubernetes("kubelet");
    let missing = images
        .iter()
        .chain([&kubernetes])
        .find(|file| !file.exists());
    match missing {
        Some(file) => Err(Error::MissingFile {
            file: file.display().to_string(),
        }),
        None => Ok(()),
    }
}

fn enough(what: &'static str, needed: u64, available: u64) -> Result<(), Error> {
    if available < needed {
        return Err(Error::TooLittle {
            what,
            needed: needed >> 20,
            available: available >> 20,
        });
    }
    Ok(())
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn available_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// What is lacking, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces and mounts are root's.
    #[error(
        "a cluster is made of namespaces and mounts, which only root can make: try again as root"
    )]
    NotRoot,
    /// The kernel lacks them, or a container or a sandbox forbids them.
    #[error(
        "no network, mount and UTS namespaces can be made here: \
         use a machine or VM of your own, or a privileged container"
    )]
    NoNamespaces(#[source] Errno),
    /// Memory or disk space.
    #[error(
        "too little {what}: {needed} MiB are needed, {available} MiB are available; ask for fewer --nodes"
    )]
    TooLittle {
        /// What there is too little of.
        what: &'static str,
        /// In MiB.
        needed: u64,
        /// In MiB.
        available: u64,
    },
    /// containerd's snapshots are overlays, which cannot be stacked on one.
    #[error(
        "{folder} lies on overlayfs, where containerd cannot unpack images: move it to a volume or a disk"
    )]
    OnOverlay {
        /// That of the clusters.
        folder: String,
    },
    /// The file system does not answer.
    #[error("cannot ask how much space there is in {folder}")]
    Disk {
        /// That of the clusters.
        folder: String,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// The clusters' folder cannot be made.
    #[error(transparent)]
    File(#[from] files::Error),
    /// A script ended well but left nothing.
    #[error(
        "{file} is missing, although its build has ended well: remove the folder that it should be in and try again"
    )]
    MissingFile {
        /// The file.
        file: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_is_available() {
        let meminfo = "MemTotal:  100 kB\nMemAvailable:      42 kB\n";
        assert_eq!(available_memory(meminfo), Some(42 * 1024));
    }

    #[test]
    fn too_little_is_said_with_numbers() {
        let error = enough("memory", 3 << 20, 2 << 20).unwrap_err();
        assert_eq!(
            error.to_string(),
            "too little memory: 3 MiB are needed, 2 MiB are available; ask for fewer --nodes"
        );
    }
}
