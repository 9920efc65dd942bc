//! `make bench`: svclb side by side with what people use today, in the same run on the same machine.
//!
//! Takes the parts to run (`pod`, `datapath`, `control`, `scale`; none: all) and leaves, under
//! `target/bench/`, one JSON and one Markdown file a part and `all.*` with everything that was run.
//! Nothing is asserted: a figure that falls short is a figure.

mod cluster;
mod control;
mod controller;
mod datapath;
mod folders;
mod interrupt;
mod klipper;
mod load;
mod machine;
mod namespaces;
mod pod;
mod process;
mod report;
mod sample;
mod scale;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use folders::Folders;
use report::{Figure, Report, Setting};

/// A part: its name and what measures it.
type Part = (
    &'static str,
    fn(&Folders, &dyn Fn(&str)) -> Result<Vec<Figure>>,
);

const PARTS: [Part; 4] = [
    ("pod", pod::run),
    ("datapath", datapath::run),
    ("control", control::run),
    ("scale", scale::run),
];

/// Tools whose version matters to the figures.
const TOOLS: [(&str, &[&str]); 7] = [
    ("Rust", &["rustc", "--version"]),
    ("iptables", &["iptables", "--version"]),
    ("busybox", &["busybox"]),
    (
        "Kubernetes",
        &["target/kubernetes/bin/kubelet", "--version"],
    ),
    ("containerd", &["containerd", "--version"]),
    ("wrk", &["wrk", "--version"]),
    ("iperf3", &["iperf3", "--version"]),
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Cargo says `--bench` when it is asked to measure; `cargo test --all-targets` does not.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("run by `make bench`");
        return Ok(());
    }
    let wanted: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let parts = chosen(&wanted)?;
    interrupt::take_away(&[datapath::CLUSTER, control::CLUSTER, scale::CLUSTER])?;
    let folders = Folders::find()?;

    let machine = machine::facts(&folders.repository);
    let date = machine::now();
    // After each part, so that what was measured outlives a part that fails; by then the part's
    // tools are there to be asked.
    let setting = || Setting {
        date: date.clone(),
        facts: [
            machine.clone(),
            machine::versions(&folders.repository, &TOOLS),
        ]
        .concat(),
    };
    let mut all = Report {
        setting: setting(),
        figures: Vec::new(),
    };
    for (name, run) in parts {
        let begun = Instant::now();
        let say =
            |what: &str| eprintln!("[{:5.0} s] {name}: {what}", begun.elapsed().as_secs_f64());
        let figures = run(&folders, &say).with_context(|| format!("measuring the part {name}"))?;
        let part = Report {
            setting: setting(),
            figures,
        };
        all.setting.clone_from(&part.setting);
        all.figures.extend_from_slice(&part.figures);
        write(&part, &folders.results.join(name))?;
        write(&all, &folders.results.join("all"))?;
    }
    println!("{}", all.markdown());
    println!("Written to {}.", folders.results.display());
    Ok(())
}

/// The parts by name, all if none is named.
fn chosen(wanted: &[&str]) -> Result<Vec<Part>> {
    let names: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = wanted.iter().find(|name| !names.contains(name)) {
        bail!(
            "no part is called {unknown:?}: there are {}",
            names.join(", ")
        );
    }
    Ok(PARTS
        .into_iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.contains(name))
        .collect())
}

/// Writes the report as `<path>.md` and `<path>.json`.
fn write(report: &Report, path: &Path) -> Result<()> {
    let json = serde_json::to_string_pretty(report).context("turning the report into JSON")?;
    for (extension, text) in [("md", report.markdown()), ("json", json + "\n")] {
        let file: PathBuf = path.with_extension(extension);
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}
