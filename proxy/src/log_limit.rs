//! How many lines a second strangers may cause in the log. Pure.
//!
//! Invariant: what is left out is summed up once, soon after. Metrics count
//! everything; this is about the log alone.

use std::time::{Duration, Instant};

/// Written one by one in a window.
const LINES: u32 = 20;
const WINDOW: Duration = Duration::from_secs(1);

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Write,
    LeaveOut,
    /// The first one that is left out: the caller sums up at that moment.
    LeaveOutAndSumUpAt(Instant),
}

/// Counts the lines of the current window.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    began: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl LogLimit {
    /// Asks for a line.
    pub(crate) fn ask(&mut self, now: Instant) -> Line {
        let began = match self.began {
            Some(began) if now.saturating_duration_since(began) < WINDOW => began,
            _ => {
                self.written = 0;
                *self.began.insert(now)
            }
        };
        if self.written < LINES {
            self.written += 1;
            return Line::Write;
        }
        self.left_out += 1;
        if self.left_out == 1 {
            Line::LeaveOutAndSumUpAt(began + WINDOW)
        } else {
            Line::LeaveOut
        }
    }

    /// How many were left out since this was asked last.
    pub(crate) fn sum_up(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_writes_twenty_lines_a_second_and_one_that_sums_up() {
        let (mut limit, start) = (LogLimit::default(), Instant::now());
        for second in 0..3 {
            let now = start + second * WINDOW;
            let lines: Vec<_> = (0..1000).map(|_| limit.ask(now)).collect();
            assert!(lines[..20].iter().all(|line| *line == Line::Write));
            assert_eq!(lines[20], Line::LeaveOutAndSumUpAt(now + WINDOW));
            assert!(lines[21..].iter().all(|line| *line == Line::LeaveOut));
            assert_eq!(limit.sum_up(), 980);
        }
    }

    #[test]
    fn a_summary_that_comes_late_counts_the_next_window_too() {
        let (mut limit, start) = (LogLimit::default(), Instant::now());
        for second in 0..2 {
            (0..30).for_each(|_| _ = limit.ask(start + second * WINDOW));
        }
        assert_eq!(limit.sum_up(), 20);
        assert_eq!(limit.sum_up(), 0);
    }

    #[test]
    fn few_lines_are_all_written() {
        let (mut limit, start) = (LogLimit::default(), Instant::now());
        for tenth in 0..100 {
            assert_eq!(limit.ask(start + tenth * WINDOW / 10), Line::Write);
        }
    }
}
