//! The part `scale`: many Services, nodes and pods as objects of a real API server, and what they
//! cost the controller. There are no kubelets and no daemonset controller: the bench makes the svclb
//! pods, already bound.

mod cell;
mod objects;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::Client;
use svclb_e2e::{Options, Progress, Temporary};

use crate::controller::Controller;
use crate::folders::Folders;
use crate::report::{Better, Figure};
use crate::sample::Samples;
use cell::{KINDS, Outcome, Size};

/// The cluster's name.
pub(crate) const CLUSTER: &str = "bench-scale";
/// From small to large, since nodes are only added. Each size of 100 and more Services has another
/// one with a tenth of them.
const SERVICES: [usize; 3] = [10, 100, 1000];
const NODES: [usize; 3] = [3, 100, 1000];
/// The same with ten pods a Service, on the largest number of nodes.
const MANY_PODS: usize = 10;
/// How long the heartbeats go on.
const MINUTE: Duration = Duration::from_secs(60);

const TENTH: &str = "itself at a tenth, times pods and addresses";
const NOTE: &str = "Control plane alone, on the machine that also makes all the objects. Theirs is \
    the figure of a tenth of the Services, multiplied by how many more pods and addresses there are: \
    a ratio of 1 is linear growth.";
const WRITES: &str = "Of all kinds: the finalizer, the DaemonSet, the status, the events.";
const HEARTBEATS: &str = "Every node's status is patched once within a minute, as kubelets do though \
    nothing has changed.";

/// One measured size.
struct Cell {
    size: Size,
    outcome: Outcome,
}

/// Measures all figures of the part.
pub(crate) fn run(folders: &Folders, say: &dyn Fn(&str)) -> Result<Vec<Figure>> {
    folders.build("svclb-controller")?;
    say("bringing the control plane up");
    let options = Options {
        name: CLUSTER.to_owned(),
        nodes: 0,
        // Nobody keeps the nodes alive, and the svclb pods are the bench's.
        controllers:
            "*,-daemonset-controller,-node-lifecycle-controller,-taint-eviction-controller"
                .to_owned(),
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

    let mut cells: Vec<Cell> = Vec::new();
    let mut figures = Vec::new();
    let mut present = 0;
    for size in sizes() {
        say(&size.name());
        runtime.block_on(objects::each(present..size.nodes, |number| {
            objects::create_node(&client, number)
        }))?;
        present = present.max(size.nodes);
        let controller = Controller::start(&cluster, folders, &[])?;
        let outcome = runtime.block_on(cell::grow(&client, &controller, size))?;
        cells.push(Cell { size, outcome });
        let controller = match is_largest(size) {
            true => {
                say("heartbeats");
                figures.extend(runtime.block_on(heartbeats(&client, &controller, size))?);
                say("restart");
                controller.stop()?;
                let (controller, restarted) = runtime.block_on(restart(&cluster, folders, size))?;
                figures.extend(restarted);
                controller
            }
            false => controller,
        };
        runtime.block_on(cell::clear(&client, &controller, size))?;
        controller.stop()?;
    }
    Ok(cells
        .iter()
        .flat_map(|cell| rows(cell, &cells))
        .chain(figures)
        .collect())
}

/// All sizes, in the order in which they are measured.
fn sizes() -> Vec<Size> {
    let mut sizes: Vec<Size> = NODES
        .iter()
        .flat_map(|nodes| {
            SERVICES.map(|services| Size {
                services,
                nodes: *nodes,
                pods: 1,
            })
        })
        .collect();
    let [_, tenth, most] = SERVICES;
    sizes.extend([tenth, most].map(|services| Size {
        services,
        nodes: NODES[2],
        pods: MANY_PODS,
    }));
    sizes
}

fn is_largest(size: Size) -> bool {
    size.services == SERVICES[2] && size.pods == MANY_PODS
}

/// A cell's figures, against the cell with a tenth of the Services if there is one.
fn rows(cell: &Cell, cells: &[Cell]) -> Vec<Figure> {
    let Cell { size, outcome } = cell;
    let tenth = cells.iter().find(|other| {
        let of_tenth = other.size.services * 10 == size.services;
        of_tenth && other.size.nodes == size.nodes && other.size.pods == size.pods
    });
    let figure = |name: &str, unit, of: &dyn Fn(&Outcome) -> f64| {
        let name = format!("{name}, {}", size.name());
        let figure = single(name, unit, of(outcome)).note(NOTE);
        match tenth {
            Some(tenth) => {
                let grown = of(&tenth.outcome) * size.work() / tenth.size.work();
                figure.against(TENTH, &Samples::from(vec![grown]))
            }
            None => figure,
        }
    };
    let services = size.services as f64;
    let mut figures = vec![
        figure("all DaemonSets applied", "s", &|outcome| outcome.daemonsets),
        figure("all addresses in status", "s", &|outcome| outcome.converged),
        figure("controller's CPU time", "s", &|outcome| outcome.cpu),
        figure("resident memory", "MB", &|outcome| outcome.memory),
        figure("resident memory, peak", "MB", &|outcome| outcome.peak),
        figure("writes", "1", &|outcome| outcome.writes.iter().sum()),
    ];
    let kinds = KINDS
        .iter()
        .zip(outcome.writes)
        .filter(|_| size.services == SERVICES[2]);
    for (kind, writes) in kinds {
        let name = format!("writes a Service, {kind}, {}", size.name());
        figures.push(single(name, "1", writes / services).note(WRITES));
    }
    figures
}

/// What a minute of heartbeats causes.
async fn heartbeats(client: &Client, controller: &Controller, size: Size) -> Result<Vec<Figure>> {
    let (decisions, writes) = cell::activity(controller)?;
    let (cpu, begun) = (controller.cpu_seconds()?, Instant::now());
    for number in 0..size.nodes {
        // Evenly over the minute.
        let due = MINUTE.mul_f64(number as f64 / size.nodes as f64);
        tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
        objects::heartbeat(client, number).await?;
    }
    let cpu = controller.cpu_seconds()? - cpu;
    let (decisions_after, writes_after) = cell::activity(controller)?;
    let name = |what: &str| format!("a minute of heartbeats, {}: {what}", size.name());
    Ok([
        single(name("decisions"), "1", decisions_after - decisions),
        single(name("writes"), "1", writes_after - writes),
        single(name("CPU time"), "s", cpu),
    ]
    .map(|figure| figure.note(HEARTBEATS))
    .into())
}

/// What a start of the controller costs when everything is as it should be.
async fn restart(
    cluster: &Temporary,
    folders: &Folders,
    size: Size,
) -> Result<(Controller, Vec<Figure>)> {
    let controller = Controller::start(cluster, folders, &[])?;
    let ready = controller.ready_after.as_secs_f64();
    cell::quiet(&controller).await?;
    let (_, writes) = cell::activity(&controller)?;
    let name = |what: &str| format!("restart with everything in place, {}: {what}", size.name());
    let figures = vec![
        single(name("time to ready"), "s", ready),
        single(name("writes"), "1", writes),
        single(name("CPU time"), "s", controller.cpu_seconds()?),
    ];
    Ok((controller, figures))
}

/// A figure that was measured once.
fn single(name: String, unit: &'static str, value: f64) -> Figure {
    Figure::new(
        "scale",
        name,
        unit,
        Better::Lower,
        &Samples::from(vec![value]),
    )
}
