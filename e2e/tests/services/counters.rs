//! What the rules of a svclb pod have counted: the proof that packets went through it, and not through
//! kube-proxy, which answers at the same addresses.

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use svclb_e2e::{Cluster, Host};

use crate::space::node_of;

/// Which of its two kinds of rules a svclb pod has installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// nf_tables.
    Nftables,
    /// Legacy xtables.
    Iptables,
}

/// Packets that the rules of a svclb pod have let pass and dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Of connections that were forwarded, both directions.
    pub(crate) accepted: u64,
    /// Dropped, because of their source for the most part.
    pub(crate) dropped: u64,
}

/// Reads the counters of a svclb pod's rules in its network namespace.
pub(crate) fn read(node: &Host, pod: &Pod, backend: Backend) -> Result<Counted> {
    let pid = pid(node, pod)?;
    match backend {
        Backend::Nftables => {
            let text = within(node, &pid, &["nft", "-j", "list", "table", "inet", "svclb"])?;
            of_nftables(&serde_json::from_str(&text)?)
        }
        Backend::Iptables => {
            let ipv4 = within(node, &pid, &["iptables-legacy-save", "-c", "-t", "filter"])?;
            let ipv6 = within(node, &pid, &["ip6tables-legacy-save", "-c", "-t", "filter"])?;
            of_iptables(&[ipv4, ipv6].concat())
        }
    }
}

/// Reads the counters of these pods, in their order, whose rules are of nf_tables.
pub(crate) fn read_all(cluster: &Cluster, pods: &[Pod]) -> Result<Vec<Counted>> {
    pods.iter()
        .map(|pod| read(&cluster.host(node_of(pod))?, pod, Backend::Nftables))
        .collect()
}

/// All rules in a pod's network namespace, of both kinds.
pub(crate) fn rules(node: &Host, pod: &Pod) -> Result<String> {
    let pid = pid(node, pod)?;
    let mut text = String::new();
    for command in [
        &["nft", "list", "ruleset"][..],
        &["iptables-legacy-save", "-c"],
        &["ip6tables-legacy-save", "-c"],
    ] {
        text += &within(node, &pid, command)?;
    }
    Ok(text)
}

fn within(node: &Host, pid: &str, command: &[&str]) -> Result<String> {
    let mut nsenter = node.command("nsenter");
    Ok(nsenter
        .args(["--net", "--target", pid])
        .args(command)
        .text()?)
}

/// The process of the pod's container, which containerd knows.
pub(crate) fn pid(node: &Host, pod: &Pod) -> Result<String> {
    let status = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    let id = status
        .and_then(|containers| containers.first()?.container_id.as_deref())
        .and_then(|id| id.strip_prefix("containerd://"))
        .context("the pod has no container")?;
    let socket = "/run/containerd/containerd.sock";
    let tasks = node
        .command("ctr")
        .args(["--address", socket, "--namespace", "k8s.io", "tasks", "ls"])
        .text()?;
    // TASK PID STATUS
    let line = tasks.lines().find(|line| line.starts_with(id));
    let pid = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(pid
        .with_context(|| format!("container {id} does not run: {tasks}"))?
        .to_owned())
}

/// What `nft -j list table` says.
fn of_nftables(listed: &Value) -> Result<Counted> {
    let mut counted = Counted {
        accepted: 0,
        dropped: 0,
    };
    let mut rules = 0;
    for rule in listed["nftables"].as_array().into_iter().flatten() {
        let rule = &rule["rule"];
        if rule["chain"] != "forward" {
            continue;
        }
        let statements: Vec<&Value> = rule["expr"].as_array().into_iter().flatten().collect();
        let packets = statements
            .iter()
            .find_map(|statement| statement["counter"]["packets"].as_u64());
        let has = |verdict: &str| {
            statements
                .iter()
                .any(|statement| statement.get(verdict).is_some())
        };
        match packets {
            Some(packets) if has("accept") => counted.accepted += packets,
            Some(packets) if has("drop") => counted.dropped += packets,
            _ => continue,
        }
        rules += 1;
    }
    if rules == 0 {
        bail!("no rule that counts: {listed}");
    }
    Ok(counted)
}

/// What `iptables-save -c` says: `[PACKETS:BYTES] -A CHAIN ... -j VERDICT`.
fn of_iptables(saved: &str) -> Result<Counted> {
    let mut counted = Counted {
        accepted: 0,
        dropped: 0,
    };
    let mut rules = 0;
    for line in saved.lines() {
        let Some((packets, rule)) = line.strip_prefix('[').and_then(|line| line.split_once(':'))
        else {
            continue;
        };
        let packets: u64 = packets.parse()?;
        match rule.rsplit_once("-j ") {
            Some((_, "ACCEPT")) => counted.accepted += packets,
            Some((_, "DROP")) => counted.dropped += packets,
            _ => continue,
        }
        rules += 1;
    }
    if rules == 0 {
        bail!("no rule that counts: {saved}");
    }
    Ok(counted)
}
