//! Which nodes a Service may use, and why not the others.

use crate::facts::{NodeFacts, ServiceFacts, ServiceKey};
use crate::names;
use crate::net::{Port, Protocol};
use crate::world::World;

/// Why a Service may not use a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftOut {
    /// svclb pods run on Linux.
    NotLinux,
    /// There is an allow-list, and it is not on it.
    NotEnabled,
    /// It is not in the Service's pool.
    NotInPool,
    /// It is excluded from load balancing.
    Excluded,
    /// `--protected-ports`.
    Protected(Port),
    /// The API server listens there.
    ApiServer(Port),
    /// The kubelet listens there.
    Kubelet(Port),
    /// Another Service of ours has the port there.
    Claimed {
        /// The port.
        port: Port,
        /// The other Service, where it still exists.
        by: Option<ServiceKey>,
    },
}

impl LeftOut {
    /// Does the template's affinity say so by labels? Else it must name the node.
    #[must_use]
    pub fn by_label(&self) -> bool {
        matches!(
            self,
            Self::NotLinux | Self::NotEnabled | Self::NotInPool | Self::Excluded
        )
    }
}

/// May `service` use `node`, as far as labels go? (What the affinity of its DaemonSet says; see [`crate::daemonset`].)
pub fn admitted_by_labels(
    world: &World,
    service: &ServiceFacts,
    node: &NodeFacts,
) -> Result<(), LeftOut> {
    let label = |key: &str| node.labels.get(key).map(String::as_str);
    if label(names::OS) != Some("linux") {
        return Err(LeftOut::NotLinux);
    }
    if label(names::EXCLUDE).is_some_and(|value| !names::EXCLUDE_NOT.contains(&value)) {
        return Err(LeftOut::Excluded);
    }
    if world.allow_listing() && label(names::ENABLE_LB) != Some("true") {
        return Err(LeftOut::NotEnabled);
    }
    if let Some(pool) = &service.pool {
        let in_pool = label(names::LB_POOL) == Some(pool)
            || label(&format!("{}{pool}", names::LB_POOL_PREFIX)) == Some("true");
        if !in_pool {
            return Err(LeftOut::NotInPool);
        }
    }
    Ok(())
}

/// May `service` use `node`, as far as the ports go on which the cluster itself lives? kube-proxy would send every node's
/// traffic for the API server or a kubelet to the Service.
pub fn admitted_by_ports(
    world: &World,
    service: &ServiceFacts,
    node: &NodeFacts,
) -> Result<(), LeftOut> {
    for port in service
        .claims()
        .filter(|port| port.protocol == Protocol::Tcp)
    {
        if world.settings().protected_ports.contains(&port.number) {
            return Err(LeftOut::Protected(port));
        }
        if node
            .addresses
            .iter()
            .any(|(_, address)| world.is_api_server(*address, port.number))
        {
            return Err(LeftOut::ApiServer(port));
        }
        if node.kubelet_port == Some(port.number) {
            return Err(LeftOut::Kubelet(port));
        }
    }
    Ok(())
}
