//! A trunk: one encrypted connection that carries many tunnels at once, each
//! on a lane of its own (docs/wire.md, section 12). What many apps say at the
//! same time goes in one record, one write and one packet.
//!
//! Invariants: a lane that is not read holds up no other, since nobody sends
//! more than was granted; what waits is bounded, per lane and for all; a lane
//! that is aborted says so at once, behind no app's bytes but those that left
//! already. Must not know: streams, apps, TLS.

mod driver;
mod lane;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tokio::time::Instant;

use crate::buffer::Buffer;
use crate::edge::Transport;
use crate::error::TunnelError;

pub use lane::Lane;

/// Lanes of one trunk that are open at once.
pub const MAX_LANES: usize = 128;
/// Payload of one frame: a frame is at most one TLS record.
const MAX_PAYLOAD: usize = 16 * 1024 - HEADER;
/// Bytes that may be sent on a lane before the first grant.
const FIRST_WINDOW: usize = 64 * 1024;
/// A reader that keeps up is sent so much ahead at most.
const LARGEST_WINDOW: usize = 256 * 1024;
/// Lanes write no more while so much waits to be sent.
const OUTPUT_LIMIT: usize = 256 * 1024;
/// With frames that no lane waits for: a peer that makes us say more without
/// reading breaks the protocol.
const OUTPUT_BOUND: usize = 2 * OUTPUT_LIMIT;
/// Entries of lanes, those included that the client has aborted and that nobody
/// here has let go of yet.
const MOST_LANES: usize = 4 * MAX_LANES;
const HEADER: usize = 8;

/// What a frame of a trunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A new lane: the client's next number.
    Open = 1,
    /// Bytes of the tunnel on it.
    Data = 2,
    /// No more bytes come from this side.
    Close = 3,
    /// The lane is over by force.
    Abort = 4,
    /// So many bytes more may be sent: 32 bits.
    Grant = 5,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Open, Self::Data, Self::Close, Self::Abort, Self::Grant]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// The client's end of a trunk, to open lanes on.
#[derive(Clone)]
pub struct Trunk {
    shared: Arc<Mutex<Shared>>,
}

impl Trunk {
    /// A trunk on a connection whose handshake is done, its first lane, and what
    /// drives it: a future that ends with the last lane, or when the connection
    /// fails.
    pub fn connect<T: Transport>(transport: T) -> (Self, Lane, impl Future<Output = Result<(), TunnelError>> + use<T>) {
        let shared = Arc::new(Mutex::new(Shared::new(true)));
        let first = lock(&shared).open();
        let lane = Lane::new(Arc::clone(&shared), first);
        let driver = driver::Driver::new(transport, Arc::clone(&shared)).run(|_| {});
        (Self { shared }, lane, driver)
    }

    /// Serves the lanes that the client opens, until it closes the trunk, or has
    /// had no lane for [`SERVER_IDLE`](crate::SERVER_IDLE).
    ///
    /// # Errors
    /// The connection failed, or the client broke the protocol.
    pub async fn serve<T: Transport>(transport: T, on_lane: impl FnMut(Lane)) -> Result<(), TunnelError> {
        let shared = Arc::new(Mutex::new(Shared::new(false)));
        driver::Driver::new(transport, shared).run(on_lane).await
    }

    /// A new lane, if the trunk lives and has room for one; and when the other
    /// side was heard last.
    #[must_use]
    pub fn open(&self) -> Option<(Lane, Instant)> {
        let mut shared = lock(&self.shared);
        if !shared.has_room() {
            return None;
        }
        let number = shared.open();
        let heard = shared.heard;
        drop(shared);
        Some((Lane::new(Arc::clone(&self.shared), number), heard))
    }

    /// Whether it can't carry anything any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        lock(&self.shared).over.is_some()
    }
}

impl std::fmt::Debug for Trunk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trunk").finish_non_exhaustive()
    }
}

/// How a trunk ended.
#[derive(Clone, Copy, Debug)]
enum Over {
    InOrder,
    Failed(io::ErrorKind),
}

/// What lanes and the driver share.
struct Shared {
    is_client: bool,
    lanes: HashMap<u32, State>,
    /// The latest lane.
    last: u32,
    output: Buffer,
    /// Bytes that were ever put into `output`, and those of them that nobody but
    /// the kernel has any more.
    queued: u64,
    flushed: u64,
    /// The transport did not take all that it was given.
    is_stuck: bool,
    /// Lanes that have read enough for a grant.
    due: Vec<u32>,
    /// Lanes that wait for room in `output`.
    blocked: Vec<u32>,
    driver: Option<Waker>,
    over: Option<Over>,
    /// Nothing can be sent any more; what the peer has said is still read.
    write_failure: Option<io::ErrorKind>,
    /// Lanes that somebody here holds.
    held: usize,
    /// Lanes that are not content with silence.
    impatient: usize,
    heard: Instant,
}

/// Of one lane.
#[derive(Debug, Default)]
struct State {
    /// What came and was not read.
    inbox: Buffer,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// What we may still send, and what the peer may.
    credit: usize,
    allowed: usize,
    /// What the peer is allowed when nothing is unread, and what was read
    /// without being granted anew.
    window: usize,
    ungranted: usize,
    /// The peer's half has ended, and ours.
    is_ended: bool,
    is_closed: bool,
    is_aborted: bool,
    /// It waits for room in the output.
    is_blocked: bool,
    /// Not content with silence.
    is_impatient: bool,
    /// Nobody here holds it any more.
    is_left: bool,
}

impl State {
    fn new() -> Self {
        Self {
            credit: FIRST_WINDOW,
            allowed: FIRST_WINDOW,
            window: FIRST_WINDOW,
            ..Self::default()
        }
    }

