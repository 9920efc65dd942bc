//! What cannot be done is said in one line, and leaves nothing.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use svclb_e2e::repository;

use crate::Test;
use crate::packages::command_without;
use crate::shared::{self, NAME, said, svclb_e2e};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_bad_name_is_refused", a_bad_name_is_refused),
    ("a_name_in_use_is_refused", a_name_in_use_is_refused),
    (
        "a_cluster_that_is_not_there_is_said",
        a_cluster_that_is_not_there_is_said,
    ),
    ("too_many_nodes_are_refused", too_many_nodes_are_refused),
    (
        "only_root_can_do_anything_with_clusters",
        only_root_can_do_anything_with_clusters,
    ),
    (
        "a_full_disk_is_said_beforehand",
        a_full_disk_is_said_beforehand,
    ),
    (
        "too_little_memory_is_said_beforehand",
        too_little_memory_is_said_beforehand,
    ),
    (
        "a_kernel_module_that_is_not_loaded_is_named",
        a_kernel_module_that_is_not_loaded_is_named,
    ),
    (
        "a_machine_without_cgroups_is_told",
        a_machine_without_cgroups_is_told,
    ),
    (
        "where_no_namespaces_can_be_made_it_is_said",
        where_no_namespaces_can_be_made_it_is_said,
    ),
    ("a_missing_go_is_said", a_missing_go_is_said),
    (
        "options_that_make_no_cluster_are_refused",
        options_that_make_no_cluster_are_refused,
    ),
];

/// For clusters that never come up.
const FAILING: &str = "test-failing";

/// Runs a command that must fail with exactly one line, which is returned, and leave no folder.
fn refused(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let said = said(&output);
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    ensure!(said.lines().count() == 1, "more than a line: {said}");
    ensure!(!folder_is_there(), "a folder is left");
    Ok(said)
}

fn folder_is_there() -> bool {
    repository().join("target/clusters").join(FAILING).exists()
}

fn a_bad_name_is_refused() -> Result<()> {
    let said = refused(&mut svclb_e2e(&["up", "--name", "Not/A/Name"]))?;
    ensure!(
        said.starts_with("svclb-e2e: `Not/A/Name` is no name for a cluster"),
        "{said}"
    );
    Ok(())
}

fn a_name_in_use_is_refused() -> Result<()> {
    let cluster = shared::cluster()?;
    let said = refused(&mut svclb_e2e(&["up", "--name", NAME]))?;
    ensure!(
        said.contains(&format!("cluster `{NAME}` is up already")),
        "{said}"
    );
    ensure!(
        said.contains(&format!("svclb-e2e down --name {NAME}")),
        "{said}"
    );
    // And is none the worse for it.
    cluster.kubectl(&["get", "--raw=/readyz"])?;
    Ok(())
}

fn a_cluster_that_is_not_there_is_said() -> Result<()> {
    shared::cluster()?;
    let said = refused(&mut svclb_e2e(&[
        "kubectl", "--name", FAILING, "get", "nodes",
    ]))?;
    ensure!(
        said.contains(&format!("there is no cluster `{FAILING}`")),
        "{said}"
    );
    ensure!(
        said.contains(NAME),
        "the one that there is is not named: {said}"
    );
    Ok(())
}

fn too_many_nodes_are_refused() -> Result<()> {
    let said = refused(&mut svclb_e2e(&[
        "up", "--name", FAILING, "--nodes", "1000",
    ]))?;
    ensure!(
        said == "svclb-e2e: 1000 nodes are too many: the most is 200",
        "{said}"
    );
    Ok(())
}

fn only_root_can_do_anything_with_clusters() -> Result<()> {
    // From a copy, since the way to the built one may be closed to others.
    let copy = std::env::temp_dir().join(format!("svclb-e2e-{}", std::process::id()));
    std::fs::copy(env!("CARGO_BIN_EXE_svclb-e2e"), &copy)?;
    let commands: [&[&str]; 9] = [
        &["up"],
        &["demo"],
        &["down"],
        &["status"],
        &["kubectl", "get", "nodes"],
        &["kubeconfig"],
        &["exec", "client", "true"],
        &["load", "image.tar"],
        &["fault", "cut", "node-1"],
    ];
    let said = commands.map(|arguments| {
        let mut command = Command::new(&copy);
        command.args(arguments).current_dir("/");
        refused(command.uid(65534).gid(65534)).with_context(|| format!("{arguments:?}"))
    });
    std::fs::remove_file(&copy)?;
    for said in said {
        let said = said?;
        ensure!(
            said.ends_with("which only root can make: try again as root"),
            "{said}"
        );
    }
    Ok(())
}

