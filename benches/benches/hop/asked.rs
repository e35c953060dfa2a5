//! The command line: which parts, and how much of each.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::load::{BULK_MEGABYTES, Load};
use crate::network::Cores;

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Requests,
    Connections,
    Bulk,
    Latency,
    Memory,
    Scale,
}

const PARTS: [(&str, Part); 6] = [
    ("requests", Part::Requests),
    ("connections", Part::Connections),
    ("bulk", Part::Bulk),
    ("latency", Part::Latency),
    ("memory", Part::Memory),
    ("scale", Part::Scale),
];

/// How much is done.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) rounds: usize,
    /// How often each contender has its turn in a round.
    pub(crate) turns: usize,
    /// In a turn, over one connection; four times as many over 64.
    requests: usize,
    /// Of new connections, in a turn.
    seconds: usize,
    /// Of requests at fixed times, in a turn.
    steady: usize,
    /// Of the large file, and how often, in a turn.
    bulk: (usize, usize),
    /// How long connections are idle until memory is read.
    pub(crate) settle: Duration,
    /// Idle connections whose memory is counted.
    pub(crate) idle: usize,
    /// Connections at work whose memory is counted, and for how many seconds.
    pub(crate) active: (usize, usize),
    /// Other connections, and rules, beside a load.
    pub(crate) beside: [usize; 3],
    pub(crate) rules: [usize; 2],
}

/// As the README says.
const FULL: Size = Size {
    rounds: 5,
    turns: 4,
    requests: 2_500,
    seconds: 1,
    steady: 1,
    bulk: (BULK_MEGABYTES, 3),
    settle: Duration::from_secs(4),
    idle: 3_000,
    active: (1_000, 3),
    beside: [1, 100, 10_000],
    rules: [10, 10_000],
};
/// As a test, to see that all of it works.
const SMALL: Size = Size {
    rounds: 1,
    turns: 1,
    requests: 400,
    seconds: 1,
    steady: 1,
    bulk: (16, 1),
    settle: Duration::from_millis(200),
    idle: 200,
    active: (100, 1),
    beside: [1, 10, 100],
    rules: [10, 1_000],
};

/// What is to be done.
pub(crate) struct Asked {
    pub(crate) size: Size,
    pub(crate) cores: Cores,
    pub(crate) gate: bool,
    /// Flame graphs are drawn, and nothing is measured.
    pub(crate) flames: bool,
    parts: Vec<Part>,
    /// A name that filters benchmarks may leave this one out.
    pub(crate) is_wanted: bool,
}

impl Asked {
    pub(crate) fn read(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let mut asked = Self {
            size: SMALL,
            // As in life, where each side is a machine.
            cores: Cores::Apart,
            gate: false,
            flames: false,
            parts: Vec::new(),
            is_wanted: true,
        };
        let (mut rounds, mut filters) = (None, Vec::new());
        while let Some(word) = words.next() {
            match word.as_str() {
                // Cargo says this; without it this is a test.
                "--bench" => asked.size = FULL,
                "--gate" => asked.gate = true,
                "--flames" => asked.flames = true,
                "--rounds" => {
                    let number = words.next().and_then(|number| number.parse().ok());
                    rounds = number.filter(|rounds| (1..=100).contains(rounds));
                    ensure!(rounds.is_some(), "--rounds takes 1 to 100");
                }
                "--cores" => {
                    let name = words.next().unwrap_or_default();
                    asked.cores = Cores::from_name(&name).context("--cores takes one, apart or free")?;
                }
                "--only" => {
                    for name in words.next().unwrap_or_default().split(',') {
                        let names = PARTS.map(|(name, _)| name).join(",");
                        asked
                            .parts
                            .push(part(name).context(format!("--only takes some of {names}"))?);
                    }
                }
                flag if flag.starts_with('-') => {}
                name => match part(name) {
                    Some(part) => asked.parts.push(part),
                    None => filters.push(word),
                },
            }
        }
        asked.size.rounds = rounds.unwrap_or(asked.size.rounds);
        asked.is_wanted = filters.is_empty() || filters.iter().any(|filter| "hop".contains(filter.as_str()));
        Ok(asked)
    }

    /// Whether a part is wanted: all are, where none is named.
    pub(crate) fn wants(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    /// The loads of the parts in which contenders take turns.
    pub(crate) fn loads(&self) -> Vec<Load> {
        let Size {
            requests,
            seconds,
            steady,
            bulk: (megabytes, times),
            ..
        } = self.size;
        let steadily = |connections, per_second| Load::Steady {
            connections,
            per_second,
            seconds: steady,
        };
        let requests = [(1, requests), (64, 4 * requests)];
        let requests = requests.map(|(connections, requests)| Load::Requests { connections, requests });
        let parts: [(Part, &[Load]); 4] = [
            (Part::Requests, &requests),
            (Part::Latency, &[steadily(1, 1_000), steadily(64, 2_000)]),
            (Part::Connections, &[Load::Connections { seconds }]),
            (Part::Bulk, &[Load::Bulk { megabytes, times }]),
        ];
        let wanted = parts.into_iter().filter(|(part, _)| self.wants(*part));
        wanted.flat_map(|(_, loads)| loads.to_vec()).collect()
    }
}

fn part(name: &str) -> Option<Part> {
    PARTS.iter().find(|(known, _)| *known == name).map(|(_, part)| *part)
}
