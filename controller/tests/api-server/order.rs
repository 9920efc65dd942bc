//! Any order converges: random edits with the controller restarted at random, and then a fresh start that finds nothing
//! to do.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use svclb_controller::facts::NodeFacts;
use svclb_controller::names;
use svclb_controller::selector::Admission;

use crate::Test;
use crate::bed::{Bed, Controller, gone};
use crate::objects::{addresses, daemonset_name, has_finalizer, object, ready, tcp};

pub(crate) const TESTS: &[(&str, Test)] = &[("any_order_of_edits_converges", converges)];

/// Sequences of edits, each from an empty cluster.
const SEQUENCES: u64 = 24;
/// Edits in a sequence.
const EDITS: u32 = 16;
/// How long nothing must change until a state counts as the last one. Five times what the controller waits on purpose.
const STEADY: Duration = Duration::from_millis(500);

const SERVICES: [&str; 3] = ["a", "b", "c"];
const NODES: [(&str, &str); 3] = [
    ("n1", "192.0.2.1"),
    ("n2", "192.0.2.2"),
    ("n3", "192.0.2.3"),
];

fn converges(bed: &Bed) -> anyhow::Result<()> {
    for seed in 1..=SEQUENCES {
        bed.clear()?;
        sequence(bed, seed)?;
    }
    Ok(())
}

/// Knuth's MMIX generator: the same edits on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or_default() % sides
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())]
    }
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

