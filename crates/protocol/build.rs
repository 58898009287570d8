//! Generates the gRPC types from `proto/agent.proto`. The compiler is protox, so that no protoc is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/agent.proto");
    let descriptors = protox::compile(["agent.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // Whoever connects or listens brings the transport; the generated code stays free of it.
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
