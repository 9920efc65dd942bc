//! `svclb-e2e`: the command line over the library.

mod demo;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use svclb_e2e::{Cluster, Component, Host, IpFamily, Options, Progress, ProxyMode};
use tokio::signal::unix::{SignalKind, signal};

/// A real multi-node Kubernetes cluster on one Linux host, every host a network namespace.
#[derive(Debug, Parser)]
#[command(name = "svclb-e2e", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring a cluster up, with all that is missing for it; it lives on until `down`
    Up(Up),
    /// Show svclb at work in a guided tour, on the cluster that is up or on a new one
    Demo(Up),
    /// Take a cluster down; nothing of it is left
    Down {
        #[command(flatten)]
        cluster: Name,
    },
    /// Show the clusters that run, their hosts and their memory
    Status,
    /// Run kubectl against a cluster
    Kubectl {
        #[command(flatten)]
        cluster: Name,
        /// What kubectl is told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Print the path of an administrator's kubeconfig, which works on the cluster's hosts
    Kubeconfig {
        #[command(flatten)]
        cluster: Name,
    },
    /// Run a command on a host: client, control-plane, node-1...
    Exec {
        #[command(flatten)]
        cluster: Name,
        /// The host's name
        host: String,
        /// The command and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Load images into every node, from docker-archives or OCI archives
    Load {
        #[command(flatten)]
        cluster: Name,
        /// The archives
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Take a host's link or one of its processes away, and give it back
    Fault {
        #[command(flatten)]
        cluster: Name,
        #[command(subcommand)]
        fault: Fault,
    },
}

#[derive(Debug, Subcommand)]
enum Fault {
    /// Take a host off the network
    Cut {
        /// The host's name
        host: String,
    },
    /// Put a host back on the network
    Heal {
        /// The host's name
        host: String,
    },
    /// Ask a component to end, and wait until it has
    Stop(On),
    /// End a component without asking
    Kill(On),
    /// Start a component
    Start(On),
    /// Stop and start a component
    Restart(On),
}

#[derive(Debug, Args)]
struct On {
    /// The host's name
    host: String,
    /// etcd, kube-apiserver, kube-controller-manager or kube-scheduler on control-plane;
    /// containerd, kubelet or kube-proxy on a node
    component: Component,
}

#[derive(Debug, Args)]
struct Name {
    /// The cluster's name
    #[arg(long, default_value = "svclb")]
    name: String,
}

#[derive(Debug, Args)]
struct Up {
    #[command(flatten)]
    cluster: Name,
    /// How many nodes; with 0 there is a control plane alone
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// The IP families of nodes, pods and Services
    #[arg(long, value_enum, default_value = "dual")]
    ip_family: IpFamily,
    /// kube-proxy's mode
    #[arg(long, value_enum, default_value = "iptables")]
    proxy_mode: ProxyMode,
    /// kube-proxy's minSyncPeriod, such as 1s or 10ms (0s is Kubernetes' default of 1s)
    #[arg(long, default_value = "1s", value_parser = duration)]
    proxy_min_sync: Duration,
    /// How long a node may be silent before it is marked Unknown
    #[arg(long, default_value = "8s", value_parser = duration)]
    node_monitor_grace: Duration,
    /// Which controllers kube-controller-manager runs, such as '*,-daemonset-controller'
    #[arg(long, default_value = "*", allow_hyphen_values = true)]
    controllers: String,
    /// In nftables mode, have hostPorts looked at before kube-proxy's rules
    #[arg(long)]
    portmap_last: bool,
    /// Let pods set the IP forwarding sysctls, which kubelets call unsafe
    #[arg(long)]
    allow_forwarding_sysctls: bool,
}

impl From<Up> for Options {
    fn from(up: Up) -> Self {
        let Up {
            cluster: Name { name },
            nodes,
            ip_family,
            proxy_mode,
            proxy_min_sync,
            node_monitor_grace,
            controllers,
            portmap_last,
            allow_forwarding_sysctls,
        } = up;
        Self {
            name,
            nodes,
            ip_family,
            proxy_mode,
            proxy_min_sync,
            node_monitor_grace,
            controllers,
            portmap_last,
            allow_forwarding_sysctls,
            ..Self::default()
        }
    }
}

/// Durations as Kubernetes' flags have them, in one unit.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.strip_suffix("ms") {
        Some(milliseconds) => milliseconds.parse().ok().map(Duration::from_millis),
        None => match text.strip_suffix('s') {
            Some(seconds) => seconds.parse().ok().map(Duration::from_secs),
            None => text
                .strip_suffix('m')
                .and_then(|minutes| minutes.parse().ok())
                .map(Duration::from_mins),
        },
    };
    parsed.ok_or_else(|| "a whole number with a unit is needed, such as 500ms, 8s or 1m".to_owned())
}

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
        Command::Status => answer(&status(&Cluster::all()?))?,
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
        "Cluster `{name}` is up after {:.1} s, with {} MiB of memory. Use it with\n  \
         {program} kubectl{named} -- get nodes\n  \
         {program} exec{named} client -- curl ...\n  \
         {program} down{named}",
        progress.elapsed().as_secs_f64(),
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

