//! A host of a cluster: commands, sockets and components that run on it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use std::{env, fmt};

use nix::sys::signal::Signal;

use crate::addresses::{self, Cidr};
use crate::component::{Component, Role};
use crate::control_plane::{self, CommandLine};
use crate::files;
use crate::namespaces::{self, ProcessGroup};
use crate::network::{self, PortState};
use crate::node;
use crate::options::Options;
use crate::paths::{HOST_MARK, MARK, Paths};
use crate::process::{self, ProcessId};

/// How long a component may take to end when asked to.
const GRACE: Duration = Duration::from_secs(10);

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

    /// A command that will run on the host, in this process's working directory.
    pub fn command(&self, program: impl AsRef<OsStr>) -> HostCommand {
        let mut command = Command::new(program);
        let path = env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{path}:/usr/sbin:/sbin:/usr/bin:/bin"))
            .env(MARK, self.plan.paths.folder())
            .env(HOST_MARK, self.name());
        HostCommand {
            host: self.clone(),
            command,
        }
    }

    /// Runs `ip -batch` with these lines.
    pub(crate) fn ip(&self, lines: &str) -> Result<(), Error> {
        let mut child = self
            .command("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let failed = |source| Error::Run {
            program: "ip".to_owned(),
            host: self.name(),
            source,
        };
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(lines.as_bytes()).map_err(failed)?;
        }
        self.succeeded("ip", child.wait_with_output().map_err(failed)?)?;
        Ok(())
    }

    fn succeeded(&self, program: &str, output: Output) -> Result<String, Error> {
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Error::Failed {
            program: program.to_owned(),
            host: self.name(),
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr)
                .trim_end()
                .to_owned(),
        })
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
            holder: holder.unwrap_or(self.holder),
        }
    }

    /// Puts a further address on the host's interface, and on this address alone.
    pub(crate) fn put_address(&self, address: IpAddr) -> Result<(), Error> {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        self.ip(&network::add_address(Cidr { address, prefix }))
    }

    /// The component's process, while it runs.
    pub fn process(&self, component: Component) -> Option<ProcessId> {
        ProcessId::recorded(&self.plan.paths.process(self.role, component))
            .filter(|process| process.is_alive())
    }

    /// Whether a component was started and not stopped since: if it does not run, it has ended by
    /// itself or was killed.
    pub(crate) fn was_started(&self, component: Component) -> bool {
        self.plan.paths.process(self.role, component).exists()
    }

    /// Starts a component, unless it runs. It does not wait until it is ready.
    pub fn start(&self, component: Component) -> Result<(), Error> {
        if !self.role.components().contains(&component) {
            return Err(Error::NotHere {
                component,
                host: self.name(),
            });
        }
        if self.process(component).is_some() {
            return Ok(());
        }
        let Plan { options, paths } = &*self.plan;
        let command_line = match (component, self.role) {
            (Component::Etcd, _) => control_plane::etcd(paths),
            (Component::KubeApiserver, _) => control_plane::kube_apiserver(options, paths),
            (Component::KubeControllerManager, _) => {
                control_plane::kube_controller_manager(options, paths)
            }
            (Component::KubeScheduler, _) => control_plane::kube_scheduler(paths),
            (_, Role::Node(number)) => node::command_line(number, component, options, paths),
            (_, _) => return Ok(()),
        };
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
        self.with_process(component, |process| process.end(GRACE))
    }

    /// Ends a component without asking (SIGKILL).
    pub fn kill(&self, component: Component) -> Result<(), Error> {
        self.with_process(component, |process| {
            process.signal(Signal::SIGKILL);
            process.wait_for_end(GRACE);
        })
    }

    /// Stops and starts a component.
    pub fn restart(&self, component: Component) -> Result<(), Error> {
        self.stop(component)?;
        self.start(component)
    }

    fn with_process(&self, component: Component, f: impl FnOnce(ProcessId)) -> Result<(), Error> {
        if !self.role.components().contains(&component) {
            return Err(Error::NotHere {
                component,
                host: self.name(),
            });
        }
        if let Some(process) = self.process(component) {
            f(process);
        }
        Ok(())
    }

    /// Where a component's output goes. It is appended to when the component is started again.
    pub fn log(&self, component: Component) -> PathBuf {
        self.plan.paths.log(self.role, component)
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

/// A command that runs in a host's namespaces. It is used like `std::process::Command`.
#[derive(Debug)]
pub struct HostCommand {
    host: Host,
    command: Command,
}

impl HostCommand {
    /// Adds an argument.
    pub fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    pub fn args(&mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.command.args(arguments);
        self
    }

    /// Sets a variable of the environment.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.command.env(name, value);
        self
    }

    /// Where standard input comes from.
    pub fn stdin(&mut self, stdin: impl Into<Stdio>) -> &mut Self {
        self.command.stdin(stdin);
        self
    }

    /// Where standard output goes.
    pub fn stdout(&mut self, stdout: impl Into<Stdio>) -> &mut Self {
        self.command.stdout(stdout);
        self
    }

    /// Where standard error goes.
    pub fn stderr(&mut self, stderr: impl Into<Stdio>) -> &mut Self {
        self.command.stderr(stderr);
        self
    }

    /// Starts it. The child is this process's, and to be waited for.
    pub fn spawn(&mut self) -> Result<Child, Error> {
        self.run(Command::spawn)
    }

    /// Runs it to its end, whatever its exit status, and collects what it prints.
    pub fn output(&mut self) -> Result<Output, Error> {
        self.run(Command::output)
    }

    /// Runs it to its end, with this process's standard input and outputs unless told otherwise.
    pub fn status(&mut self) -> Result<ExitStatus, Error> {
        self.run(Command::status)
    }

    /// Runs it to its end and returns what it prints. An exit status other than 0 is an error, with
    /// what it printed to standard error.
    pub fn text(&mut self) -> Result<String, Error> {
        let output = self.output()?;
        self.host.succeeded(&self.program(), output)
    }

    fn run<T: Send>(
        &mut self,
        f: impl FnOnce(&mut Command) -> io::Result<T> + Send,
    ) -> Result<T, Error> {
        let command = &mut self.command;
        let result = self.host.within(|| f(command))?;
        result.map_err(|source| Error::Run {
            program: self.program(),
            host: self.host.name(),
            source,
        })
    }

    fn program(&self) -> String {
        self.command.get_program().to_string_lossy().into_owned()
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
    /// A log or a record.
    #[error(transparent)]
    File(#[from] files::Error),
}
