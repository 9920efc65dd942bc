//! The cgroups that kubelets put their pods in, one subtree a node, for cgroup v1 (a hierarchy for each
//! controller) and v2 (one for all).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::files;

/// Controllers that a kubelet wants on v2.
const WANTED: [&str; 6] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"];

/// The cgroup file systems of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    /// Where hierarchies of v1 are mounted, with their controllers.
    v1: Vec<(PathBuf, Vec<String>)>,
    /// Where v2 is mounted. Beside v1 it has no controllers, but runc makes cgroups there too.
    v2: Option<PathBuf>,
}

impl Hierarchies {
    /// Those that are mounted now.
    pub(crate) fn mounted() -> Result<Self, Error> {
        let found = Self::parse(&files::read(Path::new("/proc/self/mounts"))?);
        if found.v1.is_empty() && found.v2.is_none() {
            return Err(Error::None);
        }
        Ok(found)
    }

    /// From `/proc/self/mounts`: device, place, type, options.
    fn parse(mounts: &str) -> Self {
        let mut found = Self {
            v1: Vec::new(),
            v2: None,
        };
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            match fields[..] {
                [_, place, "cgroup", options, ..] => {
                    let options = options.split(',').map(str::to_owned).collect();
                    found.v1.push((PathBuf::from(place), options));
                }
                [_, place, "cgroup2", ..] => {
                    found.v2.get_or_insert_with(|| PathBuf::from(place));
                }
                _ => {}
            }
        }
        found
    }

    /// Makes a cgroup in each hierarchy, so that pods can be put below it.
    pub(crate) fn create(&self, cgroup: &str) -> Result<(), Error> {
        for (root, controllers) in &self.v1 {
            for level in levels(root, cgroup) {
                files::make_folder(&level)?;
                if controllers.iter().any(|controller| controller == "cpuset") {
                    copy_from_parent(&level, "cpuset.cpus")?;
                    copy_from_parent(&level, "cpuset.mems")?;
                }
            }
        }
        if let (Some(root), true) = (&self.v2, self.v1.is_empty()) {
            for level in levels(root, cgroup) {
                let parent = level.parent().unwrap_or(root);
                enable_controllers(parent)?;
                files::make_folder(&level)?;
            }
        }
        Ok(())
    }

    /// Which controllers the root hands down, on v2: kubelet and runc enable more of them there.
    pub(crate) fn handed_down(&self) -> BTreeSet<String> {
        match &self.v2 {
            Some(root) if self.v1.is_empty() => {
                words(&fs::read_to_string(root.join("cgroup.subtree_control")).unwrap_or_default())
            }
            _ => BTreeSet::new(),
        }
    }

    /// Takes back what was enabled at the root since `before`. The kernel refuses while another
    /// cgroup uses it, which is then as it must be.
    pub(crate) fn restore_handed_down(&self, before: &BTreeSet<String>) {
        if let Some(root) = &self.v2 {
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
    pub(crate) fn remove(&self, cgroup: &str, patience: Duration) -> Result<(), Error> {
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
                    Some(error) if Instant::now() >= deadline => return Err(error.into()),
                    Some(_) => thread::sleep(Duration::from_millis(20)),
                }
            }
        }
        Ok(())
    }

    fn roots(&self) -> impl Iterator<Item = &PathBuf> {
        self.v1.iter().map(|(root, _)| root).chain(&self.v2)
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
fn copy_from_parent(folder: &Path, file: &str) -> Result<(), Error> {
    let Some(parent) = folder.parent() else {
        return Ok(());
    };
    let value = files::read(&parent.join(file))?;
    Ok(files::write(&folder.join(file), value.trim_end())?)
}

fn enable_controllers(folder: &Path) -> Result<(), Error> {
    let available = words(&files::read(&folder.join("cgroup.controllers"))?);
    let file = folder.join("cgroup.subtree_control");
    let enabled = words(&files::read(&file)?);
    match to_enable(&available, &enabled) {
        change if change.is_empty() => Ok(()),
        change => Ok(files::write(&file, change)?),
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

/// What went wrong with a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nowhere to make one.
    #[error("no cgroup file system is mounted: containers cannot run on this machine")]
    None,
    /// A file or folder of a hierarchy.
    #[error(transparent)]
    File(#[from] files::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0
cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,cpuset 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
";

    #[test]
    fn v1_is_a_mount_for_each_controller() {
        let found = Hierarchies::parse(HYBRID);
        let places: Vec<_> = found.v1.iter().map(|(place, _)| place.as_path()).collect();
        assert_eq!(
            places,
            [
                Path::new("/sys/fs/cgroup/cpu"),
                Path::new("/sys/fs/cgroup/cpuset")
            ]
        );
        assert_eq!(
            found.v2.as_deref(),
            Some(Path::new("/sys/fs/cgroup/unified"))
        );
    }

    #[test]
    fn v2_is_one_mount() {
        let found = Hierarchies::parse("cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n");
        assert_eq!(found.v1, []);
        assert_eq!(found.v2.as_deref(), Some(Path::new("/sys/fs/cgroup")));
    }

    #[test]
    fn only_what_is_wanted_and_off_is_enabled() {
        let available = words("cpu cpuset memory misc pids rdma");
        assert_eq!(
            to_enable(&available, &words("memory")),
            "+cpu +cpuset +pids"
        );
        assert_eq!(to_enable(&available, &available), "");
    }

    #[test]
    fn levels_go_down_from_the_top() {
        assert_eq!(
            levels(Path::new("/r"), "a/b"),
            [PathBuf::from("/r/a"), PathBuf::from("/r/a/b")]
        );
    }

    #[test]
    fn v2_trees_are_made_and_removed() {
        // Folders stand in for cgroups: what is tested is which files are written.
        let root = std::env::temp_dir().join(format!("svclb-cgroups-{}", std::process::id()));
        for folder in ["", "a"] {
            let folder = root.join(folder);
            files::make_folder(&folder).unwrap();
            files::write(&folder.join("cgroup.controllers"), "cpu pids rdma\n").unwrap();
            files::write(&folder.join("cgroup.subtree_control"), "pids\n").unwrap();
        }
        let hierarchies = Hierarchies {
            v1: Vec::new(),
            v2: Some(root.clone()),
        };
        hierarchies.create("a/b").unwrap();
        assert_eq!(
            files::read(&root.join("cgroup.subtree_control")).unwrap(),
            "+cpu"
        );
        assert_eq!(
            files::read(&root.join("a/cgroup.subtree_control")).unwrap(),
            "+cpu"
        );
        assert!(root.join("a/b").is_dir());
        files::remove_folder(&root).unwrap();
    }
}
