//! Every label, annotation, finalizer, condition, event reason and fixed name, in one table.
//!
//! Keys under `svccontroller.k3s.cattle.io` are ServiceLB's contract, kept as users know them; ours lie under `svclb.io`.

/// The field manager of everything that this controller writes.
pub const FIELD_MANAGER: &str = "svclb-controller";
/// The class of the Services that are always ours (`spec.loadBalancerClass`).
pub const LOAD_BALANCER_CLASS: &str = "svclb.io/svclb";
/// The ServiceAccount of the svclb pods.
pub const SERVICE_ACCOUNT: &str = "svclb";
/// Our PriorityClass: high, and `preemptionPolicy: Never`.
pub const PRIORITY_CLASS: &str = "svclb";
/// The one container of a svclb pod.
pub const CONTAINER: &str = "svclb";
/// The privileged init container of a Service with an IPv6 family.
pub const IPV6_INIT_CONTAINER: &str = "allow-ipv6-forwarding";

/// On our DaemonSets alone: the whole UID of the Service. A DaemonSet without it is not ours.
pub const SERVICE_UID: &str = "svclb.io/service-uid";
/// On our DaemonSets: what we applied last, as a hash.
pub const APPLIED: &str = "svclb.io/applied";
/// Service annotation: `external`, `internal`, `all`, or a comma-separated list of CIDRs.
pub const ADDRESSES: &str = "svclb.io/addresses";
/// Service annotation: `VIP` or `Proxy`.
pub const IP_MODE: &str = "svclb.io/ip-mode";

/// Pod label, and the only selector label: the DaemonSet's name.
pub const APP: &str = "app";
/// DaemonSet and pod label: the Service's name.
pub const SERVICE_NAME: &str = "svccontroller.k3s.cattle.io/svcname";
/// DaemonSet and pod label: the Service's namespace.
pub const SERVICE_NAMESPACE: &str = "svccontroller.k3s.cattle.io/svcnamespace";
/// ServiceLB's mark on its own DaemonSets; whatever carries it is deleted by k3s when ServiceLB is switched off.
pub const SERVICELB_MARKS: [&str; 2] = [
    "svccontroller.k3s.cattle.io/nodeselector",
    "svccontroller.rke2.cattle.io/nodeselector",
];
/// Node label: once any node has it, only nodes where it is `true` are eligible.
pub const ENABLE_LB: &str = "svccontroller.k3s.cattle.io/enablelb";
/// Node and Service label: the pool.
pub const LB_POOL: &str = "svccontroller.k3s.cattle.io/lbpool";
/// Node label, followed by the pool's name: `true` on each node of the pool. A node may be in several.
pub const LB_POOL_PREFIX: &str = "lbpool.svccontroller.k3s.cattle.io/";
/// Service annotation: the svclb pods' PriorityClass; empty means none.
pub const PRIORITY_CLASS_NAME: &str = "svccontroller.k3s.cattle.io/priorityclassname";
/// Service annotation: more tolerations, a list in JSON or YAML.
pub const TOLERATIONS: &str = "svccontroller.k3s.cattle.io/tolerations";

/// Kubernetes' own annotation from before `spec.loadBalancerSourceRanges`.
pub const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// Kubernetes' own finalizer for load balancers, which ServiceLB uses too.
pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// Node label that takes a node out of load balancing.
pub const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The values of [`EXCLUDE`] that do not exclude: what Go's `strconv.ParseBool` reads as false.
pub const EXCLUDE_NOT: [&str; 6] = ["0", "f", "F", "false", "FALSE", "False"];
/// Node label: the operating system.
pub const OS: &str = "kubernetes.io/os";
/// Taint by which the cluster autoscaler announces that a node goes.
pub const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";
/// Where kubeadm keeps kube-proxy's configuration.
pub const KUBE_SYSTEM: &str = "kube-system";
/// The ConfigMap of kube-proxy's configuration.
pub const KUBE_PROXY: &str = "kube-proxy";
/// Label of an EndpointSlice: its Service.
pub const SLICE_SERVICE: &str = "kubernetes.io/service-name";

/// Condition types in a Service's status.
pub mod condition {
    /// core/v1's: a port of the Service cannot be had on some node.
    pub const PORTS_ERROR: &str = "LoadBalancerPortsError";
    /// Ours: anything else that a Warning tells of. Present only while it holds.
    pub const DEGRADED: &str = "svclb.io/Degraded";
    /// All that we may write, and that we clear when we let a Service go.
    pub const OURS: [&str; 2] = [PORTS_ERROR, DEGRADED];
}

