//! An API server that restarts, or is away for long.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use svclb_e2e::Component;

use crate::Test;
use crate::bed::{Bed, Controller};
use crate::objects::{addresses, ready};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("watches_that_break_are_resumed", broken_watches),
    ("an_outage_takes_no_address_away_and_costs_no_cpu", outage),
    (
        "sigterm_ends_it_also_while_the_api_server_is_unreachable",
        unreachable,
    ),
];

fn broken_watches(bed: &Bed) -> anyhow::Result<()> {
    let mut controller = bed.controller()?;
    bed.run(async {
        bed.node("n1", "192.0.2.1").await?;
        let first = bed.service("first", &[80]).await?;
        bed.bind(&first, "n1").await?;
        bed.until_addresses("first", &["192.0.2.1"]).await?;
        // Not asked to end: it would wait for the watches to end before it does.
        bed.cluster.control_plane().kill(Component::KubeApiserver)?;
        bed.cluster
            .control_plane()
            .start(Component::KubeApiserver)?;
        answers(bed).await?;
        let second = bed.service("second", &[81]).await?;
        bed.bind(&second, "n1").await?;
        bed.until_addresses("second", &["192.0.2.1"]).await?;
        ensure!(!controller.has_ended()?, "it has ended");
        Ok(())
    })
    .with_context(|| controller.said())
}

/// Waits until the API server serves again.
async fn answers(bed: &Bed) -> anyhow::Result<()> {
    bed.until("the API server answers", async || {
        // Of all that it does, giving out addresses is ready last.
        bed.service("probe", &[65000]).await?;
        bed.delete("probe").await
    })
    .await
}

/// Seconds of CPU that the controller has used.
fn cpu(controller: &Controller) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", controller.pid()))?;
    let (_, fields) = stat.rsplit_once(')').context("a command")?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    let ticks = |index: usize| -> anyhow::Result<f64> {
        Ok(fields.get(index).context("a field")?.parse()?)
    };
    // utime and stime, the 14th and 15th of proc(5), in hundredths of a second.
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

fn outage(bed: &Bed) -> anyhow::Result<()> {
    let mut controller = bed.controller()?;
    bed.run(async {
        bed.node("n1", "192.0.2.1").await?;
        bed.node("n2", "192.0.2.2").await?;
        let service = bed.service("web", &[80]).await?;
        for node in ["n1", "n2"] {
            bed.bind(&service, node).await?;
        }
        bed.until_addresses("web", &["192.0.2.1", "192.0.2.2"])
            .await?;
        let before = cpu(&controller)?;
        bed.cluster.control_plane().stop(Component::KubeApiserver)?;
        // Long enough that the controller notices, and long enough for a loop that spins to show.
        tokio::time::sleep(Duration::from_secs(9)).await;
        let used = cpu(&controller)? - before;
        ensure!(used < 1.0, "{used} s of CPU in 9 s without an API server");
        ensure!(!controller.has_ended()?, "it has ended");
        bed.cluster
            .control_plane()
            .start(Component::KubeApiserver)?;
        answers(bed).await?;
        // What the node lifecycle controller does afterwards, for some seconds.
        let unknown = serde_json::json!({"status": {"conditions": [ready("Unknown")]}});
        bed.patch_node_status("n2", unknown).await?;
        // The controller is at work again, and has seen it.
        let later = bed.service("later", &[81]).await?;
        bed.bind(&later, "n1").await?;
        bed.until("an address of the later Service", async || {
            let later = bed.services().get("later").await?;
            if addresses(&later).is_empty() {
                bail!("none")
            } else {
                Ok(())
            }
        })
        .await?;
        let web = bed.services().get("web").await?;
        ensure!(
            addresses(&web) == ["192.0.2.1", "192.0.2.2"],
            "{:?}",
            web.status
        );
        Ok(())
    })
    .with_context(|| controller.said())
}

fn unreachable(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller()?;
    bed.run(bed.until("it leads", async || {
        if controller.leads()? {
            Ok(())
        } else {
            bail!("not yet")
        }
    }))?;
    // Stopped, not ended: connections are not refused, they hang.
    let pid = bed
        .cluster
        .control_plane()
        .process(Component::KubeApiserver)
        .context("an API server")?
        .pid();
    signal(bed, "STOP", pid)?;
    let stopped = controller.stop();
    signal(bed, "CONT", pid)?;
    ensure!(stopped?.success());
    bed.run(answers(bed))
}

fn signal(bed: &Bed, signal: &str, pid: i32) -> anyhow::Result<()> {
    let mut kill = bed.cluster.control_plane().command("kill");
    let status = kill.args(["-s", signal, &pid.to_string()]).status()?;
    ensure!(status.success(), "kill -s {signal} {pid}: {status}");
    Ok(())
}
