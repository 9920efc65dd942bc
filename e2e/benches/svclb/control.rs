//! The part `control`: how soon what happens to Services, endpoints and nodes shows in status and to
//! clients, with addresses published when their port is held, and when the pod is Ready (what
//! ServiceLB does).

mod bare;
mod bed;
mod observer;
mod scenes;

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::controller::Controller;
use crate::folders::Folders;
use crate::report::{Better, Figure};
use crate::sample::{Rounds, Samples, Side, interleave};
use bed::Bed;
use observer::Observer;
use scenes::{Durations, Measured, STEADY};

/// The cluster's name.
pub(crate) const CLUSTER: &str = "bench-control";
/// The modes take turns in blocks, since only one controller can lead: 5 blocks of 10 runs each,
/// fewer on a machine that needs longer for them.
const ROUNDS: Rounds = Rounds {
    at_least: 3,
    at_most: 5,
    budget: Duration::from_secs(1500),
};
const LIVES: usize = 10;
const MOVES: usize = 10;
/// Each of the two nodes' that are cut off at the same time: nodes take seconds to be missed and seconds to
/// come back.
const CUTS: usize = 5;
/// Runs with kube-proxy's `minSyncPeriod` at 10 ms.
const QUICK_RUNS: usize = 20;

const READY: &str = "--publish=ready, as ServiceLB does";
const NOTE: &str = "Three nodes, kube-proxy iptables with its default minSyncPeriod of 1 s, nodes \
    missed after 4 s; two are cut off at once. The controller's own share: from a watch seeing the cause to a watch seeing \
    what the controller wrote, the API server's part in writing it included. A bare client makes the \
    same writes for a Service of its own right after each run, one after another, without deciding or \
    telling anything, while as many pods start and end: its share is the API server's and the machine's.";
const QUICK_NOTE: &str = "kube-proxy's minSyncPeriod at 10 ms.";

/// Measures all figures of the part.
pub(crate) fn run(folders: &Folders, say: &dyn Fn(&str)) -> Result<Vec<Figure>> {
    say("building images, bringing the cluster up");
    let bed = Bed::new(folders, Duration::from_secs(1))?;
    let observer = RefCell::new(Observer::start(&bed.cluster)?);
    let mut block = 0;
    let mut names = move || {
        block += 1;
        format!("web-{block}")
    };
    let names = RefCell::new(&mut names);
    let side = |publish: &'static str| -> Side<'_, Durations> {
        let (bed, observer, names) = (&bed, &observer, &names);
        Box::new(move || {
            let name = names.borrow_mut()();
            say(&format!("--publish={publish}"));
            block_of(bed, &mut observer.borrow_mut(), publish, &name)
        })
    };
    let series = interleave(ROUNDS, &mut [side("bound"), side("ready")])?;
    let [ours, theirs] = [0, 1].map(|side: usize| by_name(&series[side].concat()));
    let mut figures = Vec::new();
    for measured in Measured::ALL {
        if let (Some(ours), Some(theirs)) = (ours.get(&measured), theirs.get(&measured)) {
            figures.extend(rows(measured.name(), ours, Some(theirs), NOTE));
        }
    }
    drop((series, observer, bed));

    say("the same with kube-proxy's minSyncPeriod at 10 ms: bringing the cluster up");
    let bed = Bed::new(folders, Duration::from_millis(10))?;
    let mut observer = Observer::start(&bed.cluster)?;
    let controller = Controller::start(&bed.cluster, folders, &["--publish=bound"])?;
    let mut durations = Vec::new();
    for run in 0..QUICK_RUNS {
        let name = format!("quick-{run}");
        durations.extend(scenes::created(&bed, &mut observer, &name)?);
        scenes::deleted(&bed, &mut observer, &name)?;
    }
    controller.stop()?;
    if let Some(ours) = by_name(&durations).get(&Measured::FirstByte) {
        let name = format!("{}, minSyncPeriod 10 ms", Measured::FirstByte.name());
        figures.extend(rows(&name, ours, None, QUICK_NOTE));
    }
    Ok(figures)
}

/// All scenes, several times, under a controller with this flag.
fn block_of(
    bed: &Bed<'_>,
    observer: &mut Observer,
    publish: &str,
    name: &str,
) -> Result<Durations> {
    let flag = format!("--publish={publish}");
    let controller = Controller::start(&bed.cluster, bed.folders, &[&flag])?;
    let mut durations = Vec::new();
    for run in 0..LIVES {
        durations.extend(scenes::life(bed, observer, &format!("{name}-{run}"))?);
    }
    scenes::begin_local(bed, observer)?;
    let mut at = 1;
    for _ in 0..MOVES {
        let to = at % bed.cluster.options().nodes + 1;
        durations.extend(scenes::moved(bed, observer, at, to)?);
        at = to;
    }
    scenes::end_local(bed, observer, at)?;
    bed.create(STEADY, &json!({}))?;
    scenes::addresses(observer, STEADY, bed.addresses()?.len())?;
    for _ in 0..CUTS {
        durations.extend(scenes::cut(bed, observer, 2..=3)?);
    }
    scenes::deleted(bed, observer, STEADY)?;
    controller.stop()?;
    Ok(durations)
}

fn by_name(durations: &Durations) -> HashMap<Measured, Samples> {
    let mut values: HashMap<Measured, Vec<f64>> = HashMap::new();
    for (measured, duration) in durations {
        values
            .entry(*measured)
            .or_default()
            .push(duration.as_secs_f64() * 1e3);
    }
    values
        .into_iter()
        .map(|(measured, values)| (measured, values.into()))
        .collect()
}

/// p50, p99 and the maximum.
fn rows(name: &str, ours: &Samples, theirs: Option<&Samples>, note: &str) -> Vec<Figure> {
    [("p50", None), ("p99", Some(0.99)), ("max", Some(1.0))]
        .into_iter()
        .map(|(words, fraction)| {
            let figure = Figure::new(
                "control",
                format!("{name}, {words}"),
                "ms",
                Better::Lower,
                ours,
            );
            let figure = match fraction {
                Some(fraction) => figure.quantile(ours, fraction),
                None => figure,
            };
            let figure = match theirs {
                Some(theirs) => figure.against(READY, theirs),
                None => figure,
            };
            figure.note(note)
        })
        .collect()
}
