//! What is ours and what is not: edits, DaemonSets of others, orphans.

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::Test;
use crate::bed::Bed;
use crate::objects::{daemonset_name, host_ports, object};

pub(crate) const TESTS: &[(&str, Test)] = &[
    (
        "an_edit_of_a_field_of_ours_is_put_right_and_other_fields_stay",
        edits,
    ),
    ("a_daemonset_deleted_by_hand_is_made_anew", deleted_by_hand),
    (
        "a_daemonset_of_our_name_that_is_not_ours_is_replaced_never_merged",
        same_name,
    ),
    ("orphaned_daemonsets_go_at_start_and_on_watch", orphans),
];

fn edits(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller()?;
    bed.run(async {
        bed.node("n1", "192.0.2.1").await?;
        let service = bed.service("web", &[80]).await?;
        let name = bed.daemonset_of(&service).await?.name_any();
        let patch = Patch::Strategic(json!({
            "metadata": {"annotations": {"example.org/note": "theirs"}},
            "spec": {"template": {"spec": {"containers": [{
                "name": svclb_controller::names::CONTAINER,
                "image": "example.org/wrong:1",
                "env": [{"name": "THEIRS", "value": "stays"}],
            }]}}},
        }));
        bed.daemonsets()
            .patch(&name, &PatchParams::default(), &patch)
            .await?;
        let daemonset = bed
            .until("our image", async || {
                let daemonset = bed.daemonsets().get(&name).await?;
                let image = container(&daemonset)?["image"].clone();
                if image == svclb_controller::settings::Settings::default().image {
                    Ok(daemonset)
                } else {
                    bail!("{image}")
                }
            })
            .await?;
        ensure!(
            daemonset
                .annotations()
                .get("example.org/note")
                .is_some_and(|note| note == "theirs")
        );
        let env = container(&daemonset)?["env"].clone();
        let theirs = env
            .as_array()
            .is_some_and(|env| env.iter().any(|entry| entry["name"] == "THEIRS"));
        ensure!(theirs, "{env}");
        Ok(())
    })
    .with_context(|| controller.said())
}

fn container(daemonset: &DaemonSet) -> anyhow::Result<Value> {
    let value = serde_json::to_value(daemonset)?;
    let container = value.pointer("/spec/template/spec/containers/0");
    container.cloned().context("a container")
}

fn deleted_by_hand(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller()?;
    bed.run(async {
        bed.node("n1", "192.0.2.1").await?;
        let service = bed.service("web", &[80]).await?;
        let first = bed.daemonset_of(&service).await?;
        bed.daemonsets()
            .delete(&first.name_any(), &Default::default())
            .await?;
        bed.until("another DaemonSet", async || {
            let found = bed
                .daemonsets()
                .get_opt(&first.name_any())
                .await?
                .context("none")?;
            if found.uid() == first.uid() {
                bail!("the same")
            } else {
                Ok(())
            }
        })
        .await
    })
    .with_context(|| controller.said())
}

/// A DaemonSet with one container that has this host port.
fn daemonset(name: &str, labels: Value, port: u16) -> anyhow::Result<DaemonSet> {
    object(json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "selector": {"matchLabels": {"app": "theirs"}},
            "template": {
                "metadata": {"labels": {"app": "theirs"}},
                "spec": {"containers": [{
                    "name": "theirs",
                    "image": "example.org/theirs:1",
                    "ports": [{"containerPort": port, "hostPort": port}],
                }]},
            },
        },
    }))
}

fn same_name(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.run(async {
        bed.node("n1", "192.0.2.1").await?;
        let service = bed.service("web", &[80]).await?;
        let name = daemonset_name(&service);
        let theirs = daemonset(&name, json!({}), 8080)?;
        let theirs = bed
            .daemonsets()
            .create(&PostParams::default(), &theirs)
            .await?;
        let controller = bed.controller()?;
        bed.until("a DaemonSet of ours", async || {
            let found = bed.daemonsets().get_opt(&name).await?.context("none")?;
            if found.uid() == theirs.uid() {
                bail!("theirs")
            }
            ensure!(host_ports(&found) == [80], "{found:?}");
            Ok(())
        })
        .await
        .with_context(|| controller.said())?;
        anyhow::Ok(controller)
    })?;
    ensure!(controller.stop()?.success());
    Ok(())
}

fn orphans(bed: &Bed) -> anyhow::Result<()> {
    bed.run(async {
        let orphan = |name: &str, uid: &str| {
            let labels = json!({
                (svclb_controller::names::SERVICE_UID): uid,
                (svclb_controller::names::SERVICE_NAME): "gone",
                (svclb_controller::names::SERVICE_NAMESPACE): "default",
            });
            daemonset(name, labels, 80)
        };
        let post = PostParams::default();
        bed.daemonsets()
            .create(&post, &orphan("svclb-gone-00000001", "00000001-a")?)
            .await?;
        let controller = bed.controller()?;
        bed.until_no_daemonset()
            .await
            .with_context(|| controller.said())?;
        bed.daemonsets()
            .create(&post, &orphan("svclb-gone-00000002", "00000002-b")?)
            .await?;
        bed.until_no_daemonset()
            .await
            .with_context(|| controller.said())
    })
}
