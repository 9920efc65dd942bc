//! `svclb-e2e demo`: a guided tour. A cluster, svclb in it, a Service of type LoadBalancer, and the
//! answers that a client outside the cluster gets at every node's address.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use svclb_e2e::{Cluster, Host, Options, Progress, repository, wait};

/// In the repository, as the commands that are shown name it.
const APP: &str = "e2e/demo.yaml";
/// The replicas in that file.
const REPLICAS: usize = 3;
/// How long anything may take on a machine that is busy otherwise.
const PATIENCE: Duration = Duration::from_secs(120);
/// With three replicas at random, fewer than one run in 10^12 needs more requests to meet all.
const MOST_REQUESTS: usize = 80;

/// Gives the tour on the cluster that is up already, or on a new one.
pub(crate) fn run(options: &Options, progress: &Progress) -> Result<()> {
    ensure!(options.nodes > 0, "the tour needs a node");
    heading(
        progress,
        1,
        "A cluster, each host a network namespace of this machine",
    )?;
    let cluster = match Cluster::attach(&options.name) {
        Ok(cluster) => {
            ensure!(
                cluster.options().nodes == options.nodes,
                "the cluster that is up has another number of nodes ({}): `make down` first",
                cluster.options().nodes
            );
            say("It is up already.");
            cluster
        }
        Err(_) => Cluster::up(options, progress)?,
    };
    tour(&cluster, progress)
        .context("the cluster stays up for you to look: `make kubectl ARGS=\"...\"`, `make down`")
}

fn tour(cluster: &Cluster, progress: &Progress) -> Result<()> {
    kubectl(cluster, &["get", "nodes", "-o", "wide"])?;

    heading(
        progress,
        2,
        "svclb's two images: built, and loaded into every node",
    )?;
    build_images()?;
    let archive = repository().join("target/images/svclb-images.tar");
    cluster.load(&[&archive])?;
    say(&format!("Loaded {}.", archive.display()));

    heading(progress, 3, "svclb: one file")?;
    kubectl(cluster, &["apply", "-f", "manifests/svclb.yaml"])?;
    kubectl(
        cluster,
        &[
            "-n",
            "kube-system",
            "rollout",
            "status",
            "deployment/svclb-controller",
            "--timeout=120s",
        ],
    )?;

    heading(
        progress,
        4,
        "An app of three replicas behind a Service of type LoadBalancer",
    )?;
    kubectl(cluster, &["apply", "-f", APP])?;
    kubectl(
        cluster,
        &["rollout", "status", "deployment/web", "--timeout=120s"],
    )?;
    say("Its EXTERNAL-IP is every node's address, as soon as the port is held there:");
    let last = format!(
        "--for=jsonpath={{.status.loadBalancer.ingress[{}].ip}}",
        cluster.options().nodes - 1
    );
    kubectl(cluster, &["wait", &last, "service/web", "--timeout=120s"])?;
    kubectl(cluster, &["get", "service", "web"])?;
    say("One pod of svclb on each node holds the port:");
    kubectl(
        cluster,
        &[
            "-n",
            "kube-system",
            "get",
            "pods",
            "-o",
            "wide",
            "-l",
            "svccontroller.k3s.cattle.io/svcname=web",
        ],
    )?;

    heading(
        progress,
        5,
        "A client outside the cluster asks every node, until all replicas have answered",
    )?;
    for node in cluster.nodes() {
        let address = node
            .addresses()
            .first()
            .copied()
            .context("a node has no address")?;
        progress.check()?;
        ask_until_all_answer(&cluster.client(), address)?;
    }

    heading(progress, 6, "The cluster stays up for you")?;
    say(&format!(
        r#"
    make kubectl ARGS="get svc -A"
    make kubectl ARGS="describe service web"
    make kubectl ARGS="-n kube-system logs deployment/svclb-controller"
    make kubectl ARGS="-n kube-system logs -l svccontroller.k3s.cattle.io/svcname=web --prefix"

    Another port, and then only nodes that run the app, which now sees the client's address:
    make kubectl ARGS="patch service web --type=json -p '[{{\"op\":\"replace\",\"path\":\"/spec/ports/0/port\",\"value\":8080}}]'"
    make kubectl ARGS="patch service web -p '{{\"spec\":{{\"externalTrafficPolicy\":\"Local\"}}}}'"

    As the client:
    cargo run -q -p svclb-e2e -- exec client curl -s http://{}/

    The end:
    make down"#,
        url_host(
            cluster
                .node(1)
                .addresses()
                .first()
                .copied()
                .context("a node has no address")?
        )
    ));
    Ok(())
}

/// Begins a part of the tour, unless somebody has asked to give up.
fn heading(progress: &Progress, number: usize, text: &str) -> Result<()> {
    progress.check()?;
    say(&format!("\n=== {number}. {text}\n"));
    Ok(())
}

/// Nobody may be there to read it any more; the tour goes on all the same.
fn say(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Shows the command as a person would type it, and what it prints.
fn kubectl(cluster: &Cluster, arguments: &[&str]) -> Result<()> {
    say(&format!("$ kubectl {}", arguments.join(" ")));
    let status = cluster.kubectl_command().args(arguments).status()?;
    ensure!(status.success(), "`kubectl {}` failed", arguments.join(" "));
    say("");
    Ok(())
}

fn build_images() -> Result<()> {
    let script = repository().join("images/build.sh");
    say("$ images/build.sh svclb-images      (takes a minute or two the first time)");
    let status = Command::new(&script)
        .arg("svclb-images")
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {}", script.display()))?;
    ensure!(status.success(), "{} failed", script.display());
    Ok(())
}

fn ask_until_all_answer(client: &Host, address: IpAddr) -> Result<()> {
    let url = format!("http://{}/", url_host(address));
    say(&format!("client$ curl {url}"));
    // kube-proxy brings its rules up to date once a second at most.
    wait::until(&format!("an answer at {url}"), PATIENCE, || {
        curl(client, &url)
    })?;
    let mut pods = BTreeSet::new();
    for request in 1..=MOST_REQUESTS {
        let answer = curl(client, &url).map_err(anyhow::Error::msg)?;
        say(&format!("  {answer}"));
        pods.extend(
            answer
                .split(' ')
                .find_map(|word| word.strip_prefix("pod="))
                .map(str::to_owned),
        );
        if pods.len() == REPLICAS {
            say(&format!(
                "  all {REPLICAS} replicas have answered within {request} requests\n"
            ));
            return Ok(());
        }
    }
    bail!("only {pods:?} answered {MOST_REQUESTS} requests at {url}")
}

fn curl(client: &Host, url: &str) -> Result<String, String> {
    let answer = client
        .command("curl")
        .args(["--silent", "--show-error", "--max-time", "5", url])
        .text();
    answer
        .map(|text| text.trim_end().to_owned())
        .map_err(|error| error.to_string())
}

fn url_host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_app_is_the_echo_server_of_this_version() {
        let app = std::fs::read_to_string(repository().join(APP)).unwrap();
        let image = concat!("image: localhost/svclb-echo:", env!("CARGO_PKG_VERSION"));
        assert!(app.contains(image), "no {image} in {APP}");
        assert!(
            app.contains(&format!("replicas: {REPLICAS}")),
            "another number of replicas in {APP}"
        );
    }
}
