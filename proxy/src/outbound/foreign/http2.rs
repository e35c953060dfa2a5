//! An app's HTTP/2 connection to a foreign peer: in time before certificates
//! come to their end the app is told by a GOAWAY to make another one for its
//! next requests. Those that are under way go on (RFC 9113 section 6.8).

use std::io;
use std::pin::pin;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use watchword_identity::Usage;
use watchword_tunnel::AppStream;

use super::calling::Called;
use crate::ended::{Ended, Verdict};
use crate::refusal::Why;

/// Read at once.
const PIECE: usize = 16 * 1024;
const FRAME_HEAD: usize = 9;
const END_HEADERS: u8 = 0x4;
/// HEADERS, PUSH_PROMISE and CONTINUATION: nothing may come between them.
const BLOCKS: [u8; 3] = [1, 5, 9];
/// NO_ERROR, and the highest number of a stream: whatever is on its way is served.
const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// Carries the connection to its end; `read` was read from the app already.
pub(super) async fn carry(called: Called, mut app: TcpStream, read: BytesMut) -> Ended {
    let Called {
        mut stream,
        end,
        _counted,
    } = called;
    app.guard(true);
    stream.guard(true);
    let (mut from_app, mut to_app) = app.split();
    let (mut from_called, mut to_called) = tokio::io::split(stream);
    let sending = async {
        to_called.write_all(&read).await?;
        to_called.flush().await?;
        let sent = tokio::io::copy(&mut from_app, &mut to_called).await?;
        to_called.shutdown().await?;
        io::Result::Ok(sent + read.len() as u64)
    };
    let receiving = receive(&mut from_called, &mut to_app, end.goodbye());
    let carried = tokio::select! {
        carried = async { tokio::try_join!(sending, receiving) } => carried,
        reason = end.over(Usage::Server) => return Ended::failed("cut", Why::label_of(reason)),
    };
    match carried {
        Ok((sent, received)) => {
            from_called.unsplit(to_called).guard(false);
            app.guard(false);
            Ended::finished(sent, received, Verdict::none())
        }
        Err(error) => Ended::failed("app-reset", error.to_string()),
    }
}

async fn receive(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    goodbye: impl Future<Output = ()>,
) -> io::Result<u64> {
    let mut goodbye = pin!(goodbye);
    let mut frames = Frames::default();
    let mut bytes = vec![0; PIECE];
    let mut received = 0;
    let (mut leaves, mut is_said) = (false, false);
    loop {
        let count = tokio::select! {
            count = from.read(&mut bytes) => count?,
            () = goodbye.as_mut(), if !leaves => {
                leaves = true;
                if frames.is_between() {
                    to.write_all(&GOAWAY).await?;
                    is_said = true;
                }
                continue;
            }
        };
        if count == 0 {
            to.shutdown().await?;
            return Ok(received);
        }
        received += count as u64;
        let bytes = bytes.get(..count).unwrap_or_default();
        match frames.first_gap(bytes).filter(|_| leaves && !is_said) {
            Some(gap) => {
                let (before, behind) = bytes.split_at(gap);
                to.write_all(before).await?;
                to.write_all(&GOAWAY).await?;
                to.write_all(behind).await?;
                is_said = true;
            }
            None => to.write_all(bytes).await?,
        }
    }
}

/// Follows the frames that a server sends.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; FRAME_HEAD],
    have: usize,
    /// Of the frame's payload.
    left: usize,
    /// A header block goes on in the next frame.
    in_block: bool,
    has_begun: bool,
}

impl Frames {
    /// Whether another frame may come here. The first one is the server's own.
    fn is_between(&self) -> bool {
        self.has_begun && self.have == 0 && self.left == 0 && !self.in_block
    }

    /// Goes over all the bytes, and says where another frame may be put first.
    fn first_gap(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut gap = None;
        let mut at = 0;
        loop {
            if gap.is_none() && self.is_between() {
                gap = Some(at);
            }
            let Some(&byte) = bytes.get(at) else {
                return gap;
            };
            if self.left > 0 {
                let taken = self.left.min(bytes.len() - at);
                self.left -= taken;
                at += taken;
                continue;
            }
            if let Some(place) = self.head.get_mut(self.have) {
                *place = byte;
            }
            self.have += 1;
            at += 1;
            if self.have == FRAME_HEAD {
                self.begin();
            }
        }
    }

    fn begin(&mut self) {
        let [a, b, c, kind, flags, ..] = self.head;
        self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.have = 0;
        self.has_begun = true;
        if BLOCKS.contains(&kind) {
            self.in_block = flags & END_HEADERS == 0;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use tokio::io::duplex;
    use tokio::sync::oneshot;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn a_frame_is_put_between_frames_and_never_into_a_header_block_nor_before_the_first() {
        let settings = frame(4, 0, &[]);
        let block = [frame(1, 0, b"abc"), frame(9, 0, b""), frame(9, 4, b"d")].concat();
        let data = frame(0, 1, b"hello");
        let table = [
            (vec![], None),
            (settings.clone(), Some(settings.len())),
            ([settings.clone(), data.clone()].concat(), Some(settings.len())),
            (settings[..5].to_vec(), None),
            (frame(1, 0, b"abc"), None),
            (block.clone(), Some(block.len())),
        ];
        for (bytes, expected) in table {
            assert_eq!(Frames::default().first_gap(&bytes), expected, "{bytes:?}");
        }
        let mut frames = Frames::default();
        frames.first_gap(&[settings, frame(1, 0, b"abc")].concat());
        assert_eq!(frames.first_gap(&frame(9, 4, b"d")), Some(frame(9, 4, b"d").len()));
        assert_eq!(frames.first_gap(&data[..7]), Some(0));
        assert_eq!(frames.first_gap(&data[7..]), Some(data.len() - 7));
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_spoken_for_as_soon_as_it_is_time() {
        let (mut server, mut from) = duplex(1024);
        let (mut to, mut app) = duplex(1024);
        let (say, goodbye) = oneshot::channel::<()>();
        let receiving = tokio::spawn(async move {
            receive(&mut from, &mut to, async {
                let _ = goodbye.await;
            })
            .await
        });
        let settings = frame(4, 0, &[]);
        server.write_all(&settings).await.unwrap();
        let mut first = vec![0; settings.len()];
        app.read_exact(&mut first).await.unwrap();
        say.send(()).unwrap();
        let mut said = [0; GOAWAY.len()];
        app.read_exact(&mut said).await.unwrap();
        assert_eq!(said, GOAWAY);
        drop(server);
        assert_eq!(receiving.await.unwrap().unwrap(), settings.len() as u64);
    }

    proptest! {
        #[test]
        fn gaps_are_the_same_however_bytes_are_cut(
            payloads in proptest::collection::vec((0u8..10, 0u8..8, 0usize..30), 1..12), piece in 1usize..17,
        ) {
            let bytes: Vec<u8> = payloads.iter().flat_map(|(kind, flags, length)| frame(*kind, *flags, &vec![7; *length])).collect();
            let whole = Frames::default().first_gap(&bytes);
            let mut frames = Frames::default();
            let mut found = None;
            for (index, part) in bytes.chunks(piece).enumerate() {
                let gap = frames.first_gap(part);
                found = found.or(gap.map(|gap| index * piece + gap));
            }
            prop_assert_eq!(found, whole);
        }
    }
}
