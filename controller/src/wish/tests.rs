//! Annotations and source ranges: what is understood, and what is said of the rest.

use serde_json::{Value, json};

use super::{AddressChoice, ProxyBecause, Wish, WishError, wish};
use crate::facts::ServiceFacts;
use crate::fixtures::{Cluster, mk_service};
use crate::net::Family;
use crate::settings::{IpMode, ProxyMode, Settings};

fn of(patch: Value, mode: ProxyMode) -> Result<Wish, WishError> {
    wish(
        &ServiceFacts::from(&mk_service("web", patch)),
        mode,
        &Settings::default(),
    )
}

fn annotated(key: &str, value: &str) -> Result<Wish, WishError> {
    of(
        json!({ "metadata": { "annotations": { key: value } } }),
        ProxyMode::Unknown,
    )
}

#[test]
fn the_choice_of_addresses() {
    for (value, expected) in [
        ("", AddressChoice::Preferred),
        ("external", AddressChoice::External),
        ("internal", AddressChoice::Internal),
        ("all", AddressChoice::All),
        (
            "10.0.0.0/8, fd00::/8",
            AddressChoice::Within(vec![
                "10.0.0.0/8".parse().unwrap(),
                "fd00::/8".parse().unwrap(),
            ]),
        ),
    ] {
        assert_eq!(
            annotated("svclb.io/addresses", value).unwrap().addresses,
            expected,
            "{value:?}"
        );
    }
    for value in ["External", "10.0.0.1", "all,internal", "10.0.0.0/8,"] {
        let error = annotated("svclb.io/addresses", value).unwrap_err();
        assert_eq!(
            error,
            WishError::Addresses {
                value: value.to_owned()
            }
        );
        assert!(error.to_string().contains("svclb.io/addresses"), "{error}");
    }
}

#[test]
fn the_ip_mode() {
    assert_eq!(
        annotated("svclb.io/ip-mode", "VIP").unwrap().ip_mode,
        IpMode::Vip
    );
    assert_eq!(
        annotated("svclb.io/ip-mode", "Proxy").unwrap().ip_mode,
        IpMode::Proxy
    );
    assert_eq!(
        annotated("svclb.io/ip-mode", "").unwrap().ip_mode,
        IpMode::Vip
    );
    assert!(annotated("svclb.io/ip-mode", "proxy").is_err());
    let settings = Settings {
        ip_mode: Some(IpMode::Proxy),
        ..Settings::default()
    };
    let service = ServiceFacts::from(&mk_service("web", json!({})));
    assert_eq!(
        wish(&service, ProxyMode::Unknown, &settings)
            .unwrap()
            .ip_mode,
        IpMode::Proxy
    );
}

#[test]
fn in_ipvs_mode_the_ip_mode_is_proxy_even_where_vip_is_asked_for() {
    for annotation in [Value::Null, json!("VIP")] {
        let service = json!({ "metadata": { "annotations": { "svclb.io/ip-mode": annotation } } });
        let wish = of(service, ProxyMode::Ipvs).unwrap();
        assert_eq!(
            (wish.ip_mode, wish.proxy_because),
            (IpMode::Proxy, Some(ProxyBecause::Ipvs))
        );
    }
}

#[test]
fn ranges_by_annotation_alone_make_the_ip_mode_proxy() {
    let wish = annotated(
        "service.beta.kubernetes.io/load-balancer-source-ranges",
        " 10.0.0.0/8, 192.0.2.0/24 ",
    )
    .unwrap();
    assert_eq!(
        (wish.ip_mode, wish.proxy_because),
        (IpMode::Proxy, Some(ProxyBecause::RangesByAnnotation))
    );
    assert_eq!(wish.source_ranges.len(), 2);
    // The field has precedence, as in Kubernetes' own helper.
    let both = json!({
        "metadata": { "annotations": { "service.beta.kubernetes.io/load-balancer-source-ranges": "wrong" } },
        "spec": { "loadBalancerSourceRanges": ["10.0.0.0/8"] },
    });
    let wish = of(both, ProxyMode::Unknown).unwrap();
    assert_eq!((wish.ip_mode, wish.source_ranges.len()), (IpMode::Vip, 1));
    let empty = annotated(
        "service.beta.kubernetes.io/load-balancer-source-ranges",
        " ",
    )
    .unwrap();
    assert_eq!(empty.ip_mode, IpMode::Vip);
}

#[test]
fn a_malformed_range_names_its_place() {
    let error = annotated(
        "service.beta.kubernetes.io/load-balancer-source-ranges",
        "10.0.0.0",
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "annotation service.beta.kubernetes.io/load-balancer-source-ranges: \
         \"10.0.0.0\" is no range of addresses like 10.0.0.0/8 or fd00::/8"
    );
}

