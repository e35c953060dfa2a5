//! What the lanes of a trunk and its driver share: who may send how much, what
//! waits to be read or sent, and what each frame that comes does to that.
//!
//! Invariants: every frame is judged before it is taken; memory is bounded by
//! windows for what comes and by limits for what goes. Must not know: the
//! transport, sockets of apps.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use foldhash::{HashMap, HashMapExt as _};
use tokio::time::Instant;

use super::MAX_LANES;
use super::company::{Company, Last};
use crate::buffer::Buffer;
use crate::edge::Transport;
use crate::error::TunnelError;

/// Payload of one frame: a frame is at most one TLS record.
pub(super) const MAX_PAYLOAD: usize = 16 * 1024 - HEADER;
/// Bytes that may be sent on a lane before the first grant.
const FIRST_WINDOW: usize = 64 * 1024;
/// A reader that keeps up is sent so much ahead at most.
pub(super) const LARGEST_WINDOW: usize = 256 * 1024;
/// Lanes write no more while so much waits to be sent.
pub(super) const OUTPUT_LIMIT: usize = 256 * 1024;
/// With frames that no lane waits for: a peer that makes us say more without
/// reading breaks the protocol.
pub(super) const OUTPUT_BOUND: usize = 2 * OUTPUT_LIMIT;
/// Entries of lanes, those included that the client has aborted and that nobody
/// here has let go of yet.
const MOST_LANES: usize = 4 * MAX_LANES;
pub(super) const HEADER: usize = 8;

/// What a frame of a trunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
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

/// How a trunk ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Over {
    InOrder,
    Failed(io::ErrorKind),
}

/// What lanes and the driver share.
pub(super) struct Shared<T: Transport> {
    /// Until the trunk is over.
    pub(super) transport: Option<T>,
    pub(super) is_client: bool,
    pub(super) lanes: HashMap<u32, State>,
    /// The latest lane.
    last: u32,
    pub(super) output: Buffer,
    /// What is being sent.
    pub(super) sending: Buffer,
    /// Times that lanes have written something since it was last sent.
    pub(super) said: u64,
    /// Who speaks here, and who is spoken to by the other side.
    pub(super) speaking: Company,
    pub(super) hearing: Company,
    /// Bytes that the transport took.
    pub(super) handed: u64,
    /// Bytes that were ever put into `output`, and those of them that nobody but
    /// the kernel has any more.
    pub(super) queued: u64,
    pub(super) flushed: u64,
    /// The transport did not take all that it was given.
    pub(super) is_stuck: bool,
    /// Lanes that have read enough for a grant.
    pub(super) due: Vec<u32>,
    /// Lanes that wait for room in `output`.
    pub(super) blocked: Vec<u32>,
    /// Once it has had its first turn.
    pub(super) driver: Option<Waker>,
    /// Its next turn is due.
    pub(super) is_woken: bool,
    pub(super) over: Option<Over>,
    /// Nothing can be sent any more; until the trunk is over, what the peer has
    /// said is still read.
    pub(super) write_failure: Option<io::ErrorKind>,
    /// The same, for the driver.
    pub(super) failed_by: Option<io::Error>,
    /// Lanes that somebody here holds.
    pub(super) held: usize,
    /// Lanes that are not content with silence.
    pub(super) impatient: usize,
    pub(super) heard: Instant,
}

/// Of one lane.
#[derive(Debug, Default)]
pub(super) struct State {
    /// What came and was not read.
    pub(super) inbox: Buffer,
    pub(super) reader: Option<Waker>,
    heard: Last,
    pub(super) spoke: Last,
    pub(super) writer: Option<Waker>,
    /// What we may still send, and what the peer may.
    pub(super) credit: usize,
    pub(super) allowed: usize,
    /// What the peer is allowed when nothing is unread, and what was read
    /// without being granted anew.
    pub(super) window: usize,
    pub(super) ungranted: usize,
    /// The peer's half has ended, and ours.
    pub(super) is_ended: bool,
    pub(super) is_closed: bool,
    pub(super) is_aborted: bool,
    /// It waits for room in the output.
    pub(super) is_blocked: bool,
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

