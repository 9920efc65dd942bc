//! Commands on a host, used like `std::process::Command`.

use std::env;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use crate::paths::{HOST_MARK, MARK};

use super::{Error, Host};

impl Host {
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
}

/// A command that runs in a host's namespaces.
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
        self.succeeded(output)
    }

    /// Runs it to its end with this as its standard input, and returns what it prints.
    pub(crate) fn text_with_input(&mut self, input: &str) -> Result<String, Error> {
        let piped = self
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = piped.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that does not read to the end has its reasons, and says them.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child
            .wait_with_output()
            .map_err(|source| self.not_run(source))?;
        self.succeeded(output)
    }

    fn succeeded(&self, output: Output) -> Result<String, Error> {
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Error::Failed {
            program: self.program(),
            host: self.host.name(),
            status: output.status,
            stderr: String::from_utf8_lossy(&output.stderr)
                .trim_end()
                .to_owned(),
        })
    }

    fn run<T: Send>(
        &mut self,
        f: impl FnOnce(&mut Command) -> io::Result<T> + Send,
    ) -> Result<T, Error> {
        let command = &mut self.command;
        let result = self.host.within(|| f(command))?;
        result.map_err(|source| self.not_run(source))
    }

    fn not_run(&self, source: io::Error) -> Error {
        Error::Run {
            program: self.program(),
            host: self.host.name(),
            source,
        }
    }

    fn program(&self) -> String {
        self.command.get_program().to_string_lossy().into_owned()
    }
}
