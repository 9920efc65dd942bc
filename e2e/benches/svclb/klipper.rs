//! klipper-lb's way: its shell logic, written anew, over busybox and the iptables binaries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// The shell that runs it.
pub(crate) const BUSYBOX: &str = "/usr/bin/busybox";

/// The iptables that it uses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Variant {
    Nft,
    Legacy,
}

impl Variant {
    /// As the binary's name has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }
}

/// What one of its containers is told.
pub(crate) struct Forward {
    /// `TCP` or `UDP`.
    pub(crate) protocol: &'static str,
    pub(crate) port: u16,
    pub(crate) to_port: u16,
    pub(crate) to: String,
    /// `0.0.0.0/0` where the Service gives none, as ServiceLB has it.
    pub(crate) source_ranges: String,
}

/// The script, laid out.
pub(crate) struct Klipper {
    script: PathBuf,
    work: PathBuf,
}

impl Klipper {
    /// Writes the script into `work`, which will hold what a container's own file system would.
    pub(crate) fn lay_out(work: &Path) -> Result<Self> {
        let script = work.join("klipper.sh");
        fs::write(&script, include_str!("klipper.sh")).context("writing klipper-lb's script")?;
        Ok(Self {
            script,
            work: work.to_owned(),
        })
    }

    /// What one container runs.
    pub(crate) fn command(
        &self,
        variant: Variant,
        forward: &Forward,
        cgroup: Option<&Path>,
    ) -> Result<Command> {
        let Forward {
            protocol,
            port,
            to_port,
            to,
            source_ranges,
        } = forward;
        let folder = self
            .work
            .join(format!("klipper-{}-{protocol}-{port}", variant.name()));
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let mut command = process::command(Path::new(BUSYBOX), cgroup);
        command
            .arg("sh")
            .arg(&self.script)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("WORK", &folder)
            .env("BACKEND", variant.name())
            // A container has a lock file of its own.
            .env("XTABLES_LOCKFILE", folder.join("xtables.lock"))
            .env("SRC_PORT", port.to_string())
            .env("DEST_PORT", to_port.to_string())
            .env("DEST_PROTO", protocol)
            .env("DEST_IPS", to)
            .env("SRC_RANGES", source_ranges);
        Ok(command)
    }
}
