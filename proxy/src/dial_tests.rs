#![allow(clippy::unwrap_used)]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

#[test]
fn an_app_is_never_shown_a_caller_that_it_might_take_for_itself() {
    let table = [
        ("10.87.0.4", "10.87.0.2:80", true),
        ("fd87::4", "[fd87::2]:80", true),
        ("127.0.0.1", "10.87.0.2:80", false),
        ("127.9.9.9", "10.87.0.2:80", false),
        ("0.0.0.0", "10.87.0.2:80", false),
        ("224.0.0.1", "10.87.0.2:80", false),
        ("255.255.255.255", "10.87.0.2:80", false),
        ("::1", "[fd87::2]:80", false),
        ("::", "[fd87::2]:80", false),
        ("ff02::1", "[fd87::2]:80", false),
        ("fe80::1", "[fd87::2]:80", false),
        ("::ffff:127.0.0.1", "[fd87::2]:80", false),
        ("fd87::4", "10.87.0.2:80", false),
        ("10.87.0.4", "[fd87::2]:80", false),
    ];
    for (caller, to, expected) in table {
        let (caller, to) = (caller.parse().unwrap(), to.parse().unwrap());
        assert_eq!(may_be_shown(caller, to), expected, "{caller} to {to}");
    }
}

/// Linux waits for this long at most before it completes a handshake.
const DELAYED: Duration = Duration::from_millis(200);

#[tokio::test]
async fn an_app_that_is_sent_to_first_is_called_by_that_packet() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    let (dialler, caller) = (Dialler::not_captured(), to.ip());
    let is_called = || async { timeout(Duration::ZERO, listener.accept()).await.is_ok() };
    loop {
        let began = std::time::Instant::now();
        let stream = dialler.connect_app(to, caller, First::Us).await.unwrap();
        let before = is_called().await;
        if began.elapsed() < DELAYED / 5 {
            assert!(!before);
            assert_eq!(stream.try_write(b"?").unwrap(), 1);
            assert!(is_called().await);
            break;
        }
    }
    let _stream = dialler.connect_app(to, caller, First::Either).await.unwrap();
    assert!(is_called().await);
}

/// An app that listens on loopback, its address, and a caller's.
pub(super) async fn app() -> (TcpListener, (SocketAddr, IpAddr)) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, (address, address.ip()))
}

#[tokio::test]
async fn an_app_is_sent_to_before_anybody_waits_for_it() {
    let (listener, ends) = app().await;
    let (sent, connected) = Dialler::not_captured().call_app(ends, b"a question", &UsedSockets::default());
    assert_eq!(sent, 10);
    let (mut app, _) = listener.accept().await.unwrap();
    let mut heard = [0; 10];
    app.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"a question");
    let mut stream = connected.await.unwrap();
    app.write_all(b"!").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'!');
    stream.write_all(b"and more").await.unwrap();
    // It is guarded: a drop is no end of its data.
    drop(stream);
    let error = app.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn who_has_nothing_to_send_yet_is_connected_to_the_app() {
    let (listener, ends) = app().await;
    let (sent, connected) = Dialler::not_captured().call_app(ends, b"", &UsedSockets::default());
    assert_eq!(sent, 0);
    let mut stream = connected.await.unwrap();
    let (mut app, _) = listener.accept().await.unwrap();
    stream.write_all(b"?").await.unwrap();
    assert_eq!(app.read_u8().await.unwrap(), b'?');
}

#[tokio::test]
async fn an_app_that_is_not_there_refuses_what_would_be_sent_to_it() {
    let to = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for first in [b"a question".as_slice(), b""] {
        let (sent, connected) = Dialler::not_captured().call_app((to, to.ip()), first, &UsedSockets::default());
        let error = connected.await.unwrap_err();
        assert_eq!((sent, error.kind()), (0, io::ErrorKind::ConnectionRefused));
    }
}
