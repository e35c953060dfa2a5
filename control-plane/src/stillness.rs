//! When files that change are worth reading: once they stand still.
//!
//! Invariants: what moves is waited for, at most [`MAX_MOVES`] looks in a row;
//! what moved while it was read is read again. Pure: knows no clock, and not
//! what was looked at.

use std::time::Duration;

/// Between two looks.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long what has changed must stand still. Longer than the steps of a file
/// system's clock, so that a second write has a time of its own.
pub(crate) const STANDS_STILL: Duration = Duration::from_millis(300);
/// What moves at this many looks in a row is read as it is.
const MAX_MOVES: u32 = 10;

/// What was seen, and whether it was read.
#[derive(Debug)]
pub(crate) struct Stillness<L> {
    pub(crate) seen: L,
    /// What was seen is also what was read, and stood still before.
    settled: bool,
    /// How often in a row it did not stand still.
    moves: u32,
}

impl<L: PartialEq> Stillness<L> {
    /// What is seen now is read soon, whatever it was before.
    pub(crate) fn new(seen: L) -> Self {
        Self {
            seen,
            settled: false,
            moves: 0,
        }
    }

    /// Whether what was seen is also what was read.
    #[cfg(test)]
    pub(crate) fn is_settled(&self) -> bool {
        self.settled
    }

    /// Until the next look.
    pub(crate) fn pause(&self) -> Duration {
        if self.settled { LOOK_AGAIN } else { STANDS_STILL }
    }

    /// Whether it is time to read.
    pub(crate) fn is_worth_reading(&mut self, looked: L) -> bool {
        if looked == self.seen {
            return !self.settled;
        }
        self.seen = looked;
        self.settled = false;
        self.moves += 1;
        self.moves >= MAX_MOVES
    }

    /// Whether what was read counts: not if there was something else to be seen
    /// `afterwards`. `is_complete` is false when more was read than looked at.
    pub(crate) fn counts(&mut self, afterwards: L, is_complete: bool) -> bool {
        let moved = !is_complete || afterwards != self.seen;
        self.seen = afterwards;
        self.settled = !moved || self.moves >= MAX_MOVES;
        self.moves = if self.settled { 0 } else { self.moves + 1 };
        self.settled
    }
}
