//! The program killed at every single system call of a change of rules.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::support::{Environment, Lab, POD, PROGRAM, Pod, Server, connect, on_both_backends};

on_both_backends!(killed_at_any_point_it_lets_through_what_one_of_both_sets_does);

/// Far more than twice the system calls that it makes.
const MOST_STOPS: usize = 2000;

/// Who may reach what, from which port: source, port, answer.
type Passes = (&'static str, u16, &'static str);

fn killed_at_any_point_it_lets_through_what_one_of_both_sets_does(backend: &str) {
    const NEAR: &str = "192.0.2.2";
    const FAR: &str = "198.51.100.2";
    let set = |forwards, destination, sources| {
        Environment::new(&[
            &format!("SVCLB_BACKEND={backend}"),
            &format!("SVCLB_FORWARDS={forwards}"),
            &format!("DEST_IPS={destination}"),
            &format!("SRC_RANGES={sources}"),
        ])
    };
    let old = set("tcp/80=8080,tcp/82=8080", "10.43.0.10", "192.0.2.0/25");
    let new = set("tcp/80=8081,tcp/81=8081", "10.43.1.10", "198.51.100.0/24");
    let passes: [Passes; 4] = [
        (NEAR, 80, "0:8080 sees 10.244.0.2"),
        (NEAR, 82, "0:8080 sees 10.244.0.2"),
        (FAR, 80, "1:8081 sees 10.244.0.2"),
        (FAR, 81, "1:8081 sees 10.244.0.2"),
    ];

    let lab = Lab::new();
    Server::start(&lab, &[8080, 8081]);
    let install = |environment| drop(Pod::start(&lab.pod, environment));
    install(&new);
    let with_new = listing(&lab, backend);
    install(&old);
    let with_old = listing(&lab, backend);

    let mut states = BTreeSet::new();
    for stop in 1..=MOST_STOPS {
        assert_ne!(stop, MOST_STOPS, "the program does not come to rest");
        if !is_killed(&lab, &new, stop) {
            break;
        }
        let state = listing(&lab, backend);
        if states.insert(state.clone()) {
            for from in [NEAR, FAR] {
                for port in [80, 81, 82] {
                    let answer = ask(&lab, from, port);
                    let is_right = |answer: &String| passes.contains(&(from, port, answer));
                    assert!(
                        answer.as_ref().map_or_else(is_silence, is_right),
                        "{from} at port {port}: {answer:?} with {state}"
                    );
                }
            }
            // The next start completes it.
            install(&new);
            assert_eq!(listing(&lab, backend), with_new, "after {state}");
            install(&old);
        } else if state != with_old {
            install(&old);
        }
    }
    assert!(states.contains(&with_old) && states.contains(&with_new));
    let tables = if backend == "nftables" { 1 } else { 2 };
    assert_eq!(states.len(), tables + 1, "{states:#?}");
}

/// Whom a connection reaches, if anybody answers within a second.
fn ask(lab: &Lab, from: &str, port: u16) -> io::Result<String> {
    let mut stream = connect(&lab.client, from, POD, port, Duration::from_secs(1))?;
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
    let listing = lab.pod.output(&["iptables-legacy-save"]);
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