/// What a user, a node or a pod may do. A Service or node that is not there is made first.
#[derive(Clone, Copy, Debug)]
enum Edit {
    Ports(&'static str, &'static [u16]),
    Type(&'static str, &'static str),
    Local(&'static str, bool),
    Families(&'static str, &'static str),
    Pool(&'static str, Option<&'static str>),
    Annotation(&'static str, &'static str, Option<&'static str>),
    Delete(&'static str),
    Remake(&'static str, Option<&'static str>),
    NodeLabel(usize, &'static str, Option<&'static str>),
    NodeReady(usize, &'static str),
    NodeAddress(usize, &'static str),
    NodeGone(usize),
    DaemonSetGone(&'static str),
    Endpoints(&'static str, usize, bool),
}

fn edit(dice: &mut Dice) -> Edit {
    let service = dice.pick(&SERVICES);
    let node = dice.roll(NODES.len());
    match dice.roll(18) {
        0..=3 => Edit::Ports(
            service,
            dice.pick(&[&[80], &[80, 443], &[443], &[8080, 80], &[8443]]),
        ),
        4 => Edit::Type(
            service,
            dice.pick(&["ClusterIP", "NodePort", "LoadBalancer"]),
        ),
        5 => Edit::Local(service, dice.roll(2) == 0),
        6 => Edit::Families(service, dice.pick(&["SingleStack", "PreferDualStack"])),
        7 => Edit::Pool(service, dice.pick(&[None, Some("blue"), Some("green")])),
        8 => Edit::Annotation(
            service,
            names::ADDRESSES,
            dice.pick(&[None, Some("internal"), Some("none of it")]),
        ),
        9 => Edit::Annotation(
            service,
            names::IP_MODE,
            dice.pick(&[None, Some("Proxy"), Some("VIP")]),
        ),
        10 => Edit::Delete(service),
        11 => Edit::Remake(
            service,
            dice.pick(&[
                None,
                Some(names::LOAD_BALANCER_CLASS),
                Some("example.org/lb"),
            ]),
        ),
        12 => Edit::NodeLabel(
            node,
            names::ENABLE_LB,
            dice.pick(&[None, Some("true"), Some("false")]),
        ),
        13 => Edit::NodeLabel(
            node,
            dice.pick(&[names::LB_POOL, names::EXCLUDE]),
            dice.pick(&[None, Some("blue"), Some("false")]),
        ),
        14 => Edit::NodeReady(node, dice.pick(&["True", "True", "Unknown", "False"])),
        15 => dice.pick(&[
            Edit::NodeGone(node),
            Edit::NodeAddress(node, "198.51.100.7"),
        ]),
        16 => Edit::DaemonSetGone(service),
        _ => Edit::Endpoints(service, node, dice.roll(2) == 0),
    }
}

async fn carry_out(bed: &Bed, edit: Edit) -> anyhow::Result<()> {
    match edit {
        Edit::Ports(name, ports) => patch(bed, name, json!({"spec": {"ports": tcp(ports)}})).await,
        Edit::Type(name, kind) => {
            let mut spec = json!({"type": kind, "externalTrafficPolicy": null});
            if kind == "LoadBalancer" {
                spec["externalTrafficPolicy"] = json!("Cluster");
            } else {
                spec["loadBalancerClass"] = Value::Null;
            }
            patch(bed, name, json!({"spec": spec})).await
        }
        Edit::Local(name, local) => {
            let policy = if local { "Local" } else { "Cluster" };
            patch(
                bed,
                name,
                json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": policy}}),
            )
            .await
        }
        Edit::Families(name, policy) => {
            let mut spec = json!({"ipFamilyPolicy": policy});
            if policy == "SingleStack" {
                spec["ipFamilies"] = json!(["IPv4"]);
                let there = ensure_service(bed, name, None).await?;
                let ips = there
                    .spec
                    .and_then(|spec| spec.cluster_ips)
                    .unwrap_or_default();
                spec["clusterIPs"] = json!(ips.iter().take(1).collect::<Vec<_>>());
            }
            patch(bed, name, json!({"spec": spec})).await
        }
        Edit::Pool(name, pool) => {
            patch(
                bed,
                name,
                json!({"metadata": {"labels": {(names::LB_POOL): pool}}}),
            )
            .await
        }
        Edit::Annotation(name, key, value) => {
            patch(
                bed,
                name,
                json!({"metadata": {"annotations": {(key): value}}}),
            )
            .await
        }
        Edit::Delete(name) => {
            ensure_service(bed, name, None).await?;
            bed.delete(name).await
        }
        Edit::Remake(name, class) => {
            ensure_service(bed, name, None).await?;
            bed.delete(name).await?;
            // Its finalizer may hold it for as long as no controller runs.
            if bed.services().get_opt(name).await?.is_none() {
                ensure_service(bed, name, class).await?;
            }
            Ok(())
        }
        Edit::NodeLabel(node, key, value) => {
            ensure_node(bed, node).await?;
            let labels = Patch::Merge(json!({"metadata": {"labels": {(key): value}}}));
            bed.nodes()
                .patch(NODES[node].0, &PatchParams::default(), &labels)
                .await?;
            Ok(())
        }
        Edit::NodeReady(node, status) => {
            ensure_node(bed, node).await?;
            bed.patch_node_status(
                NODES[node].0,
                json!({"status": {"conditions": [ready(status)]}}),
            )
            .await
        }
        Edit::NodeAddress(node, address) => {
            ensure_node(bed, node).await?;
            let status =
                json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}});
            let patch = Patch::Merge(status);
            bed.nodes()
                .patch_status(NODES[node].0, &PatchParams::default(), &patch)
                .await?;
            Ok(())
        }
        Edit::NodeGone(node) => {
            ensure_node(bed, node).await?;
            bed.nodes()
                .delete(NODES[node].0, &DeleteParams::default())
                .await?;
            Ok(())
        }
        Edit::DaemonSetGone(name) => {
            let Some(service) = bed.services().get_opt(name).await? else {
                return Ok(());
            };
            let name = daemonset_name(&service);
            if bed.daemonsets().get_opt(&name).await?.is_some() {
                gone(
                    bed.daemonsets()
                        .delete(&name, &DeleteParams::background())
                        .await,
                )?;
            }
            Ok(())
        }
        Edit::Endpoints(name, node, ready) => endpoints(bed, name, node, ready).await,
    }
}

async fn ensure_service(bed: &Bed, name: &str, class: Option<&str>) -> anyhow::Result<Service> {
    match bed.services().get_opt(name).await? {
        Some(service) => Ok(service),
        None => {
            let spec = json!({"loadBalancerClass": class, "ports": tcp(&[80])});
            bed.service_with(name, spec).await
        }
    }
}

async fn patch(bed: &Bed, name: &str, patch: Value) -> anyhow::Result<()> {
    ensure_service(bed, name, None).await?;
    match bed
        .services()
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        // Deleted meanwhile, or an edit that the API server does not allow as the Service is now: users see the same.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 422) => Ok(()),
        other => {
            other?;
            Ok(())
        }
    }
}

async fn ensure_node(bed: &Bed, node: usize) -> anyhow::Result<()> {
    let (name, address) = NODES[node];
    match bed.nodes().get_opt(name).await? {
        Some(_) => Ok(()),
        None => bed.node(name, address).await,
    }
}

async fn endpoints(bed: &Bed, service: &str, node: usize, ready: bool) -> anyhow::Result<()> {
    let slices = Api::<EndpointSlice>::namespaced(bed.client.clone(), "default");
    let name = format!("{service}-{}", NODES[node].0);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {(names::SLICE_SERVICE): service}},
        "addressType": "IPv4",
        "ports": [{"name": "port-80", "port": 80}],
        "endpoints": [{
            "addresses": ["10.244.0.9"],
            "nodeName": NODES[node].0,
            "conditions": {"ready": ready},
        }],
    });
    slices
        .patch(&name, &PatchParams::apply("test"), &Patch::Apply(slice))
        .await?;
    Ok(())
}

