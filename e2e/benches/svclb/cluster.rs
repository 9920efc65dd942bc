//! What the parts on a real cluster share: images, objects, and the way into a pod's network.

use std::fs;
use std::process::{Child, Command};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use svclb_e2e::Cluster;

use crate::folders::Folders;
use crate::namespaces::Namespace;

/// Builds images of the project, with the release builds that are in them.
pub(crate) fn build_images(folders: &Folders, names: &[&str]) -> Result<()> {
    script(folders, "images/build.sh", names)
}

/// Runs a script of the repository.
pub(crate) fn script(folders: &Folders, path: &str, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(folders.repository.join(path));
    let status = command
        .args(arguments)
        .status()
        .with_context(|| format!("running {path}"))?;
    ensure!(status.success(), "{path} failed");
    Ok(())
}

/// Applies objects by kubectl.
pub(crate) fn apply(cluster: &Cluster, folders: &Folders, items: &[Value]) -> Result<()> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    let file = folders.work.join("objects.json");
    fs::write(&file, list.to_string()).with_context(|| format!("writing {}", file.display()))?;
    cluster.kubectl(&["apply", "--filename", &file.to_string_lossy()])?;
    Ok(())
}

/// The network namespace of a pod, found by a process whose cgroup names the pod.
pub(crate) fn pod_namespace(cluster: &Cluster, name: &str) -> Result<Namespace> {
    let uid = cluster.kubectl(&["get", "pod", name, "-o", "jsonpath={.metadata.uid}"])?;
    let mark = format!("pod{uid}");
    for entry in fs::read_dir("/proc").context("listing processes")? {
        let folder = entry.context("listing processes")?.path();
        // One that has ended meanwhile is none of the pod's.
        let cgroups = fs::read_to_string(folder.join("cgroup")).unwrap_or_default();
        if cgroups.contains(&mark) {
            return Namespace::open(&folder.join("ns/net"));
        }
    }
    bail!("no process of pod {name} was found")
}

/// A process that is killed when this is dropped.
pub(crate) struct Ended(pub(crate) Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
