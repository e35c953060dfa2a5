//! What leaves by a trunk: frames of lanes, in parts.
//!
//! Invariant: whoever sends, it is the driver that is woken when there is room
//! for more.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::shared::{HEADER, Kind, LARGEST_WINDOW, Shared};
use crate::buffer::Buffer;
use crate::edge::Transport;

impl<T: Transport> Shared<T> {
    /// Queues a frame. It leaves with its part, or in the driver's next turn.
    pub(super) fn say(&mut self, kind: Kind, lane: u32, payload: &[u8]) {
        if self.write_failure.is_some() {
            return;
        }
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let [_, a, b, c] = length.to_be_bytes();
        let [d, e, f, g] = lane.to_be_bytes();
        self.output.push(&[kind as u8, a, b, c, d, e, f, g]);
        self.output.push(payload);
        self.queued += (HEADER + payload.len()) as u64;
        self.wake_driver();
    }

    pub(super) fn wake_driver(&mut self) {
        if !self.is_woken
            && let Some(driver) = &self.driver
        {
            self.is_woken = true;
            driver.wake_by_ref();
        }
    }

    /// A lane has written something.
    pub(super) fn note_said(&mut self) {
        self.said += 1;
        if self.said >= self.speaking.part()
            && let Some(driver) = self.driver.clone()
        {
            self.send(&mut Context::from_waker(&driver));
        }
    }

    /// Less than a part waits to be sent, and others may follow.
    pub(super) fn could_say_more(&self) -> bool {
        self.speaking.lanes() > 1 && (1..self.speaking.part()).contains(&self.said)
    }

    /// The driver's turn is over.
    pub(super) fn end_turn(&mut self) {
        self.is_woken = false;
        self.speaking.look();
    }

    /// Sends what lanes have said, as far as the transport takes it.
    pub(super) fn send(&mut self, cx: &mut Context<'_>) {
        self.said = 0;
        if self.write_failure.is_none()
            && let Err(error) = self.write(cx)
        {
            self.write_failure = Some(error.kind());
            self.failed_by = Some(error);
            self.wake_driver();
        }
        if self.write_failure.is_some() {
            (self.sending, self.output) = (Buffer::default(), Buffer::default());
            for state in self.lanes.values_mut() {
                state.writer.take().into_iter().for_each(Waker::wake);
            }
        }
        self.sending.rest();
        self.output.rest();
        self.is_stuck = self.handed > self.flushed || !self.sending.is_empty();
    }

    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(transport) = &mut self.transport else {
            return Ok(());
        };
        let mut transport = Pin::new(transport);
        loop {
            if self.sending.is_empty() {
                std::mem::swap(&mut self.sending, &mut self.output);
                if self.sending.is_empty() {
                    break;
                }
            }
            match transport.as_mut().poll_write(cx, self.sending.bytes())? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(count) => {
                    self.sending.consume(count);
                    self.handed += count as u64;
                }
                Poll::Pending => break,
            }
        }
        if self.handed > self.flushed && transport.poll_flush(cx)?.is_ready() {
            self.flushed = self.handed;
        }
        Ok(())
    }

    /// Grants what lanes have read.
    pub(super) fn grant(&mut self) {
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
    pub(super) fn unblock(&mut self) {
        for lane in std::mem::take(&mut self.blocked) {
            let Some(state) = self.lanes.get_mut(&lane) else {
                continue;
            };
            state.is_blocked = false;
            state.writer.take().into_iter().for_each(Waker::wake);
        }
    }
}
