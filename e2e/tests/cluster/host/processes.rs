//! The processes of a cluster, found without asking the library that is to have ended them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use svclb_e2e::{cgroup, repository};

/// Those that carry the cluster's mark or are in its cgroup, and those that may have lost both: they
/// are in other namespaces than we are, and of the same session, since nobody of us makes a new one.
pub(super) fn of(cluster: &str) -> BTreeSet<String> {
    let ours = Process::read("self");
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()))
        .filter_map(|pid| Some((Process::read(&pid)?, pid)))
        .filter(|(process, _)| match &process.mark {
            Some(mark) => *mark == folder(cluster),
            None => {
                process.is_in(&format!("/{}", cgroup(cluster)))
                    || ours.as_ref().is_some_and(|ours| ours.sent_away(process))
            }
        })
        .map(|(process, pid)| format!("{pid} of {}: {}", process.start, process.command))
        .collect()
}

fn folder(cluster: &str) -> PathBuf {
    repository().join("target/clusters").join(cluster)
}

/// What `/proc` has of a process.
#[derive(Debug)]
struct Process {
    /// Network and mounts.
    namespaces: [PathBuf; 2],
    session: String,
    start: String,
    command: String,
    /// Lines of hierarchy, controllers and cgroup.
    cgroups: String,
    /// The folder of the cluster that it belongs to.
    mark: Option<PathBuf>,
}

impl Process {
    /// None if it has ended.
    fn read(pid: &str) -> Option<Self> {
        let file = |name: &str| {
            let bytes = fs::read(format!("/proc/{pid}/{name}")).ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        let namespace = |name: &str| fs::read_link(format!("/proc/{pid}/ns/{name}")).ok();
        let stat = file("stat")?;
        // From field 3 on: field 2 may have spaces in it.
        let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let mark = file("environ")?
            .split('\0')
            .find_map(|line| line.strip_prefix("SVCLB_E2E_CLUSTER="))
            .map(PathBuf::from);
        Some(Self {
            namespaces: [namespace("net")?, namespace("mnt")?],
            session: (*fields.get(3)?).to_owned(),
            start: (*fields.get(19)?).to_owned(),
            command: file("cmdline")?.replace('\0', " "),
            cgroups: file("cgroup")?,
            mark,
        })
    }

    fn is_in(&self, cgroup: &str) -> bool {
        let cgroups = self
            .cgroups
            .lines()
            .filter_map(|line| line.splitn(3, ':').nth(2));
        let mut below = cgroups.filter_map(|own| own.strip_prefix(cgroup));
        below.any(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether the other one may have been started by us in namespaces that are not ours. Somebody
    /// else's pods are in cgroups of their own.
    fn sent_away(&self, other: &Self) -> bool {
        self.session == other.session
            && self.namespaces != other.namespaces
            && !other.cgroups.contains("/svclb-e2e-")
    }
}
