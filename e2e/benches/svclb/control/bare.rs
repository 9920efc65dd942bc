//! The controller's writes for a Service's life, by a client that decides nothing: what of the
//! controller's own share is the API server's part. It does them under the same load, since as many
//! svclb pods start and end meanwhile.

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use super::bed::Bed;
use super::observer::{Kind, Observer, Seen};
use super::scenes::{Durations, Measured, addresses, begin, nothing_left};

/// The label of what is made here in the place of the controller's, which would remove what has its own.
pub(super) const LABEL: &str = "bare-service";
/// A class that the controller leaves alone.
const CLASS: &str = "svclb.test/bare";
const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// A Service that the bench itself serves, created and deleted. `model` is what the controller made for
/// the same Service of its own.
pub(super) fn life(
    bed: &Bed<'_>,
    observer: &mut Observer,
    name: &str,
    model: DaemonSet,
) -> Result<Durations> {
    let daemonset = labelled(model, name)?;
    begin(observer);
    bed.create(name, &json!({"loadBalancerClass": CLASS}))?;
    let service = observer.when("the Service", |seen| seen.is(Kind::Service, name))?;
    bed.patch_status(name, json!({"metadata": {"finalizers": [FINALIZER]}}))?;
    bed.create_daemonset(&daemonset)?;
    let made = observer.when("its DaemonSet", |seen| seen.is(Kind::DaemonSet, name))?;
    let bound = observer.when("a pod with a node", |seen| {
        seen.kind == Kind::Pod && seen.service() == name && !seen.text("/spec/nodeName").is_empty()
    })?;
    let ingress: Vec<_> = bed
        .addresses()?
        .iter()
        .map(|ip| json!({"ip": ip, "ipMode": "VIP"}))
        .collect();
    let first = json!({"status": {"loadBalancer": {"ingress": ingress.get(..1)}}});
    bed.patch_status(name, first)?;
    let shown = addresses(observer, name, 1)?;
    bed.patch_status(
        name,
        json!({"status": {"loadBalancer": {"ingress": ingress}}}),
    )?;
    addresses(observer, name, ingress.len())?;
    let created = (made - service) + (shown - bound);

    let begun = begin(observer);
    bed.delete(name)?;
    let asked = observer.when("the Service's end", |seen| {
        seen.is(Kind::Service, name) && !seen.text("/metadata/deletionTimestamp").is_empty()
    })?;
    bed.delete_daemonset(name)?;
    let clear = json!({"status": {"loadBalancer": {"ingress": null}}});
    bed.patch_status(name, clear)?;
    let release = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
    bed.patch_status(name, release)?;
    let is_gone = |seen: &Seen| {
        seen.kind == Kind::Service && seen.deleted && seen.text("/metadata/name") == name
    };
    let gone = observer.when("the Service gone", is_gone)?;
    nothing_left(bed, observer, name, begun, is_gone)?;
    Ok(vec![
        (Measured::CreateBare, created),
        (Measured::DeleteBare, gone - asked),
    ])
}

/// The DaemonSet under another name, with our label in the place of all that the controller goes by.
fn labelled(mut daemonset: DaemonSet, name: &str) -> Result<DaemonSet> {
    let labels = || Some([(LABEL.to_owned(), name.to_owned())].into());
    daemonset.metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: daemonset.metadata.namespace,
        labels: labels(),
        ..ObjectMeta::default()
    };
    let spec = daemonset.spec.as_mut().context("a DaemonSet has no spec")?;
    spec.selector.match_labels = labels();
    spec.template.metadata = Some(ObjectMeta {
        labels: labels(),
        ..ObjectMeta::default()
    });
    daemonset.status = None;
    Ok(daemonset)
}
