//! The process: PID 1 of an image that holds nothing else, its end, what it logs, and `check`.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;

use crate::support::{
    CLIENT, Environment, Lab, Namespace, PATIENCE, POD, PROGRAM, Pod, Server, ask_tcp,
    on_both_backends, spawn, wait_until,
};

on_both_backends!(
    it_is_pid_1_of_an_image_with_nothing_else_and_ends_on_sigterm_and_sigint,
    as_pid_1_it_ends_on_a_signal_at_any_moment,
    the_rules_outlive_it,
    check_tells_whether_the_rules_are_those_of_the_environment,
    check_waits_for_rules_that_are_on_their_way,
    rules_of_the_other_backend_are_removed,
);

pub(crate) fn environment(backend: &str) -> Environment {
    Environment::new(&[
        &format!("SVCLB_BACKEND={backend}"),
        "SVCLB_FORWARDS=tcp/80=8080,udp/53=30053",
        "DEST_IPS=10.43.0.10,10.43.1.10",
        "SRC_RANGES=192.0.2.0/24 198.51.100.0/24",
    ])
}

/// A folder with nothing in it but the program and a place for `/proc`, removed when dropped.
struct Image(PathBuf);

impl Image {
    fn new(name: &str) -> Self {
        // Another run of the tests may be at it as well.
        let name = format!("{name}-{}", std::process::id());
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(folder.join("proc")).unwrap();
        fs::copy(PROGRAM, folder.join("svclb-pod")).unwrap();
        Self(folder)
    }

    /// Starts it as a container's first process, with a `/proc` as any container has it.
    fn start(&self, lab: &Lab, environment: &Environment) -> Pod {
        let script = "mount -t proc proc \"$0/proc\" && exec /usr/sbin/chroot \"$0\" /svclb-pod";
        let mut command = environment.command("/usr/bin/unshare");
        command
            .args(["--mount", "/bin/sh", "-c", script])
            .arg(&self.0);
        let start = || {
            // The next child of this thread is PID 1 of a new namespace, and becomes the program.
            unshare(CloneFlags::CLONE_NEWPID).unwrap();
            spawn(command)
        };
        Pod::of(lab.pod.run(start))
    }
}

fn status_line(pod: &Pod, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", pod.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim().into()
}

/// It blocks SIGPIPE with the signals that end it, which are not shown as blocked while it waits for
/// them.
fn minds_signals(pod: &Pod) -> bool {
    let blocked = u64::from_str_radix(&status_line(pod, "SigBlk:"), 16).unwrap();
    blocked >> (Signal::SIGPIPE as u32 - 1) & 1 == 1
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn it_is_pid_1_of_an_image_with_nothing_else_and_ends_on_sigterm_and_sigint(backend: &str) {
    let lab = Lab::new();
    let image = Image::new(&format!("image-{backend}"));
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let pod = image.start(&lab, &environment(backend));
        pod.wait_for_log("rules in place by");
        wait_until("its start anew, to sleep", || {
            pod.command_line() == "/svclb-pod\0sleep\0"
        });
        let pids = status_line(&pod, "NSpid:");
        assert_eq!(pids.split_whitespace().last(), Some("1"), "{pids}");
        let environment = fs::read(format!("/proc/{}/environ", pod.id())).unwrap();
        assert_eq!(environment, b"", "it needs none to sleep");
        assert_eq!(pod.stop_by(signal).code(), Some(0), "after {signal}");
    }
}

/// PID 1 does not get a signal that it neither blocks nor asks for, so one that comes while it is made
/// anew would be lost if it were not blocked all the time.
fn as_pid_1_it_ends_on_a_signal_at_any_moment(backend: &str) {
    let lab = Lab::new();
    let image = Image::new(&format!("moments-{backend}"));
    for step in 0..32 {
        let pod = image.start(&lab, &environment(backend));
        // The shell before it blocks signals of its own now and then.
        wait_until_soon("the program", || {
            pod.command_line().starts_with("/svclb-pod\0")
        });
        wait_until_soon("its minding of signals", || minds_signals(&pod));
        thread::sleep(step * Duration::from_micros(250));
        let signal = if step % 2 == 0 {
            Signal::SIGTERM
        } else {
            Signal::SIGINT
        };
        assert_eq!(pod.stop_by(signal).code(), Some(0), "{signal} at {step}");
    }
    let pod = image.start(&lab, &environment(backend));
    pod.wait_for_log("rules in place by");
    assert_eq!(pod.stop().code(), Some(0));
}

/// `wait_until` without its pauses, which are longer than what is to be seen.
fn wait_until_soon(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what} does not come about");
        thread::sleep(Duration::from_micros(50));
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
        pod.command_line() == format!("{PROGRAM}\0sleep\0")
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
    lab.pod.sysctl("ipv4/conf/eth0/forwarding", "1");
    assert_eq!(check(&wanted, &lab.pod), Some(0));
    // The other backend's would drop what these let through.
    let (add, remove): (&[&str], &[&str]) = match backend {
        "nftables" => (
            &["iptables-legacy", "-N", "svclb-forward"],
            &["iptables-legacy", "-X", "svclb-forward"],
        ),
        _ => (
            &["nft", "add", "table", "inet", "svclb"],
            &["nft", "delete", "table", "inet", "svclb"],
        ),
    };
    lab.pod.output(add);
    assert_eq!(check(&wanted, &lab.pod), Some(1), "twice");
    lab.pod.output(remove);
    assert_eq!(check(&wanted, &lab.pod), Some(0));
}

fn check_waits_for_rules_that_are_on_their_way(backend: &str) {
    let environment = environment(backend);
    // On a busy machine they may well take longer than it waits.
    wait_until("rules within the time that it waits", || {
        let lab = Lab::new();
        let mut command = environment.command(PROGRAM);
        command.arg("check");
        let check = lab.pod.run(|| spawn(command));
        thread::sleep(Duration::from_millis(200));
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
        wait_until("its minding of signals", || minds_signals(&pod));
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
