//! The three-node cluster with the ways into it that are compared, all to one pod behind one Service.
//!
//! Every way begins at the client outside the nodes' network and goes to node-1; the backend is on
//! node-2. The ways through a pod arrive at a second address of node-1, which is in no status: with
//! the first, kube-proxy would take the packets before any pod saw them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use svclb_e2e::{Cluster, Host, Options, Progress, Temporary, wait};

use crate::cluster::{Ended, apply, build_images, pod_namespace};
use crate::folders::Folders;
use crate::klipper::{Forward, Klipper, Variant};
use crate::load::Server;
use crate::namespaces::Namespace;
use crate::process::Process;

/// Images, nodes and rules take seconds; this is for a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(90);
/// The second address of node-1.
const ARRIVING: Ipv4Addr = Ipv4Addr::new(10, 231, 2, 1);
/// Services of type NodePort beside the measured one, in the cells with 100 Services.
const OTHERS: usize = 99;

/// The Service's ports, and what listens there in the backend pod.
#[derive(Clone, Copy)]
pub(super) struct Ports {
    /// The echo server's HTTP, for wrk.
    pub(super) http: u16,
    /// The load generator's own server.
    pub(super) connections: u16,
    /// iperf3, TCP and UDP.
    pub(super) bulk: u16,
}

const SERVICE: Ports = Ports {
    http: 8080,
    connections: 9100,
    bulk: 5201,
};
const NODE_PORTS: Ports = Ports {
    http: 30080,
    connections: 30100,
    bulk: 30521,
};

impl Ports {
    /// The hostPorts of a pod, told apart by the pod's number.
    fn of_pod(number: u16) -> Self {
        let first = 20_000 + 10 * number;
        Self {
            http: first,
            connections: first + 1,
            bulk: first + 2,
        }
    }

    /// Name, protocol and port of each, in the order of all tables here.
    fn all(self) -> [(&'static str, &'static str, u16); 4] {
        [
            ("http", "TCP", self.http),
            ("connections", "TCP", self.connections),
            ("bulk", "TCP", self.bulk),
            ("bulk-udp", "UDP", self.bulk),
        ]
    }
}

/// A way from the client to the backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// Through a pod of svclb-pod's image.
    Ours,
    /// Through a pod whose rules are klipper-lb's.
    Klipper(Variant),
    /// kube-proxy's rule for an address in the Service's status.
    StatusAddress,
    /// kube-proxy's rule for the Service's node port.
    NodePort,
}

/// All ways, ours first.
pub(super) const WAYS: [Way; 5] = [
    Way::Ours,
    Way::Klipper(Variant::Nft),
    Way::Klipper(Variant::Legacy),
    Way::StatusAddress,
    Way::NodePort,
];

/// Where a way begins, and the pod that it has to go through, if any.
pub(super) struct Lane {
    pub(super) way: Way,
    pub(super) address: IpAddr,
    pub(super) ports: Ports,
    pod: Option<Namespace>,
    /// Held so that they live; klipper-lb's way has one a port.
    _processes: Vec<Process>,
}

impl Lane {
    /// The address of one of the way's ports.
    pub(super) fn to(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }
}

/// The cluster and everything in it.
pub(super) struct Bed {
    pub(super) client: Host,
    pub(super) lanes: Vec<Lane>,
    /// Ends with the bed.
    _iperf: Ended,
    _server: Server,
    cluster: Temporary,
}

