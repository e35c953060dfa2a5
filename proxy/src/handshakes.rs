//! Who may begin a handshake, and who waits for it unread: what callers that
//! have proved nothing yet may make a worker do.
//!
//! Invariants:
//! - One source address holds a quarter of the slots at most, and sources
//!   without a live tunnel (strangers) leave 64 slots and a quarter of the
//!   waiting places to those that have one.
//! - Sources take turns, those with a live tunnel first; each one's
//!   connections go in the order of their arrival.
//! - Nobody waits who could have a slot.
//! - Each step looks at a few sources, however many wait: the network chooses
//!   how many there are.
//!
//! Must not know: sockets, TLS, time.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::oneshot;

use crate::live_tunnels::take_one;

/// Handshakes at once.
const SLOTS: usize = 256;
/// Kept for sources with a live tunnel.
const KEPT_SLOTS: usize = 64;
const SLOTS_OF_ONE_SOURCE: usize = SLOTS / 4;
/// Accepted connections that wait unread.
const PLACES: usize = 16_384;

/// The slots of a worker. Clones share one state.
#[derive(Clone)]
pub(crate) struct Handshakes {
    room: Arc<Mutex<Room<oneshot::Sender<Slot>>>>,
}

/// The right to shake hands, until it is dropped.
pub(crate) struct Slot {
    /// None once it was given back.
    caller: Option<Caller>,
    handshakes: Handshakes,
}

impl Default for Handshakes {
    fn default() -> Self {
        // Where few files may be open, those who wait leave half of them.
        let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(now, _)| now);
        let places = usize::try_from(files / 2).unwrap_or(usize::MAX).min(PLACES);
        Self::with_places(places)
    }
}

impl Handshakes {
    fn with_places(places: usize) -> Self {
        Self {
            room: Arc::new(Mutex::new(Room::new(places))),
        }
    }

    /// Waits for a slot; nothing when too many wait already. `known`: a live
    /// tunnel comes from `source`.
    pub(crate) async fn slot(&self, source: IpAddr, known: bool) -> Option<Slot> {
        let caller = Caller { source, known };
        let turn = {
            let mut room = self.lock();
            if room.take(caller) {
                return Some(self.slot_of(caller));
            }
            let (sender, turn) = oneshot::channel();
            if !room.wait(caller, sender) {
                return None;
            }
            turn
        };
        turn.await.ok()
    }

    /// Hands free slots to those whose turn it is.
    fn hand_out(&self) {
        loop {
            // A statement of its own: the lock ends with it.
            let next = self.lock().next();
            let Some((caller, waiter)) = next else {
                return;
            };
            // Who does not wait any more leaves it to the next in this loop, not
            // by a drop within it: there may be thousands.
            if let Err(mut slot) = waiter.send(self.slot_of(caller))
                && let Some(caller) = slot.caller.take()
            {
                self.lock().leave(caller);
            }
        }
    }

    fn slot_of(&self, caller: Caller) -> Slot {
        Slot {
            caller: Some(caller),
            handshakes: self.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Room<oneshot::Sender<Slot>>> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(caller) = self.caller.take() {
            self.handshakes.lock().leave(caller);
            self.handshakes.hand_out();
        }
    }
}

/// Who connects, as far as is known before a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Caller {
    source: IpAddr,
    /// A live tunnel came from this source when the connection did.
    known: bool,
}

/// Who holds slots and who waits; `W` is how one who waits is told.
struct Room<W> {
    places: usize,
    slots: usize,
    slots_of_strangers: usize,
    slots_of: HashMap<IpAddr, usize>,
    known: Line<W>,
    strangers: Line<W>,
}

impl<W> Room<W> {
    fn new(places: usize) -> Self {
        Self {
            places,
            slots: 0,
            slots_of_strangers: 0,
            slots_of: HashMap::new(),
            known: Line::default(),
            strangers: Line::default(),
        }
    }

    /// Takes a slot if there is one for that caller. Nobody is overtaken: who
    /// could have it would not be waiting.
    fn take(&mut self, caller: Caller) -> bool {
        let free = self.has_room_for(caller.known) && self.source_may(caller.source);
        if free {
            self.slots += 1;
            self.slots_of_strangers += usize::from(!caller.known);
            *self.slots_of.entry(caller.source).or_default() += 1;
        }
        free
    }

    /// Gets in line, unless it is too long.
    fn wait(&mut self, caller: Caller, waiter: W) -> bool {
        let open_to_all = self.places - self.places / 4;
        let length = self.known.length + self.strangers.length;
        let (full, line) = if caller.known {
            let own = self.known.length_of(caller.source);
            (length >= self.places || own >= open_to_all, &mut self.known)
        } else {
            let full = length >= self.places || self.strangers.length >= open_to_all;
            (full, &mut self.strangers)
        };
        if !full {
            line.join(caller.source, waiter);
        }
        !full
    }

    /// Gives a slot back.
    fn leave(&mut self, caller: Caller) {
        self.slots -= 1;
        self.slots_of_strangers -= usize::from(!caller.known);
        take_one(&mut self.slots_of, &caller.source);
    }

    /// Gives a free slot to the one whose turn it is.
    fn next(&mut self) -> Option<(Caller, W)> {
        for known in [true, false] {
            if !self.has_room_for(known) {
                continue;
            }
            let line = if known { &mut self.known } else { &mut self.strangers };
            let slots_of = &self.slots_of;
            let next = line.next(|source| slots_of.get(&source).is_none_or(|held| *held < SLOTS_OF_ONE_SOURCE));
            if let Some((source, waiter)) = next {
                let caller = Caller { source, known };
                self.take(caller);
                return Some((caller, waiter));
            }
        }
        None
    }

    fn has_room_for(&self, known: bool) -> bool {
        self.slots < SLOTS && (known || self.slots_of_strangers < SLOTS - KEPT_SLOTS)
    }

    fn source_may(&self, source: IpAddr) -> bool {
        self.slots_of
            .get(&source)
            .is_none_or(|held| *held < SLOTS_OF_ONE_SOURCE)
    }
}

/// A line in which sources take turns.
struct Line<W> {
    turns: VecDeque<IpAddr>,
    of: HashMap<IpAddr, VecDeque<W>>,
    length: usize,
}

impl<W> Default for Line<W> {
    fn default() -> Self {
        Self {
            turns: VecDeque::new(),
            of: HashMap::new(),
            length: 0,
        }
    }
}

impl<W> Line<W> {
    fn length_of(&self, source: IpAddr) -> usize {
        self.of.get(&source).map_or(0, VecDeque::len)
    }

    fn join(&mut self, source: IpAddr, waiter: W) {
        self.length += 1;
        let own = self.of.entry(source).or_default();
        if own.is_empty() {
            self.turns.push_back(source);
        }
        own.push_back(waiter);
    }

    /// The first whose source may; the source's next turn comes after all
    /// others'. At most four hold as much as one may, so few are passed over.
    fn next(&mut self, may: impl Fn(IpAddr) -> bool) -> Option<(IpAddr, W)> {
        let position = self.turns.iter().position(|source| may(*source))?;
        let source = self.turns.remove(position)?;
        let own = self.of.get_mut(&source)?;
        let waiter = own.pop_front()?;
        self.length -= 1;
        if own.is_empty() {
            self.of.remove(&source);
        } else {
            self.turns.push_back(source);
        }
        Some((source, waiter))
    }
}

#[cfg(test)]
#[path = "handshakes_tests.rs"]
mod tests;
