//! Which replica works: leader election by a Lease, and, from the same request, whether the API server answers.
//!
//! `kube-lease-manager` takes, renews and releases the Lease. Two things it leaves to its caller: it sleeps until
//! a held Lease ends, so that it does not see one that is released earlier; and it goes on calling itself the
//! leader while the API server does not answer. So the Lease is also read every second.

use std::pin::pin;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{Api, Client};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError, LeaseParams};
use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// For how long a Lease holds that nobody renews. A replica that died is replaced after this and at most a second.
const DURATION: Duration = Duration::from_secs(15);

/// How long before its end the holder renews it.
const GRACE: Duration = Duration::from_secs(5);

/// How often the Lease is read.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// After this a read is given up: the API server counts as silent.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the end of the process may wait for the Lease's release.
const RELEASE_TIMEOUT: Duration = Duration::from_millis(500);

/// After an error of the library: how long until it tries again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What was seen when the Lease was last read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// When the API server last answered.
    pub answered: Option<Timestamp>,
    /// Who holds the Lease: an identity and the time until which it holds.
    pub holder: Option<(String, Timestamp)>,
}

impl Seen {
    /// Whether `identity` may write now.
    pub fn leads(&self, identity: &str, now: Timestamp) -> bool {
        self.holder
            .as_ref()
            .is_some_and(|(holder, until)| holder == identity && now < *until)
    }

    fn free(&self, now: Timestamp) -> bool {
        self.holder.as_ref().is_none_or(|(_, until)| now >= *until)
    }
}

/// What is in the Lease: a holder, and until when.
fn holder(spec: &LeaseSpec) -> Option<(String, Timestamp)> {
    let identity = spec.holder_identity.clone()?;
    let renewed = spec.renew_time.as_ref()?.0;
    let seconds = spec.lease_duration_seconds?;
    let until = renewed
        .checked_add(SignedDuration::from_secs(seconds.into()))
        .ok()?;
    Some((identity, until))
}

/// Why the Lease could not be had.
#[derive(Debug, Error)]
pub enum Error {
    /// The API server refused, or did not answer.
    #[error("take part in the election for Lease {lease}")]
    Manager {
        /// Namespace and name.
        lease: String,
        /// What happened.
        #[source]
        source: LeaseManagerError,
    },
}

/// What the two halves of an election tell each other.
#[derive(Default)]
struct Signals {
    /// To who contends: nobody holds the Lease.
    freed: Notify,
    /// To who observes: there is something new to be read.
    changed: Notify,
}

/// One replica's part in the election.
#[derive(Clone)]
pub struct Election {
    client: Client,
    namespace: String,
    name: String,
    identity: String,
}

impl Election {
    /// `identity` must differ between replicas, and should stay the same when a container restarts in its pod:
    /// then it goes on with the Lease that it holds.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
        }
    }

    /// Takes part until `stop`; then gives the Lease back, if it is held. What is seen goes to `seen`.
    pub async fn run(self, seen: watch::Sender<Seen>, stop: impl Future<Output = ()>) {
        let signals = Signals::default();
        tokio::select! {
            () = self.observe(&seen, &signals) => {}
            () = self.campaign(&signals, stop) => {}
        }
    }

    /// Reads the Lease, for ever.
    async fn observe(&self, seen: &watch::Sender<Seen>, signals: &Signals) {
        let leases = Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = signals.changed.notified() => {}
            }
            let spec = match timeout(LOOK_TIMEOUT, leases.get_opt(&self.name)).await {
                Ok(Ok(lease)) => lease.and_then(|lease| lease.spec),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "read the Lease");
                    continue;
                }
                Err(_) => {
                    tracing::debug!("read the Lease: no answer");
                    continue;
                }
            };
            let now = Timestamp::now();
            let now_seen = Seen {
                answered: Some(now),
                holder: spec.as_ref().and_then(holder),
            };
            if now_seen.free(now) {
                signals.freed.notify_one();
            }
            seen.send_replace(now_seen);
        }
    }

    /// Takes the Lease as soon as it is free and renews it, until `stop`.
    async fn campaign(&self, signals: &Signals, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        loop {
            let manager = tokio::select! {
                () = &mut stop => return,
                manager = self.manager() => manager,
            };
            let manager = match manager {
                Ok(manager) => manager,
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "no election");
                    tokio::select! {
                        () = &mut stop => return,
                        () = tokio::time::sleep(RETRY_AFTER) => continue,
                    }
                }
            };
            let stopped = tokio::select! {
                () = &mut stop => true,
                () = contend(&manager, signals) => false,
            };
            if stopped {
                match timeout(RELEASE_TIMEOUT, manager.release()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "release the Lease"),
                    Err(_) => tracing::warn!("release the Lease: no answer; it ends by itself"),
                }
                return;
            }
        }
    }

    async fn manager(&self) -> Result<LeaseManager, Error> {
        let parameters =
            LeaseParams::new(self.identity.clone(), DURATION.as_secs(), GRACE.as_secs());
        LeaseManagerBuilder::new(self.client.clone(), self.name.clone())
            .with_namespace(self.namespace.clone())
            .with_parameters(parameters)
            .build()
            .await
            .map_err(|source| Error::Manager {
                lease: format!("{}/{}", self.namespace, self.name),
                source,
            })
    }
}

/// Returns when the manager should be made anew: it failed, or it sleeps although the Lease is free.
async fn contend(manager: &LeaseManager, signals: &Signals) {
    let mut leading = false;
    loop {
        tokio::select! {
            changed = manager.changed() => match changed {
                Ok(state) => {
                    leading = state;
                    signals.changed.notify_one();
                }
                Err(error) => {
                    tracing::debug!(%error, "take or renew the Lease");
                    return tokio::time::sleep(RETRY_AFTER).await;
                }
            },
            // Dropping the manager's future halfway is harmless: what it wrote, its successor reads.
            () = signals.freed.notified(), if !leading => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn held(by: &str, renewed: i64) -> Seen {
        Seen {
            answered: Some(at(renewed)),
            holder: holder(&LeaseSpec {
                holder_identity: Some(by.to_owned()),
                renew_time: Some(MicroTime(at(renewed))),
                lease_duration_seconds: Some(15),
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn the_holder_leads_until_its_lease_ends_and_no_longer() {
        let seen = held("a", 0);
        assert!(seen.leads("a", at(14)));
        assert!(!seen.leads("a", at(15)), "nobody renewed it");
        assert!(!seen.leads("b", at(1)));
        assert!(!seen.free(at(14)));
        assert!(seen.free(at(15)));
    }

    #[test]
    fn a_released_lease_is_nobodys() {
        assert_eq!(holder(&LeaseSpec::default()), None);
        assert!(Seen::default().free(at(0)));
        assert!(!Seen::default().leads("a", at(0)));
    }
}