    /// So much more may be sent.
    fn take_grant(&mut self, payload: &[u8]) -> Result<(), TunnelError> {
        let Ok(more) = <[u8; 4]>::try_from(payload) else {
            return violation("a grant that is not 32 bits");
        };
        let more = u32::from_be_bytes(more) as usize;
        self.credit += more;
        if self.credit > LARGEST_WINDOW {
            return violation("more is granted than any lane may have");
        }
        if more > 0
            && let Some(writer) = self.writer.take()
        {
            writer.wake();
        }
        Ok(())
    }

    fn wake_both(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl<T: Transport> Shared<T> {
    pub(super) fn new(transport: T, is_client: bool) -> Self {
        Self {
            transport: Some(transport),
            is_client,
            lanes: HashMap::new(),
            last: 0,
            output: Buffer::default(),
            sending: Buffer::default(),
            said: 0,
            speaking: Company::default(),
            hearing: Company::default(),
            handed: 0,
            queued: 0,
            flushed: 0,
            is_stuck: false,
            due: Vec::new(),
            blocked: Vec::new(),
            driver: None,
            is_woken: true,
            over: None,
            write_failure: None,
            failed_by: None,
            held: 0,
            impatient: 0,
            heard: Instant::now(),
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.write_failure.is_none()
            && self.lanes.len() < MAX_LANES
            && self.last < u32::MAX
            && self.output.len() < OUTPUT_LIMIT
    }

    pub(super) fn open(&mut self) -> u32 {
        self.last += 1;
        self.add();
        self.say(Kind::Open, self.last, &[]);
        self.last
    }

    fn add(&mut self) {
        self.lanes.insert(self.last, State::new());
        self.held += 1;
    }

    /// A frame that came. True: it opens a lane.
    pub(super) fn take(&mut self, kind: u8, lane: u32, payload: &[u8]) -> Result<bool, TunnelError> {
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
                // Many lanes may have a little at once.
                state.inbox.keep(payload);
                if let Some(reader) = state.reader.take() {
                    self.hearing.note(&mut state.heard);
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
            Kind::Grant => state.take_grant(payload)?,
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
        }
    }

    /// Nothing goes on: everybody is told.
    pub(super) fn end(&mut self, over: Over) {
        self.transport = None;
        self.over.get_or_insert(over);
        self.write_failure.get_or_insert(io::ErrorKind::BrokenPipe);
        self.output = Buffer::default();
        for state in self.lanes.values_mut() {
            state.wake_both();
        }
        self.lanes.retain(|_, state| !state.is_left);
    }

    /// No more bytes come from us.
    pub(super) fn close(&mut self, lane: u32) {
        if let Some(state) = self.lanes.get_mut(&lane)
            && !state.is_closed
            && !state.is_aborted
        {
            state.is_closed = true;
            self.say(Kind::Close, lane, &[]);
        }
    }

    pub(super) fn be_impatient(&mut self, lane: u32, is_impatient: bool) {
        let Some(state) = self.lanes.get_mut(&lane) else {
            return;
        };
        if std::mem::replace(&mut state.is_impatient, is_impatient) != is_impatient {
            self.impatient = match is_impatient {
                true => self.impatient + 1,
                false => self.impatient.saturating_sub(1),
            };
            self.wake_driver();
        }
    }

    /// Nobody holds it here any more.
    pub(super) fn leave(&mut self, lane: u32, by_force: bool) {
        self.be_impatient(lane, false);
        let Some(state) = self.lanes.get_mut(&lane) else {
            return;
        };
        state.is_left = true;
        (state.reader, state.writer) = (None, None);
        self.held = self.held.saturating_sub(1);
        if (by_force || !state.inbox.is_empty()) && !state.is_aborted {
            state.is_aborted = true;
            self.say(Kind::Abort, lane, &[]);
        } else {
            self.close(lane);
        }
        if self.over.is_some() {
            self.lanes.remove(&lane);
        } else {
            self.tidy(lane);
        }
        if self.held == 0 {
            // Only it knows whether the trunk goes on.
            self.wake_driver();
        }
    }
}

pub(super) fn violation<R>(what: &'static str) -> Result<R, TunnelError> {
    Err(TunnelError::Trunk(what))
}

pub(super) fn lock<T: Transport>(shared: &Mutex<Shared<T>>) -> MutexGuard<'_, Shared<T>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
