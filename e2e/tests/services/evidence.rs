//! What is kept of a failed test: everything that was involved, under `target/e2e-failures/TEST/`.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Result;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use svclb_e2e::{Host, repository};

use crate::counters;
use crate::space::node_of;
use crate::world::{SERVICE_NAME, World, name_of};

/// So much of the end of a component's log.
const TAIL: i64 = 4 << 20;

/// Keeps objects, events, logs and rules, and returns the folder. What cannot be had says so in its file.
pub(crate) fn keep(world: &World, test: &str) -> Result<PathBuf> {
    let folder = repository().join("target/e2e-failures").join(test);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    for (file, arguments) in [
        (
            "objects",
            "get nodes,services,daemonsets,deployments,pods,endpointslices,leases -A -o wide",
        ),
        (
            "objects.yaml",
            "get nodes,services,daemonsets,pods,endpointslices,leases -A -o yaml --show-managed-fields",
        ),
        (
            "events",
            "get events -A --sort-by=.metadata.creationTimestamp",
        ),
        ("services", "describe services -A"),
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        write(&folder.join(file), world.kubectl(&arguments))?;
    }
    // Wherever svclb is installed.
    for label in ["app.kubernetes.io/name=svclb-controller", SERVICE_NAME] {
        for pod in world.list_everywhere::<Pod>(label).unwrap_or_default() {
            keep_pod(world, &folder, &pod)?;
        }
    }
    for host in world.cluster().hosts() {
        for component in host.role().components() {
            let log = tail(&host.log(*component));
            write(&folder.join(format!("{host}.{component}.log")), log)?;
        }
        if host.name().starts_with("node-") {
            write(&folder.join(format!("{host}.rules")), rules(&host))?;
        }
    }
    Ok(folder)
}

/// Where it is, for who reads of the failure.
pub(crate) fn told(kept: Result<PathBuf>) -> String {
    match kept {
        Ok(folder) => format!("logs are in {}", folder.display()),
        Err(error) => format!("no logs are kept: {error:#}"),
    }
}

/// A pod's logs, and the rules in its network.
fn keep_pod(world: &World, folder: &Path, pod: &Pod) -> Result<()> {
    let name = name_of(&pod.metadata);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let logs = ["logs", "-n", namespace, name, "--all-containers"];
    write(&folder.join(format!("{name}.log")), world.kubectl(&logs))?;
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    let again = |container: &ContainerStatus| container.restart_count > 0;
    if containers.into_iter().flatten().any(again) {
        let previous = world.kubectl(&["logs", "-n", namespace, name, "--previous"]);
        write(&folder.join(format!("{name}.previous.log")), previous)?;
    }
    let rules = world
        .cluster()
        .host(node_of(pod))
        .map_err(anyhow::Error::from)
        .and_then(|node| counters::rules(&node, pod));
    write(&folder.join(format!("{name}.rules")), rules)
}

fn write(path: &Path, content: Result<String>) -> Result<()> {
    let content = content.unwrap_or_else(|error| format!("{error:#}\n"));
    Ok(fs::write(path, content)?)
}

fn tail(path: &Path) -> Result<String> {
    let mut file = File::open(path)?;
    let length = i64::try_from(file.metadata()?.len())?;
    file.seek(SeekFrom::End(-length.min(TAIL)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn rules(node: &Host) -> Result<String> {
    let mut text = String::new();
    for command in [
        &["iptables-save", "-c"][..],
        &["ip6tables-save", "-c"],
        &["nft", "list", "ruleset"],
        &["conntrack", "-L"],
    ] {
        let [program, arguments @ ..] = command else {
            continue;
        };
        text += &node.command(program).args(arguments).text()?;
    }
    Ok(text)
}
