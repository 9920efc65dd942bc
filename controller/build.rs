//! Linker options for a small file.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=discard-unwind-tables.ld");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    if variable("CARGO_CFG_TARGET_OS") != "linux" {
        return;
    }
    // A static binary that may lie anywhere in memory has 16,000 relocations: packed they are 2 % of what they were.
    println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    // On this target Rust links with lld, which lets go of the tables; GNU's linker would miss them.
    let lld =
        variable("CARGO_CFG_TARGET_ARCH") == "x86_64" && variable("CARGO_CFG_TARGET_ENV") == "gnu";
    if lld && variable("PROFILE") == "release" {
        let folder = variable("CARGO_MANIFEST_DIR");
        println!("cargo:rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{folder}/discard-unwind-tables.ld");
    }
}
