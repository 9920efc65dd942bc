//! The part `datapath`: traffic into a real three-node cluster, through the svclb pod and by the ways
//! that people use today.

mod bed;
mod tools;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use svclb_e2e::Host;

use crate::cluster::script;
use crate::folders::Folders;
use crate::klipper::Variant;
use crate::load::{self, Connections};
use crate::report::{Better, Figure};
use crate::sample::{Rounds, Samples, Side, interleave};
use bed::{Bed, Lane, Ports, WAYS, Way};

const CONNECTING: Rounds = Rounds {
    at_least: 5,
    at_most: 15,
    budget: Duration::from_secs(40),
};
const SENDING: Rounds = Rounds {
    at_least: 3,
    at_most: 5,
    budget: Duration::from_secs(75),
};
/// The cluster's name.
pub(crate) const CLUSTER: &str = "bench-datapath";
/// How long one run of connections lasts, and how many clients open them.
const RUN: Duration = Duration::from_millis(400);
const CLIENTS: u16 = 4;

const CONNECTIONS: &str = "Our own load generator: 4 clients in closed loops, a source port of its \
    own for every connection.";
const KEPT: &str = "wrk, 8 connections to the echo server in the backend pod.";
const BULK: &str = "iperf3, one stream; UDP is what arrives when the sender sends what it can.";
const PATH: &str = "The ways through a pod arrive at an address of the node that is in no status; that \
    the packets of each run went through that pod and no other was checked by its interface's counter.";

/// Packets for each bit: between namespaces they are not cut up, and the largest has 64 KiB.
const LARGEST: f64 = 1.0 / (8.0 * 65_536.0);

/// A packaged load generator.
struct Tool {
    name: &'static str,
    unit: &'static str,
    /// What the unit is in terms of what `measure` returns.
    scale: f64,
    note: &'static str,
    port: fn(Ports) -> u16,
    /// The least number of packets that what is measured takes, for each unit of what `measure` returns.
    packets: f64,
    measure: fn(&Host, SocketAddr) -> Result<f64>,
}

const TOOLS: [Tool; 3] = [
    Tool {
        name: "requests on kept connections",
        unit: "1/s",
        scale: 1.0,
        note: KEPT,
        port: |ports| ports.http,
        packets: 1.0,
        measure: tools::requests,
    },
    Tool {
        name: "TCP throughput",
        unit: "Gbit/s",
        scale: 1e9,
        note: BULK,
        port: |ports| ports.bulk,
        packets: LARGEST,
        measure: tools::tcp,
    },
    Tool {
        name: "UDP throughput",
        unit: "Gbit/s",
        scale: 1e9,
        note: BULK,
        port: |ports| ports.bulk,
        packets: LARGEST,
        measure: tools::udp,
    },
];

/// What is set against ours: the way, the suffix of the figure's name, what it is called.
const THEIRS: [(Way, &str, &str); 4] = [
    (
        Way::Klipper(Variant::Nft),
        "",
        "klipper-lb's rules, iptables-nft",
    ),
    (
        Way::Klipper(Variant::Legacy),
        ", legacy",
        "klipper-lb's rules, iptables-legacy",
    ),
    (
        Way::StatusAddress,
        ", status address",
        "kube-proxy's status address",
    ),
    (Way::NodePort, ", node port", "kube-proxy's node port"),
];

/// Measures all figures of the part.
pub(crate) fn run(folders: &Folders, say: &dyn Fn(&str)) -> Result<Vec<Figure>> {
    say("wrk and iperf3");
    script(folders, "e2e/packages.sh", &["wrk", "iperf3"])?;
    let bed = Bed::new(folders, say)?;
    let mut figures = cell(&bed, "1 Service", say)?;
    say("adding Services");
    bed.add_services(folders)?;
    figures.extend(cell(&bed, "100 Services", say)?);
    Ok(figures)
}

/// Everything that is measured with one number of Services.
fn cell(bed: &Bed, services: &str, say: &dyn Fn(&str)) -> Result<Vec<Figure>> {
    say(&format!("{services}: connections"));
    let runs = by_all_ways(bed, CONNECTING, |lane| connections(bed, lane))?;
    let failed: usize = runs.iter().flatten().map(|run| run.failed).sum();
    let note = match failed {
        0 => format!("{CONNECTIONS} {PATH}"),
        some => format!("{CONNECTIONS} {PATH} {some} connections failed, of all ways."),
    };
    let mut figures = Vec::new();
    figures.extend(figure(
        "new connections",
        services,
        "1/s",
        Better::Higher,
        &note,
        |way| Samples::of(&runs[way], |run| run.rate),
    ));
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        let name = format!("connect-request-response {name}");
        figures.extend(figure(&name, services, "µs", Better::Lower, &note, |way| {
            Samples::of(&runs[way], |run| run.latency.quantile(quantile))
        }));
    }

    for tool in TOOLS {
        say(&format!("{services}: {}", tool.name));
        let runs = by_all_ways(bed, SENDING, |lane| {
            let port = (tool.port)(lane.ports);
            let work = || (tool.measure)(&bed.client, lane.to(port));
            // Each run lasts a second, so that a rate is a number.
            bed.checked(lane.way, work, |rate| (rate * tool.packets) as u64)
        })?;
        figures.extend(figure(
            tool.name,
            services,
            tool.unit,
            Better::Higher,
            &format!("{} {PATH}", tool.note),
            |way| Samples::of(&runs[way], |value| value / tool.scale),
        ));
    }
    Ok(figures)
}

/// Connections by one way, of which is known that they went that way.
fn connections(bed: &Bed, lane: &Lane) -> Result<Connections> {
    let target = [lane.to(lane.ports.connections)];
    let work = || {
        bed.client
            .within(|| load::connections(&target, CLIENTS, RUN))?
    };
    // SYN, acknowledgement, request, end: a connection is no less from the client.
    bed.checked(lane.way, work, |run| 4 * run.latency.len() as u64)
}

/// Runs that take turns, in the order of [`WAYS`].
fn by_all_ways<T>(
    bed: &Bed,
    rounds: Rounds,
    measure: impl Fn(&Lane) -> Result<T>,
) -> Result<Vec<Vec<T>>> {
    let measure = &measure;
    let mut sides: Vec<Side<'_, T>> = bed
        .lanes
        .iter()
        .map(|lane| -> Side<'_, T> { Box::new(move || measure(lane)) })
        .collect();
    interleave(rounds, &mut sides)
}

/// One quantity of ours against that of each other way.
fn figure(
    name: &str,
    services: &str,
    unit: &'static str,
    better: Better,
    note: &str,
    samples: impl Fn(usize) -> Samples,
) -> Vec<Figure> {
    let of = |way: Way| samples(WAYS.iter().position(|known| *known == way).unwrap_or(0));
    let ours = of(Way::Ours);
    THEIRS
        .iter()
        .map(|(way, suffix, who)| {
            Figure::new(
                "datapath",
                format!("{name}, {services}{suffix}"),
                unit,
                better,
                &ours,
            )
            .against(who, &of(*way))
            .note(note)
        })
        .collect()
}
