//! One connection: what can be done to it, and what is seen of it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use socket2::Socket;

use crate::pattern::{PIECE, Pattern, Side};

/// A writer that got nowhere for this long has filled everything.
const FULL: Duration = Duration::from_millis(500);
/// Between two looks at what can't be waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// What a slow reader takes at once.
const SIP: usize = 8192;
/// More than all buffers on the way hold together.
const PUSHED: usize = 256 * 1024 * 1024;

pub(crate) struct Connection {
    socket: Socket,
    patience: Duration,
    ours: Pattern,
    theirs: Pattern,
    memory: Vec<u8>,
}

/// How reading came to its end.
enum Stop {
    /// As many bytes as were wanted.
    Enough,
    Eof,
    Error(io::Error),
    /// Not what was sent there.
    Wrong(u64),
}

impl Connection {
    pub(crate) fn new(socket: Socket, side: Side, patience: Duration) -> io::Result<Self> {
        socket.set_tcp_nodelay(true)?;
        socket.set_read_timeout(Some(patience))?;
        socket.set_write_timeout(Some(patience))?;
        Ok(Self {
            socket,
            patience,
            ours: Pattern::of(side),
            theirs: Pattern::of(side.other()),
            memory: vec![0; PIECE],
        })
    }

    /// Sends so many bytes; says how many it has sent in all.
    pub(crate) fn send(&mut self, count: usize) -> String {
        match send(&self.socket, &mut self.ours, count) {
            Ok(()) => format!("sent {}", self.ours.position()),
            Err(error) => format!("stopped by {}", name(&error)),
        }
    }

    /// One byte at a time.
    pub(crate) fn trickle(&mut self, count: usize) -> Result<String> {
        for _ in 0..count {
            send(&self.socket, &mut self.ours, 1)?;
        }
        Ok(format!("sent {}", self.ours.position()))
    }

