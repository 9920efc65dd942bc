//! What it says, and with which code it ends, when it cannot do what it should; and that it needs no
//! more than it is given.

use std::fs;
use std::net::UdpSocket;
use std::process::{Command, Output};

use nix::errno::Errno;

use crate::support::{
    CLIENT, Environment, Lab, Namespace, PATIENCE, POD, PROGRAM, Pod, Server, allow_what_it_takes,
    ask_tcp, ask_udp, forbid_netlink, forbid_setlink, forbid_xtables, on_both_backends,
};

on_both_backends!(
    net_admin_is_all_that_it_needs,
    a_few_system_calls_that_containerd_allows_are_all_that_it_needs,
    klipper_lbs_default_capabilities_do_as_well,
    without_net_admin_it_says_what_is_missing,
    a_family_that_the_node_does_not_have_is_left_out_with_a_line,
    an_environment_that_is_not_valid_leaves_the_rules_that_were_there,
);

const NETLINK_ROUTE: u32 = 0;
const NETLINK_NETFILTER: u32 = 12;

fn environment() -> Environment {
    Environment::new(&["SVCLB_FORWARDS=tcp/80=8080", "DEST_IPS=10.43.0.10"])
}

fn by(backend: &str) -> Environment {
    environment().with(&[&format!("SVCLB_BACKEND={backend}")])
}

/// A command that becomes the program, with these capabilities and nothing to write to.
fn restricted(environment: &Environment, capabilities: &str, argument: &str) -> Command {
    let script = format!(
        "mount -o bind,ro /proc/sys /proc/sys && mount -o remount,bind,ro / && \
         exec setpriv --no-new-privs --inh-caps=-all --bounding-set={capabilities} \
         {PROGRAM} {argument}"
    );
    let mut command = environment.command("/usr/bin/unshare");
    command.args(["--mount", "/bin/sh", "-c", &script]);
    command
}

fn run(namespace: &Namespace, mut command: Command) -> Output {
    namespace.run(|| command.output().unwrap())
}

/// One line on stderr with all of these, and this code.
fn assert_refusal(output: &Output, code: i32, said: &[&str]) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    for text in said {
        assert!(errors.contains(text), "{text:?} is not in {errors:?}");
    }
}

fn net_admin_is_all_that_it_needs(backend: &str) {
    let lab = Lab::new();
    Server::start(&lab, &[8080]);
    let forwarding = ["cat", "/proc/sys/net/ipv4/conf/eth0/forwarding"];
    assert_eq!(
        lab.pod.output(&forwarding),
        "0\n",
        "it is for it to switch on"
    );
    let command = restricted(&by(backend), "-all,+net_admin", "");
    let pod = Pod::start_command(&lab.pod, command);
    assert_eq!(lab.pod.output(&forwarding), "1\n");
    let status = fs::read_to_string(format!("/proc/{}/status", pod.id())).unwrap();
    for line in [
        "CapEff:\t0000000000001000",
        "CapBnd:\t0000000000001000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "no {line:?} in {status}");
    }
    assert_eq!(
        ask_tcp(&lab.client, CLIENT[0], POD, 80).unwrap(),
        format!("0:8080 sees {POD}")
    );
    let check = restricted(&by(backend), "-all,+net_admin", "check");
    assert_eq!(run(&lab.pod, check).status.code(), Some(0));
}

fn a_few_system_calls_that_containerd_allows_are_all_that_it_needs(backend: &str) {
    let lab = Lab::new();
    Server::start(&lab, &[8080]);
    let udp = by(backend).with(&["SVCLB_FORWARDS=tcp/80=8080,udp/53=8080"]);
    drop(Pod::start(&lab.pod, &udp));
    // A restart with a connection to forget does all that it ever does.
    let socket = lab
        .client
        .run(|| UdpSocket::bind((CLIENT[0], 5353)).unwrap());
    assert!(ask_udp(&socket, POD, 53, PATIENCE).is_some());
    let pod = Pod::start_command(&lab.pod, allow_what_it_takes(by(backend).command(PROGRAM)));
    pod.wait_for_log("forgotten: 1");
    let status = fs::read_to_string(format!("/proc/{}/status", pod.id())).unwrap();
    assert!(status.contains("Seccomp:\t2"), "no filter: {status}");
    assert_eq!(
        ask_tcp(&lab.client, CLIENT[0], POD, 80).unwrap(),
        format!("0:8080 sees {POD}")
    );
    let mut check = by(backend).command(PROGRAM);
    check.arg("check");
    let output = run(&lab.pod, allow_what_it_takes(check));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(pod.stop().code(), Some(0));
}

