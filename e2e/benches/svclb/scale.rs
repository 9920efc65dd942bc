//! The part `scale`: many Services, nodes and pods as objects of a real API server, and what they
//! cost the controller. There are no kubelets and no daemonset controller: the bench makes the svclb
//! pods, already bound.

mod cell;
mod objects;
mod requests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::Client;
use svclb_e2e::{Options, Progress, Temporary};

use crate::controller::Controller;
use crate::folders::Folders;
use crate::report::{Better, Figure};
use crate::sample::Samples;
use cell::{Activity, KINDS, Outcome, Size};
use requests::{AuditLog, Requests};

/// The cluster's name.
pub(crate) const CLUSTER: &str = "bench-scale";
/// From small to large, since nodes are only added. Each size of 100 and more Services has another
/// one with a tenth of them.
const SERVICES: [usize; 3] = [10, 100, 1000];
const NODES: [usize; 3] = [3, 100, 1000];
/// The same with ten pods a Service, on the largest number of nodes.
const MANY_PODS: usize = 10;
/// How often everything with a pod a Service is measured, a tenth and the whole in turns.
const ROUNDS: usize = 3;
/// How long the heartbeats go on.
const MINUTE: Duration = Duration::from_secs(60);

const TENTH: &str = "itself at a tenth, times pods and addresses";
const SAME: &str = "itself at a tenth";
const NOTE: &str = "Control plane alone, on the machine that also makes all the objects. Theirs is \
    the figure of a tenth of the Services, multiplied by how many more pods and addresses there are: \
    a ratio of 1 is linear growth. A tenth and the whole in turns, three rounds; with ten pods a \
    Service one.";
const WRITES: &str = "What the API server took: the DaemonSet; the finalizer and the status, which \
    are both writes of the Service's status; the events. The Lease is not among them.";
const REQUESTS: &str = "From the API server's audit log: all of the controller's, from its start until \
    all is quiet, so with its first lists, its watches, and the Lease.";
const HEARTBEATS: &str = "Every node's status is patched once within a minute, as kubelets do though \
    nothing has changed. It grows with the nodes: theirs is the figure of a tenth of the Services.";
const RESTART: &str =
    "Writes are those of DaemonSets, Services and events, without the Lease's renewal.";

/// One measured size.
struct Cell {
    size: Size,
    outcomes: Vec<Outcome>,
    /// All of the controller's since its start, of each outcome.
    requests: Vec<Requests>,
    /// Of the sizes with many pods.
    afterwards: Option<Afterwards>,
}

/// What happens once all is in place.
struct Afterwards {
    heartbeats: Activity,
    restart: Activity,
    /// From its start until it is ready again, in seconds.
    ready: f64,
}

/// Measures all figures of the part.
pub(crate) fn run(folders: &Folders, say: &dyn Fn(&str)) -> Result<Vec<Figure>> {
    folders.build("svclb-controller")?;
    let audit_log = AuditLog::new(&folders.work)?;
    say("bringing the control plane up");
    let options = Options {
        name: CLUSTER.to_owned(),
        nodes: 0,
        // Nobody keeps the nodes alive, and the svclb pods are the bench's.
        controllers:
            "*,-daemonset-controller,-node-lifecycle-controller,-taint-eviction-controller"
                .to_owned(),
        kube_apiserver_flags: audit_log.flags(),
        ..Options::default()
    };
    let cluster =
        Temporary::up(&options, &Progress::silent()).context("bringing the control plane up")?;
    Controller::install(&cluster, folders)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("making a runtime")?;
    let client = runtime.block_on(async { cluster.kube() })?;

    let bed = ScaleBed {
        cluster: &cluster,
        folders,
        client: &client,
        audit_log,
    };
    let mut cells: Vec<Cell> = Vec::new();
    let mut present = 0;
    for group in groups() {
        let nodes = group.nodes;
        say(&format!("{nodes} nodes"));
        runtime.block_on(objects::each(present..nodes, |number| {
            objects::create_node(&client, number)
        }))?;
        present = present.max(nodes);
        let mut measured: Vec<Cell> = group.sizes().map(Cell::of).collect();
        for round in 1..=group.rounds {
            for cell in &mut measured {
                say(&format!("{}, round {round}", cell.size.name()));
                runtime.block_on(bed.measure(cell, say))?;
            }
        }
        cells.extend(measured);
    }
    Ok(cells.iter().flat_map(|cell| rows(cell, &cells)).collect())
}

/// Where it is measured.
struct ScaleBed<'a> {
    cluster: &'a Temporary,
    folders: &'a Folders,
    client: &'a Client,
    audit_log: AuditLog,
}

impl ScaleBed<'_> {
    /// One more measurement of a size, from nothing to nothing.
    async fn measure(&self, cell: &mut Cell, say: &dyn Fn(&str)) -> Result<()> {
        let size = cell.size;
        let before = self.audit_log.end();
        let mut controller = Controller::start(self.cluster, self.folders, &[])?;
        cell.outcomes
            .push(cell::grow(self.client, &controller, size).await?);
        cell.requests.push(self.audit_log.since(before)?);
        if size.pods == MANY_PODS {
            say("heartbeats");
            let heartbeats = heartbeats(self.client, &controller, size).await?;
            say("restart");
            controller.stop()?;
            controller = Controller::start(self.cluster, self.folders, &[])?;
            cell::quiet(&controller).await?;
            cell.afterwards = Some(Afterwards {
                heartbeats,
                restart: Activity::of(&controller)?,
                ready: controller.ready_after.as_secs_f64(),
            });
        }
        cell::clear(self.client, &controller, size).await?;
        controller.stop()
    }
}

