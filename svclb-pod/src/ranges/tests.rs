//! Networks and ranges, their edges above all.

use super::*;

fn cidr(text: &str) -> Cidr {
    Cidr::parse(text).unwrap()
}

fn merged(cidrs: &[&str], family: Family) -> Vec<(String, String)> {
    let cidrs: Vec<_> = cidrs.iter().map(|text| cidr(text)).collect();
    let ranges = merge(&cidrs, family).into_iter();
    ranges
        .map(|range| (range.first.to_string(), range.last.to_string()))
        .collect()
}

fn pair(first: &str, last: &str) -> (String, String) {
    (first.into(), last.into())
}

#[test]
fn host_bits_are_cleared_and_an_address_alone_is_a_network() {
    assert_eq!(cidr("10.1.2.3/8").to_string(), "10.0.0.0/8");
    assert_eq!(cidr("10.1.2.3").to_string(), "10.1.2.3/32");
    assert_eq!(cidr("fd00::1").to_string(), "fd00::1/128");
    assert_eq!(cidr("255.255.255.255/0").to_string(), "0.0.0.0/0");
    assert_eq!(cidr("ffff::ffff/0").to_string(), "::/0");
}

#[test]
fn what_is_no_network_is_none() {
    for text in [
        "",
        "/",
        "10.0.0.0/",
        "/8",
        "10.0.0/8",
        "10.0.0.0/33",
        "::/129",
        "10.0.0.0/-1",
    ] {
        assert_eq!(Cidr::parse(text), None, "{text:?}");
    }
}

#[test]
fn overlapping_and_adjacent_networks_become_one_range() {
    let inside = ["10.1.0.0/16", "10.0.0.0/8", "10.255.255.255/32"];
    assert_eq!(
        merged(&inside, Family::V4),
        [pair("10.0.0.0", "10.255.255.255")]
    );
    let adjacent = ["10.0.1.0/24", "10.0.0.0/24", "10.0.3.0/24"];
    assert_eq!(
        merged(&adjacent, Family::V4),
        [
            pair("10.0.0.0", "10.0.1.255"),
            pair("10.0.3.0", "10.0.3.255")
        ]
    );
}

#[test]
fn families_are_merged_each_for_itself() {
    let both = ["10.0.0.0/8", "fd00::/8"];
    assert_eq!(
        merged(&both, Family::V4),
        [pair("10.0.0.0", "10.255.255.255")]
    );
    let last = "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    assert_eq!(merged(&both, Family::V6), [pair("fd00::", last)]);
}

#[test]
fn the_last_address_has_none_after_it() {
    let range = |text| merge(&[cidr(text)], cidr(text).family())[0];
    assert_eq!(range("255.255.255.255/32").end(), None);
    assert_eq!(range("ffff::/16").end(), None);
    assert_eq!(
        range("255.255.255.254/32").end(),
        Some("255.255.255.255".parse().unwrap())
    );
    assert_eq!(range("10.0.0.0/8").end(), Some("11.0.0.0".parse().unwrap()));
}

#[test]
fn everything_is_what_both_halves_make() {
    let whole = |cidrs: &[&str], family| {
        let cidrs: Vec<_> = cidrs.iter().map(|text| cidr(text)).collect();
        merge(&cidrs, family)
            .iter()
            .any(|range| range.is_everything())
    };
    assert!(whole(&["0.0.0.0/0"], Family::V4));
    assert!(whole(&["128.0.0.0/1", "0.0.0.0/1"], Family::V4));
    assert!(!whole(&["128.0.0.0/1", "0.0.0.0/2"], Family::V4));
    assert!(whole(&["::/0"], Family::V6));
    assert!(!whole(&["::/0"], Family::V4));
}

#[test]
fn a_range_is_the_fewest_networks_that_make_it() {
    let cidrs = |cidrs: &[&str]| -> Vec<String> {
        let of: Vec<_> = cidrs.iter().map(|text| cidr(text)).collect();
        let ranges = merge(&of, of[0].family()).into_iter();
        ranges
            .flat_map(Range::cidrs)
            .map(|cidr| cidr.to_string())
            .collect()
    };
    assert_eq!(cidrs(&["10.0.0.0/9", "10.128.0.0/9"]), ["10.0.0.0/8"]);
    assert_eq!(
        cidrs(&["10.0.1.0/24", "10.0.2.0/24"]),
        ["10.0.1.0/24", "10.0.2.0/24"]
    );
    assert_eq!(cidrs(&["255.255.255.255/32"]), ["255.255.255.255/32"]);
    assert_eq!(cidrs(&["::/1", "8000::/1"]), ["::/0"]);
}
