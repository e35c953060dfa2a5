//! From the app into the tunnel.
//!
//! Invariants: an app is read right behind the room for a header, so that a
//! frame is one piece; before OPENED no more is read than is kept.

use std::io::{self, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;
use watchword_proto::tunnel::Reason;

use super::{Kept, Pump};
use crate::EARLY_LIMIT;
use crate::edge::{AppStream, Transport};
use crate::error::{CloseReason, TunnelError};
use crate::frame::{MAX_DATA, Type};
use crate::machine::Phase;

impl<T: Transport, A: AppStream> Pump<T, A> {
    /// Queues what the app has. True when it stopped for want of room.
    pub(super) fn fill(&mut self, cx: &mut Context<'_>) -> Result<bool, TunnelError> {
        self.waits.app_is_read = false;
        if !self.may_send() {
            return Ok(false);
        }
        if self.link.is_stuck() || !self.send_kept()? {
            return Ok(true);
        }
        while !self.app_ended {
            let limit = if self.opened {
                MAX_DATA
            } else {
                EARLY_LIMIT - self.early.kept.0.len()
            };
            if self.leg.app().is_none() || limit == 0 {
                return Ok(false);
            }
            let Some(read) = self.read_app(cx, limit) else {
                return Ok(true);
            };
            let count = match read {
                Poll::Pending => {
                    self.waits.app_is_read = true;
                    return Ok(false);
                }
                // An error that says so was taken when writing failed.
                Poll::Ready(Ok(0)) if self.heard_out_by.is_none() => {
                    self.send_fin()?;
                    break;
                }
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.end(cx, CloseReason::AppReset, Reason::AppReset)?;
                    return Ok(true);
                }
                Poll::Ready(Ok(count)) => count,
            };
            self.flows = count >= MAX_DATA;
            self.link.commit_flow(count)?;
            self.sent += count as u64;
        }
        Ok(false)
    }

    /// Reads right to where it is sent from, more than a frame at once where
    /// the last one was full. None: there is no room.
    fn read_app(&mut self, cx: &mut Context<'_>, limit: usize) -> Option<Poll<io::Result<usize>>> {
        if self.arrivals.is_silent(cx) {
            return Some(Poll::Pending);
        }
        let app = self.leg.app()?;
        if self.flows && self.opened {
            let mut rooms = std::array::from_fn(|_| IoSliceMut::new(&mut []));
            let count = self.link.data_rooms(&mut rooms)?;
            let rooms = rooms.get_mut(..count)?;
            return Some(self.arrivals.look(cx, |cx| app.poll_read_vectored(cx, rooms)));
        }
        let mut buffer = ReadBuf::new(self.link.data_room(limit)?);
        let read = self.arrivals.look(cx, |cx| Pin::new(app).poll_read(cx, &mut buffer));
        let bytes = buffer.filled();
        if !self.opened {
            self.early.kept.0.extend_from_slice(bytes);
            self.early.sent += bytes.len();
        }
        Some(read.map_ok(|()| bytes.len()))
    }

    pub(super) fn may_send(&self) -> bool {
        let phase = self.link.machine.phase();
        let open = matches!(phase, Phase::Opening { fin: false } | Phase::Open | Phase::FinReceived);
        let waits = self.early.is_held && !self.opened;
        open && !waits && !self.app_ended && !self.link.has_failed()
    }

    /// Sends what was kept from an earlier try. False when there was no room.
    fn send_kept(&mut self) -> Result<bool, TunnelError> {
        while let Some(rest) = self.early.kept.0.get(self.early.sent..).filter(|rest| !rest.is_empty()) {
            let Some(room) = self.link.data_room(rest.len()) else {
                return Ok(false);
            };
            let count = room.len();
            room.copy_from_slice(rest.get(..count).unwrap_or_default());
            self.early.sent += count;
            self.link.commit_data(count)?;
            self.sent += count as u64;
        }
        if self.opened && !self.early.kept.0.is_empty() {
            self.early.kept = Kept::default();
            self.early.sent = 0;
        }
        if self.early.fin {
            self.send_fin()?;
        }
        Ok(true)
    }

    fn send_fin(&mut self) -> Result<(), TunnelError> {
        self.app_ended = true;
        self.early.fin = true;
        self.link.queue(Type::Fin, &[])
    }
}
