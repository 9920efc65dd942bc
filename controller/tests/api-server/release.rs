//! `svclb-controller release`.

use anyhow::{Context, bail, ensure};
use kube::ResourceExt;
use serde_json::json;
use svclb_controller::names;

use crate::Test;
use crate::bed::Bed;
use crate::objects::{addresses, has_finalizer, tcp};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("release_lets_every_service_go", release),
    ("release_names_the_controller_that_still_works", still_held),
];

fn release(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller()?;
    bed.run(async {
        bed.node("n1", "192.0.2.1").await?;
        let class = json!({"loadBalancerClass": names::LOAD_BALANCER_CLASS, "ports": tcp(&[81])});
        for service in [
            bed.service("web", &[80]).await?,
            bed.service_with("classed", class).await?,
        ] {
            bed.bind(&service, "n1").await?;
            bed.until_addresses(&service.name_any(), &["192.0.2.1"])
                .await?;
        }
        // One that waits for a port has a condition, and no DaemonSet.
        bed.service("waiting", &[80]).await?;
        bed.until("a condition", async || {
            let waiting = bed.services().get("waiting").await?;
            let conditions = waiting
                .status
                .iter()
                .flat_map(|status| status.conditions.iter().flatten());
            if conditions.count() == 0 {
                bail!("none")
            } else {
                Ok(())
            }
        })
        .await?;
        anyhow::Ok(())
    })
    .with_context(|| controller.said())?;
    ensure!(controller.stop()?.success());

    let log = bed.log("release");
    let status = bed
        .program(&log)?
        .args(["--identity=release", "release"])
        .status()?;
    ensure!(
        status.success(),
        "{status}: {}",
        std::fs::read_to_string(&log)?
    );
    bed.run(async {
        bed.until_no_daemonset().await?;
        for name in ["web", "classed", "waiting"] {
            let service = bed.services().get(name).await?;
            let status = service.status.clone().unwrap_or_default();
            ensure!(!has_finalizer(&service), "{service:?}");
            ensure!(addresses(&service).is_empty(), "{service:?}");
            ensure!(
                status.conditions.unwrap_or_default().is_empty(),
                "{:?}",
                service.status
            );
        }
        Ok(())
    })
}

fn still_held(bed: &Bed) -> anyhow::Result<()> {
    let controller = bed.controller_with("working", 9300, &[])?;
    bed.run(bed.until("it leads", async || {
        if controller.leads()? {
            Ok(())
        } else {
            bail!("not yet")
        }
    }))?;
    let log = bed.log("release-in-vain");
    let status = bed
        .program(&log)?
        .args(["--identity=release", "release"])
        .status()?;
    let said = std::fs::read_to_string(&log)?;
    ensure!(!status.success(), "{said}");
    ensure!(
        said.contains("working still holds Lease svclb-controller"),
        "{said}"
    );
    ensure!(said.contains("--replicas=0"), "{said}");
    // Else the next test's controller would wait for the Lease's end.
    ensure!(controller.stop()?.success());
    Ok(())
}
