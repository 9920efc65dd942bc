//! Puts the parts together, and takes them apart on SIGTERM.

use std::sync::Arc;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::carry_out::Hands;
use crate::client;
use crate::controller::{Controller, Parts};
use crate::flags::Flags;
use crate::http::{Readiness, Server};
use crate::lease::{Election, Seen};
use crate::metrics::Metrics;
use crate::recorder::recorder;
use crate::release;
use crate::write::Writer;

/// Serves until SIGTERM or SIGINT; with the command `release`, until nothing is left to release.
pub async fn run(flags: &Flags) -> anyhow::Result<()> {
    let settings = Arc::new(flags.settings());
    let releasing = settings.releasing;
    let process = &flags.process;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;

    let metrics = Arc::new(Metrics::default());
    let readiness = Readiness::default();
    if !releasing {
        let server = Server::bind(
            process.metrics_address,
            Arc::clone(&metrics),
            readiness.clone(),
        )
        .await?;
        tokio::spawn(server.serve());
    }

    let client = client::connect().await?;
    let identity = process.identity();
    let (seen_sender, mut seen) = watch::channel(Seen::default());
    let (end_election, election_ends) = oneshot::channel::<()>();
    let lease = &process.lease_name;
    let election = Election::new(client.clone(), &settings.namespace, lease, &identity);
    let election = tokio::spawn(election.run(seen_sender, async move {
        // The sender is only ever dropped.
        let _ = election_ends.await;
    }));
    let (recorder, scribe) = recorder(client.clone(), Arc::clone(&metrics), identity.clone());
    tokio::spawn(scribe.run());

    let work = async {
        if releasing {
            release::wait_for_lease(&mut seen, &identity, &settings.namespace, lease).await?;
        }
        let writer = Writer::new(client.clone(), &settings.namespace, Arc::clone(&metrics));
        let controller = Controller::new(Parts {
            client,
            settings: Arc::clone(&settings),
            streaming_lists: process.streaming_lists,
            identity,
            seen,
            hands: Hands::new(writer, recorder),
            metrics,
            readiness,
        });
        controller
            .run(|world| {
                if !(releasing && release::released(world)) {
                    return false;
                }
                for daemonset in release::left_alone(world) {
                    tracing::warn!(
                        daemonset,
                        "left alone: it is ServiceLB's now, or in another namespace"
                    );
                }
                true
            })
            .await;
        anyhow::Ok(())
    };
    let result = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        result = work => result,
    };
    // The work has been dropped: nothing is written any more once the next replica holds the Lease.
    drop(end_election);
    election.await.context("end the election")?;
    result
}
