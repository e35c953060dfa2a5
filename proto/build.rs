//! Generates Rust from the `.proto` files, without a `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "watchword/v1/control.proto",
        "watchword/v1/admin.proto",
        "watchword/v1/tunnel.proto",
    ];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure()
        // A join token is a secret: see the redacting Debug in src/lib.rs.
        .skip_debug(["watchword.v1.AttestRequest", "watchword.v1.CreateTokenResponse"])
        .compile_fds(descriptors)?;
    Ok(())
}
