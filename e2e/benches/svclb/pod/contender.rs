//! What is compared: svclb-pod, one process for all ports, and klipper-lb's way, one shell a port.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::folders::Folders;
use crate::klipper::{Forward, Klipper, Variant};
use crate::namespaces::Namespace;
use crate::process::{self, Process};

/// Where the forwards lead: the ClusterIP of the Service that the bench plays.
pub(super) const SERVICE: &str = "10.43.0.10";
/// The first port of the Service. The destination's ports are the same, as they are for ServiceLB.
pub(super) const FIRST_PORT: u16 = 8001;

/// The program or script that makes a pod's rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Contender {
    /// svclb-pod with nf_tables.
    Ours,
    /// svclb-pod with its fallback for kernels without nf_tables.
    OursLegacy,
    /// klipper-lb's way.
    Klipper(Variant),
}

/// The Service whose rules are made: so many TCP ports, so many source ranges (0: from anywhere).
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) ports: u16,
    pub(super) ranges: usize,
}

impl Shape {
    /// The Service's ports.
    fn ports(self) -> impl Iterator<Item = u16> {
        FIRST_PORT..FIRST_PORT + self.ports
    }

    /// Ranges that do not touch each other, with the clients of the traffic figures (10.9.0.0/16) in
    /// the middle one. None if any source may connect.
    fn source_ranges(self) -> Option<String> {
        let range = |index| match index {
            middle if middle == self.ranges / 2 => "10.9.0.0/16".to_owned(),
            other => format!("172.16.{other}.0/25"),
        };
        let ranges: Vec<String> = (0..self.ranges).map(range).collect();
        (!ranges.is_empty()).then(|| ranges.join(","))
    }
}

/// Where the contenders' files are.
pub(super) struct Contenders {
    /// A copy of svclb-pod that only the bench runs, so that nobody shares its pages.
    pub(super) svclb_pod: PathBuf,
    klipper: Klipper,
}

impl Contenders {
    /// Takes svclb-pod's release build, and lays out the script.
    pub(super) fn find(folders: &Folders) -> Result<Self> {
        let built = folders.build("svclb-pod")?;
        let svclb_pod = folders.work.join("svclb-pod");
        fs::copy(&built, &svclb_pod).with_context(|| format!("copying {}", built.display()))?;
        // Pages that are not on disk yet would count as the process's own.
        let copied = File::open(&svclb_pod).and_then(|file| file.sync_all());
        copied.context("writing the copy to disk")?;
        Ok(Self {
            svclb_pod,
            klipper: Klipper::lay_out(&folders.work)?,
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
            Contender::Ours => vec![self.svclb_pod("nftables", shape, cgroup)],
            Contender::OursLegacy => vec![self.svclb_pod("iptables", shape, cgroup)],
            Contender::Klipper(variant) => self.klipper(variant, shape, cgroup)?,
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

    fn svclb_pod(&self, backend: &str, shape: Shape, cgroup: Option<&Path>) -> Command {
        let forwards: Vec<String> = shape
            .ports()
            .map(|port| format!("tcp/{port}={port}"))
            .collect();
        let mut command = process::command(&self.svclb_pod, cgroup);
        command
            .env("SVCLB_FORWARDS", forwards.join(","))
            .env("SVCLB_BACKEND", backend)
            .env("DEST_IPS", SERVICE)
            .envs(shape.source_ranges().map(|ranges| ("SRC_RANGES", ranges)));
        command
    }

    fn klipper(
        &self,
        variant: Variant,
        shape: Shape,
        cgroup: Option<&Path>,
    ) -> Result<Vec<Command>> {
        let forward = |port| Forward {
            protocol: "TCP",
            port,
            to_port: port,
            to: SERVICE.to_owned(),
            source_ranges: shape
                .source_ranges()
                .unwrap_or_else(|| "0.0.0.0/0".to_owned()),
        };
        shape
            .ports()
            .map(|port| self.klipper.command(variant, &forward(port), cgroup))
            .collect()
    }
}

/// The processes that hold a pod's rules. Dropped, they are killed; the rules stay in the namespace.
pub(super) struct Pod {
    processes: Vec<Process>,
    /// From before the start of each process until its rules were in place, summed.
    pub(super) took: Duration,
}

impl Pod {
    /// Ends the pod's processes, one after the other, and tells how long that took them, summed.
    pub(super) fn end(self) -> Result<Duration> {
        self.processes.into_iter().map(Process::end).sum()
    }

    /// The ids of the pod's processes.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.processes.iter().map(Process::id)
    }
}

/// What a pod gets: an interface besides the loopback, and forwarding (which svclb-pod would set by
/// itself, and ServiceLB sets by a sysctl of the pod).
pub(super) fn namespace() -> Result<Namespace> {
    let namespace = Namespace::new()?;
    namespace.ip(
        "link add eth0 type veth peer name host\naddr add 10.9.0.2/24 dev eth0\nlink set eth0 up\n",
    )?;
    namespace.sysctl(&[("net.ipv4.ip_forward", "1")])?;
    Ok(namespace)
}
