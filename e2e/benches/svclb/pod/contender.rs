//! What is compared: svclb-pod, one process for all ports, and klipper-lb's way, one shell a port.

use std::fs;
use std::io::{BufRead, BufReader, PipeReader, pipe};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::namespaces::Namespace;

/// Where the forwards lead: the ClusterIP of the Service that the bench plays.
pub(super) const SERVICE: &str = "10.43.0.10";
/// The first port of the Service. The destination's ports are the same, as they are for ServiceLB.
pub(super) const FIRST_PORT: u16 = 8001;

/// The shell of klipper-lb's way.
pub(super) const BUSYBOX: &str = "/usr/bin/busybox";

/// The program or script that makes a pod's rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Contender {
    /// svclb-pod with nf_tables.
    Ours,
    /// svclb-pod with its fallback for kernels without nf_tables.
    OursLegacy,
    /// klipper-lb's way with iptables-nft.
    Nft,
    /// klipper-lb's way with iptables-legacy.
    Legacy,
}

impl Contender {
    fn backend(self) -> &'static str {
        match self {
            Self::Ours => "nftables",
            Self::OursLegacy => "iptables",
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }
}

/// The Service whose rules are made: so many TCP ports, so many source ranges (0: from anywhere).
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) ports: u16,
    pub(super) ranges: usize,
}

impl Shape {
    /// The Service's ports.
    pub(super) fn ports(self) -> impl Iterator<Item = u16> {
        FIRST_PORT..FIRST_PORT + self.ports
    }

    /// Ranges that do not touch each other, with the clients of the traffic figures (10.9.0.0/16) in
    /// the middle one.
    fn source_ranges(self) -> String {
        let ranges = (0..self.ranges).map(|index| match index {
            middle if middle == self.ranges / 2 => "10.9.0.0/16".to_owned(),
            other => format!("172.16.{}.0/25", other),
        });
        ranges.collect::<Vec<_>>().join(",")
    }
}

/// Where the contenders' files are.
pub(super) struct Contenders {
    /// A copy of svclb-pod that only the bench runs, so that nobody shares its pages.
    pub(super) svclb_pod: PathBuf,
    script: PathBuf,
    /// A folder that the bench may fill, emptied at its start.
    pub(super) work: PathBuf,
}

impl Contenders {
    /// Finds svclb-pod's release build beside the bench and lays out the script.
    pub(super) fn find() -> Result<Self> {
        let bench = std::env::current_exe().context("finding the bench itself")?;
        let built = bench
            .ancestors()
            .nth(2)
            .context("finding the build folder")?
            .join("svclb-pod");
        let target = bench
            .ancestors()
            .nth(4)
            .context("finding the target folder")?;
        let work = target.join("bench/work");
        if work.exists() {
            fs::remove_dir_all(&work).with_context(|| format!("emptying {}", work.display()))?;
        }
        fs::create_dir_all(&work).with_context(|| format!("making {}", work.display()))?;
        let svclb_pod = work.join("svclb-pod");
        fs::copy(&built, &svclb_pod).with_context(|| {
            format!(
                "copying {}: built by `cargo build --release -p svclb-pod`",
                built.display()
            )
        })?;
        let script = work.join("klipper.sh");
        fs::write(&script, include_str!("klipper.sh")).context("writing the script")?;
        Ok(Self {
            svclb_pod,
            script,
            work,
        })
    }

    /// Starts the pod's processes in `namespace`, one after the other where there are several (as a
    /// kubelet does), and waits until all rules are in place. `cgroup` is where they are put, if
    /// anywhere.
    pub(super) fn start(
        &self,
        contender: Contender,
        shape: Shape,
        namespace: &Namespace,
        cgroup: Option<&Path>,
    ) -> Result<Pod> {
        let commands = match contender {
            Contender::Ours | Contender::OursLegacy => {
                vec![self.svclb_pod(contender, shape, cgroup)]
            }
            Contender::Nft | Contender::Legacy => shape
                .ports()
                .map(|port| self.klipper(contender, shape, port, cgroup))
                .collect::<Result<_>>()?,
        };
        namespace.within(move || {
            let mut pod = Pod {
                processes: Vec::new(),
                took: Duration::ZERO,
            };
            for command in commands {
                let begun = Instant::now();
                let process = Process::start(command)?;
                pod.took += begun.elapsed();
                pod.processes.push(process);
            }
            Ok(pod)
        })
    }

    fn svclb_pod(&self, contender: Contender, shape: Shape, cgroup: Option<&Path>) -> Command {
        let forwards: Vec<String> = shape
            .ports()
            .map(|port| format!("tcp/{port}={port}"))
            .collect();
        let mut command = command(&self.svclb_pod, cgroup);
        command
            .env("SVCLB_FORWARDS", forwards.join(","))
            .env("SVCLB_BACKEND", contender.backend())
            .env("DEST_IPS", SERVICE);
        if shape.ranges > 0 {
            command.env("SRC_RANGES", shape.source_ranges());
        }
        command
    }

    /// ServiceLB gives the range 0.0.0.0/0 where the Service gives none.
    fn klipper(
        &self,
        contender: Contender,
        shape: Shape,
        port: u16,
        cgroup: Option<&Path>,
    ) -> Result<Command> {
        let folder = self
            .work
            .join(format!("klipper-{}-{port}", contender.backend()));
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let ranges = match shape.ranges {
            0 => "0.0.0.0/0".to_owned(),
            _ => shape.source_ranges(),
        };
        let mut command = command(Path::new(BUSYBOX), cgroup);
        command
            .arg("sh")
            .arg(&self.script)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("WORK", &folder)
            .env("BACKEND", contender.backend())
            // A container has a lock file of its own.
            .env("XTABLES_LOCKFILE", folder.join("xtables.lock"))
            .env("SRC_PORT", port.to_string())
            .env("DEST_PORT", port.to_string())
            .env("DEST_PROTO", "TCP")
            .env("DEST_IPS", SERVICE)
            .env("SRC_RANGES", ranges);
        Ok(command)
    }
}

/// A command without environment. One that belongs into a cgroup is entered by a shell that the
/// program then replaces.
fn command(program: &Path, cgroup: Option<&Path>) -> Command {
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

/// The processes that hold a pod's rules. Dropped, they are killed; the rules stay in the namespace.
pub(super) struct Pod {
    processes: Vec<Process>,
    /// From before the start of each process until its rules were in place, summed.
    pub(super) took: Duration,
}

impl Pod {
    /// The ids of the pod's processes.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.processes.iter().map(|process| process.child.id())
    }
}

/// One process, with the pipe that its output goes to: were it closed, the next line would kill it.
struct Process {
    child: Child,
    output: BufReader<PipeReader>,
}

impl Process {
    /// Starts the command and waits for the line that tells that its rules are in place, which
    /// svclb-pod and the script write once the kernel has taken all of them.
    fn start(mut command: Command) -> Result<Self> {
        let (reader, writer) = pipe().context("making a pipe")?;
        let child = command
            .stdin(Stdio::null())
            .stderr(writer.try_clone().context("copying a pipe")?)
            .stdout(writer)
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        // The command holds the pipe's writing end: without this a process that ends is not noticed.
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
                "the pod's process ended before its rules were in place; it said: {said}"
            );
            if said[line..].contains("in place") {
                return Ok(process);
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended already needs neither.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
