//! The real host as it is now, to be compared with what it was before. It may be in use meanwhile: what
//! other clusters, systemd and the user's other programs do is left out.

mod processes;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use svclb_e2e::{cgroup, repository, wait};

use crate::shared::said;

/// systemd mounts it when somebody looks at it, as a walk through all sysctls does.
const BINFMT_MISC: &str = "/proc/sys/fs/binfmt_misc";

/// How the cgroups of systemd's units end.
const UNITS: [&str; 6] = [
    ".automount",
    ".mount",
    ".scope",
    ".service",
    ".slice",
    ".socket",
];

/// Sysctls that change by themselves, by their beginnings under `/proc/sys`.
const VOLATILE: [&str; 17] = [
    "dev/cdrom/info",
    "fs/aio-nr",
    "fs/binfmt_misc",
    "fs/dentry-state",
    "fs/file-nr",
    "fs/inode-nr",
    "fs/inode-state",
    "fs/quota/",
    "kernel/hung_task_detect_count",
    "kernel/ns_last_pid",
    "kernel/perf_event_max_sample_rate",
    "kernel/pty/nr",
    "kernel/random/",
    "kernel/sched_domain/",
    "net/netfilter/nf_conntrack_count",
    // Written to only.
    "net/ipv4/route/flush",
    "vm/stat_refresh",
];

/// What container runtimes, kubelets and network tools leave on a host.
const TRACES: [&str; 11] = [
    "/etc/cni",
    "/etc/containerd",
    "/etc/kubernetes",
    "/opt/containerd",
    "/run/containerd",
    "/run/netns",
    "/run/xtables.lock",
    "/usr/libexec/kubernetes",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/pods",
];

/// What tools say of the network. The lifetimes of addresses and routes run down by themselves.
const COMMANDS: [&[&str]; 11] = [
    &["ip", "-oneline", "link"],
    &["ip", "-oneline", "address"],
    &["ip", "-4", "route", "show", "table", "all"],
    &["ip", "-6", "route", "show", "table", "all"],
    &["ip", "-4", "rule"],
    &["ip", "-6", "rule"],
    &["ip", "netns", "list"],
    &["nft", "--stateless", "list", "ruleset"],
    &["iptables-legacy-save"],
    &["ip6tables-legacy-save"],
    &["sysctl", "kernel.hostname"],
];

/// Everything about the host that a cluster of one name might change.
#[derive(Debug)]
pub(crate) struct Snapshot {
    cluster: String,
    facts: BTreeMap<String, String>,
    sysctls: BTreeMap<String, String>,
    processes: BTreeSet<String>,
}

impl Snapshot {
    pub(crate) fn take(cluster: &str) -> Result<Self> {
        let mut facts = BTreeMap::new();
        for command in COMMANDS {
            let output = Command::new(command[0])
                .args(&command[1..])
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .output()?;
            ensure!(
                output.status.success(),
                "{command:?}: {}: {}",
                output.status,
                said(&output)
            );
            let text = String::from_utf8_lossy(&output.stdout);
            facts.insert(
                command.join(" "),
                text.lines().map(without_counts).collect(),
            );
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mounts = mounts.lines().filter(|mount| !mount.contains(BINFMT_MISC));
        facts.insert("mounts".to_owned(), mounts.collect::<Vec<_>>().join("\n"));
        let kubectls = std::env::home_dir()
            .context("there is no home folder")?
            .join(".kube");
        for trace in TRACES.iter().map(Path::new).chain([kubectls.as_path()]) {
            facts.insert(trace.display().to_string(), trace.exists().to_string());
        }
        for hierarchy in cgroup_hierarchies()? {
            let cgroups = cgroups(&hierarchy, cluster).join(" ");
            facts.insert(format!("cgroups in {hierarchy}"), cgroups);
        }
        if let Ok(handed_down) = fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control") {
            facts.insert(
                "controllers that cgroup v2 hands down".to_owned(),
                handed_down,
            );
        }
        let mut sysctls = BTreeMap::new();
        read_sysctls(Path::new("/proc/sys"), &mut sysctls);
        Ok(Self {
            cluster: cluster.to_owned(),
            facts,
            sysctls,
            processes: processes::of(cluster),
        })
    }

