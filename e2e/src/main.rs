//! `svclb-e2e`: the command line over the library.

mod demo;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use svclb_e2e::{Cluster, Component, IpFamily, Options, Progress, ProxyMode};
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
            eprintln!("svclb-e2e: {error:#}");
            ExitCode::FAILURE
        }
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
        Command::Status => status(),
        Command::Kubectl { cluster, arguments } => {
            let cluster = Cluster::attach(&cluster.name)?;
            return Ok(exit_code(
                cluster.kubectl_command().args(arguments).status()?,
            ));
        }
        Command::Kubeconfig { cluster } => {
            println!("{}", Cluster::attach(&cluster.name)?.kubeconfig().display());
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
    let memory: u64 = cluster.hosts().iter().map(svclb_e2e::Host::memory).sum();
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
    eprintln!(
        "Cluster `{name}` is up after {:.1} s, with {} MiB of memory. Use it with\n  \
         {program} kubectl{named} -- get nodes\n  \
         {program} exec{named} client -- curl ...\n  \
         {program} down{named}",
        progress.elapsed().as_secs_f64(),
        memory >> 20,
    );
    Ok(())
}

fn take_down(name: &str) -> Result<()> {
    let start = Instant::now();
    if Cluster::down_by_name(name)? {
        eprintln!(
            "Cluster `{name}` is gone after {:.1} s.",
            start.elapsed().as_secs_f64()
        );
    } else {
        eprintln!("There is no cluster `{name}`.");
    }
    Ok(())
}

fn status() {
    let names = Cluster::names();
    if names.is_empty() {
        println!("No cluster is up.");
    }
    // One that is taken down in this very moment is left out.
    for cluster in names.iter().filter_map(|name| Cluster::attach(name).ok()) {
        let hosts = cluster.hosts();
        let memory: Vec<u64> = hosts.iter().map(svclb_e2e::Host::memory).collect();
        println!(
            "{}: {} MiB",
            cluster.options().name,
            memory.iter().sum::<u64>() >> 20
        );
        for (host, memory) in hosts.iter().zip(memory) {
            let components = host.role().components();
            let (run, rest): (Vec<Component>, Vec<_>) = components
                .iter()
                .partition(|component| host.process(**component).is_some());
            let addresses: Vec<_> = host.addresses().iter().map(ToString::to_string).collect();
            print!(
                "  {:<14} {:<32} {:>5} MiB",
                host.name(),
                addresses.join(" "),
                memory >> 20
            );
            if !run.is_empty() {
                print!("  {}", listed(&run));
            }
            if !rest.is_empty() {
                print!("  not running: {}", listed(&rest));
            }
            println!();
        }
    }
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
