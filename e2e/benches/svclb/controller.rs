//! The controller's release build, run on a cluster's control plane under exactly the manifest's
//! rights, and what can be seen of it from outside.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};
use svclb_e2e::{Cluster, wait};

use crate::cluster::Ended;
use crate::folders::Folders;

const PATIENCE: Duration = Duration::from_secs(60);
/// Where its DaemonSets and svclb pods are.
pub(crate) const NAMESPACE: &str = "kube-system";
/// The label by which a DaemonSet and a svclb pod name their Service.
pub(crate) const SERVICE_LABEL: &str = "svccontroller.k3s.cattle.io/svcname";
const PORT: u16 = 9300;

/// A running controller that has the Lease's and the stores' blessing. Dropped, it is killed.
pub(crate) struct Controller {
    process: Ended,
    cluster: Cluster,
    /// From its start until it led and its stores were synced.
    pub(crate) ready_after: Duration,
}

impl Controller {
    /// Applies the manifest but for its Deployment: the bench runs the program itself.
    pub(crate) fn install(cluster: &Cluster, folders: &Folders) -> Result<()> {
        let path = folders.repository.join("manifests/svclb.yaml");
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let documents = text
            .split("\n---\n")
            .filter(|document| !document.contains("\nkind: Deployment\n"));
        let file = folders.work.join("manifest.yaml");
        let rest = documents.collect::<Vec<_>>().join("\n---\n");
        fs::write(&file, rest).with_context(|| format!("writing {}", file.display()))?;
        cluster.kubectl(&["apply", "--filename", &file.to_string_lossy()])?;
        Ok(())
    }

    /// Starts a controller and returns when it is ready and leads.
    pub(crate) fn start(cluster: &Cluster, folders: &Folders, flags: &[&str]) -> Result<Self> {
        let kubeconfig = cluster.kubeconfig_for_service_account(NAMESPACE, "svclb-controller")?;
        let path = folders.work.join("controller.log");
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("opening {}", path.display()))?;
        let begun = Instant::now();
        let child = cluster
            .control_plane()
            .command(folders.built.join("svclb-controller"))
            .env("KUBECONFIG", kubeconfig)
            .arg(format!("--metrics-address=[::]:{PORT}"))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let mut controller = Self {
            process: Ended(child),
            cluster: cluster.clone(),
            ready_after: Duration::ZERO,
        };
        let leads = || match controller.metric("svclb_leader") {
            Ok(leads)
                if leads > 0.0
                    && controller
                        .get("/readyz")
                        .is_ok_and(|answer| answer == "ok\n") =>
            {
                Ok(())
            }
            Ok(_) => Err("it waits".to_owned()),
            Err(error) => Err(format!("{error:#}")),
        };
        wait::until("the controller leads", PATIENCE, leads)
            .with_context(|| format!("its log is {}", path.display()))?;
        controller.ready_after = begun.elapsed();
        Ok(controller)
    }

    /// Asks it to end, and returns when it has: the Lease is free then.
    pub(crate) fn stop(mut self) -> Result<()> {
        let pid = self.process.0.id().to_string();
        Command::new("kill")
            .arg(pid)
            .status()
            .context("running kill")?;
        self.process
            .0
            .wait()
            .context("waiting for the controller")?;
        Ok(())
    }

    /// The answer of one of its endpoints.
    pub(crate) fn get(&self, path: &str) -> Result<String> {
        let answer = self.cluster.control_plane().within(|| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(
                stream,
                "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            std::io::Result::Ok(answer)
        })?;
        let answer = answer.with_context(|| format!("asking the controller for {path}"))?;
        let (_, body) = answer
            .split_once("\r\n\r\n")
            .context("the controller's answer is no HTTP")?;
        Ok(body.to_owned())
    }

    /// A number of `/metrics` by its full name with labels; 0 if it is not there yet.
    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        let text = self.get("/metrics")?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(Ok(0.0), |value| {
            value
                .parse()
                .with_context(|| format!("reading {name}: {value}"))
        })
    }

    /// Writes that the API server took, of all kinds.
    pub(crate) fn writes(&self) -> Result<f64> {
        let text = self.get("/metrics")?;
        let taken = |line: &&str| {
            line.starts_with("svclb_api_writes_total{") && line.contains("outcome=\"ok\"")
        };
        let values = text
            .lines()
            .filter(taken)
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        Ok(values.sum::<u64>() as f64)
    }

    /// CPU time that it has used so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.process.0.id());
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        // After the name, which may hold anything: state, ten numbers, user time, system time.
        let fields = text
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        let ticks: f64 = fields
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<f64>().ok())
            .sum();
        let per_second = sysconf(SysconfVar::CLK_TCK)
            .ok()
            .flatten()
            .context("asking for the clock's ticks")?;
        Ok(ticks / per_second as f64)
    }

    /// Resident memory in MB, now or at its peak.
    pub(crate) fn memory(&self, which: Memory) -> Result<f64> {
        let path = format!("/proc/{}/status", self.process.0.id());
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let key = match which {
            Memory::Now => "VmRSS:",
            Memory::Peak => "VmHWM:",
        };
        let kibibytes = text.lines().find_map(|line| {
            line.strip_prefix(key)?
                .split_whitespace()
                .next()?
                .parse::<f64>()
                .ok()
        });
        Ok(kibibytes.with_context(|| format!("finding {key} in {path}"))? * 1024.0 / 1e6)
    }
}

/// Which of a process's two sizes.
#[derive(Clone, Copy)]
pub(crate) enum Memory {
    Now,
    Peak,
}
