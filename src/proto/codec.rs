//! How messages of the API become bytes, and the other way: as `tonic-prost` does it, with buffers
//! of the size that most calls need, rather than 8 KiB for each message; and a message is decoded
//! from one piece, which is several times as fast as from a buffer that may have many.

use std::marker::PhantomData;

use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// For a message of one user or room, and its frame.
const BUFFER: usize = 256;
/// From so many bytes on the messages of a stream go out.
const YIELD: usize = 32 << 10;

/// The codec: of what is encoded, and what is decoded.
pub(super) struct Codec<T, U>(PhantomData<(T, U)>);

pub(super) struct Encode<T>(PhantomData<T>);

pub(super) struct Decode<U>(PhantomData<U>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + 'static, U: Message + Default + 'static> tonic::codec::Codec for Codec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = Encode<T>;
    type Decoder = Decode<U>;

    fn encoder(&mut self) -> Encode<T> {
        Encode(PhantomData)
    }

    fn decoder(&mut self) -> Decode<U> {
        Decode(PhantomData)
    }
}

impl<T: Message> Encoder for Encode<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.reserve(message.encoded_len());
        message.encode(to).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, YIELD)
    }
}

impl<U: Message + Default> Decoder for Decode<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        use bytes::Buf as _;

        let message = from.copy_to_bytes(from.remaining());
        // What gRPC has for a message that is none.
        U::decode(&*message).map(Some).map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, YIELD)
    }
}
