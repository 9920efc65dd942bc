//! The processes that make a pod's rules, and how it is known that they have.

use std::io::{BufRead, BufReader, PipeReader, pipe};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One process, killed when dropped. Its output is held on to: were the pipe closed, the next line
/// would kill it.
pub(crate) struct Process {
    child: Child,
    output: BufReader<PipeReader>,
}

impl Process {
    /// Starts the command and waits for the line that tells that its rules are in place, which
    /// svclb-pod and klipper-lb's way (as written here) print once the kernel has taken all of them.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let (reader, writer) = pipe().context("making a pipe")?;
        let child = command
            .stdin(Stdio::null())
            .stderr(writer.try_clone().context("copying a pipe")?)
            .stdout(writer)
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        // The command holds the pipe's writing end: with it a process that ends is not noticed.
        drop(command);
        let mut process = Self {
            child,
            output: BufReader::new(reader),
        };
        let mut said = String::new();
        loop {
            let line = said.len();
            let read = process
                .output
                .read_line(&mut said)
                .context("reading a pod's output")?;
            ensure!(
                read > 0,
                "the process ended before its rules were in place; it said: {said}"
            );
            if said[line..].contains("in place") {
                return Ok(process);
            }
        }
    }

    /// Ends it as a kubelet does, and tells how long that took: from before the signal until it is gone.
    pub(crate) fn end(mut self) -> Result<Duration> {
        let pid = Pid::from_raw(self.id().try_into().context("its id")?);
        let begun = Instant::now();
        kill(pid, Signal::SIGTERM).context("ending a pod's process")?;
        self.child.wait().context("waiting for a pod's process")?;
        Ok(begun.elapsed())
    }

    /// The process's id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended already needs neither.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command without environment. One that belongs into a cgroup is entered by a shell that the
/// program then replaces.
pub(crate) fn command(program: &Path, cgroup: Option<&Path>) -> Command {
    const ENTER: &str = r#"echo $$ >"$0" && exec "$@""#;
    let mut command = match cgroup {
        Some(cgroup) => {
            let mut shell = Command::new("/bin/sh");
            shell
                .args(["-c", ENTER])
                .arg(cgroup.join("cgroup.procs"))
                .arg(program);
            shell
        }
        None => Command::new(program),
    };
    command.env_clear();
    command
}
