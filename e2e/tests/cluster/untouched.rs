//! The host is afterwards as it was before, however a cluster ends.

use std::fs::Permissions;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use svclb_e2e::{Cluster, Progress, repository, wait};

use crate::Test;
use crate::bystanders::Bystanders;
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
        "scripts_of_a_killed_up_end_with_what_it_left",
        scripts_of_a_killed_up_end_with_what_it_left,
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

/// With this, nobody takes away the taint of a new node that was not ready yet: `up` goes on waiting for
/// that, and does not end before a test has looked.
const NEVER_COMPLETE: [&str; 2] = ["--controllers", "*,-node-lifecycle-controller"];

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
    let bystanders = Bystanders::start()?;
    let up = svclb_e2e(&["up", "--name", NAME, "--nodes", "2"]).output()?;
    let said = shared::said(&up);
    ensure!(up.status.success(), "{}: {said}", up.status);
    up_says_what_it_does_and_how_to_go_on(&said)?;
    let cluster = Cluster::attach(NAME)?;
    shared::run_echo(&cluster)?;
    get(&cluster.client(), "10.231.1.2", NODE_PORT, "hostname")?;
    let down = svclb_e2e(&["down", "--name", NAME]).output()?;
    let said = shared::said(&down);
    let seconds = said
        .strip_prefix(&format!("Cluster `{NAME}` is gone after "))
        .and_then(|rest| rest.strip_suffix(" s.")?.parse::<f64>().ok());
    ensure!(
        down.status.success() && seconds.is_some(),
        "{}: {said}",
        down.status
    );
    bystanders.check()?;
    before.compare()
}

/// Steps with times, the time of all, memory, and commands that work as they are said.
fn up_says_what_it_does_and_how_to_go_on(said: &str) -> Result<()> {
    let (steps, end) = said
        .split_once(&format!("Cluster `{NAME}` is up after "))
        .with_context(|| format!("the end is missing: {said}"))?;
    for expected in [
        "hosts control-plane, client, node-1, node-2, as network namespaces on a switch",
        "containerd on each node, images loaded",
        "etcd and kube-apiserver are ready",
        "kube-controller-manager and kube-scheduler are at work",
        "all nodes are Ready",
    ] {
        let mut lines = steps.lines().filter_map(|line| line.split_once(" s  "));
        let time = lines
            .find(|(_, step)| *step == expected)
            .and_then(|(time, _)| time.trim().parse::<f64>().ok());
        ensure!(
            time.is_some(),
            "`{expected}` or its time is missing: {said}"
        );
    }
    let (figures, usage) = end
        .split_once(" MiB of memory. Use it with\n")
        .with_context(|| format!("how to use it is missing: {end}"))?;
    let (seconds, memory) = figures
        .split_once(" s, with ")
        .with_context(|| format!("time and memory are missing: {figures}"))?;
    seconds.parse::<f64>()?;
    // An API server alone has more than 100 MiB.
    ensure!(memory.parse::<u64>()? > 100, "{figures}");

    let usage: Vec<_> = usage.lines().map(str::trim).collect();
    let program = env!("CARGO_BIN_EXE_svclb-e2e");
    let expected =
        ["kubectl", "exec", "down"].map(|what| format!("{program} {what} --name {NAME}"));
    ensure!(
        usage.len() == 3
            && usage
                .iter()
                .zip(&expected)
                .all(|(line, begin)| line.starts_with(begin)),
        "{usage:?}"
    );
    let kubectl = Command::new("sh").args(["-c", usage[0]]).output()?;
    let nodes = String::from_utf8_lossy(&kubectl.stdout);
    ensure!(nodes.contains("node-2"), "{}: {kubectl:?}", usage[0]);
    Ok(())
}

fn the_host_is_untouched_after_up_was_killed() -> Result<()> {
    let before = Snapshot::take(NAME)?;
    let bystanders = Bystanders::start()?;
    for milestone in [
        "switch/holder.process",
        "node-2/containerd.process",
        "node-1/kubelet.process",
    ] {
        let mut child = up_until("2", milestone)?;
        child.kill()?;
        child.wait()?;
        let status = run(&["status"])?;
        ensure!(
            status.contains(&format!("\n{NAME}: incomplete; ")),
            "{status}"
        );
        run(&["down", "--name", NAME]).context(milestone)?;
        before.compare().context(milestone)?;
    }
    bystanders.check()
}

/// One of the programs that the scripts call before there is a cluster takes for ever.
fn scripts_of_a_killed_up_end_with_what_it_left() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("svclb-e2e-scripts-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let (program, pid) = (folder.join("sha256sum"), folder.join("pid"));
    let script = format!(
        "#!/bin/sh\necho $$ >{0}.new && mv {0}.new {0}\nexec sleep 1000\n",
        pid.display()
    );
    std::fs::write(&program, script)?;
    std::fs::set_permissions(&program, Permissions::from_mode(0o755))?;
    let path = format!("{}:{}", folder.display(), std::env::var("PATH")?);
    let mut up = svclb_e2e(&["up", "--name", NAME, "--nodes", "0"])
        .env("PATH", path)
        .stderr(Stdio::null())
        .spawn()?;
    let pid = wait::until("build.sh has called sha256sum", PATIENCE, || {
        std::fs::read_to_string(&pid).map_err(|error| error.to_string())
    })?;
    let process = PathBuf::from("/proc").join(pid.trim());
    up.kill()?;
    up.wait()?;
    ensure!(process.exists(), "it has ended with up");
    run(&["down", "--name", NAME])?;
    // What has ended and is not yet waited for by its new parent, init, has no command line.
    let runs = std::fs::read(process.join("cmdline")).is_ok_and(|line| !line.is_empty());
    ensure!(!runs, "it still runs");
    ensure!(!file("").exists(), "a folder is left");
    std::fs::remove_dir_all(&folder)?;
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
    let log = said
        .split_once("its log, ")
        .and_then(|(_, rest)| Some(rest.split_once(", ends with")?.0))
        .with_context(|| format!("where the log lies is missing: {said}"))?;
    let kept = std::fs::read_to_string(log).with_context(|| log.to_owned())?;
    ensure!(kept.contains("nonsense"), "{log}: {kept}");
    std::fs::remove_file(log)?;
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
    let mut first = up_until("1", "switch/holder.process")?;
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