/// Event reasons.
pub mod reason {
    /// Contract: the DaemonSet was created or changed.
    pub const APPLIED_DAEMONSET: &str = "AppliedDaemonSet";
    /// Contract: the DaemonSet was deleted.
    pub const DELETED_DAEMONSET: &str = "DeletedDaemonSet";
    /// Contract: the addresses in status changed.
    pub const UPDATED_LOAD_BALANCER: &str = "UpdatedLoadBalancer";
    /// Contract: no node is eligible.
    pub const UNAVAILABLE_LOAD_BALANCER: &str = "UnAvailableLoadBalancer";
    /// A port of the Service is held by somebody else on some nodes.
    pub const PORT_CONFLICT: &str = "PortConflict";
    /// The DaemonSet controller cannot make the svclb pods.
    pub const PODS_NOT_CREATED: &str = "PodsNotCreated";
    /// A svclb pod waits for a node for another reason than its ports.
    pub const POD_UNSCHEDULABLE: &str = "PodUnschedulable";
    /// A svclb pod is bound to a node and does not run.
    pub const POD_NOT_RUNNING: &str = "PodNotRunning";
    /// A malformed annotation, label or range; the last good state stays.
    pub const INVALID_CONFIGURATION: &str = "InvalidConfiguration";
    /// A combination that cannot be served.
    pub const UNSUPPORTED_CONFIGURATION: &str = "UnsupportedConfiguration";
    /// A Local Service has a port without a node port.
    pub const NODE_PORT_MISSING: &str = "NodePortMissing";
    /// kube-proxy would not enforce the source ranges.
    pub const SOURCE_RANGES_NOT_ENFORCED: &str = "SourceRangesNotEnforced";
    /// Addresses are `ipMode: Proxy` because of kube-proxy's mode.
    pub const IP_MODE_CHOSEN: &str = "IPModeChosen";
    /// The Service takes the port of the nodes' SSH servers.
    pub const SSH_PORT: &str = "SSHPort";
    /// k3s' own ServiceLB serves class-less Services.
    pub const SERVICELB_ACTIVE: &str = "ServiceLBActive";
    /// Somebody else writes the status of the Service.
    pub const STATUS_CONFLICT: &str = "StatusConflict";
}

/// The name of a Service's DaemonSet: `svclb-<name, at most 48 characters>-<first 8 of the UID>`.
#[must_use]
pub fn daemonset(service_name: &str, service_uid: &str) -> String {
    let name: String = service_name.chars().take(48).collect();
    let uid: String = service_uid.chars().take(8).collect();
    format!("svclb-{}-{uid}", name.trim_end_matches('-'))
}

/// The name of a port in the container: `lb-tcp-80`.
#[must_use]
pub fn port(protocol: &str, port: u16) -> String {
    format!("lb-{}-{port}", protocol.to_ascii_lowercase())
}

/// Is `text` a DNS subdomain (RFC 1123), as most objects' names are?
#[must_use]
pub fn is_dns_subdomain(text: &str) -> bool {
    let is_end = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 253
        && text.split('.').all(|label| {
            let bytes = label.as_bytes();
            bytes.first().is_some_and(is_end)
                && bytes.last().is_some_and(is_end)
                && bytes.iter().all(|byte| is_end(byte) || *byte == b'-')
        })
}

/// Is `text` a label's key: a name of at most 63 characters, after an optional DNS subdomain and a slash?
#[must_use]
pub fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => {
            is_dns_subdomain(prefix) && !name.is_empty() && is_label_value(name)
        }
        None => !text.is_empty() && is_label_value(text),
    }
}

/// Is `text` a label's value: empty, or at most 63 letters, digits, `-`, `_` and `.` between letters or digits?
#[must_use]
pub fn is_label_value(text: &str) -> bool {
    let bytes = text.as_bytes();
    text.len() <= 63
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && [bytes.first(), bytes.last()]
            .into_iter()
            .flatten()
            .all(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemonset_names_are_servicelbs() {
        let uid = "35a5ccb3-4a82-40b7-8d83-cda9582e4251";
        for (service, expected) in [
            ("a-service", "svclb-a-service-35a5ccb3"),
            (
                "a-service-with-a-very-veeeeeery-long-yet-valid-name",
                "svclb-a-service-with-a-very-veeeeeery-long-yet-valid-n-35a5ccb3",
            ),
            (
                "a-service-with-a-name-with-inconvenient------------hypens",
                "svclb-a-service-with-a-name-with-inconvenient-35a5ccb3",
            ),
        ] {
            assert_eq!(daemonset(service, uid), expected);
            assert!(
                daemonset(service, uid).len() <= 63,
                "the name is a label value as well"
            );
        }
    }

    #[test]
    fn port_names_are_servicelbs() {
        assert_eq!(port("TCP", 80), "lb-tcp-80");
        assert_eq!(port("SCTP", 65535), "lb-sctp-65535");
    }
}
