//! Who may connect, and what bad connections do to others: nothing.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tonic::{Code, Request};
use watchword_daemon::Clock;
use watchword_mtls::{ControlClient, Now};
use watchword_proto::control::{DiscoveryClient, IdentityClient, RenewRequest};

use crate::harness::{HOUR, Key, Place, id, reason};

#[tokio::test]
async fn without_a_certificate_only_attestation_is_served() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    let channel = plane.channel(plane.anonymous()).await;
    let request = RenewRequest {
        csr: Key::new().csr("/web"),
    };
    let refused = IdentityClient::new(channel.clone()).renew(request).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::Unauthenticated, "no-certificate")
    );
    let refused = DiscoveryClient::new(channel)
        .subscribe(Request::new(tokio_stream::empty()))
        .await
        .err()
        .unwrap();
    assert_eq!(reason(&refused), "no-certificate");
}

#[tokio::test]
async fn callers_find_out_whom_they_talk_to() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    assert!(
        plane
            .try_channel(plane.anonymous(), &id("/watchword/other"))
            .await
            .is_err()
    );
    let other = Place::new();
    let stranger = other.start(Vec::new()).await.unwrap();
    let expected = id("/watchword/control-plane");
    assert!(plane.try_channel(stranger.anonymous(), &expected).await.is_err());
    plane.try_channel(plane.anonymous(), &expected).await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    let other = Place::new();
    let stranger = other.start(Vec::new()).await.unwrap().workload("/web").await;
    // The client learns of it with its first call.
    let client = stranger.credentials.control_client().unwrap();
    let expected = id("/watchword/control-plane");
    assert!(plane.try_channel(client, &expected).await.is_err());
    let metrics = plane.metrics();
    assert!(
        !metrics.contains("watchword_control_handshakes_total{reason=\"\",result=\"ok\"}"),
        "{metrics}"
    );
}

#[tokio::test]
async fn garbage_on_every_listener_harms_nobody_else() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    let mut open = Vec::new();
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0x16, 3, 1, 0xff, 0xff, 1, 2, 3],
        &[0xff; 40_000],
        b"",
    ] {
        for _ in 0..20 {
            let mut control = UnixStream::connect(&plane.control).await.unwrap();
            let mut tcp = TcpStream::connect(plane.tcp).await.unwrap();
            let mut admin = UnixStream::connect(&plane.admin).await.unwrap();
            let mut health = TcpStream::connect(plane.health).await.unwrap();
            // A listener that hangs up while we talk has made up its mind.
            let _ = control.write_all(garbage).await;
            let _ = tcp.write_all(garbage).await;
            let _ = admin.write_all(garbage).await;
            let _ = health.write_all(garbage).await;
            open.push((control, tcp, admin, health));
        }
    }
    plane.workload("/web").await;
    let mut refused = open.swap_remove(0).0;
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(8), refused.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "a connection that sends garbage is closed");
    assert!(plane.metrics().contains("result=\"failed\""));
}

#[tokio::test]
async fn garbage_inside_tls_harms_nobody_else() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    let stream = UnixStream::connect(&plane.control).await.unwrap();
    let mut stream = plane
        .anonymous()
        .connect(stream, &id("/watchword/control-plane"))
        .await
        .unwrap();
    stream.write_all(&[0xaa; 5000]).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(8), stream.read_to_end(&mut answer))
        .await
        .unwrap();
    plane.workload("/web").await;
}

#[tokio::test]
async fn the_tcp_listener_serves_the_same() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    let stream = TcpStream::connect(plane.tcp).await.unwrap();
    let stream = plane
        .anonymous()
        .connect(stream, &id("/watchword/control-plane"))
        .await
        .unwrap();
    assert_eq!(stream.peer().unwrap().id(), &id("/watchword/control-plane"));
}

#[tokio::test]
async fn health_and_metrics_are_shown() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    for (path, expected) in [("/readyz", "ok"), ("/metrics", "watchword_issuance_total")] {
        let mut stream = TcpStream::connect(plane.health).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains(expected),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn sockets_and_files_have_their_rights_and_a_second_control_plane_is_kept_out() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    let mode = |name: &str| {
        std::fs::metadata(place.run_folder().join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        (mode("control.sock"), mode("admin.sock"), mode("bundle.pem")),
        (0o666, 0o600, 0o644)
    );
    let message = place.start(Vec::new()).await.err().unwrap().to_string();
    assert!(message.contains("in use by another control plane"), "{message}");
    plane.workload("/web").await;
}

#[tokio::test]
async fn its_own_certificate_is_renewed_and_connections_stay() {
    let place = Place::new();
    let plane = place.start(Vec::new()).await.unwrap();
    let clock: Arc<dyn Clock> = place.clock.clone();
    let expected = id("/watchword/control-plane");
    let serial = || async {
        let client = ControlClient::anonymous(
            plane.bundle(),
            Now::new({
                let clock = Arc::clone(&clock);
                move || clock.now()
            }),
        );
        let stream = UnixStream::connect(&plane.control).await.unwrap();
        let stream = client.unwrap().connect(stream, &expected).await.unwrap();
        stream.peer().unwrap().svid().serial().to_owned()
    };
    let workload = plane.workload("/web").await;
    let mut subscriber = plane.subscribe(&workload).await.unwrap();
    subscriber.hello().await;
    subscriber.next().await;
    let before = serial().await;
    place.clock.advance(HOUR * 11 / 20);
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while serial().await == before {
        assert!(std::time::Instant::now() < deadline, "no new certificate came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    subscriber.next().await;
    subscriber.next().await;
    assert_eq!(plane.status().await.subscribers.len(), 1);
}
