//! What a Service asks for, beyond its ports: annotations and source ranges, parsed.

use k8s_openapi::api::core::v1::Toleration;
use thiserror::Error;

use crate::facts::ServiceFacts;
use crate::names;
use crate::net::{Cidr, CidrError, Family};
use crate::settings::{IpMode, ProxyMode, Settings};
use crate::tolerations::{self, TolerationsError};

/// Which of a node's addresses are published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AddressChoice {
    /// ExternalIPs, or where a node has none of the family, InternalIPs.
    #[default]
    Preferred,
    /// ExternalIPs alone.
    External,
    /// InternalIPs alone.
    Internal,
    /// Both.
    All,
    /// Those of either kind that lie in one of these ranges.
    Within(Vec<Cidr>),
}

/// Why `ipMode` is `Proxy` though nobody asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyBecause {
    /// kube-proxy in ipvs mode binds other nodes' addresses.
    Ipvs,
    /// kube-proxy does not read the annotation that has the source ranges.
    RangesByAnnotation,
}

/// What a Service asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// Which of a node's addresses.
    pub addresses: AddressChoice,
    /// `ipMode` of all of them.
    pub ip_mode: IpMode,
    /// Why it is `Proxy`, where nobody asked for it.
    pub proxy_because: Option<ProxyBecause>,
    /// The families that a source may have, in the Service's order.
    pub open_families: Vec<Family>,
    /// Who may connect: those ranges of the Service's families.
    pub source_ranges: Vec<Cidr>,
    /// The svclb pods' PriorityClass.
    pub priority_class: Option<String>,
    /// Tolerations beside the built-in ones.
    pub tolerations: Vec<Toleration>,
}

/// Why a Service is not served as it asks for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WishError {
    /// Of [`names::ADDRESSES`].
    #[error(
        "annotation {}: {value:?} is neither external, internal, all nor a list of ranges like 10.0.0.0/8,fd00::/8",
        names::ADDRESSES
    )]
    Addresses {
        /// What it says.
        value: String,
    },
    /// Of [`names::IP_MODE`].
    #[error("annotation {}: {value:?} is neither VIP nor Proxy", names::IP_MODE)]
    IpMode {
        /// What it says.
        value: String,
    },
    /// Of [`names::PRIORITY_CLASS_NAME`].
    #[error(
        "annotation {}: {value:?} is no name of a PriorityClass",
        names::PRIORITY_CLASS_NAME
    )]
    PriorityClass {
        /// What it says.
        value: String,
    },
    /// Of [`names::TOLERATIONS`].
    #[error("annotation {}: {reason}", names::TOLERATIONS)]
    Tolerations {
        /// What is wrong.
        reason: TolerationsError,
    },
    /// Of the source ranges, wherever they are given.
    #[error("{place}: {reason}")]
    SourceRanges {
        /// The field or the annotation.
        place: &'static str,
        /// What is wrong.
        reason: CidrError,
    },
    /// `ipMode: Proxy` sends packets through the pod, which for `Local` needs a node port.
    #[error(
        "ipMode Proxy with externalTrafficPolicy Local needs a node port for each port: set spec.allocateLoadBalancerNodePorts to true, or give them"
    )]
    ProxyWithoutNodePort,
}

impl WishError {
    /// Is every value well formed, and only their combination cannot be served?
    #[must_use]
    pub fn is_combination(&self) -> bool {
        matches!(self, Self::ProxyWithoutNodePort)
    }
}

