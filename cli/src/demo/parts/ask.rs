//! One call of the demo, and what came of it.

use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;
use watchword_proto::shop::{ChargeRequest, PaymentsClient, RefundRequest};

use super::PATIENCE;
use super::shop::Receipt;

const MAX_ANSWER: usize = 64 * 1024;
/// Policy and rule of a denial.
const DENIED: &str = "watchword-denied";

/// What to ask.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How to ask.
    #[arg(value_enum)]
    how: How,
    /// What: `http://HOST:PORT/PATH`.
    url: Uri,
    /// Of a request; for gRPC the method that is called.
    #[arg(long, default_value = "GET")]
    method: String,
}

/// How to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum How {
    /// A line there, and the same line back
    Tcp,
    /// One request of HTTP/1.1
    Http,
    /// One call of gRPC
    Grpc,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub(crate) enum Answer {
    /// The program answered.
    Served {
        /// Who it says that it is.
        service: String,
        /// Whom its sidecar named as the caller; empty where nobody looks.
        caller: String,
        /// The path as the program saw it.
        path: String,
    },
    /// It was answered that this is not allowed.
    Denied {
        /// An HTTP status, or the name of a gRPC status code.
        status: String,
        /// Policy and rule.
        by: String,
    },
    /// Something else came.
    Other {
        /// What.
        said: String,
    },
    /// The connection came to nothing.
    Broken {
        /// As the kernel or the protocol's library says it.
        why: String,
        /// How many bytes came before.
        bytes: usize,
    },
}

/// Makes the call. Whatever comes of it is an answer.
pub(crate) async fn ask(arguments: &Arguments) -> Answer {
    let answer = async {
        match arguments.how {
            How::Tcp => tcp(&arguments.url).await,
            How::Http => http(&arguments.url, &arguments.method).await,
            How::Grpc => grpc(&arguments.url, &arguments.method).await,
        }
    };
    let answered = tokio::time::timeout(PATIENCE, answer).await;
    let late = |_| Answer::Broken {
        why: format!("no answer within {} s", PATIENCE.as_secs()),
        bytes: 0,
    };
    answered
        .unwrap_or_else(|elapsed| Ok(late(elapsed)))
        .unwrap_or_else(|error| Answer::Broken {
            why: format!("{error:#}"),
            bytes: 0,
        })
}

/// HOST:PORT of a URL that has both.
fn authority(url: &Uri) -> anyhow::Result<(&str, u16)> {
    let host = url.host().map(|host| host.trim_matches(['[', ']']));
    host.zip(url.port_u16())
        .ok_or_else(|| anyhow::anyhow!("{url} is not http://HOST:PORT/PATH"))
}

async fn tcp(url: &Uri) -> anyhow::Result<Answer> {
    const LINE: &[u8] = b"hello\n";
    let mut stream = TcpStream::connect(authority(url)?).await?;
    let mut heard = Vec::new();
    let talk = async {
        stream.write_all(LINE).await?;
        stream.shutdown().await?;
        (&mut stream).take(64).read_to_end(&mut heard).await
    };
    Ok(match talk.await {
        Ok(_) if heard == LINE => Answer::Served {
            service: String::new(),
            caller: String::new(),
            path: String::new(),
        },
        Ok(_) => Answer::Other {
            said: String::from_utf8_lossy(&heard).into_owned(),
        },
        Err(error) => Answer::Broken {
            why: error.to_string(),
            bytes: heard.len(),
        },
    })
}

/// A connection for requests to the host of `url`. Its task ends with it.
pub(super) async fn connect(url: &Uri) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(authority(url)?).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// One request on a connection, with its answer in full.
pub(super) async fn send(
    sender: &mut SendRequest<Empty<Bytes>>,
    url: &Uri,
    method: &str,
) -> anyhow::Result<(StatusCode, HeaderMap, Bytes)> {
    let request = Request::builder()
        .method(Method::from_bytes(method.as_bytes())?)
        .uri(url.path())
        .header(
            http::header::HOST,
            url.authority().map_or("", |authority| authority.as_str()),
        )
        .body(Empty::new())?;
    let response = sender.send_request(request).await?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok((head.status, head.headers, body.to_bytes()))
}

async fn http(url: &Uri, method: &str) -> anyhow::Result<Answer> {
    let mut sender = connect(url).await?;
    let (status, headers, body) = send(&mut sender, url, method).await?;
    if let Some(by) = headers.get(DENIED) {
        return Ok(Answer::Denied {
            status: status.as_u16().to_string(),
            by: by.to_str().unwrap_or_default().to_owned(),
        });
    }
    Ok(match serde_json::from_slice::<Receipt>(&body) {
        Ok(receipt) if status.is_success() => Answer::Served {
            service: receipt.service,
            caller: receipt.caller,
            path: receipt.path,
        },
        _ => Answer::Other {
            said: format!("{status}: {}", String::from_utf8_lossy(&body)),
        },
    })
}

async fn grpc(url: &Uri, method: &str) -> anyhow::Result<Answer> {
    let (host, port) = authority(url)?;
    let endpoint = Endpoint::from_shared(format!("http://{host}:{port}"))?.timeout(PATIENCE);
    let mut client = PaymentsClient::new(endpoint.connect_timeout(Duration::from_secs(5)).connect().await?);
    let order = "1".to_owned();
    let answered = match method {
        "Refund" => client
            .refund(RefundRequest { order })
            .await
            .map(|answer| Answer::Served {
                service: answer.into_inner().service,
                caller: String::new(),
                path: String::new(),
            }),
        _ => client.charge(ChargeRequest { order }).await.map(|answer| {
            let answer = answer.into_inner();
            Answer::Served {
                service: answer.service,
                caller: answer.caller,
                path: String::new(),
            }
        }),
    };
    Ok(answered.unwrap_or_else(|status| match status.metadata().get(DENIED) {
        Some(by) => Answer::Denied {
            status: match status.code() {
                tonic::Code::PermissionDenied => "PERMISSION_DENIED".to_owned(),
                other => format!("{other:?}"),
            },
            by: by.to_str().unwrap_or_default().to_owned(),
        },
        None => Answer::Broken {
            why: status.to_string(),
            bytes: 0,
        },
    }))
}
