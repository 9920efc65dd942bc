//! The process: PID 1 of an image that holds nothing else, its log, its end, and `check`.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;

use crate::support::{
    CLIENT, Environment, Lab, Namespace, POD, PROGRAM, Pod, Server, ask_tcp, on_both_backends,
    spawn, wait_until,
};

on_both_backends!(
    it_is_pid_1_of_an_image_with_nothing_else_and_ends_on_sigterm_and_sigint,
    the_rules_outlive_it,
    check_tells_whether_the_rules_are_those_of_the_environment,
    check_waits_for_rules_that_are_on_their_way,
    rules_of_the_other_backend_are_removed,
);

fn environment(backend: &str) -> Environment {
    Environment::new(&[
        &format!("SVCLB_BACKEND={backend}"),
        "SVCLB_FORWARDS=tcp/80=8080,udp/53=30053",
        "DEST_IPS=10.43.0.10,10.43.1.10",
        "SRC_RANGES=192.0.2.0/24 198.51.100.0/24",
    ])
}

/// A folder with nothing in it but the program, removed when dropped.
struct Image(PathBuf);

impl Image {
    fn new(name: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::copy(PROGRAM, folder.join("svclb-pod")).unwrap();
        Self(folder)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn it_is_pid_1_of_an_image_with_nothing_else_and_ends_on_sigterm_and_sigint(backend: &str) {
    let lab = Lab::new();
    let image = Image::new(backend);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut command = environment(backend).command("/usr/sbin/chroot");
        command.arg(&image.0).arg("/svclb-pod");
        let start = || {
            // The next child of this thread is PID 1 of a new namespace; `chroot` becomes the program.
            unshare(CloneFlags::CLONE_NEWPID).unwrap();
            spawn(command)
        };
        let pod = Pod::of(lab.pod.run(start));
        pod.wait_for_log("rules in place by");
        let status = fs::read_to_string(format!("/proc/{}/status", pod.id())).unwrap();
        let pids = status
            .lines()
            .find(|line| line.starts_with("NSpid:"))
            .unwrap();
        assert_eq!(pids.split_whitespace().last(), Some("1"), "{pids}");
        assert_eq!(pod.stop_by(signal).code(), Some(0), "after {signal}");
    }
}

#[test]
fn one_that_only_holds_its_ports_needs_no_environment() {
    let lab = Lab::new();
    let mut command = Environment::default().command(PROGRAM);
    command.arg("hold");
    let pod = Pod::of(lab.pod.run(|| spawn(command)));
    pod.wait_for_log("the hostPorts are held");
    assert_eq!(pod.stop().code(), Some(0));
}

fn the_rules_outlive_it(backend: &str) {
    let lab = Lab::new();
    Server::start(&lab, &[8080]);
    let pod = Pod::start(&lab.pod, &environment(backend));
    wait_until("its start anew, to sleep", || {
        let command = fs::read_to_string(format!("/proc/{}/cmdline", pod.id())).unwrap();
        command == format!("{PROGRAM}\0sleep\0")
    });
    assert_eq!(pod.stop().code(), Some(0));
    assert!(
        ask_tcp(&lab.client, CLIENT[0], POD, 80)
            .unwrap()
            .contains("8080 sees")
    );
}

fn check_tells_whether_the_rules_are_those_of_the_environment(backend: &str) {
    let lab = Lab::new();
    let wanted = environment(backend);
    let check = |environment: &Environment, namespace: &Namespace| {
        let output = environment.run(namespace, &["check"]);
        let lines = [output.stdout, output.stderr].concat();
        if output.status.code() == Some(1) {
            let said = String::from_utf8_lossy(&lines);
            let reasons = ["not in place", "forwarding is off"];
            assert!(reasons.iter().any(|reason| said.contains(reason)), "{said}");
        }
        assert_eq!(
            lines.iter().filter(|&&byte| byte == b'\n').count(),
            1,
            "a line"
        );
        output.status.code()
    };
    let started = Instant::now();
    assert_eq!(check(&wanted, &lab.pod), Some(1), "before the start");
    assert!(
        started.elapsed() >= Duration::from_secs(1),
        "it waits for them"
    );
    let _pod = Pod::start(&lab.pod, &wanted);
    wait_until("the rules", || check(&wanted, &lab.pod) == Some(0));
    for (other, value) in [
        ("another port", "SVCLB_FORWARDS=tcp/81=8080,udp/53=30053"),
        (
            "another destination port",
            "SVCLB_FORWARDS=tcp/80=8081,udp/53=30053",
        ),
        ("one port fewer", "SVCLB_FORWARDS=tcp/80=8080"),
        ("another destination", "DEST_IPS=10.43.0.10,10.43.1.11"),
        ("one destination fewer", "DEST_IPS=10.43.0.10"),
        ("another range", "SRC_RANGES=192.0.2.0/24 198.51.100.0/25"),
        (
            "one range more",
            "SRC_RANGES=192.0.2.0/24 198.51.100.0/24 203.0.113.0/24",
        ),
    ] {
        assert_eq!(
            check(&wanted.clone().with(&[value]), &lab.pod),
            Some(1),
            "{other}"
        );
    }
    assert_eq!(
        check(&wanted.clone().with(&["SRC_RANGES="]), &lab.pod),
        Some(2)
    );
    // Somebody takes a rule away.
    match backend {
        "nftables" => lab
            .pod
            .output(&["nft", "flush", "chain", "inet", "svclb", "postrouting"]),
        _ => lab
            .pod
            .output(&["iptables-legacy", "-t", "nat", "-F", "svclb-postrouting"]),
    };
    assert_eq!(check(&wanted, &lab.pod), Some(1), "one rule fewer");
    // Forwarding belongs to it.
    let _again = Pod::start(&lab.pod, &wanted);
    wait_until("the rules", || check(&wanted, &lab.pod) == Some(0));
    lab.pod.sysctl("ipv4/conf/eth0/forwarding", "0");
    assert_eq!(check(&wanted, &lab.pod), Some(1), "without forwarding");
}

fn check_waits_for_rules_that_are_on_their_way(backend: &str) {
    let environment = environment(backend);
    // On a busy machine they may well take longer than it waits.
    wait_until("rules within the time that it waits", || {
        let lab = Lab::new();
        let mut command = environment.command(PROGRAM);
        command.arg("check");
        let check = lab.pod.run(|| spawn(command));
        std::thread::sleep(Duration::from_millis(200));
        let _pod = Pod::start(&lab.pod, &environment);
        check.wait_with_output().unwrap().status.success()
    });
}

#[test]
fn it_ends_while_another_process_holds_the_iptables_tables() {
    let lab = Lab::new();
    let name = SocketAddr::from_abstract_name("xtables").unwrap();
    let _lock = lab.pod.run(|| UnixDatagram::bind_addr(&name).unwrap());
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let command = environment("iptables").command(PROGRAM);
        let pod = Pod::of(lab.pod.run(|| spawn(command)));
        // From when it minds signals, all that it does is wait for the others: it ends for this or, in
        // the end, because it cannot have the tables, and then with another code.
        wait_until("its minding of signals", || {
            let status = fs::read_to_string(format!("/proc/{}/status", pod.id())).unwrap();
            let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
            let blocked = u64::from_str_radix(blocked.unwrap().trim(), 16).unwrap();
            // It blocks this one with the others, which are not shown as blocked while it waits for them.
            blocked >> (Signal::SIGPIPE as u32 - 1) & 1 == 1
        });
        assert_eq!(pod.stop_by(signal).code(), Some(0), "after {signal}");
    }
}

