//! Where `externalTrafficPolicy: Local` has endpoints.

use crate::facts::ServiceKey;
use crate::net::Family;
use crate::world::World;

/// Has the node endpoints of this family that kube-proxy would use there: ready ones, or where none is ready, such as serve
/// while they terminate (KEP-1669)?
#[must_use]
pub fn has_usable(world: &World, service: &ServiceKey, node: &str, family: Family) -> bool {
    let slices = world
        .slices_of(service)
        .filter(|slice| slice.family == family);
    let mut on_node = slices
        .flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| endpoint.node.as_deref() == Some(node));
    on_node.any(|endpoint| endpoint.ready || (endpoint.serving && endpoint.terminating))
}
