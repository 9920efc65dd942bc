//! Servers that say who they are and whom they see, and clients that ask them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect as connect_socket,
    setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{BACKENDS, Lab, Namespace, PATIENCE};

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

/// Whom a UDP datagram reaches, from a socket that may have been used before. It is sent once more
/// every now and then: nothing promises that a datagram arrives.
pub(crate) fn ask_udp(
    socket: &UdpSocket,
    to: &str,
    port: u16,
    patience: Duration,
) -> Option<String> {
    let to = SocketAddr::new(to.parse::<IpAddr>().unwrap(), port);
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let started = std::time::Instant::now();
    let mut datagram = [0; 1500];
    while started.elapsed() < patience {
        // An ICMP error about an earlier datagram may come instead of an answer.
        let _ = socket.send_to(b"who", to);
        if let Ok((length, _)) = socket.recv_from(&mut datagram) {
            return Some(String::from_utf8(datagram[..length].to_vec()).unwrap());
        }
    }
    None
}
