//! The command line and its environment twins, as the values that the rest works with.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::str::FromStr;

use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use thiserror::Error;

use crate::logs;
use crate::names;
use crate::settings::{IpMode, Ipv6Forwarding, Publish, Settings};
use crate::tolerations::{self, TolerationsError};

/// Serves Services of type LoadBalancer with the nodes' own addresses.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Flags {
    /// What to do; without it: serve.
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    serving: Serving,
    #[command(flatten)]
    pods: Pods,
    /// How this process runs.
    #[command(flatten)]
    pub process: Process,
}

/// What to do instead of serving.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Subcommand)]
pub enum Command {
    /// Let every Service go: DaemonSets, addresses, conditions and finalizers are removed, then svclb can be
    /// uninstalled. Needs the Lease: scale the controller's Deployment to 0 before.
    Release,
}

/// When an address is published.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum PublishFlag {
    /// When the svclb pod is bound to its node, where kube-proxy carries the traffic.
    Bound,
    /// When the svclb pod is Ready.
    Ready,
}

/// `ipMode` of the addresses.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum IpModeFlag {
    /// VIP, and Proxy by itself where kube-proxy's mode needs it.
    Auto,
    /// kube-proxy answers at the addresses.
    Vip,
    /// Packets go on to the svclb pods.
    Proxy,
}

/// How IPv6 forwarding comes about in svclb pods.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Ipv6ForwardingFlag {
    /// By a privileged init container.
    InitContainer,
    /// By a pod sysctl, which the kubelets must allow (--allowed-unsafe-sysctls).
    Sysctl,
}

/// A list of ports, comma-separated; may be empty.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Ports(BTreeSet<u16>);

/// A list of names, comma-separated; may be empty.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Names(Vec<String>);

/// A list of `name=quantity`, comma-separated; may be empty.
#[derive(Clone, Debug, PartialEq)]
struct Quantities(BTreeMap<String, Quantity>);

/// Tolerations as in a pod.
#[derive(Clone, Debug, PartialEq)]
struct Tolerations(Vec<Toleration>);

/// What is wrong with a flag's value.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Error {
    /// Not a number from 1 to 65535.
    #[error("{0:?} is no port")]
    Port(String),
    /// Not `name=quantity`.
    #[error("{0:?} is not of the form memory=32Mi")]
    Quantity(String),
    /// Not a duration, or a shorter one than a second.
    #[error("{0:?} is not a duration of 1s or more, as 30m")]
    Pause(String),
}

impl FromStr for Ports {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        items(text)
            .map(|item| match item.parse() {
                Ok(port) if port > 0 => Ok(port),
                _ => Err(Error::Port(item.to_owned())),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl FromStr for Names {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(Self(items(text).map(str::to_owned).collect()))
    }
}

impl FromStr for Quantities {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        items(text)
            .map(|item| match item.split_once('=') {
                Some((name, quantity)) if !name.is_empty() && is_quantity(quantity) => {
                    Ok((name.to_owned(), Quantity(quantity.to_owned())))
                }
                _ => Err(Error::Quantity(item.to_owned())),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl FromStr for Tolerations {
    type Err = TolerationsError;

    fn from_str(text: &str) -> Result<Self, TolerationsError> {
        tolerations::parse(text).map(Self)
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// A decimal number and one of the suffixes of `resource.Quantity` (apimachinery).
fn is_quantity(text: &str) -> bool {
    const SUFFIXES: [&str; 15] = [
        "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi",
    ];
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    number.parse::<f64>().is_ok() && SUFFIXES.contains(&suffix)
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Which Services, and how")]
struct Serving {
    /// The load balancer class that is always served.
    #[arg(long, env = "SVCLB_LOAD_BALANCER_CLASS", default_value = names::LOAD_BALANCER_CLASS)]
    load_balancer_class: String,
    /// Serve Services without a class too.
    #[arg(long, env = "SVCLB_CLASSLESS", default_value_t = true, action = ArgAction::Set)]
    classless: bool,
    /// When an address goes into status.
    #[arg(long, env = "SVCLB_PUBLISH", value_enum, default_value_t = PublishFlag::Bound)]
    publish: PublishFlag,
    /// ipMode of the addresses; annotation svclb.io/ip-mode of a Service comes first.
    #[arg(long, env = "SVCLB_IP_MODE", value_enum, default_value_t = IpModeFlag::Auto)]
    ip_mode: IpModeFlag,
    /// TCP ports that no Service gets, beside the API server's and the kubelets'.
    #[arg(long, env = "SVCLB_PROTECTED_PORTS", default_value = "2379,2380")]
    protected_ports: Ports,
    /// How often a Warning event that still holds is repeated, as 30m or 1h.
    #[arg(long, env = "SVCLB_REPEAT_WARNINGS", default_value = "30m", value_parser = pause)]
    repeat_warnings: SignedDuration,
    /// For rootless k3s: the one address is 127.0.0.1.
    #[arg(long, env = "SVCLB_ROOTLESS", default_value_t = false, action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    rootless: bool,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "The svclb pods")]
struct Pods {
    /// The namespace of the DaemonSets and their pods.
    #[arg(long, env = "SVCLB_NAMESPACE", default_value = "kube-system")]
    namespace: String,
    /// Their image.
    #[arg(long, env = "SVCLB_POD_IMAGE",
          default_value = concat!("localhost/svclb-pod:", env!("CARGO_PKG_VERSION")))]
    pod_image: String,
    /// When their image is pulled.
    #[arg(long, env = "SVCLB_POD_IMAGE_PULL_POLICY", default_value = "IfNotPresent",
          value_parser = PossibleValuesParser::new(["Always", "IfNotPresent", "Never"]))]
    pod_image_pull_policy: String,
    /// Secrets in their namespace to pull it with.
    #[arg(
        long,
        env = "SVCLB_POD_IMAGE_PULL_SECRETS",
        default_value = "",
        hide_default_value = true
    )]
    pod_image_pull_secrets: Names,
    /// Their PriorityClass; empty for none. One that preempts evicts users' pods to get a port.
    #[arg(long, env = "SVCLB_PRIORITY_CLASS", default_value = names::PRIORITY_CLASS)]
    priority_class: String,
    /// More tolerations: a list in JSON or YAML, as in a pod.
    #[arg(
        long,
        env = "SVCLB_TOLERATIONS",
        default_value = "[]",
        hide_default_value = true
    )]
    tolerations: Tolerations,
    /// Requests, name=quantity each.
    #[arg(long, env = "SVCLB_POD_REQUESTS", default_value = "cpu=1m,memory=8Mi")]
    pod_requests: Quantities,
    /// Limits, name=quantity each. A memory limit below 32Mi may be too small for the container's start.
    #[arg(long, env = "SVCLB_POD_LIMITS", default_value = "memory=32Mi")]
    pod_limits: Quantities,
    /// false: they get a user namespace each, where kernel and runtime can.
    #[arg(long, env = "SVCLB_HOST_USERS", default_value_t = true, action = ArgAction::Set)]
    host_users: bool,
    /// How IPv6 forwarding comes about in those of Services with an IPv6 family.
    #[arg(long, env = "SVCLB_IPV6_FORWARDING", value_enum,
          default_value_t = Ipv6ForwardingFlag::InitContainer)]
    ipv6_forwarding: Ipv6ForwardingFlag,
}

