//! Being logged in: one token that all calls use, renewed and replaced in time.
//!
//! Invariants:
//! - One login at a time, whoever waits for it; a caller that gives up does
//!   not cut it, since an unwrapped secret ID would be lost with it.
//! - A token that Vault refuses leads to one new login. When that does not
//!   help, the next one waits, longer after each.
//! - Files are read again for each login, and a token file whenever it changes.
//!   Other files that change lead to no login of their own.

mod login;
mod token;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use self::login::Login;
pub(super) use self::token::Token;
use self::token::{Life, life};
use super::client::{Call, Client};
use super::error::CallError;
use super::files::{FileState, file_state};
use super::secret::Secret;
use crate::mesh_file::VaultAuth;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Between two renewals, however short the token's life.
const LEAST_BETWEEN_RENEWALS: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    token: Option<Token>,
    last_number: u64,
    failures: u32,
    not_before: Option<Instant>,
    /// The files that the last login was tried with: others don't wait.
    tried: Vec<Option<FileState>>,
    why: String,
    /// Out of its wrapping, which opens only once.
    unwrapped: Option<(FileState, Secret)>,
}

/// Logs in, and keeps the token.
pub(super) struct Session {
    client: Arc<Client>,
    auth: VaultAuth,
    state: Mutex<State>,
    changed: Notify,
}

