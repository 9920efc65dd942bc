//! Many Services in any order: it converges, and nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use serde_json::{Value, json};
use svclb_e2e::wait;

use crate::apps::WEB;
use crate::random::Random;
use crate::space::{Space, node_of, published};
use crate::traffic;
use crate::world::{NAMESPACE, SERVICE_NAME, SERVICE_NAMESPACE, name_of};

/// Over the run.
const SERVICES: usize = 200;
/// At a time.
const MOST: usize = 40;
/// More than `MOST`, so that there are conflicts, but not only conflicts.
const PORTS: std::ops::Range<u16> = 8200..8260;
/// Much is to be started and ended on a machine that may be busy otherwise.
const PATIENCE: Duration = Duration::from_secs(180);
/// The pool of most of the Services, so that they have one pod each. Node 1 is in it.
const POOL: &str = "svccontroller.k3s.cattle.io/lbpool";

/// What is wanted of a Service.
#[derive(Clone, Debug)]
struct Wanted {
    pooled: bool,
    ports: BTreeSet<u16>,
}

impl Wanted {
    fn by_chance(random: &mut Random) -> Self {
        let count = 1 + random.below(2);
        Self {
            pooled: random.below(10) > 0,
            ports: (0..count)
                .map(|_| PORTS.start + random.below(PORTS.end - PORTS.start))
                .collect(),
        }
    }

    fn spec(&self, app: &str) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|port| json!({"name": format!("web-{port}"), "port": port, "targetPort": WEB}))
            .collect();
        json!({"selector": {"app": app}, "ports": ports})
    }

    fn labels(&self) -> Value {
        json!({POOL: self.pooled.then_some("churn")})
    }
}

/// Services take turns with two apps, so that an answer tells whose port it came by.
fn app_of(service: &str) -> &'static str {
    match service.bytes().last() {
        Some(b'0' | b'2' | b'4' | b'6' | b'8') => "even",
        _ => "odd",
    }
}

/// Two hundred Services are created, edited and deleted.
pub(crate) fn two_hundred_services(space: &Space<'_>) -> Result<()> {
    let mut random = Random::new();
    let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
    let mut created = 0;
    space.deploy("even", 1, None)?;
    space.app("odd", 1)?;
    space.wait_for_app("even")?;
    space.world.label_node("node-1", POOL, Some("churn"))?;
    while created < SERVICES {
        let victim = wanted
            .keys()
            .nth(usize::from(random.below(MOST as u16)))
            .cloned();
        match (random.below(10), victim) {
            (0..3, Some(name)) => {
                space.delete_service(&name)?;
                wanted.remove(&name);
            }
            (3..6, Some(name)) => {
                let edited = Wanted::by_chance(&mut random);
                let patch = json!({"metadata": {"labels": edited.labels()}, "spec": edited.spec(app_of(&name))});
                space.patch_service(&name, patch)?;
                wanted.insert(name, edited);
            }
            _ if wanted.len() < MOST => {
                let name = format!("web-{created}");
                let new = Wanted::by_chance(&mut random);
                let labels = if new.pooled { new.labels() } else { json!({}) };
                space.load_balancer_with(
                    &name,
                    json!({"labels": labels}),
                    new.spec(app_of(&name)),
                )?;
                wanted.insert(name, new);
                created += 1;
            }
            _ => {}
        }
        thread::sleep(Duration::from_millis(u64::from(random.below(20))));
    }
    wait::until(
        "all Services as wanted, or waiting for somebody's port",
        PATIENCE,
        || look(space, &wanted).map_err(|error| format!("{error:#}")),
    )?;
    for (name, wanted) in &wanted {
        if let (Some((address, _)), Some(port)) =
            (space.published(name)?.first(), wanted.ports.first())
        {
            expect_answer_of(space, app_of(name), *address, *port)?;
        }
    }
    for name in wanted.keys() {
        space.delete_service(name)?;
    }
    wait::until("nothing left", PATIENCE, || {
        let left = space
            .world
            .left_of(space.name())
            .map_err(|error| format!("{error:#}"))?;
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })?;
    space.world.label_node("node-1", POOL, None)
}

