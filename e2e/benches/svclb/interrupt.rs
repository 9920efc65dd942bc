//! An end before the end: what a bench that is interrupted takes away.

use std::fs;
use std::process::exit;
use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use svclb_e2e::Cluster;
use tokio::signal::unix::{SignalKind, signal};

/// As shells tell of a program that SIGINT has ended.
const INTERRUPTED: i32 = 130;

/// From now on, SIGINT, SIGTERM and SIGHUP end this process's children, take these clusters down and
/// end this process.
pub(crate) fn take_away(clusters: &'static [&'static str]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("making a runtime")?;
    thread::spawn(move || {
        let asked = runtime.block_on(async {
            let (mut int, mut term, mut hup) = (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            );
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
                _ = hup.recv() => {}
            }
            std::io::Result::Ok(())
        });
        if let Err(error) = asked {
            eprintln!("an interrupted bench will not clean up: {error}");
            return;
        }
        for cluster in clusters {
            match Cluster::down_by_name(cluster) {
                Ok(true) => eprintln!("cluster {cluster} is gone"),
                Ok(false) => {}
                Err(error) => eprintln!("cluster {cluster} cannot be taken down: {error}"),
            }
        }
        for child in children() {
            // One that has just ended is what was wanted.
            let _ = kill(child, Signal::SIGKILL);
        }
        exit(INTERRUPTED);
    });
    Ok(())
}

/// The processes that this one has started and that live.
fn children() -> Vec<Pid> {
    let threads = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let mut pids: Vec<Pid> = Vec::new();
    for list in lists {
        pids.extend(
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .map(Pid::from_raw),
        );
    }
    pids
}
