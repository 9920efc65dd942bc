//! The cgroups that kubelets put their pods in, one subtree a node, for cgroup v1 (a hierarchy for each
//! controller) and v2 (one for all).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::files;

/// Where container runtimes look: what is mounted there decides which version they use.
pub(crate) const PLACE: &str = "/sys/fs/cgroup";
/// Controllers that a kubelet wants on v2.
const WANTED: [&str; 6] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"];

/// The cgroup file systems of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hierarchies {
    /// None where container runtimes look: no containers can be run, and no cgroup can be there.
    Absent,
    /// One for each controller, or for some together.
    V1 {
        /// Where they are mounted, with their controllers.
        mounts: Vec<(PathBuf, Vec<String>)>,
        /// Where v2 is mounted beside them ("hybrid"). It has no controllers there that anybody needs,
        /// but runc makes cgroups in it too.
        unified: Option<PathBuf>,
    },
    /// One for all controllers.
    V2 {
        /// Where it is mounted.
        root: PathBuf,
    },
}

impl Hierarchies {
    /// Those that are mounted now.
    pub(crate) fn mounted() -> Result<Self, files::Error> {
        Ok(Self::parse(&files::read(Path::new(
            "/proc/self/mountinfo",
        ))?))
    }

    /// From `/proc/self/mountinfo` (proc(5)).
    fn parse(mountinfo: &str) -> Self {
        let mounts: Vec<_> = mountinfo.lines().filter_map(Mount::parse).collect();
        // Of several mounts at one place the last lies on top.
        let Some(on_top) = mounts.iter().rfind(|mount| mount.place == PLACE) else {
            return Self::Absent;
        };
        if on_top.kind == "cgroup2" {
            return Self::V2 { root: PLACE.into() };
        }
        let of = |kind: &'static str| mounts.iter().filter(move |mount| mount.kind == kind);
        let v1: Vec<_> = of("cgroup")
            .map(|mount| {
                let controllers = mount.options.split(',').map(str::to_owned);
                (PathBuf::from(mount.place), controllers.collect())
            })
            .collect();
        if v1.is_empty() {
            return Self::Absent;
        }
        Self::V1 {
            mounts: v1,
            unified: of("cgroup2").map(|mount| mount.place.into()).next(),
        }
    }

    /// Makes a cgroup in each hierarchy, so that pods can be put below it.
    pub(crate) fn create(&self, cgroup: &str) -> Result<(), files::Error> {
        match self {
            Self::Absent => {}
            Self::V1 { mounts, .. } => {
                for (root, controllers) in mounts {
                    for level in levels(root, cgroup) {
                        files::make_folder(&level)?;
                        if controllers.iter().any(|controller| controller == "cpuset") {
                            copy_from_parent(&level, "cpuset.cpus")?;
                            copy_from_parent(&level, "cpuset.mems")?;
                        }
                    }
                }
            }
            Self::V2 { root } => {
                for level in levels(root, cgroup) {
                    enable_controllers(level.parent().unwrap_or(root))?;
                    files::make_folder(&level)?;
                }
            }
        }
        Ok(())
    }

    /// Which controllers the root hands down, on v2: kubelet and runc enable more of them there.
    pub(crate) fn handed_down(&self) -> BTreeSet<String> {
        match self {
            Self::Absent | Self::V1 { .. } => BTreeSet::new(),
            Self::V2 { root } => {
                words(&fs::read_to_string(root.join("cgroup.subtree_control")).unwrap_or_default())
            }
        }
    }

    /// Takes back what was enabled at the root since `before`. The kernel refuses while another
    /// cgroup uses it, which is then as it must be.
    pub(crate) fn restore_handed_down(&self, before: &BTreeSet<String>) {
        if let Self::V2 { root } = self {
            for controller in self.handed_down().difference(before) {
                let _ = fs::write(
                    root.join("cgroup.subtree_control"),
                    format!("-{controller}"),
                );
            }
        }
    }

    /// All processes in a cgroup and below it.
    pub(crate) fn processes(&self, cgroup: &str) -> BTreeSet<i32> {
        let mut pids = BTreeSet::new();
        for root in self.roots() {
            walk(&root.join(cgroup), &mut |folder| {
                let procs = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
                pids.extend(procs.lines().filter_map(|pid| pid.parse::<i32>().ok()));
            });
        }
        pids
    }

    /// Removes a cgroup and all below it. The kernel says "busy" for a moment after the last
    /// process has ended.
    pub(crate) fn remove(&self, cgroup: &str, patience: Duration) -> Result<(), files::Error> {
        let deadline = Instant::now() + patience;
        for root in self.roots() {
            let top = root.join(cgroup);
            loop {
                let mut refused = None;
                walk(&top, &mut |folder| {
                    if let Err(source) = fs::remove_dir(folder)
                        && source.kind() != io::ErrorKind::NotFound
                    {
                        refused = Some(files::Error::new("remove cgroup", folder, source));
                    }
                });
                match refused {
                    None => break,
                    Some(error) if Instant::now() >= deadline => return Err(error),
                    Some(_) => thread::sleep(Duration::from_millis(20)),
                }
            }
        }
        Ok(())
    }

    fn roots(&self) -> Vec<&PathBuf> {
        match self {
            Self::Absent => Vec::new(),
            Self::V1 { mounts, unified } => {
                mounts.iter().map(|(root, _)| root).chain(unified).collect()
            }
            Self::V2 { root } => vec![root],
        }
    }
}

/// What matters of a line of `/proc/self/mountinfo`.
struct Mount<'a> {
    place: &'a str,
    kind: &'a str,
    /// Of the file system, not of this mount of it.
    options: &'a str,
}

impl<'a> Mount<'a> {
    /// Before the dash a number of fields that varies, of which the fifth is the place; after it type,
    /// source and options.
    fn parse(line: &'a str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut file_system = file_system.split(' ');
        Some(Self {
            place: mount.split(' ').nth(4)?,
            kind: file_system.next()?,
            options: file_system.nth(1)?,
        })
    }
}

/// The folders of `a/b` under a root, from the top: `root/a`, `root/a/b`.
fn levels(root: &Path, cgroup: &str) -> Vec<PathBuf> {
    cgroup
        .split('/')
        .scan(root.to_owned(), |folder, name| {
            folder.push(name);
            Some(folder.clone())
        })
        .collect()
}

/// A new cpuset is empty, and refuses processes ("no space left on device") until it is filled.
fn copy_from_parent(folder: &Path, file: &str) -> Result<(), files::Error> {
    let Some(parent) = folder.parent() else {
        return Ok(());
    };
    let value = files::read(&parent.join(file))?;
    files::write(&folder.join(file), value.trim_end())
}

fn enable_controllers(folder: &Path) -> Result<(), files::Error> {
    let available = words(&files::read(&folder.join("cgroup.controllers"))?);
    let file = folder.join("cgroup.subtree_control");
    let enabled = words(&files::read(&file)?);
    match to_enable(&available, &enabled) {
        change if change.is_empty() => Ok(()),
        change => files::write(&file, change),
    }
}

/// What to write to `cgroup.subtree_control`, such as `+cpu +pids`.
fn to_enable(available: &BTreeSet<String>, enabled: &BTreeSet<String>) -> String {
    let missing: Vec<_> = available
        .difference(enabled)
        .filter(|controller| WANTED.contains(&controller.as_str()))
        .map(|controller| format!("+{controller}"))
        .collect();
    missing.join(" ")
}

fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Visits a folder and all below it, the deepest first.
fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit);
        }
    }
    visit(folder);
}

#[cfg(test)]
mod tests;
