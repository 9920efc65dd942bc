//! Other kinds of clusters than the default one, and several at once.

use anyhow::{Result, ensure};
use svclb_e2e::{
    Cluster, Component, ECHO_IMAGE, IpFamily, Options, Progress, ProxyMode, Temporary, wait,
};

use crate::Test;
use crate::shared::{
    self, HOST_PORT, NODE_PORT, PATIENCE, field, get, get_from_pod, named, pod_on, run_echo,
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    (
        "nftables_mode_serves_services_before_portmap",
        nftables_mode_serves_services_before_portmap,
    ),
    (
        "portmap_last_comes_before_kube_proxy",
        portmap_last_comes_before_kube_proxy,
    ),
    (
        "an_ipv6_cluster_has_ipv6_alone",
        an_ipv6_cluster_has_ipv6_alone,
    ),
];

pub(crate) const BESIDE_THE_SHARED_ONE: &[(&str, Test)] = &[(
    "two_clusters_do_not_know_of_each_other",
    two_clusters_do_not_know_of_each_other,
)];

fn nftables_mode_serves_services_before_portmap() -> Result<()> {
    let options = Options {
        proxy_mode: ProxyMode::Nftables,
        allow_forwarding_sysctls: true,
        ..named("test-nftables", 1)
    };
    let cluster = Temporary::up(&options, &Progress::silent())?;
    let node = cluster.node(1);
    for family in ["ip", "ip6"] {
        let list = |chain: &[&str]| {
            node.command("nft")
                .args(["list", "chain", family])
                .args(chain)
                .text()
        };
        let portmaps = list(&["nat", "PREROUTING"])?;
        ensure!(portmaps.contains("priority dstnat"), "{portmaps}");
        ensure!(list(&["kube-proxy", "nat-prerouting"])?.contains("priority dstnat"));
    }
    run_echo(&cluster)?;
    for address in node.addresses() {
        get(
            &cluster.client(),
            &address.to_string(),
            NODE_PORT,
            "hostname",
        )?;
        get(
            &cluster.client(),
            &address.to_string(),
            HOST_PORT,
            "hostname",
        )?;
    }
    let other = put_service_on_host_port(&cluster)?;
    let answered_by = get(&cluster.client(), "10.231.1.1", HOST_PORT, "hostname")?;
    ensure!(
        answered_by == other,
        "{answered_by}: portmap comes before kube-proxy"
    );

    cluster.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: forwarding}}
spec:
  securityContext: {{sysctls: [{{name: net.ipv4.ip_forward, value: '1'}}]}}
  containers: [{{name: echo, image: {ECHO_IMAGE}, args: [--http=8080]}}]
"
    ))?;
    cluster.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "pod/forwarding",
        "--timeout=120s",
    ])?;
    let mut command = cluster.command_in_pod("default", "forwarding", "cat")?;
    ensure!(command.arg("/proc/sys/net/ipv4/ip_forward").text()? == "1\n");
    Ok(())
}

fn portmap_last_comes_before_kube_proxy() -> Result<()> {
    let options = Options {
        proxy_mode: ProxyMode::Nftables,
        portmap_last: true,
        ip_family: IpFamily::Ipv4,
        ..named("test-portmap-last", 1)
    };
    let cluster = Temporary::up(&options, &Progress::silent())?;
    run_echo(&cluster)?;
    put_service_on_host_port(&cluster)?;
    let pod = pod_on(&cluster, &cluster.node(1))?;
    let answered_by = get(&cluster.client(), "10.231.1.1", HOST_PORT, "hostname")?;
    ensure!(
        answered_by == pod,
        "{answered_by}: kube-proxy comes before portmap"
    );
    Ok(())
}

/// Makes a Service with another pod behind it that is said to be at the address and port of the
/// first node where portmap has the echo pod, and returns the other pod's name.
fn put_service_on_host_port(cluster: &Cluster) -> Result<String> {
    let other = "other".to_owned();
    cluster.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {other}, labels: {{app: {other}}}}}
