//! An EndpointSlice, reduced.

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::facts::ServiceKey;
use crate::names;
use crate::net::Family;

/// The endpoints on one node that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The node, where it is known.
    pub node: Option<String>,
    /// `conditions.ready`; absent means yes (discovery/v1).
    pub ready: bool,
    /// `conditions.serving`; absent means as ready. Set also while the endpoint terminates.
    pub serving: bool,
    /// `conditions.terminating`
    pub terminating: bool,
}

/// An EndpointSlice, reduced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceFacts {
    /// The Service it belongs to.
    pub service: ServiceKey,
    /// The slice's own name.
    pub name: String,
    /// The family of its addresses.
    pub family: Family,
    /// The endpoints, without doubles.
    pub endpoints: Vec<Endpoint>,
    /// Of `default/kubernetes` alone: where the API servers listen.
    pub api_servers: Vec<(IpAddr, u16)>,
}

impl SliceFacts {
    /// `None` for a slice of no Service, or of host names.
    #[must_use]
    pub fn of(slice: &EndpointSlice) -> Option<Self> {
        let namespace = slice.metadata.namespace.clone()?;
        let service = ServiceKey::new(
            namespace,
            slice.metadata.labels.as_ref()?.get(names::SLICE_SERVICE)?,
        );
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for endpoint in &slice.endpoints {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let ready = conditions.ready.unwrap_or(true);
            let endpoint = Endpoint {
                node: endpoint.node_name.clone(),
                ready,
                serving: conditions.serving.unwrap_or(ready),
                terminating: conditions.terminating.unwrap_or(false),
            };
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        let mut api_servers = Vec::new();
        if service.namespace == "default" && service.name == "kubernetes" {
            for port in slice
                .ports
                .iter()
                .flatten()
                .filter_map(|port| u16::try_from(port.port?).ok())
            {
                let addresses = slice
                    .endpoints
                    .iter()
                    .flat_map(|endpoint| &endpoint.addresses);
                api_servers
                    .extend(addresses.filter_map(|address| Some((address.parse().ok()?, port))));
            }
        }
        Some(Self {
            service,
            name: slice.metadata.name.clone()?,
            family: Family::from_api(&slice.address_type)?,
            endpoints,
            api_servers,
        })
    }
}
