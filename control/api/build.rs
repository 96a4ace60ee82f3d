//! Compiles the .proto files with protox, which is Rust: no protoc is needed on the machine.

use std::error::Error;
use std::path::Path;

/// Where the files are, and the root that their imports are relative to.
const ROOT: &str = "proto";

/// One file a concept.
const FILES: [&str; 10] = [
    "mayastor/v1/ana.proto",
    "mayastor/v1/counters.proto",
    "mayastor/v1/device.proto",
    "mayastor/v1/error.proto",
    "mayastor/v1/namespace.proto",
    "mayastor/v1/nexus.proto",
    "mayastor/v1/portal.proto",
    "mayastor/v1/presence.proto",
    "mayastor/v1/rule.proto",
    "mayastor/v1/subsystem.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    let paths = FILES.map(|file| Path::new(ROOT).join(file));
    let descriptors = protox::compile(paths, [ROOT])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
