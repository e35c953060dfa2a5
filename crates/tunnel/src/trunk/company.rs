//! How many lanes are in use at the same time, and how many of them make a part.
//!
//! Apps that call again and again are soon in step: all of them are on one side
//! of the trunk while the other one rests. So a half of them is given what came,
//! and is sent what it has said, before the other half: then either side has one.

use super::MAX_LANES;

/// Of those that are in use. More parts would be more packets.
const PARTS: u64 = 2;
/// So few are one part, and in one packet.
const SMALLEST_PART: u64 = 4;

/// What is known of lanes that are in use, by when each is heard, or speaks.
#[derive(Debug, Default)]
pub(super) struct Company {
    /// Times that any of them did.
    times: u64,
    /// How far apart two times of one lane were, for all since this was last
    /// looked at, and how many these are.
    apart: u64,
    counted: u64,
    lanes: u64,
}

/// The last time of a lane.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Last(u64);

impl Company {
    /// It is a lane's turn: so many had theirs since its last one as are in use.
    pub(super) fn note(&mut self, last: &mut Last) {
        self.times += 1;
        let before = std::mem::replace(last, Last(self.times)).0;
        if before > 0 {
            // One that was idle meanwhile knows nothing.
            self.apart += (self.times - before).min(MAX_LANES as u64);
            self.counted += 1;
        }
    }

    /// How often that was.
    pub(super) fn times(&self) -> u64 {
        self.times
    }

    /// What was noted since the last call is looked at.
    pub(super) fn look(&mut self) {
        if let Some(lanes) = self.apart.checked_div(self.counted) {
            self.lanes = lanes;
        }
        (self.apart, self.counted) = (0, 0);
    }

    /// How many are in use.
    pub(super) fn lanes(&self) -> u64 {
        self.lanes
    }

    /// How many of them make a part.
    pub(super) fn part(&self) -> u64 {
        (self.lanes / PARTS).max(SMALLEST_PART)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_half_of_the_lanes_in_use_however_they_come() {
        let table: [(&[usize], u64); 7] = [
            (&[1], 4),
            (&[8], 4),
            (&[4, 4], 4),
            (&[64], 32),
            (&[32, 32], 32),
            (&[10, 20, 34], 32),
            (&[MAX_LANES], 64),
        ];
        for (batches, part) in table {
            let (mut company, mut last) = (Company::default(), [Last::default(); MAX_LANES]);
            for _ in 0..3 {
                let mut lanes = last.iter_mut();
                for &batch in batches {
                    lanes.by_ref().take(batch).for_each(|last| company.note(last));
                    company.look();
                }
            }
            assert_eq!(company.part(), part, "{batches:?}");
        }
    }

    #[test]
    fn lanes_that_are_idle_are_no_company() {
        let (mut company, mut last) = (Company::default(), [Last::default(); MAX_LANES]);
        last.iter_mut().for_each(|last| company.note(last));
        company.look();
        assert_eq!(company.part(), 4, "nobody was there twice");
        for _ in 0..2 {
            last[..8].iter_mut().for_each(|last| company.note(last));
            company.look();
        }
        assert_eq!((company.lanes(), company.part()), (8, 4));
    }
}
