//! Interleaved runs of the sides that are compared, and what a series of measurements says.
//!
//! The machines are shared and noisy: a slow minute must fall on all sides alike, so every round
//! runs every side once. Rounds differ in their order, so that no side always comes after the same one,
//! which leaves it connections that the kernel has yet to forget, and caches.

use std::time::{Duration, Instant};

use anyhow::Result;

/// How often the sides are run.
#[derive(Clone, Copy)]
pub(crate) struct Rounds {
    /// Never fewer rounds, however long they take.
    pub(crate) at_least: usize,
    /// Never more rounds.
    pub(crate) at_most: usize,
    /// No further round is begun after this time.
    pub(crate) budget: Duration,
}

/// One way of doing what is measured: a closure that does it once and returns what it measured.
pub(crate) type Side<'a, T> = Box<dyn FnMut() -> Result<T> + 'a>;

/// Runs all sides in every round, and returns one series a side, in the order of `sides`.
pub(crate) fn interleave<T>(rounds: Rounds, sides: &mut [Side<'_, T>]) -> Result<Vec<Vec<T>>> {
    let begun = Instant::now();
    let mut series: Vec<Vec<T>> = sides.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds.at_most {
        if round >= rounds.at_least && begun.elapsed() > rounds.budget {
            break;
        }
        for side in order(round, sides.len()) {
            series[side].push(sides[side]()?);
        }
    }
    Ok(series)
}

/// The order of a round: every side once, each so many after the one before, and from round to round
/// by another step.
fn order(round: usize, sides: usize) -> impl Iterator<Item = usize> {
    // A step that shares no factor with the number of sides meets them all.
    let steps: Vec<usize> = (1..=sides)
        .filter(|step| divisor(*step, sides) == 1)
        .collect();
    let step = steps.get(round % steps.len().max(1)).copied().unwrap_or(1);
    (0..sides).map(move |turn| (round + turn * step) % sides)
}

/// The greatest common one.
fn divisor(one: usize, other: usize) -> usize {
    if other == 0 {
        one
    } else {
        divisor(other, one % other)
    }
}

/// A series of measurements of one quantity, sorted.
#[derive(Clone)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Takes one quantity out of each run.
    pub(crate) fn of<T>(runs: &[T], quantity: impl Fn(&T) -> f64) -> Self {
        Self::from(runs.iter().map(quantity).collect::<Vec<_>>())
    }

    /// How many measurements there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The measurement that `fraction` of all do not exceed (nearest rank). 0 of an empty series.
    pub(crate) fn quantile(&self, fraction: f64) -> f64 {
        let rank = (fraction * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    }

    /// The middle measurement, or the mean of the two in the middle.
    pub(crate) fn median(&self) -> f64 {
        match self.0.len() {
            0 => 0.0,
            len if len % 2 == 1 => self.0[len / 2],
            len => f64::midpoint(self.0[len / 2 - 1], self.0[len / 2]),
        }
    }

    /// Half the distance between the quartiles, as a fraction of the median: what "± 5 %" means in
    /// the table. None of a single measurement.
    pub(crate) fn spread(&self) -> Option<f64> {
        let half = (self.quantile(0.75) - self.quantile(0.25)) / 2.0;
        (self.len() > 1 && self.median() != 0.0).then(|| half / self.median())
    }
}

impl From<Vec<f64>> for Samples {
    fn from(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }
}
