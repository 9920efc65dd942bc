//! What a client sees: single requests, and requests without end of which each failure is recorded.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use svclb_e2e::{Cluster, Host, wait};

use crate::world::PATIENCE;

/// A request that is not answered within this time has failed. Lost packets are sent again after
/// one, three and seven seconds.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Who is kept out is not answered: this long is waited for it.
const SILENCE: Duration = Duration::from_millis(1500);
/// Between two requests of a `Flow`.
const PACE: Duration = Duration::from_millis(20);

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
        from.within(|| {
            let mut stream = connect(to, TIMEOUT)?;
            stream
                .write_all(b"hello over TCP")
                .map_err(|error| error.to_string())?;
            let mut back = [0; 14];
            stream
                .read_exact(&mut back)
                .map_err(|error| error.to_string())?;
            if back == *b"hello over TCP" {
                Ok(())
            } else {
                Err(format!("{back:?}"))
            }
        })
        .map_err(|error| error.to_string())?
    })?;
    Ok(())
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

fn udp_socket(peer: IpAddr, port: u16) -> Result<UdpSocket, String> {
    let any = if peer.is_ipv4() { "0.0.0.0" } else { "::" };
    UdpSocket::bind((any, port)).map_err(|error| format!("cannot bind to port {port}: {error}"))
}

