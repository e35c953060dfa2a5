//! The spellings of a path that rules are compared with.
//!
//! Some apps leave out path parameters, the part of a segment from `;` on, so
//! that `/admin;x` and `/;x/admin` lead them to `/admin`. A deny rule is
//! compared with what they would see too; an allow rule with the path as it
//! is. `%3B` counts as `;`, for apps that decode first. Invariant: a path has
//! three views at most, however many parameters it has, so that a caller
//! can't multiply the work.

use super::effect::Effect;

/// One way to read a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathView {
    /// As it is.
    Literal,
    /// Each segment without its parameters.
    WithoutParameters,
    /// The same, and what that leaves empty is left out, as repeated slashes
    /// are.
    Merged,
}

impl PathView {
    /// Those that a rule of this effect is compared with.
    pub(super) fn of(path: &str, effect: Effect) -> &'static [Self] {
        let has_parameters = || path.contains(';') || path.contains("%3B");
        if effect == Effect::Deny && has_parameters() {
            return &[Self::Literal, Self::WithoutParameters, Self::Merged];
        }
        &[Self::Literal]
    }

    /// The first segment of `rest`, and what stands behind its slash, if it
    /// has one.
    pub(super) fn split(self, rest: &str) -> (&str, Option<&str>) {
        let mut rest = rest;
        loop {
            let (segment, behind) = match rest.split_once('/') {
                Some((segment, behind)) => (segment, Some(behind)),
                None => (rest, None),
            };
            match (self, without_parameters(segment), behind) {
                (Self::Literal, ..) => return (segment, behind),
                (Self::Merged, "", Some(behind)) => rest = behind,
                (Self::WithoutParameters | Self::Merged, segment, behind) => return (segment, behind),
            }
        }
    }
}

fn without_parameters(segment: &str) -> &str {
    let end = segment.find(';').unwrap_or(segment.len());
    let end = segment[..end].find("%3B").unwrap_or(end);
    &segment[..end]
}