/// Sizes that are measured in turns, of as many nodes and pods a Service.
struct Group {
    nodes: usize,
    pods: usize,
    services: &'static [usize],
    rounds: usize,
}

impl Group {
    fn sizes(&self) -> impl Iterator<Item = Size> {
        self.services.iter().map(|services| Size {
            services: *services,
            nodes: self.nodes,
            pods: self.pods,
        })
    }
}

/// All groups, in the order in which they are measured.
fn groups() -> Vec<Group> {
    let with_one_pod = NODES.map(|nodes| Group {
        nodes,
        pods: 1,
        services: &SERVICES,
        rounds: ROUNDS,
    });
    let with_many = Group {
        nodes: NODES[2],
        pods: MANY_PODS,
        services: &SERVICES[1..],
        rounds: 1,
    };
    with_one_pod.into_iter().chain([with_many]).collect()
}

impl Cell {
    /// Not yet measured.
    fn of(size: Size) -> Self {
        Self {
            size,
            outcomes: Vec::new(),
            requests: Vec::new(),
            afterwards: None,
        }
    }
}

/// A cell's figures, against the cell with a tenth of the Services if there is one.
fn rows(cell: &Cell, cells: &[Cell]) -> Vec<Figure> {
    let size = cell.size;
    let tenth = cells.iter().find(|other| {
        let of_tenth = other.size.services * 10 == size.services;
        of_tenth && other.size.nodes == size.nodes && other.size.pods == size.pods
    });
    let figure = |name: &str, unit, of: &dyn Fn(&Outcome) -> f64| {
        let name = format!("{name}, {}", size.name());
        let figure = scale(name, unit, &Samples::of(&cell.outcomes, of)).note(NOTE);
        match tenth {
            Some(tenth) => {
                let grown = size.work() / tenth.size.work();
                let theirs = Samples::of(&tenth.outcomes, |outcome| of(outcome) * grown);
                figure.against(TENTH, &theirs)
            }
            None => figure,
        }
    };
    let mut figures = vec![
        figure("all DaemonSets applied", "s", &|outcome| outcome.daemonsets),
        figure("all addresses in status", "s", &|outcome| outcome.converged),
        figure("controller's CPU time", "s", &|outcome| outcome.cpu),
        figure("resident memory", "MB", &|outcome| outcome.memory),
        figure("resident memory, peak", "MB", &|outcome| outcome.peak),
        figure("writes", "1", &|outcome| outcome.writes.iter().sum()).note(WRITES),
    ];
    if size.services == SERVICES[2] {
        for (kind, name) in KINDS.iter().enumerate() {
            let name = format!("writes a Service, {name}, {}", size.name());
            let each = |outcome: &Outcome| outcome.writes[kind] / size.services as f64;
            figures.push(scale(name, "1", &Samples::of(&cell.outcomes, each)).note(WRITES));
        }
        let kinds: BTreeSet<&String> = cell.requests.iter().flat_map(BTreeMap::keys).collect();
        for kind in kinds {
            let name = format!("requests, {kind}, {}", size.name());
            let of_kind = |requests: &Requests| requests.get(kind).copied().unwrap_or_default();
            figures.push(scale(name, "1", &Samples::of(&cell.requests, of_kind)).note(REQUESTS));
        }
    }
    if let Some(afterwards) = &cell.afterwards {
        figures.extend(afterwards.rows(size, tenth));
    }
    figures
}

impl Afterwards {
    fn rows(&self, size: Size, tenth: Option<&Cell>) -> Vec<Figure> {
        let tenth = tenth.and_then(|cell| Some((cell.size, cell.afterwards.as_ref()?)));
        let figure = |what: &str, name: &str, unit, of: &dyn Fn(&Self) -> f64, grows: bool| {
            let name = format!("{what}, {}: {name}", size.name());
            let figure = scale(name, unit, &once(of(self)));
            match tenth {
                Some((_, theirs)) if !grows => figure.against(SAME, &once(of(theirs))),
                Some((other, theirs)) => {
                    let grown = of(theirs) * size.work() / other.work();
                    figure.against(TENTH, &once(grown))
                }
                None => figure,
            }
        };
        let heartbeats = |name, unit, of: &dyn Fn(&Self) -> f64| {
            figure("a minute of heartbeats", name, unit, of, false).note(HEARTBEATS)
        };
        let restart = |name, unit, of: &dyn Fn(&Self) -> f64| {
            figure("restart with everything in place", name, unit, of, true).note(RESTART)
        };
        vec![
            heartbeats("decisions", "1", &|all| all.heartbeats.decisions),
            heartbeats("writes", "1", &|all| all.heartbeats.writes),
            heartbeats("CPU time", "s", &|all| all.heartbeats.cpu),
            restart("time to ready", "s", &|all| all.ready),
            restart("writes", "1", &|all| all.restart.writes),
            restart("CPU time", "s", &|all| all.restart.cpu),
        ]
    }
}

/// What a minute of heartbeats causes.
async fn heartbeats(client: &Client, controller: &Controller, size: Size) -> Result<Activity> {
    let before = Activity::of(controller)?;
    let begun = Instant::now();
    for number in 0..size.nodes {
        // Evenly over the minute.
        let due = MINUTE.mul_f64(number as f64 / size.nodes as f64);
        tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
        objects::heartbeat(client, number).await?;
    }
    Ok(Activity::of(controller)?.since(before))
}

/// What was measured once.
fn once(value: f64) -> Samples {
    Samples::from(vec![value])
}

/// A figure of this part.
fn scale(name: String, unit: &'static str, samples: &Samples) -> Figure {
    Figure::new("scale", name, unit, Better::Lower, samples)
}
