//! Nodes, and what is special about some of them.

use anyhow::{Result, ensure};
use svclb_e2e::{
    Cluster, Component, Host, IpFamily, NodeSettings, Options, Progress, Temporary, wait,
};

use crate::Test;
use crate::shared::{self, EXTERNAL_IP, HOST_PORT, PATIENCE, field, get, named, wait_for_ready};

pub(crate) const TESTS: &[(&str, Test)] = &[
    (
        "three_nodes_are_ready_and_dual_stack",
        three_nodes_are_ready_and_dual_stack,
    ),
    (
        "a_node_has_the_labels_and_taints_asked_for",
        a_node_has_the_labels_and_taints_asked_for,
    ),
    (
        "an_external_ip_stays_when_the_kubelet_restarts",
        an_external_ip_stays_when_the_kubelet_restarts,
    ),
    ("a_second_address_is_reached", a_second_address_is_reached),
    ("unsafe_sysctls_are_refused", unsafe_sysctls_are_refused),
    (
        "pods_know_the_clusters_name_server",
        pods_know_the_clusters_name_server,
    ),
];

pub(crate) const WITH_A_CLUSTER_OF_ITS_OWN: &[(&str, Test)] = &[(
    "a_node_has_the_internal_ips_asked_for",
    a_node_has_the_internal_ips_asked_for,
)];

fn three_nodes_are_ready_and_dual_stack() -> Result<()> {
    let cluster = shared::cluster()?;
    for node in cluster.nodes() {
        wait_for_ready(&cluster, &node, "True")?;
        let object = format!("node/{node}");
        let internal = field(
            &cluster,
            &object,
            r#".status.addresses[?(@.type=="InternalIP")].address"#,
        )?;
        let own: Vec<_> = node.addresses().iter().map(ToString::to_string).collect();
        ensure!(
            internal == own && own.len() == 2,
            "{node} has {internal:?}, not {own:?}"
        );
        let pods = field(&cluster, &object, ".status.allocatable.pods")?.concat();
        ensure!(pods == "110", "{node} takes {pods} pods");
    }
    Ok(())
}

fn a_node_has_the_labels_and_taints_asked_for() -> Result<()> {
    let cluster = shared::cluster()?;
    let labelled = cluster.kubectl(&[
        "get",
        "nodes",
        "--selector=svclb.io/test=third",
        "--output=name",
    ])?;
    ensure!(labelled == "node/node-3\n", "{labelled}");
    let taints = field(&cluster, "node/node-3", ".spec.taints[*].key")?;
    ensure!(taints == ["svclb.io/test"], "{taints:?}");
    Ok(())
}

fn an_external_ip_stays_when_the_kubelet_restarts() -> Result<()> {
    let cluster = shared::cluster()?;
    let node = cluster.node(3);
    let mut expected: Vec<_> = node.addresses().iter().map(ToString::to_string).collect();
    expected.push(EXTERNAL_IP.to_owned());
    stay_when_the_kubelet_restarts(&cluster, &node, &expected)
}

fn a_node_has_the_internal_ips_asked_for() -> Result<()> {
    const INTERNAL_IP: &str = "10.231.1.77";
    let mut options = Options {
        ip_family: IpFamily::Ipv4,
        ..named("test-internal-ips", 1)
    };
    let settings = NodeSettings {
        internal_ips: vec![INTERNAL_IP.parse()?],
        ..NodeSettings::default()
    };
    options.node_settings.insert(1, settings);
    let cluster = Temporary::up(&options, &Progress::silent())?;
    let node = cluster.node(1);
    stay_when_the_kubelet_restarts(&cluster, &node, &[INTERNAL_IP.to_owned()])?;
    // There the API server looks for the kubelet.
    cluster.add_address(&node, INTERNAL_IP.parse()?)?;
    let healthz = cluster.kubectl(&["get", "--raw=/api/v1/nodes/node-1/proxy/healthz"])?;
    ensure!(healthz == "ok", "{healthz}");
    Ok(())
}

/// The addresses of a node beside its name are these, also after a new kubelet has written its status.
fn stay_when_the_kubelet_restarts(
    cluster: &Cluster,
    node: &Host,
    expected: &[String],
) -> Result<()> {
    let object = format!("node/{node}");
    let heartbeat = || field(cluster, &object, ".status.conditions[*].lastHeartbeatTime");
    node.stop(Component::Kubelet)?;
    let last = heartbeat()?;
    node.start(Component::Kubelet)?;
    // A kubelet that minds the addresses writes them with the rest of the status.
    wait::until(
        "the new kubelet writes the Node's status",
        PATIENCE,
        || match heartbeat() {
            Ok(now) if now != last => Ok(()),
            now => Err(format!("{now:?}")),
        },
    )?;
    wait_for_ready(cluster, node, "True")?;
    let path = r#".status.addresses[?(@.type!="Hostname")].address"#;
    let addresses = field(cluster, &object, path)?;
    ensure!(addresses == expected, "{addresses:?}, not {expected:?}");
    Ok(())
}

fn a_second_address_is_reached() -> Result<()> {
    let cluster = shared::cluster()?;
    let node = cluster.node(3);
    cluster.add_address(&node, EXTERNAL_IP.parse()?)?;
    let pod = shared::pod_on(&cluster, &node)?;
    for from in [cluster.client(), cluster.node(1)] {
        let answered_by = get(&from, EXTERNAL_IP, HOST_PORT, "hostname")?;
        ensure!(
            answered_by == pod,
            "{EXTERNAL_IP} is answered by {answered_by}, not by {pod}"
        );
    }
    Ok(())
}

fn unsafe_sysctls_are_refused() -> Result<()> {
    let cluster = shared::cluster()?;
    cluster.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: forwarding}}
spec:
  securityContext: {{sysctls: [{{name: net.ipv4.ip_forward, value: '1'}}]}}
  containers: [{{name: echo, image: {}, args: [--http=8080]}}]
",
        svclb_e2e::ECHO_IMAGE
    ))?;
    wait::until("the kubelet refuses the pod", PATIENCE, || {
        let reason = field(&cluster, "pod/forwarding", ".status.reason")
            .map_err(|error| error.to_string())?;
        if reason == ["SysctlForbidden"] {
            Ok(())
        } else {
            Err(format!("{reason:?}"))
        }
    })?;
    cluster.kubectl(&["delete", "pod", "forwarding", "--now"])?;
    Ok(())
}

fn pods_know_the_clusters_name_server() -> Result<()> {
    let cluster = shared::cluster()?;
    let find = [
        "-c",
        "cat /run/containerd/io.containerd.grpc.v1.cri/sandboxes/*/resolv.conf /var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes/*/resolv.conf",
    ];
    let output = cluster.node(1).command("sh").args(find).output()?;
    let found = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(found.contains("nameserver 10.96.0.10\n"), "{found}");
    Ok(())
}
