//! A host of a cluster: who it is, and how to get into it.

mod command;
mod components;
mod link;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::ExitStatus;
use std::sync::Arc;

use crate::addresses;
use crate::component::{Component, Role};
use crate::files;
use crate::namespaces;
use crate::options::Options;
use crate::paths::Paths;
use crate::process::{self, ProcessId};

pub use command::HostCommand;

/// What all hosts of a cluster know of it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) options: Options,
    pub(crate) paths: Paths,
}

/// One host: a set of namespaces, and the processes in them. Cloning it does not clone those.
#[derive(Clone, Debug)]
pub struct Host {
    plan: Arc<Plan>,
    role: Role,
    holder: ProcessId,
}

impl Host {
    pub(crate) fn new(plan: Arc<Plan>, role: Role, holder: ProcessId) -> Self {
        Self { plan, role, holder }
    }

    /// `control-plane`, `client`, `node-1`...: on a node, also the name of its Node object.
    pub fn name(&self) -> String {
        self.role.to_string()
    }

    /// What the host is for.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Its own IPv4 address, in clusters with IPv4.
    pub fn ipv4(&self) -> Option<Ipv4Addr> {
        addresses::ipv4(self.role, self.plan.options.ip_family)
    }

    /// Its own IPv6 address, in clusters with IPv6.
    pub fn ipv6(&self) -> Option<Ipv6Addr> {
        addresses::ipv6(self.role, self.plan.options.ip_family)
    }

    /// Its own addresses, IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        addresses::all(self.role, self.plan.options.ip_family)
    }

    /// The pid that `ip link ... netns` takes.
    pub(crate) fn holder(&self) -> ProcessId {
        self.holder
    }

    /// Runs `f` on a thread in the host's namespaces: the sockets that it opens are the host's, and
    /// stay so wherever they are used afterwards.
    pub fn within<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, Error> {
        Ok(namespaces::within(self.holder, &self.name(), f)?)
    }

    /// Memory of all the host's processes but those in containers, in bytes. What processes share
    /// is divided among them (proportional set size).
    pub fn memory(&self) -> u64 {
        let name = self.name();
        process::marked(self.plan.paths.folder())
            .into_iter()
            .filter(|(_, host)| *host == name)
            .map(|(process, _)| process.memory())
            .sum()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.role.fmt(f)
    }
}

/// What could not be done on a host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its namespaces could not be made or entered.
    #[error(transparent)]
    Namespaces(#[from] namespaces::Error),
    /// A program could not be started.
    #[error("cannot run {program} on {host}")]
    Run {
        /// The program.
        program: String,
        /// The host's name.
        host: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("{program} on {host} failed ({status}): {stderr}")]
    Failed {
        /// The program.
        program: String,
        /// The host's name.
        host: String,
        /// Its exit status.
        status: ExitStatus,
        /// What it printed to standard error.
        stderr: String,
    },
    /// Components have their hosts.
    #[error("{component} does not run on {host}")]
    NotHere {
        /// The component.
        component: Component,
        /// The host's name.
        host: String,
    },
    /// The kernel has not ended it.
    #[error("{component} on {host} (process {pid}) does not end, although killed")]
    Survives {
        /// The component.
        component: Component,
        /// The host's name.
        host: String,
        /// By which the kernel knows it.
        pid: i32,
    },
    /// A log or a record.
    #[error(transparent)]
    File(#[from] files::Error),
}
