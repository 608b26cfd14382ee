//! The wire types that build.rs generates from `proto/`, and the descriptors that reflection serves.

#[expect(clippy::all, clippy::pedantic, unused_qualifications, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("voxgate.v1");
}

/// Descriptors of `voxgate.v1` and everything it imports, custom options included.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/voxgate.bin"));
