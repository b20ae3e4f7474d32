//! What a handler receives, and what it returns.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use lambda_http::http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::Value;

use crate::account::AccountId;
use crate::composition::MAX_COMPOSITION_BYTES;
use crate::cors::Cors;
use crate::db::Db;
use crate::draft::{DraftId, NO_SUCH_DRAFT};
use crate::error::{Error, NO_SUCH_ACCOUNT, NO_SUCH_ENTRY, NO_SUCH_MESSAGE, replayed_header};
use crate::event::Request;
use crate::identity::Identity;
use crate::keyring::{Clients, Keyring};
use crate::message::MessageId;
use crate::objects::ObjectStore;
use crate::outbox::OutgoingId;
use crate::queue::Queue;
use crate::redis_link::RedisLink;
use crate::sealing::PublicKey;
use crate::validation::Fields;

/// The most bytes that an answer may have: Lambda takes 6 MB, in base64 and with the headers.
pub const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// JSON that is longer goes as bytes: as a text within JSON, a quote in it takes as many as four.
const MAX_TEXT_BYTES: usize = 1024 * 1024;

/// The most bytes that a body may have.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// A request of an identified caller who is within the limit.
pub struct Call {
    /// Who calls.
    pub identity: Identity,
    /// What was asked.
    pub request: Request,
    /// The way to the caller's rows.
    pub db: Db,
    /// How many enabled accounts a user can have.
    pub accounts_per_user: i32,
}

/// A request of an identified caller, to be answered with what mail hosts say. It has no way to PostgreSQL: what a
/// stranger's server sends is read where there is nothing to take.
pub struct NetworkCall<N> {
    /// Who calls.
    pub identity: Identity,
    /// What was asked.
    pub request: Request,
    /// The way to mail hosts.
    pub network: N,
}

impl<N> NetworkCall<N> {
    /// The body's fields.
    ///
    /// # Errors
    /// See [`body`].
    pub fn body(&self) -> Result<Fields, Error> {
        body(&self.request)
    }
}

/// A request of an identified caller, to be answered by signing in to one of the caller's accounts.
pub struct MailCall<N> {
    /// Who calls.
    pub identity: Identity,
    /// What was asked.
    pub request: Request,
    /// The way to the caller's rows, as the role that may read sealed secrets.
    pub db: Db,
    /// What opens them.
    pub keyring: Keyring,
    /// What seals them.
    pub seal_with: Arc<PublicKey>,
    /// Who we are at providers.
    pub clients: Clients,
    /// The way to mail hosts.
    pub network: N,
}

/// A request of an identified caller that ends a sign-in with a provider: it asks the provider for tokens, and stores them
/// as the role that may not read them.
pub struct SignInCall<N> {
    /// As of any endpoint.
    pub call: Call,
    /// What seals the tokens.
    pub seal_with: Arc<PublicKey>,
    /// Who we are at providers.
    pub clients: Clients,
    /// The way to providers.
    pub network: N,
}

impl<N> MailCall<N> {
    /// The body's fields.
    ///
    /// # Errors
    /// See [`body`].
    pub fn body(&self) -> Result<Fields, Error> {
        body(&self.request)
    }

    /// The account that the path names.
    ///
    /// # Errors
    /// See [`account_id`].
    pub fn account_id(&self) -> Result<AccountId, Error> {
        account_id(&self.request)
    }

    /// The message that the path names.
    ///
    /// # Errors
    /// See [`message_id`].
    pub fn message_id(&self) -> Result<MessageId, Error> {
        message_id(&self.request)
    }
}

/// A request of anybody: no scope, and no way to a tenant's rows.
pub struct PublicCall {
    /// What was asked.
    pub request: Request,
    /// Which origins may read the answer.
    pub cors: Arc<Cors>,
}

/// A request of anybody for the state of what we depend on.
pub struct ReadinessCall {
    /// The request's id, for the answer.
    pub request_id: String,
    /// PostgreSQL; without a scope it shows no row.
    pub db: Db,
    /// Redis.
    pub redis: RedisLink,
    /// Where workers are rung: those who synchronise, and those who send.
    pub queues: [Queue; 2],
    /// What is kept of messages, and what goes along with them.
    pub objects: Option<ObjectStore>,
}

impl Call {
    /// The body's fields.
    ///
    /// # Errors
    /// See [`body`].
    pub fn body(&self) -> Result<Fields, Error> {
        body(&self.request)
    }

    /// The fields of a body that may have what a user writes in it.
    ///
    /// # Errors
    /// See [`body`].
    pub fn composition_body(&self) -> Result<Fields, Error> {
        body_within(&self.request, MAX_COMPOSITION_BYTES)
    }

    /// The draft that the path names.
    ///
    /// # Errors
    /// [`Error::NotFound`] for what is no id.
    pub fn draft_id(&self) -> Result<DraftId, Error> {
        let id = self.request.path_parameters.get("id");
        id.and_then(DraftId::parse).ok_or(Error::NotFound(NO_SUCH_DRAFT))
    }

    /// The account that the path names.
    ///
    /// # Errors
    /// See [`account_id`].
    pub fn account_id(&self) -> Result<AccountId, Error> {
        account_id(&self.request)
    }

    /// The entry of the outbox that the path names.
    ///
    /// # Errors
    /// What is no id names none: [`Error::NotFound`].
    pub fn outgoing_id(&self) -> Result<OutgoingId, Error> {
        let id = self.request.path_parameters.get("id");
        id.and_then(OutgoingId::parse).ok_or(Error::NotFound(NO_SUCH_ENTRY))
    }
}

