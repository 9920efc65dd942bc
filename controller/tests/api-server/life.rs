//! A Service's life: made, edited, let go.

use anyhow::{Context, bail, ensure};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::Test;
use crate::bed::Bed;
use crate::objects::{addresses, has_finalizer, host_ports};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_service_is_served_and_leaves_nothing", served_and_gone),
    ("a_port_that_is_removed_leaves_the_daemonset", removed_port),
    ("a_change_of_type_lets_the_service_go", change_of_type),
    ("finalizers_and_conditions_of_others_stay", others_stay),
    ("a_class_of_others_is_never_touched", foreign_class),
    (
        "a_service_that_gets_a_foreign_class_keeps_status_and_finalizer",
        class_changes_hands,
    ),
];

fn served_and_gone(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller()?;
    bed.run(async {
        bed.node("n1", "192.0.2.1").await?;
        bed.node("n2", "192.0.2.2").await?;
        let service = bed.service("web", &[80]).await?;
        let daemonset = bed.daemonset_of(&service).await?;
        ensure!(host_ports(&daemonset) == [80], "{daemonset:?}");
        bed.bind(&service, "n1").await?;
        bed.until_addresses("web", &["192.0.2.1"]).await?;
        bed.bind(&service, "n2").await?;
        let served = bed
            .until_addresses("web", &["192.0.2.1", "192.0.2.2"])
            .await?;
        ensure!(has_finalizer(&served), "{:?}", served.metadata);
        // The finalizer, the first address, and the second one.
        ensure!(
            controller.writes("service_status")? == 3.0,
            "{}",
            controller.get("/metrics")?
        );
        ensure!(
            controller.writes("daemonset")? == 1.0,
            "{}",
            controller.get("/metrics")?
        );
        ensure!(controller.metric("svclb_first_address_seconds_count")? == 1.0);

        bed.delete("web").await?;
        bed.until_no_daemonset().await?;
        bed.until("Service web is gone", async || {
            match bed.services().get_opt("web").await? {
                None => Ok(()),
                Some(service) => bail!("{:?}", service.metadata),
            }
        })
        .await
    })
    .with_context(|| controller.said())
}

fn removed_port(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller()?;
    bed.run(async {
        bed.node("n1", "192.0.2.1").await?;
        let service = bed.service("web", &[80, 443, 8080]).await?;
        let created = bed.daemonset_of(&service).await?;
        ensure!(host_ports(&created) == [80, 443, 8080]);
        for ports in [vec![80, 8080], vec![8080]] {
            bed.edit(
                "web",
                json!({"spec": {"ports": crate::objects::tcp(&ports)}}),
            )
            .await?;
            bed.until(&format!("host ports {ports:?}"), async || {
                let found = host_ports(&bed.daemonset_of(&service).await?);
                let expected: Vec<_> = ports.iter().map(|port| i32::from(*port)).collect();
                if found == expected {
                    Ok(())
                } else {
                    bail!("{found:?}")
                }
            })
            .await?;
        }
        let applied = bed.daemonset_of(&service).await?;
        ensure!(
            applied.uid() == created.uid(),
            "it was made anew instead of applied"
        );
        Ok(())
    })
    .with_context(|| controller.said())
}

fn change_of_type(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller()?;
    bed.run(async {
        bed.node("n1", "192.0.2.1").await?;
        let service = bed.service("web", &[80]).await?;
        bed.bind(&service, "n1").await?;
        bed.until_addresses("web", &["192.0.2.1"]).await?;
        bed.edit("web", json!({"spec": {"type": "ClusterIP"}}))
            .await?;
        bed.until_no_daemonset().await?;
        bed.until("no finalizer, address or condition", async || {
            let service = bed.services().get("web").await?;
            let conditions = service
                .status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten());
            let left = conditions.count() + addresses(&service).len();
            if left > 0 || has_finalizer(&service) {
                bail!("{service:?}")
            } else {
                Ok(())
            }
        })
        .await
    })
    .with_context(|| controller.said())
}

fn others_stay(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller()?;
    bed.run(async {
        // No node: a condition of ours is set, beside the other.
        let service = bed.service("web", &[80]).await?;
        bed.edit(
            "web",
            json!({"metadata": {"finalizers": [
                svclb_controller::names::FINALIZER, "example.org/theirs",
            ]}}),
        )
        .await?;
        let condition = json!({"status": {"conditions": [{
            "type": "example.org/Theirs",
            "status": "True",
            "reason": "Theirs",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]}});
        let patch = Patch::Strategic(condition);
        bed.services()
            .patch_status("web", &PatchParams::default(), &patch)
            .await?;
        bed.node("n1", "192.0.2.1").await?;
        bed.bind(&service, "n1").await?;
        bed.until_addresses("web", &["192.0.2.1"]).await?;
        bed.edit("web", json!({"spec": {"type": "ClusterIP"}}))
            .await?;
        bed.until("only what others have put there", async || {
            let service = bed.services().get("web").await?;
            let conditions: Vec<_> = service
                .status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten())
                .map(|condition| condition.type_.clone())
                .collect();
            if conditions == ["example.org/Theirs"]
                && service.finalizers() == ["example.org/theirs"]
            {
                Ok(())
            } else {
                bail!("{conditions:?}, {:?}", service.finalizers())
            }
        })
        .await?;
        bed.edit("web", json!({"metadata": {"finalizers": null}}))
            .await?;
        Ok(())
    })
    .with_context(|| controller.said())
}

fn foreign_class(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller()?;
    bed.run(async {
        bed.node("n1", "192.0.2.1").await?;
        let spec =
            json!({"loadBalancerClass": "example.org/lb", "ports": crate::objects::tcp(&[80])});
        let foreign = bed.service_with("foreign", spec).await?;
        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}});
        let patch = Patch::Merge(status);
        let foreign = bed
            .services()
            .patch_status(&foreign.name_any(), &PatchParams::default(), &patch)
            .await?;
        // One of ours, made afterwards, tells when the controller has seen the other.
        let ours = bed.service("ours", &[81]).await?;
        bed.bind(&ours, "n1").await?;
        bed.until_addresses("ours", &["192.0.2.1"]).await?;
        let foreign = bed.services().get(&foreign.name_any()).await?;
        bed.delete("foreign").await?;
        ensure!(
            bed.services().get_opt("foreign").await?.is_none(),
            "something holds it"
        );
        ensure!(!has_finalizer(&foreign) && addresses(&foreign) == ["203.0.113.1"]);
        ensure!(bed.events(&foreign).await?.is_empty());
        Ok(())
    })
    .with_context(|| controller.said())
}

fn class_changes_hands(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller()?;
    bed.run(async {
        bed.node("n1", "192.0.2.1").await?;
        let service = bed.service("web", &[80]).await?;
        bed.bind(&service, "n1").await?;
        bed.until_addresses("web", &["192.0.2.1"]).await?;
        // The class can't be changed while the type stays; a user takes this way, or deletes the Service.
        ensure!(controller.stop()?.success());
        bed.edit("web", json!({"spec": {"type": "ClusterIP"}}))
            .await?;
        bed.edit(
            "web",
            json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": "example.org/lb"}}),
        )
        .await?;
        let patch =
            Patch::Merge(json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}}));
        bed.services()
            .patch_status("web", &PatchParams::default(), &patch)
            .await?;
        let controller = bed.controller()?;
        bed.until_no_daemonset()
            .await
            .with_context(|| controller.said())?;
        let service = bed.services().get("web").await?;
        ensure!(addresses(&service) == ["203.0.113.1"], "{service:?}");
        ensure!(has_finalizer(&service), "the other may need it");
        Ok(())
    })
}
