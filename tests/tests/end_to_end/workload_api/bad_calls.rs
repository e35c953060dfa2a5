//! Calls that are wrong: each gets an answer that says so, and harms nobody.

use std::sync::Arc;

use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use watchword_proto::sds::{DiscoveryRequest, ErrorDetail, SECRET_TYPE, SecretDiscoveryServiceClient};
use watchword_proto::workload_api::{
    JwtBundlesRequest, JwtsvidRequest, SpiffeWorkloadApiClient, ValidateJwtsvidRequest, X509BundlesRequest,
    X509svidRequest,
};

use super::callers::runtime;
use super::{agent, connect, mesh};

fn with_header<T>(message: T, value: Option<&'static str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(value) = value {
        request
            .metadata_mut()
            .insert("workload.spiffe.io", value.parse().unwrap());
    }
    request
}

async fn statuses(channel: &Channel, header: Option<&'static str>) -> Vec<Option<Status>> {
    let mut client = SpiffeWorkloadApiClient::new(channel.clone());
    vec![
        client
            .fetch_x509svid(with_header(X509svidRequest {}, header))
            .await
            .err(),
        client
            .fetch_x509_bundles(with_header(X509BundlesRequest {}, header))
            .await
            .err(),
        client
            .fetch_jwtsvid(with_header(JwtsvidRequest::default(), header))
            .await
            .err(),
        client
            .fetch_jwt_bundles(with_header(JwtBundlesRequest {}, header))
            .await
            .err(),
        client
            .validate_jwtsvid(with_header(ValidateJwtsvidRequest::default(), header))
            .await
            .err(),
    ]
}

#[test]
fn a_call_without_the_security_header_gets_nothing_and_jwt_is_not_spoken() {
    let mesh = mesh();
    let agent = agent(&mesh, &["spiffe://example.org/batch"]);
    runtime().block_on(async {
        let channel = connect(&agent).await;
        for header in [None, Some("false"), Some("True"), Some("")] {
            for status in statuses(&channel, header).await {
                let status = status.unwrap();
                assert_eq!(status.code(), Code::InvalidArgument, "{header:?} {status}");
                assert!(status.message().contains("workload.spiffe.io: true"), "{status}");
            }
        }
        let with = statuses(&channel, Some("true")).await;
        assert!(with[0].is_none() && with[1].is_none());
        for status in &with[2..] {
            let status = status.as_ref().unwrap();
            assert_eq!(status.code(), Code::Unimplemented, "{status}");
            assert!(status.message().contains("FetchX509SVID"), "{status}");
        }
    });
}

#[test]
fn methods_of_profiles_that_are_not_there_are_unimplemented() {
    let mesh = mesh();
    let agent = agent(&mesh, &["spiffe://example.org/batch"]);
    for method in ["FetchWITSVID", "FetchWITBundles", "NoSuchMethod"] {
        let mut curl = std::process::Command::new("curl");
        curl.args([
            "--silent",
            "--http2-prior-knowledge",
            "--request",
            "POST",
            "--dump-header",
            "-",
            "--unix-socket",
        ])
        .arg(agent.socket())
        .args(["--header", "content-type: application/grpc", "--header", "te: trailers"])
        .args(["--header", "workload.spiffe.io: true", "--max-time", "20"])
        .arg(format!("http://localhost/SpiffeWorkloadAPI/{method}"));
        let answer = watchword_tests::run(&mut curl).unwrap();
        assert!(answer.contains("grpc-status: 12"), "{method}: {answer}");
    }
}

fn asks_for(names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        type_url: SECRET_TYPE.to_owned(),
        ..DiscoveryRequest::default()
    }
}

#[test]
fn a_secret_that_does_not_exist_is_answered_with_those_that_do() {
    let mesh = mesh();
    let agent = agent(&mesh, &["spiffe://example.org/batch"]);
    runtime().block_on(async {
        let mut client = SecretDiscoveryServiceClient::new(connect(&agent).await);
        let expected = "no secret is named \"kubernetes://tls\"; known here: \"default\", \"spiffe://example.org/batch\", \
                        \"ROOTCA\", \"ALL\", \"spiffe://example.org\"";
        let fetched = client.fetch_secrets(asks_for(&["kubernetes://tls"])).await.unwrap_err();
        assert_eq!((fetched.code(), fetched.message()), (Code::NotFound, expected));
        let stream = client.stream_secrets(tokio_stream::iter([asks_for(&["kubernetes://tls"])])).await.unwrap();
        let streamed = stream.into_inner().message().await.unwrap_err();
        assert_eq!((streamed.code(), streamed.message()), (Code::NotFound, expected));
        let others = client.fetch_secrets(asks_for(&["default", "ROOTCA"])).await.unwrap().into_inner();
        assert_eq!(others.resources.len(), 2);
        let wrong = DiscoveryRequest { type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".into(), ..asks_for(&[]) };
        assert_eq!(client.fetch_secrets(wrong).await.unwrap_err().code(), Code::InvalidArgument);
        let many: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let refused = client.fetch_secrets(asks_for(&many)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("64 at most"), "{refused}");
    });
}

/// How often clients rejected what they were sent.
fn rejections(metrics: &str) -> f64 {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("watchword_sds_rejections_total"));
    line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[test]
fn a_client_that_rejects_its_secret_in_a_loop_is_counted_and_gets_each_version_once() {
    const TIMES: usize = 200;
    let mesh = mesh();
    let agent = Arc::new(agent(&mesh, &["spiffe://example.org/batch"]));
    runtime().block_on(async {
        let mut client = SecretDiscoveryServiceClient::new(connect(&agent).await);
        let (requests, receiver) = tokio::sync::mpsc::channel(1);
        requests.send(asks_for(&["default"])).await.unwrap();
        let mut responses = client
            .stream_secrets(ReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        let mut versions = Vec::new();
        for round in 1..=3 {
            let response = responses.next().await.unwrap().unwrap();
            versions.push(response.version_info);
            for _ in 0..TIMES {
                let reject = DiscoveryRequest {
                    response_nonce: response.nonce.clone(),
                    error_detail: Some(ErrorDetail {
                        code: 13,
                        message: "no such key\nin\tmy store".into(),
                    }),
                    ..asks_for(&["default"])
                };
                requests.send(reject).await.unwrap();
            }
            let agent = Arc::clone(&agent);
            let counted = move || rejections(&agent.page("/metrics").unwrap()) >= (round * TIMES) as f64;
            // The connection goes on meanwhile.
            let waited = tokio::task::spawn_blocking(|| watchword_tests::wait_until("all to be counted", counted));
            waited.await.unwrap().unwrap();
        }
        // Each only because its certificate had been replaced.
        versions.dedup();
        assert_eq!(versions.len(), 3);
    });
    let lines = agent.output().text().matches("rejected its secrets").count();
    assert_eq!(lines, 3, "{}", agent.output().text());
}
