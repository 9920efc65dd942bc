//! The program under test, as a process in the pod's network namespace.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Namespace, PATIENCE, wait_until};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_svclb-pod");

/// The variables that the program gets; it gets no others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// `VARIABLE=value`, each.
    pub(crate) fn new(variables: &[&str]) -> Self {
        Self::default().with(variables)
    }

    pub(crate) fn with(mut self, variables: &[&str]) -> Self {
        self.0.extend(variables.iter().map(|variable| {
            let (name, value) = variable.split_once('=').unwrap();
            (name.into(), value.into())
        }));
        self
    }

    /// A command with these variables.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(&self.0);
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, namespace: &Namespace, arguments: &[&str]) -> Output {
        namespace.run(|| self.command(PROGRAM).args(arguments).output().unwrap())
    }
}

/// Starts a command that becomes the program, in this thread's namespaces.
pub(crate) fn spawn(mut command: Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A process of the program that has put its rules in place; killed when dropped.
#[derive(Debug)]
pub(crate) struct Pod {
    process: Child,
    log: Arc<Mutex<String>>,
}

impl Pod {
    /// Starts the program and waits until it says that its rules are in place.
    pub(crate) fn start(namespace: &Namespace, environment: &Environment) -> Self {
        Self::start_command(namespace, environment.command(PROGRAM))
    }

    /// The same, of a command that becomes the program.
    pub(crate) fn start_command(namespace: &Namespace, command: Command) -> Self {
        let pod = Self::of(namespace.run(|| spawn(command)));
        pod.wait_for_log("rules in place by");
        pod
    }

    /// A process that was started by `spawn`.
    pub(crate) fn of(mut process: Child) -> Self {
        let outputs = (process.stdout.take(), process.stderr.take());
        let pod = Self::nobody_reads(process);
        pod.keep_log_of(outputs.0.unwrap());
        pod.keep_log_of(outputs.1.unwrap());
        pod
    }

    /// The same, but its log is left in the pipe.
    pub(crate) fn nobody_reads(process: Child) -> Self {
        Self {
            process,
            log: Arc::default(),
        }
    }

    /// Reads to the end, so that the program never writes into a closed pipe.
    fn keep_log_of(&self, output: impl Read + Send + 'static) {
        let log = Arc::clone(&self.log);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                *log.lock().unwrap() += &(line + "\n");
            }
        });
    }

    /// What it has said, on stdout and on stderr.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// What it was called with.
    pub(crate) fn command_line(&self) -> String {
        fs::read_to_string(format!("/proc/{}/cmdline", self.id())).unwrap()
    }

    /// Whether there is something to read of what nobody reads.
    pub(crate) fn has_said_something(&self) -> bool {
        let output = self.process.stdout.as_ref().unwrap();
        let mut output = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        poll(&mut output, PollTimeout::ZERO).unwrap() == 1
    }

    pub(crate) fn wait_for_log(&self, text: &str) {
        let started = Instant::now();
        while !self.log().contains(text) {
            assert!(
                started.elapsed() < PATIENCE,
                "{text:?} is not in the log: {}",
                self.log()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends it as the kubelet does, and hands back how it ended.
    pub(crate) fn stop(self) -> ExitStatus {
        self.stop_by(Signal::SIGTERM)
    }

    pub(crate) fn stop_by(mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
        let mut status = None;
        wait_until("the end of the program", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
