//! The lines of the log.

use super::*;

fn config(forwards: &str, destinations: &str, ranges: Option<&str>) -> Config {
    Config::parse(|variable| match variable {
        "SVCLB_FORWARDS" => Some(forwards.into()),
        "DEST_IPS" => Some(destinations.into()),
        "SRC_RANGES" => ranges.map(Into::into),
        _ => None,
    })
    .unwrap()
}

#[test]
fn a_line_for_each_forward() {
    let config = config("tcp/80=80,udp/53=30053", "10.43.0.10", Some("10.0.0.0/8"));
    assert_eq!(
        forwards(&config, &[Family::V4]),
        "tcp 80 -> 10.43.0.10:80 from 10.0.0.0/8\nudp 53 -> 10.43.0.10:30053 from 10.0.0.0/8\n"
    );
}

#[test]
fn without_ranges_it_is_all_addresses_of_the_families_that_are_served() {
    let config = config("tcp/80=80", "10.43.0.10,fd00::1", None);
    assert_eq!(
        forwards(&config, &Family::ALL),
        "tcp 80 -> 10.43.0.10:80, [fd00::1]:80 from 0.0.0.0/0, ::/0\n"
    );
    assert_eq!(
        forwards(&config, &[Family::V6]),
        "tcp 80 -> [fd00::1]:80 from ::/0\n"
    );
}

#[test]
fn a_long_list_is_cut_short() {
    let ranges: Vec<_> = (0..10)
        .map(|number| format!("10.{number}.0.0/24"))
        .collect();
    let config = config("tcp/80=80", "10.43.0.10", Some(&ranges.join(" ")));
    let line = forwards(&config, &[Family::V4]);
    assert!(
        line.ends_with("10.6.0.0/24, 10.7.0.0/24 and 2 more\n"),
        "{line}"
    );
}

#[test]
fn milliseconds_have_three_digits_after_the_point() {
    let written = |microseconds| Milliseconds(Duration::from_micros(microseconds)).to_string();
    assert_eq!(written(7), "0.007 ms");
    assert_eq!(written(1_020), "1.020 ms");
    assert_eq!(written(12_345_678), "12345.678 ms");
}
