//! Forwards the ports of one LoadBalancer Service: what is decided, free of I/O, and the kernel
//! interfaces that it goes through.
//!
//! The way of a start: [`config`] is the environment as values, [`rules`] what must therefore hold,
//! [`backend`] puts that in place by [`nftables`] or [`iptables`], [`forwarding`] has the kernel forward
//! at all, [`conntrack`] forgets what contradicts, and [`report`] is what the log says.

pub mod backend;
pub mod config;
pub mod conntrack;
pub mod forwarding;
pub mod iptables;
pub mod netlink;
mod nfnetlink;
pub mod nftables;
pub mod output;
pub mod ranges;
pub mod report;
pub mod rules;
pub mod signals;
mod sys;
