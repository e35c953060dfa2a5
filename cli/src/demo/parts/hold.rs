//! One TCP connection that stays, and on which every byte must come back.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{PATIENCE, input_ended};

const PAUSE: Duration = Duration::from_millis(20);
const MESSAGE: usize = 8;

/// How it went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// Messages that came back as they were, in their order.
    pub(crate) messages: u64,
    /// How long the connection was open.
    pub(crate) milliseconds: u64,
    /// What ended it too early.
    pub(crate) broken: Option<String>,
}

/// Talks to the echo at `target` until standard input ends.
pub(crate) async fn run(target: &str) -> Held {
    let began = Instant::now();
    let mut messages = 0;
    let broken = tokio::select! {
        result = talk(target, &mut messages) => Some(match result {
            Ok(never) => match never {},
            Err(error) => format!("{error:#}"),
        }),
        () = input_ended() => None,
    };
    Held {
        messages,
        milliseconds: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        broken,
    }
}

async fn talk(target: &str, messages: &mut u64) -> anyhow::Result<std::convert::Infallible> {
    let mut stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    loop {
        let sent: [u8; MESSAGE] = messages.to_be_bytes();
        let mut heard = [0; MESSAGE];
        let exchange = async {
            stream.write_all(&sent).await?;
            stream.read_exact(&mut heard).await
        };
        tokio::time::timeout(PATIENCE, exchange).await??;
        anyhow::ensure!(sent == heard, "message {messages} came back as something else");
        *messages += 1;
        tokio::time::sleep(PAUSE).await;
    }
}
