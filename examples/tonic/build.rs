//! Compiles the .proto file.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["example.proto"], ["proto"])?;
    tonic_prost_build::compile_fds(files)?;
    Ok(())
}
