//! Where everything of a cluster lies: one folder in `target/clusters/`, one cgroup, and one mark in
//! the environment of every process.

use std::path::{Path, PathBuf};

use crate::component::{Component, Role};

/// Every process of a cluster has this environment variable with the cluster's folder as its value
/// (containerd hands it on to the shims), so that all are found whatever became of our records.
pub(crate) const MARK: &str = "SVCLB_E2E_CLUSTER";
/// And this one with the host's name, but for the scripts that run before there are hosts.
pub(crate) const HOST_MARK: &str = "SVCLB_E2E_HOST";

/// The repository that this library was built from.
pub fn repository() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// The cgroup of a cluster's pods, relative to the root of each hierarchy.
pub fn cgroup(cluster: &str) -> String {
    Paths::of(cluster).cgroup()
}

/// The folder of all clusters' folders.
pub(crate) fn clusters() -> PathBuf {
    repository().join("target/clusters")
}

/// A component of Kubernetes, or kubectl: a link to the one binary that has them all.
pub(crate) fn kubernetes(program: &str) -> PathBuf {
    repository().join("target/kubernetes/bin").join(program)
}

/// The images that every cluster starts with, as docker-archives.
pub(crate) fn images() -> [PathBuf; 2] {
    ["pause", "echo"].map(|image| repository().join(format!("target/images/{image}.tar")))
}

/// The places of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    folder: PathBuf,
    name: String,
}

impl Paths {
    pub(crate) fn of(name: &str) -> Self {
        Self {
            folder: clusters().join(name),
            name: name.to_owned(),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Options, and whether the cluster is complete.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.join("cluster.json")
    }

    pub(crate) fn certificates(&self) -> PathBuf {
        self.folder.join("certificates")
    }

    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.folder.join("kubeconfigs").join(format!("{user}.json"))
    }

    pub(crate) fn tokens(&self) -> PathBuf {
        self.folder.join("certificates/tokens.csv")
    }

    /// Configurations, logs, records of processes and data of one host.
    pub(crate) fn host(&self, role: Role) -> PathBuf {
        self.folder.join(role.to_string())
    }

    /// The record of the process that holds a host's namespaces.
    pub(crate) fn holder(&self, role: Role) -> PathBuf {
        self.host(role).join("holder.process")
    }

    /// The record of a component's process.
    pub(crate) fn process(&self, role: Role, component: Component) -> PathBuf {
        self.host(role).join(format!("{component}.process"))
    }

    pub(crate) fn log(&self, role: Role, component: Component) -> PathBuf {
        self.host(role).join(format!("{component}.log"))
    }

    /// Where a component's log lies when the cluster did not come up because of it, and is gone.
    pub(crate) fn kept_log(&self, host: &str, component: Component) -> PathBuf {
        let name = format!("{}-{host}-{component}.log", self.name);
        repository().join("target/logs").join(name)
    }

    /// The cgroup of all pods, relative to the root of each hierarchy. The hash keeps clusters of
    /// one name in two checkouts apart.
    pub(crate) fn cgroup(&self) -> String {
        format!("svclb-e2e-{}-{:08x}", self.name, fnv1a(&self.folder))
    }

    /// The cgroup of one host's pods.
    pub(crate) fn host_cgroup(&self, role: Role) -> String {
        format!("{}/{role}", self.cgroup())
    }
}

/// FNV-1a, 32 bits. The standard library's hashes may change with its version.
fn fnv1a(path: &Path) -> u32 {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0x811c_9dc5, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_fnv1a() {
        // The published test vector.
        assert_eq!(fnv1a(Path::new("foobar")), 0xbf9c_f968);
    }

    #[test]
    fn cgroups_are_named_after_cluster_and_host() {
        let cgroup = Paths::of("a").host_cgroup(Role::Node(1));
        assert!(cgroup.starts_with("svclb-e2e-a-"), "{cgroup}");
        assert!(cgroup.ends_with("/node-1"), "{cgroup}");
    }
}
