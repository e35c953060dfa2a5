//! Join tokens: read from where the configuration says, never printed.

use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;
use watchword_identity::SpiffeId;

/// A token is far shorter: its ID has 2,048 bytes at most.
const MAX_BYTES: u64 = 4096;

/// Why there is no token.
#[derive(Debug, Error)]
pub(crate) enum TokenError {
    #[error("the join token in {place} can't be read: {problem}")]
    Read { place: String, problem: io::Error },
    #[error("{place} holds no join token: expected the line that `watchword token create --id ID` prints")]
    Malformed { place: String },
}

/// A join token, and the ID that it is for.
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) id: SpiffeId,
}

/// Where tokens come from.
pub(crate) struct TokenSource {
    file: PathBuf,
    // Standard input can be read only once.
    from_stdin: Option<io::Result<String>>,
}

impl TokenSource {
    /// From a file, read again at each use; `-` is the first line of standard
    /// input, which is waited for here, before anything else runs.
    pub(crate) fn new(file: PathBuf) -> Self {
        let from_stdin = (file == Path::new("-")).then(stdin_line);
        Self { file, from_stdin }
    }

    /// The token as it stands there now.
    pub(crate) fn read(&self) -> Result<Token, TokenError> {
        let (place, text) = match &self.from_stdin {
            Some(Ok(line)) => ("standard input".to_owned(), Ok(line.clone())),
            Some(Err(error)) => (
                "standard input".to_owned(),
                Err(io::Error::new(error.kind(), error.to_string())),
            ),
            None => (self.file.display().to_string(), read_file(&self.file)),
        };
        let text = text.map_err(|problem| TokenError::Read {
            place: place.clone(),
            problem,
        })?;
        parse(text.trim()).ok_or(TokenError::Malformed { place })
    }
}

fn stdin_line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().lock().take(MAX_BYTES).read_line(&mut line)?;
    Ok(line)
}

fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// `SECRET:SPIFFE-ID`: the token says which ID it is for, so that nobody has
/// to write it twice.
fn parse(text: &str) -> Option<Token> {
    let (secret, id) = text.split_once(':')?;
    if secret.is_empty() {
        return None;
    }
    let id = SpiffeId::new(id).ok()?;
    Some(Token {
        text: text.to_owned(),
        id,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_says_whom_it_is_for() {
        let token = parse("wwjt-AAAA:spiffe://example.org/web").unwrap();
        assert_eq!(token.id.to_string(), "spiffe://example.org/web");
        assert_eq!(token.text, "wwjt-AAAA:spiffe://example.org/web");
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for wrong in ["", "wwjt-AAAA", ":spiffe://example.org/web", "wwjt-AAAA:web"] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
