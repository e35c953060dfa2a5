//! Reading from an encrypted connection: what comes, what is known of more, and
//! what ends it.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::*;

/// How often a task was woken.
#[derive(Default)]
struct Task(AtomicUsize);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A pipe that breaks when it has nothing more to give, once it shall.
struct Pipe {
    inner: DuplexStream,
    breaks: Arc<AtomicBool>,
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.inner).poll_read(cx, buffer) {
            // A socket tells an error once.
            Poll::Pending if self.breaks.swap(false, Ordering::SeqCst) => {
                Poll::Ready(Err(ErrorKind::ConnectionReset.into()))
            }
            read => read,
        }
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

type Stream = TlsStream<Pipe>;

/// A client, a server, and what breaks the server's pipe.
async fn pair() -> (Stream, Stream, Arc<AtomicBool>) {
    let authority = Authority::new("root");
    let [web, orders] = [WEB, ORDERS].map(|id| {
        let credentials = credentials(&authority.leaf(id), authority.bundle());
        credentials.current().unwrap()
    });
    let (near, far) = duplex(64 * 1024);
    let [near, far] = [near, far].map(|inner| Pipe {
        inner,
        breaks: Arc::default(),
    });
    let (breaks, expected) = (Arc::clone(&far.breaks), id(ORDERS));
    let (client, server) = tokio::join!(connect_tunnel(&web, near, &expected), accept_tunnel(&orders, far));
    (client.unwrap().0, server.unwrap().0, breaks)
}

async fn say(stream: &mut Stream, text: &[u8]) {
    stream.write_all(text).await.unwrap();
    stream.flush().await.unwrap();
}

/// One read into so much room.
fn poll_read(stream: &mut Stream, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<Vec<u8>>> {
    let mut room = vec![0; room];
    let mut buffer = ReadBuf::new(&mut room);
    Pin::new(stream)
        .poll_read(cx, &mut buffer)
        .map_ok(|()| buffer.filled().to_vec())
}

async fn read(stream: &mut Stream, room: usize) -> io::Result<Vec<u8>> {
    let read = poll_fn(|cx| poll_read(stream, cx, room));
    timeout(HANDSHAKE_DEADLINE, read).await.expect("something, or an end")
}

#[tokio::test]
async fn a_read_that_has_given_all_says_so_and_wakes_its_task_for_more() {
    let (mut client, mut server, _) = pair().await;
    say(&mut client, b"one").await;
    say(&mut client, b"two").await;
    let task = Arc::new(Task::default());
    let waker = Waker::from(Arc::clone(&task));
    let mut cx = Context::from_waker(&waker);
    let mut read = |room| match poll_read(&mut server, &mut cx, room) {
        Poll::Ready(text) => (text.unwrap(), server.has_given_all()),
        Poll::Pending => panic!("it has come"),
    };
    assert_eq!(read(2), (b"on".to_vec(), false), "there was no room for more");
    assert_eq!(read(100), (b"etwo".to_vec(), true));
    let before = task.0.load(Ordering::SeqCst);
    say(&mut client, b"three").await;
    assert!(task.0.load(Ordering::SeqCst) > before, "nobody has read since");
    assert_eq!(read(5), (b"three".to_vec(), false));
}

#[tokio::test]
async fn what_ends_a_connection_is_told_after_what_came_before() {
    let (mut client, mut server, _) = pair().await;
    say(&mut client, b"goodbye").await;
    client.shutdown().await.unwrap();
    drop(client);
    assert_eq!(read(&mut server, 100).await.unwrap(), b"goodbye");
    assert!(!server.has_given_all(), "nobody would be woken for the end");
    assert_eq!(read(&mut server, 100).await.unwrap(), b"");

    let (mut client, mut server, _) = pair().await;
    say(&mut client, b"last words").await;
    drop(client);
    assert_eq!(read(&mut server, 100).await.unwrap(), b"last words");
    assert!(!server.has_given_all(), "nobody would be woken for the error");
    let error = read(&mut server, 100).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);

    let (mut client, mut server, breaks) = pair().await;
    say(&mut client, b"last words").await;
    breaks.store(true, Ordering::SeqCst);
    assert_eq!(read(&mut server, 100).await.unwrap(), b"last words");
    let error = read(&mut server, 100).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}
