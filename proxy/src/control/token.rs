//! Join tokens: read from where the configuration says, never printed.

use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use tokio::sync::watch;
use watchword_identity::SpiffeId;

/// A token is far shorter: its ID has 2,048 bytes at most.
const MAX_BYTES: u64 = 4096;

/// Why there is no token.
#[derive(Debug, Error)]
pub(crate) enum TokenError {
    #[error("the join token in {place} can't be read: {problem}")]
    Read { place: String, problem: String },
    #[error("{place} holds no join token: expected the line that `watchword token create --id ID` prints")]
    Malformed { place: String },
    #[error("the join token in {place} was used before: put a new one there, by `watchword token create --id {id}`")]
    Spent { place: String, id: String },
}

/// A join token, and the ID that it is for.
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) id: SpiffeId,
}

/// Where tokens come from.
pub(crate) struct TokenSource {
    file: PathBuf,
    from_stdin: Option<watch::Receiver<Line>>,
    uses: Mutex<Uses>,
}

/// A line of standard input, or why there is none.
type Line = Result<String, String>;

#[derive(Default)]
struct Uses {
    /// The last text that was read.
    read: Option<Line>,
    /// The last one that a certificate was given for: it is good for no other.
    spent: Option<String>,
}

impl TokenSource {
    /// From a file, read again at each use; `-` is the first line of standard
    /// input, which is waited for here, before anything else runs. A further
    /// line replaces the one before.
    pub(crate) fn new(file: PathBuf) -> Self {
        let from_stdin = (file == Path::new("-")).then(follow_stdin);
        Self {
            file,
            from_stdin,
            uses: Mutex::default(),
        }
    }

    /// The token as it stands there now.
    pub(crate) fn read(&self) -> Result<Token, TokenError> {
        let (place, text) = match &self.from_stdin {
            Some(lines) => ("standard input".to_owned(), lines.borrow().clone()),
            None => {
                let text = read_file(&self.file).map_err(|error| error.to_string());
                (self.file.display().to_string(), text)
            }
        };
        self.uses().read = Some(text.clone());
        let text = text.map_err(|problem| TokenError::Read {
            place: place.clone(),
            problem,
        })?;
        let token = parse(text.trim()).ok_or_else(|| TokenError::Malformed { place: place.clone() })?;
        if self.uses().spent.as_ref() == Some(&token.text) {
            let id = token.id.to_string();
            return Err(TokenError::Spent { place, id });
        }
        Ok(token)
    }

    /// A certificate was given for this token.
    pub(crate) fn spend(&self, text: String) {
        self.uses().spent = Some(text);
    }

    /// Waits until standard input has another token than the one that was
    /// read; for ever where tokens come from a file.
    pub(crate) async fn replaced(&self) {
        let Some(mut lines) = self.from_stdin.clone() else {
            return std::future::pending().await;
        };
        let read = self.uses().read.clone();
        if lines.wait_for(|line| read.as_ref() != Some(line)).await.is_err() {
            // It has ended: no other token comes.
            std::future::pending().await
        }
    }

    fn uses(&self) -> MutexGuard<'_, Uses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first line at once, further ones by a thread: reading standard input
/// can't be cut.
fn follow_stdin() -> watch::Receiver<Line> {
    let line = || stdin_line().map_err(|error| error.to_string());
    let (sender, lines) = watch::channel(line());
    let read_on = move || {
        while let Ok(more) = stdin_line() {
            if more.is_empty() || sender.is_closed() {
                return;
            }
            if !more.trim().is_empty() {
                let _ = sender.send_replace(Ok(more));
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("token".into()).spawn(read_on) {
        tracing::warn!(%error, "only the first join token of standard input will be read");
    }
    lines
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
    fn a_token_that_gave_a_certificate_is_not_shown_again_until_another_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "wwjt-AAAA:spiffe://example.org/web\n").unwrap();
        let source = TokenSource::new(path.clone());
        let first = source.read().unwrap();
        // A lost answer is asked for again.
        assert_eq!(source.read().unwrap().text, first.text);
        source.spend(first.text);
        let refused = source.read().err().unwrap().to_string();
        assert!(
            refused.contains("watchword token create --id spiffe://example.org/web"),
            "{refused}"
        );
        std::fs::write(&path, "wwjt-BBBB:spiffe://example.org/web\n").unwrap();
        assert_eq!(source.read().unwrap().text, "wwjt-BBBB:spiffe://example.org/web");
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for wrong in ["", "wwjt-AAAA", ":spiffe://example.org/web", "wwjt-AAAA:web"] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
