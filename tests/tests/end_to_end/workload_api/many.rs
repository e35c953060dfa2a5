//! Many streams of one process.

use tokio_stream::StreamExt;
use tonic::{Code, Request, Streaming};
use watchword_proto::workload_api::{SpiffeWorkloadApiClient, X509svidRequest, X509svidResponse};

use super::callers::runtime;
use super::{agent, connect, mesh};

/// Of one caller; one more is refused (proxy/src/workloads.rs).
const MOST: usize = 2048;

fn request() -> Request<X509svidRequest> {
    let mut request = Request::new(X509svidRequest {});
    request
        .metadata_mut()
        .insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

async fn serial(stream: &mut Streaming<X509svidResponse>) -> Vec<u8> {
    let told = stream.next().await.unwrap().unwrap();
    told.svids[0].x509_svid.clone()
}

#[test]
fn a_thousand_streams_of_a_process_are_told_the_same_and_too_many_are_refused_until_some_have_ended() {
    let mesh = mesh();
    let agent = agent(&mesh, &["spiffe://example.org/batch"]);
    runtime().block_on(async {
        let mut streams = Vec::new();
        // Half of them on a connection of its own.
        for _ in 0..2 {
            let mut client = SpiffeWorkloadApiClient::new(connect(&agent).await);
            for _ in 0..MOST / 2 {
                streams.push(client.fetch_x509svid(request()).await.unwrap().into_inner());
            }
        }
        let mut other = SpiffeWorkloadApiClient::new(connect(&agent).await);
        let refused = other.fetch_x509svid(request()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        let mut firsts = Vec::new();
        for stream in &mut streams {
            firsts.push(serial(stream).await);
        }
        // All that began before the certificate was replaced have the same.
        firsts.dedup();
        assert!(firsts.len() <= 2, "{} certificates", firsts.len());
        for stream in &mut streams {
            let next = serial(stream).await;
            assert_ne!(Some(&next), firsts.first());
        }
        drop(streams);
        // Its place is free when the server has noticed.
        loop {
            match other.fetch_x509svid(request()).await {
                Ok(_) => break,
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
            tokio::task::yield_now().await;
        }
    });
}
