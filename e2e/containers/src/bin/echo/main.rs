//! A server to put behind a Service: it tells who asked and who answered.
//!
//! HTTP, raw TCP and UDP, on every address of both IP families. After SIGTERM it goes on serving for a
//! while, as a pod should that kube-proxy still sends connections to.

mod http;
mod options;
mod sockets;

use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use nix::sys::signal::{SigSet, Signal};

use crate::options::{Command, Options};

fn main() -> ExitCode {
    let outcome = match options::parse(std::env::args().skip(1)) {
        Ok(Command::Help) => {
            println!("{}", options::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(Command::Serve(options)) => serve(&options),
        Err(error) => {
            eprintln!("echo: {error}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until a signal and the grace period after it, or until a second signal.
fn serve(options: &Options) -> Result<(), String> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    // Before the first thread, so that all of them inherit it and the signal is left to wait() below.
    signals
        .thread_block()
        .map_err(|error| format!("cannot block signals: {error}"))?;

    let identity = Arc::new(Identity::of_this_pod());
    for &port in &options.http {
        let identity = Arc::clone(&identity);
        sockets::accept(port, move |stream| http::serve(&stream, &identity))?;
    }
    for &port in &options.tcp {
        sockets::accept(port, |stream| sockets::echo_stream(&stream))?;
    }
    for &port in &options.udp {
        let identity = Arc::clone(&identity);
        sockets::echo_datagrams(port, move |datagram, client| {
            identity.answer_datagram(datagram, client)
        })?;
    }
    println!("{} on {} serves {options}", identity.pod, identity.node);

    let signal = signals
        .wait()
        .map_err(|error| format!("cannot wait for a signal: {error}"))?;
    println!(
        "{signal}: serving for another {} s",
        options.grace.as_secs()
    );
    let grace = options.grace;
    thread::spawn(move || {
        thread::sleep(grace);
        std::process::exit(0);
    });
    signals
        .wait()
        .map_err(|error| format!("cannot wait for a signal: {error}"))?;
    Ok(())
}

/// Who answers: what a client behind a Service cannot see from outside.
struct Identity {
    pod: String,
    node: String,
}

impl Identity {
    /// From `POD_NAME` and `NODE_NAME` (the downward API). A pod's host name is its name unless it
    /// asked for another.
    fn of_this_pod() -> Self {
        let host_name = || {
            std::fs::read_to_string("/proc/sys/kernel/hostname")
                .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
        };
        Self {
            pod: std::env::var("POD_NAME").unwrap_or_else(|_| host_name()),
            node: std::env::var("NODE_NAME").unwrap_or_else(|_| "unknown".to_owned()),
        }
    }

    /// A datagram comes back as it is, but for two questions, since UDP has no paths.
    fn answer_datagram(&self, datagram: &[u8], client: std::net::SocketAddr) -> Vec<u8> {
        match datagram.trim_ascii() {
            b"hostname" => self.pod.clone().into_bytes(),
            b"clientip" => client.ip().to_string().into_bytes(),
            _ => datagram.to_vec(),
        }
    }
}
