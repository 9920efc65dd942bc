//! What a client sees: single requests, and who is kept out.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use svclb_e2e::{Cluster, Host, wait};

use crate::world::PATIENCE;

/// A request that is not answered within this time has failed. Lost packets are sent again after
/// one, three and seven seconds.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);
/// Who is kept out is not answered: this long is waited for it.
const SILENCE: Duration = Duration::from_millis(1500);

/// Who answered, and whom it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The pod's name.
    pub(crate) pod: String,
    /// The name of its node.
    pub(crate) node: String,
    /// The client's address as the pod sees it.
    pub(crate) client: IpAddr,
}

/// One HTTP request on a connection of its own.
pub(crate) fn ask(from: &Host, address: IpAddr, port: u16) -> Result<Answer, String> {
    let to = SocketAddr::new(address, port);
    from.within(|| request(to, TIMEOUT))
        .map_err(|error| error.to_string())?
}

/// Asks until there is an answer.
pub(crate) fn ask_patiently(from: &Host, address: IpAddr, port: u16) -> Result<Answer> {
    let expected = format!("an answer from {address} port {port} to {from}");
    Ok(wait::until(&expected, PATIENCE, || {
        ask(from, address, port)
    })?)
}

/// Waits until there is an answer, for a `Flow` of the client's to begin. Another host asks: an attempt before
/// kube-proxy has its rules stays in the node's connection tracking for two minutes, with nobody behind it, and
/// the flow would lose the request that comes from the same source port.
pub(crate) fn await_answer(cluster: &Cluster, address: IpAddr, port: u16) -> Result<()> {
    ask_patiently(&cluster.control_plane(), address, port).map(drop)
}

/// Asks until so many pods have answered, and returns their names.
pub(crate) fn ask_until(
    from: &Host,
    address: IpAddr,
    port: u16,
    pods: usize,
) -> Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    let expected = format!("answers of {pods} pods from {address} port {port} to {from}");
    wait::until(&expected, PATIENCE, || {
        // Some at a time: `until` makes a pause between two looks.
        for _ in 0..10 {
            seen.insert(ask(from, address, port)?.pod);
        }
        if seen.len() >= pods {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })?;
    Ok(seen)
}

/// Waits until nobody answers at any of these addresses.
pub(crate) fn expect_silence(from: &Host, addresses: &[IpAddr], port: u16) -> Result<()> {
    // At the same time, since each takes as long as silence does.
    thread::scope(|scope| {
        let waits: Vec<_> = addresses
            .iter()
            .map(|address| scope.spawn(|| expect_silence_at(from, *address, port)))
            .collect();
        waits.into_iter().try_for_each(|wait| match wait.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("a thread panicked"),
        })
    })
}

fn expect_silence_at(from: &Host, address: IpAddr, port: u16) -> Result<()> {
    let expected = format!("no answer from {address} port {port} to {from}");
    wait::until(&expected, PATIENCE, || {
        let to = SocketAddr::new(address, port);
        match from.within(|| request(to, SILENCE)) {
            Ok(Err(_)) => Ok(()),
            Ok(Ok(answer)) => Err(format!("{answer:?}")),
            Err(error) => Err(error.to_string()),
        }
    })?;
    Ok(())
}

/// One line to a TCP port that sends everything back.
pub(crate) fn echo_tcp(from: &Host, address: IpAddr, port: u16) -> Result<()> {
    let to = SocketAddr::new(address, port);
    let expected = format!("an echo from {to} over TCP to {from}");
    wait::until(&expected, PATIENCE, || {
        from.within(|| echo_on(&mut connect(to, TIMEOUT)?))
            .map_err(|error| error.to_string())?
    })?;
    Ok(())
}

/// One line there and back on a connection that is open.
pub(crate) fn echo_on(stream: &mut TcpStream) -> Result<(), String> {
    let said = |error: std::io::Error| error.to_string();
    stream.write_all(b"hello over TCP").map_err(said)?;
    let mut back = [0; 14];
    stream.read_exact(&mut back).map_err(said)?;
    if back == *b"hello over TCP" {
        Ok(())
    } else {
        Err(format!("{back:?}"))
    }
}

/// The name of the pod that answers over UDP.
pub(crate) fn ask_udp(from: &Host, address: IpAddr, port: u16) -> Result<String> {
    let expected = format!("an answer from {address} port {port} over UDP to {from}");
    let name = wait::until(&expected, PATIENCE, || {
        from.within(|| {
            let socket = udp_socket(address, 0)?;
            ask_on(
                &socket,
                SocketAddr::new(address, port),
                Duration::from_secs(1),
            )
        })
        .map_err(|error| error.to_string())?
    })?;
    Ok(name)
}

pub(crate) fn udp_socket(peer: IpAddr, port: u16) -> Result<UdpSocket, String> {
    let any = if peer.is_ipv4() { "0.0.0.0" } else { "::" };
    UdpSocket::bind((any, port)).map_err(|error| format!("cannot bind to port {port}: {error}"))
}

/// On a socket that is not connected, whose old errors do not count.
pub(crate) fn ask_on(
    socket: &UdpSocket,
    to: SocketAddr,
    timeout: Duration,
) -> Result<String, String> {
    let said = |error: std::io::Error| error.to_string();
    socket.set_read_timeout(Some(timeout)).map_err(said)?;
    socket.send_to(b"hostname", to).map_err(said)?;
    let mut buffer = [0; 512];
    let (length, _) = socket.recv_from(&mut buffer).map_err(said)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

pub(crate) fn connect(to: SocketAddr, timeout: Duration) -> Result<TcpStream, String> {
    let stream = TcpStream::connect_timeout(&to, timeout)
        .map_err(|error| format!("cannot connect to {to}: {error}"))?;
    let said = |error: std::io::Error| error.to_string();
    stream.set_read_timeout(Some(timeout)).map_err(said)?;
    stream.set_write_timeout(Some(timeout)).map_err(said)?;
    Ok(stream)
}

/// The thread must be in the client's network namespace.
pub(crate) fn request(to: SocketAddr, timeout: Duration) -> Result<Answer, String> {
    let text = fetch(to, "/", timeout)?;
    parse(&text).ok_or_else(|| format!("from {to}: {text:?}"))
}

/// The body of the answer to a GET.
fn fetch(to: SocketAddr, path: &str, timeout: Duration) -> Result<String, String> {
    let mut stream = connect(to, timeout)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    let failed = |error: std::io::Error| format!("no answer from {to}: {error}");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        _ => Err(format!("from {to}: {answer:?}")),
    }
}

/// The first line of what any HTTP server, also a secure one, says to a plain request.
pub(crate) fn first_line(from: &Host, to: SocketAddr) -> Result<String, String> {
    let answer = from.within(|| {
        let mut stream = connect(to, TIMEOUT)?;
        let said = |error: std::io::Error| error.to_string();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").map_err(said)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(said)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    });
    answer.map_err(|error| error.to_string())?
}

/// `pod=NAME node=NAME client=ADDRESS:PORT`
fn parse(text: &str) -> Option<Answer> {
    let mut fields = text.split_whitespace().map(|field| field.split_once('='));
    let mut next = |name| match fields.next()?? {
        (key, value) if key == name => Some(value.to_owned()),
        _ => None,
    };
    Some(Answer {
        pod: next("pod")?,
        node: next("node")?,
        client: next("client")?.parse::<SocketAddr>().ok()?.ip(),
    })
}
