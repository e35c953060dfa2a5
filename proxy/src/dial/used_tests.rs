#![allow(clippy::unwrap_used)]

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use watchword_tunnel::{LazyStream, Released};

use super::*;
use crate::dial::tests::app;
use crate::dial::{Dialler, new_socket};

const SOON: Duration = Duration::from_secs(10);

type Ends = (SocketAddr, IpAddr);

/// A call, and both ends of it.
async fn call(listener: &TcpListener, ends: Ends, used: &UsedSockets) -> (LazyStream, TcpStream) {
    let (sent, connected) = Dialler::not_captured().call_app(ends, b"?", used);
    assert_eq!(sent, 1);
    let (mut called, _) = listener.accept().await.unwrap();
    assert_eq!(called.read_u8().await.unwrap(), b'?');
    (connected.await.unwrap(), called)
}

/// A call whose both directions end, the app's first where that is asked for.
async fn ended_call(listener: &TcpListener, ends: Ends, used: &UsedSockets, app_first: bool) -> LazyStream {
    let (mut caller, mut called) = call(listener, ends, used).await;
    called.write_all(b"!").await.unwrap();
    if app_first {
        called.shutdown().await.unwrap();
        assert_eq!(read_all(&mut caller).await.unwrap(), b"!");
        caller.shutdown().await.unwrap();
    } else {
        caller.shutdown().await.unwrap();
        assert_eq!(read_all(&mut called).await.unwrap(), b"");
        called.shutdown().await.unwrap();
        assert_eq!(read_all(&mut caller).await.unwrap(), b"!");
    }
    let over = async {
        while !is_over(&caller) {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, over).await.unwrap();
    caller
}

async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.map(|_| bytes)
}

fn kept(used: &UsedSockets) -> usize {
    used.0.lock().unwrap().len()
}

#[tokio::test]
async fn a_socket_whose_connection_has_ended_calls_again_as_a_new_one_would() {
    let (listener, ends) = app().await;
    let used = UsedSockets::default();
    let (mut ports, mut cookies) = (Vec::new(), Vec::new());
    for app_first in [true, false, true] {
        let caller = ended_call(&listener, ends, &used, app_first).await;
        let socket = caller.socket().unwrap();
        ports.push(socket.local_addr().unwrap().as_socket().unwrap().port());
        // The kernel's name for the socket.
        cookies.push(socket.cookie().unwrap());
        Dialler::not_captured().take_back(ends, Released::new(caller), &used);
        assert_eq!(kept(&used), 1);
    }
    ports.dedup();
    assert_eq!(ports.len(), 3, "{ports:?}");
    cookies.dedup();
    assert_eq!(cookies.len(), 1, "{cookies:?}");
    let (caller, mut called) = call(&listener, ends, &used).await;
    assert_eq!(kept(&used), 0);
    assert!(caller.socket().unwrap().tcp_nodelay().unwrap());
    // It is guarded still: a drop is no end of its data.
    drop(caller);
    assert_eq!(
        read_all(&mut called).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[tokio::test]
async fn a_connection_that_is_not_over_is_closed_in_order_and_not_kept() {
    let (listener, ends) = app().await;
    let used = UsedSockets::default();
    let (mut caller, mut called) = call(&listener, ends, &used).await;
    caller.write_all(b" and more").await.unwrap();
    Dialler::not_captured().take_back(ends, Released::new(caller), &used);
    assert_eq!(kept(&used), 0);
    assert_eq!(read_all(&mut called).await.unwrap(), b" and more");
}

#[tokio::test]
async fn an_app_that_refuses_a_used_socket_refuses_the_call() {
    let (listener, ends) = app().await;
    let used = UsedSockets::default();
    let caller = ended_call(&listener, ends, &used, true).await;
    Dialler::not_captured().take_back(ends, Released::new(caller), &used);
    drop(listener);
    let (sent, connected) = Dialler::not_captured().call_app(ends, b"?", &used);
    assert_eq!(sent, 0);
    assert_eq!(connected.await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn what_a_used_socket_cannot_do_is_done_by_a_new_one() {
    let (listener, ends) = app().await;
    let used = UsedSockets::default();
    // One that listens connects to nobody.
    let socket = new_socket(ends.0).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(1).unwrap();
    used.keep(Source::Own { is_ipv6: false }, socket);
    let (mut caller, mut called) = call(&listener, ends, &used).await;
    called.write_all(b"!").await.unwrap();
    assert_eq!(caller.read_u8().await.unwrap(), b'!');
}

#[test]
fn each_source_gets_the_socket_that_it_used_last_and_the_oldest_make_room() {
    let used = UsedSockets::default();
    let callers = [1, 2].map(|last| Source::Caller(Ipv4Addr::new(10, 0, 0, last).into()));
    let socket = || new_socket((Ipv6Addr::LOCALHOST, 0).into()).unwrap();
    let [first, second, third] = [socket(), socket(), socket()];
    let fds = [&first, &second, &third].map(|socket| socket.as_raw_fd());
    used.keep(callers[0], first);
    used.keep(callers[0], second);
    used.keep(callers[1], third);
    let taken = used.take(callers[0]).unwrap();
    assert_eq!(taken.as_raw_fd(), fds[1]);
    assert!(used.take(Source::Own { is_ipv6: false }).is_none());
    for _ in 0..MOST - 1 {
        used.keep(callers[1], socket());
    }
    assert_eq!(kept(&used), MOST);
    assert!(used.take(callers[0]).is_none());
    assert!(used.take(callers[1]).is_some());
}
