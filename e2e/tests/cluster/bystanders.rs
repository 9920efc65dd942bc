//! Processes of the real host that are called like a cluster's, and are none of its.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Result, ensure};

/// They end when this is dropped.
pub(crate) struct Bystanders {
    folder: PathBuf,
    processes: Vec<Child>,
}

impl Bystanders {
    /// Starts them.
    pub(crate) fn start() -> Result<Self> {
        let folder =
            std::env::temp_dir().join(format!("svclb-e2e-bystanders-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let mut bystanders = Self {
            folder,
            processes: Vec::new(),
        };
        for name in [
            "containerd",
            "containerd-shim-runc-v2",
            "kubelet",
            "kube-proxy",
            "etcd",
            "sleep",
        ] {
            let program = bystanders.folder.join(name);
            symlink("/bin/bash", &program)?;
            // It ends when its standard input does, which is when this test does.
            let started = Command::new(program)
                .args(["-c", "read"])
                .stdin(Stdio::piped())
                .spawn()?;
            bystanders.processes.push(started);
        }
        Ok(bystanders)
    }

    /// Fails if one of them has ended.
    pub(crate) fn check(mut self) -> Result<()> {
        for process in &mut self.processes {
            let ended = process.try_wait()?;
            ensure!(ended.is_none(), "{} has ended: {ended:?}", process.id());
        }
        Ok(())
    }
}

impl Drop for Bystanders {
    fn drop(&mut self) {
        for process in &mut self.processes {
            drop(process.stdin.take());
            let _ = process.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