impl Bed {
    /// Brings it all up. `say` is told what goes on.
    pub(super) fn new(folders: &Folders, say: &dyn Fn(&str)) -> Result<Self> {
        say("building the image");
        build_images(folders, &["svclb-pod"])?;
        say("bringing the cluster up");
        let options = Options {
            name: super::CLUSTER.to_owned(),
            ..Options::default()
        };
        let cluster =
            Temporary::up(&options, &Progress::silent()).context("bringing the cluster up")?;
        cluster.load(&[&folders.repository.join("target/images/svclb-pod.tar")])?;
        cluster.add_address(&cluster.node(1), ARRIVING.into())?;
        say("bringing pods and rules up");
        apply(&cluster, folders, &[service(), backend()])?;
        let cluster_ip = cluster.kubectl(&[
            "get",
            "service",
            "bench",
            "-o",
            "jsonpath={.spec.clusterIP}",
        ])?;
        let pods: Vec<Value> = WAYS
            .iter()
            .zip(1..)
            .filter_map(|(way, n)| pod(*way, n, &cluster_ip))
            .collect();
        apply(&cluster, folders, &pods)?;
        cluster.kubectl(&[
            "wait",
            "--for=condition=Ready",
            "pod",
            "--all",
            "--timeout=90s",
        ])?;
        let node = cluster
            .node(1)
            .ipv4()
            .context("node-1 has no IPv4 address")?;
        let status =
            json!({"status": {"loadBalancer": {"ingress": [{"ip": node, "ipMode": "VIP"}]}}});
        let patch = [
            "patch",
            "service",
            "bench",
            "--subresource=status",
            "--patch",
            &status.to_string(),
        ];
        cluster.kubectl(&patch)?;

        let backend = pod_namespace(&cluster, "backend")?;
        let server = backend.within(|| Server::start([SERVICE.connections].into_iter(), 16))?;
        let port = SERVICE.bulk.to_string();
        let iperf = backend.within(|| {
            let mut command = Command::new("iperf3");
            command
                .args(["--server", "--port", &port])
                .stdout(Stdio::null());
            Ok(Ended(command.spawn().context("starting iperf3")?))
        })?;
        let klipper = Klipper::lay_out(&folders.work)?;
        let lanes = WAYS
            .iter()
            .zip(1..)
            .map(|(way, number)| lane(&cluster, *way, number, &klipper, &cluster_ip, node.into()))
            .collect::<Result<Vec<Lane>>>()?;
        quicken(&cluster, &lanes)?;
        let bed = Self {
            client: cluster.client(),
            lanes,
            _iperf: iperf,
            _server: server,
            cluster,
        };
        bed.wait_for_ways()?;
        Ok(bed)
    }

    /// Adds Services of type NodePort until there are 100 in all, and waits until kube-proxy has
    /// rules for each.
    pub(super) fn add_services(&self, folders: &Folders) -> Result<()> {
        let others: Vec<Value> = (1..=OTHERS).map(other).collect();
        apply(&self.cluster, folders, &others)?;
        for node in [self.cluster.node(1), self.cluster.node(2)] {
            wait::until("rules for all Services", PATIENCE, || {
                let rules = node.command("iptables-save").args(["-t", "nat"]).text();
                let rules = rules.map_err(|error| error.to_string())?;
                let missing =
                    (1..=OTHERS).find(|n| !rules.contains(&format!("default/{}:", other_name(*n))));
                missing.map_or(Ok(()), |n| Err(format!("none for {}", other_name(n))))
            })?;
        }
        Ok(())
    }

    /// Does `work`, which sends no less than `least` packets by `way`, and fails unless they went
    /// through that way's pod and no other.
    pub(super) fn checked<T>(
        &self,
        way: Way,
        work: impl FnOnce() -> Result<T>,
        least: impl FnOnce(&T) -> u64,
    ) -> Result<T> {
        let count = || {
            self.lanes
                .iter()
                .map(received)
                .collect::<Result<Vec<u64>>>()
        };
        let before = count()?;
        let result = work()?;
        let least = least(&result);
        for ((lane, before), after) in self.lanes.iter().zip(before).zip(count()?) {
            let packets = after - before;
            let right = match lane.way == way && lane.pod.is_some() {
                true => packets >= least,
                false => packets < least / 100 + 100,
            };
            ensure!(
                right,
                "{packets} packets went through the pod of {:?} when {way:?} was used",
                lane.way
            );
        }
        Ok(result)
    }

    /// Until a connection by each way is answered.
    fn wait_for_ways(&self) -> Result<()> {
        for lane in &self.lanes {
            let target = [lane.to(lane.ports.connections)];
            let expected = format!("an answer by {:?}", lane.way);
            wait::until(&expected, PATIENCE, || {
                let tried = self
                    .client
                    .within(|| crate::load::connections(&target, 1, Duration::from_millis(50)));
                tried
                    .map_err(|error| error.to_string())?
                    .map_err(|error| error.to_string())
            })?;
        }
        Ok(())
    }
}

/// Packets that the lane's pod has received, 0 without a pod.
fn received(lane: &Lane) -> Result<u64> {
    lane.pod
        .as_ref()
        .map_or(Ok(0), |pod| pod.received_packets("eth0"))
}

