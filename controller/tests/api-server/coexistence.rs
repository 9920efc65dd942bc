//! Beside k3s' own ServiceLB, and beside others who write a Service's status.

use std::pin::pin;

use anyhow::{Context, ensure};
use futures::TryStreamExt;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;
use svclb_controller::names::{self, reason};

use crate::Test;
use crate::bed::Bed;
use crate::objects::{addresses, daemonset_name, has_finalizer, object, tcp};

pub(crate) const TESTS: &[(&str, Test)] = &[
    (
        "servicelb_at_work_is_left_alone_and_then_taken_over_without_a_gap",
        servicelb,
    ),
    (
        "one_who_keeps_writing_the_status_is_named_and_not_fought",
        status_war,
    ),
];

fn servicelb(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller()?;
    bed.run(async {
        bed.node("n1", "192.0.2.1").await?;
        let mark = names::SERVICELB_MARKS[0];
        // ServiceLB's mark is there before the Service, as on a running k3s.
        let other = servicelb_daemonset("svclb-traefik-0a1b2c3d", mark, 8443)?;
        bed.daemonsets()
            .create(&PostParams::default(), &other)
            .await?;
        bed.service_with(
            "ours",
            json!({"loadBalancerClass": names::LOAD_BALANCER_CLASS, "ports": tcp(&[81])}),
        )
        .await?;
        let service = bed.service("web", &[80]).await?;
        let name = daemonset_name(&service);
        let theirs = servicelb_daemonset(&name, mark, 80)?;
        bed.daemonsets()
            .create(&PostParams::default(), &theirs)
            .await?;
        bed.edit(
            "web",
            json!({"metadata": {"finalizers": [names::FINALIZER]}}),
        )
        .await?;
        let status =
            Patch::Merge(json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}));
        let service = bed
            .services()
            .patch_status("web", &PatchParams::default(), &status)
            .await?;
        bed.until_event(&service, reason::SERVICELB_ACTIVE, &[])
            .await?;
        // A Service of our class is served all the same.
        let ours = bed.services().get("ours").await?;
        bed.daemonset_of(&ours).await?;
        let untouched = bed.daemonsets().get(&name).await?;
        ensure!(
            untouched.labels().contains_key(mark),
            "{:?}",
            untouched.metadata
        );

        let from = service.resource_version().context("a version")?;
        let seen = bed
            .services()
            .watch(&WatchParams::default().fields("metadata.name=web"), &from)
            .await?;
        for name in [&name, "svclb-traefik-0a1b2c3d"] {
            bed.daemonsets().delete(name, &Default::default()).await?;
        }
        bed.until("a DaemonSet of ours", async || {
            let daemonset = bed.daemonsets().get_opt(&name).await?.context("none")?;
            ensure!(
                daemonset.labels().contains_key(names::SERVICE_UID),
                "{:?}",
                daemonset.metadata
            );
            Ok(())
        })
        .await?;
        bed.bind(&service, "n1").await?;
        // Something that is written after the take-over shows that the watch has come that far.
        bed.node("n2", "192.0.2.2").await?;
        bed.bind(&service, "n2").await?;
        let mut seen = pin!(seen);
        loop {
            let event = seen.try_next().await?.context("the watch goes on")?;
            let WatchEvent::Modified(version) = event else {
                continue;
            };
            let found = addresses(&version);
            ensure!(!found.is_empty(), "there was a moment without an address");
            ensure!(has_finalizer(&version));
            if found == ["192.0.2.1", "192.0.2.2"] {
                return Ok(());
            }
        }
    })
    .with_context(|| controller.said())
}

fn servicelb_daemonset(name: &str, mark: &str, port: u16) -> anyhow::Result<DaemonSet> {
    object(json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "labels": {(mark): "false"}},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{
                    "name": format!("lb-tcp-{port}"),
                    "image": "rancher/klipper-lb:v0.4.17",
                    "ports": [{"name": format!("lb-tcp-{port}"), "containerPort": port, "hostPort": port}],
                }]},
            },
        },
    }))
}

fn status_war(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller()?;
    bed.run(async {
        bed.node("n1", "192.0.2.1").await?;
        let service = bed.service("web", &[80]).await?;
        bed.bind(&service, "n1").await?;
        bed.until_addresses("web", &["192.0.2.1"]).await?;
        let cloud = PatchParams {
            field_manager: Some("cloud".to_owned()),
            ..PatchParams::default()
        };
        let theirs =
            Patch::Merge(json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}}));
        // Once is taken for a mistake and put right.
        bed.services().patch_status("web", &cloud, &theirs).await?;
        bed.until_addresses("web", &["192.0.2.1"]).await?;
        bed.services().patch_status("web", &cloud, &theirs).await?;
        bed.until_event(&service, reason::STATUS_CONFLICT, &["cloud"])
            .await?;
        let left = bed.services().get("web").await?;
        ensure!(addresses(&left) == ["203.0.113.1"], "{left:?}");
        bed.daemonset_of(&service).await?;

        // What its user changes, ends the truce.
        bed.edit(
            "web",
            json!({"metadata": {"annotations": {"example.org/again": "please"}}}),
        )
        .await?;
        bed.until_addresses("web", &["192.0.2.1"]).await?;
        Ok(())
    })
    .with_context(|| controller.said())
}
