//! Why a tunnel or a stream ended.
//!
//! Invariants: both enums are closed, and each case has one label for logs
//! and metrics. Must not know: how anything is carried.

use std::io;

use watchword_proto::PayloadError;
use watchword_proto::tunnel::Reason;

use crate::frame::FrameError;
use crate::machine::{Misuse, Violation};

/// Why a tunnel can't be used any more.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The connection failed.
    #[error("the connection to the other sidecar failed: {0}")]
    Io(#[from] io::Error),
    /// The connection ended within a stream or a frame.
    #[error("the connection to the other sidecar ended in the middle of a stream")]
    Truncated,
    /// The peer said GOAWAY within a stream.
    #[error("the other sidecar closed the tunnel ({0:?}) in the middle of a stream")]
    ClosedByPeer(Reason),
    /// Bytes that are not a frame.
    #[error("not watchword/1: {0}")]
    Frame(#[from] FrameError),
    /// A control payload that is not its message, or is too long.
    #[error("malformed control frame: {0}")]
    Payload(#[from] PayloadError),
    /// A field of a control payload is longer than allowed.
    #[error("malformed control frame: {0} is too long")]
    FieldTooLong(&'static str),
    /// A frame that the state table does not list.
    #[error("protocol violation: {0}")]
    Violation(#[from] Violation),
    /// More DATA before OPENED than a server buffers.
    #[error("protocol violation: more than {} bytes of DATA before OPENED", crate::EARLY_LIMIT)]
    TooMuchEarly,
    /// A frame of a trunk that its rules forbid.
    #[error("protocol violation on a connection of many lanes: {0}")]
    Trunk(&'static str),
    /// A frame was begun and not finished in time.
    #[error("a frame was begun and not finished within {} s", crate::FRAME_DEADLINE.as_secs())]
    SlowFrame,
    /// The peer did not end its half of a stream that this side had ended.
    #[error("the other sidecar did not end its half within {} s", crate::DISCARD_DEADLINE.as_secs())]
    NoEnd,
    /// A stream was reset while bytes were still queued, so the connection
    /// was aborted: a RESET behind them would overtake nothing.
    #[error("the tunnel was aborted to reset a stream behind queued bytes")]
    Aborted,
    /// This side tried what the state table forbids: a mistake of the program.
    #[error("this sidecar broke its own protocol, please report it: {0}")]
    Misuse(#[from] Misuse),
}

impl TunnelError {
    /// The label in logs and metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Io(_) => "io",
            Self::Truncated => "truncated",
            Self::ClosedByPeer(_) => "closed-by-peer",
            Self::Frame(_)
            | Self::Payload(_)
            | Self::FieldTooLong(_)
            | Self::Violation(_)
            | Self::TooMuchEarly
            | Self::Trunk(_) => "protocol",
            Self::SlowFrame => "slow-frame",
            Self::NoEnd => "no-end",
            Self::Aborted => "aborted",
            Self::Misuse(_) => "misuse",
        }
    }

    /// Whether the peer is to be told by GOAWAY PROTOCOL.
    pub(crate) fn is_protocol(&self) -> bool {
        matches!(
            self,
            Self::Frame(_) | Self::Payload(_) | Self::FieldTooLong(_) | Self::Violation(_) | Self::TooMuchEarly
        )
    }
}

/// Why a stream ended.
#[derive(Debug)]
pub enum CloseReason {
    /// Both sides ended their halves.
    Finished,
    /// Our app reset its connection, or is gone.
    AppReset,
    /// The other side reset the stream: its app, or a cut, as the reason says.
    PeerReset(Reason),
    /// The cut that the caller passed.
    Cut(Reason),
    /// No OPENED in time.
    OpenTimeout,
    /// The tunnel failed; the app's connection was reset.
    Lost(TunnelError),
}

impl CloseReason {
    /// The label in logs and metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::AppReset => "app-reset",
            Self::PeerReset(_) => "peer-reset",
            Self::Cut(_) => "cut",
            Self::OpenTimeout => "open-timeout",
            Self::Lost(error) => error.label(),
        }
    }
}
