//! Listening sockets of both IP families, and the two services that need nothing else: bytes and
//! datagrams that come back.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

/// A connection is a thread, and thousands may be open.
const STACK: usize = 64 * 1024;

/// Runs `serve` on a thread of its own for each connection to `port`.
pub(crate) fn accept(
    port: u16,
    serve: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static,
) -> Result<(), String> {
    let listener =
        on_all_addresses(port, TcpListener::bind).map_err(|error| cannot("TCP", port, &error))?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = serve.clone();
            let spawned = stream.and_then(|stream| {
                thread::Builder::new().stack_size(STACK).spawn(move || {
                    // A client that leaves in the middle is the client's affair.
                    let _ = serve(stream);
                })
            });
            if let Err(error) = spawned {
                // Out of descriptors or threads: others must end first.
                eprintln!("echo: a connection to port {port} was dropped: {error}");
                thread::sleep(Duration::from_millis(10));
            }
        }
    });
    Ok(())
}

/// Sends back what comes, until the client has no more to say.
pub(crate) fn echo_stream(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        stream.write_all(&buffer[..length])?;
    }
}

/// Answers each datagram that comes to `port` with what `answer` makes of it.
pub(crate) fn echo_datagrams(
    port: u16,
    answer: impl Fn(&[u8], SocketAddr) -> Vec<u8> + Send + 'static,
) -> Result<(), String> {
    let socket =
        on_all_addresses(port, UdpSocket::bind).map_err(|error| cannot("UDP", port, &error))?;
    thread::spawn(move || {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            // An error belongs to an earlier answer (nobody listens there any more), not to the socket.
            if let Ok((length, client)) = socket.recv_from(&mut buffer) {
                let answer = answer(&buffer[..length], canonical(client));
                let _ = socket.send_to(&answer, client);
            }
        }
    });
    Ok(())
}

/// The address as the client has it: IPv4 arrives at an IPv6 socket in IPv6's clothes.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// `[::]` takes IPv4 as well (`net.ipv6.bindv6only` is 0 unless somebody changed it). Where there is no
/// IPv6 there is no such socket or no such address.
fn on_all_addresses<S>(port: u16, bind: fn(SocketAddr) -> io::Result<S>) -> io::Result<S> {
    bind((Ipv6Addr::UNSPECIFIED, port).into()).or_else(|error| match error.kind() {
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied => Err(error),
        _ => bind((Ipv4Addr::UNSPECIFIED, port).into()),
    })
}

fn cannot(protocol: &str, port: u16, error: &io::Error) -> String {
    format!("cannot listen on {protocol} port {port}: {error}")
}
