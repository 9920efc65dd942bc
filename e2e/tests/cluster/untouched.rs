//! The host is afterwards as it was before, however a cluster ends.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use svclb_e2e::{Cluster, repository, wait};

use crate::Test;
use crate::host::Snapshot;
use crate::shared::{self, NODE_PORT, get, run, svclb_e2e};

pub(crate) const TESTS: &[(&str, Test)] = &[
    (
        "the_host_is_untouched_after_down",
        the_host_is_untouched_after_down,
    ),
    (
        "the_host_is_untouched_after_up_was_killed",
        the_host_is_untouched_after_up_was_killed,
    ),
    (
        "up_clears_away_what_a_killed_one_left",
        up_clears_away_what_a_killed_one_left,
    ),
    (
        "the_host_is_untouched_after_up_was_interrupted",
        the_host_is_untouched_after_up_was_interrupted,
    ),
];

/// Host snapshots look for this name.
const NAME: &str = "test-untouched";

/// A file of the cluster that comes up.
fn file(name: &str) -> PathBuf {
    repository().join("target/clusters").join(NAME).join(name)
}

/// Starts `up`, and returns as soon as it has got so far.
fn up_until(nodes: &str, milestone: &str) -> Result<Child> {
    let mut child = svclb_e2e(&["up", "--name", NAME, "--nodes", nodes])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let ended = wait::until(
        &format!("up makes {milestone}"),
        Duration::from_secs(120),
        || {
            let ended = child.try_wait().map_err(|error| error.to_string())?;
            if ended.is_some() || file(milestone).exists() {
                Ok(ended)
            } else {
                Err("not yet".to_owned())
            }
        },
    )?;
    if ended.is_some() {
        bail!("up has ended: {}", shared::said(&child.wait_with_output()?));
    }
    Ok(child)
}

fn the_host_is_untouched_after_down() -> Result<()> {
    let before = Snapshot::take()?;
    run(&["up", "--name", NAME, "--nodes", "2"])?;
    let cluster = Cluster::attach(NAME)?;
    shared::run_echo(&cluster)?;
    get(&cluster.client(), "10.231.1.2", NODE_PORT, "hostname")?;
    run(&["down", "--name", NAME])?;
    before.compare(NAME)
}

fn the_host_is_untouched_after_up_was_killed() -> Result<()> {
    let before = Snapshot::take()?;
    for milestone in [
        "switch/holder.process",
        "node-2/containerd.process",
        "node-1/kubelet.process",
    ] {
        let mut child = up_until("2", milestone)?;
        child.kill()?;
        child.wait()?;
        run(&["down", "--name", NAME]).context(milestone)?;
        before.compare(NAME).context(milestone)?;
    }
    Ok(())
}

fn up_clears_away_what_a_killed_one_left() -> Result<()> {
    let before = Snapshot::take()?;
    let mut child = up_until("1", "control-plane/kube-apiserver.process")?;
    child.kill()?;
    child.wait()?;
    run(&["up", "--name", NAME, "--nodes", "0"])?;
    let cluster = Cluster::attach(NAME)?;
    ensure!(
        cluster.nodes().is_empty(),
        "the new cluster has the nodes of the old one"
    );
    cluster.kubectl(&["get", "--raw=/readyz"])?;
    cluster.down()?;
    before.compare(NAME)
}

fn the_host_is_untouched_after_up_was_interrupted() -> Result<()> {
    let before = Snapshot::take()?;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let child = up_until("1", "control-plane/kube-apiserver.process")?;
        kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
        let output = child.wait_with_output()?;
        let said = shared::said(&output);
        ensure!(
            output.status.code() == Some(1),
            "{signal}: {}",
            output.status
        );
        ensure!(said.ends_with("svclb-e2e: interrupted"), "{signal}: {said}");
        before.compare(NAME).context(signal)?;
    }
    Ok(())
}