/// What the DaemonSet controller and the scheduler do: a pod on each node that a DaemonSet admits and whose ports are
/// free; no pod where it is not wanted or of an older template.
async fn place_pods(bed: &Bed) -> anyhow::Result<()> {
    let all = ListParams::default();
    let nodes = bed.nodes().list(&all).await?.items;
    let daemonsets = bed.daemonsets().list(&all).await?.items;
    let mut pods = Vec::new();
    for pod in bed.pods().list(&all).await?.items {
        if daemonsets
            .iter()
            .any(|daemonset| wants(daemonset, &pod, &nodes))
        {
            pods.push(pod);
        } else {
            let at_once = DeleteParams::default().grace_period(0);
            gone(bed.pods().delete(&pod.name_any(), &at_once).await)?;
        }
    }
    for daemonset in &daemonsets {
        let Some(spec) = template(daemonset) else {
            continue;
        };
        for node in nodes.iter().filter(|node| admits(spec, node)) {
            let on_node = |pod: &&Pod| {
                pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()) == Some(&node.name_any())
            };
            let mut there = pods.iter().filter(on_node);
            let taken = there.any(|pod| pod.spec.iter().any(|other| shares_a_port(spec, other)));
            if taken || daemonset.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let mut pod = crate::objects::pod_of(daemonset, &node.name_any())?;
            pod["spec"]["nodeName"] = json!(node.name_any());
            let pod = bed
                .pods()
                .create(&PostParams::default(), &object(pod)?)
                .await?;
            let running = Patch::Strategic(
                json!({"status": {"phase": "Running", "conditions": [ready("True")]}}),
            );
            let name = pod.name_any();
            pods.push(
                bed.pods()
                    .patch_status(&name, &PatchParams::default(), &running)
                    .await?,
            );
        }
    }
    Ok(())
}

fn template(daemonset: &DaemonSet) -> Option<&PodSpec> {
    daemonset.spec.as_ref()?.template.spec.as_ref()
}

fn admits(spec: &PodSpec, node: &Node) -> bool {
    let node = NodeFacts::from(node);
    let admission = Admission::from(spec);
    admission.admits(&node) && admission.repelled_by(&node).is_none()
}

fn host_ports(spec: &PodSpec) -> Vec<i32> {
    let ports = spec
        .containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| port.host_port).collect()
}

fn shares_a_port(one: &PodSpec, other: &PodSpec) -> bool {
    let ports = host_ports(other);
    host_ports(one).iter().any(|port| ports.contains(port))
}

/// Is the pod one of the DaemonSet's, of its template as it is, on a node that it admits?
fn wants(daemonset: &DaemonSet, pod: &Pod, nodes: &[Node]) -> bool {
    let (Some(template), Some(spec)) = (template(daemonset), &pod.spec) else {
        return false;
    };
    let node = nodes
        .iter()
        .find(|node| Some(node.name_any()) == spec.node_name);
    let same_env = || {
        let env = |spec: &PodSpec| {
            spec.containers
                .first()
                .and_then(|container| container.env.clone())
        };
        env(spec) == env(template) && host_ports(spec) == host_ports(template)
    };
    pod.labels().get(names::APP) == Some(&daemonset.name_any())
        && daemonset.metadata.deletion_timestamp.is_none()
        && node.is_some_and(|node| admits(template, node))
        && same_env()
}

/// What is compared: all that the controller has made.
#[derive(Debug, PartialEq)]
struct State {
    services: BTreeMap<String, ServiceState>,
    /// By name: the UID and the spec.
    daemonsets: BTreeMap<String, (Option<String>, Value)>,
}

#[derive(Debug, PartialEq)]
struct ServiceState {
    daemonset: String,
    load_balancer: bool,
    class: Option<String>,
    deleting: bool,
    finalizer: bool,
    addresses: Vec<String>,
    conditions: Vec<String>,
}

async fn state(bed: &Bed) -> anyhow::Result<State> {
    let all = ListParams::default();
    let mut state = State {
        services: BTreeMap::new(),
        daemonsets: BTreeMap::new(),
    };
    for service in bed.services().list(&all).await? {
        let conditions = service
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let conditions = conditions
            .map(|condition| format!("{}: {}", condition.type_, condition.reason))
            .collect();
        let spec = service.spec.clone().unwrap_or_default();
        state.services.insert(
            service.name_any(),
            ServiceState {
                daemonset: daemonset_name(&service),
                load_balancer: spec.type_.as_deref() == Some("LoadBalancer"),
                class: spec.load_balancer_class,
                deleting: service.metadata.deletion_timestamp.is_some(),
                finalizer: has_finalizer(&service),
                addresses: addresses(&service),
                conditions,
            },
        );
    }
    for daemonset in bed.daemonsets().list(&all).await? {
        let spec = serde_json::to_value(&daemonset.spec)?;
        state
            .daemonsets
            .insert(daemonset.name_any(), (daemonset.uid(), spec));
    }
    Ok(state)
}

impl State {
    /// No Service hangs, no DaemonSet is for nobody, and nothing is left on a Service that is not served.
    fn is_clean(&self) -> anyhow::Result<()> {
        for (name, service) in &self.services {
            let served = service.load_balancer
                && service
                    .class
                    .as_deref()
                    .is_none_or(|class| class == names::LOAD_BALANCER_CLASS);
            ensure!(!service.deleting, "Service {name} hangs: {service:?}");
            ensure!(
                served || service.load_balancer || !service.finalizer,
                "{name}: {service:?}"
            );
            ensure!(
                served || !self.daemonsets.contains_key(&service.daemonset),
                "{name}: {service:?}"
            );
        }
        for name in self.daemonsets.keys() {
            let known = self
                .services
                .values()
                .any(|service| service.daemonset == *name);
            ensure!(known, "DaemonSet {name} is for nobody");
        }
        Ok(())
    }
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
