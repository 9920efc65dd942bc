//! Images into a node's containerd, from archives: there is no registry.

use std::path::{Path, PathBuf};
use std::thread;

use crate::host::{self, Host};
use crate::namespaces::joined;
use crate::node::CONTAINERD_SOCKET;

/// Imports docker-archives or OCI archives into every node's containerd, all nodes at the same time.
pub(crate) fn load(nodes: &[Host], archives: &[&Path]) -> Result<(), Error> {
    if let Some(missing) = archives.iter().find(|archive| !archive.is_file()) {
        return Err(Error::NoFile {
            archive: (*missing).to_owned(),
        });
    }
    thread::scope(|scope| {
        let loads: Vec<_> = nodes
            .iter()
            .map(|node| {
                scope.spawn(|| {
                    archives
                        .iter()
                        .try_for_each(|archive| import(node, archive))
                })
            })
            .collect();
        loads.into_iter().try_for_each(joined)
    })
}

fn import(node: &Host, archive: &Path) -> Result<(), Error> {
    let mut import = node.command("ctr");
    import.args([
        "--address",
        CONTAINERD_SOCKET,
        "--namespace",
        "k8s.io",
        "images",
        "import",
    ]);
    import.arg(archive).text().map_err(|source| Error::Import {
        archive: archive.to_owned(),
        node: node.name(),
        source: Box::new(source),
    })?;
    Ok(())
}

/// Which image could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such file.
    #[error("there is no image archive {}", archive.display())]
    NoFile {
        /// The file asked for.
        archive: PathBuf,
    },
    /// containerd refused it.
    #[error("cannot load {} into {node}", archive.display())]
    Import {
        /// The file.
        archive: PathBuf,
        /// The node's name.
        node: String,
        /// The cause.
        #[source]
        source: Box<host::Error>,
    },
}
