//! What the user is told while a cluster comes up, and how the user stops it.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Is called with the time since the beginning and what has been done.
type Report = dyn Fn(Duration, &str) + Send + Sync;

/// Receives the steps of `Cluster::up`, and can be asked to give up.
pub struct Progress {
    start: Instant,
    report: Box<Report>,
    interrupted: Arc<AtomicBool>,
}

impl Progress {
    /// Steps go to `report`, with the time since now.
    pub fn new(report: impl Fn(Duration, &str) + Send + Sync + 'static) -> Self {
        Self {
            start: Instant::now(),
            report: Box::new(report),
            interrupted: Arc::default(),
        }
    }

    /// Nobody is told.
    pub fn silent() -> Self {
        Self::new(|_, _| {})
    }

    /// Steps are lines on standard error.
    pub fn to_stderr() -> Self {
        Self::new(|time, step| {
            // Nobody may be there to read it any more; what is being made is cleaned up all the same.
            let _ = writeln!(io::stderr(), "{:>6.2} s  {step}", time.as_secs_f64());
        })
    }

    /// Set it to true, from a signal handler's thread say, and `up` cleans up and fails.
    pub fn interrupted(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.interrupted)
    }

    /// How long it has been going on.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn step(&self, step: &str) {
        (self.report)(self.elapsed(), step);
    }

    /// Fails once somebody has asked to give up.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(Interrupted);
        }
        Ok(())
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress")
            .field("start", &self.start)
            .finish_non_exhaustive()
    }
}

/// Somebody asked to give up.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;
