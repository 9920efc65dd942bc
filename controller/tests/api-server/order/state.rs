//! What the controller has made, to be compared.

use std::collections::BTreeMap;

use anyhow::ensure;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::Value;
use svclb_controller::names;

use crate::bed::Bed;
use crate::objects::{addresses, daemonset_name, has_finalizer};

/// What is compared: all that the controller has made.
#[derive(Debug, PartialEq)]
pub(super) struct State {
    pub(super) services: BTreeMap<String, ServiceState>,
    /// By name: the UID and the spec.
    daemonsets: BTreeMap<String, (Option<String>, Value)>,
}

#[derive(Debug, PartialEq)]
pub(super) struct ServiceState {
    daemonset: String,
    load_balancer: bool,
    class: Option<String>,
    deleting: bool,
    finalizer: bool,
    /// With `ipMode`.
    addresses: Vec<(String, Option<String>)>,
    conditions: Vec<String>,
}

pub(super) async fn state(bed: &Bed) -> anyhow::Result<State> {
    let all = ListParams::default();
    let mut state = State {
        services: BTreeMap::new(),
        daemonsets: BTreeMap::new(),
    };
    for service in bed.services().list(&all).await? {
        let conditions = service
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let conditions = conditions
            .map(|condition| format!("{}: {}", condition.type_, condition.reason))
            .collect();
        let spec = service.spec.clone().unwrap_or_default();
        state.services.insert(
            service.name_any(),
            ServiceState {
                daemonset: daemonset_name(&service),
                load_balancer: spec.type_.as_deref() == Some("LoadBalancer"),
                class: spec.load_balancer_class,
                deleting: service.metadata.deletion_timestamp.is_some(),
                finalizer: has_finalizer(&service),
                addresses: addresses(&service)
                    .into_iter()
                    .zip(ip_modes(&service))
                    .collect(),
                conditions,
            },
        );
    }
    for daemonset in bed.daemonsets().list(&all).await? {
        let spec = serde_json::to_value(&daemonset.spec)?;
        state
            .daemonsets
            .insert(daemonset.name_any(), (daemonset.uid(), spec));
    }
    Ok(state)
}

fn ip_modes(service: &Service) -> impl Iterator<Item = Option<String>> {
    let status = service.status.iter();
    let ingress = status.flat_map(|status| {
        status
            .load_balancer
            .iter()
            .flat_map(|it| it.ingress.iter().flatten())
    });
    ingress.map(|ingress| ingress.ip_mode.clone())
}

impl State {
    /// No Service hangs, no DaemonSet is for nobody, and nothing is left on a Service that is not served.
    pub(super) fn is_clean(&self) -> anyhow::Result<()> {
        for (name, service) in &self.services {
            let served = service.load_balancer
                && service
                    .class
                    .as_deref()
                    .is_none_or(|class| class == names::LOAD_BALANCER_CLASS);
            ensure!(!service.deleting, "Service {name} hangs: {service:?}");
            ensure!(
                served || service.load_balancer || !service.finalizer,
                "{name}: {service:?}"
            );
            ensure!(
                served || !self.daemonsets.contains_key(&service.daemonset),
                "{name}: {service:?}"
            );
        }
        for name in self.daemonsets.keys() {
            let known = self
                .services
                .values()
                .any(|service| service.daemonset == *name);
            ensure!(known, "DaemonSet {name} is for nobody");
        }
        Ok(())
    }
}
