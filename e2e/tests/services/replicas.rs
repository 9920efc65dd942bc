//! The controller's own faults: killed while it works, and replaced by a second replica.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use svclb_e2e::{Host, wait};

use crate::apps::WEB;
use crate::counters;
use crate::random::Random;
use crate::report::{measured, say};
use crate::space::{Space, host_ports, node_of};
use crate::traffic;
use crate::world::{CONTROLLER, NAMESPACE, PATIENCE, World, name_of};

const PORT: u16 = 8130;
/// Of the Services that are changed while the controller is killed.
const SERVICES: u16 = 8;
/// So many changes, and more if that was quick.
const CHANGES: usize = 50;
/// Within this a second replica works in the place of one that is gone without a word. The README says 20 s; the
/// rest is for a machine that is busy otherwise.
const TAKEOVER: Duration = Duration::from_secs(40);

/// The pod whose name is in the Lease.
fn pod_at_work(world: &World) -> Result<Pod> {
    let leases = world.api::<Lease>(NAMESPACE);
    let pods = world.api::<Pod>(NAMESPACE);
    let pod = wait::until("a running controller in the Lease", PATIENCE, || {
        let lease = world
            .block_on(leases.get(CONTROLLER))
            .map_err(|error| error.to_string())?;
        let holder = lease
            .spec
            .and_then(|spec| spec.holder_identity)
            .ok_or("nobody")?;
        let pod = world
            .block_on(pods.get(&holder))
            .map_err(|error| format!("{holder}: {error}"))?;
        if pod.metadata.deletion_timestamp.is_some() {
            return Err(format!("{holder} is going"));
        }
        Ok(pod)
    })?;
    Ok(pod)
}

/// The node of the pod whose name is in the Lease.
pub(crate) fn node_at_work(world: &World) -> Result<Host> {
    Ok(world.cluster().host(node_of(&pod_at_work(world)?))?)
}

/// Waits until so many replicas of the controller are Ready.
pub(crate) fn scale_controller(world: &World, replicas: u8) -> Result<()> {
    let deployment = format!("deployment/{CONTROLLER}");
    let replicas = format!("--replicas={replicas}");
    world.kubectl(&["scale", "-n", NAMESPACE, &deployment, &replicas])?;
    world.wait_for_controller()
}

/// Lets this replica go before others when there are to be fewer.
pub(crate) fn delete_first(world: &World, pod: &Pod) -> Result<()> {
    world.kubectl(&[
        "annotate",
        "pod",
        "-n",
        NAMESPACE,
        name_of(&pod.metadata),
        // The ReplicaSet deletes the one that costs least.
        "controller.kubernetes.io/pod-deletion-cost=-100",
    ])?;
    // Until that is known to everybody.
    thread::sleep(Duration::from_secs(1));
    Ok(())
}

/// How a controller ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Its process is killed; the kubelet starts it again.
    Crash,
    /// Its pod is gone at once, and may not have left the Lease; another one is made.
    GoneAtOnce,
    /// Its pod is asked to go; another one is made.
    Asked,
}

/// Services are changed, created and deleted while the controller is killed again and again, at moments that have
/// nothing to do with the changes. Afterwards all is as it was last wanted.
pub(crate) fn the_controller_is_killed(space: &Space<'_>) -> Result<()> {
    let world = space.world;
    let mut random = Random::new();
    space.app("web", 1)?;
    let mut wanted: Vec<Wanted> = (0..SERVICES).map(Wanted::first).collect();
    for wanted in &wanted {
        wanted.create(space)?;
    }
    let pauses: Vec<Duration> = (0..5)
        .map(|_| Duration::from_millis(u64::from(random.below(1500))))
        .collect();
    let ended = AtomicBool::new(false);
    let changes = thread::scope(|scope| {
        let killer = scope.spawn(|| {
            let outcome = kill_again_and_again(world, &pauses);
            ended.store(true, Ordering::Relaxed);
            outcome
        });
        let mut changes = 0;
        while changes < CHANGES || !ended.load(Ordering::Relaxed) {
            let number = usize::from(random.below(SERVICES));
            wanted[number].change(space, &mut random)?;
            changes += 1;
            thread::sleep(Duration::from_millis(u64::from(random.below(400))));
        }
        match killer.join() {
            Ok(outcome) => outcome.map(|()| changes),
            Err(_) => bail!("a thread panicked"),
        }
    })?;
    say(&format!("{changes} changes"));
    for wanted in &wanted {
        wanted.expect(space)?;
    }
    world.wait_for_controller()
}

