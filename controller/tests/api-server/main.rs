//! The controller against a real API server: what only that can show.
//!
//! One control plane serves all tests, which run one after the other. There are no kubelets and no DaemonSet controller: a
//! test makes nodes and svclb pods as it needs them. The tests need root, and fail without it.

mod bed;
mod coexistence;
mod conflicts;
mod events;
mod leadership;
mod life;
mod objects;
mod order;
mod outage;
mod ownership;
mod quiet;
mod release;
mod rights;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Failed, Trial};

use bed::Bed;

/// What a test is: it fails with an error or a panic.
type Test = fn(&Bed) -> anyhow::Result<()>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let tests = [
        life::TESTS,
        ownership::TESTS,
        coexistence::TESTS,
        conflicts::TESTS,
        events::TESTS,
        quiet::TESTS,
        outage::TESTS,
        leadership::TESTS,
        release::TESTS,
        order::TESTS,
        // Last: it looks at what all the others made the controller ask for.
        rights::TESTS,
    ];
    let bed: Arc<Mutex<Option<Bed>>> = Arc::default();
    let trials = tests.concat().into_iter().map(|(name, test)| {
        let bed = Arc::clone(&bed);
        Trial::test(name, move || {
            let mut bed = bed.lock().unwrap_or_else(PoisonError::into_inner);
            run(&mut bed, test).map_err(|error| Failed::from(format!("{error:#}")))
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    drop(bed);
    conclusion.exit_code()
}

fn run(bed: &mut Option<Bed>, test: Test) -> anyhow::Result<()> {
    let bed = match bed {
        Some(bed) => bed,
        none => none.insert(Bed::up()?),
    };
    bed.clear()?;
    test(bed)
}
