//! The test bed itself, proved on real clusters: what it promises to tests and to people, and that the
//! host is afterwards as it was.
//!
//! One cluster of three nodes serves all tests that can share it; it comes up with the first of them.
//! The tests run one after the other. They need root, and fail without it.

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

use libtest_mimic::{Arguments, Failed, Trial};

/// What a test is: it fails with an error or a panic.
type Test = fn() -> anyhow::Result<()>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let tests = [
        traffic::TESTS,
        commands::TESTS,
        nodes::TESTS,
        faults::TESTS,
        variants::TESTS,
        failures::TESTS,
        packages::TESTS,
        untouched::TESTS,
    ];
    let trials = tests.concat().into_iter().map(|(name, test)| {
        let run = move || test().map_err(|error| Failed::from(format!("{error:#}")));
        Trial::test(name, run)
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    shared::take_down();
    conclusion.exit_code()
}
