//! The program killed at every single system call of a change of rules.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Write};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::support::{
    Environment, Lab, POD, POD6, PROGRAM, Pod, Server, connect, on_both_backends,
};

on_both_backends!(
    killed_at_any_point_it_lets_through_what_one_of_both_sets_does,
    killed_in_klipper_lbs_form_it_leaves_the_port_beside_it_alone,
);

/// Far more than twice the system calls that it makes.
const MOST_STOPS: usize = 2000;

/// Sources of both families, of which the old rules let in the first ones and the new rules the others,
/// and where they send to.
const NEAR: [(&str, &str); 2] = [("192.0.2.2", POD), ("2001:db8::2", POD6)];
const FAR: [(&str, &str); 2] = [("198.51.100.2", POD), ("2001:db8:1::2", POD6)];

/// A change of rules, and who may reach what meanwhile.
struct Change {
    old: Environment,
    new: Environment,
    /// Source, port, and the backend's number and port.
    passes: Vec<(&'static str, u16, &'static str)>,
    ports: &'static [u16],
    /// How many tables it changes, each in one go.
    tables: usize,
}

fn killed_at_any_point_it_lets_through_what_one_of_both_sets_does(backend: &str) {
    let set = |forwards, destinations, sources| {
        Environment::new(&[
            &format!("SVCLB_BACKEND={backend}"),
            &format!("SVCLB_FORWARDS={forwards}"),
            &format!("DEST_IPS={destinations}"),
            &format!("SRC_RANGES={sources}"),
        ])
    };
    let near = NEAR.into_iter().map(|(near, _)| near);
    let far = FAR.into_iter().map(|(far, _)| far);
    let near = near.flat_map(|near| [(near, 80, "0:8080"), (near, 82, "0:8080")]);
    let far = far.flat_map(|far| [(far, 80, "1:8081"), (far, 81, "1:8081")]);
    let change = Change {
        old: set(
            "tcp/80=8080,tcp/82=8080",
            "10.43.0.10,fd00:43::10",
            "192.0.2.0/25,2001:db8::/64",
        ),
        new: set(
            "tcp/80=8081,tcp/81=8081",
            "10.43.1.10,fd00:43:1::10",
            "198.51.100.0/24,2001:db8:1::/64",
        ),
        passes: near.chain(far).collect(),
        ports: &[80, 81, 82],
        tables: if backend == "nftables" { 1 } else { 4 },
    };
    let lab = Lab::new();
    kill_everywhere(&lab, backend, &change, || {});
}

fn killed_in_klipper_lbs_form_it_leaves_the_port_beside_it_alone(backend: &str) {
    let container = |port, destination, to_port, sources| {
        Environment::new(&[
            &format!("SVCLB_BACKEND={backend}"),
            &format!("SRC_PORT={port}"),
            "DEST_PROTO=TCP",
            &format!("DEST_PORT={to_port}"),
            &format!("DEST_IPS={destination}"),
            &format!("SRC_RANGES={sources}"),
        ])
    };
    let [(near, _), (far, _)] = [NEAR[0], FAR[0]];
    let change = Change {
        old: container(80, "10.43.0.10", 8080, "192.0.2.0/25"),
        new: container(80, "10.43.1.10", 8081, "198.51.100.0/24"),
        passes: vec![
            (near, 80, "0:8080"),
            (far, 80, "1:8081"),
            (near, 90, "0:8081"),
            (far, 90, "0:8081"),
        ],
        ports: &[80, 90],
        tables: if backend == "nftables" { 1 } else { 2 },
    };
    let lab = Lab::new();
    let _beside = Pod::start(&lab.pod, &container(90, "10.43.0.10", 8081, "0.0.0.0/0"));
    kill_everywhere(&lab, backend, &change, || {
        for from in [NEAR[0], FAR[0]] {
            ask(&lab, from, 90).expect("the port beside it goes on");
        }
    });
}

/// `holds` is what must be so with all rules that a kill has left.
fn kill_everywhere(lab: &Lab, backend: &str, change: &Change, holds: impl Fn()) {
    let Change { old, new, .. } = change;
    lab.allow_ipv6_forwarding();
    Server::start(lab, &[8080, 8081]);
    let install = |environment| drop(Pod::start(&lab.pod, environment));
    install(new);
    let with_new = listing(lab, backend);
    install(old);
    let with_old = listing(lab, backend);

    let mut states = BTreeSet::new();
    for stop in 1..=MOST_STOPS {
        assert_ne!(stop, MOST_STOPS, "the program does not come to rest");
        if !is_killed(lab, new, stop) {
            break;
        }
        let state = listing(lab, backend);
        if states.insert(state.clone()) {
            assert_passes(lab, change, &state);
            holds();
            // The next start completes it.
            install(new);
            assert_eq!(listing(lab, backend), with_new, "after {state}");
            install(old);
        } else if state != with_old {
            install(old);
        }
    }
    assert!(states.contains(&with_old) && states.contains(&with_new));
    assert_eq!(states.len(), change.tables + 1, "{states:#?}");
}