/// Parses what `service` asks for, under kube-proxy's `mode`.
pub fn wish(
    service: &ServiceFacts,
    mode: ProxyMode,
    settings: &Settings,
) -> Result<Wish, WishError> {
    let (ranges, by_annotation) = ranges(service)?;
    let (ip_mode, proxy_because) = match asked_ip_mode(service)?
        .or(settings.ip_mode)
        .unwrap_or(IpMode::Vip)
    {
        IpMode::Proxy => (IpMode::Proxy, None),
        IpMode::Vip if mode == ProxyMode::Ipvs => (IpMode::Proxy, Some(ProxyBecause::Ipvs)),
        IpMode::Vip if by_annotation => (IpMode::Proxy, Some(ProxyBecause::RangesByAnnotation)),
        IpMode::Vip => (IpMode::Vip, None),
    };
    if service.local
        && ip_mode == IpMode::Proxy
        && service.ports.iter().any(|port| port.node_port.is_none())
    {
        return Err(WishError::ProxyWithoutNodePort);
    }
    let is_open = |family: &Family| {
        ranges
            .as_ref()
            .is_none_or(|all| all.iter().any(|range| range.family() == *family))
    };
    let open_families: Vec<Family> = service.families.iter().copied().filter(is_open).collect();
    let mut source_ranges: Vec<Cidr> = match &ranges {
        None => open_families.iter().map(|family| family.any()).collect(),
        Some(all) => all
            .iter()
            .copied()
            .filter(|range| open_families.contains(&range.family()))
            .collect(),
    };
    source_ranges.sort();
    source_ranges.dedup();
    Ok(Wish {
        addresses: addresses(service)?,
        ip_mode,
        proxy_because,
        open_families,
        source_ranges,
        priority_class: priority_class(service, settings)?,
        tolerations: tolerations(service, settings)?,
    })
}

/// `None` where no range is given; and whether the annotation alone gives them, which kube-proxy does not read.
fn ranges(service: &ServiceFacts) -> Result<(Option<Vec<Cidr>>, bool), WishError> {
    if !service.source_ranges.is_empty() {
        let ranges = parse_ranges(
            "spec.loadBalancerSourceRanges",
            service.source_ranges.iter().map(String::as_str),
        )?;
        return Ok((Some(ranges), false));
    }
    match service
        .annotations
        .get(names::SOURCE_RANGES)
        .map(|value| value.trim())
        .filter(|value| !value.is_empty())
    {
        Some(value) => {
            let ranges = parse_ranges(
                concat!(
                    "annotation ",
                    "service.beta.kubernetes.io/load-balancer-source-ranges"
                ),
                value.split(','),
            )?;
            Ok((Some(ranges), true))
        }
        None => Ok((None, false)),
    }
}

fn parse_ranges<'a>(
    place: &'static str,
    texts: impl Iterator<Item = &'a str>,
) -> Result<Vec<Cidr>, WishError> {
    texts
        .map(|text| {
            text.trim()
                .parse()
                .map_err(|reason| WishError::SourceRanges { place, reason })
        })
        .collect()
}

fn asked_ip_mode(service: &ServiceFacts) -> Result<Option<IpMode>, WishError> {
    match service.annotations.get(names::IP_MODE).map(String::as_str) {
        None | Some("") => Ok(None),
        Some("VIP") => Ok(Some(IpMode::Vip)),
        Some("Proxy") => Ok(Some(IpMode::Proxy)),
        Some(value) => Err(WishError::IpMode {
            value: value.to_owned(),
        }),
    }
}

fn addresses(service: &ServiceFacts) -> Result<AddressChoice, WishError> {
    match service
        .annotations
        .get(names::ADDRESSES)
        .map(|value| value.trim())
    {
        None | Some("") => Ok(AddressChoice::Preferred),
        Some("external") => Ok(AddressChoice::External),
        Some("internal") => Ok(AddressChoice::Internal),
        Some("all") => Ok(AddressChoice::All),
        Some(value) => {
            let ranges: Result<Vec<Cidr>, CidrError> =
                value.split(',').map(|text| text.trim().parse()).collect();
            ranges
                .map(AddressChoice::Within)
                .map_err(|_| WishError::Addresses {
                    value: value.to_owned(),
                })
        }
    }
}

/// ServiceLB's annotation has precedence, and empty it means none.
fn priority_class(
    service: &ServiceFacts,
    settings: &Settings,
) -> Result<Option<String>, WishError> {
    match service.annotations.get(names::PRIORITY_CLASS_NAME) {
        None => Ok(settings.priority_class.clone()),
        Some(value) if value.is_empty() => Ok(None),
        Some(value) if names::is_dns_subdomain(value) => Ok(Some(value.clone())),
        Some(value) => Err(WishError::PriorityClass {
            value: value.clone(),
        }),
    }
}

fn tolerations(service: &ServiceFacts, settings: &Settings) -> Result<Vec<Toleration>, WishError> {
    let mut all = settings.tolerations.clone();
    if let Some(value) = service.annotations.get(names::TOLERATIONS) {
        all.extend(tolerations::parse(value).map_err(|reason| WishError::Tolerations { reason })?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
