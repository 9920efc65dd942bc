//! Links the program at a fixed address, as static programs once were.
//!
//! A static program that may lie anywhere (static-PIE, what rustc makes) writes the addresses into its
//! tables at each start, and so has its own copy of them: some 20 KiB more in each pod's memory, and 60
//! in the file. What a random address makes harder is to exploit a process through its input, and this
//! one's only input is its environment.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let has =
        |variable, value| env::var(variable).is_ok_and(|it| it.split(',').any(|it| it == value));
    if has("CARGO_CFG_TARGET_ENV", "gnu") && has("CARGO_CFG_TARGET_FEATURE", "crt-static") {
        for argument in ["-static", "-no-pie"] {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}