#[test]
fn a_family_is_open_only_if_no_range_is_given_or_one_of_it() {
    let dual = |ranges: Value| {
        let spec = json!({ "spec": { "ipFamilies": ["IPv6", "IPv4"], "loadBalancerSourceRanges": ranges } });
        of(spec, ProxyMode::Unknown).unwrap().open_families
    };
    assert_eq!(dual(json!([])), [Family::V6, Family::V4]);
    assert_eq!(dual(json!(["10.0.0.0/8"])), [Family::V4]);
    assert_eq!(dual(json!(["fd00::/8"])), [Family::V6]);
}

#[test]
fn proxy_is_refused_where_a_local_port_has_no_node_port() {
    let local = |annotations: Value| {
        json!({
            "metadata": { "annotations": annotations },
            "spec": { "externalTrafficPolicy": "Local", "ports": [{ "port": 80, "protocol": "TCP" }] },
        })
    };
    let proxy = json!({ "svclb.io/ip-mode": "Proxy" });
    assert!(of(local(json!({})), ProxyMode::Unknown).is_ok());
    let error = of(local(proxy), ProxyMode::Unknown).unwrap_err();
    assert!(error.is_combination());
    assert_eq!(of(local(json!({})), ProxyMode::Ipvs).unwrap_err(), error);
}

#[test]
fn what_kube_proxy_would_not_enforce_is_not_published_as_vip() {
    let mut cluster = Cluster::new(&["a"]);
    cluster
        .service("web", json!({ "spec": { "ipFamilies": ["IPv4", "IPv6"], "loadBalancerSourceRanges": ["10.0.0.0/8"] } }))
        .settle();
    assert_eq!(cluster.addresses("web"), ["10.0.0.1"]);
    let told = cluster.told("SourceRangesNotEnforced");
    assert_eq!(
        told,
        [
            "no source range is IPv6, which kube-proxy would take for any: IPv6 addresses are left out"
        ]
    );
}

#[test]
fn a_service_without_a_range_of_its_families_is_closed() {
    let mut cluster = Cluster::new(&["a"]);
    cluster.service("web", json!({})).settle();
    cluster
        .edit_service(
            "web",
            json!({ "spec": { "loadBalancerSourceRanges": ["fd00::/8"] } }),
        )
        .settle();
    assert_eq!(cluster.addresses("web"), [""; 0]);
    assert!(cluster.daemonsets.is_empty());
}

#[test]
fn bad_input_never_stops_what_worked() {
    for (key, value) in [
        ("svclb.io/addresses", "wrong"),
        ("svclb.io/ip-mode", "wrong"),
        (
            "svccontroller.k3s.cattle.io/priorityclassname",
            "Not A Name",
        ),
        ("svccontroller.k3s.cattle.io/tolerations", "{"),
        (
            "service.beta.kubernetes.io/load-balancer-source-ranges",
            "wrong",
        ),
    ] {
        let mut cluster = Cluster::new(&["a", "b"]);
        cluster.service("web", json!({})).settle();
        let before = cluster.daemonsets.clone();
        cluster
            .edit_service(
                "web",
                json!({ "metadata": { "annotations": { key: value } } }),
            )
            .restart()
            .settle();
        assert_eq!(cluster.daemonsets, before, "{key}");
        assert_eq!(cluster.addresses("web"), ["10.0.0.1", "10.0.0.2"], "{key}");
        let told = cluster.told("InvalidConfiguration");
        assert!(told.len() == 1 && told[0].contains(key), "{told:?}");
        // What no longer works leaves all the same.
        assert_eq!(
            cluster.set_ready("a", "Unknown").settle().addresses("web"),
            ["10.0.0.2"],
            "{key}"
        );
        // And the first good value is taken.
        cluster
            .edit_service("web", json!({ "metadata": { "annotations": null } }))
            .settle();
        assert!(
            cluster
                .world
                .service(&crate::fixtures::key("web"))
                .unwrap()
                .conditions
                .is_empty()
        );
    }
}

#[test]
fn bad_input_from_the_start_serves_nothing() {
    let mut cluster = Cluster::new(&["a"]);
    cluster
        .service(
            "web",
            json!({ "metadata": { "annotations": { "svclb.io/ip-mode": "wrong" } } }),
        )
        .settle();
    assert!(cluster.daemonsets.is_empty());
    assert_eq!(cluster.addresses("web"), [""; 0]);
}
