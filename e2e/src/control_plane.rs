//! The command lines of the control plane: etcd, kube-apiserver, kube-controller-manager and
//! kube-scheduler, one of each.

use crate::addresses;
use crate::component::{CommandLine, Component, Role};
use crate::options::Options;
use crate::paths::{Paths, kubernetes};

/// Where etcd serves the API server.
pub(crate) const ETCD_ADDRESS: &str = "127.0.0.1:2379";

/// How a component of the control plane is started; None for one that does not run there.
pub(crate) fn command_line(
    component: Component,
    options: &Options,
    paths: &Paths,
) -> Option<CommandLine> {
    let arguments = match component {
        Component::Etcd => etcd(paths),
        Component::KubeApiserver => kube_apiserver(options, paths),
        Component::KubeControllerManager => kube_controller_manager(options, paths),
        Component::KubeScheduler => client_of_the_api_server(component, paths),
        Component::Containerd | Component::Kubelet | Component::KubeProxy => return None,
    };
    Some(CommandLine::new(kubernetes(component.as_str()), arguments))
}

/// One member, reached over the loopback alone.
fn etcd(paths: &Paths) -> Vec<String> {
    let data = paths.host(Role::ControlPlane).join("etcd");
    vec![
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls=http://{ETCD_ADDRESS}"),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
    ]
}

fn kube_apiserver(options: &Options, paths: &Paths) -> Vec<String> {
    let certificates = paths.certificates();
    let keys = certificates.display();
    let own = addresses::all(Role::ControlPlane, options.ip_family);
    let advertised = own.first().map(ToString::to_string).unwrap_or_default();
    let services = addresses::service_subnets(options.ip_family).join(",");
    let mut flags = vec![
        format!("--etcd-servers=http://{ETCD_ADDRESS}"),
        format!("--advertise-address={advertised}"),
        format!("--bind-address={}", addresses::any(options.ip_family)),
        format!("--secure-port={}", addresses::API_PORT),
        format!("--cert-dir={keys}"),
        format!("--tls-cert-file={keys}/apiserver.crt"),
        format!("--tls-private-key-file={keys}/apiserver.key"),
        format!("--client-ca-file={keys}/ca.crt"),
        format!("--kubelet-client-certificate={keys}/kubelet-client.crt"),
        format!("--kubelet-client-key={keys}/kubelet-client.key"),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--service-account-key-file={keys}/service-account.pub"),
        format!("--service-account-signing-key-file={keys}/service-account.key"),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--token-auth-file={}", paths.tokens().display()),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--allow-privileged=true".to_owned(),
        format!("--service-cluster-ip-range={services}"),
        "--service-node-port-range=30000-32767".to_owned(),
        // Pods leave a node that has gone after 5 s, not after 5 minutes.
        "--default-not-ready-toleration-seconds=5".to_owned(),
        "--default-unreachable-toleration-seconds=5".to_owned(),
    ];
    flags.extend(options.kube_apiserver_flags.iter().cloned());
    flags
}

fn kube_controller_manager(options: &Options, paths: &Paths) -> Vec<String> {
    let certificates = paths.certificates();
    let keys = certificates.display();
    let family = options.ip_family;
    let mut flags = client_of_the_api_server(Component::KubeControllerManager, paths);
    flags.extend([
        format!("--service-account-private-key-file={keys}/service-account.key"),
        format!("--root-ca-file={keys}/ca.crt"),
        // With "true" each controller gets a ServiceAccount of its own first, which at the default
        // rate of requests takes four seconds in all.
        "--use-service-account-credentials=false".to_owned(),
        format!("--controllers={}", options.controllers),
        format!(
            "--service-cluster-ip-range={}",
            addresses::service_subnets(family).join(",")
        ),
        format!(
            "--cluster-cidr={}",
            addresses::pod_subnets(family).join(",")
        ),
        // Nodes are made with their pod subnets: the routes between them are known beforehand.
        "--allocate-node-cidrs=false".to_owned(),
        "--node-monitor-period=1s".to_owned(),
        format!(
            "--node-monitor-grace-period={}ms",
            options.node_monitor_grace.as_millis()
        ),
    ]);
    flags
}

/// What the scheduler needs, and the controller manager too: who it is, that there is one of it, and
/// where its own endpoints are.
fn client_of_the_api_server(component: Component, paths: &Paths) -> Vec<String> {
    let kubeconfig = paths.kubeconfig(component.as_str());
    let certificates = paths.certificates();
    let (kubeconfig, keys) = (kubeconfig.display(), certificates.display());
    vec![
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--tls-cert-file={keys}/component.crt"),
        format!("--tls-private-key-file={keys}/component.key"),
    ]
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
        let arguments = kube_apiserver(&options, &Paths::of("a"));
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
        let arguments = kube_controller_manager(&options, &Paths::of("a"));
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
