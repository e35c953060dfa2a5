//! Control payloads whose texts are bounded beyond their frame.
//!
//! Invariants: what is sent is cut to its bound at a character; what is
//! received beyond it is an error. Must not know: states, transports.

use watchword_proto::tunnel::{Denied, Open};
use watchword_proto::{decode_payload, encode_payload};

use crate::error::TunnelError;

/// Bytes of a W3C traceparent.
const MAX_TRACEPARENT: usize = 55;
/// Bytes of an address with a zone and a port, with room to spare.
const MAX_REQUESTED: usize = 128;
/// Bytes of the name of a policy or a rule.
const MAX_NAME: usize = 1024;

pub(crate) fn encode_open(open: &Open) -> Vec<u8> {
    encode_payload(&Open {
        traceparent: cut(&open.traceparent, MAX_TRACEPARENT),
        requested: cut(&open.requested, MAX_REQUESTED),
    })
}

pub(crate) fn decode_open(payload: &[u8]) -> Result<Open, TunnelError> {
    let open = decode_payload::<Open>(payload)?;
    check(&open.traceparent, MAX_TRACEPARENT, "traceparent")?;
    check(&open.requested, MAX_REQUESTED, "requested")?;
    Ok(open)
}

pub(crate) fn encode_denied(denied: &Denied) -> Vec<u8> {
    encode_payload(&Denied {
        reason: denied.reason,
        policy: cut(&denied.policy, MAX_NAME),
        rule: cut(&denied.rule, MAX_NAME),
    })
}

pub(crate) fn decode_denied(payload: &[u8]) -> Result<Denied, TunnelError> {
    let denied = decode_payload::<Denied>(payload)?;
    check(&denied.policy, MAX_NAME, "policy")?;
    check(&denied.rule, MAX_NAME, "rule")?;
    Ok(denied)
}

fn check(text: &str, limit: usize, field: &'static str) -> Result<(), TunnelError> {
    if text.len() > limit {
        return Err(TunnelError::FieldTooLong(field));
    }
    Ok(())
}

fn cut(text: &str, limit: usize) -> String {
    text.get(..text.floor_char_boundary(limit))
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn long_texts_are_cut_when_sent_and_refused_when_received() {
        let denied = Denied {
            reason: 2,
            policy: "é".repeat(4000),
            rule: format!("x{}", "é".repeat(4000)),
        };
        let received = decode_denied(&encode_denied(&denied)).unwrap();
        assert_eq!((received.policy.len(), received.rule.len()), (1024, 1023));
        assert!(matches!(
            decode_denied(&encode_payload(&denied)),
            Err(TunnelError::FieldTooLong("policy"))
        ));
        let open = Open {
            traceparent: "0".repeat(56),
            requested: "1".repeat(129),
        };
        assert_eq!(decode_open(&encode_open(&open)).unwrap().traceparent.len(), 55);
        assert!(decode_open(&encode_payload(&open)).is_err());
    }
}
