#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use tokio::io::duplex;
use tokio::sync::oneshot;

use super::*;

/// Sends what an app says until it is over or another connection is wanted:
/// that, and what has come out.
struct Sending {
    app: tokio::io::DuplexStream,
    called: tokio::io::DuplexStream,
    answered: Arc<AtomicBool>,
    goodbye: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<(io::Result<Sent>, Requests)>,
}

impl Sending {
    fn start(mut requests: Requests) -> Self {
        let (app, mut from) = duplex(1 << 16);
        let (mut to, called) = duplex(1 << 16);
        let answered = Arc::new(AtomicBool::new(true));
        let (say, goodbye) = oneshot::channel::<()>();
        let seen = Arc::clone(&answered);
        let task = tokio::spawn(async move {
            let goodbye = async {
                if goodbye.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let mut sent = 0;
            let how = requests.send((&mut from, &mut to), (&seen, goodbye), &mut sent).await;
            (how, requests)
        });
        Self {
            app,
            called,
            answered,
            goodbye: Some(say),
            task,
        }
    }

    async fn says(&mut self, text: &[u8]) {
        self.app.write_all(text).await.unwrap();
    }

    async fn comes_out(&mut self, text: &[u8]) {
        let mut read = vec![0; text.len()];
        self.called.read_exact(&mut read).await.unwrap();
        assert_eq!(read, text);
    }

    fn answer(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    async fn goodbye(&mut self) {
        self.goodbye.take().unwrap().send(()).unwrap();
        // The task sees it when it is polled next.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    }
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test]
async fn the_next_request_goes_to_another_connection_and_none_is_torn() {
    let mut first = Sending::start(Requests::new(BytesMut::from(GET)));
    first.comes_out(GET).await;
    first.answer();
    first.says(POST).await;
    first.says(b"3\r\nabc\r\n").await;
    first.comes_out(POST).await;
    first.goodbye().await;
    first.says(b"0\r\n\r\n").await;
    first.comes_out(b"3\r\nabc\r\n0\r\n\r\n").await;
    first.answer();
    // In two pieces: nothing of it may go before it is known where.
    first.says(&GET[..9]).await;
    first.says(&GET[9..]).await;
    let (how, requests) = first.task.await.unwrap();
    assert!(matches!(how, Ok(Sent::UntilNext)));
    let mut second = Sending::start(requests);
    second.comes_out(GET).await;
    drop(second.app);
    assert!(matches!(second.task.await.unwrap().0, Ok(Sent::All)));
}

#[tokio::test]
async fn who_does_not_wait_for_answers_or_upgrades_keeps_the_connection() {
    const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for first_request in [GET, UPGRADE] {
        let mut sending = Sending::start(Requests::new(BytesMut::from(first_request)));
        sending.comes_out(first_request).await;
        if first_request == UPGRADE {
            sending.answer();
        }
        // Pipelined in the one case, in the other no HTTP any more.
        sending.says(GET).await;
        sending.comes_out(GET).await;
        sending.answer();
        sending.goodbye().await;
        sending.says(GET).await;
        sending.comes_out(GET).await;
        drop(sending.app);
        assert!(matches!(sending.task.await.unwrap().0, Ok(Sent::All)));
    }
}

#[tokio::test]
async fn what_is_no_http_passes_as_it_is() {
    let mut sending = Sending::start(Requests::new(BytesMut::from(&b"hello\n\nworld"[..])));
    sending.comes_out(b"hello\n\nworld").await;
    sending.goodbye().await;
    sending.says(b"GET ").await;
    sending.comes_out(b"GET ").await;
    drop(sending.app);
    assert!(matches!(sending.task.await.unwrap().0, Ok(Sent::All)));
}
