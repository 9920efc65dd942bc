//! Servers that say who they are and whom they see, and clients that ask them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect as connect_socket,
    setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{BACKENDS, Lab, Namespace, PATIENCE, wait_until};

/// Servers of both backends, on both protocols and both families. They serve until the test ends.
///
/// To a TCP line `who` and to a UDP datagram they answer `backend:port sees client`; to a TCP line
/// `send N` they send that many bytes.
pub(crate) struct Server;

impl Server {
    pub(crate) fn start(lab: &Lab, ports: &[u16]) {
        for (index, backend) in lab.backends.iter().enumerate() {
            for address in BACKENDS[index] {
                for &port in ports {
                    let address = SocketAddr::new(address.parse().unwrap(), port);
                    let (tcp, udp) = backend.run(|| {
                        (
                            TcpListener::bind(address).unwrap(),
                            UdpSocket::bind(address).unwrap(),
                        )
                    });
                    thread::spawn(move || serve_tcp(&tcp, index));
                    thread::spawn(move || serve_udp(&udp, index));
                }
            }
        }
    }
}

fn serve_tcp(listener: &TcpListener, backend: usize) {
    for stream in listener.incoming().map_while(Result::ok) {
        thread::spawn(move || answer(stream, backend));
    }
}

fn answer(mut stream: TcpStream, backend: usize) -> io::Result<()> {
    let port = stream.local_addr()?.port();
    let client = stream.peer_addr()?.ip();
    let requests = BufReader::new(stream.try_clone()?);
    for request in requests.lines() {
        match request?.strip_prefix("send ") {
            Some(number) => {
                let number = number.parse().unwrap_or(0);
                io::copy(&mut io::repeat(b'x').take(number), &mut stream)?;
            }
            None => stream.write_all(format!("{backend}:{port} sees {client}\n").as_bytes())?,
        }
    }
    Ok(())
}

fn serve_udp(socket: &UdpSocket, backend: usize) {
    let port = socket.local_addr().unwrap().port();
    let mut datagram = [0; 1500];
    while let Ok((_, client)) = socket.recv_from(&mut datagram) {
        let _ = socket.send_to(
            format!("{backend}:{port} sees {}", client.ip()).as_bytes(),
            client,
        );
    }
}

/// A TCP connection from one of the namespace's addresses.
pub(crate) fn connect(
    namespace: &Namespace,
    from: &str,
    to: &str,
    port: u16,
    patience: Duration,
) -> io::Result<TcpStream> {
    let from = SocketAddr::new(from.parse().unwrap(), 0);
    let to = SocketAddr::new(to.parse().unwrap(), port);
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    namespace.run(|| {
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let patience = TimeVal::milliseconds(patience.as_millis().try_into().unwrap());
        setsockopt(&socket, SendTimeout, &patience)?;
        setsockopt(&socket, ReceiveTimeout, &patience)?;
        let raw = std::os::fd::AsRawFd::as_raw_fd(&socket);
        bind(raw, &SockaddrStorage::from(from))?;
        connect_socket(raw, &SockaddrStorage::from(to))?;
        Ok(TcpStream::from(socket))
    })
}

/// Whom a TCP connection reaches, as the server says it.
pub(crate) fn ask_tcp(
    namespace: &Namespace,
    from: &str,
    to: &str,
    port: u16,
) -> io::Result<String> {
    let mut stream = connect(namespace, from, to, port, PATIENCE)?;
    stream.write_all(b"who\n")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer.trim_end().into())
}

/// Whether a TCP connection gets no answer at all, neither yes nor no.
pub(crate) fn is_kept_out(namespace: &Namespace, from: &str, to: &str, port: u16) -> bool {
    match connect(namespace, from, to, port, Duration::from_secs(2)) {
        Ok(_) => false,
        // What a connect under a time limit ends with.
        Err(error) => error.raw_os_error() == Some(nix::libc::EINPROGRESS),
    }
}

