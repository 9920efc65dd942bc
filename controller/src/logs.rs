//! The log: one line on standard error for each thing that happened, as text or as JSON.

use std::io::IsTerminal;

use clap::ValueEnum;
use thiserror::Error;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

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
    /// The level is no list of levels.
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
    Install(#[source] TryInitError),
}

/// Sends everything that this process logs to standard error.
///
/// `level` is a level, and others for single modules if need be: `info`, or `info,svclb_controller=debug`.
pub fn init(format: Format, level: &str) -> Result<(), Error> {
    // kube logs each request that fails, which whoever sent it does too, and says what it was for.
    let filter: Targets = format!("kube_client=off,{level}")
        .parse()
        .map_err(|source| Error::Level {
            level: level.to_owned(),
            source,
        })?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false);
    let registry = tracing_subscriber::registry();
    match format {
        Format::Text => {
            let text = lines.with_ansi(std::io::stderr().is_terminal());
            registry.with(text.with_filter(filter)).try_init()
        }
        Format::Json => {
            let json = lines.json().flatten_event(true);
            registry.with(json.with_filter(filter)).try_init()
        }
    }
    .map_err(Error::Install)
}
