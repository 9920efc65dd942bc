//! The echo server as a process: what it answers, over both IP families, and how it ends.

#![expect(
    clippy::unwrap_used,
    reason = "integration tests are functions as much as unit tests are"
)]

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// For whatever takes no time on a machine that has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(60);

const LOOPBACKS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// An echo server with a port of each kind. It ends with this.
struct Echo {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    http: u16,
    tcp: u16,
    udp: u16,
}

impl Echo {
    /// Starts it, and waits until it says that it serves. A port that was free may be somebody's by
    /// then: it ends, having said so, and others are tried.
    fn start(grace: u32) -> Self {
        (0..5).find_map(|_| Self::try_start(grace)).unwrap()
    }

    fn try_start(grace: u32) -> Option<Self> {
        // Held at the same time, so that they differ.
        let free = [(); 3].map(|()| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap());
        let [http, tcp, udp] = free.map(|listener| listener.local_addr().unwrap().port());
        let mut process = Command::new(env!("CARGO_BIN_EXE_echo"))
            .args([format!("--http={http}"), format!("--tcp={tcp}")])
            .args([format!("--udp={udp}"), format!("--grace={grace}")])
            .env("POD_NAME", "pod-1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut echo = Self {
            process,
            lines,
            http,
            tcp,
            udp,
        };
        let line = echo.lines.next()?.unwrap();
        assert!(line.starts_with("pod-1 on unknown serves http/"), "{line}");
        Some(echo)
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Asks it to end, and returns when it has heard that.
    fn ask_to_end(&mut self) {
        self.signal(Signal::SIGTERM);
        let line = self.lines.next().unwrap().unwrap();
        assert!(line.starts_with("SIGTERM: serving for another "), "{line}");
    }

    fn wait(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    fn get(&self, address: IpAddr, path: &str) -> String {
        let mut stream = connect(address, self.http);
        let request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn ask_by_datagram(&self, address: IpAddr, datagram: &str) -> String {
        let any: IpAddr = match address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let to = (address, self.udp);
        socket.send_to(datagram.as_bytes(), to).unwrap();
        let mut answer = [0; 64];
        let (length, from) = socket.recv_from(&mut answer).unwrap();
        assert_eq!(from, to.into());
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn connect(address: IpAddr, port: u16) -> TcpStream {
    let stream = TcpStream::connect((address, port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn http_says_who_asks_and_who_answers() {
    let echo = Echo::start(0);
    for address in LOOPBACKS {
        for (path, expected) in [
            ("/hostname", "pod-1".to_owned()),
            ("/clientip", address.to_string()),
            ("/healthz", "ok".to_owned()),
        ] {
            let answer = echo.get(address, path);
            assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
            assert!(answer.ends_with(&format!("\r\n\r\n{expected}")), "{answer}");
        }
    }
}

#[test]
fn every_byte_of_a_connection_comes_back() {
    let echo = Echo::start(0);
    let sent: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    for address in LOOPBACKS {
        let mut stream = connect(address, echo.tcp);
        let mut writer = stream.try_clone().unwrap();
        let to_send = sent.clone();
        let sender = std::thread::spawn(move || {
            writer.write_all(&to_send).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        sender.join().unwrap();
        assert!(received == sent, "{} bytes came back", received.len());
    }
}

#[test]
fn every_datagram_comes_back_but_for_two_questions() {
    let echo = Echo::start(0);
    for address in LOOPBACKS {
        assert_eq!(echo.ask_by_datagram(address, "hello"), "hello");
        assert_eq!(echo.ask_by_datagram(address, "hostname"), "pod-1");
        let client = echo.ask_by_datagram(address, "clientip");
        assert_eq!(client, address.to_string());
    }
}

#[test]
fn it_goes_on_serving_through_its_grace_period() {
    let mut echo = Echo::start(1000);
    let mut open = connect(LOOPBACKS[0], echo.tcp);
    echo.ask_to_end();
    // Connections that are there, new ones, and datagrams.
    open.write_all(b"still").unwrap();
    let mut answer = [0; 5];
    open.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"still");
    assert!(echo.get(LOOPBACKS[0], "/healthz").ends_with("ok"));
    assert_eq!(echo.ask_by_datagram(LOOPBACKS[0], "hello"), "hello");
    // A second signal ends it at once.
    echo.signal(Signal::SIGTERM);
    assert_eq!(echo.wait().code(), Some(0));
}

#[test]
fn it_ends_by_itself_after_its_grace_period() {
    let mut echo = Echo::start(0);
    echo.ask_to_end();
    assert_eq!(echo.wait().code(), Some(0));
}
