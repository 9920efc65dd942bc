//! What the figures were measured on: the kernel, the machine, the versions.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;

use crate::report::Setting;

/// Reads what this machine is. `tools` are asked for their version, under the given names; one that
/// is not there is left out.
pub(crate) fn setting(repository: &Path, tools: &[(&'static str, &[&str])]) -> Setting {
    let mut facts = vec![
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
    ];
    facts.extend(
        tools
            .iter()
            .filter_map(|(name, command)| Some((*name, first_line(command)?))),
    );
    Setting { date: now(), facts }
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
    let repository = repository.to_string_lossy();
    match first_line(&["git", "-C", &repository, "describe", "--always", "--dirty"]) {
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

/// The first line that a command prints, if it can be run.
fn first_line(command: &[&str]) -> Option<String> {
    let (program, arguments) = command.split_first()?;
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .next()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
}
