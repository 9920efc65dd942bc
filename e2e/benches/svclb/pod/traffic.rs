//! New connections and bytes through a pod's rules: a client, the pods of all contenders side by
//! side, and one backend behind them that plays the Service.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;

use super::contender::{Contender, Contenders, FIRST_PORT, Pod, SERVICE, Shape};
use super::{LEGACY, NFT};
use crate::klipper::Variant;
use crate::load::{self, Connections, Server};
use crate::namespaces::Namespace;
use crate::report::{Better, Figure};
use crate::sample::{Rounds, Samples, Side, interleave};

/// Many short runs: what disturbs a shared machine comes in bursts.
const ROUNDS: Rounds = Rounds {
    at_least: 5,
    at_most: 15,
    budget: Duration::from_secs(45),
};
const CLIENTS: u16 = 4;
/// That accept on each of the server's ports: enough that no client waits for one.
const THREADS: usize = 2 * CLIENTS as usize;
const CONNECTING: Duration = Duration::from_millis(300);
const SENDING: Duration = Duration::from_millis(200);
const OURSELVES: &str = "the same with 1 port";
const NOTE: &str = "Client, pod and backend are network namespaces of one machine, 4 clients in \
    closed loops, 3 source ranges. Of 100 ports, the clients use the one in the middle.";

/// The pods, each between the client and the backend.
const LANES: [(Contender, u16); 8] = [
    (Contender::Ours, 1),
    (Contender::OursLegacy, 1),
    (Contender::Klipper(Variant::Nft), 1),
    (Contender::Klipper(Variant::Legacy), 1),
    (Contender::Ours, 100),
    (Contender::OursLegacy, 100),
    (Contender::Klipper(Variant::Nft), 100),
    (Contender::Klipper(Variant::Legacy), 100),
];

/// What one run through one pod measured.
struct Run {
    connections: Connections,
    gigabits: f64,
}

/// One column of what a run measured.
struct Quantity {
    name: &'static str,
    unit: &'static str,
    better: Better,
    of: fn(&Run) -> f64,
}

const QUANTITIES: [Quantity; 4] = [
    Quantity {
        name: "new connections",
        unit: "1/s",
        better: Better::Higher,
        of: |run| run.connections.rate,
    },
    Quantity {
        name: "connect-request-response p50",
        unit: "µs",
        better: Better::Lower,
        of: |run| run.connections.latency.quantile(0.5),
    },
    Quantity {
        name: "connect-request-response p99",
        unit: "µs",
        better: Better::Lower,
        of: |run| run.connections.latency.quantile(0.99),
    },
    Quantity {
        name: "TCP throughput",
        unit: "Gbit/s",
        better: Better::Higher,
        of: |run| run.gigabits,
    },
];

