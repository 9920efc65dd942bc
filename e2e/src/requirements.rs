//! What this machine must have. Each lack is said in one line before anything is made.

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, statfs};
use nix::unistd::geteuid;

use crate::cgroups::{Hierarchies, PLACE};
use crate::files;
use crate::machine;
use crate::namespaces;
use crate::options::Options;
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

/// Looks at everything that would stop such a cluster later on.
pub(crate) fn check(options: &Options) -> Result<(), Error> {
    let nodes = options.nodes;
    check_root()?;
    namespaces::probe().map_err(Error::NoNamespaces)?;
    check_kernel(&Kernel::running(), options)?;
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    if let Some(available) = available_memory(&meminfo) {
        let needed = CONTROL_PLANE_MEMORY + nodes as u64 * NODE_MEMORY;
        enough("memory", needed, available, nodes)?;
    }
    let clusters = paths::clusters();
    files::make_folder(&clusters)?;
    check_folder(&files::canonical(&clusters)?, nodes)?;
    let folder = clusters.display().to_string();
    let disk = statfs(&clusters).map_err(|source| Error::Disk {
        folder: folder.clone(),
        source,
    })?;
    if disk.filesystem_type() == OVERLAYFS_SUPER_MAGIC && nodes > 0 {
        return Err(Error::OnOverlay { folder });
    }
    let available = disk.blocks_available() * u64::try_from(disk.block_size()).unwrap_or(0);
    let needed = CONTROL_PLANE_DISK + nodes as u64 * NODE_DISK;
    enough("disk space", needed, available, nodes)
}

/// What `prepare` should have left, in case its scripts found another place.
pub(crate) fn check_files(nodes: usize) -> Result<(), Error> {
    let kubernetes = [paths::kubernetes("kubelet")];
    let images = paths::images();
    let images: &[_] = if nodes > 0 { &images } else { &[] };
    match kubernetes.iter().chain(images).find(|file| !file.exists()) {
        Some(file) => Err(Error::MissingFile {
            file: file.display().to_string(),
        }),
        None => Ok(()),
    }
}

/// What a kernel may lack.
#[derive(Clone, Copy, Debug)]
struct Kernel {
    has_ipv6: bool,
    has_bridge_netfilter: bool,
    has_cgroups: bool,
}

impl Kernel {
    fn running() -> Self {
        Self {
            has_ipv6: Path::new("/proc/net/if_inet6").exists(),
            has_bridge_netfilter: Path::new("/proc/sys/net/bridge").exists(),
            has_cgroups: Hierarchies::mounted().is_ok_and(|mounted| mounted != Hierarchies::Absent),
        }
    }
}

fn check_kernel(kernel: &Kernel, options: &Options) -> Result<(), Error> {
    if options.ip_family.has_ipv6() && !kernel.has_ipv6 {
        return Err(Error::NoIpv6);
    }
    if options.nodes > 0 && !kernel.has_bridge_netfilter {
        return Err(Error::NoBridgeNetfilter);
    }
    if options.nodes > 0 && !kernel.has_cgroups {
        return Err(Error::NoCgroups);
    }
    Ok(())
}

/// Whether hosts can find their files in this folder, and mounts be made of what is in it.
fn check_folder(folder: &Path, nodes: usize) -> Result<(), Error> {
    let shown = || folder.display().to_string();
    let own = machine::own_folders(nodes);
    if let Some(own) = own.iter().find(|own| folder.starts_with(own)) {
        return Err(Error::BelowOwnFolder {
            folder: shown(),
            own,
        });
    }
    let is_plain = |path: &str| !path.contains([',', ':', '"', '\\', '\n']);
    if folder.to_str().is_none_or(|path| !is_plain(path)) {
        return Err(Error::NotPlain { folder: shown() });
    }
    Ok(())
}