spec:
  containers: [{{name: echo, image: {ECHO_IMAGE}, args: [--http=8080]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: {other}}}
spec:
  type: LoadBalancer
  loadBalancerClass: svclb.io/none
  selector: {{app: {other}}}
  ports: [{{port: {HOST_PORT}, targetPort: 8080}}]
"
    ))?;
    cluster.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "pod/other",
        "--timeout=120s",
    ])?;
    let status = r#"{"status":{"loadBalancer":{"ingress":[{"ip":"10.231.1.1","ipMode":"VIP"}]}}}"#;
    let patch = [
        "patch",
        "service",
        "other",
        "--subresource=status",
        "--type=merge",
        "--patch",
        status,
    ];
    cluster.kubectl(&patch)?;
    wait::until("kube-proxy has rules for the address", PATIENCE, || {
        let list = ["list", "map", "ip", "kube-proxy", "service-ips"];
        let ips = cluster
            .node(1)
            .command("nft")
            .args(list)
            .text()
            .map_err(|error| error.to_string())?;
        let rule = format!("10.231.1.1 . tcp . {HOST_PORT}");
        if ips.contains(&rule) {
            Ok(())
        } else {
            Err(ips)
        }
    })?;
    Ok(other)
}

fn an_ipv6_cluster_has_ipv6_alone() -> Result<()> {
    let options = Options {
        ip_family: IpFamily::Ipv6,
        ..named("test-ipv6", 2)
    };
    let cluster = Temporary::up(&options, &Progress::silent())?;
    ensure!(cluster.node(1).ipv4().is_none() && cluster.node(1).ipv6().is_some());
    let ipv4 = cluster
        .node(1)
        .command("ip")
        .args(["-4", "address", "show", "eth0"])
        .text()?;
    ensure!(ipv4.is_empty(), "{ipv4}");
    run_echo(&cluster)?;
    let cluster_ips = field(&cluster, "service/echo", ".spec.clusterIPs[*]")?;
    ensure!(
        cluster_ips.len() == 1 && cluster_ips[0].starts_with("fd31:96::"),
        "{cluster_ips:?}"
    );
    get(&cluster.node(1), &cluster_ips[0], 80, "hostname")?;

    let (from, to) = (
        pod_on(&cluster, &cluster.node(1))?,
        pod_on(&cluster, &cluster.node(2))?,
    );
    let address = field(&cluster, &format!("pod/{to}"), ".status.podIPs[*].ip")?.concat();
    ensure!(get_from_pod(&cluster, &from, &address, 8080, "hostname")? == to);
    for node in cluster.nodes() {
        for address in node.addresses() {
            get(
                &cluster.client(),
                &address.to_string(),
                NODE_PORT,
                "hostname",
            )?;
            let seen = get(
                &cluster.client(),
                &address.to_string(),
                HOST_PORT,
                "clientip",
            )?;
            ensure!(seen == "fd31:77::2", "the client is seen as {seen}");
        }
    }
    Ok(())
}

fn two_clusters_do_not_know_of_each_other() -> Result<()> {
    let first = shared::cluster()?;
    let processes = || {
        let hosts = first.hosts();
        let all = hosts.iter().flat_map(|host| {
            host.role()
                .components()
                .iter()
                .map(move |component| host.process(*component))
        });
        all.collect::<Vec<_>>()
    };
    let before = processes();
    ensure!(before.iter().all(Option::is_some), "{before:?}");

    let second = Temporary::up(&named("test-second", 1), &Progress::silent())?;
    ensure!(second.kubectl(&["get", "nodes", "--output=name"])? == "node/node-1\n");
    ensure!(
        second.kubectl(&["get", "pods"])?.is_empty(),
        "the second cluster has the pods of the first"
    );
    ensure!(
        second.control_plane().process(Component::Etcd)
            != first.control_plane().process(Component::Etcd)
    );
    get(&first.client(), "10.231.1.3", NODE_PORT, "hostname")?;
    drop(second);

    ensure!(
        processes() == before,
        "processes of the first cluster have ended"
    );
    get(&first.client(), "10.231.1.3", NODE_PORT, "hostname")?;
    Ok(())
}
