//! The one form of a request's path: what policies see, and what the app gets.
//!
//! Invariants: [`normalise`] is idempotent; its result has no empty and no dot
//! segments, no escape of an unreserved character (RFC 3986, section 2.3) and
//! no lower-case escape, and is at most [`MAX_PATH_BYTES`] long. What an app
//! may read in two ways is refused, not repaired. It knows no policy.

use std::borrow::Cow;
use std::fmt::Write;

/// The longest path in bytes, as it comes and as it is passed on.
pub const MAX_PATH_BYTES: usize = 8 << 10;

/// Why a path has no normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PathError {
    /// It does not begin with `/`.
    #[error("a path begins with `/`")]
    NotAbsolute,
    /// It is too long.
    #[error("a path has at most {MAX_PATH_BYTES} bytes")]
    TooLong,
    /// `%` is not followed by two hex digits.
    #[error("`%` must be followed by two hex digits")]
    MalformedEscape,
    /// `%00`.
    #[error("`%00` is refused: to some apps it ends the path")]
    NullByte,
    /// A control character that is not escaped.
    #[error("a path has no control characters")]
    ControlCharacter,
    /// `%2F`.
    #[error("`%2F` is refused: an app may take it for a slash")]
    EscapedSlash,
    /// `\` or `%5C`.
    #[error("a backslash is refused: an app may take it for a slash")]
    Backslash,
    /// `..` where nothing is above.
    #[error("`..` leads above the root")]
    AboveRoot,
    /// `..;x`, `.;x`.
    #[error("a dot segment with parameters (`..;x`) is refused: an app may take it for a dot segment")]
    DotParameters,
    /// Escapes that do not decode to UTF-8, such as overlong forms.
    #[error("the escapes of a path must decode to UTF-8")]
    NotUtf8,
}

impl PathError {
    /// The label in logs and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NotAbsolute => "not-absolute",
            Self::TooLong => "too-long",
            Self::MalformedEscape => "malformed-escape",
            Self::NullByte => "null-byte",
            Self::ControlCharacter => "control-character",
            Self::EscapedSlash => "escaped-slash",
            Self::Backslash => "backslash",
            Self::AboveRoot => "above-root",
            Self::DotParameters => "dot-parameters",
            Self::NotUtf8 => "not-utf8",
        }
    }
}

/// The normal form of `raw`, the path of a request target without its query.
/// `*`, the target of `OPTIONS *`, is its own.
///
/// Escapes of unreserved characters are decoded, other escapes get upper-case
/// digits, repeated slashes become one, then dot segments are removed; what is
/// not allowed to stand in a path is escaped. Borrows where nothing changes.
///
/// # Errors
/// [`PathError`] where there is none, or where apps could disagree about it.
pub fn normalise(raw: &str) -> Result<Cow<'_, str>, PathError> {
    if raw == "*" {
        return Ok(Cow::Borrowed(raw));
    }
    let Some(below_root) = raw.strip_prefix('/') else {
        return Err(PathError::NotAbsolute);
    };
    if raw.len() > MAX_PATH_BYTES {
        return Err(PathError::TooLong);
    }
    if is_plain(below_root) {
        return Ok(Cow::Borrowed(raw));
    }
    let normal = rebuild(below_root)?;
    if normal.len() > MAX_PATH_BYTES {
        return Err(PathError::TooLong);
    }
    if normal == raw {
        return Ok(Cow::Borrowed(raw));
    }
    Ok(Cow::Owned(normal))
}

/// Whether nothing in it needs a second look: the common case, which costs one
/// pass and no memory. `false` says nothing.
fn is_plain(below_root: &str) -> bool {
    let mut before = b'/';
    below_root.bytes().all(|byte| {
        let starts_segment = before == b'/';
        before = byte;
        is_path_byte(byte) && !(starts_segment && byte == b'.') || (byte == b'/' && !starts_segment)
    })
}

fn rebuild(below_root: &str) -> Result<String, PathError> {
    // Without the slash that a path may end in; a slash before each segment.
    let mut normal = String::with_capacity(below_root.len() + 1);
    let mut segments = below_root.split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        let start = normal.len();
        normal.push('/');
        push_segment(&mut normal, segment)?;
        let keep = match &normal[start + 1..] {
            "" | "." => start,
            ".." => normal[..start].rfind('/').ok_or(PathError::AboveRoot)?,
            decoded if is_dot_with_parameters(decoded) => return Err(PathError::DotParameters),
            _ => continue,
        };
        normal.truncate(keep);
        if is_last {
            normal.push('/');
        }
    }
    Ok(normal)
}

/// Appends `segment` with its escapes in their normal form.
fn push_segment(normal: &mut String, segment: &str) -> Result<(), PathError> {
    let mut rest = segment;
    while let Some(first) = rest.chars().next() {
        if first == '%' {
            rest = push_escaped(normal, rest)?;
            continue;
        }
        let (here, behind) = rest.split_at(first.len_utf8());
        rest = behind;
        match first {
            '\\' => return Err(PathError::Backslash),
            first if first.is_ascii_control() => return Err(PathError::ControlCharacter),
            first if u8::try_from(first).is_ok_and(is_path_byte) => normal.push(first),
            _ => here.bytes().for_each(|byte| push_escape(normal, byte)),
        }
    }
    Ok(())
}

/// Appends the character whose escapes `text` begins with. Returns what stands
/// behind them.
fn push_escaped<'t>(normal: &mut String, text: &'t str) -> Result<&'t str, PathError> {
    let (first, mut rest) = split_escape(text)?;
    match first {
        0 => return Err(PathError::NullByte),
        b'/' => return Err(PathError::EscapedSlash),
        b'\\' => return Err(PathError::Backslash),
        _ if is_unreserved(first) => {
            normal.push(char::from(first));
            return Ok(rest);
        }
        _ => {}
    }
    let length = match first {
        0x00..=0x7f => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        _ => return Err(PathError::NotUtf8),
    };
    let mut bytes = [first; 4];
    for byte in &mut bytes[1..length] {
        if !rest.starts_with('%') {
            return Err(PathError::NotUtf8);
        }
        (*byte, rest) = split_escape(rest)?;
    }
    let bytes = &bytes[..length];
    if std::str::from_utf8(bytes).is_err() {
        return Err(PathError::NotUtf8);
    }
    bytes.iter().for_each(|byte| push_escape(normal, *byte));
    Ok(rest)
}

/// The byte of the escape that `text` begins with, and what stands behind it.
fn split_escape(text: &str) -> Result<(u8, &str), PathError> {
    let digits = text.get(1..3).ok_or(PathError::MalformedEscape)?;
    // `from_str_radix` would take a sign.
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(PathError::MalformedEscape);
    }
    let byte = u8::from_str_radix(digits, 16).map_err(|_| PathError::MalformedEscape)?;
    Ok((byte, &text[3..]))
}

fn push_escape(normal: &mut String, byte: u8) {
    // Writing to a `String` does not fail.
    let _ = write!(normal, "%{byte:02X}");
}

/// Expects escapes in their normal form.
fn is_dot_with_parameters(segment: &str) -> bool {
    let behind_dot = segment.strip_prefix('.');
    behind_dot
        .map(|rest| rest.strip_prefix('.').unwrap_or(rest))
        .is_some_and(|rest| rest.starts_with(';') || rest.starts_with("%3B"))
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What may stand in a segment as it is (RFC 3986, section 3.3: `pchar`).
fn is_path_byte(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
        )
}

#[cfg(test)]
mod tests;
