//! The cluster that tests share, and the pods and the Service that they find in it.

use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use svclb_e2e::{Cluster, ECHO_IMAGE, Host, NodeSettings, Options, Progress, Temporary, wait};

/// The shared cluster's name.
pub(crate) const NAME: &str = "test-cluster";
/// What the third node of the shared cluster has beside its own addresses.
pub(crate) const EXTERNAL_IP: &str = "203.0.113.3";
/// The echo pods' hostPort.
pub(crate) const HOST_PORT: u16 = 8081;
/// The port of Service `echo` on every node.
pub(crate) const NODE_PORT: u16 = 30080;
/// For whatever comes about within seconds on a machine that has nothing else to do, and within a
/// minute on one that has much.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

static SHARED: Mutex<Option<Temporary>> = Mutex::new(None);

/// The shared cluster, with a pod `echo` on each node and a Service of the same name before them.
pub(crate) fn cluster() -> Result<Cluster> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if shared.is_none() {
        let mut options = named(NAME, 3);
        let settings = NodeSettings {
            labels: [("svclb.io/test".to_owned(), "third".to_owned())].into(),
            taints: vec!["svclb.io/test=third:PreferNoSchedule".to_owned()],
            external_ips: vec![EXTERNAL_IP.parse()?],
            ..NodeSettings::default()
        };
        options.node_settings.insert(3, settings);
        let cluster = Temporary::up(&options, &Progress::silent())?;
        run_echo(&cluster)?;
        *shared = Some(cluster);
    }
    let cluster = shared
        .as_deref()
        .context("the shared cluster has just been made")?;
    Ok(cluster.clone())
}

/// After the last test.
pub(crate) fn take_down() {
    drop(SHARED.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// A cluster of the default kind.
pub(crate) fn named(name: &str, nodes: usize) -> Options {
    Options {
        name: name.to_owned(),
        nodes,
        ..Options::default()
    }
}

/// Makes the echo pods and their Service, and waits until they are Ready.
pub(crate) fn run_echo(cluster: &Cluster) -> Result<()> {
    cluster.apply(&format!(
        r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: echo}}
spec:
  selector: {{matchLabels: {{app: echo}}}}
  template:
    metadata: {{labels: {{app: echo}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: echo
        image: {ECHO_IMAGE}
        args: [--http=8080]
        env: [{{name: NODE_NAME, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}]
        ports: [{{containerPort: 8080, hostPort: {HOST_PORT}}}]
        readinessProbe: {{httpGet: {{path: /healthz, port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: echo}}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {{app: echo}}
  ports: [{{port: 80, targetPort: 8080, nodePort: {NODE_PORT}}}]
"#
    ))?;
    cluster.kubectl(&["rollout", "status", "daemonset/echo", "--timeout=120s"])?;
    Ok(())
}

/// The echo pod of a node.
pub(crate) fn pod_on(cluster: &Cluster, node: &Host) -> Result<String> {
    let on_node = format!("--field-selector=spec.nodeName={node}");
    let name = "--output=jsonpath={.items[*].metadata.name}";
    Ok(cluster.kubectl(&["get", "pods", "--selector=app=echo", &on_node, name])?)
}

/// A field of an object, words apart.
pub(crate) fn field(cluster: &Cluster, object: &str, path: &str) -> Result<Vec<String>> {
    let text = cluster.kubectl(&["get", object, &format!("--output=jsonpath={{{path}}}")])?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// The arguments of curl for `http://ADDRESS:PORT/PATH`.
pub(crate) fn curl(address: &str, port: u16, path: &str) -> Vec<String> {
    let host = if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    };
    let url = format!("http://{host}:{port}/{path}");
    [
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "3",
        &url,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Asks from a host until there is an answer: rules follow what the API says within a second or two.
pub(crate) fn get(host: &Host, address: &str, port: u16, path: &str) -> Result<String> {
    let arguments = curl(address, port, path);
    let expected = format!("{host} gets http://{address} port {port} /{path}");
    wait_for_text(&expected, || {
        Ok(host.command("curl").args(&arguments).text()?)
    })
}

/// The same from a pod in namespace default.
pub(crate) fn get_from_pod(
    cluster: &Cluster,
    pod: &str,
    address: &str,
    port: u16,
    path: &str,
) -> Result<String> {
    let arguments = curl(address, port, path);
    let expected = format!("pod {pod} gets http://{address} port {port} /{path}");
    wait_for_text(&expected, || {
        let mut command = cluster.command_in_pod("default", pod, "curl")?;
        Ok(command.args(&arguments).text()?)
    })
}

fn wait_for_text(
    expected: &str,
    mut text: impl FnMut() -> Result<String, svclb_e2e::Error>,
) -> Result<String> {
    let answer = wait::until(expected, PATIENCE, || {
        text().map_err(|error| error.to_string())
    })?;
    Ok(answer.trim().to_owned())
}

/// Waits until a node's Ready condition is so.
pub(crate) fn wait_for_ready(cluster: &Cluster, node: &Host, status: &str) -> Result<()> {
    let object = format!("node/{node}");
    let path = r#".status.conditions[?(@.type=="Ready")].status"#;
    wait::until(&format!("Ready of {node} is {status}"), PATIENCE, || {
        let seen = field(cluster, &object, path)
            .map_err(|error| format!("{error:#}"))?
            .concat();
        if seen == status { Ok(()) } else { Err(seen) }
    })?;
    Ok(())
}

/// Waits until each of these nodes' kubelets has told the API server once more that it lives.
pub(crate) fn wait_for_signs_of_life(cluster: &Cluster, nodes: &[Host]) -> Result<()> {
    let renewed = |node: &Host| {
        let lease = format!("lease/{node}");
        let time = "--output=jsonpath={.spec.renewTime}";
        cluster.kubectl(&["--namespace=kube-node-lease", "get", &lease, time])
    };
    let last: Vec<_> = nodes.iter().map(renewed).collect::<Result<_, _>>()?;
    for (node, last) in nodes.iter().zip(last) {
        let expected = format!("the lease of {node} is renewed");
        wait::until(&expected, PATIENCE, || match renewed(node) {
            Ok(now) if now != last => Ok(()),
            Ok(now) => Err(format!("renewed at {now}")),
            Err(error) => Err(error.to_string()),
        })?;
    }
    Ok(())
}

/// The command as a person calls it.
pub(crate) fn svclb_e2e(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_svclb-e2e"));
    command.args(arguments);
    command
}

/// Runs the command and returns what it prints, or an error with what it says.
pub(crate) fn run(arguments: &[&str]) -> Result<String> {
    let output = svclb_e2e(arguments).output()?;
    ensure!(
        output.status.success(),
        "svclb-e2e {arguments:?}: {}",
        said(&output)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// What a command has to say to the user.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr)
        .trim_end()
        .to_owned()
}
