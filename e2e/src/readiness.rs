//! When a component is ready: what is looked at, how long it may take, and what is said if it is not.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;

use crate::component::Component;
use crate::error::{Error, LogTail};
use crate::files;
use crate::host::Host;
use crate::options::IpFamily;
use crate::progress::Progress;

/// How long a component may take. A machine that is busy otherwise needs many times the usual.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks whether a component is ready.
const PAUSE: Duration = Duration::from_millis(20);

/// How long one look at the API server may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Ready, and without the taints that tell otherwise, which are taken away a moment later.
pub(crate) fn takes_pods(node: &Node) -> Result<(), String> {
    let mut conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.find(|condition| condition.type_ == "Ready");
    match ready {
        Some(ready) if ready.status == "True" => {}
        Some(ready) => return Err(ready.message.clone().unwrap_or_default()),
        None => return Err("the kubelet has not said anything yet".to_owned()),
    }
    let mut taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    match taints.find(|taint| taint.key.starts_with("node.kubernetes.io/")) {
        Some(taint) => Err(format!("Ready, but tainted with {}", taint.key)),
        None => Ok(()),
    }
}

/// Whether the kube-proxy of the host that this thread is in has made its rules. It tells only by
/// its metrics: its health check is content from the start.
pub(crate) fn has_made_rules(family: IpFamily) -> Result<(), String> {
    let metrics = kube_proxy_metrics().map_err(|error| error.to_string())?;
    let made = |family: &str| {
        let last = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
        metrics.contains(&format!("{last}{{ip_family=\"{family}\"}}"))
    };
    let all = (!family.has_ipv4() || made("IPv4")) && (!family.has_ipv6() || made("IPv6"));
    if all {
        Ok(())
    } else {
        Err("it has made no rules yet".to_owned())
    }
}

fn kube_proxy_metrics() -> std::io::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 10249));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Waits until `probe` succeeds; its error says what it saw. Ends early with the component.
pub(crate) fn wait_for(
    host: &Host,
    component: Component,
    progress: &Progress,
    mut probe: impl FnMut() -> Result<(), String>,
) -> Result<(), Error> {
    let start = Instant::now();
    while let Err(seen) = probe() {
        check_on(host, component, progress, start, seen)?;
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// `wait_for` with an asynchronous probe. One that hangs is given up and tried again.
pub(crate) async fn wait_for_async(
    host: &Host,
    component: Component,
    progress: &Progress,
    mut probe: impl AsyncFnMut() -> Result<(), String>,
) -> Result<(), Error> {
    let start = Instant::now();
    loop {
        let seen = match tokio::time::timeout(PROBE_TIMEOUT, probe()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(seen)) => seen,
            Err(_) => "no answer".to_owned(),
        };
        check_on(host, component, progress, start, seen)?;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether it is worth waiting on.
fn check_on(
    host: &Host,
    component: Component,
    progress: &Progress,
    start: Instant,
    seen: String,
) -> Result<(), Error> {
    progress.check()?;
    // It may be another one that has ended, and that it cannot do without.
    for component in host.role().components().iter().copied() {
        if host.was_started(component) && host.process(component).is_none() {
            return Err(Error::Ended {
                component,
                host: host.name(),
                tail: tail(host, component),
            });
        }
    }
    if start.elapsed() > PATIENCE {
        return Err(Error::NotReady {
            component,
            host: host.name(),
            seconds: PATIENCE.as_secs(),
            seen,
            tail: tail(host, component),
        });
    }
    Ok(())
}

fn tail(host: &Host, component: Component) -> LogTail {
    let path = host.log(component);
    let log = files::read(&path).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    let last = lines[lines.len().saturating_sub(15)..].join("\n");
    LogTail {
        path: Some(path),
        lines: last,
    }
}
