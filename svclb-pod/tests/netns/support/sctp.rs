//! SCTP packets by hand: kernels often track SCTP connections without having SCTP sockets.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;

use super::{Namespace, PATIENCE};

/// Chunk types of RFC 9260, section 3.2.
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const COMMON_HEADER: usize = 12;

/// One end, which takes every SCTP packet to its address.
pub(crate) struct Sctp {
    // Also of a raw socket, std only uses what every datagram socket has.
    socket: UdpSocket,
    address: IpAddr,
}

/// What arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) from: IpAddr,
    pub(crate) from_port: u16,
    pub(crate) to_port: u16,
    kind: u8,
}

impl Sctp {
    pub(crate) fn open(namespace: &Namespace, address: &str) -> Self {
        let address: IpAddr = address.parse().unwrap();
        let socket = UdpSocket::from(namespace.run(|| raw_socket(address)).unwrap());
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        Self { socket, address }
    }

    /// Opens an association as far as the answer to its first packet: who answered, if anybody.
    pub(crate) fn associate(&self, from_port: u16, to: &str, to_port: u16) -> Option<Packet> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            self.send(to.parse().unwrap(), &packet(from_port, to_port, INIT));
            if let Some(answer) = self.receive().filter(|answer| answer.kind == INIT_ACK) {
                return Some(answer);
            }
        }
        None
    }

    /// Answers the first packets of associations, and hands each to `seen`.
    pub(crate) fn serve(self, seen: impl Fn(Packet) + Send + 'static) {
        thread::spawn(move || {
            loop {
                if let Some(init) = self.receive().filter(|packet| packet.kind == INIT) {
                    seen(init);
                    self.send(init.from, &packet(init.to_port, init.from_port, INIT_ACK));
                }
            }
        });
    }

    fn send(&self, to: IpAddr, packet: &[u8]) {
        self.socket.send_to(packet, SocketAddr::new(to, 0)).unwrap();
    }

    fn receive(&self) -> Option<Packet> {
        let mut bytes = [0; 1500];
        let (length, from) = self.socket.recv_from(&mut bytes).ok()?;
        // IPv4 packets come with their header, IPv6 packets without.
        let header = if self.address.is_ipv4() {
            usize::from(bytes[0] & 15) * 4
        } else {
            0
        };
        let sctp = &bytes[header..length];
        Some(Packet {
            from: from.ip(),
            from_port: u16::from_be_bytes([sctp[0], sctp[1]]),
            to_port: u16::from_be_bytes([sctp[2], sctp[3]]),
            kind: sctp[COMMON_HEADER],
        })
    }
}

/// A packet with one chunk, INIT or INIT ACK (RFC 9260, sections 3.1 and 3.3.2).
fn packet(from_port: u16, to_port: u16, kind: u8) -> Vec<u8> {
    const TAG: u32 = 0x5c7b_1234;
    let mut packet = Vec::new();
    packet.extend(from_port.to_be_bytes());
    packet.extend(to_port.to_be_bytes());
    packet.extend(if kind == INIT { 0 } else { TAG }.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([kind, 0, 0, 20]);
    packet.extend(TAG.to_be_bytes()); // initiate tag
    packet.extend(65536u32.to_be_bytes()); // receiver window
    packet.extend([0, 1, 0, 1]); // streams
    packet.extend(TAG.to_be_bytes()); // initial sequence number
    let checksum = crc32c(&packet);
    packet[8..12].copy_from_slice(&checksum.to_le_bytes());
    packet
}

/// RFC 9260, appendix A.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

#[expect(unsafe_code, reason = "nix has no name for the SCTP protocol")]
fn raw_socket(address: IpAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    // SAFETY: the call takes numbers only, and a descriptor that it returns is nobody else's.
    unsafe {
        match libc::socket(
            family,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::IPPROTO_SCTP,
        ) {
            -1 => Err(io::Error::last_os_error()),
            descriptor => Ok(OwnedFd::from_raw_fd(descriptor)),
        }
    }
}
