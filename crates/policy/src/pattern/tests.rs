#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, proptest};
use spiffe::SpiffeId;

use super::{IdPattern, PatternError, parse_workload_id};

fn pattern(text: &str) -> IdPattern {
    text.parse().unwrap()
}

#[test]
fn matches_exactly_or_below() {
    let cases = [
        ("spiffe://td/a", "spiffe://td/a", true),
        ("spiffe://td/a", "spiffe://td/a/b", false),
        ("spiffe://td/a", "spiffe://other/a", false),
        ("spiffe://td/a/*", "spiffe://td/a", false),
        ("spiffe://td/a/*", "spiffe://td/a/b", true),
        ("spiffe://td/a/*", "spiffe://td/a/b/c", true),
        ("spiffe://td/a/*", "spiffe://td/ab", false),
        ("spiffe://td/a/*", "spiffe://td/ab/c", false),
        ("spiffe://td/a/*", "spiffe://other/a/b", false),
        ("spiffe://td/*", "spiffe://td/a", true),
        ("spiffe://td/*", "spiffe://td/a/b", true),
        ("spiffe://td/*", "spiffe://td", false),
        ("spiffe://td/*", "spiffe://td2/a", false),
    ];
    for (text, id, expected) in cases {
        let id = SpiffeId::new(id).unwrap();
        assert_eq!(pattern(text).matches(&id), expected, "{text} on {id}");
    }
}

#[test]
fn covers_what_it_matches_all_of() {
    let cases = [
        ("spiffe://td/a", "spiffe://td/a", true),
        ("spiffe://td/a", "spiffe://td/a/*", false),
        ("spiffe://td/a/*", "spiffe://td/a/*", true),
        ("spiffe://td/a/*", "spiffe://td/a/b/*", true),
        ("spiffe://td/a/b/*", "spiffe://td/a/*", false),
        ("spiffe://td/a/*", "spiffe://td/a", false),
        ("spiffe://td/a/*", "spiffe://td/ab/*", false),
        ("spiffe://td/*", "spiffe://td/a/*", true),
        ("spiffe://td/*", "spiffe://other/a", false),
    ];
    for (a, b, expected) in cases {
        assert_eq!(pattern(a).covers(&pattern(b)), expected, "{a} over {b}");
    }
}

#[test]
fn wildcards_elsewhere_are_refused_as_such() {
    for text in [
        "*",
        "spiffe://*/a",
        "spiffe://*",
        "spiffe://td/a*",
        "spiffe://td/*/b",
        "spiffe://td/*/*",
        "spiffe://td/**",
        "spiffe://td/a/b*/*",
    ] {
        assert_eq!(text.parse::<IdPattern>(), Err(PatternError::Wildcard), "{text}");
    }
}

#[test]
fn only_canonical_ids_with_a_path_are_taken() {
    let not_canonical = |canonical: &str| PatternError::NotCanonical {
        canonical: canonical.to_owned(),
    };
    assert_eq!("spiffe://td".parse::<IdPattern>(), Err(PatternError::NoPath));
    assert_eq!(
        "SPIFFE://td/a".parse::<IdPattern>(),
        Err(not_canonical("spiffe://td/a"))
    );
    assert_eq!(
        "spiffe://TD/a".parse::<IdPattern>(),
        Err(not_canonical("spiffe://td/a"))
    );
    assert_eq!("spiffe://TD/*".parse::<IdPattern>(), Err(not_canonical("spiffe://td")));
    for text in [
        "",
        "web",
        "https://td/a",
        "spiffe:///a",
        "spiffe://td/",
        "spiffe://td/a/",
        "spiffe://td//a",
        "spiffe://td/./a",
        "spiffe://td/../a",
        "spiffe://td/%41",
        "spiffe://td/a?b",
        "spiffe://td:80/a",
        "spiffe://user@td/a",
        "spiffe://td//*",
        "/*",
    ] {
        let error = text.parse::<IdPattern>().unwrap_err();
        assert!(matches!(error, PatternError::Invalid(_)), "{text}: {error}");
    }
    let long = format!("spiffe://td/{}", "a".repeat(2048 - 12));
    assert!(parse_workload_id(&long).is_ok());
    assert_eq!(parse_workload_id(&format!("{long}a")), Err(PatternError::TooLong));
}

proptest! {
    #[test]
    fn displays_as_it_parses(
        td in "[a-z0-9._-]{1,20}",
        path in "(/[a-zA-Z0-9_-]{1,8}){0,4}",
        prefix in proptest::bool::ANY,
    ) {
        let text = format!("spiffe://{td}{path}{}", if prefix { "/*" } else { "" });
        if prefix || !path.is_empty() {
            prop_assert_eq!(pattern(&text).to_string(), text);
        } else {
            prop_assert!(text.parse::<IdPattern>().is_err());
        }
    }

    #[test]
    fn what_parses_displays_as_it_was(text in ".{0,40}".prop_map(|tail| format!("spiffe://{tail}"))) {
        if let Ok(parsed) = text.parse::<IdPattern>() {
            prop_assert_eq!(parsed.to_string(), text);
        }
    }
}
