//! The packaged load generators: wrk for requests on kept connections, iperf3 for throughput.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::Value;
use svclb_e2e::Host;

/// The shortest time that both can be told.
const SECONDS: &str = "1";

/// Requests per second on 8 connections that stay open.
pub(super) fn requests(client: &Host, target: SocketAddr) -> Result<f64> {
    let url = format!("http://{target}/healthz");
    let arguments = [
        "--threads",
        "1",
        "--connections",
        "8",
        "--duration",
        SECONDS,
        url.as_str(),
    ];
    let text = client.command("wrk").args(arguments).text()?;
    let rate = text.lines().find_map(|line| {
        line.trim()
            .strip_prefix("Requests/sec:")?
            .trim()
            .parse()
            .ok()
    });
    rate.with_context(|| format!("reading wrk's answer: {text}"))
}

/// Bits per second that a TCP connection carries.
pub(super) fn tcp(client: &Host, target: SocketAddr) -> Result<f64> {
    let answer = iperf(client, target, &[])?;
    number(&answer, "/end/sum_received/bits_per_second")
}

/// Bits per second of UDP that arrive when the sender sends what it can.
pub(super) fn udp(client: &Host, target: SocketAddr) -> Result<f64> {
    let answer = iperf(client, target, &["--udp", "--bitrate", "0"])?;
    let sent = number(&answer, "/end/sum/bits_per_second")?;
    Ok(sent * (1.0 - number(&answer, "/end/sum/lost_percent")? / 100.0))
}

fn iperf(client: &Host, target: SocketAddr, more: &[&str]) -> Result<Value> {
    let (address, port) = (target.ip().to_string(), target.port().to_string());
    let arguments = [
        "--client", &address, "--port", &port, "--time", SECONDS, "--json",
    ];
    let text = client.command("iperf3").args(arguments).args(more).text()?;
    serde_json::from_str(&text).with_context(|| format!("reading iperf3's answer: {text}"))
}

fn number(answer: &Value, path: &str) -> Result<f64> {
    let value = answer.pointer(path).and_then(Value::as_f64);
    value.with_context(|| format!("iperf3's answer has no {path}: {answer}"))
}
