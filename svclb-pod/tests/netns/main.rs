//! The program with real packets: a client, a node that routes, a pod with one interface, and two
//! backends, each in a network namespace of its own that the test makes. Needs root, as containers'
//! networks do, and fails without.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot set up its network has failed"
)]

mod killed;
mod life;
mod listing;
mod output;
mod ports;
mod refusals;
mod restart;
mod support;
mod traffic;
