//! The network that the tests run in, the program in it, and what talks through it.

mod lab;
mod namespace;
mod pod;
mod sctp;
mod seccomp;
mod traffic;

pub(crate) use lab::{BACKENDS, CLIENT, Lab, POD, POD6};
pub(crate) use namespace::Namespace;
pub(crate) use pod::{Environment, PROGRAM, Pod, spawn};
pub(crate) use sctp::Sctp;
pub(crate) use seccomp::{allow_what_it_takes, forbid_netlink, forbid_setlink, forbid_xtables};
pub(crate) use traffic::{Connections, Download, Server, ask_tcp, ask_udp, connect, is_kept_out};

use std::time::{Duration, Instant};

/// How long anything may take that should happen at all; the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until something holds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what} does not come about");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Each test as one for every backend: `nftables::name` and `iptables::name`.
macro_rules! on_both_backends {
    ($($test:ident),* $(,)?) => {
        mod nftables {
            $(#[test] fn $test() { super::$test("nftables"); })*
        }
        mod iptables {
            $(#[test] fn $test() { super::$test("iptables"); })*
        }
    };
}
pub(crate) use on_both_backends;
