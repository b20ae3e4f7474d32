//! A user who asks the API.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Run;
use crate::demo::send;

/// Looked for in the log, and in answers.
pub(super) const PASSWORD: &str = "a password of the soak run";
/// What a fault may be answered with, and with a 502 where the mail server was asked.
const FAULTY: [u16; 2] = [500, 503];
/// Requests that ask mail servers and providers.
pub(super) const AT_THE_SERVER: [&str; 4] = ["read", "mark", "delete mail", "finish sign-in"];

pub(super) struct Caller {
    pub(super) tenant: Uuid,
    pub(super) user: Uuid,
    pub(super) token: String,
    address: SocketAddr,
    pub(super) run: Arc<Run>,
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Caller {
    pub(super) fn new(tenant: Uuid, address: SocketAddr, key: &str, run: Arc<Run>) -> Result<Self> {
        let user = Uuid::now_v7();
        let expires = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 24 * 60 * 60;
        let claims = json!({ "tenant_id": tenant, "user_id": user, "exp": expires });
        let key = EncodingKey::from_secret(key.as_bytes());
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)?;
        Ok(Self { tenant, user, token, address, run })
    }

    /// Sends a request; notes an answer that is neither expected nor excused by a fault.
    pub(super) async fn ask(
        &self,
        kind: &'static str,
        method: &str,
        path: &str,
        body: Option<&Value>,
        expected: &[u16],
    ) -> Result<Answer> {
        self.ask_with(kind, method, path, body, None, expected).await
    }

    /// The same with an `Idempotency-Key`.
    pub(super) async fn ask_with(
        &self,
        kind: &'static str,
        method: &str,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
        expected: &[u16],
    ) -> Result<Answer> {
        let mut request = hyper::Request::builder().method(method).uri(path).header("Host", self.address.to_string());
        if !self.token.is_empty() {
            request = request.header("Authorization", format!("Bearer {}", self.token));
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let request = request.body(body.map(Value::to_string).unwrap_or_default())?;
        let began = Instant::now();
        let response = send(self.address, request).await?;
        let (status, text) = (response.status().as_u16(), response.into_body());
        self.run.count(kind, status);
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        let faulty = FAULTY.contains(&status) || status == 502 && AT_THE_SERVER.contains(&kind);
        if !(expected.contains(&status) || faulty && self.run.excuses(began)) {
            self.run.differs(format!("{kind}, {path}, is answered with {status}: {text}"));
        }
        if text.to_lowercase().contains("postgres") || text.contains(PASSWORD) {
            self.run.differs(format!("{kind} is answered with what is inside: {text}"));
        }
        Ok(Answer { status, body })
    }
}
