//! How a Kubernetes node is put together: a container runtime that has a network plugin, a kubelet
//! that runs pods with it, and a kube-proxy that makes Services reachable.
//!
//! Each has one configuration file in the node's folder.

mod containerd;
mod kube_proxy;
mod kubelet;
mod network;

use std::path::Path;

use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeSpec, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::addresses;
use crate::component::{CommandLine, Component, Role};
use crate::files;
use crate::options::{self, NodeSettings, Options, ProxyMode};
use crate::paths::{Paths, kubernetes};

pub(crate) use containerd::SOCKET as CONTAINERD_SOCKET;

/// Writes the configuration files of a node.
pub(crate) fn write_configurations(
    number: usize,
    options: &Options,
    paths: &Paths,
) -> Result<(), files::Error> {
    let folder = paths.host(Role::Node(number));
    let plugins = folder.join("cni");
    files::make_folder(&plugins)?;
    files::write(
        &plugins.join("10-pods.conflist"),
        network::conflist(number, options.ip_family),
    )?;
    files::write(
        &folder.join("containerd.toml"),
        containerd::configuration(&plugins, network::plugin_folder()),
    )?;
    // Pods get no name servers but the cluster's.
    files::write(&folder.join("resolv.conf"), "")?;
    files::write(
        &folder.join("kubelet.json"),
        kubelet::configuration(number, options, paths),
    )?;
    files::write(
        &folder.join("kube-proxy.json"),
        kube_proxy::configuration(number, options, paths),
    )
}

/// How a component of a node is started; None for one that does not run there.
pub(crate) fn command_line(
    number: usize,
    component: Component,
    options: &Options,
    paths: &Paths,
) -> Option<CommandLine> {
    let folder = paths.host(Role::Node(number));
    let program = kubernetes(component.as_str());
    match component {
        Component::Containerd => {
            let arguments = [config(&folder, "containerd.toml")];
            Some(CommandLine::new("containerd", arguments))
        }
        Component::Kubelet => {
            let arguments = kubelet::arguments(number, options, paths);
            Some(CommandLine::new(program, arguments))
        }
        Component::KubeProxy => {
            let arguments = [config(&folder, "kube-proxy.json")];
            Some(CommandLine::new(program, arguments))
        }
        Component::Etcd
        | Component::KubeApiserver
        | Component::KubeControllerManager
        | Component::KubeScheduler => None,
    }
}

/// The commands that run on a node before its components do.
///
/// Chains of one priority are called last come, first served. So that kube-proxy's NAT runs before
/// portmap's in nftables mode, the chain that portmap's rules will be in is there first.
pub(crate) fn commands_before_start(options: &Options) -> Vec<[&'static str; 6]> {
    if options.proxy_mode != ProxyMode::Nftables || options.portmap_last {
        return Vec::new();
    }
    ["iptables-nft", "ip6tables-nft"]
        .map(|iptables| [iptables, "-t", "nat", "-P", "PREROUTING", "ACCEPT"])
        .to_vec()
}

/// The Node object as it is made before its kubelet starts, which takes it over: like this its pod
/// subnets, labels, taints and foreign addresses are there from the first moment.
pub(crate) fn object(number: usize, options: &Options) -> Node {
    let role = Role::Node(number);
    let settings = options
        .node_settings
        .get(&number)
        .cloned()
        .unwrap_or_default();
    let subnets: Vec<String> = addresses::node_pod_subnets(number, options.ip_family)
        .iter()
        .map(ToString::to_string)
        .collect();
    Node {
        metadata: ObjectMeta {
            name: Some(role.to_string()),
            labels: Some(settings.labels.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: subnets.first().cloned(),
            pod_cidrs: Some(subnets),
            taints: Some(taints(&settings)),
            ..NodeSpec::default()
        }),
        status: settings
            .needs_external_cloud_provider()
            .then(|| NodeStatus {
                addresses: Some(status_addresses(role, &settings, options)),
                ..NodeStatus::default()
            }),
    }
}

fn status_addresses(role: Role, settings: &NodeSettings, options: &Options) -> Vec<NodeAddress> {
    let own = addresses::all(role, options.ip_family);
    let internal = if settings.internal_ips.is_empty() {
        &own
    } else {
        &settings.internal_ips
    };
    let address = |kind: &str, address: String| NodeAddress {
        type_: kind.to_owned(),
        address,
    };
    let mut all = vec![address("Hostname", role.to_string())];
    all.extend(
        internal
            .iter()
            .map(|ip| address("InternalIP", ip.to_string())),
    );
    all.extend(
        settings
            .external_ips
            .iter()
            .map(|ip| address("ExternalIP", ip.to_string())),
    );
    all
}

/// Those that are none have been refused before.
fn taints(settings: &NodeSettings) -> Vec<Taint> {
    let parsed = settings
        .taints
        .iter()
        .filter_map(|text| options::Taint::parse(text));
    parsed
        .map(|taint| Taint {
            key: taint.key.to_owned(),
            value: taint.value.map(str::to_owned),
            effect: taint.effect.to_owned(),
            time_added: None,
        })
        .collect()
}

fn config(folder: &Path, file: &str) -> String {
    format!("--config={}", folder.join(file).display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_with_foreign_addresses_has_them_in_its_status() {
        let mut options = Options::default();
        let settings = NodeSettings {
            external_ips: vec!["203.0.113.7".parse().unwrap()],
            taints: vec!["a=b:NoExecute".to_owned(), "c:NoSchedule".to_owned()],
            ..NodeSettings::default()
        };
        options.node_settings.insert(1, settings);
        let node = object(1, &options);
        let addresses: Vec<_> = node
            .status
            .unwrap()
            .addresses
            .unwrap()
            .into_iter()
            .map(|address| (address.type_, address.address))
            .collect();
        let expected = [
            ("Hostname", "node-1"),
            ("InternalIP", "10.231.1.1"),
            ("InternalIP", "fd31:231::1:1"),
            ("ExternalIP", "203.0.113.7"),
        ];
        assert_eq!(
            addresses,
            expected.map(|(kind, address)| (kind.to_owned(), address.to_owned()))
        );
        let taints: Vec<_> = node
            .spec
            .unwrap()
            .taints
            .unwrap()
            .into_iter()
            .map(|taint| (taint.key, taint.value, taint.effect))
            .collect();
        assert_eq!(
            taints,
            [
                ("a".to_owned(), Some("b".to_owned()), "NoExecute".to_owned()),
                ("c".to_owned(), None, "NoSchedule".to_owned())
            ]
        );
        assert_eq!(object(2, &options).status, None);
    }

    #[test]
    fn portmaps_chain_comes_first_in_nftables_mode_alone() {
        let mut options = Options::default();
        assert_eq!(commands_before_start(&options).len(), 0);
        options.proxy_mode = ProxyMode::Nftables;
        assert_eq!(commands_before_start(&options).len(), 2);
        options.portmap_last = true;
        assert_eq!(commands_before_start(&options).len(), 0);
    }
}
