//! The host is afterwards as it was before, however a cluster ends.

use std::io::Read as _;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use svclb_e2e::{Cluster, Progress, repository, wait};

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
    (
        "the_host_is_untouched_after_the_terminal_was_closed",
        the_host_is_untouched_after_the_terminal_was_closed,
    ),
    (
        "the_host_is_untouched_after_up_failed",
        the_host_is_untouched_after_up_failed,
    ),
    (
        "the_host_is_untouched_after_a_panic_in_up",
        the_host_is_untouched_after_a_panic_in_up,
    ),
    ("one_up_at_a_time_has_a_name", one_up_at_a_time_has_a_name),
    (
        "up_and_status_do_without_a_reader",
        up_and_status_do_without_a_reader,
    ),
];

/// Host snapshots look for this name.
const NAME: &str = "test-untouched";

/// A file of the cluster that comes up.
fn file(name: &str) -> PathBuf {
    repository().join("target/clusters").join(NAME).join(name)
}

/// With this, no namespace gets its default ServiceAccount: `up` goes on waiting for one, and does not
/// end before a test has looked.
const NEVER_COMPLETE: [&str; 2] = ["--controllers", "*,-serviceaccount-controller"];

/// Kubernetes may have to be built first.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Starts an `up` that does not end by itself, and returns as soon as it has got so far.
fn up_until(nodes: &str, milestone: &str) -> Result<Child> {
    let mut child = svclb_e2e(&["up", "--name", NAME, "--nodes", nodes])
        .args(NEVER_COMPLETE)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    wait_for_milestone(&mut child, milestone)?;
    Ok(child)
}

fn wait_for_milestone(child: &mut Child, milestone: &str) -> Result<()> {
    let ended = wait::until(&format!("up makes {milestone}"), PATIENCE, || {
        let ended = child.try_wait().map_err(|error| error.to_string())?;
        if ended.is_some() || file(milestone).exists() {
            Ok(ended)
        } else {
            Err("not yet".to_owned())
        }
    })?;
    if let Some(status) = ended {
        let mut said = String::new();
        if let Some(stderr) = &mut child.stderr {
            stderr.read_to_string(&mut said)?;
        }
        bail!("up has ended ({status}): {said}");
    }
    Ok(())
}

fn the_host_is_untouched_after_down() -> Result<()> {
    let before = Snapshot::take(NAME)?;
    run(&["up", "--name", NAME, "--nodes", "2"])?;
    let cluster = Cluster::attach(NAME)?;
    shared::run_echo(&cluster)?;
    get(&cluster.client(), "10.231.1.2", NODE_PORT, "hostname")?;
    run(&["down", "--name", NAME])?;
    before.compare()
}

fn the_host_is_untouched_after_up_was_killed() -> Result<()> {
    let before = Snapshot::take(NAME)?;
    for milestone in [
        "switch/holder.process",
        "node-2/containerd.process",
        "node-1/kubelet.process",
    ] {
        let mut child = up_until("2", milestone)?;
        child.kill()?;
        child.wait()?;
        run(&["down", "--name", NAME]).context(milestone)?;
        before.compare().context(milestone)?;
    }
    Ok(())
}

fn up_clears_away_what_a_killed_one_left() -> Result<()> {
    let before = Snapshot::take(NAME)?;
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
    before.compare()
}

fn the_host_is_untouched_after_up_was_interrupted() -> Result<()> {
    let before = Snapshot::take(NAME)?;
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let child = up_until("1", "control-plane/kube-apiserver.process")?;
        send(&child, signal)?;
        let output = child.wait_with_output()?;
        let said = shared::said(&output);
        ensure!(
            output.status.code() == Some(1),
            "{signal}: {}",
            output.status
        );
        ensure!(said.ends_with("svclb-e2e: interrupted"), "{signal}: {said}");
        before.compare().context(signal)?;
    }
    Ok(())
}

fn send(child: &Child, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(child.id())?), signal)?)
}

fn the_host_is_untouched_after_the_terminal_was_closed() -> Result<()> {
    let before = Snapshot::take(NAME)?;
    let mut child = up_until("1", "control-plane/kube-apiserver.process")?;
    drop(child.stderr.take());
    send(&child, Signal::SIGHUP)?;
    let status = child.wait()?;
    ensure!(status.code() == Some(1), "{status}");
    before.compare()
}

/// What fails is a component that comes after the nodes' runtimes: all there is to clean up is there.
fn the_host_is_untouched_after_up_failed() -> Result<()> {
    let before = Snapshot::take(NAME)?;
    let arguments = ["up", "--name", NAME, "--nodes", "2", "--controllers"];
    let output = svclb_e2e(&arguments).arg("*,nonsense").output()?;
    let said = shared::said(&output);
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    ensure!(
        said.contains("kube-controller-manager on control-plane has ended; its log"),
        "{said}"
    );
    ensure!(
        said.contains("nonsense"),
        "the log's last lines are missing: {said}"
    );
    before.compare()
}

fn the_host_is_untouched_after_a_panic_in_up() -> Result<()> {
    let before = Snapshot::take(NAME)?;
    // The first is told by the thread that brings all up, the second by the one for the runtimes.
    for milestone in ["hosts ", "containerd on each node"] {
        let progress = Progress::new(move |_, step| {
            if step.starts_with(milestone) {
                // A panic like any other, but for the message on standard error.
                panic::resume_unwind(Box::new(milestone));
            }
        });
        let options = shared::named(NAME, 1);
        let up = panic::catch_unwind(AssertUnwindSafe(|| Cluster::up(&options, &progress)));
        let Err(cause) = up else {
            bail!("`{milestone}`: no panic");
        };
        let said = cause.downcast_ref::<&str>();
        ensure!(said == Some(&milestone), "`{milestone}` became {said:?}");
        before.compare().context(milestone)?;
    }
    Ok(())
}

fn one_up_at_a_time_has_a_name() -> Result<()> {
    let before = Snapshot::take(NAME)?;
    let mut first = up_until("0", "switch/holder.process")?;
    for command in ["up", "down"] {
        let output = svclb_e2e(&[command, "--name", NAME]).output()?;
        let said = shared::said(&output);
        ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
        ensure!(
            said == format!(
                "svclb-e2e: cluster `{NAME}` is being brought up or taken down by another process: \
                 wait for it, or use another --name"
            ),
            "{said}"
        );
    }
    // It is none the worse for them.
    wait_for_milestone(&mut first, "control-plane/kube-apiserver.process")?;
    send(&first, Signal::SIGTERM)?;
    first.wait()?;
    before.compare()
}

fn up_and_status_do_without_a_reader() -> Result<()> {
    let mut up = svclb_e2e(&["up", "--name", NAME, "--nodes", "0"])
        .stderr(Stdio::piped())
        .spawn()?;
    drop(up.stderr.take());
    let status = up.wait()?;
    ensure!(status.success(), "up: {status}");
    Cluster::attach(NAME)?.kubectl(&["get", "--raw=/readyz"])?;

    let mut status = svclb_e2e(&["status"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    drop(status.stdout.take());
    let output = status.wait_with_output()?;
    let said = shared::said(&output);
    ensure!(output.status.success() && said.is_empty(), "status: {said}");

    let mut down = svclb_e2e(&["down", "--name", NAME])
        .stderr(Stdio::piped())
        .spawn()?;
    drop(down.stderr.take());
    let status = down.wait()?;
    ensure!(status.success(), "down: {status}");
    ensure!(!file("").exists(), "its folder is left");
    Ok(())
}
