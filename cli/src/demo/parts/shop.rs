//! The demo's server: says who it is and whom its sidecar names as the caller.

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use watchword_proto::shop::{ChargeRequest, ChargeResponse, Payments, PaymentsServer, RefundRequest, RefundResponse};

use super::{GRPC_PORT, HTTP_PORT, PATIENCE, TCP_PORT};
use crate::own_mesh;

const MAX_BODY: usize = 64 * 1024;

/// What an HTTP request is answered with, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Receipt {
    /// Who answers.
    pub(super) service: String,
    /// Whom the sidecar names.
    pub(super) caller: String,
    /// As it came.
    pub(super) path: String,
}

/// Serves until it is killed.
pub(super) async fn serve(name: String) -> anyhow::Result<()> {
    let http = own_mesh::listen(HTTP_PORT).await?;
    let echo = own_mesh::listen(TCP_PORT).await?;
    let grpc = TcpIncoming::from(own_mesh::listen(GRPC_PORT).await?);
    let payments = PaymentsServer::new(Shop { name: name.clone() });
    tokio::try_join!(
        accept(http, |stream| answer_requests(stream, name.clone())),
        accept(echo, send_back),
        async {
            Ok(Server::builder()
                .add_service(payments)
                .serve_with_incoming(grpc)
                .await?)
        },
    )?;
    Ok(())
}

async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F) -> anyhow::Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(stream));
    }
}

async fn answer_requests(stream: TcpStream, name: String) {
    let service = service_fn(move |request| answer(request, name.clone()));
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    // A caller that leaves is no trouble.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, service: String) -> Result<Response<Full<Bytes>>, http::Error> {
    let receipt = Receipt {
        service,
        caller: caller(request.headers()),
        path: request.uri().path().to_owned(),
    };
    let heard = Limited::new(request.into_body(), MAX_BODY).collect().await;
    let status = match heard {
        Ok(_) => StatusCode::OK,
        Err(_) => StatusCode::PAYLOAD_TOO_LARGE,
    };
    let body = serde_json::to_vec(&receipt).unwrap_or_default();
    Response::builder().status(status).body(Full::from(body))
}

/// The SPIFFE ID in Envoy's `x-forwarded-client-cert`, which the sidecar writes.
fn caller(headers: &HeaderMap) -> String {
    let value = headers
        .get("x-forwarded-client-cert")
        .and_then(|value| value.to_str().ok());
    let fields = value.into_iter().flat_map(|value| value.split(';'));
    let id = fields.filter_map(|field| field.strip_prefix("URI=")).next();
    id.unwrap_or("nobody").trim_matches('"').to_owned()
}

async fn send_back(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

#[derive(Debug)]
struct Shop {
    name: String,
}

#[tonic::async_trait]
impl Payments for Shop {
    async fn charge(
        &self,
        request: tonic::Request<ChargeRequest>,
    ) -> Result<tonic::Response<ChargeResponse>, tonic::Status> {
        Ok(tonic::Response::new(ChargeResponse {
            service: self.name.clone(),
            caller: caller(&request.metadata().clone().into_headers()),
        }))
    }

    async fn refund(
        &self,
        _request: tonic::Request<RefundRequest>,
    ) -> Result<tonic::Response<RefundResponse>, tonic::Status> {
        Ok(tonic::Response::new(RefundResponse {
            service: self.name.clone(),
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_caller_is_whom_the_sidecar_names() {
        let named = |value: &'static str| {
            caller(&HeaderMap::from_iter([(
                "x-forwarded-client-cert".parse().unwrap(),
                value.parse().unwrap(),
            )]))
        };
        let value = "By=spiffe://a.example/b;Hash=00;URI=spiffe://a.example/web";
        assert_eq!(named(value), "spiffe://a.example/web");
        assert_eq!(named("By=spiffe://a.example/b"), "nobody");
        assert_eq!(caller(&HeaderMap::new()), "nobody");
    }
}
