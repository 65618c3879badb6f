//! Encapsulated CDR as it is: the codec of this crate does the encoding, so DDS carries the same bytes as Zenoh.

use crate::cdr::HEADER_BYTES;
use core::convert::Infallible;
use rustdds::bytes::Bytes;
use rustdds::no_key::{Decode, DefaultDecoder, DeserializerAdapter, SerializerAdapter};
use rustdds::{RepresentationIdentifier, no_key};

/// A message with its encapsulation header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message(pub Vec<u8>);

/// Takes the message for what it is.
pub struct AsIs;

/// Puts the encapsulation header back in front of what DDS hands out without it.
#[derive(Clone)]
pub struct WithHeader;

pub type Reader = no_key::SimpleDataReader<Message, AsIs>;
pub type Writer = no_key::DataWriter<Message, AsIs>;

const READ: [RepresentationIdentifier; 2] = [RepresentationIdentifier::CDR_LE, RepresentationIdentifier::CDR_BE];

impl SerializerAdapter<Message> for AsIs {
    type Error = Infallible;

    fn output_encoding() -> RepresentationIdentifier {
        RepresentationIdentifier::CDR_LE // all that our writer makes
    }

    fn to_bytes(value: &Message) -> Result<Bytes, Infallible> {
        Ok(Bytes::copy_from_slice(value.0.get(HEADER_BYTES..).unwrap_or_default()))
    }
}

impl DeserializerAdapter<Message> for AsIs {
    type Error = Infallible;
    type Decoded = Message;

    fn supported_encodings() -> &'static [RepresentationIdentifier] {
        &READ
    }

    fn transform_decoded(decoded: Message) -> Message {
        decoded
    }
}

impl DefaultDecoder<Message> for AsIs {
    type Decoder = WithHeader;
    const DECODER: WithHeader = WithHeader;
}

impl Decode<'_, Message> for WithHeader {
    type Error = Infallible;

    fn decode_bytes(self, input: &[u8], encoding: RepresentationIdentifier) -> Result<Message, Infallible> {
        let order = u8::from(encoding != RepresentationIdentifier::CDR_BE);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + input.len());
        bytes.extend_from_slice(&[0, order, 0, 0]);
        bytes.extend_from_slice(input);
        Ok(Message(bytes))
    }
}
