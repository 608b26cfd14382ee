//! Generates the wire types from `proto/` without an installed protoc.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut files: Vec<PathBuf> =
        fs::read_dir("proto/voxgate/v1")?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.sort();

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(files)?;
    // The encoded set keeps custom options such as field_behavior, for reflection; the decoded one has lost them.
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("voxgate.bin"), compiler.encode_file_descriptor_set())?;

    tonic_prost_build::configure()
        // An RPC without a handler answers UNIMPLEMENTED; tests/it/rpc/unimplemented.rs lists which do.
        .generate_default_stubs(true)
        // MediaNodeService.Connect would collide with the generated client's constructor of that name.
        .build_transport(false)
        .btree_map(".")
        .codec_path("crate::proto::Codec")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
