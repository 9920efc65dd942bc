//! Edits at random, the same ones on every machine.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use svclb_controller::names;

use crate::bed::{Bed, gone};
use crate::objects::{daemonset_name, ready, tcp};

const SERVICES: [&str; 3] = ["a", "b", "c"];
const NODES: [(&str, &str); 3] = [
    ("n1", "192.0.2.1"),
    ("n2", "192.0.2.2"),
    ("n3", "192.0.2.3"),
];

/// Knuth's MMIX generator: the same edits on every machine.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: usize) -> usize {
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

/// What a user, a node or a pod may do. A Service or node that is not there is made first.
#[derive(Clone, Copy, Debug)]
pub(super) enum Edit {
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

pub(super) fn edit(dice: &mut Dice) -> Edit {
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

pub(super) async fn carry_out(bed: &Bed, edit: Edit) -> anyhow::Result<()> {
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
        Edit::Delete(name) => delete(bed, name).await,
        Edit::Remake(name, class) => {
            delete(bed, name).await?;
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

/// One that is ending already may be gone before it is deleted once more.
async fn delete(bed: &Bed, name: &str) -> anyhow::Result<()> {
    ensure_service(bed, name, None).await?;
    let now = DeleteParams::default();
    gone(bed.services().delete(name, &now).await)
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
