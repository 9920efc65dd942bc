//! Processes that outlive the command that started them: known by pid and start time, so that a pid
//! that the kernel gave to somebody else is never taken for ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::files;
use crate::paths::{HOST_MARK, MARK};

/// A process, and no other that may get its pid later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    pid: i32,
    /// Clock ticks after boot.
    start: u64,
}

impl ProcessId {
    /// No process: it is never alive.
    pub(crate) const NONE: Self = Self { pid: 0, start: 0 };

    /// The process that has this pid now, unless it has ended.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = Stat::of(pid)?;
        stat.is_alive.then_some(Self {
            pid,
            start: stat.start,
        })
    }

    /// This very process.
    pub(crate) fn current() -> Option<Self> {
        Self::of(Pid::this().as_raw())
    }

    /// The number by which the kernel knows it.
    pub fn pid(self) -> i32 {
        self.pid
    }

    /// A process that has ended but was not waited for yet counts as ended.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, unless the process has ended.
    pub(crate) fn signal(self, signal: Signal) {
        if self.is_alive() {
            // It may end between the two; then there is nobody to signal.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Waits until it has ended, and says whether it has.
    pub(crate) fn wait_for_end(self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// Asks it to end, kills it if it has not after `grace`, and says whether it has ended.
    pub(crate) fn end(self, grace: Duration) -> bool {
        self.signal(Signal::SIGTERM);
        self.wait_for_end(grace) || self.kill(grace)
    }

    /// Ends it without asking, and says whether it has ended.
    pub(crate) fn kill(self, patience: Duration) -> bool {
        self.signal(Signal::SIGKILL);
        self.wait_for_end(patience)
    }

    /// Memory that it alone has, and its share of what it has in common with others, in bytes.
    pub(crate) fn memory(self) -> u64 {
        fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid))
            .ok()
            .and_then(|rollup| proportional_set_size(&rollup))
            .unwrap_or(0)
    }

    /// Writes the record by which later commands find it.
    pub(crate) fn record(self, path: &Path) -> Result<(), files::Error> {
        files::replace(path, format!("{} {}\n", self.pid, self.start))
    }

    /// Reads a record. A process without one was never started.
    pub(crate) fn recorded(path: &Path) -> Option<Self> {
        let record = fs::read_to_string(path).ok()?;
        let (pid, start) = record.trim_end().split_once(' ')?;
        Some(Self {
            pid: pid.parse().ok()?,
            start: start.parse().ok()?,
        })
    }
}

/// Lets a child live on by itself: its end is waited for in the background, so that no zombie stays
/// while this process lives.
pub(crate) fn leave_to_itself(mut child: Child) -> ProcessId {
    // Until it is waited for it keeps its pid, even if it has ended already.
    let process = i32::try_from(child.id()).ok().and_then(|pid| {
        Some(ProcessId {
            pid,
            start: Stat::of(pid)?.start,
        })
    });
    thread::spawn(move || child.wait());
    process.unwrap_or(ProcessId::NONE)
}

/// All processes that carry the mark of the cluster with this folder, with the name of their host.
pub(crate) fn marked(folder: &Path) -> Vec<(ProcessId, String)> {
    let mark = [MARK.as_bytes(), b"=", folder.as_os_str().as_encoded_bytes()].concat();
    let host_mark = [HOST_MARK.as_bytes(), b"="].concat();
    let mut found = Vec::new();
    for pid in pids() {
        let process = ProcessId::of(pid);
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        if let Some(process) = process
            && variables.clone().any(|variable| variable == mark)
        {
            let host = variables.find_map(|variable| variable.strip_prefix(&host_mark[..]));
            let host = String::from_utf8_lossy(host.unwrap_or_default()).into_owned();
            found.push((process, host));
        }
    }
    found
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| PathBuf::from(entry.file_name()).to_str()?.parse().ok())
}

/// What matters of `/proc/PID/stat` (proc(5)).
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    is_alive: bool,
    start: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Fields 3, 20 and 22. Field 2 is the program's name, which may have spaces and brackets in it.
    fn parse(stat: &str) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let has_ended = matches!(fields.next()?, "Z" | "X");
        let threads: u32 = fields.nth(16)?.parse().ok()?;
        // A killed process is a zombie as soon as its first thread is. While others are left, it has
        // its sockets, and whoever is started in its place does not get its port.
        let is_alive = !has_ended || threads > 1;
        let start = fields.nth(1)?.parse().ok()?;
        Some(Self { is_alive, start })
    }
}

fn proportional_set_size(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_field_22_whatever_the_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 12345 99 1";
        let expected = Stat {
            is_alive: true,
            start: 12345,
        };
        assert_eq!(Stat::parse(stat), Some(expected));
        let zombie = Stat::parse(&stat.replace(") S", ") Z"));
        assert_eq!(zombie.map(|stat| stat.is_alive), Some(false));
    }

    #[test]
    fn a_zombie_lives_while_it_has_other_threads() {
        let stat = "7 (etcd) Z 1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 3 0 12345 99 1";
        assert_eq!(Stat::parse(stat).map(|stat| stat.is_alive), Some(true));
        let last = stat.replace(" 0 3 0 ", " 0 1 0 ");
        assert_eq!(Stat::parse(&last).map(|stat| stat.is_alive), Some(false));
    }

    #[test]
    fn memory_is_the_proportional_set_size() {
        let rollup = "00400000-7ff0 ---p 0 00:00 0 [rollup]\nRss:   100 kB\nPss:    42 kB\n";
        assert_eq!(proportional_set_size(rollup), Some(42 * 1024));
    }

    #[test]
    fn another_process_with_the_same_pid_is_not_ours() {
        let ours = ProcessId::current().unwrap();
        assert!(ours.is_alive());
        let other = ProcessId {
            start: ours.start + 1,
            ..ours
        };
        assert!(!other.is_alive());
    }
}