/// Each time the one that works.
fn kill_again_and_again(world: &World, pauses: &[Duration]) -> Result<()> {
    let ends = [
        End::Crash,
        End::GoneAtOnce,
        End::Crash,
        End::Asked,
        End::Crash,
    ];
    for (end, pause) in ends.into_iter().zip(pauses) {
        let pod = pod_at_work(world)?;
        thread::sleep(*pause);
        let pods = world.api::<Pod>(NAMESPACE);
        let delete = |parameters: DeleteParams| {
            world
                .block_on(pods.delete(name_of(&pod.metadata), &parameters))
                .map(drop)
        };
        match end {
            End::Crash => signal(world, &pod, "-KILL")?,
            End::GoneAtOnce => delete(DeleteParams::default().grace_period(0))?,
            End::Asked => delete(DeleteParams::default())?,
        }
        expect_ended(world, &pod, end)?;
    }
    Ok(())
}

/// Sends a signal to the process of a controller's pod.
fn signal(world: &World, pod: &Pod, signal: &str) -> Result<()> {
    let node = world.cluster().host(node_of(pod))?;
    let pods = world.api::<Pod>(NAMESPACE);
    let expected = format!("signal {signal} sent to {}", name_of(&pod.metadata));
    wait::until(&expected, PATIENCE, || {
        // It may hold the Lease before the kubelet has told of its container.
        let pod = world
            .block_on(pods.get(name_of(&pod.metadata)))
            .map_err(|error| error.to_string())?;
        let pid = counters::pid(&node, &pod).map_err(|error| format!("{error:#}"))?;
        node.command("kill")
            .args([signal, &pid])
            .text()
            .map(drop)
            .map_err(|error| error.to_string())
    })?;
    Ok(())
}

/// Waits until the pod's container has been started again, or, if it was the pod, another one works.
fn expect_ended(world: &World, before: &Pod, end: End) -> Result<()> {
    let expected = format!("another controller at work after {end:?}");
    wait::until(&expected, PATIENCE, || {
        let now = pod_at_work(world).map_err(|error| format!("{error:#}"))?;
        let another = match end {
            End::Crash => {
                now.metadata.uid != before.metadata.uid || restarts(&now) > restarts(before)
            }
            End::GoneAtOnce | End::Asked => now.metadata.uid != before.metadata.uid,
        };
        if another {
            Ok(())
        } else {
            Err(format!("{} as before", name_of(&now.metadata)))
        }
    })?;
    Ok(())
}

/// How often the containers of a pod were started again.
pub(crate) fn restarts(pod: &Pod) -> i32 {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    containers
        .into_iter()
        .flatten()
        .map(|container| container.restart_count)
        .sum()
}

/// What is wanted of a Service.
struct Wanted {
    number: u16,
    exists: bool,
    load_balancer: bool,
    second_port: bool,
}

impl Wanted {
    fn first(number: u16) -> Self {
        Self {
            number,
            exists: true,
            load_balancer: true,
            second_port: false,
        }
    }

    fn name(&self) -> String {
        format!("web-{}", self.number)
    }

    fn ports(&self) -> Vec<u16> {
        let first = PORT + self.number;
        let second = self.second_port.then_some(first + SERVICES);
        [first].into_iter().chain(second).collect()
    }

    fn spec(&self) -> Value {
        let ports: Vec<Value> = self
            .ports()
            .into_iter()
            .map(|port| json!({"name": format!("web-{port}"), "port": port, "targetPort": WEB}))
            .collect();
        let kind = if self.load_balancer {
            "LoadBalancer"
        } else {
            "ClusterIP"
        };
        json!({"type": kind, "selector": {"app": "web"}, "ports": ports})
    }

    fn create(&self, space: &Space<'_>) -> Result<()> {
        space.load_balancer(&self.name(), self.spec()).map(drop)
    }

    /// Ports for the most part; now and then another type, or it is deleted. One that is gone comes back.
    fn change(&mut self, space: &Space<'_>, random: &mut Random) -> Result<()> {
        if !self.exists {
            // It goes when its finalizer does, for which a controller is needed.
            let names = space.services()?;
            let mut names = names.iter().map(|service| name_of(&service.metadata));
            if !names.any(|name| name == self.name()) {
                *self = Self::first(self.number);
                self.create(space)?;
            }
            return Ok(());
        }
        match random.below(8) {
            0 => {
                self.exists = false;
                return space.delete_service(&self.name());
            }
            1 => self.load_balancer = !self.load_balancer,
            _ => self.second_port = !self.second_port,
        }
        space.patch_service(&self.name(), json!({"spec": self.spec()}))?;
        Ok(())
    }

