//! The programs that a cluster consists of, and the hosts that they run on.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A program of the cluster that runs as a process of its own on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// The cluster's store, on the control plane.
    Etcd,
    /// The API server, on the control plane.
    KubeApiserver,
    /// The controllers, on the control plane.
    KubeControllerManager,
    /// The scheduler, on the control plane.
    KubeScheduler,
    /// The agent of a node.
    Kubelet,
    /// The Service proxy of a node.
    KubeProxy,
    /// The container runtime of a node.
    Containerd,
}

impl Component {
    /// Those of the control plane, in the order of their start.
    pub const CONTROL_PLANE: [Self; 4] = [
        Self::Etcd,
        Self::KubeApiserver,
        Self::KubeControllerManager,
        Self::KubeScheduler,
    ];
    /// Those of a node, in the order of their start.
    pub const NODE: [Self; 3] = [Self::Containerd, Self::Kubelet, Self::KubeProxy];

    /// The program's name, which is also that of its log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::KubeScheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
            Self::Containerd => "containerd",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Component {
    type Err = UnknownComponent;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::CONTROL_PLANE
            .into_iter()
            .chain(Self::NODE)
            .find(|component| component.as_str() == name)
            .ok_or_else(|| UnknownComponent(name.to_owned()))
    }
}

/// A name that no component has.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no component `{0}`: they are etcd, kube-apiserver, kube-controller-manager and kube-scheduler \
     on control-plane, containerd, kubelet and kube-proxy on a node"
)]
pub struct UnknownComponent(String);

/// What to start: a program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommandLine {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
}

impl CommandLine {
    pub(crate) fn new(
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = String>,
    ) -> Self {
        Self {
            program: program.into(),
            arguments: arguments.into_iter().collect(),
        }
    }
}

/// What a host is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Connects the other hosts. It has no address.
    Switch,
    /// Runs etcd, the API server, the controllers and the scheduler.
    ControlPlane,
    /// Stands outside the nodes' subnets, where a user of a Service would be.
    Client,
    /// Runs pods. Nodes are numbered from 1.
    Node(usize),
}

impl Role {
    /// The roles of a cluster with so many nodes. The switch comes first: the others hang on it.
    pub(crate) fn all(nodes: usize) -> impl Iterator<Item = Self> {
        [Self::Switch, Self::ControlPlane, Self::Client]
            .into_iter()
            .chain((1..=nodes).map(Self::Node))
    }

    /// The components that run on such a host, in the order of their start.
    pub fn components(self) -> &'static [Component] {
        match self {
            Self::Switch | Self::Client => &[],
            Self::ControlPlane => &Component::CONTROL_PLANE,
            Self::Node(_) => &Component::NODE,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Switch => f.write_str("switch"),
            Self::ControlPlane => f.write_str("control-plane"),
            Self::Client => f.write_str("client"),
            Self::Node(number) => write!(f, "node-{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_found_by_their_names() {
        for component in Component::CONTROL_PLANE.into_iter().chain(Component::NODE) {
            assert_eq!(
                component.as_str().parse::<Component>().ok(),
                Some(component)
            );
        }
        assert!("docker".parse::<Component>().is_err());
    }

    #[test]
    fn hosts_are_listed_switch_first() {
        let names: Vec<_> = Role::all(2).map(|role| role.to_string()).collect();
        assert_eq!(
            names,
            ["switch", "control-plane", "client", "node-1", "node-2"]
        );
    }
}
