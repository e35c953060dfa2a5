//! Logging in, by the way that the mesh file names.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::token::{Token, life};
use super::{Session, State};
use crate::authority::vault::client::Call;
use crate::authority::vault::error::CallError;
use crate::authority::vault::files::read_secret;
use crate::authority::vault::secret::Secret;
use crate::mesh_file::VaultAuth;

#[derive(Deserialize)]
pub(super) struct Login {
    pub(super) auth: LoginAuth,
}

#[derive(Deserialize)]
pub(super) struct LoginAuth {
    client_token: Secret,
    #[serde(default)]
    pub(super) lease_duration: u64,
    #[serde(default)]
    pub(super) renewable: bool,
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
    pub(super) async fn log_in(&self, state: &mut State) -> Result<Token, CallError> {
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
