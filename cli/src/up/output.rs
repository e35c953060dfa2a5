//! What a running mesh prints: its own lines, and those of its programs.
//!
//! Invariants: one writer, so that lines never mix; a terminal that stands
//! still slows the programs down and nothing else; a line is cut at 16 KiB.

use std::io::Write as _;
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Color, Style};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::sync::{mpsc, oneshot};

/// Longer lines are printed in pieces.
const MAX_LINE: usize = 16 * 1024;
const QUEUE: usize = 256;

const COLOURS: [AnsiColor; 6] = [
    AnsiColor::Cyan,
    AnsiColor::Yellow,
    AnsiColor::Green,
    AnsiColor::Magenta,
    AnsiColor::Blue,
    AnsiColor::BrightRed,
];

/// Where a line goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// What stands before the lines of one program.
#[derive(Clone, Debug)]
pub(crate) struct Prefix {
    label: String,
    colour: Option<AnsiColor>,
    render: Option<fn(&str) -> String>,
}

impl Prefix {
    /// For the program of replica `name`, with a colour of its own.
    pub(crate) fn app(name: &str, index: usize) -> Self {
        Self {
            label: name.to_owned(),
            colour: COLOURS.get(index % COLOURS.len()).copied(),
            render: None,
        }
    }

    /// For one of our own daemons, whose JSON logs are made readable.
    pub(crate) fn daemon(name: &str) -> Self {
        Self {
            label: name.to_owned(),
            colour: Some(AnsiColor::BrightBlack),
            render: Some(super::daemon_log::readable),
        }
    }
}

/// A handle on the writer.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    lines: mpsc::Sender<(Stream, Vec<u8>)>,
    colour: [bool; 2],
}

/// The thread that writes. It ends when every [`Output`] is dropped.
#[derive(Debug)]
pub(crate) struct Writer(oneshot::Receiver<()>);

impl Writer {
    /// Waits until all is written, `patience` at most: the reader may stand
    /// still.
    pub(crate) async fn finish(self, patience: Duration) {
        let _ = tokio::time::timeout(patience, self.0).await;
    }
}

impl Output {
    /// Starts the writer.
    pub(crate) fn start() -> (Self, Writer) {
        let (lines, mut queue) = mpsc::channel::<(Stream, Vec<u8>)>(QUEUE);
        let (done, finished) = oneshot::channel();
        std::thread::spawn(move || {
            // Dropped at the end, which the other side waits for.
            let _done: oneshot::Sender<()> = done;
            while let Some((stream, line)) = queue.blocking_recv() {
                // Nobody is left to be told when the reader is gone.
                let _ = match stream {
                    Stream::Out => std::io::stdout().write_all(&line),
                    Stream::Err => std::io::stderr().write_all(&line),
                };
            }
        });
        let is_coloured = |choice| choice != ColorChoice::Never;
        let colour = [
            is_coloured(AutoStream::choice(&std::io::stdout())),
            is_coloured(AutoStream::choice(&std::io::stderr())),
        ];
        (Self { lines, colour }, Writer(finished))
    }

    /// Prints a line of the mesh's own on standard output.
    pub(crate) async fn say(&self, message: &str) {
        self.send(Stream::Out, format!("{message}\n").into_bytes()).await;
    }

    /// Prints something that went wrong on standard error.
    pub(crate) async fn warn(&self, message: &str) {
        let style = self.style(Stream::Err, AnsiColor::Red);
        self.send(
            Stream::Err,
            format!("{style}watchword:{style:#} {message}\n").into_bytes(),
        )
        .await;
    }

    /// Prints every line of `source` behind `prefix` until it ends. Bytes
    /// that are no UTF-8 are passed on.
    pub(crate) async fn copy(self, source: impl AsyncRead + Unpin, prefix: Prefix, stream: Stream) {
        let style = prefix
            .colour
            .map_or_else(Style::new, |colour| self.style(stream, colour));
        let head = format!("{style}{} |{style:#} ", prefix.label);
        let mut source = BufReader::with_capacity(MAX_LINE, source);
        while let Some(mut line) = next_line(&mut source).await {
            if let Some(render) = prefix.render {
                line = render(&String::from_utf8_lossy(&line)).into_bytes();
            }
            let mut whole = head.clone().into_bytes();
            whole.append(&mut line);
            whole.push(b'\n');
            if self.lines.send((stream, whole)).await.is_err() {
                break;
            }
        }
    }

    /// The mesh must go on when the terminal does not.
    async fn send(&self, stream: Stream, line: Vec<u8>) {
        let _ = self.lines.send_timeout((stream, line), Duration::from_secs(1)).await;
    }

    fn style(&self, stream: Stream, colour: AnsiColor) -> Style {
        let [out, err] = self.colour;
        let on = match stream {
            Stream::Out => out,
            Stream::Err => err,
        };
        Style::new().fg_color(on.then_some(Color::Ansi(colour)))
    }
}

/// The next line without its end, or the next piece of a long one.
async fn next_line(source: &mut BufReader<impl AsyncRead + Unpin>) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    loop {
        let buffer = source.fill_buf().await.ok()?;
        if buffer.is_empty() {
            return (!line.is_empty()).then_some(line);
        }
        let room = MAX_LINE - line.len();
        let piece = buffer.get(..room.min(buffer.len())).unwrap_or_default();
        match piece.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                line.extend_from_slice(piece.get(..end).unwrap_or_default());
                source.consume(end + 1);
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Some(line);
            }
            None => {
                let taken = piece.len();
                line.extend_from_slice(piece);
                source.consume(taken);
                if line.len() == MAX_LINE {
                    return Some(line);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    async fn lines(source: &[u8]) -> Vec<Vec<u8>> {
        let mut source = BufReader::with_capacity(7, source);
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut source).await {
            lines.push(line);
        }
        lines
    }

    #[tokio::test]
    async fn lines_end_where_they_end() {
        let expected: [&[u8]; 5] = [b"one", b"", b"a line of some length", b"caf\xe9", b"last"];
        assert_eq!(lines(b"one\n\na line of some length\r\ncaf\xe9\nlast").await, expected);
        assert!(lines(b"").await.is_empty());
    }

    #[tokio::test]
    async fn a_long_line_comes_in_pieces_and_loses_nothing() {
        let mut long = vec![b'x'; MAX_LINE * 2 + 5];
        long.push(b'\n');
        let pieces: Vec<usize> = lines(&long).await.iter().map(Vec::len).collect();
        assert_eq!(pieces, [MAX_LINE, MAX_LINE, 5]);
    }

    #[tokio::test]
    async fn every_line_gets_its_prefix() {
        let (lines, mut queue) = mpsc::channel(8);
        let output = Output {
            lines,
            colour: [false; 2],
        };
        output.copy(&b"a\nb"[..], Prefix::app("web-1", 0), Stream::Out).await;
        assert_eq!(queue.recv().await.unwrap().1, b"web-1 | a\n");
        assert_eq!(queue.recv().await.unwrap().1, b"web-1 | b\n");
        assert!(queue.recv().await.is_none());
    }
}
