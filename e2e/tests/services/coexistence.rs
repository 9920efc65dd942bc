//! Others at work: classes of other load balancers, and k3s' own ServiceLB, before and after.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Service;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use svclb_e2e::wait;

use crate::apps::WEB;
use crate::flow::Flow;
use crate::space::{Space, host_ports};
use crate::traffic;
use crate::world::{NAMESPACE, PATIENCE, SERVICE_NAME, SERVICE_NAMESPACE, name_of};

const PORT: u16 = 8100;
/// The label by which ServiceLB knows its DaemonSets.
const MARK: &str = "svccontroller.k3s.cattle.io/nodeselector";
/// The one by which svclb knows its own.
const OURS: &str = "svclb.io/service-uid";
/// That of Kubernetes' load balancers, ServiceLB's too.
const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

fn front(port: u16) -> Value {
    json!({"selector": {"app": "web"}, "ports": [{"port": port, "targetPort": WEB}]})
}

/// A Service of another class is not touched, whatever its status says.
pub(crate) fn a_foreign_class(space: &Space<'_>) -> Result<()> {
    space.app("web", 1)?;
    let mut foreign = front(PORT);
    foreign["loadBalancerClass"] = "example.com/other".into();
    space.load_balancer("foreign", foreign)?;
    let other: IpAddr = "192.0.2.7".parse()?;
    publish_as_another(space, "foreign", &[other])?;
    let before = space.service("foreign")?;

    // When a later Service of ours is served, the other one has been seen, and left alone.
    let mut own = front(PORT);
    own["loadBalancerClass"] = "svclb.io/svclb".into();
    space.load_balancer("own", own)?;
    space.expect_addresses("own", &space.world.ipv4())?;
    space.expect_ready_pods("own", &space.world.cluster().nodes())?;
    // So has it when its endpoints change.
    space.deploy("web", 2, None)?;
    space.wait_for_app("web")?;
    // A status may be written some time after what it follows from. What is edited now is done later.
    space.patch_service(
        "own",
        json!({"spec": {"ports": [{"port": PORT + 3, "targetPort": WEB}]}}),
    )?;
    wait::until("the DaemonSet of the edited Service", PATIENCE, || {
        let daemonset = space
            .daemonset("own")
            .map_err(|error| format!("{error:#}"))?;
        let ports = daemonset.as_ref().map(host_ports).unwrap_or_default();
        if ports == [i32::from(PORT + 3)] {
            Ok(())
        } else {
            Err(format!("{ports:?}"))
        }
    })?;
    space.expect_ready_pods("own", &space.world.cluster().nodes())?;
    let after = space.service("foreign")?;
    ensure!(
        after.metadata.resource_version == before.metadata.resource_version,
        "the Service of another class was written: {after:?}"
    );
    ensure!(
        space.daemonset("foreign")?.is_none(),
        "the Service of another class has a DaemonSet"
    );
    ensure!(
        space.events("foreign")?.is_empty(),
        "the Service of another class has events"
    );
    Ok(())
}

fn publish_as_another(space: &Space<'_>, service: &str, addresses: &[IpAddr]) -> Result<()> {
    let ingress: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"ip": address}))
        .collect();
    let patch = json!({"status": {"loadBalancer": {"ingress": ingress}}});
    let api = space.world.api::<Service>(space.name());
    let by = PatchParams {
        field_manager: Some("another".to_owned()),
        ..PatchParams::default()
    };
    space
        .world
        .block_on(api.patch_status(service, &by, &Patch::Merge(patch)))?;
    Ok(())
}

