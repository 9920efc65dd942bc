//! What cannot be done is said in one line, and leaves nothing.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, ensure};
use svclb_e2e::repository;

use crate::Test;
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
        "only_root_can_bring_a_cluster_up",
        only_root_can_bring_a_cluster_up,
    ),
    (
        "a_full_disk_is_said_beforehand",
        a_full_disk_is_said_beforehand,
    ),
    (
        "a_component_that_fails_is_named_with_its_log",
        a_component_that_fails_is_named_with_its_log,
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

fn only_root_can_bring_a_cluster_up() -> Result<()> {
    // From a copy, since the way to the built one may be closed to others.
    let copy = std::env::temp_dir().join(format!("svclb-e2e-{}", std::process::id()));
    std::fs::copy(env!("CARGO_BIN_EXE_svclb-e2e"), &copy)?;
    let said = refused(
        Command::new(&copy)
            .args(["up", "--name", FAILING])
            .current_dir("/")
            .uid(65534)
            .gid(65534),
    );
    std::fs::remove_file(&copy)?;
    let said = said?;
    ensure!(
        said.ends_with("which only root can make: try again as root"),
        "{said}"
    );
    Ok(())
}

fn a_full_disk_is_said_beforehand() -> Result<()> {
    // A small disk in place of the real one, in a mount namespace of its own.
    let script = r#"mount -t tmpfs -o size=20m tmpfs target/clusters && exec "$0" "$@""#;
    let said = refused(
        Command::new("unshare")
            .args([
                "--mount",
                "sh",
                "-c",
                script,
                env!("CARGO_BIN_EXE_svclb-e2e"),
            ])
            .args(["up", "--name", FAILING, "--nodes", "0"])
            .current_dir(repository()),
    )?;
    ensure!(
        said.contains("too little disk space: ") && said.contains(" MiB are available"),
        "{said}"
    );
    Ok(())
}

fn a_component_that_fails_is_named_with_its_log() -> Result<()> {
    let output = svclb_e2e(&[
        "up",
        "--name",
        FAILING,
        "--nodes",
        "0",
        "--controllers",
        "*,nonsense",
    ])
    .output()?;
    let said = said(&output);
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    ensure!(
        said.contains("kube-controller-manager on control-plane has ended; its log"),
        "{said}"
    );
    ensure!(
        said.contains("nonsense"),
        "the log's last lines are missing: {said}"
    );
    ensure!(!folder_is_there(), "a folder is left");
    Ok(())
}
