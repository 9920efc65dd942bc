//! What a user does with svclb, end to end: real clusters, real packets.
//!
//! Each file below is one group of what is proved. Nearly all tests share clusters of three dual-stack
//! nodes, and two run at the same time, each on a cluster that it has to itself. A test that fails
//! keeps everything that was involved under `target/e2e-failures/`.

mod apps;
mod counters;
mod evidence;
mod flow;
mod random;
mod report;
mod shared;
mod space;
mod traffic;
mod watched;
mod world;

mod affinity;
mod churn;
mod coexistence;
mod conflicts;
mod everyday;
mod families;
mod faults;
mod installing;
mod local;
mod modes;
mod nodes;
mod own_path;
mod ports;
mod replicas;
mod types;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};

use crate::shared::Shared;
use crate::space::Space;
use crate::world::World;

/// A test in a namespace of its own.
type Test = fn(&Space<'_>) -> Result<()>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(Shared::threads(arguments.test_threads));
    let shared = Arc::new(Shared::default());
    let in_shared = |name: &str, test: Test| {
        let shared = Arc::clone(&shared);
        trial(name, move |name| {
            shared.with(|world| run(world, name, test))
        })
    };
    let alone = |name: &str, test: fn() -> Result<()>| {
        let shared = Arc::clone(&shared);
        trial(name, move |_| {
            // The machine is not for three.
            shared.end_idle();
            test()
        })
    };
    // They begin in this order: a long one that waits for the most part beside several that do not.
    let trials = vec![
        in_shared("three-replicas", everyday::three_replicas),
        in_shared("types", types::nothing_is_left_over),
        in_shared("affinity", affinity::none_and_client_ip),
        in_shared("protocols-and-names", ports::protocols_and_names),
        in_shared(
            "ports-change-on-kube-proxys-path",
            ports::kube_proxys_path_is_not_interrupted,
        ),
        in_shared(
            "ports-change-on-the-pods-path",
            ports::the_pods_path_comes_back,
        ),
        in_shared("edited-to-anothers-port", ports::a_port_that_another_has),
        in_shared("families", families::every_combination),
        in_shared("local", local::status_follows_the_endpoints),
        // Before an outage, after which no silence of a node counts for a while.
        in_shared("node-cut-off", faults::a_node_is_cut_off),
        in_shared("source-ranges", local::source_ranges),
        in_shared(
            "source-ranges-not-enforced",
            local::ranges_that_kube_proxy_ignores,
        ),
        in_shared("own-path", own_path::both_backends),
        in_shared("node-labels", nodes::labels_come_and_go),
        in_shared("taints", nodes::taints),
        in_shared("priority-classes", nodes::priority_classes),
        in_shared(
            "everything-restarts",
            faults::everything_restarts_under_traffic,
        ),
        in_shared("two-services-one-port", conflicts::two_services),
        in_shared("a-users-pod-has-the-port", conflicts::a_users_pod),
        in_shared("foreign-class", coexistence::a_foreign_class),
        in_shared("servicelb-goes", coexistence::servicelb_goes),
        in_shared(
            "api-server-away",
            faults::the_api_server_is_away_for_longer_than_the_grace,
        ),
        in_shared("second-replica", replicas::a_second_replica_takes_over),
        in_shared("controller-killed", replicas::the_controller_is_killed),
        in_shared("applied-again", installing::applied_again),
        in_shared(
            "uninstalled-and-elsewhere",
            installing::uninstalled_and_elsewhere,
        ),
        in_shared("two-hundred-services", churn::two_hundred_services),
        alone("long-grace", modes::long_grace),
        alone("nftables", modes::nftables),
        alone("nftables-portmap-last", modes::nftables_portmap_last),
        alone("ipv6-alone", modes::ipv6_alone),
    ];
    let conclusion = libtest_mimic::run(&arguments, trials);
    shared.end_idle();
    conclusion.exit_code()
}

fn trial(name: &str, test: impl FnOnce(&str) -> Result<()> + Send + 'static) -> Trial {
    let of = name.to_owned();
    Trial::test(name, move || {
        report::speak_for(&of);
        test(&of).map_err(|error| {
            let error = format!("{error:#}");
            // At once: the harness speaks at the end, which may be long after, or never come.
            report::say(&error);
            Failed::from(error)
        })
    })
}

/// Runs a test, and looks whether it leaves anything. If it fails, all that was involved is kept,
/// and what it may have left wrong is put right.
fn run(world: &World, name: &str, test: Test) -> Result<()> {
    let space = Space::create(world, name)?;
    let outcome = test(&space).and_then(|()| space.end());
    let Err(error) = outcome else {
        return Ok(());
    };
    let kept = evidence::told(evidence::keep(world, name));
    let after = space.delete().and_then(|()| world.put_right());
    after.with_context(|| format!("after this failure: {error:#}"))?;
    Err(error.context(kept))
}
