//! What a pod's processes and its rules take of the node's memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::contender::{self, Contender, Contenders, Shape};
use super::{LEGACY, MANY, NFT};
use crate::klipper::Variant;
use crate::report::{Better, Figure};
use crate::sample::{Rounds, Samples, Side, interleave};

const ROUNDS: Rounds = Rounds {
    at_least: 3,
    at_most: 5,
    budget: Duration::from_secs(15),
};
/// Long enough for a process to have come to rest.
const REST: Duration = Duration::from_millis(200);
const RESIDENT: &str = "Pss, summed over the pod's processes: pages that they share count once. \
    Nothing else runs our file.";
const PRIVATE: &str =
    "Private_Dirty, summed over the pod's processes: what each further pod costs.";
const CHARGED: &str = "Memory that the pod's cgroup is charged with, the kernel's for processes and \
    rules included. Programs are in the page cache already, as on any node that ran one before.";

/// What one pod takes, in KiB.
struct Memory {
    resident: f64,
    private: f64,
    charged: Option<f64>,
}

/// Memory with 1, with 100 and (ours alone: theirs would be 2,000 shells) with 2,000 ports.
pub(super) fn figures(contenders: &Contenders, say: &dyn Fn(&str)) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for ports in [1, 100, MANY] {
        let plural = if ports == 1 { "port" } else { "ports" };
        say(&format!("memory, {ports} {plural}"));
        let shape = Shape { ports, ranges: 3 };
        let side = |contender| -> Side<'_, Memory> {
            Box::new(move || measure(contenders, contender, shape))
        };
        let mut sides = vec![side(Contender::Ours), side(Contender::OursLegacy)];
        if ports != MANY {
            sides.push(side(Contender::Klipper(Variant::Nft)));
            sides.push(side(Contender::Klipper(Variant::Legacy)));
        }
        let series = interleave(ROUNDS, &mut sides)?;
        let figure = |name: &str, quantity: fn(&Memory) -> Option<f64>, note| -> Vec<Figure> {
            let samples = |side: usize| {
                let side = series.get(side).map_or(&[][..], Vec::as_slice);
                Samples::from(side.iter().filter_map(quantity).collect::<Vec<_>>())
            };
            let name = format!("{name}, {ports} {plural}");
            let figure = |name, ours: Samples, against, theirs: Samples| {
                if ours.len() == 0 {
                    return None;
                }
                let figure = Figure::new("pod", name, "KiB", Better::Lower, &ours).note(note);
                if theirs.len() == 0 {
                    return Some(figure);
                }
                Some(figure.against(against, &theirs))
            };
            let nft = figure(name.clone(), samples(0), NFT, samples(2));
            let legacy = figure(format!("{name}, legacy"), samples(1), LEGACY, samples(3));
            nft.into_iter().chain(legacy).collect()
        };
        figures.extend(figure(
            "resident memory",
            |memory| Some(memory.resident),
            RESIDENT,
        ));
        figures.extend(figure(
            "private memory",
            |memory| Some(memory.private),
            PRIVATE,
        ));
        figures.extend(figure("cgroup memory", |memory| memory.charged, CHARGED));
    }
    Ok(figures)
}

fn measure(contenders: &Contenders, contender: Contender, shape: Shape) -> Result<Memory> {
    let namespace = contender::namespace()?;
    let cgroup = Cgroup::new()?;
    let pod = contenders.start(
        contender,
        shape,
        &namespace,
        cgroup.as_ref().map(Cgroup::path),
    )?;
    thread::sleep(REST);
    let (mut resident, mut private) = (0.0, 0.0);
    for pid in pod.pids() {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        resident += kibibytes(&text, "Pss:");
        private += kibibytes(&text, "Private_Dirty:");
    }
    let charged = cgroup.as_ref().map(Cgroup::charged).transpose()?;
    // The processes have to end before their cgroup can be removed.
    drop(pod);
    Ok(Memory {
        resident,
        private,
        charged,
    })
}

/// The value of a line like `Pss:    88 kB`.
fn kibibytes(text: &str, key: &str) -> f64 {
    let value = text.lines().find_map(|line| {
        line.strip_prefix(key)?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    });
    value.unwrap_or(0.0)
}

/// A memory cgroup of either version, removed with its last process.
enum Cgroup {
    V1(PathBuf),
    V2(PathBuf),
}

impl Cgroup {
    /// Makes the cgroup; none where the machine accounts no memory.
    fn new() -> Result<Option<Self>> {
        let name = format!("svclb-bench-{}", std::process::id());
        let (v1, v2) = (
            Path::new("/sys/fs/cgroup/memory"),
            Path::new("/sys/fs/cgroup"),
        );
        let unified = fs::read_to_string(v2.join("cgroup.subtree_control")).unwrap_or_default();
        let cgroup = match (
            v1.is_dir(),
            unified.split_whitespace().any(|name| name == "memory"),
        ) {
            (true, _) => Self::V1(v1.join(name)),
            (false, true) => Self::V2(v2.join(name)),
            (false, false) => return Ok(None),
        };
        let path = cgroup.path();
        fs::create_dir(path).with_context(|| format!("making the cgroup {}", path.display()))?;
        Ok(Some(cgroup))
    }

    fn path(&self) -> &Path {
        match self {
            Self::V1(path) | Self::V2(path) => path,
        }
    }

    /// KiB charged by exact counters: the usage counter runs up to 64 pages a CPU ahead of them.
    fn charged(&self) -> Result<f64> {
        let read = |file: &str| {
            let path = self.path().join(file);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let stat = read("memory.stat")?;
        let sum = |keys: &[&str]| -> f64 { keys.iter().map(|key| bytes(&stat, key)).sum() };
        let bytes = match self {
            Self::V1(_) => {
                let kernel = read("memory.kmem.usage_in_bytes")?;
                sum(&["rss", "cache"])
                    + kernel
                        .trim()
                        .parse::<f64>()
                        .context("reading the kernel's share")?
            }
            Self::V2(_) => sum(&["anon", "file", "kernel"]),
        };
        Ok(bytes / 1024.0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Fails only while a process is inside, and then the next best is to leave it.
        let _ = fs::remove_dir(self.path());
    }
}

/// The value of a line like `anon 4096`.
fn bytes(stat: &str, key: &str) -> f64 {
    let value = stat.lines().find_map(|line| {
        line.strip_prefix(key)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    });
    value.unwrap_or(0.0)
}
