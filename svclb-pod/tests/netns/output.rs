//! Where its output goes: a reader that is slow or gone, or none at all, keeps it from nothing.

use std::fs;
use std::io::{Write, pipe};
use std::process::Stdio;

use crate::life::environment;
use crate::support::{
    Environment, Lab, Namespace, PROGRAM, Pod, on_both_backends, spawn, wait_until,
};

on_both_backends!(
    nobody_reading_its_long_log_keeps_it_neither_from_forwarding_nor_from_its_end,
    a_log_that_is_full_from_the_start_keeps_it_from_nothing,
);

/// As many bytes as a pipe takes that nobody reads.
const PIPE: usize = 1 << 16;

fn nobody_reading_its_long_log_keeps_it_neither_from_forwarding_nor_from_its_end(backend: &str) {
    let lab = Lab::new();
    // More lines than fit into a pipe.
    let forwards: Vec<_> = (1..=2000)
        .map(|port| format!("tcp/{port}={port}"))
        .collect();
    let forwards = format!("SVCLB_FORWARDS={}", forwards.join(","));
    let environment = environment(backend).with(&[&forwards]);
    let command = environment.command(PROGRAM);
    let pod = Pod::nobody_reads(lab.pod.run(|| spawn(command)));
    wait_until("the rules", || {
        environment.run(&lab.pod, &["check"]).status.success()
    });
    assert_eq!(pod.command_line(), format!("{PROGRAM}\0"), "not yet asleep");
    wait_until("the log", || pod.has_said_something());
    // Closing any of them waits for the kernel to free what was replaced, milliseconds long.
    let sockets = if backend == "nftables" { 2 } else { 1 };
    assert_eq!(
        netfilter_sockets(&lab),
        sockets,
        "open until the log is out"
    );
    assert_eq!(pod.stop().code(), Some(0));
}

/// Others may write to the same pipe.
fn a_log_that_is_full_from_the_start_keeps_it_from_nothing(backend: &str) {
    let lab = Lab::new();
    lab.pod.sysctl("ipv6/conf/eth0/disable_ipv6", "1");
    let both = environment(backend).with(&[
        "DEST_IPS=10.43.0.10,fd00:43::10",
        "SRC_RANGES=192.0.2.0/24,2001:db8::/64",
    ]);
    let (_reader, mut writer) = pipe().unwrap();
    writer.write_all(&[b'\n'; PIPE]).unwrap();
    let mut command = both.command(PROGRAM);
    command.stdout(writer).stderr(Stdio::null());
    let pod = Pod::nobody_reads(lab.pod.run(|| command.spawn().unwrap()));
    wait_until("the rules", || {
        both.run(&lab.pod, &["check"]).status.success()
    });
    assert_eq!(pod.stop().code(), Some(0));
}

/// How many netlink sockets to netfilter are open in the pod.
fn netfilter_sockets(lab: &Lab) -> usize {
    let sockets = lab.pod.output(&["cat", "/proc/thread-self/net/netlink"]);
    // The protocol, the second column, is NETLINK_NETFILTER; the port of the kernel's own is 0.
    let columns = sockets.lines().map(|line| line.split_whitespace());
    columns
        .filter_map(|mut line| Some((line.nth(1)?, line.next()?)))
        .filter(|&(protocol, port)| protocol == "12" && port != "0")
        .count()
}

#[test]
fn nobody_to_read_what_it_says_changes_no_exit_code() {
    let namespace = Namespace::new();
    let nothing = Environment::default();
    for (arguments, code) in [
        ([].as_slice(), 2),
        (&["check"], 2),
        (&["--help"], 0),
        (&["--verbose"], 1),
    ] {
        let mut command = nothing.command(PROGRAM);
        command.args(arguments);
        let status = namespace.run(|| {
            let (reader, writer) = pipe().unwrap();
            drop(reader);
            command.stdout(writer.try_clone().unwrap()).stderr(writer);
            command.status().unwrap()
        });
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
}

/// What is opened next, a socket to the kernel, would be where it writes its log.
#[test]
fn nothing_else_takes_the_place_of_a_closed_stdout_or_stderr() {
    let lab = Lab::new();
    let closed = |environment: &Environment, argument: &str| {
        let mut command = environment.command("/bin/sh");
        command.args(["-c", &format!("exec {PROGRAM} {argument} <&- >&- 2>&-")]);
        command
    };
    let wanted = environment("nftables");
    let nothing = Environment::default();
    for (environment, argument, code) in [
        (&wanted, "check", 1),
        (&nothing, "", 2),
        (&nothing, "--help", 0),
        (&nothing, "--verbose", 1),
    ] {
        let mut command = closed(environment, argument);
        let status = lab.pod.run(|| command.status().unwrap());
        assert_eq!(status.code(), Some(code), "{argument}");
    }
    let pod = Pod::of(lab.pod.run(|| spawn(closed(&wanted, ""))));
    wait_until("its start anew, to sleep", || {
        pod.command_line() == format!("{PROGRAM}\0sleep\0")
    });
    let unix = lab.pod.output(&["cat", "/proc/thread-self/net/unix"]);
    for place in 0..=2 {
        let taken = fs::read_link(format!("/proc/{}/fd/{place}", pod.id())).unwrap();
        let taken = taken.to_str().unwrap();
        let inode = taken
            .strip_prefix("socket:[")
            .and_then(|it| it.strip_suffix(']'));
        assert!(
            unix.contains(inode.unwrap_or(taken)),
            "{taken} at {place}: {unix}"
        );
    }
    assert_eq!(pod.stop().code(), Some(0));
    assert_eq!(wanted.run(&lab.pod, &["check"]).status.code(), Some(0));
}
