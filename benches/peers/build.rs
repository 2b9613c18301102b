//! Generates the tonic client and server without `protoc`: the service is described here, and its
//! message is written by hand in `src/peers/tonic.rs`. Notes the version of the compiler.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-env=RUSTC_VERSION={}", rustc_version());
    let echo = tonic_build::manual::Method::builder()
        .name("echo")
        .route_name("Echo")
        .input_type("crate::peers::tonic::EchoMessage")
        .output_type("crate::peers::tonic::EchoMessage")
        .codec_path("tonic_prost::ProstCodec")
        .build();
    let service =
        tonic_build::manual::Service::builder().name("Echo").package("peers").method(echo).build();
    tonic_build::manual::Builder::new().compile(&[service]);
}

fn rustc_version() -> String {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let output = Command::new(rustc).arg("--version").output();
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}