fn klipper_lbs_default_capabilities_do_as_well(backend: &str) {
    let lab = Lab::new();
    Server::start(&lab, &[8080]);
    // Those that containerd gives a container, and the one that ServiceLB adds.
    let capabilities = "-all,+chown,+dac_override,+fsetid,+fowner,+mknod,+net_raw,+setgid,+setuid,\
                        +setfcap,+setpcap,+net_bind_service,+sys_chroot,+kill,+audit_write,+net_admin";
    let klipper = Environment::new(&[
        "SRC_PORT=80",
        "SRC_RANGES=0.0.0.0/0",
        "DEST_PROTO=TCP",
        "DEST_PORT=8080",
        "DEST_IPS=10.43.0.10",
        &format!("SVCLB_BACKEND={backend}"),
    ]);
    let _pod = Pod::start_command(&lab.pod, restricted(&klipper, capabilities, ""));
    assert_eq!(
        ask_tcp(&lab.client, CLIENT[0], POD, 80).unwrap(),
        format!("0:8080 sees {POD}")
    );
}

fn without_net_admin_it_says_what_is_missing(backend: &str) {
    let lab = Lab::new();
    let output = run(&lab.pod, restricted(&by(backend), "-all", ""));
    assert_refusal(&output, 1, &["CAP_NET_ADMIN"]);
}

#[test]
fn without_net_admin_neither_backend_is_to_blame() {
    let lab = Lab::new();
    let output = run(&lab.pod, restricted(&environment(), "-all", ""));
    assert_refusal(&output, 1, &["CAP_NET_ADMIN"]);
}

#[test]
fn without_nf_tables_it_uses_iptables_and_says_so() {
    // What seccomp says, and what a kernel says that does not have it.
    for errno in [Errno::EPERM, Errno::EPROTONOSUPPORT] {
        let lab = Lab::new();
        Server::start(&lab, &[8080]);
        let command = forbid_netlink(environment().command(PROGRAM), NETLINK_NETFILTER, errno);
        let pod = Pod::start_command(&lab.pod, command);
        assert!(
            pod.log().contains("rules in place by iptables"),
            "{}",
            pod.log()
        );
        assert!(
            pod.log().contains("nf_tables is not to be had here"),
            "{}",
            pod.log()
        );
        let answer = ask_tcp(&lab.client, CLIENT[0], POD, 80).unwrap();
        assert_eq!(answer, format!("0:8080 sees {POD}"));
        let mut check = environment().command(PROGRAM);
        check.arg("check");
        let check = forbid_netlink(check, NETLINK_NETFILTER, errno);
        assert_eq!(run(&lab.pod, check).status.code(), Some(0));
    }
}

#[test]
fn a_backend_that_is_asked_for_is_not_replaced_by_the_other() {
    let lab = Lab::new();
    let command = by("nftables").command(PROGRAM);
    let command = forbid_netlink(command, NETLINK_NETFILTER, Errno::EPROTONOSUPPORT);
    assert_refusal(
        &run(&lab.pod, command),
        1,
        &["nf_tables", "EPROTONOSUPPORT"],
    );
}

#[test]
fn without_either_backend_it_says_why_neither() {
    let lab = Lab::new();
    let command = environment().command(PROGRAM);
    let command = forbid_netlink(command, NETLINK_NETFILTER, Errno::EPROTONOSUPPORT);
    let command = forbid_xtables(command, Errno::ENOPROTOOPT);
    let said = [
        "nf_tables",
        "EPROTONOSUPPORT",
        "iptable_filter",
        "ENOPROTOOPT",
    ];
    assert_refusal(&run(&lab.pod, command), 1, &said);
}

#[test]
fn rules_of_the_other_backend_that_stay_are_an_error() {
    let lab = Lab::new();
    drop(Pod::start(&lab.pod, &by("iptables")));
    let command = forbid_xtables(by("nftables").command(PROGRAM), Errno::EACCES);
    let output = run(&lab.pod, command);
    assert_refusal(&output, 1, &["what an earlier start left", "EACCES"]);
    assert_eq!(output.stdout, b"", "it does not say that all is in place");
}

#[test]
fn without_a_way_to_set_forwarding_it_ends() {
    let lab = Lab::new();
    let command = environment().command(PROGRAM);
    let command = forbid_netlink(command, NETLINK_ROUTE, Errno::EPERM);
    let said = ["cannot forward", "allow netlink sockets"];
    assert_refusal(&run(&lab.pod, command), 1, &said);
    // Where the interfaces can be listed, but not set.
    lab.pod.sysctl("ipv4/conf/eth0/forwarding", "0");
    let command = forbid_setlink(environment().command(PROGRAM), Errno::EPERM);
    let said = [
        "IPv4 forwarding of interface",
        "give the container CAP_NET_ADMIN",
        "net.ipv4.ip_forward=1",
    ];
    assert_refusal(&run(&lab.pod, command), 1, &said);
}

