//! What stands between a caller and a server, and breaks the way: on the
//! level of TCP, so that TLS stays between the two.
//!
//! Invariant: its port stays its own, even while it refuses connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use socket2::{Domain, SockRef, Socket, Type};

const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What becomes of connections, those that are open among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: all is carried.
    None,
    /// No new ones: nobody listens. Those that are open break.
    Refuse,
    /// Broken with a reset once so many bytes have come back since this began.
    ResetAfter(usize),
    /// What comes back comes so much later.
    Delay(Duration),
    /// Accepted, and then nothing is carried.
    Silence,
}

/// A server's stand-in on loopback. Dropped, it breaks all connections.
pub struct FaultyWay {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// Bound, and never listening: nobody else gets the port.
    _port: Socket,
}

struct Shared {
    to: u16,
    state: Mutex<State>,
    changed: Condvar,
    connections: AtomicU64,
}

struct State {
    fault: Fault,
    /// Grows with each change.
    number: u64,
    ended: bool,
    listener: Option<Arc<TcpListener>>,
}

impl FaultyWay {
    /// A way to a port on loopback.
    ///
    /// # Errors
    /// When there is no port to listen on.
    pub fn to(port: u16) -> Result<Self> {
        let held = socket(0)?;
        let address = held
            .local_addr()?
            .as_socket()
            .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        let state = State {
            fault: Fault::Refuse,
            number: 0,
            ended: false,
            listener: None,
        };
        let way = Self {
            shared: Arc::new(Shared {
                to: port,
                state: Mutex::new(state),
                changed: Condvar::new(),
                connections: AtomicU64::new(0),
            }),
            address,
            _port: held,
        };
        way.set(Fault::None)?;
        Ok(way)
    }

    /// `https://…`.
    pub fn address(&self) -> String {
        format!("https://{}", self.address)
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// From now on this is what happens.
    ///
    /// # Errors
    /// When it can't listen again.
    pub fn set(&self, fault: Fault) -> Result<()> {
        let mut state = self.shared.lock();
        if fault == Fault::Refuse {
            state.close();
        } else if state.listener.is_none() {
            let listener = socket(self.address.port())?;
            listener.listen(128)?;
            let listener = Arc::new(TcpListener::from(listener));
            state.listener = Some(Arc::clone(&listener));
            let shared = Arc::clone(&self.shared);
            std::thread::spawn(move || shared.accept(&listener));
        }
        state.fault = fault;
        state.number += 1;
        drop(state);
        self.shared.changed.notify_all();
        Ok(())
    }
}

impl Drop for FaultyWay {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        state.close();
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl State {
    /// Wakes whoever accepts, who drops the listener too.
    fn close(&mut self) {
        if let Some(listener) = self.listener.take() {
            let _ = SockRef::from(&*listener).shutdown(Shutdown::Both);
        }
    }
}

/// What a piece of a connection is to do now.
enum Way {
    Carry,
    Break,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((caller, _)) = listener.accept() {
            self.connections.fetch_add(1, Ordering::Relaxed);
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.to)) else {
                reset_when_closed(&caller);
                continue;
            };
            let pair = Arc::new(Pair {
                caller,
                server,
                broken: AtomicBool::new(false),
            });
            let _ = (pair.caller.set_nodelay(true), pair.server.set_nodelay(true));
            for is_answer in [false, true] {
                let (shared, pair) = (Arc::clone(self), Arc::clone(&pair));
                std::thread::spawn(move || shared.carry(&pair, is_answer));
            }
        }
    }

    fn carry(&self, pair: &Pair, is_answer: bool) {
        let (mut from, mut to) = match is_answer {
            true => (&pair.server, &pair.caller),
            false => (&pair.caller, &pair.server),
        };
        // So that idle connections see a change, and what became of the other direction.
        let _ = from.set_read_timeout(Some(LOOK_AGAIN));
        let mut piece = [0; 512];
        let (mut since, mut seen) = (0, 0);
        while !pair.broken.load(Ordering::Relaxed) {
            let count = match from.read(&mut piece) {
                Ok(0) => {
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(count) => count,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
                Err(_) => return pair.cut(),
            };
            let way = self.wait(is_answer, count, &mut since, &mut seen);
            if matches!(way, Way::Break) || to.write_all(&piece[..count]).is_err() {
                return pair.cut();
            }
        }
    }

    /// Until the piece may go on its way.
    fn wait(&self, is_answer: bool, count: usize, since: &mut u64, seen: &mut usize) -> Way {
        let mut state = self.lock();
        if state.number != *since {
            (*since, *seen) = (state.number, 0);
        }
        loop {
            *seen += count;
            match state.fault {
                _ if state.ended => return Way::Break,
                Fault::Refuse => return Way::Break,
                Fault::ResetAfter(bytes) if is_answer && *seen > bytes => return Way::Break,
                Fault::Delay(long) if is_answer && count > 0 => {
                    let unchanged = |now: &mut State| now.number == *since && !now.ended;
                    let waited = self.changed.wait_timeout_while(state, long, unchanged);
                    drop(waited);
                    return Way::Carry;
                }
                Fault::Silence if count > 0 => {
                    let unchanged = |now: &mut State| now.number == *since && !now.ended;
                    let waited = self.changed.wait_while(state, unchanged);
                    state = waited.unwrap_or_else(PoisonError::into_inner);
                    (*since, *seen) = (state.number, 0);
                }
                _ => return Way::Carry,
            }
        }
    }
}

/// A connection, both ways.
struct Pair {
    caller: TcpStream,
    server: TcpStream,
    broken: AtomicBool,
}

impl Pair {
    /// Both are reset as soon as both directions have seen it.
    fn cut(&self) {
        reset_when_closed(&self.caller);
        reset_when_closed(&self.server);
        self.broken.store(true, Ordering::Relaxed);
    }
}

fn reset_when_closed(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

fn socket(port: u16) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each byte with a hundred.
    fn server() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read(&mut byte).is_ok_and(|count| count > 0) {
                        if stream.write_all(&[7; 100]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        port
    }

    fn ask(stream: &mut TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0; 100])
    }

    #[test]
    fn each_fault_does_what_it_says_and_ends_with_the_next_one() {
        let way = FaultyWay::to(server()).unwrap();
        let connect = || TcpStream::connect(way.address);
        let mut first = connect().unwrap();
        ask(&mut first).unwrap();
        way.set(Fault::ResetAfter(150)).unwrap();
        ask(&mut first).unwrap();
        let broken = ask(&mut first).unwrap_err();
        assert_eq!(broken.kind(), ErrorKind::ConnectionReset, "after 150 bytes");
        way.set(Fault::Delay(Duration::from_secs(3600))).unwrap();
        let mut late = connect().unwrap();
        assert!(ask(&mut late).is_err(), "no answer yet");
        way.set(Fault::None).unwrap();
        late.read_exact(&mut [0; 100]).unwrap();
        way.set(Fault::Silence).unwrap();
        let mut silent = connect().unwrap();
        assert!(ask(&mut silent).is_err(), "silence");
        way.set(Fault::Refuse).unwrap();
        assert_eq!(connect().unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(ask(&mut late).is_err(), "it is broken");
        way.set(Fault::None).unwrap();
        ask(&mut connect().unwrap()).unwrap();
        assert_eq!(way.connections(), 4);
    }
}