fn lane(
    cluster: &Cluster,
    way: Way,
    number: u16,
    klipper: &Klipper,
    cluster_ip: &str,
    node: IpAddr,
) -> Result<Lane> {
    let (address, ports, name) = match way {
        Way::Ours => (
            ARRIVING.into(),
            Ports::of_pod(number),
            Some(pod_name(number)),
        ),
        Way::Klipper(_) => (
            ARRIVING.into(),
            Ports::of_pod(number),
            Some(pod_name(number)),
        ),
        Way::StatusAddress => (node, SERVICE, None),
        Way::NodePort => (node, NODE_PORTS, None),
    };
    let pod = name.map(|name| pod_namespace(cluster, &name)).transpose()?;
    let processes = match (way, &pod) {
        (Way::Klipper(variant), Some(pod)) => {
            pod.sysctl(&[("net.ipv4.ip_forward", "1")])?;
            let commands = ports
                .all()
                .into_iter()
                .zip(SERVICE.all())
                .map(|((_, protocol, port), (_, _, to_port))| {
                    let forward = Forward {
                        protocol,
                        port,
                        to_port,
                        to: cluster_ip.to_owned(),
                        source_ranges: "0.0.0.0/0".to_owned(),
                    };
                    klipper.command(variant, &forward, None)
                })
                .collect::<Result<Vec<Command>>>()?;
            pod.within(|| {
                commands
                    .into_iter()
                    .map(Process::start)
                    .collect::<Result<_>>()
            })?
        }
        _ => Vec::new(),
    };
    Ok(Lane {
        way,
        address,
        ports,
        pod,
        _processes: processes,
    })
}

/// Closed connections are forgotten at once by the hosts' and the pods' connection tracking: each
/// masquerade has 64,000 source ports, and the runs use them up many times.
fn quicken(cluster: &Cluster, lanes: &[Lane]) -> Result<()> {
    const QUICK: [(&str, &str); 2] = [
        ("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "1"),
        ("net.netfilter.nf_conntrack_tcp_timeout_close", "1"),
    ];
    for host in cluster.nodes() {
        host.within(|| crate::namespaces::set(&QUICK))??;
    }
    for pod in lanes.iter().filter_map(|lane| lane.pod.as_ref()) {
        pod.sysctl(&QUICK)?;
    }
    cluster
        .client()
        .within(|| crate::namespaces::set(&[("net.ipv4.tcp_tw_reuse", "1")]))?
}

fn service() -> Value {
    let ports: Vec<Value> = SERVICE
        .all()
        .into_iter()
        .zip(NODE_PORTS.all())
        .map(|((name, protocol, port), (_, _, node_port))| {
            json!({"name": name, "protocol": protocol, "port": port, "nodePort": node_port})
        })
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "bench"},
        // Of a class that no controller serves: the status is written here.
        "spec": {
            "type": "LoadBalancer", "loadBalancerClass": "svclb.io/bench",
            "ipFamilies": ["IPv4"], "selector": {"app": "backend"}, "ports": ports,
        },
    })
}

fn backend() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "backend", "labels": {"app": "backend"}},
        "spec": {
            "nodeName": "node-2",
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "echo",
                "image": concat!("localhost/svclb-echo:", env!("CARGO_PKG_VERSION")),
                "args": ["--http", SERVICE.http.to_string()],
            }],
        },
    })
}

fn pod_name(number: u16) -> String {
    format!("pod-{number}")
}

/// The pod of a way that has one. klipper-lb's rules are made from outside, by the script, in the
/// namespace of a pod that only holds the hostPorts.
fn pod(way: Way, number: u16, cluster_ip: &str) -> Option<Value> {
    let ports = Ports::of_pod(number);
    let host_ports: Vec<Value> = ports
        .all()
        .into_iter()
        .map(|(name, protocol, port)| {
            json!({"name": name, "protocol": protocol, "containerPort": port, "hostPort": port})
        })
        .collect();
    let mut container = match way {
        Way::Ours => {
            let forwards: Vec<String> = ports
                .all()
                .into_iter()
                .zip(SERVICE.all())
                .map(|((_, protocol, port), (_, _, to))| {
                    format!("{}/{port}={to}", protocol.to_lowercase())
                })
                .collect();
            json!({
                "image": concat!("localhost/svclb-pod:", env!("CARGO_PKG_VERSION")),
                "env": [
                    {"name": "SVCLB_FORWARDS", "value": forwards.join(",")},
                    {"name": "DEST_IPS", "value": cluster_ip},
                ],
                "securityContext": {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}},
            })
        }
        Way::Klipper(_) => json!({"image": "registry.k8s.io/pause:3.10.1"}),
        Way::StatusAddress | Way::NodePort => return None,
    };
    container["name"] = "lb".into();
    container["imagePullPolicy"] = "Never".into();
    container["ports"] = host_ports.into();
    Some(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod_name(number)},
        "spec": {
            "nodeName": "node-1",
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        },
    }))
}

fn other_name(number: usize) -> String {
    format!("other-{number}")
}

/// One of the Services that are there to be many.
fn other(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": other_name(number)},
        "spec": {
            "type": "NodePort", "ipFamilies": ["IPv4"], "selector": {"app": "backend"},
            "ports": [{"name": "http", "port": 80, "targetPort": SERVICE.http}],
        },
    })
}
