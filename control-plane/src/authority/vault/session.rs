//! Being logged in: one token that all calls use, renewed and replaced in time.
//!
//! Invariants:
//! - One login at a time, whoever waits for it; a caller that gives up does
//!   not cut it, since an unwrapped secret ID would be lost with it.
//! - A token that Vault refuses leads to one new login. When that does not
//!   help, the next one waits, longer after each.
//! - Files are read again for each login, and a token file whenever it changes.
//!   Other files that change lead to no login of their own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use super::client::{Call, Client};
use super::error::CallError;
use super::files::{FileState, file_state, read_secret};
use super::secret::Secret;
use crate::mesh_file::VaultAuth;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Between two renewals, however short the token's life.
const LEAST_BETWEEN_RENEWALS: Duration = Duration::from_secs(1);

/// A token, with a number by which callers say which one was refused.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) secret: Secret,
    pub(super) number: u64,
    life: Option<Life>,
    file: Option<FileState>,
}

/// Of a token that ends.
#[derive(Clone, Copy)]
struct Life {
    ends: Instant,
    renew_at: Instant,
    /// At first; a renewal that gives less than half of it nears the maximum.
    full: Duration,
    renewable: bool,
}

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

#[derive(Deserialize)]
struct Login {
    auth: LoginAuth,
}

#[derive(Deserialize)]
struct LoginAuth {
    client_token: Secret,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

#[derive(Deserialize)]
struct Lookup {
    data: LookupData,
}

#[derive(Deserialize)]
struct LookupData {
    #[serde(default)]
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

#[derive(Deserialize)]
struct Unwrapped {
    data: UnwrappedData,
}

#[derive(Deserialize)]
struct UnwrappedData {
    secret_id: Secret,
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

    async fn log_in(&self, state: &mut State) -> Result<Token, CallError> {
        state.tried = self.files();
        state.last_number += 1;
        let number = state.last_number;
        match &self.auth {
            VaultAuth::TokenFile(file) => self.take_token(file, number).await,
            VaultAuth::AppRole {
                mount,
                role_id_file,
                secret_id_file,
                secret_id_wrapped,
            } => {
                let role_id = read_secret(role_id_file)?.1;
                let secret_id = if *secret_id_wrapped {
                    self.unwrap(secret_id_file, state).await?
                } else {
                    read_secret(secret_id_file)?.1
                };
                let body = json!({"role_id": role_id.expose(), "secret_id": secret_id.expose()});
                self.post(mount, &body, &[&role_id, &secret_id], number).await
            }
            VaultAuth::Kubernetes {
                mount,
                role,
                token_file,
            } => {
                let jwt = read_secret(token_file)?.1;
                let body = json!({"role": role, "jwt": jwt.expose()});
                let login = self.post(mount, &body, &[&jwt], number).await;
                login.map_err(|error| explained(error, || kubernetes_hint(mount, role, token_file)))
            }
            VaultAuth::Certificate { mount, role } => {
                let body = role.as_ref().map_or_else(|| json!({}), |role| json!({"name": role}));
                let login = self.post(mount, &body, &[], number).await;
                login.map_err(|error| explained(error, || self.certificate_hint(mount, role.as_deref())))
            }
        }
    }

    async fn post(&self, mount: &str, body: &Value, secrets: &[&Secret], number: u64) -> Result<Token, CallError> {
        let call = Call {
            path: format!("auth/{mount}/login"),
            token: None,
            body: Some(body),
            secrets,
        };
        let login: Login = self.client.call(&call).await?;
        Ok(logged_in(login.auth, number))
    }

    fn certificate_hint(&self, mount: &str, role: Option<&str>) -> String {
        let file = self.client.certificate_file().map(|file| file.display().to_string());
        let role = role.map_or_else(|| "a role".to_owned(), |role| format!("the role `{role}`"));
        format!(
            "does {role} of auth/{mount} trust the certificate in {}, and has that not expired?",
            file.unwrap_or_default()
        )
    }

    /// The secret ID out of its wrapping; once per content of the file.
    async fn unwrap(&self, file: &Path, state: &mut State) -> Result<Secret, CallError> {
        let (file_state, wrapping) = read_secret(file)?;
        if let Some((of, secret)) = &state.unwrapped
            && *of == file_state
        {
            return Ok(secret.clone());
        }
        let call = Call {
            path: "sys/wrapping/unwrap".into(),
            token: Some(&wrapping),
            body: Some(&json!({})),
            secrets: &[],
        };
        let unwrapped: Unwrapped = self.client.call(&call).await.map_err(|error| match error {
            CallError::Unavailable(_) => error,
            error => CallError::Unavailable(format!(
                "the wrapped secret ID in {} can't be unwrapped; if nobody of ours has done so, somebody else knows it: \
                 revoke it and put a new one there ({error})",
                file.display()
            )),
        })?;
        let secret = unwrapped.data.secret_id;
        state.unwrapped = Some((file_state, secret.clone()));
        Ok(secret)
    }

    async fn take_token(&self, file: &Path, number: u64) -> Result<Token, CallError> {
        let (file_state, secret) = read_secret(file)?;
        let call = Call {
            path: "auth/token/lookup-self".into(),
            token: Some(&secret),
            body: None,
            secrets: &[],
        };
        let life = match self.client.call::<Lookup>(&call).await {
            Ok(found) => life(found.data.ttl, found.data.renewable, None),
            // A token may be good for signing without being allowed to look at itself.
            Err(CallError::Forbidden(_) | CallError::Refused { .. }) => {
                tracing::warn!("the token can't be looked up, so it is not renewed");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Token {
            secret,
            number,
            life,
            file: Some(file_state),
        })
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

/// With what to look at, when Vault understood and refused.
fn explained(error: CallError, hint: impl FnOnce() -> String) -> CallError {
    match error {
        CallError::Unavailable(_) => error,
        CallError::Forbidden(text) => CallError::Forbidden(format!("{text}; {}", hint())),
        CallError::Refused { status, text } => CallError::Refused {
            status,
            text: format!("{text}; {}", hint()),
        },
    }
}

fn kubernetes_hint(mount: &str, role: &str, token_file: &Path) -> String {
    format!(
        "is the token in {} of a service account, namespace and audience that the role `{role}` of auth/{mount} is \
         bound to, and may Vault have it reviewed by Kubernetes?",
        token_file.display()
    )
}

fn logged_in(auth: LoginAuth, number: u64) -> Token {
    Token {
        life: life(auth.lease_duration, auth.renewable, None),
        secret: auth.client_token,
        number,
        file: None,
    }
}

/// Of a lease of so many seconds; 0 is one that does not end.
fn life(seconds: u64, renewable: bool, full: Option<Duration>) -> Option<Life> {
    let lease = Duration::from_secs(seconds.min(10 * 365 * 24 * 3600));
    (!lease.is_zero()).then(|| Life {
        ends: Instant::now() + lease,
        renew_at: Instant::now() + lease.mul_f64(0.5 + fastrand::f64() / 10.0),
        full: full.unwrap_or(lease),
        renewable,
    })
}
