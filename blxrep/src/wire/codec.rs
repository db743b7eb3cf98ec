//! Control messages as bytes. The only file of the protocol that knows bincode: little-endian, variable-length
//! integers, never more than a control frame may carry, and nothing may be left over.

use super::frame::{HEADER_BYTES, MAX_PAYLOAD_BYTES};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// No message is longer, on any channel; also bounds what a decoder allocates for one string.
const LIMIT: usize = MAX_PAYLOAD_BYTES as usize;

/// Why a control message could not be turned into bytes or back.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("a control message of {length} bytes; at most {limit} are allowed on this channel")]
    TooLong { length: usize, limit: usize },
    #[error("a control message cannot be encoded: {0}")]
    Encode(#[from] bincode::error::EncodeError),
    #[error("a control message cannot be understood: {0}")]
    Decode(#[from] bincode::error::DecodeError),
    #[error("a control message has {0} bytes too many")]
    LeftOver(usize),
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<LIMIT>()
}

/// Encodes a message behind the headroom of its frame's header. `limit` is the channel's.
pub fn encode<T: Serialize>(message: &T, limit: usize) -> Result<Vec<u8>, CodecError> {
    let mut bytes = vec![0; HEADER_BYTES];
    bincode::serde::encode_into_std_write(message, &mut bytes, config())?;
    let length = bytes.len() - HEADER_BYTES;
    if length > limit { Err(CodecError::TooLong { length, limit }) } else { Ok(bytes) }
}

/// Decodes a control frame's payload.
pub fn decode<T: DeserializeOwned>(payload: &[u8], limit: usize) -> Result<T, CodecError> {
    if payload.len() > limit {
        return Err(CodecError::TooLong { length: payload.len(), limit });
    }
    let (message, consumed) = bincode::serde::decode_from_slice(payload, config())?;
    match payload.len() - consumed {
        0 => Ok(message),
        left => Err(CodecError::LeftOver(left)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{CutId, DiskIdentity};
    use crate::wire::config::{ToAgent, ToDispatcher};
    use proptest::prelude::*;

    #[test]
    fn a_message_is_what_was_encoded() {
        let message = ToAgent::Sync {
            request: CutId(7),
            disk: Some(DiskIdentity::Wwn("naa.5000".to_owned())),
            goal: None,
        };
        let bytes = encode(&message, 1000).unwrap();
        assert_eq!(decode::<ToAgent>(&bytes[HEADER_BYTES..], 1000).unwrap(), message);
    }

    #[test]
    fn the_channels_limit_holds_in_both_directions() {
        let message = ToDispatcher::Pong(1);
        assert!(matches!(encode(&message, 1), Err(CodecError::TooLong { length: 2, limit: 1 })));
        assert!(matches!(
            decode::<ToDispatcher>(&[0; 9], 8),
            Err(CodecError::TooLong { length: 9, limit: 8 })
        ));
    }

    #[test]
    fn nothing_may_be_left_over() {
        let mut bytes = encode(&ToAgent::Ping(3), 100).unwrap();
        bytes.push(0);
        assert!(matches!(decode::<ToAgent>(&bytes[HEADER_BYTES..], 100), Err(CodecError::LeftOver(1))));
    }

    #[test]
    fn a_claimed_length_is_bounded_before_it_is_allocated() {
        // Variant 0 is the policy; its first field is a name, here of 2^62 bytes.
        let mut bytes = vec![0, 253];
        bytes.extend((1u64 << 62).to_le_bytes());
        assert!(matches!(decode::<ToAgent>(&bytes, 100), Err(CodecError::Decode(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<ToAgent>(&bytes, 1 << 20);
            let _ = decode::<ToDispatcher>(&bytes, 1 << 20);
            let _ = decode::<crate::wire::snapshot::ToDispatcher>(&bytes, 1 << 20);
            let _ = decode::<crate::wire::live::ToDispatcher>(&bytes, 1 << 20);
            let _ = decode::<crate::wire::restore::ToDispatcher>(&bytes, 1 << 20);
            let _ = decode::<crate::wire::restore::ToAgent>(&bytes, 1 << 20);
        }
    }
}
