//! What `kubectl describe svc` shows.

use anyhow::{Context, ensure};
use serde_json::json;
use svclb_controller::names::reason;

use crate::Test;
use crate::bed::Bed;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("kubectl_describe_shows_what_happened_once", described),
    ("bad_input_is_said_and_what_worked_stays", bad_input),
];

fn described(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller()?;
    let service = bed.run(async {
        let service = bed.service("web", &[80]).await?;
        bed.until_event(&service, reason::UNAVAILABLE_LOAD_BALANCER, &[])
            .await?;
        bed.node("n1", "192.0.2.1").await?;
        bed.bind(&service, "n1").await?;
        bed.until_addresses("web", &["192.0.2.1"]).await?;
        bed.until_event(&service, reason::UPDATED_LOAD_BALANCER, &["192.0.2.1"])
            .await?;
        anyhow::Ok(service)
    })?;
    let text = bed.cluster.kubectl(&["describe", "service", "web"])?;
    for part in [
        reason::UNAVAILABLE_LOAD_BALANCER,
        reason::APPLIED_DAEMONSET,
        reason::UPDATED_LOAD_BALANCER,
        "[] -> [192.0.2.1]",
        "svclb-controller",
    ] {
        ensure!(text.contains(part), "{part:?} in:\n{text}");
    }
    let events = bed.run(bed.events(&service))?;
    for event in &events {
        let same = events
            .iter()
            .filter(|other| other.reason == event.reason && other.note == event.note);
        ensure!(
            same.count() == 1,
            "told twice: {event:?}\n{}",
            controller.said()
        );
    }
    Ok(())
}

fn bad_input(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller()?;
    bed.run(async {
        bed.node("n1", "192.0.2.1").await?;
        let service = bed.service("web", &[80]).await?;
        bed.bind(&service, "n1").await?;
        bed.until_addresses("web", &["192.0.2.1"]).await?;
        let before = bed.daemonset_of(&service).await?;
        let annotation = json!({(svclb_controller::names::TOLERATIONS): "[{operator: Sometimes}]"});
        bed.edit("web", json!({"metadata": {"annotations": annotation}}))
            .await?;
        bed.until_event(&service, reason::INVALID_CONFIGURATION, &["Sometimes"])
            .await?;
        let after = bed.daemonset_of(&service).await?;
        ensure!(after.spec == before.spec && after.metadata.uid == before.metadata.uid);
        bed.until_addresses("web", &["192.0.2.1"]).await?;
        Ok(())
    })
    .with_context(|| controller.said())
}
