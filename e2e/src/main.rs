//! `svclb-e2e`: the command line over the library.

mod cli;
mod demo;
mod status;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use svclb_e2e::{Cluster, Host, Options, Progress};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Cli, Command, Fault, On};

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            tell(&format!("svclb-e2e: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// For the user. Nobody may be there to read it any more, which is no reason to stop.
fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// For the user, or for the next program in a pipe, which may have read as much as it wants.
fn answer(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up(up) => bring_up(&up.into())?,
        Command::Demo(up) => {
            let progress = Progress::to_stderr();
            watch_for_signals(progress.interrupted())?;
            demo::run(&up.into(), &progress)?;
        }
        Command::Down { cluster } => take_down(&cluster.name)?,
        Command::Status => answer(&status::render(&Cluster::all()?, &Cluster::incomplete()?))?,
        Command::Kubectl { cluster, arguments } => {
            let cluster = Cluster::attach(&cluster.name)?;
            return Ok(exit_code(
                cluster.kubectl_command().args(arguments).status()?,
            ));
        }
        Command::Kubeconfig { cluster } => {
            let kubeconfig = Cluster::attach(&cluster.name)?.kubeconfig();
            answer(&format!("{}\n", kubeconfig.display()))?;
        }
        Command::Exec {
            cluster,
            host,
            command,
        } => {
            let host = Cluster::attach(&cluster.name)?.host(&host)?;
            let [program, arguments @ ..] = &command[..] else {
                anyhow::bail!("a command is needed");
            };
            return Ok(exit_code(host.command(program).args(arguments).status()?));
        }
        Command::Load { cluster, archives } => {
            let archives: Vec<&Path> = archives.iter().map(PathBuf::as_path).collect();
            Cluster::attach(&cluster.name)?.load(&archives)?;
        }
        Command::Fault { cluster, fault } => inflict(&Cluster::attach(&cluster.name)?, fault)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn bring_up(options: &Options) -> Result<()> {
    let progress = Progress::to_stderr();
    watch_for_signals(progress.interrupted())?;
    let cluster = Cluster::up(options, &progress)?;
    let seconds = progress.elapsed().as_secs_f64();
    let memory: u64 = cluster.hosts().iter().map(Host::memory).sum();
    let name = &options.name;
    let named = if *name == Options::default().name {
        String::new()
    } else {
        format!(" --name {name}")
    };
    // As it was called: it is on nobody's PATH.
    let program = std::env::args()
        .next()
        .unwrap_or_else(|| "svclb-e2e".to_owned());
    tell(&format!(
        "Cluster `{name}` is up after {seconds:.1} s, with {} MiB of memory. Use it with\n  \
         {program} kubectl{named} -- get nodes\n  \
         {program} exec{named} client -- curl ...\n  \
         {program} down{named}",
        memory >> 20,
    ));
    Ok(())
}

fn take_down(name: &str) -> Result<()> {
    let start = Instant::now();
    if Cluster::down_by_name(name)? {
        let seconds = start.elapsed().as_secs_f64();
        tell(&format!("Cluster `{name}` is gone after {seconds:.1} s."));
    } else {
        tell(&format!("There is no cluster `{name}`."));
    }
    Ok(())
}

fn inflict(cluster: &Cluster, fault: Fault) -> Result<()> {
    match fault {
        Fault::Cut { host } => cluster.host(&host)?.cut()?,
        Fault::Heal { host } => cluster.host(&host)?.heal()?,
        Fault::Stop(On { host, component }) => cluster.host(&host)?.stop(component)?,
        Fault::Kill(On { host, component }) => cluster.host(&host)?.kill(component)?,
        Fault::Start(On { host, component }) => cluster.host(&host)?.start(component)?,
        Fault::Restart(On { host, component }) => cluster.host(&host)?.restart(component)?,
    }
    Ok(())
}

/// Ctrl-C, SIGTERM and SIGHUP (the terminal is closed) make `up` clean up.
fn watch_for_signals(interrupted: Arc<AtomicBool>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot watch for signals")?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _guard = runtime.enter();
        let watch = |kind| signal(kind).context("cannot watch for signals");
        (
            watch(SignalKind::interrupt())?,
            watch(SignalKind::terminate())?,
            watch(SignalKind::hangup())?,
        )
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        interrupted.store(true, Ordering::Relaxed);
    });
    Ok(())
}

/// That of the command, as a shell would have it.
fn exit_code(status: std::process::ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let signal = || status.signal().map_or(1, |signal| 128 + signal);
    ExitCode::from(u8::try_from(status.code().unwrap_or_else(signal)).unwrap_or(1))
}
