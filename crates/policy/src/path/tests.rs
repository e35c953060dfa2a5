#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::borrow::Cow;
use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::{ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::sample::select;

use super::{MAX_PATH_BYTES, PathError, normalise};

#[test]
fn there_is_one_form() {
    let table = [
        ("*", "*"),
        ("/", "/"),
        ("/a", "/a"),
        ("/a/", "/a/"),
        ("/a-._~b!$&'()*+,;=:@", "/a-._~b!$&'()*+,;=:@"),
        // Escapes of unreserved characters, RFC 3986 6.2.2.2.
        ("/%41%7a%30%2D%2e%5f%7E", "/Az0-._~"),
        ("/%c3%a9/%3b%25", "/%C3%A9/%3B%25"),
        // Twice encoded stays encoded.
        ("/%252e%252E/%252f", "/%252e%252E/%252f"),
        ("/%252E%252e/a", "/%252E%252e/a"),
        // Dot segments, RFC 3986 5.2.4 and 5.4.2.
        ("/.", "/"),
        ("/./", "/"),
        ("/a/.", "/a/"),
        ("/a/./b", "/a/b"),
        ("/a/..", "/"),
        ("/a/../", "/"),
        ("/a/b/..", "/a/"),
        ("/a/b/../c", "/a/c"),
        ("/a/b/../../c", "/c"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.%2e/b", "/b"),
        ("/a/%2e/b", "/a/b"),
        ("/...", "/..."),
        ("/..a/.b", "/..a/.b"),
        ("/a/..a", "/a/..a"),
        // Repeated slashes are one, before dots count.
        ("//", "/"),
        ("//a", "/a"),
        ("/a//b///", "/a/b/"),
        ("/a//../b", "/b"),
        ("/a/.//b", "/a/b"),
        // What may not stand in a path.
        ("/ü", "/%C3%BC"),
        ("/\"<>^`{|}[]", "/%22%3C%3E%5E%60%7B%7C%7D%5B%5D"),
        ("/a b?c#d", "/a%20b%3Fc%23d"),
        // Parameters stay.
        ("/a;x=1/b;y", "/a;x=1/b;y"),
        ("/;x/..", "/"),
        ("/%0a%7f", "/%0A%7F"),
    ];
    for (raw, normal) in table {
        assert_eq!(normalise(raw).as_deref(), Ok(normal), "{raw}");
    }
}

#[test]
fn what_apps_could_read_in_two_ways_is_refused() {
    let table = [
        ("", PathError::NotAbsolute),
        ("a", PathError::NotAbsolute),
        ("**", PathError::NotAbsolute),
        ("%2Fa", PathError::NotAbsolute),
        ("http://host/a", PathError::NotAbsolute),
        ("/%", PathError::MalformedEscape),
        ("/%4", PathError::MalformedEscape),
        ("/%4/a", PathError::MalformedEscape),
        ("/%zz", PathError::MalformedEscape),
        ("/%+1", PathError::MalformedEscape),
        ("/%4é", PathError::MalformedEscape),
        ("/%é", PathError::MalformedEscape),
        ("/%C3%", PathError::MalformedEscape),
        ("/%00", PathError::NullByte),
        ("/a\0", PathError::ControlCharacter),
        ("/a\tb", PathError::ControlCharacter),
        ("/a\x7f", PathError::ControlCharacter),
        ("/a%2Fb", PathError::EscapedSlash),
        ("/a%2fb", PathError::EscapedSlash),
        ("/a%5Cb", PathError::Backslash),
        ("/a%5cb", PathError::Backslash),
        ("/a\\b", PathError::Backslash),
        ("/..", PathError::AboveRoot),
        ("/../a", PathError::AboveRoot),
        ("//..", PathError::AboveRoot),
        ("/a/../..", PathError::AboveRoot),
        ("/%2e%2e/a", PathError::AboveRoot),
        ("/a/..;x", PathError::DotParameters),
        ("/a/..;/b", PathError::DotParameters),
        ("/a/.;", PathError::DotParameters),
        ("/a/%2e.;x", PathError::DotParameters),
        ("/a/..%3Bx", PathError::DotParameters),
        ("/a/.%3b", PathError::DotParameters),
        // Overlong, surrogate, beyond Unicode, alone, cut short.
        ("/%C0%AF", PathError::NotUtf8),
        ("/%E0%80%AF", PathError::NotUtf8),
        ("/%C0%2E", PathError::NotUtf8),
        ("/%ED%A0%80", PathError::NotUtf8),
        ("/%F5%80%80%80", PathError::NotUtf8),
        ("/%80", PathError::NotUtf8),
        ("/%FF", PathError::NotUtf8),
        ("/%C3", PathError::NotUtf8),
        ("/%C3a", PathError::NotUtf8),
        ("/%E2%82/a", PathError::NotUtf8),
    ];
    for (raw, error) in table {
        assert_eq!(normalise(raw), Err(error), "{raw:?}");
    }
}

#[test]
fn length_is_bounded_before_and_after() {
    let longest = format!("/{}", "a".repeat(MAX_PATH_BYTES - 1));
    assert!(normalise(&longest).is_ok());
    assert_eq!(normalise(&format!("{longest}a")), Err(PathError::TooLong));
    let grows = format!("/{}", "ü".repeat(MAX_PATH_BYTES / 4));
    assert_eq!(normalise(&grows), Err(PathError::TooLong));
}

#[test]
fn nothing_is_copied_where_nothing_changes() {
    for raw in ["*", "/", "/a/b.c", "/a;x/", "/%C3%A9", "/.well-known/x", "/a/..."] {
        assert!(
            matches!(normalise(raw), Ok(Cow::Borrowed(same)) if same == raw),
            "{raw}"
        );
    }
}

#[test]
fn labels_are_unique_and_texts_are_for_people() {
    let all = [
        PathError::NotAbsolute,
        PathError::TooLong,
        PathError::MalformedEscape,
        PathError::NullByte,
        PathError::ControlCharacter,
        PathError::EscapedSlash,
        PathError::Backslash,
        PathError::AboveRoot,
        PathError::DotParameters,
        PathError::NotUtf8,
    ];
    let labels: BTreeSet<&str> = all.iter().map(|error| error.label()).collect();
    assert_eq!(labels.len(), all.len());
    assert!(
        labels
            .iter()
            .all(|label| label.chars().all(|c| c.is_ascii_lowercase() || c == '-' || c == '8'))
    );
    assert!(all.iter().all(|error| error.to_string().contains(' ')));
}

fn any_raw() -> impl Strategy<Value = String> {
    let pieces = vec![
        "/", "//", ".", "..", "a", "B", ";", ";x", "%3b", "%3B", "%2e", "%2E", "%252e", "%25", "%41", "%c3%a9", "%C3",
        "%2F", "%5c", "%00", "%0a", "é", "^", " ", "*", "~", "%7e", "=", "\\", "\t", "%", "%g",
    ];
    vec(select(pieces), 0..14).prop_map(|pieces| format!("/{}", pieces.concat()))
}

/// `None` where it is not an escape.
fn escapes(path: &str) -> impl Iterator<Item = Option<u8>> {
    let digits = path.split('%').skip(1).map(|rest| rest.get(..2));
    digits.map(|digits| u8::from_str_radix(digits?, 16).ok())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn the_result_is_in_normal_form(raw in prop_oneof![8 => any_raw(), 1 => any::<String>().prop_map(|s| format!("/{s}"))]) {
        let Ok(normal) = normalise(&raw) else { return Ok(()) };
        prop_assert_eq!(normalise(&normal), Ok(Cow::Borrowed(normal.as_ref())));
        prop_assert!(matches!(normalise(&normal), Ok(Cow::Borrowed(_))));
        prop_assert!(normal.starts_with('/') && normal.is_ascii());
        prop_assert!(!normal.contains("//"));
        prop_assert!(normal.split('/').all(|segment| segment != "." && segment != ".."));
        for escape in escapes(&normal) {
            let byte = escape.expect("an escape");
            prop_assert!(!byte.is_ascii_alphanumeric() && !b"-._~/\\\0".contains(&byte), "{}", normal);
        }
        let digits = normal.split('%').skip(1).flat_map(|rest| rest.bytes().take(2));
        prop_assert!(digits.into_iter().all(|digit| !digit.is_ascii_lowercase()));
    }

    #[test]
    fn twice_encoded_text_stays_encoded(byte in any::<u8>()) {
        let raw = format!("/a/%25{byte:02x}");
        let normal = normalise(&raw);
        prop_assert_eq!(normal.as_deref(), Ok(raw.as_str()));
    }
}
