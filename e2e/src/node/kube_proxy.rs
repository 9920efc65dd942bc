//! kube-proxy: it makes packets to Services go to their endpoints, by rules of netfilter.

use serde_json::json;

use crate::addresses;
use crate::component::{Component, Role};
use crate::options::Options;
use crate::paths::Paths;

/// A KubeProxyConfiguration.
pub(super) fn configuration(number: usize, options: &Options, paths: &Paths) -> String {
    let sync = json!({
        "minSyncPeriod": format!("{}ms", options.proxy_min_sync.as_millis()),
        "syncPeriod": "30s",
    });
    let mut iptables = sync.clone();
    // Else it would let packets to 127.0.0.0/8 be routed.
    iptables["localhostNodePorts"] = false.into();
    let configuration = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": paths.kubeconfig(Component::KubeProxy.as_str())},
        "mode": options.proxy_mode.as_str(),
        "hostnameOverride": Role::Node(number).to_string(),
        "clusterCIDR": addresses::pod_subnets(options.ip_family).join(","),
        "bindAddress": "::",
        // All, in both modes: the default of nftables, the primary address alone, would also have
        // health checks of Services answered in one family alone.
        "nodePortAddresses": ["0.0.0.0/0", "::/0"],
        "healthzBindAddress": "0.0.0.0:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "oomScoreAdj": 0,
        // The sysctls behind these exist in the real host's network namespace alone.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": iptables,
        "nftables": sync,
    });
    format!("{configuration:#}\n")
}
