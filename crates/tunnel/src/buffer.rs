//! A byte queue with one contiguous piece of memory.
//!
//! Invariants: memory is zeroed once when it grows, not per read; it starts
//! small, grows under load, and shrinks again when asked to while empty. Must
//! not know: what the bytes mean.

use std::fmt;

use crate::frame::{HEADER, MAX_DATA};

/// What an idle stream holds.
const SMALL: usize = 2 * 1024;
/// One full DATA frame with its header.
const LARGE: usize = HEADER + MAX_DATA;

#[derive(Default)]
pub(crate) struct Buffer {
    /// All of it is initialised.
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.memory.get(self.start..self.end).unwrap_or_default()
    }

    /// Forgets the first `count` bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.is_empty() {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Free memory behind the bytes; [`commit`](Self::commit) says how much of
    /// it was filled.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.memory.is_empty() {
            self.memory.resize(SMALL, 0);
        }
        self.memory.get_mut(self.end..).unwrap_or_default()
    }

    pub(crate) fn commit(&mut self, count: usize) {
        self.end = (self.end + count).min(self.memory.len());
    }

    /// Free bytes behind the queue, without moving anything.
    pub(crate) fn room_left(&self) -> usize {
        self.memory.len().max(SMALL) - self.end
    }

    /// Moves the bytes to the front.
    pub(crate) fn compact(&mut self) {
        if self.start > 0 {
            self.memory.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// More memory, up to that of one full frame.
    pub(crate) fn grow(&mut self) {
        if self.memory.len() < LARGE {
            self.memory.resize(LARGE, 0);
        }
    }

    pub(crate) fn is_large(&self) -> bool {
        self.memory.len() > SMALL
    }

    /// Gives memory back, if it is empty.
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() && self.is_large() {
            self.memory = Vec::new();
        }
    }

    /// Appends, with more memory where it must be. Callers bound what they push.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.room().len() < bytes.len() {
            self.compact();
        }
        let needed = self.end + bytes.len();
        if self.memory.len() < needed {
            self.memory.resize(needed.max(LARGE), 0);
        }
        if let Some(room) = self.memory.get_mut(self.end..needed) {
            room.copy_from_slice(bytes);
            self.end = needed;
        }
    }
}

/// What the bytes are is nobody's business.
impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {} bytes)", self.len(), self.memory.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let mut buffer = Buffer::default();
        let mut expected = Vec::new();
        for round in 0..200_u8 {
            let piece = vec![round; usize::from(round) * 3];
            buffer.push(&piece);
            expected.extend_from_slice(&piece);
            let taken = usize::from(round);
            buffer.consume(taken);
            expected.drain(..taken);
            assert_eq!(buffer.bytes(), expected);
        }
    }

    #[test]
    fn only_an_empty_buffer_shrinks() {
        let mut buffer = Buffer::default();
        assert_eq!(buffer.room_left(), SMALL);
        buffer.grow();
        assert_eq!(buffer.room().len(), LARGE);
        buffer.push(b"x");
        buffer.shrink();
        assert!(buffer.is_large());
        buffer.consume(1);
        buffer.shrink();
        assert!(!buffer.is_large());
        assert_eq!(buffer.room().len(), SMALL);
    }
}
