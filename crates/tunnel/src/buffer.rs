//! A byte queue in one contiguous piece of memory, which it borrows from its
//! thread while bytes are in it: a larger one while it was filled the last time.
//!
//! Invariants: what waits without bytes holds no memory, and what waits with
//! less than a usual piece no larger one; no memory is zeroed twice; a buffer
//! never shows more than was committed, whoever had its memory before. Must not
//! know: what the bytes mean.

use std::cell::RefCell;
use std::fmt;

use crate::frame::{HEADER, MAX_DATA};

/// The usual piece of memory.
pub(crate) const LARGE: usize = 4 * FRAME;
/// That of a flow: each system call, and each wake of who is at the other end,
/// is for four times as much. Twice as much again saves nothing any more.
pub(crate) const WIDE: usize = FRAMES * FRAME;
/// Full DATA frames that one write to the network or to an app carries where a
/// flow has so much.
pub(crate) const FRAMES: usize = 16;
/// One full DATA frame with its header.
pub(crate) const FRAME: usize = HEADER + MAX_DATA;
/// What rests with no more than this, rests in memory of its own size.
const SMALL: usize = 2 * 1024;
/// Pieces of memory of each size that a thread keeps for the next who needs one.
const SPARE: usize = 16;
const WIDE_SPARE: usize = 4;

thread_local! {
    static SPARES: RefCell<Spares> = const { RefCell::new(Spares { large: Vec::new(), wide: Vec::new() }) };
}

struct Spares {
    large: Vec<Vec<u8>>,
    wide: Vec<Vec<u8>>,
}

impl Spares {
    /// Those of a length, and how many they may be; none are kept of another.
    fn of(&mut self, length: usize) -> Option<(&mut Vec<Vec<u8>>, usize)> {
        match length {
            LARGE => Some((&mut self.large, SPARE)),
            WIDE => Some((&mut self.wide, WIDE_SPARE)),
            _ => None,
        }
    }

    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        let (spares, _) = self.of(length)?;
        spares.pop()
    }

    fn put(&mut self, memory: Vec<u8>) {
        if let Some((spares, most)) = self.of(memory.len())
            && spares.len() < most
        {
            spares.push(memory);
        }
    }
}

#[derive(Default)]
pub(crate) struct Buffer {
    /// All of it is initialised; `LARGE` or more while bytes may be added.
    memory: Vec<u8>,
    start: usize,
    end: usize,
    /// The memory for what comes next is to be a flow's.
    is_wide: bool,
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
            // There was no room for one more frame of the usual piece.
            self.is_wide = self.end > LARGE - FRAME;
            self.start = 0;
            self.end = 0;
        }
    }

    /// Whoever takes the bytes is slow: there is no use in more at once.
    pub(crate) fn narrow(&mut self) {
        self.is_wide = false;
    }

    /// Free memory behind the bytes; [`commit`](Self::commit) says how much of
    /// it was filled.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        let has_other_size = self.is_empty() && self.memory.len() != self.size();
        if self.is_folded() || has_other_size {
            self.move_to(self.size());
        }
        self.memory.get_mut(self.end..).unwrap_or_default()
    }

    pub(crate) fn commit(&mut self, count: usize) {
        self.end = (self.end + count).min(self.memory.len());
    }

    /// Free bytes behind the queue, without moving anything.
    pub(crate) fn room_left(&self) -> usize {
        match self.is_folded() {
            true => self.size() - self.len(),
            false => self.memory.len() - self.end,
        }
    }

    /// Moves the bytes to the front.
    pub(crate) fn compact(&mut self) {
        if self.start > 0 {
            self.memory.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// Gives memory back that is not needed while nothing happens.
    pub(crate) fn rest(&mut self) {
        if self.is_folded() {
            return;
        }
        match self.len() {
            0..=SMALL => {
                let own = self.bytes().to_vec();
                self.start = 0;
                self.end = own.len();
                give_back(std::mem::replace(&mut self.memory, own));
            }
            ..=LARGE if self.memory.len() > LARGE => self.move_to(LARGE),
            _ => {}
        }
    }

    /// Appends, with more memory where it must be. Callers bound what they push.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.room().len() < bytes.len() {
            self.compact();
        }
        let needed = self.end + bytes.len();
        if self.memory.len() < needed {
            self.memory.resize(needed, 0);
        }
        if let Some(room) = self.memory.get_mut(self.end..needed) {
            room.copy_from_slice(bytes);
            self.end = needed;
        }
    }

    /// As [`push`](Self::push), for bytes that rest here until somebody is woken
    /// to take them.
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        if self.is_empty() && bytes.len() <= SMALL {
            give_back(std::mem::replace(&mut self.memory, bytes.to_vec()));
            (self.start, self.end) = (0, bytes.len());
        } else {
            self.push(bytes);
            self.rest();
        }
    }

    fn is_folded(&self) -> bool {
        self.memory.len() < LARGE
    }

    fn size(&self) -> usize {
        if self.is_wide { WIDE } else { LARGE }
    }

    /// To memory of another size, which has room for all bytes.
    fn move_to(&mut self, size: usize) {
        let spare = SPARES.with_borrow_mut(|spares| spares.take(size));
        let mut memory = spare.unwrap_or_else(|| vec![0; size]);
        let length = self.len();
        if let (Some(room), bytes) = (memory.get_mut(..length), self.bytes()) {
            room.copy_from_slice(bytes);
        }
        give_back(std::mem::replace(&mut self.memory, memory));
        self.start = 0;
        self.end = length;
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.memory));
    }
}