/// Whom a UDP datagram reaches, from a socket that may have been used before. It is sent once more
/// every now and then: nothing promises that a datagram arrives. So there may be more answers than were
/// waited for, and those from before do not count.
pub(crate) fn ask_udp(
    socket: &UdpSocket,
    to: &str,
    port: u16,
    patience: Duration,
) -> Option<String> {
    let to = SocketAddr::new(to.parse::<IpAddr>().unwrap(), port);
    let mut datagram = [0; 1500];
    socket.set_nonblocking(true).unwrap();
    while socket.recv_from(&mut datagram).is_ok() {}
    socket.set_nonblocking(false).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let started = std::time::Instant::now();
    while started.elapsed() < patience {
        // An ICMP error about an earlier datagram may come instead of an answer.
        let _ = socket.send_to(b"who", to);
        if let Ok((length, _)) = socket.recv_from(&mut datagram) {
            return Some(String::from_utf8(datagram[..length].to_vec()).unwrap());
        }
    }
    None
}

/// Traffic that goes on in a thread of its own, and which fails the test if it breaks.
struct Ongoing {
    what: &'static str,
    /// How much there has been.
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Ongoing {
    /// Does `step` again and again; it tells how much more has been done.
    fn start(what: &'static str, mut step: impl FnMut() -> u64 + Send + 'static) -> Self {
        let (done, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (counter, stopped) = (Arc::clone(&done), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                counter.fetch_add(step(), Ordering::Relaxed);
            }
        });
        Self {
            what,
            done,
            stop,
            thread,
        }
    }

    /// Waits until so much more has been done.
    fn goes_on_for(&self, more: u64) {
        let goal = self.done.load(Ordering::Relaxed) + more;
        wait_until(self.what, || {
            assert!(!self.thread.is_finished(), "broken: {}", self.what);
            self.done.load(Ordering::Relaxed) >= goal
        });
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert!(self.thread.join().is_ok(), "broken: {}", self.what);
    }
}

/// A download that never ends, and which fails the test if it breaks.
pub(crate) struct Download(Ongoing);

impl Download {
    pub(crate) fn start(namespace: &Namespace, from: &str, to: &str, port: u16) -> Self {
        let mut stream = connect(namespace, from, to, port, PATIENCE).unwrap();
        stream.write_all(b"send 1000000000000\n").unwrap();
        let mut buffer = vec![0; 16 << 10];
        Self(Ongoing::start("the progress of a download", move || {
            let length = stream.read(&mut buffer).expect("the download goes on");
            assert_ne!(length, 0, "the download ended early");
            // There is a machine to be shared.
            thread::sleep(Duration::from_millis(1));
            length as u64
        }))
    }

    /// Waits until so much more has come in.
    pub(crate) fn goes_on_for(&self, bytes: u64) {
        self.0.goes_on_for(bytes);
    }

    pub(crate) fn stop(self) {
        self.0.stop();
    }
}

/// New connections, one after the other, of which none may fail.
pub(crate) struct Connections(Ongoing);

impl Connections {
    pub(crate) fn tcp(lab: &Arc<Lab>, from: &'static str, to: &'static str, port: u16) -> Self {
        let lab = Arc::clone(lab);
        Self(Ongoing::start("new connections", move || {
            let answer = ask_tcp(&lab.client, from, to, port).expect("a new connection");
            assert!(answer.contains("sees"), "{answer:?} is no answer");
            1
        }))
    }

    /// UDP senders, each from a port of its own.
    pub(crate) fn udp(lab: &Arc<Lab>, from: &'static str, to: &'static str, port: u16) -> Self {
        let lab = Arc::clone(lab);
        Self(Ongoing::start("new UDP senders", move || {
            let socket = lab.client.run(|| UdpSocket::bind((from, 0)).unwrap());
            let answer = ask_udp(&socket, to, port, PATIENCE).expect("an answer");
            assert!(answer.contains("sees"), "{answer:?} is no answer");
            1
        }))
    }

    /// Waits until so many more were made.
    pub(crate) fn go_on_for(&self, connections: u64) {
        self.0.goes_on_for(connections);
    }

    pub(crate) fn stop(self) {
        self.0.stop();
    }
}
