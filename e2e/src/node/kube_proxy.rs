//! kube-proxy: it makes packets to Services go to their endpoints, by rules of netfilter.

use std::net::SocketAddr;

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
        "bindAddress": addresses::any(options.ip_family),
        // All, in both modes: the default of nftables, the primary address alone, would also have
        // health checks of Services answered in one family alone.
        "nodePortAddresses": addresses::everywhere(options.ip_family),
        "healthzBindAddress": SocketAddr::new(addresses::any(options.ip_family), 10256).to_string(),
        "metricsBindAddress": "127.0.0.1:10249",
        "oomScoreAdj": 0,
        // The sysctls behind these exist in the real host's network namespace alone.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": iptables,
        "nftables": sync,
    });
    format!("{configuration:#}\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;

    use super::*;
    use crate::options::IpFamily;

    fn rendered(options: &Options) -> Value {
        let text = configuration(1, options, &Paths::of("a"));
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_least_time_between_two_syncs_is_as_asked_for_in_both_modes() {
        // Zero is for kube-proxy to read as its default, which is that of users' clusters: one second.
        for (asked, expected) in [(0, "0ms"), (10, "10ms"), (1000, "1000ms")] {
            let configuration = rendered(&Options {
                proxy_min_sync: Duration::from_millis(asked),
                ..Options::default()
            });
            assert_eq!(configuration["iptables"]["minSyncPeriod"], expected);
            assert_eq!(configuration["nftables"]["minSyncPeriod"], expected);
        }
        let default = rendered(&Options::default());
        assert_eq!(default["iptables"]["minSyncPeriod"], "1000ms");
    }

    #[test]
    fn a_cluster_of_one_family_needs_nothing_of_the_other() {
        let of = |ip_family| {
            rendered(&Options {
                ip_family,
                ..Options::default()
            })
        };
        let ipv4 = of(IpFamily::Ipv4);
        assert_eq!(ipv4["bindAddress"], "0.0.0.0");
        assert_eq!(ipv4["healthzBindAddress"], "0.0.0.0:10256");
        assert_eq!(ipv4["nodePortAddresses"], json!(["0.0.0.0/0"]));
        let ipv6 = of(IpFamily::Ipv6);
        assert_eq!(ipv6["bindAddress"], "::");
        assert_eq!(ipv6["healthzBindAddress"], "[::]:10256");
        assert_eq!(ipv6["nodePortAddresses"], json!(["::/0"]));
    }
}
