//! Ports that are taken: by another Service, by a pod, and that nobody is evicted for one.

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use svclb_controller::names::{self, condition, reason};

use crate::Test;
use crate::bed::Bed;
use crate::objects::object;

pub(crate) const TESTS: &[(&str, Test)] = &[
    (
        "a_port_that_another_service_has_is_said_and_comes_when_it_is_free",
        taken_by_a_service,
    ),
    (
        "a_port_that_a_pod_has_is_said_with_the_pods_name",
        taken_by_a_pod,
    ),
    (
        "our_pod_preempts_nobody_and_system_node_critical_would",
        preemption,
    ),
];

fn taken_by_a_service(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller()?;
    bed.run(async {
        bed.node("n1", "192.0.2.1").await?;
        let first = bed.service("first", &[80, 443]).await?;
        bed.bind(&first, "n1").await?;
        bed.until_addresses("first", &["192.0.2.1"]).await?;
        let second = bed.service("second", &[80]).await?;
        bed.until_event(&second, reason::PORT_CONFLICT, &["80", "default/first"])
            .await?;
        bed.until("the condition", async || {
            let second = bed.services().get("second").await?;
            let mut conditions = second
                .status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten());
            let found = conditions
                .find(|found| found.type_ == condition::PORTS_ERROR)
                .context("none")?;
            ensure!(
                found.status == "True" && found.message.contains("default/first"),
                "{found:?}"
            );
            Ok(())
        })
        .await?;

        bed.delete("first").await?;
        bed.bind(&second, "n1").await?;
        let second = bed.until_addresses("second", &["192.0.2.1"]).await?;
        bed.until("no condition", async || {
            let second = bed.services().get(&second.name_any()).await?;
            let conditions = second
                .status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten());
            if conditions.count() == 0 {
                Ok(())
            } else {
                bail!("{:?}", second.status)
            }
        })
        .await
    })
    .with_context(|| controller.said())
}

/// A user's pod on the node, with a host port.
fn user_pod(name: &str, node: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "nodeName": node,
            "containers": [{
                "name": "web",
                "image": "example.org/web:1",
                "ports": [{"containerPort": port, "hostPort": port}],
            }],
        },
    })
}

async fn user_pods(bed: &Bed) -> anyhow::Result<Api<Pod>> {
    let pods = Api::<Pod>::namespaced(bed.client.clone(), "default");
    let accounts = Api::<k8s_openapi::api::core::v1::ServiceAccount>::namespaced(
        bed.client.clone(),
        "default",
    );
    // Admission wants it, and the controller manager makes it in its own time.
    bed.until("ServiceAccount default/default", async || {
        accounts.get_opt("default").await?.context("none")
    })
    .await?;
    Ok(pods)
}

fn taken_by_a_pod(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller()?;
    bed.run(async {
        bed.node("n1", "192.0.2.1").await?;
        let pods = user_pods(bed).await?;
        pods.create(
            &PostParams::default(),
            &object(user_pod("squatter", "n1", 80))?,
        )
        .await?;
        let service = bed.service("web", &[80]).await?;
        bed.schedule(&service, "n1").await?;
        bed.until_event(
            &service,
            reason::PORT_CONFLICT,
            &["80", "n1", "default/squatter"],
        )
        .await?;

        pods.delete("squatter", &DeleteParams::default().grace_period(0))
            .await?;
        bed.until_addresses("web", &["192.0.2.1"]).await?;
        Ok(())
    })
    .with_context(|| controller.said())
}

fn preemption(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller()?;
    bed.run(async {
        bed.node("n1", "192.0.2.1").await?;
        let pods = user_pods(bed).await?;
        let user = pods
            .create(&PostParams::default(), &object(user_pod("user", "n1", 80))?)
            .await?;
        let service = bed.service("web", &[80]).await?;
        let waiting = bed.schedule(&service, "n1").await?;
        bed.until("the scheduler's verdict", async || {
            let pod = bed.pods().get(&waiting.name_any()).await?;
            let mut conditions = pod
                .status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten());
            let verdict = conditions
                .find(|found| found.type_ == "PodScheduled")
                .context("none")?;
            ensure!(verdict.status == "False", "{verdict:?}");
            Ok(())
        })
        .await?;
        let still = pods.get("user").await?;
        ensure!(
            still.uid() == user.uid() && still.metadata.deletion_timestamp.is_none(),
            "{:?}",
            still.metadata
        );

        // What the annotation can do, which the README warns of: without this the test above could not fail.
        bed.pods()
            .delete(
                &waiting.name_any(),
                &DeleteParams::default().grace_period(0),
            )
            .await?;
        let annotation = json!({(names::PRIORITY_CLASS_NAME): "system-node-critical"});
        bed.edit("web", json!({"metadata": {"annotations": annotation}}))
            .await?;
        bed.until("the priority class in the DaemonSet", async || {
            let daemonset = bed.daemonset_of(&service).await?;
            let class =
                serde_json::to_value(&daemonset)?["spec"]["template"]["spec"]["priorityClassName"]
                    .clone();
            if class == "system-node-critical" {
                Ok(())
            } else {
                bail!("{class}")
            }
        })
        .await?;
        bed.schedule(&service, "n1").await?;
        bed.until("the user's pod is evicted", async || {
            match pods.get_opt("user").await? {
                Some(pod) if pod.metadata.deletion_timestamp.is_none() => bail!("it stays"),
                _ => Ok(()),
            }
        })
        .await
    })
    .with_context(|| controller.said())
}
