//! What the state machine says about a frame.
//!
//! Must not know: how it comes to say so.

use super::{DISCARD_LIMIT, Phase, VOUCH_LIMIT};
use crate::frame::Type;

/// What a frame that was received means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is to be skipped.
    Drop,
    /// OPEN: a new stream.
    Open,
    /// The app on the other side has accepted.
    Opened,
    /// DENIED: the stream has ended. `answer`: a RESET is to be sent at once.
    Denied {
        /// Whether a RESET is owed.
        answer: bool,
    },
    /// REFUSED: the stream has ended.
    Refused {
        /// Whether a RESET is owed.
        answer: bool,
    },
    /// RESET: the stream has ended.
    Reset {
        /// Whether a RESET is owed.
        answer: bool,
    },
    /// The stream's bytes, to be delivered.
    Data,
    /// The peer's half has ended.
    Fin,
    /// GOAWAY: its stream number goes to [`Machine::goaway`].
    Goaway,
    /// VOUCH: VOUCHED is to be sent.
    Vouch,
    /// VOUCHED: the answer.
    Vouched,
}

/// What a GOAWAY means to the one who received it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// The tunnel is over now.
    Close,
    /// The tunnel is over, and the latest stream was never served: it may be
    /// tried again on another.
    Replay,
    /// The latest stream goes on; the tunnel is over after it.
    AfterStream,
}

/// The peer sent what the table does not allow. The tunnel ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A frame that only the other role sends.
    #[error("{} from the wrong side", .0.name())]
    WrongSide(Type),
    /// A stream that was not opened.
    #[error("{} for stream {stream}, which is not open (the latest is {latest})", .kind.name())]
    UnknownStream {
        /// Of the frame.
        kind: Type,
        /// Of the frame.
        stream: u32,
        /// What this side knows of.
        latest: u32,
    },
    /// A frame that this state does not take.
    #[error("{} while {phase:?}", .kind.name())]
    OutOfTurn {
        /// Of the frame.
        kind: Type,
        /// When it came.
        phase: Phase,
    },
    /// A GOAWAY that takes back what was served, or rises.
    #[error("GOAWAY {0} contradicts what was served or said before")]
    BadGoaway(u32),
    /// More VOUCH frames than a tunnel takes.
    #[error("more than {VOUCH_LIMIT} VOUCH frames")]
    TooManyVouches,
    /// More DATA after the stream's end than is thrown away.
    #[error("more than {DISCARD_LIMIT} bytes of DATA after the stream was ended")]
    TooMuchAfterEnd,
}

/// This side would send what the table does not allow: a mistake of the
/// program. Nothing is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} can't be sent while {phase:?}", .kind.name())]
pub struct Misuse {
    /// Of the frame.
    pub kind: Type,
    /// When it was tried.
    pub phase: Phase,
}