/// How this process runs.
#[derive(Args, Debug)]
#[command(next_help_heading = "This process")]
pub struct Process {
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, env = "SVCLB_METRICS_ADDRESS", default_value = "[::]:9300")]
    pub metrics_address: SocketAddr,
    /// How the log's lines look.
    #[arg(long, env = "SVCLB_LOG_FORMAT", value_enum, default_value_t = logs::Format::Text, global = true)]
    pub log_format: logs::Format,
    /// What is logged: error, warn, info, debug or trace, also by module.
    #[arg(long, env = "SVCLB_LOG_LEVEL", default_value = "info", global = true)]
    pub log_level: String,
    /// The name, in the DaemonSets' namespace, of the Lease by which replicas agree on who works.
    #[arg(long, env = "SVCLB_LEASE_NAME", default_value = "svclb-controller")]
    pub lease_name: String,
    /// Who this replica is in the Lease and in events; by default the host's name, which is the pod's.
    #[arg(long, env = "SVCLB_IDENTITY")]
    pub identity: Option<String>,
    /// Let the API server stream the first lists: a little less memory, needs Kubernetes 1.34 or newer.
    #[arg(long, env = "SVCLB_STREAMING_LISTS", default_value_t = false, action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub streaming_lists: bool,
}

impl Process {
    /// Who this replica is: as told, or the host's name, which in a pod is the pod's.
    pub fn identity(&self) -> String {
        self.identity.clone().unwrap_or_else(|| {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            match name.trim() {
                "" => "svclb-controller".to_owned(),
                name => name.to_owned(),
            }
        })
    }
}

impl Flags {
    /// What the core is to know.
    pub fn settings(&self) -> Settings {
        let Self { serving, pods, .. } = self;
        Settings {
            namespace: pods.namespace.clone(),
            image: pods.pod_image.clone(),
            image_pull_policy: pods.pod_image_pull_policy.clone(),
            image_pull_secrets: pods.pod_image_pull_secrets.0.clone(),
            class: serving.load_balancer_class.clone(),
            classless: serving.classless,
            publish: match serving.publish {
                PublishFlag::Bound => Publish::Bound,
                PublishFlag::Ready => Publish::Ready,
            },
            ip_mode: match serving.ip_mode {
                IpModeFlag::Auto => None,
                IpModeFlag::Vip => Some(IpMode::Vip),
                IpModeFlag::Proxy => Some(IpMode::Proxy),
            },
            protected_ports: serving.protected_ports.0.clone(),
            priority_class: Some(pods.priority_class.clone()).filter(|name| !name.is_empty()),
            tolerations: pods.tolerations.0.clone(),
            resources: ResourceRequirements {
                requests: not_empty(&pods.pod_requests),
                limits: not_empty(&pods.pod_limits),
                ..ResourceRequirements::default()
            },
            host_users: pods.host_users,
            ipv6_forwarding: match pods.ipv6_forwarding {
                Ipv6ForwardingFlag::InitContainer => Ipv6Forwarding::InitContainer,
                Ipv6ForwardingFlag::Sysctl => Ipv6Forwarding::Sysctl,
            },
            repeat_warnings: serving.repeat_warnings,
            rootless: serving.rootless,
            releasing: self.command == Some(Command::Release),
        }
    }
}

/// A second or more: nothing is told in a loop.
fn pause(text: &str) -> Result<SignedDuration, Error> {
    let refused = || Error::Pause(text.to_owned());
    let pause: SignedDuration = text.parse().map_err(|_| refused())?;
    (pause >= SignedDuration::from_secs(1))
        .then_some(pause)
        .ok_or_else(refused)
}

fn not_empty(quantities: &Quantities) -> Option<BTreeMap<String, Quantity>> {
    Some(quantities.0.clone()).filter(|quantities| !quantities.is_empty())
}

#[cfg(test)]
mod tests;