fn enough(what: &'static str, needed: u64, available: u64, nodes: usize) -> Result<(), Error> {
    if available < needed {
        return Err(Error::TooLittle {
            what,
            needed: needed >> 20,
            available: available >> 20,
            advice: if nodes > 0 {
                "ask for fewer --nodes, or free some"
            } else {
                "free some"
            },
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
    /// Switched off, or not built in.
    #[error("this kernel has no IPv6: ask for --ip-family ipv4")]
    NoIpv6,
    /// A module that is not loaded. It is not for us to do: it stays loaded.
    #[error(
        "the kernel module br_netfilter is not loaded, without which packets between pods of one node \
         would miss kube-proxy's rules: run `modprobe br_netfilter` and try again"
    )]
    NoBridgeNetfilter,
    /// Nobody has mounted them, as systemd and most containers do.
    #[error(
        "no cgroup file system is mounted in {PLACE}, without which no container can be run: \
         mount it, or ask for --nodes 0"
    )]
    NoCgroups,
    /// Memory or disk space.
    #[error("too little {what}: {needed} MiB are needed, {available} MiB are available; {advice}")]
    TooLittle {
        /// What there is too little of.
        what: &'static str,
        /// In MiB.
        needed: u64,
        /// In MiB.
        available: u64,
        /// What to do.
        advice: &'static str,
    },
    /// The hosts would not find their files there.
    #[error(
        "{folder} lies below {own}, of which every host of the cluster has its own: move the repository elsewhere"
    )]
    BelowOwnFolder {
        /// That of the clusters.
        folder: String,
        /// The one that hosts have their own of.
        own: &'static str,
    },
    /// Options of mounts and configuration files have no place for such names.
    #[error(
        "the path {folder} has a comma, colon, quotation mark, backslash or line break in it, \
         or is not UTF-8: mounts cannot be made of it, so move the repository elsewhere"
    )]
    NotPlain {
        /// That of the clusters.
        folder: String,
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
    use crate::options::IpFamily;

    #[test]
    fn memory_is_what_is_available() {
        let meminfo = "MemTotal:  100 kB\nMemAvailable:      42 kB\n";
        assert_eq!(available_memory(meminfo), Some(42 * 1024));
    }

    #[test]
    fn too_little_is_said_with_numbers() {
        let said = |nodes| enough("memory", 3 << 20, 2 << 20, nodes).unwrap_err();
        let numbers = "too little memory: 3 MiB are needed, 2 MiB are available";
        assert_eq!(
            said(1).to_string(),
            format!("{numbers}; ask for fewer --nodes, or free some")
        );
        assert_eq!(said(0).to_string(), format!("{numbers}; free some"));
    }

    #[test]
    fn a_kernel_needs_what_the_cluster_has() {
        let options = |nodes, ip_family| Options {
            nodes,
            ip_family,
            ..Options::default()
        };
        let complete = Kernel {
            has_ipv6: true,
            has_bridge_netfilter: true,
            has_cgroups: true,
        };
        let without_ipv6 = Kernel {
            has_ipv6: false,
            ..complete
        };
        for family in [IpFamily::Dual, IpFamily::Ipv6] {
            let refused = check_kernel(&without_ipv6, &options(0, family));
            assert!(matches!(refused, Err(Error::NoIpv6)), "{family:?}");
        }
        assert!(check_kernel(&without_ipv6, &options(1, IpFamily::Ipv4)).is_ok());

        let check = |kernel: &Kernel, nodes| check_kernel(kernel, &options(nodes, IpFamily::Dual));
        let without_bridge_netfilter = Kernel {
            has_bridge_netfilter: false,
            ..complete
        };
        let refused = check(&without_bridge_netfilter, 1);
        assert!(matches!(refused, Err(Error::NoBridgeNetfilter)));
        assert!(check(&without_bridge_netfilter, 0).is_ok());
        let without_cgroups = Kernel {
            has_cgroups: false,
            ..complete
        };
        assert!(matches!(check(&without_cgroups, 1), Err(Error::NoCgroups)));
        assert!(check(&without_cgroups, 0).is_ok());
    }

    #[test]
    fn a_folder_that_hosts_have_their_own_of_is_refused() {
        let check = |folder, nodes| check_folder(Path::new(folder), nodes);
        for folder in ["/etc/svclb", "/run/user/0/svclb", "/var/lib/jenkins/svclb"] {
            let refused = check(folder, 1);
            assert!(
                matches!(refused, Err(Error::BelowOwnFolder { .. })),
                "{folder}"
            );
        }
        assert!(check("/home/var/etc/svclb", 1).is_ok());
        // The control plane and the client have the real host's `/var`.
        assert!(check("/var/lib/jenkins/svclb", 0).is_ok());
        assert!(check("/run/svclb", 0).is_err());
    }

    #[test]
    fn a_folder_that_mount_options_cannot_name_is_refused() {
        for folder in ["/home/a,b", "/home/a:b", "/home/\"a\"", "/home/a\\b"] {
            let refused = check_folder(Path::new(folder), 0);
            assert!(matches!(refused, Err(Error::NotPlain { .. })), "{folder}");
        }
        assert!(check_folder(Path::new("/home/a b/é"), 0).is_ok());
    }
}
