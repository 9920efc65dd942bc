//! Which Services are ours, and what follows where one is not.

use crate::facts::ServiceFacts;
use crate::names;
use crate::world::World;

/// How we stand to a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is served.
    Serve,
    /// It was ours and is to be served no more: DaemonSet, status, conditions and finalizer go.
    Release,
    /// It has another's class: nothing of it is touched; a DaemonSet of ours, from before, goes.
    Foreign,
    /// It has no class, and ServiceLB serves those.
    ServiceLb,
    /// It never was ours.
    LeaveAlone,
}

/// How we stand to `service`.
#[must_use]
pub fn standing(world: &World, service: &ServiceFacts) -> Standing {
    let settings = world.settings();
    if !service.load_balancer {
        // The API server drops the class with the type, so only traces tell that it was ours and not another's.
        return if bears_our_traces(world, service) {
            Standing::Release
        } else {
            Standing::LeaveAlone
        };
    }
    match &service.class {
        Some(class) if *class != settings.class => Standing::Foreign,
        None if world.servicelb_at_work() => {
            if settings.classless {
                Standing::ServiceLb
            } else {
                Standing::LeaveAlone
            }
        }
        None if !settings.classless => {
            if bears_our_traces(world, service) {
                Standing::Release
            } else {
                Standing::LeaveAlone
            }
        }
        // ServiceLB's Services are taken over whole: one that waits for its finalizer only we can let go.
        _ if service.deleting || settings.releasing => Standing::Release,
        _ => Standing::Serve,
    }
}

fn bears_our_traces(world: &World, service: &ServiceFacts) -> bool {
    // The type of a port's condition is Kubernetes' own: it may be another controller's.
    service.written_by_us
        || service
            .conditions
            .iter()
            .any(|condition| condition.type_ == names::condition::DEGRADED)
        || world
            .daemonsets_of(&service.key)
            .any(|daemonset| daemonset.is_ours() && !daemonset.servicelb)
}