/// What a client learns of a body that is JSON, but no object.
pub const NO_OBJECT: &str = "The body is no JSON object. Send the fields between braces, such as {\"port\": 993}.";

/// The fields of a request's body.
///
/// # Errors
/// It is too large, is declared as something other than JSON, or is no JSON object.
pub fn body(request: &Request) -> Result<Fields, Error> {
    body_within(request, MAX_BODY_BYTES)
}

/// As [`body`], of at most `limit` bytes.
///
/// # Errors
/// See [`body`].
pub fn body_within(request: &Request, limit: usize) -> Result<Fields, Error> {
    if request.body.len() > limit {
        return Err(Error::PayloadTooLarge { limit });
    }
    if !request.header("content-type").is_none_or(is_json) {
        return Err(Error::Malformed("Send the body as JSON, with Content-Type: application/json.".into()));
    }
    if request.body.is_empty() {
        return Err(Error::Malformed("The body is empty. Send a JSON object, such as {}.".into()));
    }
    // Into a `Value`, the parser reports positions and never quotes the input.
    match serde_json::from_slice(&request.body) {
        Ok(Value::Object(object)) => Ok(Fields::new(object)),
        Ok(_) => Err(Error::Malformed(NO_OBJECT.into())),
        Err(error) => Err(Error::Malformed(format!("The body is not valid JSON: {error}. Correct it there."))),
    }
}

/// The account that a request's path names.
///
/// # Errors
/// What is no id names no account: [`Error::NotFound`]. `/api/accounts/test` is a path of its own, with one method; others
/// are routed to those of an account, and are [`Error::MethodNotAllowed`].
pub fn account_id(request: &Request) -> Result<AccountId, Error> {
    let id = request.path_parameters.get("id");
    if id.is_some_and(|id| id == "test") && request.route.ends_with("/{id}") {
        return Err(Error::MethodNotAllowed { allow: "POST, OPTIONS".into() });
    }
    id.and_then(AccountId::parse).ok_or(Error::NotFound(NO_SUCH_ACCOUNT))
}

/// The message that a request's path names.
///
/// # Errors
/// What is no id names no message: [`Error::NotFound`]. `/api/messages/batch` is a path of its own, with one method; others
/// are routed to those of a message, and are [`Error::MethodNotAllowed`].
pub fn message_id(request: &Request) -> Result<MessageId, Error> {
    let id = request.path_parameters.get("id");
    if id.is_some_and(|id| id == "batch") && request.route.ends_with("/{id}") {
        return Err(Error::MethodNotAllowed { allow: "POST, OPTIONS".into() });
    }
    id.and_then(MessageId::parse).ok_or(Error::NotFound(NO_SUCH_MESSAGE))
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// A handler's answer.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: StatusCode,
    /// Headers beside those that every answer has. One of the same name takes the other's place.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// JSON unless the headers say otherwise, or empty.
    pub body: String,
    /// Whether the body is in base64: what is no text, such as something compressed, must be.
    pub is_base64_encoded: bool,
}

impl Reply {
    /// Answers with JSON.
    ///
    /// # Errors
    /// The value has no JSON form, which no type of ours lacks.
    pub fn json(status: StatusCode, body: &impl Serialize) -> Result<Self, Error> {
        Ok(Self::json_text(status, serde_json::to_string(body).map_err(Error::internal)?))
    }

    /// Answers with a text that is JSON.
    pub fn json_text(status: StatusCode, body: String) -> Self {
        if body.len() > MAX_TEXT_BYTES {
            return Self::bytes(status, Vec::new(), body.as_bytes());
        }
        Self::text(status, Vec::new(), body)
    }

    /// Answers with bytes, of the type that the headers say; at most [`MAX_ANSWER_BYTES`].
    pub fn bytes(status: StatusCode, headers: Vec<(HeaderName, HeaderValue)>, bytes: &[u8]) -> Self {
        Self { status, headers, body: BASE64.encode(bytes), is_base64_encoded: true }
    }

    /// Leads to a link.
    ///
    /// # Errors
    /// The link is no header value.
    pub fn see_other(link: &str) -> Result<Self, Error> {
        let reply = Self::text(StatusCode::SEE_OTHER, Vec::new(), String::new());
        reply.with_location(link)
    }

    /// Answers with text, of the type that the headers say.
    pub fn text(status: StatusCode, headers: Vec<(HeaderName, HeaderValue)>, body: String) -> Self {
        Self { status, headers, body, is_base64_encoded: false }
    }

    /// Says so where the answer was given before, to a request with the same `Idempotency-Key`.
    #[must_use]
    pub fn replayed(mut self, is_replayed: bool) -> Self {
        self.headers.extend(is_replayed.then(replayed_header));
        self
    }

    /// Says where the thing that was made is.
    ///
    /// # Errors
    /// The path is no header value.
    pub fn with_location(mut self, path: &str) -> Result<Self, Error> {
        self.headers.push((header::LOCATION, HeaderValue::from_str(path).map_err(Error::internal)?));
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_goes_by_several_names() {
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"] {
            assert!(is_json(good), "{good}");
        }
        for bad in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "text/x+json", "json", ";"]
        {
            assert!(!is_json(bad), "{bad}");
        }
    }
}
