//! Network namespaces of the bench's own, which vanish with it: nothing holds them but open files.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns, unshare};

/// One network namespace.
pub(crate) struct Namespace {
    net: File,
}

impl Namespace {
    /// Makes a namespace with its loopback interface up.
    pub(crate) fn new() -> Result<Self> {
        let net = thread::scope(|scope| {
            let made = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
                File::open("/proc/thread-self/ns/net").context("opening the new network namespace")
            });
            made.join()
                .unwrap_or_else(|_| Err(anyhow!("the thread that made a namespace panicked")))
        })?;
        let namespace = Self { net };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// One that somebody else has made: a path like `/proc/1/ns/net`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let net = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Self { net })
    }

    /// Does `work` on a thread inside the namespace: what it opens, spawns and starts is there too.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.net, CloneFlags::CLONE_NEWNET)
                    .context("entering a network namespace")?;
                work()
            });
            inside
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a thread in a namespace panicked")))
        })
    }

    /// The path by which other processes can open the namespace.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.net.as_raw_fd())
    }

    /// Runs lines of `ip -batch` inside.
    pub(crate) fn ip(&self, lines: &str) -> Result<()> {
        self.within(|| {
            let mut ip = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .context("starting ip")?;
            if let Some(mut stdin) = ip.stdin.take() {
                stdin.write_all(lines.as_bytes()).context("writing to ip")?;
            }
            let output = ip.wait_with_output().context("waiting for ip")?;
            if !output.status.success() {
                bail!(
                    "ip -batch failed: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                );
            }
            Ok(())
        })
    }

    /// Joins the two namespaces by a pair of devices, each with its address (`10.0.0.1/30`).
    pub(crate) fn join(
        &self,
        device: (&str, &str),
        other: &Self,
        there: (&str, &str),
    ) -> Result<()> {
        let (name, address) = device;
        let (other_name, other_address) = there;
        self.ip(&format!(
            "link add {name} type veth peer name {other_name} netns {}\n\
             addr add {address} dev {name}\nlink set {name} up\n",
            other.path()
        ))?;
        other.ip(&format!(
            "addr add {other_address} dev {other_name}\nlink set {other_name} up\n"
        ))
    }

    /// Sets sysctls of the namespace (`net.ipv4.ip_forward`).
    pub(crate) fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.within(|| set(settings))
    }

    /// Packets that a device has received.
    pub(crate) fn received_packets(&self, device: &str) -> Result<u64> {
        let table = self.within(|| {
            fs::read_to_string("/proc/thread-self/net/dev").context("reading the devices' counters")
        })?;
        let counters = table
            .lines()
            .find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
        let packets =
            counters.and_then(|counters| counters.split_whitespace().nth(1)?.parse().ok());
        packets.with_context(|| format!("finding {device} among the devices' counters"))
    }
}

/// Sets sysctls of the current network namespace.
pub(crate) fn set(settings: &[(&str, &str)]) -> Result<()> {
    for (name, value) in settings {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        fs::write(&path, value).with_context(|| format!("writing {value:?} to {path}"))?;
    }
    Ok(())
}