/// A line for each cluster, and below it one for each of its hosts.
fn status(clusters: &[Cluster]) -> String {
    if clusters.is_empty() {
        return "No cluster is up.\n".to_owned();
    }
    let mut lines = Vec::new();
    for cluster in clusters {
        let hosts = cluster.hosts();
        let memory: Vec<u64> = hosts.iter().map(Host::memory).collect();
        let all = memory.iter().sum::<u64>() >> 20;
        lines.push(format!("{}: {all} MiB", cluster.options().name));
        for (host, memory) in hosts.iter().zip(memory) {
            lines.push(format!("  {}", status_of(host, memory)));
        }
    }
    lines.join("\n") + "\n"
}

fn status_of(host: &Host, memory: u64) -> String {
    let addresses: Vec<_> = host.addresses().iter().map(ToString::to_string).collect();
    let mut line = format!(
        "{:<14} {:<32} {:>5} MiB",
        host.name(),
        addresses.join(" "),
        memory >> 20
    );
    let (running, others): (Vec<Component>, Vec<_>) = host
        .role()
        .components()
        .iter()
        .partition(|component| host.process(**component).is_some());
    if !running.is_empty() {
        line += &format!("  {}", listed(&running));
    }
    if !others.is_empty() {
        line += &format!("  not running: {}", listed(&others));
    }
    line
}

fn listed(components: &[Component]) -> String {
    components
        .iter()
        .map(|component| component.as_str())
        .collect::<Vec<_>>()
        .join(" ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_makes_sense_to_clap() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_a_whole_number_and_a_unit() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("10ms", 10),
            ("1s", 1000),
            ("8s", 8000),
            ("2m", 120_000),
        ] {
            let expected = Duration::from_millis(milliseconds);
            assert_eq!(duration(text), Ok(expected), "{text}");
        }
        for text in ["", "1", "s", "1h", "1.5s", "-1s", "1 s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_up_is_told_goes_to_the_cluster() {
        let parse = |arguments: &[&str]| {
            let arguments = ["svclb-e2e", "up"].iter().chain(arguments);
            match Cli::try_parse_from(arguments).unwrap().command {
                Command::Up(up) => Options::from(up),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(parse(&[]).proxy_min_sync, Duration::from_secs(1));
        let options = parse(&[
            "--proxy-min-sync=10ms",
            "--controllers",
            "-daemonset-controller",
            "--nodes=0",
        ]);
        assert_eq!(options.proxy_min_sync, Duration::from_millis(10));
        assert_eq!(options.controllers, "-daemonset-controller");
        assert_eq!(options.nodes, 0);
    }
}
