//! Patterns of normalised paths.

use std::fmt;
use std::str::FromStr;

use crate::path::{PathError, normalise};

/// The longest pattern in bytes. It also bounds how deep a search goes.
const MAX_BYTES: usize = 1024;

/// Paths in their normal form: literal, but that `*` is exactly one segment,
/// and a final `/*` is the rest: `/a/*` matches `/a/` and deeper, not `/a`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPattern(String);

/// One segment of a [`PathPattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segment<'p> {
    /// This one.
    Literal(&'p str),
    /// Any one.
    One,
    /// One or more of any kind; the last of a pattern.
    Rest,
}

/// Why a text is not a [`PathPattern`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathPatternError {
    /// A star that could be meant for every path.
    #[error("a pattern begins with `/`: write /*, or leave `paths` out to mean all")]
    Star,
    /// It does not begin with `/`.
    #[error("a pattern begins with `/`: write /{0}")]
    NotAbsolute(String),
    /// A query or a fragment.
    #[error("a path has neither query nor fragment, so this can never match: write {0}")]
    Query(String),
    /// `*` stands for a part of a segment.
    #[error(
        "`*` stands for a whole segment, and at the end for all that follows, as in /a/*/b or /a/*: a part of a \
         segment can't be matched"
    )]
    PartialWildcard,
    /// There is another spelling, and only that is ever compared.
    #[error("paths are normalised, so this can never match: write {0}")]
    NotNormal(String),
    /// No request can have it.
    #[error("a request with such a path is refused, so this can never match: {0}")]
    Refused(PathError),
    /// It is too long.
    #[error("a pattern has at most {MAX_BYTES} bytes")]
    TooLong,
}

impl PathPattern {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it matches every path but `*`.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.0 == "/*"
    }

    /// At least one; nothing follows [`Segment::Rest`].
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        let mut segments = self.0.split('/').skip(1).peekable();
        std::iter::from_fn(move || {
            let segment = segments.next()?;
            Some(match (segment, segments.peek()) {
                ("*", None) => Segment::Rest,
                ("*", Some(_)) => Segment::One,
                _ => Segment::Literal(segment),
            })
        })
    }

    /// Whether this matches all that `other` matches.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let mut others = other.segments();
        for own in self.segments() {
            let covers = match (own, others.next()) {
                (Segment::Rest, Some(_)) => return true,
                (Segment::One, Some(Segment::Literal(_) | Segment::One)) => true,
                (Segment::Literal(own), Some(Segment::Literal(other))) => own == other,
                _ => false,
            };
            if !covers {
                return false;
            }
        }
        others.next().is_none()
    }
}

impl FromStr for PathPattern {
    type Err = PathPatternError;

    fn from_str(text: &str) -> Result<Self, PathPatternError> {
        if text.len() > MAX_BYTES {
            return Err(PathPatternError::TooLong);
        }
        if text.starts_with('*') {
            return Err(PathPatternError::Star);
        }
        if !text.starts_with('/') {
            return Err(PathPatternError::NotAbsolute(text.to_owned()));
        }
        if let Some(end) = text.find(['?', '#']) {
            return Err(PathPatternError::Query(text[..end].to_owned()));
        }
        if text.split('/').any(|segment| segment != "*" && segment.contains('*')) {
            return Err(PathPatternError::PartialWildcard);
        }
        let normal = normalise(text).map_err(PathPatternError::Refused)?;
        if normal != text {
            return Err(PathPatternError::NotNormal(normal.into_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{PathPattern, PathPatternError, Segment};

    fn pattern(text: &str) -> PathPattern {
        text.parse().unwrap()
    }

    #[test]
    fn segments_are_told_apart() {
        let all = |text: &str| pattern(text).segments().map(|s| format!("{s:?}")).collect::<Vec<_>>();
        assert_eq!(all("/"), ["Literal(\"\")"]);
        assert_eq!(all("/*"), ["Rest"]);
        assert_eq!(all("/a/*/b"), ["Literal(\"a\")", "One", "Literal(\"b\")"]);
        assert_eq!(all("/*/"), ["One", "Literal(\"\")"]);
        assert_eq!(all("/a/*"), ["Literal(\"a\")", "Rest"]);
        assert!(matches!(
            pattern("/%2A").segments().next(),
            Some(Segment::Literal("%2A"))
        ));
    }

    #[test]
    fn a_pattern_covers_what_it_matches_and_no_more() {
        let covers = [
            ("/*", "/"),
            ("/*", "/a/b"),
            ("/*", "/*"),
            ("/*", "/*/a"),
            ("/a/*", "/a/"),
            ("/a/*", "/a/*"),
            ("/a/*", "/a/*/b/*"),
            ("/*/b", "/a/b"),
            ("/*/b", "/*/b"),
            ("/*/*", "/a/*"),
            ("/*/*", "/*/b"),
            ("/a", "/a"),
        ];
        for (wide, narrow) in covers {
            assert!(pattern(wide).covers(&pattern(narrow)), "{wide} {narrow}");
        }
        let does_not = [
            ("/a/*", "/a"),
            ("/a", "/a/"),
            ("/a/", "/a"),
            ("/a", "/a/*"),
            ("/a", "/*"),
            ("/*/b", "/*/c"),
            ("/*/b", "/*"),
            ("/a/*/c", "/a/*"),
            ("/a/*/c", "/a/b"),
            ("/*/*", "/*"),
            ("/a", "/b"),
        ];
        for (wide, narrow) in does_not {
            assert!(!pattern(wide).covers(&pattern(narrow)), "{wide} {narrow}");
        }
    }

    #[test]
    fn what_can_never_match_is_refused_with_what_to_write() {
        let told = |text: &str| text.parse::<PathPattern>().unwrap_err().to_string();
        let table = [
            ("*", "write /*"),
            ("a/b", "write /a/b"),
            ("/a?b=c", "write /a"),
            ("/a/#top", "write /a/"),
            ("/a*", "a part of a segment"),
            ("/a/**", "a part of a segment"),
            ("//a", "so this can never match: write /a"),
            ("/a/../b", "write /b"),
            ("/a/./", "write /a/"),
            ("/%7euser", "write /~user"),
            ("/ü", "write /%C3%BC"),
            ("/a/%2F", "`%2F` is refused"),
            ("/..", "above the root"),
        ];
        for (text, expected) in table {
            assert!(told(text).contains(expected), "{text}: {}", told(text));
        }
        let long = format!("/{}", "a".repeat(1024));
        assert_eq!(long.parse::<PathPattern>(), Err(PathPatternError::TooLong));
        assert!(long[..1024].parse::<PathPattern>().is_ok());
    }
}
