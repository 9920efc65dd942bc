//! The README has every flag, key, event reason, condition and metric, with the defaults that hold.

use std::path::Path;

use clap::CommandFactory;
use svclb_controller::flags::Flags;
use svclb_controller::metrics::{Kind, Metrics, Outcome};
use svclb_controller::names;

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_flag_is_in_the_readme_with_its_default() {
    let readme = file("../README.md");
    let command = Flags::command();
    let flags = command.get_arguments().filter(|flag| {
        !["help", "version"].contains(&flag.get_id().as_str()) && flag.get_long().is_some()
    });
    for flag in flags {
        let name = flag.get_long().unwrap();
        let row = readme
            .lines()
            .find(|line| line.starts_with(&format!("| `--{name}` |")))
            .unwrap_or_else(|| panic!("--{name} has no row"));
        let variable = flag.get_env().expect("a variable").to_str().unwrap();
        let twin = format!("SVCLB_{}", name.to_uppercase().replace('-', "_"));
        assert_eq!(variable, twin, "as the README says of all flags");
        let defaults = flag.get_default_values();
        if let Some(default) = defaults.first().and_then(|default| default.to_str())
            && !flag.is_hide_default_value_set()
        {
            let default = default.replace(env!("CARGO_PKG_VERSION"), "<version>");
            assert!(
                row.contains(&format!("| `{default}` |")),
                "{row}: {default}"
            );
        }
    }
}

#[test]
fn every_event_reason_and_condition_is_in_the_readme() {
    let readme = file("../README.md");
    let source = file("src/names.rs");
    let (_, reasons) = source.split_once("pub mod reason {").expect("the reasons");
    let (reasons, _) = reasons.split_once("\n}").expect("their end");
    let reasons: Vec<&str> = reasons
        .lines()
        .filter_map(|line| line.split('"').nth(1))
        .collect();
    assert!(reasons.contains(&names::reason::PORT_CONFLICT));
    for name in reasons.into_iter().chain(names::condition::OURS) {
        assert!(readme.contains(&format!("`{name}`")), "{name}");
    }
}

#[test]
fn every_key_for_users_is_in_the_readme() {
    let readme = file("../README.md");
    for key in [
        names::LOAD_BALANCER_CLASS,
        names::ADDRESSES,
        names::IP_MODE,
        names::SERVICE_NAME,
        names::SERVICE_NAMESPACE,
        names::ENABLE_LB,
        names::LB_POOL,
        names::LB_POOL_PREFIX,
        names::PRIORITY_CLASS_NAME,
        names::TOLERATIONS,
        names::SOURCE_RANGES,
        names::FINALIZER,
        names::EXCLUDE,
        names::TO_BE_DELETED,
    ] {
        assert!(readme.contains(key), "{key}");
    }
}

#[test]
fn every_metric_is_in_the_readme() {
    let readme = file("../README.md");
    let metrics = Metrics::default();
    // A family shows its labels, and its unit its suffix, once something was counted.
    metrics.written(Kind::DaemonSet, Outcome::Ok, std::time::Duration::ZERO);
    let text = metrics.encode().unwrap();
    let names: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(names.contains(&"svclb_services"), "{names:?}");
    for name in names {
        assert!(readme.contains(&format!("`{name}")), "{name}");
    }
}