impl Session {
    pub(super) fn new(client: Arc<Client>, auth: VaultAuth) -> Self {
        Self {
            client,
            auth,
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// A token to call with; `refused` is the number of one that Vault refused.
    pub(super) async fn token(self: &Arc<Self>, refused: Option<u64>) -> Result<Token, CallError> {
        self.other_than(refused, refused.is_some()).await
    }

    async fn other_than(self: &Arc<Self>, number: Option<u64>, was_refused: bool) -> Result<Token, CallError> {
        let session = Arc::clone(self);
        // A task of its own: it is finished even when the caller gives up.
        let task = tokio::spawn(async move { session.current(number, was_refused).await });
        task.await
            .unwrap_or_else(|error| Err(CallError::Unavailable(format!("the login broke off: {error}"))))
    }

    async fn current(&self, unwanted: Option<u64>, was_refused: bool) -> Result<Token, CallError> {
        let mut state = self.state.lock().await;
        let now = Instant::now();
        let usable = state.token.as_ref().filter(|token| {
            Some(token.number) != unwanted
                && token.life.is_none_or(|life| now < life.ends)
                && self.is_from_this_file(token)
        });
        if let Some(token) = usable {
            return Ok(token.clone());
        }
        if let Some(left) = state.not_before.and_then(|at| at.checked_duration_since(now))
            && !left.is_zero()
            && self.files() == state.tried
        {
            let why = format!("{} (the next login is in {:.1} s)", state.why, left.as_secs_f64());
            return Err(CallError::Unavailable(why));
        }
        let old = state.token.clone();
        match self.log_in(&mut state).await {
            Ok(token) => {
                // A refused token that is replaced may be refused again, for want of a right: the next login waits.
                let again = token.file.is_some() && old.is_some_and(|old| old.secret == token.secret);
                note_login(&mut state, !was_refused);
                if again && was_refused {
                    state.token = Some(token);
                    return Err(CallError::Forbidden(
                        "it refuses the token, and the token file holds no other".into(),
                    ));
                }
                tracing::info!(method = self.method(), "logged in to Vault");
                state.token = Some(token.clone());
                self.changed.notify_one();
                Ok(token)
            }
            Err(error) => {
                let why = format!("can't log in to Vault by {}: {error}", self.method());
                tracing::warn!(why, "no login");
                state.why.clone_from(&why);
                note_login(&mut state, false);
                Err(CallError::Unavailable(why))
            }
        }
    }

    /// Vault took the token for what it was meant for: logins work.
    pub(super) async fn worked(&self, number: u64) {
        let mut state = self.state.lock().await;
        if state.failures > 0 && state.token.as_ref().is_some_and(|token| token.number == number) {
            state.failures = 0;
            state.not_before = None;
        }
    }

    fn method(&self) -> &'static str {
        match self.auth {
            VaultAuth::TokenFile(_) => "token file",
            VaultAuth::AppRole { .. } => "AppRole",
            VaultAuth::Kubernetes { .. } => "Kubernetes",
            VaultAuth::Certificate { .. } => "certificate",
        }
    }

    fn is_from_this_file(&self, token: &Token) -> bool {
        match &self.auth {
            // A file that is away for a moment does not take the token away.
            VaultAuth::TokenFile(file) => file_state(file).is_none_or(|state| token.file == Some(state)),
            // What a login needs is read again for the next one: the token is good until then.
            VaultAuth::AppRole { .. } | VaultAuth::Kubernetes { .. } | VaultAuth::Certificate { .. } => true,
        }
    }

    /// Whether there may be a token before the one that is there has ended.
    fn can_log_in_anew(&self) -> bool {
        !matches!(self.auth, VaultAuth::TokenFile(_))
    }

    /// What the next login would be made with: nothing for a file that is away.
    fn files(&self) -> Vec<Option<FileState>> {
        let files: Vec<&Path> = match &self.auth {
            VaultAuth::TokenFile(file) => vec![file],
            VaultAuth::AppRole {
                role_id_file,
                secret_id_file,
                ..
            } => vec![role_id_file, secret_id_file],
            VaultAuth::Kubernetes { token_file, .. } => vec![token_file],
            VaultAuth::Certificate { .. } => self
                .client
                .certificate_file()
                .map(PathBuf::as_path)
                .into_iter()
                .collect(),
        };
        files.into_iter().map(file_state).collect()
    }

    /// Renews the token in time, for ever.
    pub(super) async fn keep(self: Arc<Self>) {
        loop {
            let renew_at = self.state.lock().await.token.as_ref().and_then(|token| token.life);
            let Some(life) = renew_at else {
                self.changed.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(life.renew_at) => {}
                () = self.changed.notified() => continue,
            }
            self.renew().await;
        }
    }

    async fn renew(self: &Arc<Self>) {
        let Some(token) = self.state.lock().await.token.clone() else {
            return;
        };
        let Some(life) = token.life else { return };
        let renewed = if life.renewable {
            self.renewed(&token).await
        } else {
            None
        };
        // Near its maximum life a token is renewed for less and less, and one that can't be renewed just ends.
        let enough = renewed.is_some_and(|new| new.ends.duration_since(Instant::now()) * 2 > life.full);
        if !enough && self.can_log_in_anew() {
            // The old one serves meanwhile; the reason was told.
            let _ = self.other_than(Some(token.number), false).await;
        }
        let mut state = self.state.lock().await;
        let Some(current) = state.token.as_mut().filter(|current| current.number == token.number) else {
            return;
        };
        let now = Instant::now();
        let mut next = renewed.unwrap_or(life);
        if next.ends <= now {
            tracing::error!(
                method = self.method(),
                "Vault's token has ended; the next call logs in again"
            );
            state.token = None;
            return;
        }
        // After a failure, or with a maximum near: again, but not at once.
        let left = next.ends.duration_since(now);
        next.renew_at = next.renew_at.max(now + (left / 4).max(LEAST_BETWEEN_RENEWALS));
        current.life = Some(next);
    }

    async fn renewed(&self, token: &Token) -> Option<Life> {
        let call = Call {
            path: "auth/token/renew-self".into(),
            token: Some(&token.secret),
            body: Some(&Value::Object(serde_json::Map::new())),
            secrets: &[],
        };
        match self.client.call::<Login>(&call).await {
            Ok(login) => {
                tracing::debug!(seconds = login.auth.lease_duration, "renewed the token");
                life(
                    login.auth.lease_duration,
                    login.auth.renewable,
                    token.life.map(|life| life.full),
                )
            }
            Err(error) => {
                tracing::warn!(%error, "Vault's token can't be renewed");
                None
            }
        }
    }
}

fn note_login(state: &mut State, helped: bool) {
    if helped {
        state.failures = 0;
        state.not_before = None;
        return;
    }
    state.failures = state.failures.saturating_add(1);
    let pause = (FIRST_PAUSE * 2_u32.pow(state.failures.saturating_sub(1).min(10))).min(LONGEST_PAUSE);
    state.not_before = Some(Instant::now() + pause.mul_f64(0.5 + fastrand::f64() / 2.0));
    if state.why.is_empty() {
        state.why = "Vault refused a token that was new".into();
    }
}