    fn wake_both(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl Shared {
    fn new(is_client: bool) -> Self {
        Self {
            is_client,
            lanes: HashMap::new(),
            last: 0,
            output: Buffer::default(),
            queued: 0,
            flushed: 0,
            is_stuck: false,
            due: Vec::new(),
            blocked: Vec::new(),
            driver: None,
            over: None,
            write_failure: None,
            held: 0,
            impatient: 0,
            heard: Instant::now(),
        }
    }

    fn has_room(&self) -> bool {
        self.over.is_none()
            && self.write_failure.is_none()
            && self.lanes.len() < MAX_LANES
            && self.last < u32::MAX
            && self.output.len() < OUTPUT_LIMIT
    }

    fn open(&mut self) -> u32 {
        self.last += 1;
        self.add();
        self.say(Kind::Open, self.last, &[]);
        self.last
    }

    fn add(&mut self) {
        self.lanes.insert(self.last, State::new());
        self.held += 1;
    }

    /// Queues a frame; the driver sends it once all who are about to say
    /// something have.
    fn say(&mut self, kind: Kind, lane: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let [_, a, b, c] = length.to_be_bytes();
        let [d, e, f, g] = lane.to_be_bytes();
        self.output.push(&[kind as u8, a, b, c, d, e, f, g]);
        self.output.push(payload);
        self.queued += (HEADER + payload.len()) as u64;
        self.wake_driver();
    }

    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// A frame that came. True: it opens a lane.
    fn take(&mut self, kind: u8, lane: u32, payload: &[u8]) -> Result<bool, TunnelError> {
        let Some(kind) = Kind::from_byte(kind) else {
            return violation("a frame of an unknown type");
        };
        if kind == Kind::Open {
            self.let_in(lane, payload)?;
            return Ok(true);
        }
        if lane == 0 || lane > self.last {
            return violation("a frame of a lane that was never opened");
        }
        // What crosses the end of a lane is for nobody.
        let Some(state) = self.lanes.get_mut(&lane) else {
            return Ok(false);
        };
        match kind {
            Kind::Data if state.is_ended => return violation("bytes behind the end of a lane"),
            Kind::Data => {
                let Some(allowed) = state.allowed.checked_sub(payload.len()) else {
                    return violation("more bytes than were granted");
                };
                state.allowed = allowed;
                if state.is_left {
                    // Nobody will ever read it: the other side must not wait for that.
                    state.is_aborted = true;
                    self.say(Kind::Abort, lane, &[]);
                    self.tidy(lane);
                    return Ok(false);
                }
                state.inbox.push(payload);
                // Many lanes may have a little at once.
                state.inbox.rest();
                if let Some(reader) = state.reader.take() {
                    reader.wake();
                }
            }
            Kind::Close => {
                state.is_ended = true;
                state.wake_both();
                self.tidy(lane);
            }
            Kind::Abort => {
                state.is_aborted = true;
                state.wake_both();
                self.tidy(lane);
            }
            Kind::Grant => {
                let Ok(more) = <[u8; 4]>::try_from(payload) else {
                    return violation("a grant that is not 32 bits");
                };
                let more = u32::from_be_bytes(more) as usize;
                state.credit += more;
                if state.credit > LARGEST_WINDOW {
                    return violation("more is granted than any lane may have");
                }
                if more > 0
                    && let Some(writer) = state.writer.take()
                {
                    writer.wake();
                }
            }
            Kind::Open => {}
        }
        Ok(false)
    }

    fn let_in(&mut self, lane: u32, payload: &[u8]) -> Result<(), TunnelError> {
        if self.is_client || Some(lane) != self.last.checked_add(1) || !payload.is_empty() {
            return violation("a lane out of turn");
        }
        // One that the client has aborted is over for it.
        let live = self.lanes.values().filter(|state| !state.is_aborted).count();
        if live >= MAX_LANES || self.lanes.len() >= MOST_LANES {
            return violation("too many lanes");
        }
        self.last = lane;
        self.add();
        Ok(())
    }

    /// Forgets a lane that nobody holds here and that is over on the other side.
    fn tidy(&mut self, lane: u32) {
        let is_over = |state: &State| state.is_left && (state.is_aborted || (state.is_ended && state.is_closed));
        if self.lanes.get(&lane).is_some_and(is_over) {
            self.lanes.remove(&lane);
            if self.lanes.is_empty() {
                self.wake_driver();
            }
        }
    }

    /// Grants what lanes have read.
    fn grant(&mut self) {
        while let Some(lane) = self.due.pop() {
            let Some(state) = self.lanes.get_mut(&lane) else {
                continue;
            };
            let mut more = std::mem::take(&mut state.ungranted);
            if more == 0 {
                continue;
            }
            // Whoever has read all of it keeps up, and is sent more ahead.
            if state.inbox.is_empty() && state.window < LARGEST_WINDOW {
                more += state.window;
                state.window *= 2;
            }
            state.allowed += more;
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            if !state.is_ended && !state.is_aborted {
                self.say(Kind::Grant, lane, &more.to_be_bytes());
            }
        }
    }

    /// There is room again for who waits for it.
    fn unblock(&mut self) {
        for lane in std::mem::take(&mut self.blocked) {
            let Some(state) = self.lanes.get_mut(&lane) else {
                continue;
            };
            state.is_blocked = false;
            state.writer.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Nothing goes on: everybody is told.
    fn end(&mut self, over: Over) {
        self.over.get_or_insert(over);
        self.output = Buffer::default();
        for state in self.lanes.values_mut() {
            state.wake_both();
        }
        self.lanes.retain(|_, state| !state.is_left);
    }
}

fn violation<R>(what: &'static str) -> Result<R, TunnelError> {
    Err(TunnelError::Trunk(what))
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