    /// Waits until it is so.
    fn expect(&self, space: &Space<'_>) -> Result<()> {
        let name = self.name();
        let ports: Vec<i32> = self.ports().into_iter().map(i32::from).collect();
        let served = self.exists && self.load_balancer;
        let expected = if served {
            format!("a DaemonSet of Service {name} with the ports {ports:?}")
        } else {
            format!("no DaemonSet of Service {name}")
        };
        wait::until(&expected, PATIENCE, || {
            let daemonset = space
                .daemonset(&name)
                .map_err(|error| format!("{error:#}"))?;
            let seen = daemonset.as_ref().map(host_ports);
            if seen == served.then(|| ports.clone()) {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        })?;
        if !served {
            return self.expect_no_address(space);
        }
        let world = space.world;
        space.expect_ready_pods(&name, &world.cluster().nodes())?;
        space.expect_addresses(&name, &world.ipv4())?;
        for port in self.ports() {
            traffic::ask_patiently(&world.client(), world.ipv4()[0], port)?;
        }
        Ok(())
    }

    fn expect_no_address(&self, space: &Space<'_>) -> Result<()> {
        let name = self.name();
        let expected = if self.exists {
            format!("Service {name} without address and finalizer")
        } else {
            format!("no Service {name}")
        };
        wait::until(&expected, PATIENCE, || {
            let services = space.services().map_err(|error| format!("{error:#}"))?;
            let service = services
                .iter()
                .find(|service| name_of(&service.metadata) == name);
            let addresses = service.map(crate::space::published).transpose();
            let addresses = addresses.map_err(|error| format!("{error:#}"))?;
            let finalizers = service.and_then(|service| service.metadata.finalizers.clone());
            if service.is_some() == self.exists
                && addresses.unwrap_or_default().is_empty()
                && finalizers.unwrap_or_default().is_empty()
            {
                Ok(())
            } else {
                Err(format!("{service:?}"))
            }
        })?;
        Ok(())
    }
}

/// The working one of two replicas goes: the other one works on. At once if the first one was asked to go; when
/// the Lease has ended if it was gone without a word.
pub(crate) fn a_second_replica_takes_over(space: &Space<'_>) -> Result<()> {
    let asked = take_over(space, "asked", false)?;
    measured(&format!(
        "the working replica deleted: the next Service is served by the other one after {asked:.1?}"
    ));
    let frozen = take_over(space, "frozen", true)?;
    measured(&format!(
        "the working replica frozen and gone: the next Service is served by the other one after {frozen:.1?}"
    ));
    ensure!(
        frozen <= TAKEOVER,
        "expected: the second replica at work within {TAKEOVER:?}; seen: after {frozen:?}"
    );
    Ok(())
}

/// How long it takes after the working replica goes until the other one has the Lease, and has served a new Service.
/// No third one is made that could be faster.
fn take_over(space: &Space<'_>, service: &str, frozen: bool) -> Result<Duration> {
    let world = space.world;
    scale_controller(world, 2)?;
    let first = pod_at_work(world)?;
    let standby = world
        .controller_pods()?
        .into_iter()
        .find(|pod| pod.metadata.uid != first.metadata.uid)
        .context("no second replica")?;
    delete_first(world, &first)?;
    let start = Instant::now();
    if frozen {
        signal(world, &first, "-STOP")?;
    }
    let deployment = format!("deployment/{CONTROLLER}");
    world.kubectl(&["scale", "-n", NAMESPACE, &deployment, "--replicas=1"])?;
    let expected = format!("{} in the Lease", name_of(&standby.metadata));
    wait::until(&expected, PATIENCE, || {
        let now = pod_at_work(world).map_err(|error| format!("{error:#}"))?;
        if now.metadata.uid == standby.metadata.uid {
            Ok(())
        } else {
            Err(name_of(&now.metadata).to_owned())
        }
    })?;
    space.load_balancer(
        service,
        json!({"ports": [{"port": PORT + 16 + u16::from(frozen), "targetPort": WEB}]}),
    )?;
    space.expect_addresses(service, &world.ipv4())?;
    let time = start.elapsed();
    world.wait_for_controller()?;
    Ok(time)
}
