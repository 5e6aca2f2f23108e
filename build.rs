//! Compiles `proto/` with protox, which is written in Rust, so the machine needs no protoc. The
//! reflection service serves the descriptor set.
use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(
        [
            "mute/v1/mute_service.proto",
            "mute/v1/directory_service.proto",
            "mute/v1/token_service.proto",
            "mute/store/v1/record.proto",
        ],
        ["proto"],
    )?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure().codec_path("crate::proto::codec::Codec").compile_fds(files)?;
    // etcd's API: the program has a client only. The tests' etcd double includes a server, from a
    // directory of its own.
    let etcd = protox::compile(["etcd/rpc.proto"], ["proto"])?;
    let double = out.join("double");
    fs::create_dir_all(&double)?;
    tonic_prost_build::configure().out_dir(double).compile_fds(etcd.clone())?;
    tonic_prost_build::configure().build_server(false).compile_fds(etcd)?;
    // Taken from the environment and not from the work tree, so that builds are reproducible.
    for name in ["MUTE_BUILD_REVISION", "MUTE_BUILD_DATE"] {
        println!("cargo:rerun-if-env-changed={name}");
        println!(
            "cargo:rustc-env={name}={}",
            env::var(name).unwrap_or_else(|_| "unknown".to_owned())
        );
    }
    Ok(())
}