fn rules_of_the_other_backend_are_removed(backend: &str) {
    let lab = Lab::new();
    let other = if backend == "nftables" {
        "iptables"
    } else {
        "nftables"
    };
    Pod::start(&lab.pod, &environment(other)).stop();
    let held = || match other {
        "nftables" => lab.pod.output(&["nft", "list", "ruleset"]),
        _ => lab.pod.output(&["iptables-legacy-save"]),
    };
    assert!(held().contains("svclb"), "{}", held());
    let _pod = Pod::start(&lab.pod, &environment(backend));
    wait_until("the end of the other rules", || !held().contains("svclb"));
}

#[test]
fn the_log_says_what_is_forwarded_and_how() {
    let lab = Lab::new();
    let environment = Environment::new(&[
        "SVCLB_FORWARDS=tcp/80=8080,udp/53=30053",
        "DEST_IPS=10.43.0.10 10.43.1.10",
    ]);
    let pod = Pod::start(&lab.pod, &environment);
    let log = pod.log();
    let (forwards, last) = log.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(
        forwards,
        "tcp 80 -> 10.43.0.10:8080, 10.43.1.10:8080 from 0.0.0.0/0\n\
         udp 53 -> 10.43.0.10:30053, 10.43.1.10:30053 from 0.0.0.0/0"
    );
    assert!(
        last.starts_with("rules in place by nftables after ") && last.ends_with(" ms"),
        "{last}"
    );
}
