//! What is kept of a failed test: everything that was involved, under `target/e2e-failures/TEST/`.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Result;
use svclb_e2e::{Host, repository};

use crate::world::{NAMESPACE, World, name_of};

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
        (
            "svclb-pods.log",
            "logs -n kube-system -l svccontroller.k3s.cattle.io/svcname --all-containers --prefix --tail=-1 --max-log-requests=200",
        ),
    ] {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        write(&folder.join(file), world.kubectl(&arguments))?;
    }
    for pod in world.controller_pods().unwrap_or_default() {
        let name = name_of(&pod.metadata);
        for (suffix, previous) in [
            ("log", "--previous=false"),
            ("previous.log", "--previous=true"),
        ] {
            let log = world.kubectl(&["logs", "-n", NAMESPACE, name, previous]);
            write(&folder.join(format!("{name}.{suffix}")), log)?;
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
