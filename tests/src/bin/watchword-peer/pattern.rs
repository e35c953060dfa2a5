//! What is sent: at each place of each direction a byte of its own, so that
//! whatever is lost, doubled, moved or crossed shows. Stricter than a checksum,
//! and good for a beginning, too.

/// Bytes that are made at once.
pub(crate) const PIECE: usize = 64 * 1024;

/// Who sends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Caller,
    Server,
}

impl Side {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Caller => Self::Server,
            Self::Server => Self::Caller,
        }
    }

    fn seed(self) -> u64 {
        match self {
            Self::Caller => 0x6361_6c6c_6572_0000,
            Self::Server => 0x7365_7276_6572_0000,
        }
    }
}

/// The bytes of a direction, in their order.
pub(crate) struct Pattern {
    seed: u64,
    position: u64,
    /// The words that the piece touches.
    memory: Vec<u8>,
}

impl Pattern {
    pub(crate) fn of(side: Side) -> Self {
        Self {
            seed: side.seed(),
            position: 0,
            memory: Vec::with_capacity(PIECE + 16),
        }
    }

    /// How many bytes are behind us.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The next `length` bytes, [`PIECE`] at most; [`advance`](Self::advance)
    /// goes on.
    pub(crate) fn next(&mut self, length: usize) -> &[u8] {
        let first = self.position / 8;
        let skip = usize::try_from(self.position % 8).unwrap_or(0);
        let words = (skip + length.min(PIECE)).div_ceil(8) as u64;
        self.memory.clear();
        for word in first..first + words {
            self.memory.extend_from_slice(&mixed(self.seed ^ word).to_le_bytes());
        }
        self.memory.get(skip..skip + length.min(PIECE)).unwrap_or_default()
    }

    pub(crate) fn advance(&mut self, count: usize) {
        self.position += count as u64;
    }
}

/// The finaliser of `SplitMix64`: neighbours have nothing in common.
fn mixed(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
