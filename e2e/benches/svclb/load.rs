//! The load generator: connect, request, response, close, with a source port of its own for every
//! connection and percentiles of the whole; and a bulk sender.
//!
//! Our own, because no packaged one does this: wrk and ab keep connections or leave the source port
//! to chance, iperf3 opens none, netperf's TCP_CRR is in no free archive. Clients are closed loops:
//! each begins its next connection when the last has ended.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::sample::Samples;

/// No connection may take longer; one that does counts as failed.
const PATIENCE: Duration = Duration::from_secs(2);
/// The first source port: below lie the ports of services, which firewalls may treat otherwise.
const FIRST_PORT: u16 = 1024;
/// The stack of a server's thread, which holds one small buffer.
const STACK: usize = 64 * 1024;

/// What one run of connections measured.
pub(crate) struct Connections {
    /// Completed connections per second.
    pub(crate) rate: f64,
    /// From before `connect` to the response, in microseconds.
    pub(crate) latency: Samples,
    /// Connections that failed or took longer than two seconds.
    pub(crate) failed: usize,
}

/// Opens connections from the current namespace for `duration`, `clients` at a time, to `targets` in
/// turn. Each sends one byte and waits for one.
pub(crate) fn connections(
    targets: &[SocketAddr],
    clients: u16,
    duration: Duration,
) -> Result<Connections> {
    let begun = Instant::now();
    let share = (u16::MAX - FIRST_PORT) / clients;
    let clients: Vec<Client> = thread::scope(|scope| {
        let running: Vec<_> = (0..clients)
            .map(|index| {
                let ports = FIRST_PORT + index * share..FIRST_PORT + (index + 1) * share;
                scope.spawn(move || {
                    Client::run(targets, usize::from(index), ports, begun + duration)
                })
            })
            .collect();
        running
            .into_iter()
            .filter_map(|client| client.join().ok())
            .collect()
    });
    let elapsed = begun.elapsed();
    let failed = clients.iter().map(|client| client.failed).sum();
    let latency: Samples = clients
        .into_iter()
        .flat_map(|client| client.microseconds)
        .collect::<Vec<_>>()
        .into();
    if latency.len() == 0 {
        bail!("no connection to {targets:?} succeeded, {failed} failed");
    }
    Ok(Connections {
        rate: latency.len() as f64 / elapsed.as_secs_f64(),
        latency,
        failed,
    })
}

/// One closed loop and what it saw.
#[derive(Default)]
struct Client {
    microseconds: Vec<f64>,
    failed: usize,
}

impl Client {
    /// Clients begin at different targets, so that they do not march in step.
    fn run(
        targets: &[SocketAddr],
        first: usize,
        ports: std::ops::Range<u16>,
        end: Instant,
    ) -> Self {
        let mut client = Self::default();
        let targets = targets.iter().cycle().skip(first);
        for (port, target) in ports.cycle().zip(targets) {
            if Instant::now() >= end {
                break;
            }
            match exchange(port, *target) {
                Ok(took) => client.microseconds.push(took.as_secs_f64() * 1e6),
                // The port still belongs to an earlier connection of ours: nothing was sent.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable
                    ) => {}
                Err(_) => client.failed += 1,
            }
        }
        client
    }
}

/// One connection from `port`: connect, one byte there, one byte back, close.
fn exchange(port: u16, target: SocketAddr) -> std::io::Result<Duration> {
    let (family, any) = match target.ip() {
        IpAddr::V4(_) => (AddressFamily::Inet, IpAddr::from([0; 4])),
        IpAddr::V6(_) => (AddressFamily::Inet6, IpAddr::from([0; 16])),
    };
    let socket: OwnedFd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(
        &socket,
        sockopt::SendTimeout,
        &TimeVal::milliseconds(PATIENCE.as_millis() as i64),
    )?;
    bind(
        socket.as_raw_fd(),
        &SockaddrStorage::from(SocketAddr::new(any, port)),
    )?;
    let begun = Instant::now();
    connect(socket.as_raw_fd(), &SockaddrStorage::from(target))?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"?")?;
    stream.read_exact(&mut [0])?;
    Ok(begun.elapsed())
}

/// Sends to `target` from the current namespace for `duration` over one connection; `received` is
/// what the server there has counted. Gives bits per second as the server saw them.
pub(crate) fn bulk(target: SocketAddr, duration: Duration, server: &Server) -> Result<f64> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)
        .with_context(|| format!("connecting to {target}"))?;
    stream
        .set_write_timeout(Some(PATIENCE))
        .context("setting a timeout")?;
    let block = vec![0; 128 * 1024];
    // The first block ends slow start's beginning, outside the time that counts.
    stream.write_all(&block).context("sending")?;
    let (begun, before) = (Instant::now(), server.received());
    while begun.elapsed() < duration {
        stream.write_all(&block).context("sending")?;
    }
    let bits = (server.received() - before) as f64 * 8.0;
    Ok(bits / begun.elapsed().as_secs_f64())
}

/// Answers every byte of a small request with a byte, and swallows and counts what is larger. It
/// ends with its last connection after it is dropped.
pub(crate) struct Server {
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Server {
    /// Serves `ports` in the current namespace, with `threads` that accept on each.
    pub(crate) fn start(ports: impl Iterator<Item = u16>, threads: usize) -> Result<Self> {
        let server = Self {
            received: Arc::default(),
            stop: Arc::default(),
        };
        for port in ports {
            let listener = TcpListener::bind((IpAddr::from([0; 4]), port))
                .with_context(|| format!("listening on port {port}"))?;
            // A bounded wait in accept is how the threads notice the end.
            setsockopt(&listener, sockopt::ReceiveTimeout, &TimeVal::seconds(1))
                .context("setting a timeout")?;
            let listener = Arc::new(listener);
            for _ in 0..threads {
                let (listener, received, stop) = (
                    Arc::clone(&listener),
                    Arc::clone(&server.received),
                    Arc::clone(&server.stop),
                );
                thread::Builder::new()
                    .stack_size(STACK)
                    .spawn(move || {
                        while !stop.load(Ordering::Relaxed) {
                            if let Ok((stream, _)) = listener.accept() {
                                // A connection that breaks is the client's to count.
                                let _ = serve(stream, &received);
                            }
                        }
                    })
                    .context("starting a server's thread")?;
            }
        }
        Ok(server)
    }

    /// Bytes received so far, from all clients.
    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn serve(mut stream: TcpStream, received: &AtomicU64) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut small = [0; 16];
    let mut count = stream.read(&mut small)?;
    let request = count == 1;
    if request {
        stream.write_all(b"!")?;
    }
    let mut buffer = vec![0; if request { 16 } else { 256 * 1024 }];
    while count > 0 {
        received.fetch_add(count as u64, Ordering::Relaxed);
        count = stream.read(&mut buffer)?;
    }
    Ok(())
}