/// All quantities with 1 and with 100 ports, against klipper-lb's rules, and of 100 against 1.
pub(super) fn figures(contenders: &Contenders, say: &dyn Fn(&str)) -> Result<Vec<Figure>> {
    say("traffic: laying the rules");
    let bed = Bed::new(contenders)?;
    say("traffic");
    let mut sides: Vec<Side<'_, Run>> = bed
        .lanes
        .iter()
        .map(|lane| -> Side<'_, Run> { Box::new(|| bed.run(lane)) })
        .collect();
    let series = interleave(ROUNDS, &mut sides)?;

    let failed: usize = series
        .iter()
        .flatten()
        .map(|run| run.connections.failed)
        .sum();
    let note = match failed {
        0 => NOTE.to_owned(),
        some => format!("{NOTE} {some} connections failed, of all sides."),
    };
    let mut figures = Vec::new();
    for quantity in QUANTITIES {
        let samples = |contender, ports| {
            let lane = LANES.iter().position(|lane| *lane == (contender, ports));
            Samples::of(
                lane.map_or(&[], |lane| series[lane].as_slice()),
                quantity.of,
            )
        };
        let mut compare = |suffix: &str, ours: (Contender, u16), who, theirs: (Contender, u16)| {
            let name = format!("{}, {suffix}", quantity.name);
            let figure = Figure::new(
                "pod",
                name,
                quantity.unit,
                quantity.better,
                &samples(ours.0, ours.1),
            );
            figures.push(
                figure
                    .against(who, &samples(theirs.0, theirs.1))
                    .note(note.clone()),
            );
        };
        for (ports, words) in [(1, "1 port"), (100, "100 ports")] {
            compare(
                words,
                (Contender::Ours, ports),
                NFT,
                (Contender::Klipper(Variant::Nft), ports),
            );
            let legacy = format!("{words}, legacy");
            compare(
                &legacy,
                (Contender::OursLegacy, ports),
                LEGACY,
                (Contender::Klipper(Variant::Legacy), ports),
            );
        }
        compare(
            "100 ports against 1",
            (Contender::Ours, 100),
            OURSELVES,
            (Contender::Ours, 1),
        );
    }
    Ok(figures)
}

/// The namespaces, with everything in place.
struct Bed {
    client: Namespace,
    /// Held for what is in it: the Service's address and its server.
    _backend: Namespace,
    server: Server,
    lanes: Vec<Lane>,
}

/// One pod between client and backend.
struct Lane {
    target: SocketAddr,
    _namespace: Namespace,
    _pod: Pod,
}

impl Bed {
    fn new(contenders: &Contenders) -> Result<Self> {
        let (client, backend) = (Namespace::new()?, Namespace::new()?);
        // Source ports come round again, within the minute that a closed connection is remembered.
        client.sysctl(&[("net.ipv4.tcp_tw_reuse", "1")])?;
        backend.ip(&format!("addr add {SERVICE}/32 dev lo\n"))?;
        let ports: BTreeSet<u16> = LANES
            .iter()
            .map(|(_, ports)| middle(shape(*ports)))
            .collect();
        let server = backend.within(|| Server::start(ports.into_iter(), THREADS))?;
        let lanes = LANES
            .iter()
            .zip(1..)
            .map(|((contender, ports), index)| {
                lane(
                    contenders,
                    *contender,
                    shape(*ports),
                    index,
                    &client,
                    &backend,
                )
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            client,
            _backend: backend,
            server,
            lanes,
        })
    }

    fn run(&self, lane: &Lane) -> Result<Run> {
        self.client.within(|| {
            let connections = load::connections(&[lane.target], CLIENTS, CONNECTING)?;
            let bits = load::bulk(lane.target, SENDING, &self.server)?;
            Ok(Run {
                connections,
                gigabits: bits / 1e9,
            })
        })
    }
}

fn shape(ports: u16) -> Shape {
    Shape { ports, ranges: 3 }
}

/// The port that the clients use. Iptables goes through its rules in turn: half come before it.
fn middle(shape: Shape) -> u16 {
    FIRST_PORT + shape.ports / 2
}

/// Makes the pod number `index`, joins it to both sides and starts its processes.
fn lane(
    contenders: &Contenders,
    contender: Contender,
    shape: Shape,
    index: u8,
    client: &Namespace,
    backend: &Namespace,
) -> Result<Lane> {
    let pod = Namespace::new()?;
    let address = Ipv4Addr::new(10, 9, index, 2);
    let device = format!("pod{index}");
    let end = |network: u8, host: u8| format!("10.{network}.{index}.{host}/24");
    client.join((&device, &end(9, 1)), &pod, ("eth0", &end(9, 2)))?;
    backend.join((&device, &end(8, 1)), &pod, ("eth1", &end(8, 2)))?;
    pod.ip(&format!("route add {SERVICE}/32 via 10.8.{index}.1\n"))?;
    pod.sysctl(&[
        ("net.ipv4.ip_forward", "1"),
        // The masquerade has 64,000 source ports to the Service, and the runs use them up many times.
        ("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "1"),
        ("net.netfilter.nf_conntrack_tcp_timeout_close", "1"),
    ])?;
    let running = contenders.start(contender, shape, &pod, None)?;
    let target = SocketAddr::from((address, middle(shape)));
    Ok(Lane {
        target,
        _namespace: pod,
        _pod: running,
    })
}