/// Whoever gets an answer may have it.
fn assert_passes(lab: &Lab, change: &Change, state: &str) {
    // Each without an answer takes its time limit.
    thread::scope(|scope| {
        for source in NEAR.into_iter().chain(FAR) {
            scope.spawn(move || {
                let (from, to) = source;
                for &port in change.ports {
                    let answer = ask(lab, source, port);
                    let is_right = |answer: &String| {
                        let mut passes = change.passes.iter();
                        passes.any(|&(source, to_port, server)| {
                            (source, to_port) == (from, port)
                                && *answer == format!("{server} sees {to}")
                        })
                    };
                    assert!(
                        answer.as_ref().map_or_else(is_silence, is_right),
                        "{from} at port {port}: {answer:?} with {state}"
                    );
                }
            });
        }
    });
}

/// Whom a connection reaches, if anybody answers within a second.
fn ask(lab: &Lab, (from, to): (&str, &str), port: u16) -> io::Result<String> {
    let mut stream = connect(&lab.client, from, to, port, Duration::from_secs(1))?;
    stream.write_all(b"who\n")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer.trim_end().into())
}

/// Nothing came back, or the refusal of a port that nobody forwards.
fn is_silence(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, WouldBlock};
    // A connection that times out says EINPROGRESS, a read EAGAIN.
    let unfinished = error.raw_os_error() == Some(nix::libc::EINPROGRESS);
    unfinished || matches!(error.kind(), ConnectionRefused | WouldBlock)
}

/// The rules without what they have counted.
fn listing(lab: &Lab, backend: &str) -> String {
    if backend == "nftables" {
        return lab.pod.output(&["nft", "-s", "list", "ruleset"]);
    }
    let listing = ["iptables-legacy-save", "ip6tables-legacy-save"];
    let listing = listing.map(|save| lab.pod.output(&[save])).concat();
    let lines = listing.lines().filter(|line| !line.starts_with('#'));
    lines
        .flat_map(|line| [line.split('[').next().unwrap(), "\n"])
        .collect()
}

/// Runs the program up to the beginning or end of a system call, counted from 1, and kills it there.
/// Tells whether there was one to kill it at.
#[expect(
    clippy::zombie_processes,
    reason = "its end is waited for, as all that a traced process does"
)]
fn is_killed(lab: &Lab, environment: &Environment, stop: usize) -> bool {
    // It stops before it becomes the program, so that it can be traced from the first call on.
    let mut command = environment.command("/bin/sh");
    command.args(["-c", "kill -STOP $$; exec \"$0\"", PROGRAM]);
    command.stdout(Stdio::null());
    let child = lab.pod.run(|| command.spawn().unwrap());
    let child = Pid::from_raw(child.id().try_into().unwrap());
    waitpid(child, Some(WaitPidFlag::WUNTRACED)).unwrap();
    let options =
        Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_EXITKILL;
    ptrace::seize(child, options).unwrap();
    kill(child, Signal::SIGCONT).unwrap();

    let (mut is_program, mut calls) = (false, 0);
    loop {
        assert!(calls < MOST_STOPS, "the program does not come to rest");
        match waitpid(child, None).unwrap() {
            WaitStatus::PtraceEvent(_, _, event) if event == Event::PTRACE_EVENT_EXEC as i32 => {
                is_program = true;
            }
            WaitStatus::PtraceSyscall(_) => {
                calls += 1;
                if calls == stop {
                    kill(child, Signal::SIGKILL).unwrap();
                    while !matches!(waitpid(child, None).unwrap(), WaitStatus::Signaled(..)) {}
                    return true;
                }
                // It waits for this when it is done. Until it has blocked it, it does not get it; and
                // not at the beginning of a call, which it would only interrupt, time and again.
                if calls % 2 == 1 {
                    kill(child, Signal::SIGTERM).unwrap();
                }
            }
            WaitStatus::Exited(_, code) => {
                assert_eq!(code, 0);
                return false;
            }
            _ => {}
        }
        if is_program {
            ptrace::syscall(child, None).unwrap();
        } else {
            ptrace::cont(child, None).unwrap();
        }
    }
}
