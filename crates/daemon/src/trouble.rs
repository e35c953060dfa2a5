//! Trouble that comes again and again, told now and then, and with its causes.

use std::time::Duration;

use tokio::time::Instant;

/// Between two times that the same trouble is told.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// Counts one kind of trouble between two times that it is told.
#[derive(Debug)]
pub struct Trouble {
    say_again: Duration,
    told: Option<Instant>,
    untold: u64,
}

impl Default for Trouble {
    fn default() -> Self {
        Self::every(SAY_AGAIN)
    }
}

impl Trouble {
    /// Told at most so often, rather than every ten seconds.
    pub fn every(say_again: Duration) -> Self {
        Self {
            say_again,
            told: None,
            untold: 0,
        }
    }

    /// Notes that it came. When it is to be told, how often it came since the
    /// last time, this one among them.
    pub fn note(&mut self) -> Option<u64> {
        self.untold += 1;
        if self.told.is_some_and(|told| told.elapsed() < self.say_again) {
            return None;
        }
        self.told = Some(Instant::now());
        Some(std::mem::take(&mut self.untold))
    }
}

/// The whole chain of causes, since transports hide the one that matters.
pub fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_is_told_at_once_and_the_rest_by_number() {
        let mut trouble = Trouble::default();
        assert_eq!(trouble.note(), Some(1));
        for _ in 0..199 {
            tokio::time::advance(Duration::from_millis(50)).await;
            assert_eq!(trouble.note(), None);
        }
        tokio::time::advance(Duration::from_millis(50)).await;
        assert_eq!(trouble.note(), Some(200));
    }
}
