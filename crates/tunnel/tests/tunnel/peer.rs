//! A peer that is written out frame by frame.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;
use watchword_proto::encode_payload;
use watchword_proto::tunnel::{Denied, Goaway, Open, Reason, Refused, Reset};
use watchword_tunnel::frame::{HEADER, Header, Type};

/// The far end of a tunnel's transport.
pub(crate) struct Peer {
    pub(crate) wire: DuplexStream,
}

pub(crate) fn frame(kind: Type, stream: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        kind,
        length: payload.len(),
        stream,
    };
    [&header.encode(), payload].concat()
}

pub(crate) fn open(stream: u32) -> Vec<u8> {
    frame(Type::Open, stream, &encode_payload(&Open::default()))
}

pub(crate) fn opened(stream: u32) -> Vec<u8> {
    frame(Type::Opened, stream, &[])
}

pub(crate) fn refused(stream: u32, errno: u32) -> Vec<u8> {
    frame(Type::Refused, stream, &encode_payload(&Refused { errno }))
}

pub(crate) fn denied(stream: u32) -> Vec<u8> {
    let denied = Denied {
        reason: Reason::DenyRule.into(),
        policy: "orders".to_owned(),
        rule: "not from the lab".to_owned(),
    };
    frame(Type::Denied, stream, &encode_payload(&denied))
}

pub(crate) fn reset(stream: u32, reason: Reason) -> Vec<u8> {
    frame(Type::Reset, stream, &encode_payload(&Reset { reason: reason.into() }))
}

pub(crate) fn goaway(last_stream: u32, reason: Reason) -> Vec<u8> {
    let goaway = Goaway {
        reason: reason.into(),
        last_stream,
    };
    frame(Type::Goaway, 0, &encode_payload(&goaway))
}

impl Peer {
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.wire.write_all(bytes).await.unwrap();
    }

    /// The next frame; the test fails if the connection ends instead.
    pub(crate) async fn read(&mut self) -> (Type, u32, Vec<u8>) {
        let mut head = [0; HEADER];
        self.wire.read_exact(&mut head).await.expect("a frame");
        let header = Header::decode(head).unwrap();
        let mut payload = vec![0; header.length];
        self.wire.read_exact(&mut payload).await.unwrap();
        (header.kind, header.stream, payload)
    }

    /// The next frame, which must be that one.
    pub(crate) async fn expect(&mut self, kind: Type, stream: u32) -> Vec<u8> {
        let (found, of, payload) = self.read().await;
        assert_eq!((found, of), (kind, stream));
        payload
    }

    /// The connection ends, without a further byte, within that time.
    pub(crate) async fn expect_end(&mut self, within: Duration) {
        let mut byte = [0];
        let read = timeout(within, self.wire.read(&mut byte)).await.expect("in time");
        assert_eq!(read.unwrap(), 0, "a byte {byte:?} instead of the end");
    }
}
