//! Requests without end, of which each failure and each gap is recorded.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use svclb_e2e::{Host, wait};

use crate::traffic::{TIMEOUT, ask_on, connect, echo_on, request, udp_socket};
use crate::world::PATIENCE;

/// A SYN that is lost is sent again after a second (RFC 6298).
const LOST: Duration = Duration::from_millis(950);
/// Between two requests of a `Flow`.
const PACE: Duration = Duration::from_millis(20);

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

    /// Lines on one connection to a port that sends everything back. When it breaks that is a failure, and another one
    /// is opened.
    pub(crate) fn kept(from: &Host, address: IpAddr, port: u16) -> Self {
        let to = SocketAddr::new(address, port);
        let mut opened = None;
        Self::start(from, format!("one connection to {to}"), move || {
            let mut stream = match opened.take() {
                Some(stream) => stream,
                None => connect(to, TIMEOUT)?,
            };
            echo_on(&mut stream)?;
            opened = Some(stream);
            Ok("the one that has it".to_owned())
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

/// How often the kernel has sent a SYN again in this thread's network (`TCPSynRetrans`, include/uapi/linux/snmp.h).
/// After [`LOST`] if nobody answered, but at once if an old socket did that still has the same ports (RFC 5961, 4.2:
/// a challenge ACK), as happens now and then where a node chooses its source ports at random.
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

    /// Fails also if a request had to be sent again because nobody answered it: there is a gap then, and a SYN that was
    /// sent again. Either alone is no fault: a busy machine makes gaps too. The host must not have asked anybody else
    /// who may keep silent.
    pub(crate) fn expect_no_gap(&self, during: &str) -> Result<()> {
        self.expect_no_failure(during)?;
        ensure!(
            self.sent_again == Some(0) || self.longest_gap() < LOST,
            "expected: every request over {} answered at once during {during}; seen: {:?} SYNs sent again, {:.1?} \
             between two answers",
            self.name,
            self.sent_again,
            self.longest_gap(),
        );
        Ok(())
    }
}