    /// Waits until the host is as it was when this was taken.
    pub(crate) fn compare(&self) -> Result<()> {
        let folder = repository().join("target/clusters").join(&self.cluster);
        ensure!(!folder.exists(), "{} is still there", folder.display());
        wait::until("the host is as it was", Duration::from_secs(30), || {
            let now = Self::take(&self.cluster).map_err(|error| error.to_string())?;
            let changes = self.changes(&now);
            if changes.is_empty() {
                Ok(())
            } else {
                Err(changes.join("\n"))
            }
        })?;
        Ok(())
    }

    fn changes(&self, now: &Self) -> Vec<String> {
        let changed = |name: &String, before: Option<&String>, after: Option<&String>| {
            (before != after).then(|| format!("{name}: {before:?} has become {after:?}"))
        };
        let names: BTreeSet<_> = self.facts.keys().chain(now.facts.keys()).collect();
        let facts = names
            .into_iter()
            .filter_map(|name| changed(name, self.facts.get(name), now.facts.get(name)));
        // Whoever is the first to use netfilter has a module loaded, which brings sysctls of its own.
        let sysctls = self
            .sysctls
            .iter()
            .filter_map(|(name, before)| changed(name, Some(before), now.sysctls.get(name)));
        let processes = now
            .processes
            .difference(&self.processes)
            .map(|process| format!("new process {process}"));
        facts.chain(sysctls).chain(processes).collect()
    }
}

/// Cuts off what counts up or down. Of what iptables-save prints, dates and empty tables are nothing
/// either: whoever uses a table first has a module loaded, and then the real host has the table too.
fn without_counts(line: &str) -> String {
    let is_of_an_empty_table = line.starts_with(['#', '*'])
        || line == "COMMIT"
        || (line.starts_with(':') && line.contains(" ACCEPT "));
    if is_of_an_empty_table {
        return String::new();
    }
    let end = ["valid_lft", " expires ", " ["]
        .iter()
        .filter_map(|word| line.find(word))
        .min();
    format!("{}\n", &line[..end.unwrap_or(line.len())])
}

fn read_sysctls(folder: &Path, sysctls: &mut BTreeMap<String, String>) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let path = entry.path();
        let name = path
            .strip_prefix("/proc/sys")
            .unwrap_or(&path)
            .display()
            .to_string();
        if VOLATILE.iter().any(|volatile| name.starts_with(volatile)) {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            read_sysctls(&path, sysctls);
        } else if let Ok(value) = fs::read_to_string(&path) {
            sysctls.insert(format!("sysctl {name}"), value);
        }
    }
}

/// Where cgroup file systems of either version are mounted.
fn cgroup_hierarchies() -> Result<Vec<String>> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let places = mounts.lines().filter_map(|mount| {
        let mut fields = mount.split(' ').skip(1);
        let place = fields.next()?;
        matches!(fields.next()?, "cgroup" | "cgroup2").then(|| place.to_owned())
    });
    Ok(places.collect())
}

/// The top-level cgroups of a hierarchy, but for those of other clusters, and of systemd's units:
/// both come and go.
fn cgroups(hierarchy: &str, cluster: &str) -> Vec<String> {
    let entries = fs::read_dir(hierarchy).into_iter().flatten().flatten();
    let is_systemds = |name: &str| UNITS.iter().any(|unit| name.ends_with(unit));
    let is_anothers = |name: &str| name.starts_with("svclb-e2e-") && name != cgroup(cluster);
    let mut names: Vec<_> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !is_systemds(name) && !is_anothers(name))
        .collect();
    names.sort();
    names
}
