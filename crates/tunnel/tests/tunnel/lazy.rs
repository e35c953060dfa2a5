//! Connections of which the runtime hears when somebody has to wait.

use std::future::poll_fn;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use watchword_tunnel::{AppStream as _, LazyStream};

use crate::tcp::{more_than_fits_arrives, tcp};

const SOON: Duration = Duration::from_secs(10);

/// Of a connection that the runtime is made to forget.
pub(crate) fn lazy(stream: TcpStream) -> LazyStream {
    LazyStream::new(stream.into_std().unwrap().into())
}

fn read(stream: &mut LazyStream, cx: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
    let mut room = [0; 64];
    let mut buffer = ReadBuf::new(&mut room);
    Pin::new(stream)
        .poll_read(cx, &mut buffer)
        .map_ok(|()| buffer.filled().to_vec())
}

fn done<R>(step: Poll<io::Result<R>>) -> R {
    match step {
        Poll::Ready(result) => result.unwrap(),
        Poll::Pending => panic!("it waits"),
    }
}

/// There is none here, and tokio panics where it would be asked to wait.
#[test]
fn what_never_has_to_wait_needs_no_runtime() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut far = listener.accept().unwrap().0;
    far.set_read_timeout(Some(SOON)).unwrap();
    near.set_nonblocking(true).unwrap();
    let mut near = LazyStream::new(near.into());
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(done(Pin::new(&mut near).poll_write(&mut cx, b"one ")), 4);
    let pieces = [IoSlice::new(b"two "), IoSlice::new(b"three ")];
    assert_eq!(done(Pin::new(&mut near).poll_write_vectored(&mut cx, &pieces)), 10);
    assert_eq!(done(near.poll_write_last(&mut cx, b"last")), 4);
    done(Pin::new(&mut near).poll_shutdown(&mut cx));
    let mut all = String::new();
    far.read_to_string(&mut all).unwrap();
    assert_eq!(all, "one two three last");
    far.write_all(b"answer").unwrap();
    let (mut first, mut second) = ([0; 2], [0; 4]);
    let mut rooms = [IoSliceMut::new(&mut first), IoSliceMut::new(&mut second)];
    assert_eq!(done(near.poll_read_vectored(&mut cx, &mut rooms)), 6);
    assert_eq!((&first, &second), (b"an", b"swer"));
    far.write_all(b"s").unwrap();
    assert_eq!(done(read(&mut near, &mut cx)), b"s");
    assert!(near.failure().is_none());
    drop(far);
    assert_eq!(done(read(&mut near, &mut cx)), b"");
    assert!(near.into_socket().is_ok());
}

#[tokio::test]
async fn who_waits_for_bytes_hears_of_them_and_of_their_end() {
    let (near, mut far) = tcp().await;
    let mut near = lazy(near);
    let asked = tokio::spawn(async move {
        let mut all = Vec::new();
        near.read_to_end(&mut all).await.map(|_| all)
    });
    for word in ["some", " and more"] {
        // The reader has to wait first.
        tokio::task::yield_now().await;
        far.write_all(word.as_bytes()).await.unwrap();
    }
    far.shutdown().await.unwrap();
    assert_eq!(timeout(SOON, asked).await.unwrap().unwrap().unwrap(), b"some and more");
}

#[tokio::test]
async fn what_the_kernel_has_no_room_for_waits_and_arrives() {
    more_than_fits_arrives(lazy, |near, cx, bytes| Pin::new(near).poll_write(cx, bytes)).await;
}

#[tokio::test]
async fn a_task_that_never_has_to_wait_lets_others_have_their_turn() {
    const LENGTH: usize = 1000;
    let (near, mut far) = tcp().await;
    let mut near = lazy(near);
    far.write_all(&[b'x'; LENGTH]).await.unwrap();
    let mut turns = 0;
    let mut seen = 0;
    poll_fn(|cx| {
        turns += 1;
        while seen < LENGTH {
            let mut byte = [0];
            let mut room = [IoSliceMut::new(&mut byte)];
            match near.poll_read_vectored(cx, &mut room) {
                Poll::Ready(read) => seen += read.unwrap(),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    })
    .await;
    assert!(turns > 3, "{turns}");
}

#[tokio::test]
async fn what_is_guarded_is_reset_on_a_drop_and_what_is_not_is_closed_in_order() {
    for is_known in [false, true] {
        for is_guarded in [false, true] {
            let (near, mut far) = tcp().await;
            let mut near = lazy(near);
            if is_known {
                near.register().unwrap();
            }
            near.guard(true);
            near.guard(is_guarded);
            drop(near);
            let read = timeout(SOON, far.read(&mut [0])).await.unwrap();
            let expected = if is_guarded {
                Err(io::ErrorKind::ConnectionReset)
            } else {
                Ok(0)
            };
            assert_eq!(read.map_err(|error| error.kind()), expected, "{is_known}");
        }
    }
}

#[tokio::test]
async fn a_reset_is_told_by_reading_and_without() {
    for reads in [false, true] {
        let (near, mut far) = tcp().await;
        let mut near = lazy(near);
        far.guard(true);
        drop(far);
        let error = if reads {
            timeout(SOON, near.read(&mut [0])).await.unwrap().unwrap_err()
        } else {
            near.failure().unwrap()
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
