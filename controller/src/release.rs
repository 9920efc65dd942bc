//! `svclb-controller release`: lets every Service go, so that svclb can be uninstalled and nothing hangs in Terminating.

use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::lease::Seen;
use crate::standing::{Standing, standing};
use crate::world::World;

/// How long to wait for the Lease. A controller that died holds it for 15 s.
const WAIT: Duration = Duration::from_secs(30);

/// Why nothing was released.
#[derive(Debug, Error)]
pub enum Error {
    /// Another replica works, and would serve again what is released.
    #[error(
        "{holder} still holds Lease {lease}: stop it first, as with \
         `kubectl -n {namespace} scale deployment svclb-controller --replicas=0`"
    )]
    Held {
        /// Who.
        holder: String,
        /// The Lease's name.
        lease: String,
        /// The Lease's namespace.
        namespace: String,
    },
    /// The Lease could not be read or taken.
    #[error("take Lease {namespace}/{lease}: the API server did not let us within {} s", WAIT.as_secs())]
    NoLease {
        /// The Lease's name.
        lease: String,
        /// The Lease's namespace.
        namespace: String,
    },
}

/// Waits until `identity` holds the Lease.
pub async fn wait_for_lease(
    seen: &mut watch::Receiver<Seen>,
    identity: &str,
    namespace: &str,
    lease: &str,
) -> Result<(), Error> {
    let held = seen.wait_for(|seen| seen.leads(identity, Timestamp::now()));
    if matches!(timeout(WAIT, held).await, Ok(Ok(_))) {
        return Ok(());
    }
    let (namespace, lease) = (namespace.to_owned(), lease.to_owned());
    match seen.borrow().holder.clone() {
        Some((holder, until)) if Timestamp::now() < until => Err(Error::Held {
            holder,
            lease,
            namespace,
        }),
        _ => Err(Error::NoLease { lease, namespace }),
    }
}

/// Is nothing of ours left?
pub fn released(world: &World) -> bool {
    let held = world.services().any(|service| {
        standing(world, service) == Standing::Release
            && (service.finalizer || !service.conditions.is_empty())
    });
    !held && world.our_daemonsets().next().is_none()
}