/// ServiceLB comes, and what is left to it is told; it goes, and svclb serves, which a client and
/// EXTERNAL-IP do not notice.
pub(crate) fn servicelb_goes(space: &Space<'_>) -> Result<()> {
    let world = space.world;
    let nodes = world.cluster().nodes();
    let addresses = world.ipv4();
    space.app("web", 2)?;
    // Of another Service of ServiceLB's: it is at work.
    let gate = create(
        space,
        &stand_in("svclb-other-00000000", &json!({}), &json!([])),
    )?;
    let mut own = front(PORT + 1);
    own["loadBalancerClass"] = "svclb.io/svclb".into();
    let service = space.load_balancer("web", front(PORT + 2))?;
    space.load_balancer("own", own)?;
    space.expect_addresses("own", &addresses)?;
    space.expect_event("web", "ServiceLBActive", &["ServiceLB"])?;
    ensure!(
        space.daemonset("web")?.is_none(),
        "a Service of ServiceLB's has a DaemonSet of ours"
    );
    ensure!(
        space.published("web")?.is_empty(),
        "a Service of ServiceLB's has addresses of ours"
    );

    let theirs = create(space, &servicelbs(&service, space.name())?)?;
    let finalizer = json!({"metadata": {"finalizers": [FINALIZER]}});
    space.patch_service("web", finalizer)?;
    publish_as_another(space, "web", &addresses)?;
    let mut flows = Vec::new();
    for address in &addresses {
        traffic::await_answer(world.cluster(), *address, PORT + 2)?;
        flows.push(Flow::http(&world.client(), *address, PORT + 2));
    }
    let watched = space.watch_addresses("web");
    // As k3s does with `--disable=servicelb`, one after the other.
    for daemonset in [theirs, gate] {
        let api = world.api::<DaemonSet>(NAMESPACE);
        world.block_on(api.delete(&daemonset, &DeleteParams::default()))?;
    }
    wait::until(
        "a DaemonSet of ours for the Service that was ServiceLB's",
        PATIENCE,
        || {
            let daemonset = space
                .daemonset("web")
                .map_err(|error| format!("{error:#}"))?;
            let labels = daemonset
                .and_then(|daemonset| daemonset.metadata.labels)
                .unwrap_or_default();
            if labels.contains_key(OURS) {
                Ok(())
            } else {
                Err(format!("{labels:?}"))
            }
        },
    )?;
    space.expect_ready_pods("web", &nodes)?;
    space.expect_addresses("web", &addresses)?;
    watched.expect_throughout(&addresses, "the migration from ServiceLB")?;
    for flow in flows {
        flow.stop()?.expect_no_gap("the migration from ServiceLB")?;
    }
    let finalizers = space
        .service("web")?
        .metadata
        .finalizers
        .unwrap_or_default();
    ensure!(
        finalizers == [FINALIZER],
        "the finalizers are {finalizers:?}"
    );
    Ok(())
}

fn create(space: &Space<'_>, daemonset: &Value) -> Result<String> {
    let daemonset: DaemonSet = serde_json::from_value(daemonset.clone())?;
    let api = space.world.api::<DaemonSet>(NAMESPACE);
    space
        .world
        .block_on(api.create(&PostParams::default(), &daemonset))?;
    Ok(name_of(&daemonset.metadata).to_owned())
}

/// A DaemonSet that ServiceLB would make, without or with containers that forward.
fn stand_in(name: &str, labels: &Value, containers: &Value) -> Value {
    let mut daemonset = json!({
        "metadata": {"name": name, "labels": {MARK: "false"}},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": containers},
            },
        },
    });
    if containers.as_array().is_some_and(Vec::is_empty) {
        // One that wants no node: it is there, and that is all.
        daemonset["spec"]["template"]["spec"]["nodeSelector"] = json!({"no-node": "has-this"});
        let image = concat!("localhost/svclb-echo:", env!("CARGO_PKG_VERSION"));
        daemonset["spec"]["template"]["spec"]["containers"] =
            json!([{"name": "none", "image": image}]);
    }
    for of in ["/metadata/labels", "/spec/template/metadata/labels"] {
        let into = daemonset.pointer_mut(of).and_then(Value::as_object_mut);
        if let (Some(into), Some(labels)) = (into, labels.as_object()) {
            into.extend(labels.clone());
        }
    }
    daemonset
}

/// ServiceLB's DaemonSet for a Service: klipper-lb's environment, which our image takes as well.
fn servicelbs(service: &Service, namespace: &str) -> Result<Value> {
    let uid = service.metadata.uid.as_deref().context("no UID")?;
    let cluster_ip = service
        .spec
        .as_ref()
        .and_then(|spec| spec.cluster_ip.clone())
        .context("no ClusterIP")?;
    let port = (PORT + 2).to_string();
    let labels = json!({SERVICE_NAME: "web", SERVICE_NAMESPACE: namespace});
    let containers = json!([{
        "name": format!("lb-tcp-{port}"),
        "image": concat!("localhost/svclb-pod:", env!("CARGO_PKG_VERSION")),
        "ports": [{"name": format!("lb-tcp-{port}"), "containerPort": PORT + 2, "hostPort": PORT + 2}],
        "env": [
            {"name": "SRC_PORT", "value": port},
            {"name": "SRC_RANGES", "value": "0.0.0.0/0"},
            {"name": "DEST_PROTO", "value": "TCP"},
            {"name": "DEST_PORT", "value": port},
            {"name": "DEST_IPS", "value": cluster_ip},
        ],
        "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}},
    }]);
    Ok(stand_in(
        &format!("svclb-web-{}", &uid[..8]),
        &labels,
        &containers,
    ))
}
