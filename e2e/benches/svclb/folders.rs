//! Where the bench finds what it measures, and where it works and writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The folders of the repository that concern the bench.
pub(crate) struct Folders {
    /// The repository's root.
    pub(crate) repository: PathBuf,
    /// Where cargo leaves the release builds of the programs that are measured.
    pub(crate) built: PathBuf,
    /// Where the figures go.
    pub(crate) results: PathBuf,
    /// For the bench to fill; emptied at its start.
    pub(crate) work: PathBuf,
}

impl Folders {
    /// Finds them from where the bench's own source and binary lie, and makes those that are ours.
    pub(crate) fn find() -> Result<Self> {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("finding the repository")?;
        let bench = std::env::current_exe().context("finding the bench itself")?;
        // The bench is in `release/deps`.
        let built = bench
            .ancestors()
            .nth(2)
            .context("finding the release builds")?;
        let results = repository.join("target/bench");
        let work = results.join("work");
        if work.exists() {
            fs::remove_dir_all(&work).with_context(|| format!("emptying {}", work.display()))?;
        }
        fs::create_dir_all(&work).with_context(|| format!("making {}", work.display()))?;
        Ok(Self {
            repository: repository.to_owned(),
            built: built.to_owned(),
            results,
            work,
        })
    }

    /// Has cargo make the release build of a program.
    pub(crate) fn build(&self, package: &str) -> Result<PathBuf> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args([
                "build",
                "--release",
                "--locked",
                "--quiet",
                "--package",
                package,
            ])
            .current_dir(&self.repository)
            .status()
            .context("running cargo")?;
        ensure!(status.success(), "cargo could not build {package}");
        Ok(self.built.join(package))
    }
}
