//! How the program is linked: names of local symbols are in the debug sections too, and those are compressed. Together they
//! would be a third of it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        for argument in ["-Wl,--discard-all", "-Wl,--compress-debug-sections=zlib"] {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}
