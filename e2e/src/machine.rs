//! The mounts that make a host look like a machine of its own: its `/run`, and on a node its `/etc` and
//! `/var`, the folders of kubelet and containerd, and those sysctls that a kubelet would change for
//! the whole machine.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::files;

/// What a kubelet wants these to be. They are not per namespace: it would set them for the real host.
/// So files with the wanted values lie over them, and the kubelet finds nothing to change.
const MASKED_SYSCTLS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// The folders that hosts see their own of, in a cluster with so many nodes.
pub(crate) fn own_folders(nodes: usize) -> &'static [&'static str] {
    if nodes > 0 {
        &["/run", "/etc", "/var"]
    } else {
        &["/run"]
    }
}

/// Mounts what every host needs. To be called by a thread that has a mount namespace of its own.
pub(crate) fn furnish_host(folder: &Path) -> Result<(), Error> {
    keep_mounts_from_the_real_host()?;
    bind_folder(&folder.join("run"), Path::new("/run"))
}

/// Mounts what a node needs. To be called by a thread that has a mount namespace of its own.
pub(crate) fn furnish_node(folder: &Path) -> Result<(), Error> {
    keep_mounts_from_the_real_host()?;
    for name in ["etc", "var"] {
        overlay(folder, name)?;
    }
    // Not on the overlay: overlayfs, on which containerd builds its snapshots, takes no upper folder
    // that lies on overlayfs itself.
    bind_folder(&folder.join("kubelet"), Path::new("/var/lib/kubelet"))?;
    bind_folder(&folder.join("containerd"), Path::new("/var/lib/containerd"))?;
    bind_folder(&folder.join("run"), Path::new("/run"))?;
    for (name, value) in MASKED_SYSCTLS {
        let mask = folder.join("sysctls").join(name.replace('/', "-"));
        files::make_folder(&folder.join("sysctls"))?;
        files::write(&mask, format!("{value}\n"))?;
        bind(&mask, &Path::new("/proc/sys").join(name))?;
    }
    // Volumes with mount propagation want their root shared.
    change_propagation(MsFlags::MS_SHARED)
}

fn keep_mounts_from_the_real_host() -> Result<(), Error> {
    change_propagation(MsFlags::MS_PRIVATE)
}

fn change_propagation(propagation: MsFlags) -> Result<(), Error> {
    let target = Path::new("/");
    let nothing = None::<&Path>;
    mount(
        nothing,
        target,
        nothing,
        MsFlags::MS_REC | propagation,
        nothing,
    )
    .map_err(|source| Error::new("change the propagation of", target, source))
}

/// What the node writes to `/NAME` lands in its own folder.
fn overlay(folder: &Path, name: &str) -> Result<(), Error> {
    let (upper, work) = (folder.join(name), folder.join(format!("{name}-work")));
    files::make_folder(&upper)?;
    files::make_folder(&work)?;
    let target = Path::new("/").join(name);
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        target.display(),
        upper.display(),
        work.display()
    );
    mount(
        Some("overlay"),
        &target,
        Some("overlay"),
        MsFlags::empty(),
        Some(layers.as_str()),
    )
    .map_err(|source| Error::new("mount an overlay over", &target, source))
}

fn bind_folder(folder: &Path, target: &Path) -> Result<(), Error> {
    files::make_folder(folder)?;
    files::make_folder(target)?;
    bind(folder, target)
}

fn bind(source: &Path, target: &Path) -> Result<(), Error> {
    let nothing = None::<&Path>;
    mount(Some(source), target, nothing, MsFlags::MS_BIND, nothing)
        .map_err(|cause| Error::new("bind a mount over", target, cause))
}

/// Which mount of a host failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a mount.
    #[error("cannot {action} {}", target.display())]
    Mount {
        /// What was to be done.
        action: &'static str,
        /// To which place.
        target: PathBuf,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// A file or folder for a mount could not be made.
    #[error(transparent)]
    File(#[from] files::Error),
}

impl Error {
    fn new(action: &'static str, target: &Path, source: Errno) -> Self {
        Self::Mount {
            action,
            target: target.to_owned(),
            source,
        }
    }
}
