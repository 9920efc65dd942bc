//! Two replicas and one Lease.

use anyhow::{Context, bail, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;

use crate::Test;
use crate::bed::{Bed, Controller, NAMESPACE};

pub(crate) const TESTS: &[(&str, Test)] = &[(
    "the_second_replica_takes_over_when_the_first_ends_or_dies",
    hand_over,
)];

async fn until_leads(bed: &Bed, controller: &Controller) -> anyhow::Result<()> {
    bed.until("it leads", async || {
        if controller.leads()? {
            Ok(())
        } else {
            bail!("not yet")
        }
    })
    .await
}

fn hand_over(bed: &Bed) -> anyhow::Result<()> {
    let first = bed.controller_with("first", 9300, &[])?;
    bed.run(async {
        until_leads(bed, &first).await?;
        bed.node("n1", "192.0.2.1").await?;
        let service = bed.service("before", &[80]).await?;
        bed.bind(&service, "n1").await?;
        bed.until_addresses("before", &["192.0.2.1"]).await?;

        let second = bed.controller_with("second", 9301, &[])?;
        ensure!(first.leads()? && !second.leads()?, "both lead");
        ensure!(first.stop()?.success());
        // It was released: nobody waits until it ends by itself.
        let leases = Api::<Lease>::namespaced(bed.client.clone(), NAMESPACE);
        let lease = leases.get("svclb-controller").await?;
        let holder = lease.spec.unwrap_or_default().holder_identity;
        ensure!(holder.as_deref() != Some("first"), "it keeps the Lease");
        until_leads(bed, &second).await?;
        let service = bed.service("after-end", &[81]).await?;
        bed.bind(&service, "n1").await?;
        bed.until_addresses("after-end", &["192.0.2.1"]).await?;

        let third = bed.controller_with("third", 9300, &[])?;
        ensure!(!third.leads()?);
        second.kill()?;
        until_leads(bed, &third).await?;
        let service = bed.service("after-death", &[82]).await?;
        bed.bind(&service, "n1").await?;
        bed.until_addresses("after-death", &["192.0.2.1"])
            .await
            .with_context(|| third.said())?;
        ensure!(third.stop()?.success());
        Ok(())
    })
}
