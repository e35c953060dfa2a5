//! What a read tells of what it has left, and who is woken for more.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use watchword_tunnel::{Lane, Transport};

use crate::edges::{Edge, transports};
use crate::lanes::Pair;

/// Turns that are enough for both drivers to carry something.
const TURNS: usize = 20;

#[derive(Default)]
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Who reads one lane, and was woken so often.
struct Reader {
    lane: Lane<Edge>,
    task: Arc<Task>,
}

impl Reader {
    /// A read that finds something, or the end: and whether it says that this was all.
    fn read(&mut self, room: usize) -> (Vec<u8>, bool) {
        let waker = Waker::from(Arc::clone(&self.task));
        let mut room = vec![0; room];
        let mut buffer = ReadBuf::new(&mut room);
        let read = Pin::new(&mut self.lane).poll_read(&mut Context::from_waker(&waker), &mut buffer);
        assert!(matches!(read, Poll::Ready(Ok(()))), "{read:?}");
        (buffer.filled().to_vec(), self.lane.has_given_all())
    }

    /// How often it was woken by what has just been done.
    async fn wakes(&self) -> usize {
        let before = self.task.0.load(Ordering::SeqCst);
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        self.task.0.load(Ordering::SeqCst) - before
    }
}

#[tokio::test]
async fn a_lane_that_has_given_all_wakes_its_reader_for_more_and_for_its_end() {
    let mut pair = Pair::new(transports(65_536));
    let (mut near, lane) = pair.lane().await;
    let mut reader = Reader {
        lane,
        task: Arc::default(),
    };
    near.write_all(b"one").await.expect("a lane");
    assert_eq!(reader.wakes().await, 0, "it has not read yet");
    assert_eq!(reader.read(2), (b"on".to_vec(), false), "there was no room for more");
    assert_eq!(reader.read(100), (b"e".to_vec(), true));
    near.write_all(b"two").await.expect("a lane");
    assert_eq!(reader.wakes().await, 1, "it has not read since");
    assert_eq!(reader.read(100), (b"two".to_vec(), true));
    near.write_all(b"three").await.expect("a lane");
    near.shutdown().await.expect("a lane");
    assert_eq!(reader.wakes().await, 1);
    assert_eq!(
        reader.read(100),
        (b"three".to_vec(), false),
        "nobody would be woken for the end"
    );
    assert_eq!(reader.read(100), (b"".to_vec(), false));

    let (near, lane) = pair.lane().await;
    let mut near = near;
    reader.lane = lane;
    near.write_all(b"more").await.expect("a lane");
    assert_eq!(reader.wakes().await, 0);
    assert_eq!(reader.read(100), (b"more".to_vec(), true));
    drop(near);
    assert_eq!(reader.wakes().await, 1, "for its end");
    assert_eq!(reader.read(100), (b"".to_vec(), false));
}
