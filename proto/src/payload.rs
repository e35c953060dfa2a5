//! Bytes of a frame's control payload to and from its message.

use prost::Message;
use thiserror::Error;

/// A payload that is not the message that its frame's type promises.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the payload is not a valid message: {0}")]
pub struct PayloadError(String);

/// Encodes a control payload.
pub fn encode_payload<M: Message>(message: &M) -> Vec<u8> {
    message.encode_to_vec()
}

/// Decodes a control payload. The caller has bounded its length.
///
/// # Errors
/// When the bytes are not that message.
pub fn decode_payload<M: Message + Default>(bytes: &[u8]) -> Result<M, PayloadError> {
    M::decode(bytes).map_err(|error| PayloadError(error.to_string()))
}
