//! Any order converges: random edits with the controller restarted at random, and then a fresh start that finds nothing
//! to do.

mod edits;
mod pods;
mod state;

use std::time::Duration;

use anyhow::{Context, ensure};

use crate::Test;
use crate::bed::{Bed, Controller};

use edits::{Dice, carry_out, edit};
use pods::place_pods;
use state::{State, state};

pub(crate) const TESTS: &[(&str, Test)] = &[("any_order_of_edits_converges", converges)];

/// Sequences of edits, each from an empty cluster.
const SEQUENCES: u64 = 24;
/// Edits in a sequence.
const EDITS: u32 = 16;
/// How long nothing must change until a state counts as the last one. Five times what the controller waits on purpose.
const STEADY: Duration = Duration::from_millis(500);

fn converges(bed: &Bed) -> anyhow::Result<()> {
    for seed in 1..=SEQUENCES {
        bed.clear()?;
        sequence(bed, seed)?;
    }
    Ok(())
}

fn sequence(bed: &Bed, seed: u64) -> anyhow::Result<()> {
    let mut dice = Dice(seed);
    let mut log = Vec::new();
    let result = play(bed, &mut dice, &mut log);
    result.with_context(|| format!("sequence {seed}: {log:#?}"))
}

fn play(bed: &Bed, dice: &mut Dice, log: &mut Vec<String>) -> anyhow::Result<()> {
    let mut controller = Some(bed.controller()?);
    for _ in 0..EDITS {
        if dice.roll(8) == 0 {
            controller = restart(bed, controller, dice, log)?;
        }
        let edit = edit(dice);
        log.push(format!("{edit:?}"));
        bed.run(carry_out(bed, edit))?;
        if dice.roll(3) == 0 {
            bed.run(place_pods(bed))?;
        }
    }
    let controller = match controller {
        Some(controller) => controller,
        None => bed.controller()?,
    };
    let before = bed.run(settle(bed)).with_context(|| controller.said())?;
    ensure!(controller.stop()?.success());
    let fresh = bed.controller()?;
    bed.run(bed.until(
        "the fresh controller has decided on everything",
        async || {
            let decisions = fresh.metric("svclb_reconcile_seconds_count")?;
            ensure!(
                decisions >= before.services.len() as f64,
                "{decisions} decisions"
            );
            Ok(())
        },
    ))?;
    let after = bed.run(settle(bed))?;
    ensure!(
        before == after,
        "a fresh start changed {before:#?} into {after:#?}\n{}",
        fresh.said()
    );
    after.is_clean()
}

fn restart(
    bed: &Bed,
    running: Option<Controller>,
    dice: &mut Dice,
    log: &mut Vec<String>,
) -> anyhow::Result<Option<Controller>> {
    let Some(controller) = running else {
        log.push("start the controller".to_owned());
        return Ok(Some(bed.controller()?));
    };
    if dice.roll(2) == 0 {
        log.push("end the controller".to_owned());
        ensure!(controller.stop()?.success());
    } else {
        log.push("kill the controller".to_owned());
        controller.kill()?;
    }
    Ok(None)
}

/// Places pods until nothing changes any more.
async fn settle(bed: &Bed) -> anyhow::Result<State> {
    let mut last = None;
    let mut since = tokio::time::Instant::now();
    bed.until("nothing changes any more", async || {
        place_pods(bed).await?;
        let now = state(bed).await?;
        if last.as_ref() != Some(&now) {
            last = Some(now);
            since = tokio::time::Instant::now();
        }
        ensure!(since.elapsed() >= STEADY, "{last:?}");
        last.take().context("a state")
    })
    .await
}
