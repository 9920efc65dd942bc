//! `svclb-controller release`: lets every Service go, so that svclb can be uninstalled and nothing hangs in Terminating.

use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::facts::DaemonSetFacts;
use crate::lease::Seen;
use crate::names;
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

/// Is nothing left that is ours to take away?
pub fn released(world: &World) -> bool {
    let held = world.services().any(|service| {
        standing(world, service) == Standing::Release
            && (service.finalizer || !service.conditions.is_empty())
    });
    !held
        && !world
            .our_daemonsets()
            .any(|left| is_ours_to_delete(world, left))
}

/// The DaemonSets of our making that stay, as `namespace/name`: those that ServiceLB has taken for its own or is about to,
/// and those in a namespace that was given by another `--namespace`.
pub fn left_alone(world: &World) -> Vec<String> {
    let left = world.our_daemonsets();
    let left = left.filter(|left| !is_ours_to_delete(world, left));
    left.map(|left| format!("{}/{}", left.namespace, left.name))
        .collect()
}

fn is_ours_to_delete(world: &World, left: &DaemonSetFacts) -> bool {
    let service = left.service.as_ref().and_then(|key| world.service(key));
    let is_servicelbs = left.servicelb
        || service.is_some_and(|service| {
            standing(world, service) == Standing::ServiceLb
                && left.name == names::daemonset(&service.key.name, &service.uid)
        });
    left.namespace == world.settings().namespace && !is_servicelbs
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures::{Cluster, mk_daemonset, patched};
    use crate::settings::Settings;

    /// A Service was served; then the program runs to release everything.
    fn releasing() -> Cluster {
        let settings = Settings {
            releasing: true,
            ..Settings::default()
        };
        let mut served = Cluster::new(&["a"]);
        served.service("web", json!({})).settle();
        let mut cluster = Cluster::with(settings, &["a"]);
        for service in served.services.into_values() {
            cluster.put_service(service);
        }
        for daemonset in served.daemonsets.into_values() {
            cluster.put_daemonset(daemonset);
        }
        cluster
    }

    fn servicelbs() -> Value {
        json!({ "metadata": { "labels": { (names::SERVICELB_MARKS[0]): "false" } } })
    }

    #[test]
    fn it_is_done_when_nothing_of_ours_is_left() {
        let mut cluster = releasing();
        assert!(!released(&cluster.world));
        cluster.settle();
        assert!(released(&cluster.world));
        assert_eq!(left_alone(&cluster.world), [""; 0]);
        assert!(cluster.daemonsets.is_empty());
    }

    #[test]
    fn what_servicelb_has_taken_back_is_not_waited_for() {
        let mut cluster = releasing();
        let name = cluster.daemonset_name("web");
        let adopted = patched(cluster.daemonset_of("web").unwrap(), servicelbs());
        cluster.put_daemonset(adopted).settle();
        assert!(released(&cluster.world));
        assert_eq!(left_alone(&cluster.world), [format!("kube-system/{name}")]);
        assert!(cluster.daemonset_of("web").is_some());
    }

    #[test]
    fn what_servicelb_is_about_to_take_back_is_not_waited_for() {
        let mut cluster = releasing();
        let name = cluster.daemonset_name("web");
        cluster
            .put_daemonset(mk_daemonset("kube-system", "svclb-other-1", servicelbs()))
            .settle();
        assert!(released(&cluster.world));
        assert_eq!(left_alone(&cluster.world), [format!("kube-system/{name}")]);
    }

    #[test]
    fn one_in_the_namespace_of_an_earlier_flag_is_named_and_not_waited_for() {
        let mut cluster = releasing();
        let elsewhere = json!({ "metadata": { "namespace": "elsewhere", "uid": "elsewhere" } });
        let elsewhere = patched(cluster.daemonset_of("web").unwrap(), elsewhere);
        let name = cluster.daemonset_name("web");
        cluster.world.apply_daemonset(&elsewhere);
        cluster.settle();
        assert!(released(&cluster.world));
        assert_eq!(left_alone(&cluster.world), [format!("elsewhere/{name}")]);
    }
}