/// On a machine that is like this one, but for a mount: the command that makes it, in a mount namespace
/// of its own.
fn on_a_machine_with(mount: &str, arguments: &[&str]) -> Command {
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--mount", "sh", "-c"])
        .arg(format!(r#"{mount} && exec "$0" "$@""#))
        .arg(env!("CARGO_BIN_EXE_svclb-e2e"))
        .args(arguments)
        .current_dir(repository());
    unshare
}

fn up_on_a_machine_with(mount: &str, nodes: &str) -> Result<String> {
    let up = ["up", "--name", FAILING, "--nodes", nodes];
    refused(&mut on_a_machine_with(mount, &up))
}

fn a_full_disk_is_said_beforehand() -> Result<()> {
    let said = up_on_a_machine_with("mount -t tmpfs -o size=20m tmpfs target/clusters", "0")?;
    ensure!(
        said == "svclb-e2e: too little disk space: 300 MiB are needed, 20 MiB are available; free some",
        "{said}"
    );
    Ok(())
}

fn too_little_memory_is_said_beforehand() -> Result<()> {
    let meminfo = std::env::temp_dir().join(format!("svclb-e2e-meminfo-{}", std::process::id()));
    std::fs::write(&meminfo, "MemTotal: 4096000 kB\nMemAvailable: 819200 kB\n")?;
    let mount = format!("mount --bind {} /proc/meminfo", meminfo.display());
    let said = up_on_a_machine_with(&mount, "3");
    std::fs::remove_file(&meminfo)?;
    let said = said?;
    ensure!(
        said == "svclb-e2e: too little memory: 1200 MiB are needed, 800 MiB are available; \
                 ask for fewer --nodes, or free some",
        "{said}"
    );
    Ok(())
}

fn a_kernel_module_that_is_not_loaded_is_named() -> Result<()> {
    let said = up_on_a_machine_with("mount -t tmpfs tmpfs /proc/sys/net", "1")?;
    ensure!(
        said.starts_with("svclb-e2e: the kernel module br_netfilter is not loaded")
            && said.ends_with("run `modprobe br_netfilter` and try again"),
        "{said}"
    );
    Ok(())
}

fn a_machine_without_cgroups_is_told() -> Result<()> {
    let unmount = "umount --recursive --lazy /sys/fs/cgroup";
    let refusal = up_on_a_machine_with(unmount, "1")?;
    ensure!(
        refusal
            == "svclb-e2e: no cgroup file system is mounted in /sys/fs/cgroup, without which no container \
                 can be run: mount it, or ask for --nodes 0",
        "{refusal}"
    );
    // Nor is there anything to clear away.
    let down = on_a_machine_with(unmount, &["down", "--name", FAILING]).output()?;
    let printed = said(&down);
    ensure!(
        down.status.success() && printed == format!("There is no cluster `{FAILING}`."),
        "{}: {printed}",
        down.status
    );
    Ok(())
}

fn where_no_namespaces_can_be_made_it_is_said() -> Result<()> {
    // Root in a container that is not privileged.
    let said = refused(
        Command::new("setpriv")
            .args(["--bounding-set=-sys_admin", "--inh-caps=-sys_admin"])
            .arg(env!("CARGO_BIN_EXE_svclb-e2e"))
            .args(["up", "--name", FAILING]),
    )?;
    ensure!(
        said == "svclb-e2e: no network, mount and UTS namespaces can be made here: use a machine or VM of \
                 your own, or a privileged container: EPERM: Operation not permitted",
        "{said}"
    );
    Ok(())
}

fn a_missing_go_is_said() -> Result<()> {
    let program = env!("CARGO_BIN_EXE_svclb-e2e");
    let up = [program, "up", "--name", FAILING, "--nodes", "0"];
    let output = command_without(&["go"], &up).output()?;
    let said = said(&output);
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    ensure!(said.contains("The Go toolchain is missing"), "{said}");
    ensure!(
        said.ends_with("e2e/kubernetes/build.sh has failed, see above"),
        "{said}"
    );
    ensure!(!folder_is_there(), "a folder is left");
    Ok(())
}

fn options_that_make_no_cluster_are_refused() -> Result<()> {
    for (option, value, expected) in [
        (
            "--controllers",
            "-daemonset-controller",
            "svclb-e2e: --controllers -daemonset-controller leaves out serviceaccount-controller, without \
             which no pod can be created: begin with `*,` to name what is not wanted",
        ),
        (
            "--node-monitor-grace",
            "0s",
            "svclb-e2e: 0 ms are too short for a node to be silent: it reports every second, so take \
             --node-monitor-grace 2s or more",
        ),
    ] {
        let said = refused(&mut svclb_e2e(&["up", "--name", FAILING, option, value]))?;
        ensure!(said == expected, "{said}");
    }
    Ok(())
}
