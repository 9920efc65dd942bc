//! A host's link to the switch.

use std::net::IpAddr;
use std::sync::Arc;

use crate::addresses::Cidr;
use crate::component::Role;
use crate::network::{self, PortState};
use crate::process::ProcessId;

use super::{Error, Host};

impl Host {
    /// Runs `ip -batch` with these lines.
    pub(crate) fn ip(&self, lines: &str) -> Result<(), Error> {
        let mut ip = self.command("ip");
        ip.args(["-batch", "-"]).text_with_input(lines).map(drop)
    }

    /// Takes the host off the network: its port of the switch drops everything. The host itself
    /// keeps its carrier, its addresses and its routes.
    pub fn cut(&self) -> Result<(), Error> {
        self.set_port(PortState::Disabled)
    }

    /// Takes back what `cut` did.
    pub fn heal(&self) -> Result<(), Error> {
        self.set_port(PortState::Forwarding)
    }

    fn set_port(&self, state: PortState) -> Result<(), Error> {
        let arguments = network::set_port(self.role, state);
        self.switch()
            .command("bridge")
            .args(arguments)
            .text()
            .map(drop)
    }

    /// The switch, whose holder's record is beside ours.
    fn switch(&self) -> Self {
        let holder = ProcessId::recorded(&self.plan.paths.holder(Role::Switch));
        Self {
            plan: Arc::clone(&self.plan),
            role: Role::Switch,
            holder: holder.unwrap_or(ProcessId::NONE),
        }
    }

    /// Puts a further address on the host's interface, with no subnet around it.
    pub(crate) fn put_address(&self, address: IpAddr) -> Result<(), Error> {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        self.ip(&network::add_address(Cidr { address, prefix }))
    }
}