/// To the thread, which may have enough, or be ending.
fn give_back(memory: Vec<u8>) {
    let _ = SPARES.try_with(|spares| spares.borrow_mut().put(memory));
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
            if round % 3 == 0 {
                buffer.rest();
            }
            assert_eq!(buffer.bytes(), expected);
        }
    }

    #[test]
    fn what_rests_holds_no_more_than_its_bytes() {
        let mut buffer = Buffer::default();
        assert_eq!(buffer.room_left(), LARGE);
        assert_eq!(buffer.room().len(), LARGE);
        buffer.push(b"xyz");
        buffer.consume(1);
        buffer.rest();
        assert_eq!((buffer.memory.len(), buffer.room_left()), (2, LARGE - 2));
        assert_eq!(buffer.room().len(), LARGE - 2);
        assert_eq!(buffer.bytes(), b"yz");
        buffer.consume(2);
        buffer.rest();
        assert_eq!(buffer.memory.capacity(), 0);
    }

    #[test]
    fn what_is_kept_comes_out_in_order_from_memory_of_its_own_size() {
        let mut buffer = Buffer::default();
        buffer.push(b"gone");
        buffer.consume(4);
        for (kept, all) in [("ab", "ab"), ("cd", "abcd"), ("", "abcd")] {
            buffer.keep(kept.as_bytes());
            assert_eq!(buffer.bytes(), all.as_bytes());
            assert_eq!(buffer.memory.len(), all.len());
        }
        buffer.consume(4);
        buffer.keep(&[7; SMALL + 1]);
        assert_eq!(buffer.bytes(), [7; SMALL + 1]);
        assert_eq!(buffer.memory.len(), LARGE);
    }

    #[test]
    fn memory_goes_from_one_to_the_next_and_shows_nothing_of_the_first() {
        let mut first = Buffer::default();
        first.push(b"a secret");
        let memory = first.memory.as_ptr();
        drop(first);
        let mut second = Buffer::default();
        assert_eq!(second.room().len(), LARGE);
        assert_eq!(second.memory.as_ptr(), memory);
        assert!(second.bytes().is_empty());
    }

    /// As a flow's: filled, and all of it taken.
    fn fill_and_take(buffer: &mut Buffer) {
        let length = buffer.room().len();
        buffer.commit(length);
        buffer.consume(length);
    }

    #[test]
    fn a_flow_has_more_room_until_it_needs_less() {
        let mut buffer = Buffer::default();
        fill_and_take(&mut buffer);
        assert_eq!(buffer.room().len(), WIDE);
        fill_and_take(&mut buffer);
        buffer.rest();
        assert_eq!((buffer.room_left(), buffer.room().len()), (WIDE, WIDE));
        buffer.push(b"a question");
        buffer.consume(10);
        assert_eq!(buffer.room().len(), LARGE);
    }

    #[test]
    fn a_flow_whose_bytes_are_not_taken_has_no_more_room_than_others() {
        let mut buffer = Buffer::default();
        fill_and_take(&mut buffer);
        buffer.room()[..WIDE].fill(7);
        buffer.commit(WIDE);
        buffer.rest();
        assert_eq!(buffer.memory.len(), WIDE);
        buffer.consume(WIDE - LARGE);
        buffer.rest();
        assert_eq!((buffer.memory.len(), buffer.room_left()), (LARGE, 0));
        assert_eq!(buffer.bytes(), [7; LARGE]);
        buffer.consume(LARGE);
        buffer.narrow();
        assert_eq!(buffer.room().len(), LARGE);
    }

    #[test]
    fn more_than_there_is_room_for_is_taken_all_the_same() {
        let mut buffer = Buffer::default();
        buffer.push(&[1; LARGE]);
        buffer.push(&[2; 10]);
        assert_eq!(buffer.len(), LARGE + 10);
        buffer.consume(LARGE + 10);
        buffer.rest();
        assert_eq!(buffer.memory.capacity(), 0);
    }
}
