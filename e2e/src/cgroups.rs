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
const PLACE: &str = "/sys/fs/cgroup";
/// Controllers that a kubelet wants on v2.
const WANTED: [&str; 6] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"];

/// The cgroup file systems of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hierarchies {
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
    pub(crate) fn mounted() -> Result<Self, Error> {
        Self::parse(&files::read(Path::new("/proc/self/mountinfo"))?).ok_or(Error::None)
    }

    /// From `/proc/self/mountinfo` (proc(5)).
    fn parse(mountinfo: &str) -> Option<Self> {
        let mounts: Vec<_> = mountinfo.lines().filter_map(Mount::parse).collect();
        // Of several mounts at one place the last lies on top.
        let on_top = mounts.iter().rfind(|mount| mount.place == PLACE)?;
        if on_top.kind == "cgroup2" {
            return Some(Self::V2 { root: PLACE.into() });
        }
        let of = |kind: &'static str| mounts.iter().filter(move |mount| mount.kind == kind);
        let v1: Vec<_> = of("cgroup")
            .map(|mount| {
                let controllers = mount.options.split(',').map(str::to_owned);
                (PathBuf::from(mount.place), controllers.collect())
            })
            .collect();
        (!v1.is_empty()).then(|| Self::V1 {
            mounts: v1,
            unified: of("cgroup2").map(|mount| mount.place.into()).next(),
        })
    }

    /// Makes a cgroup in each hierarchy, so that pods can be put below it.
    pub(crate) fn create(&self, cgroup: &str) -> Result<(), Error> {
        match self {
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
            Self::V1 { .. } => BTreeSet::new(),
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

    fn roots(&self) -> Vec<&PathBuf> {
        match self {
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
    #[error(
        "no cgroup file system is mounted in {PLACE}, where container runtimes look for it: \
         containers cannot run on this machine"
    )]
    None,
    /// A file or folder of a hierarchy.
    #[error(transparent)]
    File(#[from] files::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
23 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
";
    /// systemd's hybrid of Debian 10 and Ubuntu 20.04 has this line more.
    const UNIFIED: &str = "\
33 31 0:28 / /sys/fs/cgroup/unified rw,nosuid,nodev,noexec,relatime shared:10 - cgroup2 cgroup2 rw,nsdelegate
";
    /// Debian 11 and newer, Ubuntu 21.10 and newer.
    const V2: &str = "\
22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw,errors=remount-ro
26 24 0:24 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
";

    fn v1(unified: Option<&str>) -> Hierarchies {
        let mount = |place: &str, controllers: &[&str]| {
            let controllers = controllers.iter().map(|name| (*name).to_owned());
            (PathBuf::from(place), controllers.collect())
        };
        Hierarchies::V1 {
            mounts: vec![
                mount("/sys/fs/cgroup/cpu,cpuacct", &["rw", "cpu", "cpuacct"]),
                mount("/sys/fs/cgroup/cpuset", &["rw", "cpuset"]),
            ],
            unified: unified.map(PathBuf::from),
        }
    }

    fn v2() -> Hierarchies {
        Hierarchies::V2 { root: PLACE.into() }
    }

    #[test]
    fn v1_is_a_mount_for_each_hierarchy() {
        assert_eq!(Hierarchies::parse(V1), Some(v1(None)));
    }

    #[test]
    fn hybrid_is_v1_with_one_mount_more() {
        let hybrid = format!("{V1}{UNIFIED}");
        assert_eq!(
            Hierarchies::parse(&hybrid),
            Some(v1(Some("/sys/fs/cgroup/unified")))
        );
    }

    #[test]
    fn v2_is_one_mount() {
        assert_eq!(Hierarchies::parse(V2), Some(v2()));
    }

    #[test]
    fn a_v1_mount_somewhere_does_not_make_it_v1() {
        // Some VPNs have one, to tell the packets of one program from those of others.
        let stray =
            "90 22 0:60 / /var/lib/vpn/net_cls rw,relatime shared:60 - cgroup net_cls rw,net_cls\n";
        assert_eq!(Hierarchies::parse(&format!("{V2}{stray}")), Some(v2()));
    }

    #[test]
    fn what_lies_on_top_counts() {
        assert_eq!(Hierarchies::parse(&format!("{V1}{V2}")), Some(v2()));
    }

    #[test]
    fn no_mount_is_no_hierarchy() {
        assert_eq!(
            Hierarchies::parse("22 1 259:2 / / rw - ext4 /dev/sda rw\n"),
            None
        );
        // An empty tmpfs, as some containers have it.
        let empty = V1.lines().nth(1).unwrap();
        assert_eq!(Hierarchies::parse(empty), None);
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

    /// A folder in place of a mount of v2, with a cgroup `a` in it. Which files are written, and what is
    /// removed, is the same.
    struct Stand {
        root: PathBuf,
        hierarchies: Hierarchies,
    }

    impl Stand {
        fn new(test: &str) -> Self {
            let root = format!("svclb-cgroups-{test}-{}", std::process::id());
            let root = std::env::temp_dir().join(root);
            for folder in [root.clone(), root.join("a")] {
                files::make_folder(&folder).unwrap();
                files::write(&folder.join("cgroup.controllers"), "cpu pids rdma\n").unwrap();
                files::write(&folder.join("cgroup.subtree_control"), "pids\n").unwrap();
            }
            let hierarchies = Hierarchies::V2 { root: root.clone() };
            Self { root, hierarchies }
        }

        fn handed_down_by(&self, cgroup: &str) -> String {
            files::read(&self.root.join(cgroup).join("cgroup.subtree_control")).unwrap()
        }

        /// The kernel's files go with their cgroup; here they must go before it.
        fn empty(&self, cgroup: &str) {
            for file in ["cgroup.controllers", "cgroup.subtree_control"] {
                fs::remove_file(self.root.join(cgroup).join(file)).unwrap();
            }
        }
    }

    impl Drop for Stand {
        fn drop(&mut self) {
            files::remove_folder(&self.root).unwrap();
        }
    }

    #[test]
    fn v2_hands_controllers_down_to_what_it_makes_and_takes_them_back() {
        let stand = Stand::new("create");
        let before = stand.hierarchies.handed_down();
        stand.hierarchies.create("a/b").unwrap();
        assert_eq!(stand.handed_down_by(""), "+cpu");
        assert_eq!(stand.handed_down_by("a"), "+cpu");
        assert!(stand.root.join("a/b").is_dir());
        // What the kernel would show now.
        files::write(&stand.root.join("cgroup.subtree_control"), "cpu pids\n").unwrap();
        stand.hierarchies.restore_handed_down(&before);
        assert_eq!(stand.handed_down_by(""), "-cpu");
    }

    #[test]
    fn a_cgroup_is_removed_with_all_below_it() {
        let stand = Stand::new("remove");
        stand.hierarchies.create("a/b").unwrap();
        stand.empty("a");
        stand.hierarchies.remove("a", Duration::ZERO).unwrap();
        assert!(!stand.root.join("a").exists());
        assert!(stand.root.exists());
        // One that is not there is as good as removed.
        stand.hierarchies.remove("a", Duration::ZERO).unwrap();
    }

    #[test]
    fn a_cgroup_that_cannot_be_removed_is_named() {
        // What is in it stands for a process.
        let stand = Stand::new("busy");
        let error = stand.hierarchies.remove("a", Duration::ZERO).unwrap_err();
        let a = stand.root.join("a");
        assert_eq!(
            error.to_string(),
            format!("cannot remove cgroup {}", a.display())
        );
        assert!(a.exists());
    }
}
