//! The real host as it is now, to be compared with what it was before.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use svclb_e2e::{repository, wait};

/// Sysctls that change by themselves, by their beginnings under `/proc/sys`.
const VOLATILE: [&str; 17] = [
    "dev/cdrom/info",
    "fs/aio-nr",
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
    "net/netfilter/nf_conntrack_buckets",
    "net/netfilter/nf_conntrack_count",
    // Written to only.
    "net/ipv4/route/flush",
    "vm/stat_refresh",
];

/// What container runtimes, kubelets and network tools leave on a host.
const TRACES: [&str; 12] = [
    "/etc/cni",
    "/etc/containerd",
    "/etc/kubernetes",
    "/opt/containerd",
    "/root/.kube",
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

/// Everything about the host that a cluster might change.
#[derive(Debug)]
pub(crate) struct Snapshot {
    facts: BTreeMap<String, String>,
    processes: BTreeSet<String>,
}

impl Snapshot {
    pub(crate) fn take() -> Result<Self> {
        let mut facts = BTreeMap::new();
        for command in COMMANDS {
            let output = Command::new(command[0])
                .args(&command[1..])
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            facts.insert(
                command.join(" "),
                text.lines().map(without_counts).collect(),
            );
        }
        facts.insert(
            "mounts".to_owned(),
            fs::read_to_string("/proc/self/mountinfo")?,
        );
        for trace in TRACES {
            facts.insert(trace.to_owned(), Path::new(trace).exists().to_string());
        }
        read_sysctls(Path::new("/proc/sys"), &mut facts);
        let hierarchies = fs::read_dir("/sys/fs/cgroup")?
            .flatten()
            .map(|entry| entry.path());
        for hierarchy in hierarchies.chain(["/sys/fs/cgroup".into()]) {
            facts.insert(
                hierarchy.display().to_string(),
                cgroups(&hierarchy).join(" "),
            );
        }
        Ok(Self {
            facts,
            processes: processes(None),
        })
    }

    /// Waits until the host is as it was when this was taken, but for what other clusters do.
    pub(crate) fn compare(&self, cluster: &str) -> Result<()> {
        let folder = repository().join("target/clusters").join(cluster);
        ensure!(!folder.exists(), "{} is still there", folder.display());
        wait::until("the host is as it was", Duration::from_secs(30), || {
            let now = Self::take().map_err(|error| error.to_string())?;
            let changes = self.changes(&now, cluster);
            if changes.is_empty() {
                Ok(())
            } else {
                Err(changes.join("\n"))
            }
        })?;
        Ok(())
    }

    fn changes(&self, now: &Self, cluster: &str) -> Vec<String> {
        let names: BTreeSet<_> = self.facts.keys().chain(now.facts.keys()).collect();
        let facts = names.into_iter().filter_map(|name| {
            let (before, after) = (self.facts.get(name), now.facts.get(name));
            (before != after).then(|| format!("{name}: {before:?} has become {after:?}"))
        });
        let processes = processes(Some(cluster));
        let new = processes
            .difference(&self.processes)
            .map(|process| format!("new process {process}"));
        facts.chain(new).collect()
    }
}

/// Cuts off what counts up or down.
fn without_counts(line: &str) -> String {
    // The dates that iptables-save prints, and lifetimes.
    let line = if line.starts_with('#') { "" } else { line };
    let end = ["valid_lft", " expires ", " ["]
        .iter()
        .filter_map(|word| line.find(word))
        .min();
    format!("{}\n", &line[..end.unwrap_or(line.len())])
}

fn read_sysctls(folder: &Path, facts: &mut BTreeMap<String, String>) {
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
            read_sysctls(&path, facts);
        } else if let Ok(value) = fs::read_to_string(&path) {
            facts.insert(format!("sysctl {name}"), value);
        }
    }
}

/// The top-level cgroups of a hierarchy. Those of other clusters come and go.
fn cgroups(hierarchy: &Path) -> Vec<String> {
    let entries = fs::read_dir(hierarchy).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            !name.starts_with("svclb-e2e-") || name.starts_with("svclb-e2e-test-untouched")
        })
        .collect();
    names.sort();
    names
}

/// Processes that are in other namespaces than we are, as all of a cluster are. With a cluster's name,
/// those that belong to another cluster are left out.
fn processes(cluster: Option<&str>) -> BTreeSet<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids =
        entries.filter_map(|entry| entry.file_name().into_string().ok()?.parse::<u32>().ok());
    let namespaces = |pid: &str| {
        ["net", "mnt"]
            .map(|name| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap_or_default())
    };
    let ours = namespaces("self");
    pids.filter_map(|pid| {
        let theirs = namespaces(&pid.to_string());
        // One that has just ended has none.
        let is_elsewhere = theirs != ours && theirs.iter().all(|name| name.as_os_str() != "");
        if !is_elsewhere || cluster.is_some_and(|cluster| belongs_to_another(pid, cluster)) {
            return None;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let start = stat.rsplit_once(") ")?.1.split(' ').nth(19)?.to_owned();
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .ok()?
            .replace('\0', " ");
        Some(format!("{pid} of {start}: {command}"))
    })
    .collect()
}

/// By the mark in its environment, or by its cgroup.
fn belongs_to_another(pid: u32, cluster: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    let mark = environment
        .split('\0')
        .find_map(|line| line.strip_prefix("SVCLB_E2E_CLUSTER="));
    if let Some(folder) = mark {
        return !folder.ends_with(&format!("/{cluster}"));
    }
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    cgroups.contains("/svclb-e2e-") && !cgroups.contains(&format!("/svclb-e2e-{cluster}-"))
}
