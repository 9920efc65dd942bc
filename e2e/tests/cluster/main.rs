//! The test bed itself, proved on real clusters: what it promises to tests and to people, and that the
//! host is afterwards as it was.
//!
//! One cluster of three nodes serves all tests that can share it, one after the other; it comes up with the
//! first of them. Those with clusters of their own run two at a time, and those that look at the whole
//! host run alone. They need root, and fail without it.

mod bystanders;
mod commands;
mod failures;
mod faults;
mod host;
mod nodes;
mod packages;
mod shared;
mod traffic;
mod untouched;
mod variants;

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError, RwLock};

use libtest_mimic::{Arguments, Failed, Trial};

/// What a test is: it fails with an error or a panic.
type Test = fn() -> anyhow::Result<()>;

/// What a test cannot have beside it.
#[derive(Clone, Copy)]
enum Beside {
    /// It has clusters of its own: only who must be alone.
    OwnClusters,
    /// Nor another one that uses the shared cluster.
    SharedCluster,
    /// Anything.
    Nothing,
}

/// Written by who must be alone.
static HOST: RwLock<()> = RwLock::new(());
/// The shared cluster is for one test at a time.
static SHARED: Mutex<()> = Mutex::new(());

impl Beside {
    fn run(self, test: Test) -> anyhow::Result<()> {
        let reading = || HOST.read().unwrap_or_else(PoisonError::into_inner);
        match self {
            Self::OwnClusters => {
                let _not_alone = reading();
                test()
            }
            Self::SharedCluster => {
                let _only_one = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
                let _not_alone = reading();
                test()
            }
            Self::Nothing => {
                let _alone = HOST.write().unwrap_or_else(PoisonError::into_inner);
                test()
            }
        }
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(arguments.test_threads.unwrap_or(2).clamp(1, 2));
    // They begin in this order.
    let groups = [
        (Beside::OwnClusters, nodes::WITH_A_CLUSTER_OF_ITS_OWN),
        (Beside::OwnClusters, variants::TESTS),
        (Beside::SharedCluster, traffic::TESTS),
        (Beside::SharedCluster, commands::TESTS),
        (Beside::SharedCluster, nodes::TESTS),
        (Beside::SharedCluster, faults::TESTS),
        (Beside::SharedCluster, variants::BESIDE_THE_SHARED_ONE),
        (Beside::SharedCluster, failures::TESTS),
        (Beside::SharedCluster, packages::TESTS),
        (Beside::Nothing, untouched::TESTS),
    ];
    let mut trials = Vec::new();
    for (beside, tests) in groups {
        for (name, test) in tests {
            let run = move || {
                let outcome = beside.run(*test);
                outcome.map_err(|error| Failed::from(format!("{error:#}")))
            };
            trials.push(Trial::test(*name, run));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    shared::take_down();
    conclusion.exit_code()
}
