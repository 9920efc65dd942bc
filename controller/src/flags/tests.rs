//! What each flag becomes, and what is refused.

use clap::CommandFactory;

use super::*;

fn parse(arguments: &[&str]) -> Result<Flags, clap::Error> {
    Flags::try_parse_from([&["svclb-controller"], arguments].concat())
}

#[test]
fn the_definition_holds_together() {
    Flags::command().debug_assert();
}

#[test]
fn without_flags_the_settings_are_the_default() {
    assert_eq!(parse(&[]).unwrap().settings(), Settings::default());
}

#[test]
fn each_flag_reaches_its_setting() {
    let flags = parse(&[
        "--namespace=lb",
        "--pod-image=example.org/pod:1",
        "--pod-image-pull-policy=Never",
        "--pod-image-pull-secrets=a,b",
        "--load-balancer-class=example.org/lb",
        "--classless=false",
        "--publish=ready",
        "--ip-mode=proxy",
        "--protected-ports=",
        "--priority-class=",
        "--tolerations=[{key: gpu, operator: Exists}]",
        "--pod-requests=",
        "--pod-limits=memory=64Mi,cpu=0.5",
        "--host-users=false",
        "--ipv6-forwarding=sysctl",
        "--repeat-warnings=1m30s",
        "--rootless",
        "release",
    ]);
    let quantity = |text: &str| Quantity(text.to_owned());
    assert_eq!(
        flags.unwrap().settings(),
        Settings {
            namespace: "lb".to_owned(),
            image: "example.org/pod:1".to_owned(),
            image_pull_policy: "Never".to_owned(),
            image_pull_secrets: vec!["a".to_owned(), "b".to_owned()],
            class: "example.org/lb".to_owned(),
            classless: false,
            publish: Publish::Ready,
            ip_mode: Some(IpMode::Proxy),
            protected_ports: BTreeSet::new(),
            priority_class: None,
            tolerations: vec![Toleration {
                key: Some("gpu".to_owned()),
                operator: Some("Exists".to_owned()),
                ..Toleration::default()
            }],
            resources: ResourceRequirements {
                limits: Some(BTreeMap::from([
                    ("memory".to_owned(), quantity("64Mi")),
                    ("cpu".to_owned(), quantity("0.5")),
                ])),
                ..ResourceRequirements::default()
            },
            host_users: false,
            ipv6_forwarding: Ipv6Forwarding::Sysctl,
            repeat_warnings: SignedDuration::from_secs(90),
            rootless: true,
            releasing: true,
        }
    );
}

#[test]
fn a_value_that_is_none_is_refused_with_its_flag_and_text() {
    for (argument, named) in [
        ("--protected-ports=22,0", "\"0\""),
        ("--protected-ports=http", "\"http\""),
        ("--pod-limits=memory", "\"memory\""),
        ("--pod-limits=memory=32MiB", "\"memory=32MiB\""),
        ("--tolerations={", "--tolerations"),
        ("--publish=soon", "bound, ready"),
        ("--repeat-warnings=often", "\"often\""),
        ("--repeat-warnings=0s", "\"0s\""),
        ("--repeat-warnings=-30m", "\"-30m\""),
        ("--metrics-address=9300", "--metrics-address"),
    ] {
        let text = parse(&[argument]).unwrap_err().to_string();
        assert!(text.contains(named), "{argument}: {text}");
    }
}
