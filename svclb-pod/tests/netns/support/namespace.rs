//! A network namespace without a name, which ends with its last user.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Command, Output, Stdio};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

#[derive(Debug)]
pub(crate) struct Namespace(File);

impl Namespace {
    pub(crate) fn new() -> Self {
        // A namespace belongs to a thread; this one's only lives as long as it takes to hold on to it.
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("a test needs root to make network namespaces");
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        Self(thread::scope(|scope| scope.spawn(make).join()).unwrap())
    }

    /// Runs something inside: sockets that it opens and processes that it starts stay inside.
    pub(crate) fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            self.enter();
            inside()
        };
        match thread::scope(|scope| scope.spawn(enter).join()) {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs lines of `ip` commands.
    pub(crate) fn ip(&self, commands: &str) {
        self.run(|| {
            let mut ip = Command::new("ip")
                .args(["-batch", "-"])
                .stdin(Stdio::piped())
                .spawn()
                .expect("iproute2 is there");
            ip.stdin
                .take()
                .unwrap()
                .write_all(commands.as_bytes())
                .unwrap();
            assert!(ip.wait().unwrap().success(), "ip refuses: {commands}");
        });
    }

    /// Runs a command to its end.
    pub(crate) fn command(&self, command: &[&str]) -> Output {
        self.run(|| {
            Command::new(command[0])
                .args(&command[1..])
                .output()
                .unwrap()
        })
    }

    /// What a command that succeeds prints.
    pub(crate) fn output(&self, command: &[&str]) -> String {
        let output = self.command(command);
        assert!(output.status.success(), "{command:?} fails: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Writes a network sysctl, given as its path below `/proc/sys/net`.
    pub(crate) fn sysctl(&self, path: &str, value: &str) {
        // Which namespace's it is, is settled when it is opened.
        self.run(|| std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap());
    }

    /// Brings this thread inside, for good.
    pub(crate) fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// Where `ip` finds it while this process lives.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}
