//! The kubelet: it registers the node, runs the pods that are bound to it, and says how both are.

use serde_json::json;

use crate::addresses;
use crate::component::Role;
use crate::options::Options;
use crate::paths::Paths;

use super::CONTAINERD_SOCKET;

/// A KubeletConfiguration.
pub(super) fn configuration(number: usize, options: &Options, paths: &Paths) -> String {
    let role = Role::Node(number);
    let folder = paths.host(role);
    let certificates = paths.certificates();
    let forwarding = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];
    let unsafe_sysctls: &[&str] = if options.allow_forwarding_sysctls {
        &forwarding
    } else {
        &[]
    };
    let configuration = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "address": addresses::any(options.ip_family),
        "port": 10250,
        "readOnlyPort": 0,
        "healthzBindAddress": "127.0.0.1",
        "tlsCertFile": certificates.join(format!("{role}.crt")),
        "tlsPrivateKeyFile": certificates.join(format!("{role}.key")),
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": certificates.join("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDomain": "cluster.local",
        "clusterDNS": [addresses::cluster_dns(options.ip_family)],
        "resolvConf": folder.join("resolv.conf"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", paths.host_cgroup(role)),
        "cgroupsPerQOS": true,
        "enforceNodeAllocatable": ["pods"],
        // The default in 1.34; from 1.35 on a kubelet refuses cgroup v1 otherwise.
        "failCgroupV1": false,
        "failSwapOn": false,
        // What needs CAP_SYS_RESOURCE or the whole machine is left as it is.
        "oomScoreAdj": 0,
        "localStorageCapacityIsolation": false,
        "protectKernelDefaults": false,
        "allowedUnsafeSysctls": unsafe_sysctls,
        // The disk and the memory are the real host's: no reason to evict anybody, or to drop images.
        "evictionHard": {
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
            "memory.available": "0%",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "serializeImagePulls": false,
        // A dead node is noticed within seconds.
        "nodeStatusUpdateFrequency": "2s",
        "nodeStatusReportFrequency": "30s",
        "nodeLeaseDurationSeconds": 4,
        "maxPods": 110,
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
    });
    format!("{configuration:#}\n")
}

/// What a kubelet is told on its command line.
pub(super) fn arguments(number: usize, options: &Options, paths: &Paths) -> Vec<String> {
    let role = Role::Node(number);
    let own = addresses::all(role, options.ip_family);
    let own: Vec<String> = own.iter().map(ToString::to_string).collect();
    let mut arguments = vec![
        super::config(&paths.host(role), "kubelet.json"),
        format!(
            "--kubeconfig={}",
            paths.kubeconfig(&role.to_string()).display()
        ),
        format!("--hostname-override={role}"),
        format!("--node-ip={}", own.join(",")),
        "--root-dir=/var/lib/kubelet".to_owned(),
        "--cert-dir=/var/lib/kubelet/pki".to_owned(),
    ];
    let settings = options.node_settings.get(&number);
    if settings.is_some_and(|settings| settings.needs_external_cloud_provider()) {
        // It then leaves the addresses in the Node's status alone, once there are some.
        arguments.push("--cloud-provider=external".to_owned());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::NodeSettings;

    #[test]
    fn unsafe_sysctls_are_allowed_on_demand_alone() {
        let mut options = Options::default();
        let sysctl = "net.ipv6.conf.all.forwarding";
        assert!(!configuration(1, &options, &Paths::of("a")).contains(sysctl));
        options.allow_forwarding_sysctls = true;
        assert!(configuration(1, &options, &Paths::of("a")).contains(sysctl));
    }

    #[test]
    fn a_node_with_foreign_addresses_has_an_external_cloud_provider() {
        let mut options = Options::default();
        let settings = NodeSettings {
            external_ips: vec!["203.0.113.7".parse().unwrap()],
            ..NodeSettings::default()
        };
        options.node_settings.insert(2, settings);
        let external = "--cloud-provider=external".to_owned();
        assert!(!arguments(1, &options, &Paths::of("a")).contains(&external));
        assert!(arguments(2, &options, &Paths::of("a")).contains(&external));
    }
}
