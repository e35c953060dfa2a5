//! One wish to stop, seen by all.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Whether the process is to stop. Clones share one state.
#[derive(Clone, Debug)]
pub struct Shutdown {
    wish: watch::Sender<bool>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            wish: watch::Sender::new(false),
        }
    }
}

impl Shutdown {
    /// Stops at SIGTERM or SIGINT. Needs a running tokio runtime.
    ///
    /// # Errors
    /// When the handlers can't be installed.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::default();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let wish = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            wish.request();
        });
        Ok(shutdown)
    }

    /// Asks everybody to stop.
    pub fn request(&self) {
        self.wish.send_replace(true);
    }

    /// Waits for the wish.
    pub async fn requested(&self) {
        let mut wish = self.wish.subscribe();
        // The sender lives in `self`, so this can't fail.
        let _ = wish.wait_for(|wish| *wish).await;
    }
}
