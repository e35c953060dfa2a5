//! Generates Rust from the `.proto` files, without a `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "watchword/v1/control.proto",
        "watchword/v1/admin.proto",
        "watchword/v1/tunnel.proto",
        "spiffe/workload.proto",
        "envoy/service/secret/v3/sds.proto",
        "envoy/extensions/transport_sockets/tls/v3/secret.proto",
        "shop/payments.proto",
    ];
    for folder in ["watchword", "spiffe", "envoy", "google", "shop"] {
        println!("cargo::rerun-if-changed={folder}");
    }
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure()
        // Join tokens and private keys are secrets: see src/redacted.rs.
        .skip_debug([
            "watchword.v1.AttestRequest",
            "watchword.v1.CreateTokenResponse",
            "X509SVID",
            "envoy.service.discovery.v3.DiscoveryResponse",
            "envoy.service.discovery.v3.Resource",
            "envoy.config.core.v3.DataSource",
            "envoy.config.core.v3.DataSource.specifier",
        ])
        .include_file("packages.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
