//! Who holds the port that a svclb pod waits for.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::core::v1::Pod;

use crate::facts::host_ports;
use crate::names;
use crate::net::Port;

/// A pod that holds a port on its node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// The port.
    pub port: Port,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// It lives in the node's own network.
    pub host_network: bool,
    /// It is on its way out, and has the port until it has ended.
    pub leaving: bool,
    /// The Service that it belongs to, as `namespace/name`, if it is a svclb pod, ours or ServiceLB's.
    pub service: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.host_network {
            "hostNetwork"
        } else {
            "hostPort"
        };
        write!(f, "pod {}/{} ({how})", self.namespace, self.name)?;
        match &self.service {
            Some(service) => write!(f, " of Service {service}"),
            None => Ok(()),
        }
    }
}

/// What `pod`, listed by `spec.nodeName`, holds on its node. A pod that has ended holds nothing.
pub fn held_by(pod: &Pod) -> BTreeSet<Holder> {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let Some(spec) = pod
        .spec
        .as_ref()
        .filter(|_| !matches!(phase, Some("Succeeded" | "Failed")))
    else {
        return BTreeSet::new();
    };
    let label = |key| pod.metadata.labels.as_ref()?.get(key);
    let service = label(names::SERVICE_NAMESPACE)
        .zip(label(names::SERVICE_NAME))
        .map(|(namespace, name)| format!("{namespace}/{name}"));
    host_ports(spec)
        .map(|port| Holder {
            port,
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            host_network: spec.host_network == Some(true),
            leaving: pod.metadata.deletion_timestamp.is_some(),
            service: service.clone(),
        })
        .collect()
}
