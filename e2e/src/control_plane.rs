//! The command lines of the control plane: etcd, kube-apiserver, kube-controller-manager and
//! kube-scheduler, one of each.

use std::path::PathBuf;

use crate::addresses;
use crate::component::{Component, Role};
use crate::options::Options;
use crate::paths::{Paths, kubernetes};

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

pub(crate) fn etcd(paths: &Paths) -> CommandLine {
    let data = paths.host(Role::ControlPlane).join("etcd");
    CommandLine::new(
        kubernetes(Component::Etcd.as_str()),
        [
            format!("--data-dir={}", data.display()),
            "--listen-client-urls=http://127.0.0.1:2379".to_owned(),
            "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        ],
    )
}

pub(crate) fn kube_apiserver(options: &Options, paths: &Paths) -> CommandLine {
    let family = options.ip_family;
    let certificates = paths.certificates();
    let certificate = |name: &str| certificates.join(name).display().to_string();
    let own = addresses::all(Role::ControlPlane, family);
    let arguments = [
        ("etcd-servers", "http://127.0.0.1:2379".to_owned()),
        (
            "advertise-address",
            own.first().map(ToString::to_string).unwrap_or_default(),
        ),
        ("bind-address", "::".to_owned()),
        ("secure-port", "6443".to_owned()),
        ("cert-dir", certificates.display().to_string()),
        ("tls-cert-file", certificate("apiserver.crt")),
        ("tls-private-key-file", certificate("apiserver.key")),
        ("client-ca-file", certificate("ca.crt")),
        (
            "kubelet-client-certificate",
            certificate("kubelet-client.crt"),
        ),
        ("kubelet-client-key", certificate("kubelet-client.key")),
        ("kubelet-preferred-address-types", "InternalIP".to_owned()),
        (
            "service-account-key-file",
            certificate("service-account.pub"),
        ),
        (
            "service-account-signing-key-file",
            certificate("service-account.key"),
        ),
        (
            "service-account-issuer",
            "https://kubernetes.default.svc".to_owned(),
        ),
        ("token-auth-file", paths.tokens().display().to_string()),
        ("authorization-mode", "Node,RBAC".to_owned()),
        ("allow-privileged", "true".to_owned()),
        (
            "service-cluster-ip-range",
            addresses::service_subnets(family).join(","),
        ),
        ("service-node-port-range", "30000-32767".to_owned()),
        // Pods leave a node that has gone after 5 s, not after 5 minutes.
        ("default-not-ready-toleration-seconds", "5".to_owned()),
        ("default-unreachable-toleration-seconds", "5".to_owned()),
    ];
    CommandLine::new(
        kubernetes(Component::KubeApiserver.as_str()),
        flags(arguments).chain(options.kube_apiserver_flags.iter().cloned()),
    )
}

pub(crate) fn kube_controller_manager(options: &Options, paths: &Paths) -> CommandLine {
    let family = options.ip_family;
    let certificates = paths.certificates();
    let certificate = |name: &str| certificates.join(name).display().to_string();
    let component = Component::KubeControllerManager;
    let arguments = [
        (
            "service-account-private-key-file",
            certificate("service-account.key"),
        ),
        ("root-ca-file", certificate("ca.crt")),
        // With "true" each controller gets a ServiceAccount of its own first, which at the default
        // rate of requests takes four seconds in all.
        ("use-service-account-credentials", "false".to_owned()),
        ("controllers", options.controllers.clone()),
        (
            "service-cluster-ip-range",
            addresses::service_subnets(family).join(","),
        ),
        ("cluster-cidr", addresses::pod_subnets(family).join(",")),
        // Nodes are made with their pod subnets: the routes between them are known beforehand.
        ("allocate-node-cidrs", "false".to_owned()),
        ("node-monitor-period", "1s".to_owned()),
        (
            "node-monitor-grace-period",
            format!("{}ms", options.node_monitor_grace.as_millis()),
        ),
    ];
    CommandLine::new(
        kubernetes(component.as_str()),
        flags(arguments).chain(served_on_loopback(component, paths)),
    )
}

pub(crate) fn kube_scheduler(paths: &Paths) -> CommandLine {
    let component = Component::KubeScheduler;
    CommandLine::new(
        kubernetes(component.as_str()),
        served_on_loopback(component, paths),
    )
}

/// What the two clients of the API server have in common: who they are, that there is one of each,
/// and where their own endpoints are.
fn served_on_loopback(component: Component, paths: &Paths) -> impl Iterator<Item = String> {
    let kubeconfig = paths.kubeconfig(component.as_str()).display().to_string();
    let certificates = paths.certificates();
    flags([
        ("kubeconfig", kubeconfig.clone()),
        ("authentication-kubeconfig", kubeconfig.clone()),
        ("authorization-kubeconfig", kubeconfig),
        ("leader-elect", "false".to_owned()),
        ("bind-address", "127.0.0.1".to_owned()),
        (
            "tls-cert-file",
            certificates.join("component.crt").display().to_string(),
        ),
        (
            "tls-private-key-file",
            certificates.join("component.key").display().to_string(),
        ),
    ])
}

fn flags<const N: usize>(pairs: [(&str, String); N]) -> impl Iterator<Item = String> {
    pairs
        .map(|(name, value)| format!("--{name}={value}"))
        .into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::IpFamily;

    #[test]
    fn an_ipv6_cluster_has_ipv6_subnets_and_addresses() {
        let options = Options {
            ip_family: IpFamily::Ipv6,
            ..Options::default()
        };
        let arguments = kube_apiserver(&options, &Paths::of("a")).arguments;
        for expected in [
            "--advertise-address=fd31:231::10",
            "--service-cluster-ip-range=fd31:96::/112",
        ] {
            assert!(
                arguments.iter().any(|argument| argument == expected),
                "{arguments:?}"
            );
        }
    }

    #[test]
    fn the_controller_manager_runs_the_controllers_asked_for() {
        let options = Options {
            controllers: "*,-daemonset-controller".to_owned(),
            ..Options::default()
        };
        let arguments = kube_controller_manager(&options, &Paths::of("a")).arguments;
        for expected in [
            "--controllers=*,-daemonset-controller",
            "--node-monitor-grace-period=8000ms",
        ] {
            assert!(
                arguments.iter().any(|argument| argument == expected),
                "{arguments:?}"
            );
        }
    }
}
