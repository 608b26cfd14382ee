//! The wire types that build.rs generates from `proto/`, and the descriptors that reflection serves.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::BufferSettings;
use tonic_prost::{ProstDecoder, ProstEncoder};

#[expect(clippy::all, clippy::pedantic, unused_qualifications, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("voxgate.v1");
}

/// What a message is written to and read from, each way of each stream. Most are of some hundred bytes, and a larger one
/// grows its buffer. The library's 8 KiB are memory that no cache holds, twice a request: a tenth of a read was spent on it.
const BUFFER_BYTES: usize = 1_024;
/// Of a stream's messages that are sent together: the library's own.
const FLUSH_BYTES: usize = 32 << 10;

/// Messages on the wire, as `tonic_prost::ProstCodec` has them, in smaller buffers. build.rs puts it into the services.
#[derive(Debug)]
pub struct Codec<Out, In>(PhantomData<(Out, In)>);

impl<Out, In> Default for Codec<Out, In> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Out, In> tonic::codec::Codec for Codec<Out, In>
where
    Out: Message + Send + 'static,
    In: Message + Default + Send + 'static,
{
    type Encode = Out;
    type Decode = In;
    type Encoder = ProstEncoder<Out>;
    type Decoder = ProstDecoder<In>;

    fn encoder(&mut self) -> ProstEncoder<Out> {
        ProstEncoder::new(BufferSettings::new(BUFFER_BYTES, FLUSH_BYTES))
    }

    fn decoder(&mut self) -> ProstDecoder<In> {
        ProstDecoder::new(BufferSettings::new(BUFFER_BYTES, FLUSH_BYTES))
    }
}

/// Descriptors of `voxgate.v1` and everything it imports, custom options included.
pub const DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/voxgate.bin"));
