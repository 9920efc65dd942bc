//! How long it takes from the start of a pod's process, or processes, until the rules are in place, and
//! from the signal that ends it until it is gone.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::contender::{self, Contender, Contenders, Shape};
use super::{LEGACY, MANY, NFT};
use crate::klipper::Variant;
use crate::report::{Better, Figure};
use crate::sample::{Rounds, Samples, Side, interleave};

const UNIT: &str = "ms";
const ROUNDS: Rounds = Rounds {
    at_least: 3,
    at_most: 25,
    budget: Duration::from_secs(5),
};
const SUMMED: &str = "From before exec until the kernel has taken all rules. Theirs: one process a \
    port, started one after the other as a kubelet does, summed; what the container runtime takes \
    for each container is left out, and so is switching IPv4 forwarding on: it is on.";
const FALLBACK: &str = "Both without nf_tables: svclb-pod's fallback by setsockopt against \
    iptables-legacy. On a kernel that has both, svclb-pod takes nf_tables.";

const ALONE: &str = "From before exec until the kernel has taken all rules. IPv4 forwarding is on.";
const END: &str =
    "From before the signal until the process has gone, 0.1 s after its rules came into place.";
/// Long enough for a process to have come to rest.
const REST: Duration = Duration::from_millis(100);

/// First starts in a fresh namespace, then restarts in one that has the rules already.
pub(super) fn figures(contenders: &Contenders, say: &dyn Fn(&str)) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for ports in [1, 10, 100] {
        for ranges in [0, 3, 100] {
            let shape = Shape { ports, ranges };
            let name = format!("exec to rules in place, {}", describe(shape));
            say(&name);
            figures.extend(compare(
                &name,
                contenders,
                shape,
                first_start,
                [SUMMED, FALLBACK],
            )?);
        }
    }
    let shape = Shape {
        ports: MANY,
        ranges: 3,
    };
    let name = format!("exec to rules in place, {}", describe(shape));
    say(&name);
    figures.extend(ours_alone(&name, contenders, shape)?);
    for ports in [1, 100] {
        let shape = Shape { ports, ranges: 3 };
        let name = format!("restart with rules in place, {}", describe(shape));
        say(&name);
        figures.extend(compare(
            &name,
            contenders,
            shape,
            restart,
            [SUMMED, FALLBACK],
        )?);
    }
    let shape = Shape {
        ports: 1,
        ranges: 3,
    };
    let name = "SIGTERM to end";
    say(name);
    figures.extend(compare(name, contenders, shape, end, [END, END])?);
    Ok(figures)
}

fn describe(shape: Shape) -> String {
    let ports = if shape.ports == 1 { "port" } else { "ports" };
    format!("{} {ports}, {} ranges", shape.ports, shape.ranges)
}

/// The four contenders in turn: nf_tables against iptables-nft, and the two legacy ways.
fn compare(
    name: &str,
    contenders: &Contenders,
    shape: Shape,
    measure: fn(&Contenders, Contender, Shape) -> Result<Duration>,
    [note, legacy_note]: [&'static str; 2],
) -> Result<Vec<Figure>> {
    // Ours take milliseconds where theirs take up to a minute: several of ours go into a round.
    let side = |contender, times: usize| -> Side<'_, Vec<f64>> {
        Box::new(move || {
            let run = |_| Ok(measure(contenders, contender, shape)?.as_secs_f64() * 1e3);
            (0..times).map(run).collect()
        })
    };
    let mut sides = [
        side(Contender::Ours, 4),
        side(Contender::OursLegacy, 4),
        side(Contender::Klipper(Variant::Nft), 1),
        side(Contender::Klipper(Variant::Legacy), 1),
    ];
    let series = interleave(ROUNDS, &mut sides)?;
    let [ours, ours_legacy, nft, legacy] =
        [0, 1, 2, 3].map(|side: usize| Samples::from(series[side].concat()));
    Ok(vec![
        Figure::new("pod", name, UNIT, Better::Lower, &ours)
            .against(NFT, &nft)
            .note(note),
        Figure::new(
            "pod",
            format!("{name}, legacy"),
            UNIT,
            Better::Lower,
            &ours_legacy,
        )
        .against(LEGACY, &legacy)
        .note(legacy_note),
    ])
}

/// Both backends of svclb-pod.
fn ours_alone(name: &str, contenders: &Contenders, shape: Shape) -> Result<Vec<Figure>> {
    let side = |contender| -> Side<'_, f64> {
        let start = move || Ok(first_start(contenders, contender, shape)?.as_secs_f64() * 1e3);
        Box::new(start)
    };
    let mut sides = [side(Contender::Ours), side(Contender::OursLegacy)];
    let series = interleave(ROUNDS, &mut sides)?;
    let names = [name.to_owned(), format!("{name}, legacy")];
    let figure = |(name, series): (String, Vec<f64>)| {
        Figure::new("pod", name, UNIT, Better::Lower, &Samples::from(series)).note(ALONE)
    };
    Ok(names.into_iter().zip(series).map(figure).collect())
}

/// One start in a namespace that has no rules yet.
fn first_start(contenders: &Contenders, contender: Contender, shape: Shape) -> Result<Duration> {
    let namespace = contender::namespace()?;
    Ok(contenders.start(contender, shape, &namespace, None)?.took)
}

/// A start in a namespace that has the rules of an earlier one.
fn restart(contenders: &Contenders, contender: Contender, shape: Shape) -> Result<Duration> {
    let namespace = contender::namespace()?;
    drop(contenders.start(contender, shape, &namespace, None)?);
    Ok(contenders.start(contender, shape, &namespace, None)?.took)
}

/// The end of a pod that is at rest.
fn end(contenders: &Contenders, contender: Contender, shape: Shape) -> Result<Duration> {
    let namespace = contender::namespace()?;
    let pod = contenders.start(contender, shape, &namespace, None)?;
    thread::sleep(REST);
    pod.end()
}
