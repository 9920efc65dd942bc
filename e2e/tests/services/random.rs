//! Numbers by chance, from a seed that is printed, so that a run can be repeated.

use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::report;

/// The environment variable with the seed of a run to repeat.
const SEED: &str = "SVCLB_E2E_SEED";

/// Xorshift (Marsaglia): quite good enough for the order of a test's steps.
pub(crate) struct Random(u64);

impl Random {
    /// By the seed in the environment, else by the time.
    pub(crate) fn new() -> Self {
        let time = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let given = env::var(SEED).ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or(time.as_nanos() as u64 | 1);
        report::say(&format!("{SEED}={seed}"));
        Self(seed)
    }

    /// A number below this one.
    pub(crate) fn below(&mut self, limit: u16) -> u16 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % u64::from(limit)) as u16
    }
}
