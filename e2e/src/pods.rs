//! What tests do with pods: make them, and look at the world from within one.
//!
//! Our images hold one program each, so there is nothing in a pod to `kubectl exec`. A command runs in
//! the pod's network namespace instead, with the node's programs.

use crate::cluster::Cluster;
use crate::error::Error;
use crate::host::HostCommand;
use crate::node::CONTAINERD_SOCKET;

/// The echo server, which every node has.
pub const ECHO_IMAGE: &str = concat!("localhost/svclb-echo:", env!("CARGO_PKG_VERSION"));

impl Cluster {
    /// Runs `kubectl apply` on a manifest and returns what it prints.
    pub fn apply(&self, manifest: &str) -> Result<String, Error> {
        let path = self.paths().folder().join("applied.yaml");
        crate::files::write(&path, manifest)?;
        self.kubectl(&["apply", "--filename", &path.display().to_string()])
    }

    /// A command in the network namespace of a running pod, with the programs of its node.
    pub fn command_in_pod(
        &self,
        namespace: &str,
        pod: &str,
        program: &str,
    ) -> Result<HostCommand, Error> {
        let place = "jsonpath={.spec.nodeName} {.status.containerStatuses[0].containerID}";
        let answer = self.kubectl(&[
            "get",
            "pod",
            "--namespace",
            namespace,
            pod,
            "--output",
            place,
        ])?;
        let not_running = || Error::PodNotRunning {
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
        };
        let (node, id) = answer
            .split_once(" containerd://")
            .ok_or_else(not_running)?;
        let node = self.host(node)?;
        let mut tasks = node.command("ctr");
        tasks.args([
            "--address",
            CONTAINERD_SOCKET,
            "--namespace",
            "k8s.io",
            "tasks",
            "list",
        ]);
        let tasks = tasks.text()?;
        let pid = pid_of_task(&tasks, id).ok_or_else(not_running)?;
        let mut command = node.command("nsenter");
        command.args([&format!("--net=/proc/{pid}/ns/net"), "--", program]);
        Ok(command)
    }
}

/// From lines of task, pid and status.
fn pid_of_task<'a>(tasks: &'a str, id: &str) -> Option<&'a str> {
    tasks.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        (fields.next() == Some(id)).then(|| fields.next()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_found_by_its_whole_id() {
        let tasks = "TASK    PID     STATUS\nab      12      RUNNING\nabc     345     RUNNING\n";
        assert_eq!(pid_of_task(tasks, "abc"), Some("345"));
        assert_eq!(pid_of_task(tasks, "a"), None);
    }
}