/// Waits until the app answers there: kube-proxy follows a moment later.
fn expect_answer_of(space: &Space<'_>, app: &str, address: IpAddr, port: u16) -> Result<()> {
    let expected = format!("an answer of app {app} from {address} port {port}");
    wait::until(&expected, PATIENCE, || {
        let answer = traffic::ask(&space.world.client(), address, port)?;
        if answer.pod.starts_with(app) {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    })?;
    Ok(())
}

/// Whether all has come to rest, and rightly so.
fn look(space: &Space<'_>, wanted: &BTreeMap<String, Wanted>) -> Result<()> {
    let world = space.world;
    let all = world.ipv4();
    let labels = format!("{SERVICE_NAMESPACE}={}", space.name());
    let services: BTreeMap<String, Service> = space
        .services()?
        .into_iter()
        .map(|service| (name_of(&service.metadata).to_owned(), service))
        .collect();
    let pods: Vec<Pod> = world.list(NAMESPACE, &labels)?;
    let daemonsets: Vec<DaemonSet> = world.list(NAMESPACE, &labels)?;

    // Nobody has a DaemonSet for nothing, or two.
    let mut with_daemonset = BTreeSet::new();
    for daemonset in &daemonsets {
        let labels = daemonset.metadata.labels.as_ref();
        let of = labels
            .and_then(|labels| labels.get(SERVICE_NAME))
            .context("a DaemonSet of no Service")?;
        anyhow::ensure!(
            wanted.contains_key(of),
            "DaemonSet {} of a Service that is gone",
            name_of(&daemonset.metadata)
        );
        anyhow::ensure!(
            with_daemonset.insert(of.clone()),
            "two DaemonSets of Service {of}"
        );
    }
    anyhow::ensure!(
        services.keys().eq(wanted.keys()),
        "Services {:?}",
        services.keys()
    );

    // Nobody holds another one's port.
    let mut held = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !node_of(pod).is_empty()) {
        anyhow::ensure!(
            pod.metadata.deletion_timestamp.is_none(),
            "pod {} is going",
            name_of(&pod.metadata)
        );
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        for port in containers.flat_map(|container| container.ports.iter().flatten()) {
            let other = held.insert((node_of(pod), port.host_port), name_of(&pod.metadata));
            anyhow::ensure!(
                other.is_none(),
                "{:?} and {} both hold port {:?}",
                other,
                name_of(&pod.metadata),
                port.host_port
            );
        }
    }

    // Who competes with nobody is served everywhere; who is not served says why.
    for (name, want) in wanted {
        let service = services.get(name).context("no such Service")?;
        let expected: &[IpAddr] = if want.pooled { &all[..1] } else { &all };
        let seen: Vec<IpAddr> = published(service)?
            .into_iter()
            .map(|(address, _)| address)
            .collect();
        let competes = wanted
            .iter()
            .any(|(other, theirs)| other != name && !theirs.ports.is_disjoint(&want.ports));
        let complete = seen == expected;
        let conditions = service
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_ref());
        let told = conditions.into_iter().flatten().any(|condition| {
            condition.type_ == "LoadBalancerPortsError" && condition.status == "True"
        });
        anyhow::ensure!(
            complete != told && (complete || competes),
            "Service {name} {want:?}: addresses {seen:?}, told of a conflict: {told}, competes: {competes}"
        );
        let ready = pods.iter().filter(|pod| {
            let of = pod
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(SERVICE_NAME));
            of == Some(name) && crate::space::is_ready(pod)
        });
        let ready = ready.count();
        anyhow::ensure!(
            ready == seen.len(),
            "Service {name}: {ready} Ready pods for {seen:?}"
        );
    }
    Ok(())
}
