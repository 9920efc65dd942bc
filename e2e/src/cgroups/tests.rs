//! Samples of real machines, and a folder in place of a hierarchy.

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
    assert_eq!(Hierarchies::parse(V1), v1(None));
}

#[test]
fn hybrid_is_v1_with_one_mount_more() {
    let hybrid = format!("{V1}{UNIFIED}");
    assert_eq!(
        Hierarchies::parse(&hybrid),
        v1(Some("/sys/fs/cgroup/unified"))
    );
}

#[test]
fn v2_is_one_mount() {
    assert_eq!(Hierarchies::parse(V2), v2());
}

#[test]
fn a_v1_mount_somewhere_does_not_make_it_v1() {
    // Some VPNs have one, to tell the packets of one program from those of others.
    let stray =
        "90 22 0:60 / /var/lib/vpn/net_cls rw,relatime shared:60 - cgroup net_cls rw,net_cls\n";
    assert_eq!(Hierarchies::parse(&format!("{V2}{stray}")), v2());
}

#[test]
fn what_lies_on_top_counts() {
    assert_eq!(Hierarchies::parse(&format!("{V1}{V2}")), v2());
}

#[test]
fn no_mount_is_no_hierarchy() {
    let disk = "22 1 259:2 / / rw - ext4 /dev/sda rw\n";
    assert_eq!(Hierarchies::parse(disk), Hierarchies::Absent);
    // An empty tmpfs, as some containers have it.
    let empty = V1.lines().nth(1).unwrap();
    assert_eq!(Hierarchies::parse(empty), Hierarchies::Absent);
}

#[test]
fn where_there_is_no_hierarchy_there_is_nothing_to_remove() {
    let absent = Hierarchies::Absent;
    assert_eq!(absent.processes("a"), BTreeSet::new());
    absent.remove("a", Duration::ZERO).unwrap();
    absent.restore_handed_down(&absent.handed_down());
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
