//! What the figures were measured on: the kernel, the machine, the versions.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;

use crate::report::Fact;

/// What this machine is.
pub(crate) fn facts(repository: &Path) -> Vec<Fact> {
    vec![
        ("svclb", svclb(repository)),
        (
            "kernel",
            format!(
                "{} {}",
                read("/proc/sys/kernel/ostype"),
                read("/proc/sys/kernel/osrelease")
            ),
        ),
        ("CPUs", cpus()),
        ("memory", memory()),
        (
            "load when begun",
            read("/proc/loadavg")
                .split(' ')
                .take(3)
                .collect::<Vec<_>>()
                .join(" "),
        ),
    ]
}

/// The versions of tools under the given names. One that is not there is left out.
pub(crate) fn versions(repository: &Path, tools: &[(&'static str, &[&str])]) -> Vec<Fact> {
    let version = |command: &[&str]| first_line(repository, command);
    tools
        .iter()
        .filter_map(|(name, command)| Some((*name, version(command)?)))
        .collect()
}

/// Now, in UTC and to the second.
pub(crate) fn now() -> String {
    let seconds = SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |elapsed| elapsed.as_secs());
    let now = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    now.map_or_else(|| "at an unknown time".to_owned(), |now| now.to_string())
}

/// The version with the commit it was built at.
fn svclb(repository: &Path) -> String {
    let version = env!("CARGO_PKG_VERSION");
    match first_line(repository, &["git", "describe", "--always", "--dirty"]) {
        Some(commit) => format!("{version} ({commit})"),
        None => version.to_owned(),
    }
}

fn cpus() -> String {
    let text = read("/proc/cpuinfo");
    let values = |key: &str| {
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .filter(|(name, _)| name.trim() == key)
            .map(|(_, value)| value.trim().to_owned())
            .collect::<Vec<_>>()
    };
    let count = values("processor").len();
    match values("model name").first() {
        Some(model) => format!("{count} x {model}"),
        None => format!("{count} ({})", std::env::consts::ARCH),
    }
}

fn memory() -> String {
    let kibibytes = read("/proc/meminfo").lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    kibibytes.map_or_else(|| "unknown".to_owned(), |kib| format!("{} MiB", kib / 1024))
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| String::new(), |text| text.trim().to_owned())
}

/// The first line that a command prints in the repository, if it can be run. A program of the
/// repository's own is named by its path in it.
fn first_line(repository: &Path, command: &[&str]) -> Option<String> {
    let (program, arguments) = command.split_first()?;
    let program = match program.contains('/') {
        true => repository.join(program),
        false => program.into(),
    };
    let output = Command::new(program)
        .args(arguments)
        .current_dir(repository)
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .next()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
}
