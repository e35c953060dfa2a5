//! What is promised of Watchword against the others, and whether it is kept.
//!
//! Invariant: a gate is a ratio of medians of one run; an aim is shown beside
//! and decides nothing.

use serde_json::{Value, json};

use crate::contenders::{Contender, HTTP_RIVALS, RIVALS};
use crate::results::{Results, Run};
use crate::scale::{OPEN, RULES};

/// How far Watchword's value may be from that of another.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
    Below(f64),
    Above(f64),
}

impl Bound {
    pub(crate) fn is_kept(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(limit) => ratio <= limit,
            Self::AtLeast(limit) => ratio >= limit,
            Self::Below(limit) => ratio < limit,
            Self::Above(limit) => ratio > limit,
        }
    }

    /// Whether less is better.
    fn wants_less(self) -> bool {
        matches!(self, Self::AtMost(_) | Self::Below(_))
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(limit) => format!("at most {limit}"),
            Self::AtLeast(limit) => format!("at least {limit}"),
            Self::Below(limit) => format!("below {limit}"),
            Self::Above(limit) => format!("above {limit}"),
        }
    }
}

/// A promise, and what came of it.
pub(crate) struct Verdict {
    pub(crate) what: String,
    /// Whom Watchword was compared with.
    pub(crate) against: &'static str,
    pub(crate) value: f64,
    pub(crate) bound: String,
    pub(crate) is_kept: bool,
    /// It decides nothing.
    pub(crate) is_aim: bool,
}

impl Verdict {
    /// An aim: a value of Watchword's own.
    pub(crate) fn aim(what: &str, value: f64, bound: Bound) -> Self {
        Self {
            what: what.to_owned(),
            against: "-",
            value,
            bound: bound.text(),
            is_kept: bound.is_kept(value),
            is_aim: true,
        }
    }

    pub(crate) fn as_json(&self) -> Value {
        json!({
            "what": self.what,
            "against": self.against,
            "value": self.value,
            "bound": self.bound,
            "isKept": self.is_kept,
            "isAim": self.is_aim,
        })
    }
}

/// A number of a run.
type Number = fn(&Run) -> f64;

/// A gate: a number of a load, and how Watchword's may be to that of the best
/// rival and to that of the floor.
struct Gate {
    what: &'static str,
    load: &'static str,
    value: Number,
    to_best: Bound,
    to_floor: Option<Bound>,
}

const GATES: [Gate; 8] = [
    Gate {
        what: "CPU per request, 1 connection",
        load: "requests, 1 connection",
        value: Run::both,
        to_best: Bound::AtMost(0.75),
        to_floor: Some(Bound::AtMost(1.0)),
    },
    Gate {
        what: "CPU per request, 64 connections",
        load: "requests, 64 connections",
        value: Run::both,
        to_best: Bound::AtMost(0.75),
        to_floor: Some(Bound::AtMost(1.0)),
    },
    Gate {
        what: "CPU per new connection",
        load: "new connections",
        value: Run::both,
        to_best: Bound::AtMost(0.125),
        to_floor: Some(Bound::AtMost(0.75)),
    },
    Gate {
        what: "new connections/s",
        load: "new connections",
        value: Run::per_second,
        to_best: Bound::AtLeast(5.0),
        to_floor: Some(Bound::Above(1.0)),
    },
    Gate {
        what: "CPU per MB",
        load: "bulk",
        value: Run::both,
        to_best: Bound::AtMost(0.85),
        to_floor: None,
    },
    Gate {
        what: "MB/s",
        load: "bulk",
        value: Run::per_second,
        to_best: Bound::Above(1.0),
        to_floor: None,
    },
    Gate {
        what: "p50, 1 connection",
        load: "latency, 1 connection",
        value: Run::p50,
        to_best: Bound::Below(1.0),
        to_floor: None,
    },
    Gate {
        what: "p99, 1 connection",
        load: "latency, 1 connection",
        value: Run::p99,
        to_best: Bound::Below(1.0),
        to_floor: None,
    },
];

/// All gates whose loads were measured.
pub(crate) fn judge(results: &Results) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for gate in &GATES {
        let (load, value) = (gate.load, gate.value);
        let others = [(&RIVALS[..], Some(gate.to_best)), (&[Contender::Floor], gate.to_floor)];
        for (others, bound) in others {
            let Some(bound) = bound else { continue };
            let found = compare(results, (Contender::Watchword, others), (load, value), bound);
            verdicts.extend(found.map(|(against, ratio)| verdict(gate.what, against, ratio, bound)));
        }
    }
    for (what, load) in [
        ("HTTP: CPU per request, 1 connection", "requests, 1 connection"),
        ("HTTP: CPU per request, 64 connections", "requests, 64 connections"),
    ] {
        let bound = Bound::AtMost(0.5);
        let found = compare(
            results,
            (Contender::WatchwordHttp, &HTTP_RIVALS),
            (load, Run::both),
            bound,
        );
        verdicts.extend(found.map(|(against, ratio)| verdict(what, against, ratio, bound)));
    }
    verdicts.extend(aims(results));
    verdicts
}

/// What is wished for, of what was measured.
fn aims(results: &Results) -> Vec<Verdict> {
    let mut aims = Vec::new();
    let ours = results
        .memory
        .iter()
        .find(|memory| memory.contender == Contender::Watchword);
    if let Some(memory) = ours {
        let most = memory.resident.into_iter().fold(0.0, f64::max) / 1024.0;
        aims.push(Verdict::aim("MiB of one proxy at first", most, Bound::Below(14.0)));
        aims.push(Verdict::aim(
            "KiB of an idle connection",
            memory.idle.1,
            Bound::AtMost(9.0),
        ));
    }
    for what in [OPEN, RULES] {
        let mut cases = results.scale.iter().filter(|case| case.what == what);
        let Some(first) = cases.next() else { continue };
        for case in cases {
            let name = format!("CPU per request, {} {what}, to {}", case.count, first.count);
            aims.push(Verdict::aim(&name, case.cpu() / first.cpu(), Bound::AtMost(1.2)));
        }
    }
    aims
}

fn verdict(what: &str, against: Contender, ratio: f64, bound: Bound) -> Verdict {
    Verdict {
        what: what.to_owned(),
        against: against.name(),
        value: ratio,
        bound: bound.text(),
        is_kept: bound.is_kept(ratio),
        is_aim: false,
    }
}

/// The best of the others, and our value to theirs.
fn compare(
    results: &Results,
    (ours, others): (Contender, &[Contender]),
    (load, value): (&str, Number),
    bound: Bound,
) -> Option<(Contender, f64)> {
    let own = results.median(ours, load, value)?;
    let others = others.iter();
    let values = others.filter_map(|other| Some((*other, results.median(*other, load, value)?)));
    let by_value = |one: &(Contender, f64), other: &(Contender, f64)| one.1.total_cmp(&other.1);
    let (best, theirs) = if bound.wants_less() {
        values.min_by(by_value)?
    } else {
        values.max_by(by_value)?
    };
    Some((best, own / theirs))
}