#[test]
fn ipv6_forwarding_that_cannot_be_set_is_an_error_that_says_what_to_do() {
    let lab = Lab::new();
    let both = environment().with(&["DEST_IPS=10.43.0.10,fd00:43::10"]);
    let output = run(&lab.pod, restricted(&both, "-all,+net_admin", ""));
    let said = [
        "svclb-pod allow-ipv6-forwarding",
        "net.ipv6.conf.all.forwarding=1",
    ];
    assert_refusal(&output, 1, &said);
    // Where it may, it does it itself; and where it is on, it needs no right to.
    drop(Pod::start(&lab.pod, &both));
    drop(Pod::start_command(
        &lab.pod,
        restricted(&both, "-all,+net_admin", ""),
    ));
}

#[test]
fn allowing_ipv6_forwarding_needs_a_writable_proc_sys() {
    let lab = Lab::new();
    let forbidden = run(
        &lab.pod,
        restricted(
            &Environment::default(),
            "-all,+net_admin",
            "allow-ipv6-forwarding",
        ),
    );
    assert_refusal(&forbidden, 1, &["privileged"]);
    let allowed = Environment::default().run(&lab.pod, &["allow-ipv6-forwarding"]);
    assert!(allowed.status.success());
    let setting = lab
        .pod
        .output(&["cat", "/proc/sys/net/ipv6/conf/all/forwarding"]);
    assert_eq!(setting, "1\n");
    // Where it is on already, nothing has to be written.
    let again = restricted(&Environment::default(), "-all", "allow-ipv6-forwarding");
    assert!(run(&lab.pod, again).status.success());
}

#[test]
fn a_node_without_ipv6_needs_no_ipv6_forwarding() {
    let lab = Lab::new();
    let script =
        format!("mount -t tmpfs none /proc/sys/net && exec {PROGRAM} allow-ipv6-forwarding");
    let output = lab
        .pod
        .command(&["unshare", "--mount", "/bin/sh", "-c", &script]);
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("no IPv6"),
        "{output:?}"
    );
}

fn a_family_that_the_node_does_not_have_is_left_out_with_a_line(backend: &str) {
    let lab = Lab::new();
    Server::start(&lab, &[8080]);
    lab.pod.sysctl("ipv6/conf/eth0/disable_ipv6", "1");
    let both = by(backend).with(&["DEST_IPS=10.43.0.10,fd00:43::10"]);
    let pod = Pod::start(&lab.pod, &both);
    assert!(pod.log().contains("IPv6 is left out"), "{}", pod.log());
    assert_eq!(
        ask_tcp(&lab.client, CLIENT[0], POD, 80).unwrap(),
        format!("0:8080 sees {POD}")
    );
    assert_eq!(both.run(&lab.pod, &["check"]).status.code(), Some(0));
    let only = by(backend)
        .with(&["DEST_IPS=fd00:43::10"])
        .run(&lab.pod, &[]);
    assert_refusal(&only, 1, &["no IP family"]);
}

fn an_environment_that_is_not_valid_leaves_the_rules_that_were_there(backend: &str) {
    let lab = Lab::new();
    Server::start(&lab, &[8080]);
    drop(Pod::start(&lab.pod, &by(backend)));
    for (variable, said) in [
        ("SVCLB_FORWARDS=tcp/0=80", "tcp/0=80"),
        ("SVCLB_FORWARDS=icmp/1=1", "icmp/1=1"),
        ("DEST_IPS=10.43.0.256", "10.43.0.256"),
        ("SRC_RANGES=", "SRC_RANGES"),
        ("SVCLB_BACKEND=ebtables", "nftables or iptables"),
        ("SRC_PORT=80", "SVCLB_FORWARDS"),
    ] {
        let name = variable.split_once('=').unwrap().0;
        let environment = by(backend).with(&[variable]);
        assert_refusal(&environment.run(&lab.pod, &[]), 2, &[name, said]);
        assert_refusal(&environment.run(&lab.pod, &["check"]), 2, &[name, said]);
    }
    assert_eq!(
        ask_tcp(&lab.client, CLIENT[0], POD, 80).unwrap(),
        format!("0:8080 sees {POD}")
    );
}

#[test]
fn help_and_version_need_no_environment() {
    let namespace = Namespace::new();
    for (argument, said) in [
        ("--help", "SVCLB_FORWARDS"),
        ("--version", env!("CARGO_PKG_VERSION")),
    ] {
        let output = Environment::default().run(&namespace, &[argument]);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains(said));
    }
    let output = Environment::default().run(&namespace, &["--verbose"]);
    assert_refusal(&output, 1, &["unknown arguments", "--help"]);
}
