//! The components on a host: starting and ending them.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::component::{CommandLine, Component, Role};
use crate::control_plane;
use crate::files;
use crate::namespaces::ProcessGroup;
use crate::node;
use crate::paths::{HOST_MARK, MARK};
use crate::process::{self, ProcessId};

use super::{Error, Host, Plan};

/// How long a component may take to end when asked to.
const GRACE: Duration = Duration::from_secs(10);

impl Host {
    /// The component's process, while it runs.
    pub fn process(&self, component: Component) -> Option<ProcessId> {
        ProcessId::recorded(&self.plan.paths.process(self.role, component))
            .filter(|process| process.is_alive())
    }

    /// Whether a component was ever started. While a cluster comes up nobody stops one: if it does not
    /// run then, it has ended by itself or was killed.
    pub(crate) fn was_started(&self, component: Component) -> bool {
        self.plan.paths.process(self.role, component).exists()
    }

    /// Starts a component, unless it runs. It does not wait until it is ready.
    pub fn start(&self, component: Component) -> Result<(), Error> {
        if self.process(component).is_some() {
            return Ok(());
        }
        let Plan { options, paths } = &*self.plan;
        let command_line = match self.role {
            Role::ControlPlane => control_plane::command_line(component, options, paths),
            Role::Node(number) => node::command_line(number, component, options, paths),
            Role::Switch | Role::Client => None,
        };
        let command_line = command_line.ok_or_else(|| self.not_here(component))?;
        let child = self.launch(component, &command_line)?;
        let process = process::leave_to_itself(child);
        Ok(process.record(&paths.process(self.role, component))?)
    }

    fn launch(&self, component: Component, command_line: &CommandLine) -> Result<Child, Error> {
        let path = self.log(component);
        let opened = File::options().create(true).append(true).open(&path);
        let log = opened.map_err(|source| files::Error::new("open", &path, source))?;
        let errors = log
            .try_clone()
            .map_err(|source| files::Error::new("open", &path, source))?;
        let mut command = Command::new(&command_line.program);
        command
            .args(&command_line.arguments)
            .current_dir("/")
            // Nothing of the user's environment, such as a proxy, is for it.
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env(MARK, self.plan.paths.folder())
            .env(HOST_MARK, self.name())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group_of_its_own();
        self.within(move || command.spawn())?
            .map_err(|source| Error::Run {
                program: component.to_string(),
                host: self.name(),
                source,
            })
    }

    /// Asks a component to end, and returns when it has. One that takes longer than 10 s is killed.
    pub fn stop(&self, component: Component) -> Result<(), Error> {
        self.end(component, |process| process.end(GRACE))
    }

    /// Ends a component without asking (SIGKILL).
    pub fn kill(&self, component: Component) -> Result<(), Error> {
        self.end(component, |process| process.kill(GRACE))
    }

    /// Stops and starts a component.
    pub fn restart(&self, component: Component) -> Result<(), Error> {
        self.stop(component)?;
        self.start(component)
    }

    /// `end` says whether the process has ended.
    fn end(&self, component: Component, end: impl FnOnce(ProcessId) -> bool) -> Result<(), Error> {
        self.check_is_here(component)?;
        match self.process(component) {
            Some(process) if !end(process) => Err(Error::Survives {
                component,
                host: self.name(),
                pid: process.pid(),
            }),
            _ => Ok(()),
        }
    }

    fn check_is_here(&self, component: Component) -> Result<(), Error> {
        if self.role.components().contains(&component) {
            return Ok(());
        }
        Err(self.not_here(component))
    }

    fn not_here(&self, component: Component) -> Error {
        Error::NotHere {
            component,
            host: self.name(),
        }
    }

    /// Where a component's output goes. It is appended to when the component is started again.
    pub fn log(&self, component: Component) -> PathBuf {
        self.plan.paths.log(self.role, component)
    }
}
