//! Any environment is obeyed or refused with one line that names the variable.
#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use libfuzzer_sys::fuzz_target;
use svclb_pod::config::{Config, Form};

const VARIABLES: [&str; 7] = [
    "SVCLB_FORWARDS",
    "DEST_IPS",
    "SRC_RANGES",
    "SRC_PORT",
    "DEST_PROTO",
    "DEST_PORT",
    "SVCLB_BACKEND",
];

fuzz_target!(|data: &[u8]| {
    // Values in the order above, one a line; one that is a dash is not set.
    let values: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    let parsed = Config::parse(|name| {
        let index = VARIABLES.iter().position(|variable| *variable == name)?;
        let value = values.get(index).filter(|value| **value != b"-")?;
        Some(OsString::from_vec(value.to_vec()))
    });
    match parsed {
        Ok(config) => {
            assert!(!config.families().is_empty());
            assert!(!config.destinations.is_empty());
            assert!(
                config
                    .sources
                    .as_ref()
                    .is_none_or(|ranges| !ranges.is_empty())
            );
            let mut ports: Vec<_> = config
                .forwards
                .iter()
                .map(|it| (it.protocol, it.port))
                .collect();
            ports.sort_unstable();
            let all = ports.len();
            ports.dedup();
            assert_eq!(ports.len(), all);
            assert!(config.form == Form::Service || all == 1);
            assert!(
                config
                    .forwards
                    .iter()
                    .all(|it| it.port != 0 && it.to_port != 0)
            );
        }
        Err(error) => {
            let line = error.to_string();
            assert!(!line.contains('\n'), "{line:?}");
            assert!(
                VARIABLES.iter().any(|variable| line.contains(variable)),
                "{line:?}"
            );
        }
    }
});
