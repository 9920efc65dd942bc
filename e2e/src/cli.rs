//! What `svclb-e2e` is told on its command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use svclb_e2e::{Component, IpFamily, Options, ProxyMode};

/// A real multi-node Kubernetes cluster on one Linux host, every host a network namespace.
#[derive(Debug, Parser)]
#[command(name = "svclb-e2e", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
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
pub(crate) enum Fault {
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
pub(crate) struct On {
    /// The host's name
    pub(crate) host: String,
    /// etcd, kube-apiserver, kube-controller-manager or kube-scheduler on control-plane;
    /// containerd, kubelet or kube-proxy on a node
    pub(crate) component: Component,
}

#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The cluster's name
    #[arg(long, default_value = "svclb")]
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
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

/// Durations as Kubernetes' flags have them, in one unit. They have to fit into 64 bits of nanoseconds.
fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000)];
    let parsed = units.iter().find_map(|(unit, milliseconds)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        let duration = Duration::from_millis(number.checked_mul(*milliseconds)?);
        i64::try_from(duration.as_nanos())
            .is_ok()
            .then_some(duration)
    });
    parsed.ok_or_else(|| "a whole number with a unit is needed, such as 500ms, 8s or 1m".to_owned())
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
        for text in [
            "",
            "1",
            "s",
            "1h",
            "1.5s",
            "-1s",
            "1 s",
            "9999999999999999999m",
            "9999999999999999999s",
            "9999999999999999999ms",
        ] {
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
            "*,-daemonset-controller",
            "--nodes=0",
        ]);
        assert_eq!(options.proxy_min_sync, Duration::from_millis(10));
        assert_eq!(options.controllers, "*,-daemonset-controller");
        assert_eq!(options.nodes, 0);
    }
}
