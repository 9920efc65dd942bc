//! Nothing happens where nothing has happened.

use anyhow::{Context, bail, ensure};
use serde_json::json;

use crate::Test;
use crate::bed::{Bed, Controller};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_heartbeat_of_a_node_is_no_reason_to_decide", heartbeats),
    ("a_restart_writes_nothing_where_all_is_as_wanted", restart),
];

/// Decisions, and all that was written to anything but the Lease.
fn counts(controller: &Controller) -> anyhow::Result<(f64, f64)> {
    let mut writes = 0.0;
    for kind in ["daemonset", "service_status", "event"] {
        writes += controller.writes(kind)?;
    }
    Ok((controller.metric("svclb_reconcile_seconds_count")?, writes))
}

/// Waits until the controller has done what there was to do: nothing changes from one look to the next, for a while.
async fn settle(bed: &Bed, controller: &Controller) -> anyhow::Result<(f64, f64)> {
    const STEADY: u32 = 20;
    let mut last = counts(controller)?;
    let mut steady = 0;
    bed.until("the controller is quiet", async || {
        let now = counts(controller)?;
        steady = if now == last { steady + 1 } else { 0 };
        last = now;
        if steady < STEADY {
            bail!("{now:?}")
        } else {
            Ok(now)
        }
    })
    .await
}

fn heartbeats(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller()?;
    bed.run(async {
        bed.node("n1", "192.0.2.1").await?;
        let service = bed.service("web", &[80]).await?;
        bed.bind(&service, "n1").await?;
        bed.until_addresses("web", &["192.0.2.1"]).await?;
        let before = settle(bed, &controller).await?;
        for minute in 10..20 {
            let time = format!("2026-01-02T00:{minute}:00Z");
            let mut condition = crate::objects::ready("True");
            condition["lastHeartbeatTime"] = json!(time);
            let images =
                json!([{"names": [format!("example.org/image:{minute}")], "sizeBytes": 1}]);
            let status = json!({"status": {"conditions": [condition], "images": images}});
            bed.patch_node_status("n1", status).await?;
        }
        let after = settle(bed, &controller).await?;
        ensure!(
            after == before,
            "decisions and writes: {before:?} before, {after:?} after"
        );

        // The same road, with something on it that matters: else the test would pass if nothing arrived at all.
        bed.patch_node_status(
            "n1",
            json!({"status": {"conditions": [crate::objects::ready("Unknown")]}}),
        )
        .await?;
        bed.until("a decision", async || {
            let (decisions, _) = counts(&controller)?;
            if decisions > after.0 {
                Ok(())
            } else {
                bail!("{decisions}")
            }
        })
        .await
    })
    .with_context(|| controller.said())
}

fn restart(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller()?;
    bed.run(async {
        bed.node("n1", "192.0.2.1").await?;
        let service = bed.service("web", &[80]).await?;
        bed.bind(&service, "n1").await?;
        bed.until_addresses("web", &["192.0.2.1"]).await?;
        settle(bed, &controller).await?;
        ensure!(controller.stop()?.success());
        let before = (
            bed.services().get("web").await?,
            bed.daemonset_of(&service).await?,
        );
        let controller = bed.controller()?;
        bed.until("the controller has decided", async || {
            if counts(&controller)?.0 > 0.0 {
                Ok(())
            } else {
                bail!("not yet")
            }
        })
        .await?;
        let (_, writes) = settle(bed, &controller).await?;
        ensure!(writes == 0.0, "{writes} writes\n{}", controller.said());
        let after = (
            bed.services().get("web").await?,
            bed.daemonset_of(&service).await?,
        );
        ensure!(before == after, "{before:?} became {after:?}");
        Ok(())
    })
}