    /// Sends until nothing goes any more.
    pub(crate) fn fill(&mut self) -> Result<String> {
        self.socket.set_nonblocking(true)?;
        let mut moved = Instant::now();
        while moved.elapsed() < FULL {
            match (&self.socket).write(self.ours.next(PIECE)) {
                Ok(count) => {
                    self.ours.advance(count);
                    moved = Instant::now();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => wait(LOOK_AGAIN),
                Err(error) => return Ok(format!("stopped by {}", name(&error))),
            }
        }
        self.socket.set_nonblocking(false)?;
        Ok(format!("sent {}", self.ours.position()))
    }

    /// Sends until it fails.
    pub(crate) fn push(&mut self) -> String {
        match send(&self.socket, &mut self.ours, PUSHED) {
            Ok(()) => "not stopped".to_owned(),
            Err(error) => format!("stopped by {}", name(&error)),
        }
    }

    /// Ends our half.
    pub(crate) fn end(&mut self) -> String {
        match self.socket.shutdown(Shutdown::Write) {
            Ok(()) => "ended".to_owned(),
            Err(error) => name(&error),
        }
    }

    /// Takes so many bytes; says how many it took in all.
    pub(crate) fn take(&mut self, count: usize) -> String {
        let stop = self.take_in_pieces(count, PIECE, Duration::ZERO);
        self.report(&stop)
    }

    /// Takes what comes until the end.
    pub(crate) fn read(&mut self) -> String {
        self.take(usize::MAX)
    }

    /// As [`read`](Self::read), where how much arrives is a matter of luck.
    pub(crate) fn drain(&mut self) -> String {
        match self.take_in_pieces(usize::MAX, PIECE, Duration::ZERO) {
            Stop::Wrong(place) => wrong(place),
            stop => format!("took some, then {}", how(&stop)),
        }
    }

    /// As [`read`](Self::read), slowly.
    pub(crate) fn sip(&mut self) -> String {
        let stop = self.take_in_pieces(usize::MAX, SIP, Duration::from_millis(1));
        self.report(&stop)
    }

    /// Nothing is to be seen for that long.
    pub(crate) fn quiet(&mut self, duration: Duration) -> Result<String> {
        self.socket.set_read_timeout(Some(duration))?;
        let stop = self.take_in_pieces(1, 1, Duration::ZERO);
        self.socket.set_read_timeout(Some(self.patience))?;
        Ok(match stop {
            Stop::Enough => "a byte".to_owned(),
            stop => how(&stop),
        })
    }

    /// Waits for an error without reading or writing.
    pub(crate) fn watch(&mut self) -> Result<String> {
        let until = Instant::now() + self.patience;
        while Instant::now() < until {
            if let Some(error) = self.socket.take_error()? {
                return Ok(name(&error));
            }
            wait(LOOK_AGAIN);
        }
        Ok("nothing".to_owned())
    }

    /// Sends and takes so many bytes at once, and ends.
    pub(crate) fn exchange(&mut self, count: usize) -> Result<String> {
        let (socket, ours) = (self.socket.try_clone()?, &mut self.ours);
        let (theirs, memory, patience) = (&mut self.theirs, &mut self.memory, (PIECE, Duration::ZERO));
        let (sent, stop) = std::thread::scope(|scope| {
            let sender = scope.spawn(move || {
                send(&socket, ours, count)?;
                socket.shutdown(Shutdown::Write)
            });
            let stop = take(&self.socket, (theirs, memory), usize::MAX, patience);
            (sender.join(), stop)
        });
        sent.ok().context("the sender panicked")??;
        Ok(match stop {
            Stop::Wrong(place) => wrong(place),
            stop => format!(
                "exchanged {} for {}, then {}",
                self.ours.position(),
                self.theirs.position(),
                how(&stop)
            ),
        })
    }

    /// Closes by force.
    pub(crate) fn reset(self) -> io::Result<()> {
        self.socket.set_linger(Some(Duration::ZERO))
    }

    fn take_in_pieces(&mut self, count: usize, piece: usize, pause: Duration) -> Stop {
        take(
            &self.socket,
            (&mut self.theirs, &mut self.memory),
            count,
            (piece, pause),
        )
    }

    fn report(&self, stop: &Stop) -> String {
        match stop {
            Stop::Enough => format!("took {}", self.theirs.position()),
            Stop::Wrong(place) => wrong(*place),
            stop => format!("took {}, then {}", self.theirs.position(), how(stop)),
        }
    }
}

fn send(mut socket: &Socket, pattern: &mut Pattern, count: usize) -> io::Result<()> {
    let mut left = count;
    while left > 0 {
        let sent = socket.write(pattern.next(left.min(PIECE)))?;
        pattern.advance(sent);
        left -= sent;
    }
    Ok(())
}

fn take(
    mut socket: &Socket,
    (pattern, memory): (&mut Pattern, &mut Vec<u8>),
    count: usize,
    (piece, pause): (usize, Duration),
) -> Stop {
    let mut left = count;
    while left > 0 {
        let room = memory.get_mut(..left.min(piece)).unwrap_or_default();
        let taken = match socket.read(room) {
            Ok(0) => return Stop::Eof,
            Ok(taken) => taken,
            Err(error) => return Stop::Error(error),
        };
        if memory.get(..taken) != Some(pattern.next(taken)) {
            return Stop::Wrong(pattern.position());
        }
        pattern.advance(taken);
        left -= taken;
        if !pause.is_zero() {
            wait(pause);
        }
    }
    Stop::Enough
}

fn how(stop: &Stop) -> String {
    match stop {
        Stop::Enough => "more".to_owned(),
        Stop::Eof => "eof".to_owned(),
        Stop::Error(error) => name(error),
        Stop::Wrong(place) => wrong(*place),
    }
}

fn wrong(place: u64) -> String {
    format!("WRONG BYTES at {place}")
}

/// A word for each error that a connection may show.
pub(crate) fn name(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionReset => "reset".to_owned(),
        ErrorKind::ConnectionRefused => "refused".to_owned(),
        ErrorKind::BrokenPipe => "broken pipe".to_owned(),
        ErrorKind::WouldBlock => "nothing".to_owned(),
        ErrorKind::HostUnreachable => "unreachable".to_owned(),
        ErrorKind::TimedOut => "timeout".to_owned(),
        _ => error.to_string(),
    }
}

#[allow(clippy::disallowed_methods, reason = "slowness is what is played here")]
fn wait(duration: Duration) {
    std::thread::sleep(duration);
}
