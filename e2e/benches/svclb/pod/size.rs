//! How large the files are that a node has to fetch and keep.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::contender::Contenders;
use crate::klipper::BUSYBOX;
use crate::report::{Better, Figure};
use crate::sample::Samples;

const AGAINST: &str = "busybox, both iptables, their libraries";
const NOTE: &str = "klipper-lb's image cannot be fetched here. Theirs is what its way needs of this \
    system's packages: busybox, the two iptables binaries with their libraries and extensions, \
    without a base system. (rancher/klipper-lb:v0.4.17 is 5.28 MB compressed by public notes.)";
const PROGRAMS: [&str; 3] = [
    BUSYBOX,
    "/usr/sbin/xtables-nft-multi",
    "/usr/sbin/xtables-legacy-multi",
];

/// The files' sizes, and those of a compressed image layer with them.
pub(super) fn figures(contenders: &Contenders, say: &dyn Fn(&str)) -> Result<Vec<Figure>> {
    say("file and image size");
    let ours = BTreeSet::from([contenders.svclb_pod.clone()]);
    let theirs = klipper_files()?;
    let figure = |name: &str, size: fn(&BTreeSet<PathBuf>) -> Result<u64>| -> Result<Figure> {
        let megabytes = |files| -> Result<Samples> { Ok(vec![size(files)? as f64 / 1e6].into()) };
        Ok(
            Figure::new("pod", name, "MB", Better::Lower, &megabytes(&ours)?)
                .against(AGAINST, &megabytes(&theirs)?)
                .note(NOTE),
        )
    };
    Ok(vec![
        figure("file size", plain)?,
        figure("image size, compressed", compressed)?,
    ])
}

/// The programs, every library that the loader would load for them, and iptables' extensions.
fn klipper_files() -> Result<BTreeSet<PathBuf>> {
    let mut files: BTreeSet<PathBuf> = PROGRAMS.iter().map(PathBuf::from).collect();
    let mut extensions = None;
    for program in PROGRAMS {
        // A static program has no libraries, which ldd says by failing.
        let output = Command::new("ldd")
            .arg(program)
            .output()
            .context("running ldd")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let paths = text
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
            .map(PathBuf::from);
        for path in paths {
            let is_xtables = path.to_string_lossy().contains("libxtables");
            if let (true, Some(folder)) = (is_xtables, path.parent()) {
                extensions = Some(folder.join("xtables"));
            }
            files.insert(path);
        }
    }
    // Kept beside the libraries' real place, which /lib may be a link to.
    let extensions = extensions.context("finding iptables' libraries by ldd")?;
    let found = fs::canonicalize(&extensions)
        .with_context(|| format!("finding {}", extensions.display()))?;
    for entry in fs::read_dir(&found).with_context(|| format!("listing {}", found.display()))? {
        files.insert(entry.context("listing iptables' extensions")?.path());
    }
    Ok(files)
}

fn plain(files: &BTreeSet<PathBuf>) -> Result<u64> {
    let mut real: BTreeSet<PathBuf> = BTreeSet::new();
    for file in files {
        real.insert(fs::canonicalize(file).with_context(|| format!("finding {}", file.display()))?);
    }
    real.iter().map(|file| size(file)).sum()
}

fn size(file: &Path) -> Result<u64> {
    Ok(fs::metadata(file)
        .with_context(|| format!("looking at {}", file.display()))?
        .len())
}

/// A layer as image builders make it: a tar, compressed by gzip at its default level.
fn compressed(files: &BTreeSet<PathBuf>) -> Result<u64> {
    let output = Command::new("tar")
        .args([
            "--create",
            "--gzip",
            "--dereference",
            "--absolute-names",
            "--owner=0",
            "--group=0",
        ])
        .args(files)
        .output()
        .context("running tar")?;
    ensure!(
        output.status.success(),
        "tar failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output.stdout.len() as u64)
}