/// On a socket that is not connected, whose old errors do not count.
fn ask_on(socket: &UdpSocket, to: SocketAddr, timeout: Duration) -> Result<String, String> {
    let said = |error: std::io::Error| error.to_string();
    socket.set_read_timeout(Some(timeout)).map_err(said)?;
    socket.send_to(b"hostname", to).map_err(said)?;
    let mut buffer = [0; 512];
    let (length, _) = socket.recv_from(&mut buffer).map_err(said)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn connect(to: SocketAddr, timeout: Duration) -> Result<TcpStream, String> {
    let stream = TcpStream::connect_timeout(&to, timeout)
        .map_err(|error| format!("cannot connect to {to}: {error}"))?;
    let said = |error: std::io::Error| error.to_string();
    stream.set_read_timeout(Some(timeout)).map_err(said)?;
    stream.set_write_timeout(Some(timeout)).map_err(said)?;
    Ok(stream)
}

/// The thread must be in the client's network namespace.
fn request(to: SocketAddr, timeout: Duration) -> Result<Answer, String> {
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

/// One request of a `Flow`.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// When it was sent.
    pub(crate) at: Instant,
    /// Who answered, or why nobody did.
    pub(crate) result: Result<String, String>,
}

/// Requests one after the other, until it is stopped.
pub(crate) struct Flow {
    name: String,
    stop: Arc<AtomicBool>,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    thread: JoinHandle<Result<u64, String>>,
}

impl Flow {
    /// HTTP requests from a host, a connection each.
    pub(crate) fn http(from: &Host, address: IpAddr, port: u16) -> Self {
        let to = SocketAddr::new(address, port);
        Self::start(from, format!("HTTP to {to}"), move || {
            request(to, TIMEOUT).map(|answer| answer.pod)
        })
    }

    /// Datagrams from one port of a host.
    pub(crate) fn udp(from: &Host, address: IpAddr, port: u16, from_port: u16) -> Self {
        let to = SocketAddr::new(address, port);
        // Opened by the first request, since only then the thread is on the host.
        let mut opened = None;
        Self::start(
            from,
            format!("UDP to {to} from port {from_port}"),
            move || {
                let socket = match opened.take() {
                    Some(socket) => socket,
                    None => udp_socket(address, from_port)?,
                };
                let answer = ask_on(&socket, to, Duration::from_millis(200));
                opened = Some(socket);
                answer
            },
        )
    }

    fn start(
        from: &Host,
        name: String,
        mut once: impl FnMut() -> Result<String, String> + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let outcomes: Arc<Mutex<Vec<Outcome>>> = Arc::default();
        let thread = {
            let (from, stop, outcomes) = (from.clone(), Arc::clone(&stop), Arc::clone(&outcomes));
            thread::spawn(move || {
                from.within(|| {
                    let before = sent_again()?;
                    while !stop.load(Ordering::Relaxed) {
                        let at = Instant::now();
                        let result = once();
                        lock(&outcomes).push(Outcome { at, result });
                        thread::sleep(PACE.saturating_sub(at.elapsed()));
                    }
                    Ok(sent_again()? - before)
                })
                .map_err(|error| error.to_string())?
            })
        };
        Self {
            name,
            stop,
            outcomes,
            thread,
        }
    }

    /// Waits until a request is answered that was sent after this moment, and returns when it was sent.
    pub(crate) fn answered_after(&self, moment: Instant) -> Result<Instant> {
        let expected = format!("an answer over {}", self.name);
        let at = wait::until(&expected, PATIENCE, || {
            let outcomes = lock(&self.outcomes);
            let answered = outcomes
                .iter()
                .find(|outcome| outcome.at >= moment && outcome.result.is_ok());
            match answered {
                Some(outcome) => Ok(outcome.at),
                None => Err(format!("{:?}", outcomes.last())),
            }
        })?;
        Ok(at)
    }

    /// What has happened so far.
    pub(crate) fn so_far(&self) -> Record {
        Record {
            name: self.name.clone(),
            outcomes: lock(&self.outcomes).clone(),
            sent_again: None,
        }
    }

    /// Ends it and returns what happened.
    pub(crate) fn stop(self) -> Result<Record> {
        self.stop.store(true, Ordering::Relaxed);
        let sent_again = match self.thread.join() {
            Ok(outcome) => outcome.map_err(anyhow::Error::msg)?,
            Err(_) => bail!("the thread of {} panicked", self.name),
        };
        let outcomes = lock(&self.outcomes).clone();
        ensure!(
            !outcomes.is_empty(),
            "not one request was sent over {}",
            self.name
        );
        Ok(Record {
            name: self.name,
            outcomes,
            sent_again: Some(sent_again),
        })
    }
}

/// How often the kernel has sent a SYN again in this thread's network: nobody had answered the one before, for a
/// second or longer (`TCPSynRetrans`, include/uapi/linux/snmp.h).
fn sent_again() -> Result<u64, String> {
    let path = "/proc/thread-self/net/netstat";
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    // Two lines of each kind: names, then values.
    let mut of_tcp = text
        .lines()
        .filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (of_tcp.next(), of_tcp.next());
    let mut pairs = names
        .into_iter()
        .flat_map(str::split_whitespace)
        .zip(values.into_iter().flat_map(str::split_whitespace));
    let counter = pairs.find(|(name, _)| *name == "TCPSynRetrans");
    counter
        .and_then(|(_, value)| value.parse().ok())
        .ok_or_else(|| format!("no TCPSynRetrans in {path}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What became of the requests of a `Flow`.
pub(crate) struct Record {
    name: String,
    /// In the order in which they were sent.
    pub(crate) outcomes: Vec<Outcome>,
    /// SYNs that the host has sent again meanwhile, this flow's or another one's. Known at the end.
    sent_again: Option<u64>,
}

impl Record {
    /// The longest time from one request that was answered to the next that was.
    pub(crate) fn longest_gap(&self) -> Duration {
        let answered: Vec<Instant> = self
            .outcomes
            .iter()
            .filter(|outcome| outcome.result.is_ok())
            .map(|outcome| outcome.at)
            .collect();
        let gaps = answered.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or_default()
    }

    /// Fails with the first of the requests that failed.
    pub(crate) fn expect_no_failure(&self, during: &str) -> Result<()> {
        let failed: Vec<_> = self
            .outcomes
            .iter()
            .filter_map(|outcome| Some((outcome.at, outcome.result.as_ref().err()?)))
            .collect();
        if let (Some((at, error)), Some(first)) = (failed.first(), self.outcomes.first()) {
            bail!(
                "expected: every request over {} answered during {during}; seen: {} of {} failed, the first after {:.1} s: {error}",
                self.name,
                failed.len(),
                self.outcomes.len(),
                (*at - first.at).as_secs_f64(),
            );
        }
        Ok(())
    }

    /// Fails also if a request had to be sent again to be answered. The host must not have asked anybody else who may
    /// keep silent.
    pub(crate) fn expect_no_gap(&self, during: &str) -> Result<()> {
        self.expect_no_failure(during)?;
        ensure!(
            self.sent_again == Some(0),
            "expected: every request over {} answered at once during {during}; seen: {:?} SYNs sent again, {:.1?} \
             between two answers",
            self.name,
            self.sent_again,
            self.longest_gap(),
        );
        Ok(())
    }
}
