//! Makes our daemons' JSON log lines readable for people. Pure.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Fields that say nothing on a terminal.
const LEFT_OUT: [&str; 7] = [
    "timestamp",
    "level",
    "target",
    "message",
    "span",
    "spans",
    "duration_ms",
];

/// `LEVEL message field=value …` for a JSON object with a level and a message;
/// anything else as it is.
pub(crate) fn readable(line: &str) -> String {
    let Ok(Value::Object(event)) = serde_json::from_str::<Value>(line) else {
        return line.to_owned();
    };
    let (Some(level), Some(message)) = (text(&event, "level"), text(&event, "message")) else {
        return line.to_owned();
    };
    let mut readable = format!("{level} {message}");
    let says_nothing = |key: &str, value: &Value| LEFT_OUT.contains(&key) || value == "" || value.is_null();
    for (key, value) in event.iter().filter(|(key, value)| !says_nothing(key, value)) {
        // Writing to a String cannot fail.
        let _ = match value {
            Value::String(value) => write!(readable, " {key}={}", value.replace(char::is_control, " ")),
            value => write!(readable, " {key}={value}"),
        };
    }
    readable
}

fn text<'a>(event: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    event.get(key).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn an_event_becomes_a_sentence() {
        let line = r#"{"timestamp":"2026-01-01T00:00:00Z","level":"WARN","message":"denied","peer":"spiffe://a/b","port":80,"rule":"","target":"x"}"#;
        assert_eq!(readable(line), "WARN denied peer=spiffe://a/b port=80");
    }

    #[test]
    fn anything_else_stays() {
        for line in ["{not json", r#"{"level":"WARN"}"#, r#"["a"]"#] {
            assert_eq!(readable(line), line);
        }
    }
}
