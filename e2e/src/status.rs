//! What `svclb-e2e status` shows.

use svclb_e2e::{Cluster, Component, Host};

/// A line for each cluster, and below it one for each of its hosts.
pub(crate) fn render(clusters: &[Cluster], incomplete: &[String]) -> String {
    let mut lines = Vec::new();
    if clusters.is_empty() {
        lines.push("No cluster is up.".to_owned());
    }
    for cluster in clusters {
        let hosts = cluster.hosts();
        let memory: Vec<u64> = hosts.iter().map(Host::memory).collect();
        let all = memory.iter().sum::<u64>() >> 20;
        lines.push(format!("{}: {all} MiB", cluster.options().name));
        for (host, memory) in hosts.iter().zip(memory) {
            lines.push(format!("  {}", line_of(host, memory)));
        }
    }
    for name in incomplete {
        lines.push(format!(
            "{name}: incomplete; unless an `up` or `down` is at work on it: svclb-e2e down --name {name}"
        ));
    }
    lines.join("\n") + "\n"
}

fn line_of(host: &Host, memory: u64) -> String {
    let addresses: Vec<_> = host.addresses().iter().map(ToString::to_string).collect();
    let mut line = format!(
        "{:<14} {:<32} {:>5} MiB",
        host.name(),
        addresses.join(" "),
        memory >> 20
    );
    let (running, others): (Vec<Component>, Vec<_>) = host
        .role()
        .components()
        .iter()
        .partition(|component| host.process(**component).is_some());
    if !running.is_empty() {
        line += &format!("  {}", listed(&running));
    }
    if !others.is_empty() {
        line += &format!("  not running: {}", listed(&others));
    }
    line
}

fn listed(components: &[Component]) -> String {
    components
        .iter()
        .map(|component| component.as_str())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_cluster_is_shown_with_what_to_do() {
        assert_eq!(render(&[], &[]), "No cluster is up.\n");
        assert_eq!(
            render(&[], &["a".to_owned()]),
            "No cluster is up.\n\
             a: incomplete; unless an `up` or `down` is at work on it: svclb-e2e down --name a\n"
        );
    }
}
