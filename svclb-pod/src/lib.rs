//! Forwards the ports of one LoadBalancer Service: what is decided, free of I/O, and the kernel
//! interfaces that it goes through.
//!
//! [`config`] is the environment as values, [`rules`] what must therefore hold.

pub mod config;
pub mod iptables;
pub mod netlink;
pub mod nftables;
pub mod ranges;
pub mod rules;
mod sys;
