use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;

fn stores() -> Stores {
    Stores::new(World::new(Arc::new(Settings::default())))
}

fn service(name: &str) -> Service {
    Service {
        metadata: ObjectMeta {
            namespace: Some("default".to_owned()),
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        ..Service::default()
    }
}

fn names(stores: &Stores) -> Vec<&str> {
    stores
        .world
        .services()
        .map(|service| service.key.name.as_str())
        .collect()
}

fn list(stores: &mut Stores, services: &[&str]) -> Touched {
    stores.take_in(Change::Service(Event::Init));
    for name in services {
        stores.take_in(Change::Service(Event::InitApply(service(name))));
    }
    stores.take_in(Change::Service(Event::InitDone))
}

#[test]
fn a_service_that_a_new_list_does_not_name_is_gone() {
    let mut stores = stores();
    list(&mut stores, &["kept", "lost"]);
    stores.take_in(Change::Service(Event::Apply(service("watched"))));
    assert_eq!(names(&stores), ["kept", "lost", "watched"]);

    let touched = list(&mut stores, &["kept", "new"]);
    assert_eq!(names(&stores), ["kept", "new"]);
    let gone = ["lost", "watched"].map(|name| ServiceKey::new("default", name));
    assert_eq!(touched.services, gone.into());
}

#[test]
fn nothing_vanishes_while_a_list_is_under_way() {
    let mut stores = stores();
    list(&mut stores, &["a", "b"]);
    stores.take_in(Change::Service(Event::Init));
    stores.take_in(Change::Service(Event::InitApply(service("a"))));
    assert_eq!(names(&stores), ["a", "b"]);
    // The list breaks off and begins anew.
    list(&mut stores, &["b"]);
    assert_eq!(names(&stores), ["b"]);
}

#[test]
fn all_kinds_must_have_been_listed_but_kube_proxys_configuration_may_be_out_of_reach() {
    let mut stores = stores();
    let lists = [
        Change::Service(Event::InitDone),
        Change::Node(Event::InitDone),
        Change::DaemonSet(Event::InitDone),
        Change::Pod(Event::InitDone),
        Change::Slice(Event::InitDone),
        Change::Broke {
            kind: Kind::ProxyConfig,
            error: watcher::Error::NoResourceVersion,
        },
    ];
    for change in lists {
        assert!(!stores.synced(), "before {change:?}");
        stores.take_in(change);
    }
    assert!(stores.synced());
}

#[test]
fn a_watch_that_broke_is_no_list() {
    let mut stores = stores();
    stores.take_in(Change::Broke {
        kind: Kind::Nodes,
        error: watcher::Error::NoResourceVersion,
    });
    assert!(!stores.nodes.complete);
}

#[test]
fn kube_proxys_mode_is_read_as_kubeadm_writes_it() {
    let config = |text: &str| ConfigMap {
        data: Some(BTreeMap::from([(
            "config.conf".to_owned(),
            text.to_owned(),
        )])),
        ..ConfigMap::default()
    };
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    for (mode, expected) in [
        ("mode: \"\"\n", ProxyMode::Iptables),
        ("", ProxyMode::Iptables),
        ("mode: iptables\n", ProxyMode::Iptables),
        ("mode: ipvs\n", ProxyMode::Ipvs),
        ("mode: nftables\n", ProxyMode::Nftables),
        ("mode: kernelspace\n", ProxyMode::Unknown),
    ] {
        assert_eq!(
            proxy_mode(&config(&format!("{head}{mode}"))),
            expected,
            "{mode:?}"
        );
    }
    assert_eq!(proxy_mode(&ConfigMap::default()), ProxyMode::Unknown);
    assert_eq!(proxy_mode(&config("mode: [")), ProxyMode::Unknown);
}
