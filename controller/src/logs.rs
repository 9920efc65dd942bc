//! The log: one line on standard error for each thing that happened, as text or as JSON.

use std::io::IsTerminal;

use clap::ValueEnum;
use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Format {
    /// For people: coloured on a terminal, plain elsewhere.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// Why the log could not be set up.
#[derive(Debug, Error)]
pub enum Error {
    /// The level is no list of `tracing` directives.
    #[error("read log level {level:?}")]
    Level {
        /// What was given.
        level: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// A subscriber was there already.
    #[error("install the log's subscriber")]
    Install(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sends everything that this process logs to standard error.
///
/// `level` is a `tracing` filter: `info`, or `info,svclb_controller=debug`.
pub fn init(format: Format, level: &str) -> Result<(), Error> {
    // kube logs each request that fails, which whoever sent it does too, and says what it was for.
    let filter = EnvFilter::builder()
        .parse(format!("kube_client=off,{level}"))
        .map_err(|source| Error::Level {
            level: level.to_owned(),
            source,
        })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    match format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(Error::Install)
}
