//! What can go wrong with a request, and the one place that says what the client gets to know of it.

use std::borrow::Cow;

use lambda_http::http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use tokio_postgres::error::SqlState;

use crate::quota::Quota;

/// Why a request is refused or fails. One variant per kind of the contract; the texts are for the client, but for
/// the causes of [`Error::Internal`] and [`Error::Unavailable`], which are for the log alone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// 400: the request as a whole cannot be read.
    #[error("{0}")]
    Malformed(String),
    /// 400: some fields or parameters are at fault; all of them are listed.
    #[error("{}", sentences(.0))]
    Invalid(Vec<Fault>),
    /// 401: nobody, or nobody that we believe.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// 403: somebody, but not the one who may.
    #[error("{0}")]
    Forbidden(&'static str),
    /// 404.
    #[error("{0}")]
    NotFound(&'static str),
    /// 405, with the methods that the path has.
    #[error("This path does not have this method. Use one of these: {allow}.")]
    MethodNotAllowed {
        /// The value of `Allow`.
        allow: String,
    },
    /// 409.
    #[error("{0}")]
    Conflict(Cow<'static, str>),
    /// 410: it was there, and is forgotten.
    #[error("{0}")]
    Gone(&'static str),
    /// 409, as it was answered before under the same `Idempotency-Key`.
    #[error("{0}")]
    ReplayedConflict(Cow<'static, str>),
    /// 413, with the most bytes that a body may have.
    #[error("The body is too large. Send at most {limit} bytes.")]
    PayloadTooLarge {
        /// Bytes.
        limit: usize,
    },
    /// 422: what was sent contradicts what was sent before.
    #[error("{0}")]
    Unprocessable(&'static str),
    /// 429, with the limit that was met.
    #[error("Too many requests. Please try again later.")]
    TooManyRequests(Quota),
    /// 500: our fault. The client learns the request id only.
    #[error("Something went wrong on our side. Please try again later, and name the request id if it stays so.")]
    Internal(#[source] anyhow::Error),
    /// 502: a mail host or a provider, and not we.
    #[error("{message}")]
    MailServer {
        /// As in `lastError`.
        code: &'static str,
        /// For a person.
        message: Cow<'static, str>,
    },
    /// 503: it was nobody's fault, and the same request may go well a moment later. The cause is for the log.
    #[error("The service is busy. Please send the request again in a moment.")]
    Unavailable(#[source] anyhow::Error),
}

/// The header of an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// What an answer says that was given before under the same `Idempotency-Key`.
pub(crate) fn replayed_header() -> (HeaderName, HeaderValue) {
    (REPLAYED, HeaderValue::from_static("true"))
}

/// Seconds after which a client may repeat what was [`Error::Unavailable`].
const RETRY_UNAVAILABLE: u64 = 1;

/// What a client learns when it has an account with the address already.
pub const ADDRESS_TAKEN: &str = "You already have an account with this email address. Update or delete that one.";

/// What a client learns when it has `most` accounts, which is as many as a user may have.
pub fn too_many_accounts(most: i32) -> String {
    format!("You have {most} accounts, and a user can have no more. Delete one that you do not need.")
}

/// What a client learns of an account that is unknown, deleted, or no account at all.
pub const NO_SUCH_ACCOUNT: &str = "There is no account with this id. List your accounts to see which there are.";

/// What a client learns of a message that is unknown, another user's, or of a deleted account.
pub const NO_SUCH_MESSAGE: &str = "There is no message with this id. List your messages to see which there are.";

/// What a client learns of an entry of the outbox that is unknown or another user's.
pub const NO_SUCH_ENTRY: &str =
    "There is no message with this id in your outbox. List your outbox to see which there are.";

/// What a client learns of an account that is another user's or tenant's.
pub const NOT_YOURS: &str = "This account belongs to somebody else. List your accounts to see which are yours.";

/// One field or parameter that cannot be accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Fault {
    /// Its name, as the client wrote it; within a list with its place, as in `to[0].address`.
    pub field: Cow<'static, str>,
    /// What it must be, for a person.
    pub message: Cow<'static, str>,
    /// What is wrong as a sentence that names the field; none when the field is missing.
    #[serde(skip)]
    sentence: Option<String>,
}

impl Fault {
    /// A value that is not as `message` says; `sentence` says so on its own.
    pub fn new(field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>, sentence: String) -> Self {
        Self { field: field.into(), message: message.into(), sentence: Some(sentence) }
    }

    /// No value at all.
    pub fn missing(field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), message: message.into(), sentence: None }
    }

    /// The same fault, of a field of the object at `index` in the list `list`.
    pub fn within(self, list: &str, index: usize) -> Self {
        let place = format!("{list}[{index}]");
        Self {
            field: format!("{place}.{}", self.field).into(),
            message: self.message,
            sentence: self.sentence.map(|sentence| format!("{place}: {sentence}")),
        }
    }
}

/// All faults in one text, for clients that show nothing else: what is missing, then what is wrong.
fn sentences(faults: &[Fault]) -> String {
    let missing: Vec<_> = faults.iter().filter(|fault| fault.sentence.is_none()).map(|fault| &*fault.field).collect();
    let missing = (!missing.is_empty()).then(|| format!("Missing required fields: {}", missing.join(", ")));
    let wrong = faults.iter().filter_map(|fault| fault.sentence.clone());
    missing.into_iter().chain(wrong).collect::<Vec<_>>().join("; ")
}

/// Every answer that is no success.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Error))]
#[serde(rename_all = "camelCase")]
pub struct Envelope<'a> {
    /// The kind, for programs.
    pub error: &'static str,
    /// What happened and what to do, for people.
    pub message: String,
    /// As in the `X-Request-Id` header and in the log.
    pub request_id: &'a str,
    /// What is the matter with a mail host or a provider, as in `lastError`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub code: Option<&'static str>,
    /// Every fault of the request, where it was read.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub details: &'a [Fault],
}

impl Error {
    /// Our fault, with its cause for the log.
    pub fn internal(cause: impl Into<anyhow::Error>) -> Self {
        Self::Internal(cause.into())
    }

    /// The status and the kind that a client branches on.
    pub fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Malformed(_) | Self::Invalid(_) => (StatusCode::BAD_REQUEST, "Invalid request"),
            Self::Unauthorized(_) => (StatusCode::UNAUTHORIZED, "Unauthorized"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "Forbidden"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "Not found"),
            Self::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"),
            Self::Conflict(_) | Self::ReplayedConflict(_) => (StatusCode::CONFLICT, "Conflict"),
            Self::Gone(_) => (StatusCode::GONE, "Gone"),
            Self::PayloadTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "Payload too large"),
            Self::Unprocessable(_) => (StatusCode::UNPROCESSABLE_ENTITY, "Unprocessable"),
            Self::TooManyRequests(_) => (StatusCode::TOO_MANY_REQUESTS, "Rate limit exceeded"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "Internal server error"),
            Self::MailServer { .. } => (StatusCode::BAD_GATEWAY, "Mail server error"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "Service unavailable"),
        }
    }

    /// The header that goes with the status, where HTTP asks for one.
    pub fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::Unauthorized(_) => Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            Self::MethodNotAllowed { allow } => Some((header::ALLOW, HeaderValue::from_str(allow).ok()?)),
            Self::ReplayedConflict(_) => Some(replayed_header()),
            Self::TooManyRequests(quota) => Some((header::RETRY_AFTER, HeaderValue::from(quota.reset_after()))),
            Self::Unavailable(_) => Some((header::RETRY_AFTER, HeaderValue::from(RETRY_UNAVAILABLE))),
            _ => None,
        }
    }

    /// What the log is to know beyond the kind.
    pub fn cause(&self) -> Option<&anyhow::Error> {
        match self {
            Self::Internal(cause) | Self::Unavailable(cause) => Some(cause),
            _ => None,
        }
    }

    /// The JSON for the client.
    pub fn envelope<'a>(&'a self, request_id: &'a str) -> Envelope<'a> {
        Envelope {
            error: self.status().1,
            message: self.to_string(),
            request_id,
            code: match self {
                Self::MailServer { code, .. } => Some(code),
                _ => None,
            },
            details: match self {
                Self::Invalid(faults) => faults,
                _ => &[],
            },
        }
    }
}

/// An error of AWS's clients with its causes, which their own `Display` leaves out.
pub(crate) fn describe(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}

/// A violated constraint that stands for a rule of the API is the client's error, found by its name alone; two
/// racing requests end here, too. A transaction that PostgreSQL gave up for another's sake did nothing, and may be tried
/// again; so did a function whose table got a column while it waited for a migration to let go of that, and which finds its
/// result to be another than it was called for. All else is ours.
impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error().map(|error| (error.code(), error.constraint())) {
            Some((&SqlState::UNIQUE_VIOLATION, Some("email_accounts_address_key"))) => {
                Self::Conflict(ADDRESS_TAKEN.into())
            }
            Some((
                &SqlState::T_R_DEADLOCK_DETECTED | &SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::DATATYPE_MISMATCH,
                _,
            )) => Self::Unavailable(error.into()),
            _ => Self::internal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn kinds_are_those_of_the_contract() {
        let table = [
            (Error::Malformed(String::new()), 400, "Invalid request"),
            (Error::Invalid(vec![]), 400, "Invalid request"),
            (Error::Unauthorized(""), 401, "Unauthorized"),
            (Error::Forbidden(""), 403, "Forbidden"),
            (Error::NotFound(""), 404, "Not found"),
            (Error::MethodNotAllowed { allow: "GET".into() }, 405, "Method not allowed"),
            (Error::Conflict("".into()), 409, "Conflict"),
            (Error::Gone(""), 410, "Gone"),
            (Error::ReplayedConflict("".into()), 409, "Conflict"),
            (Error::PayloadTooLarge { limit: 1 }, 413, "Payload too large"),
            (Error::Unprocessable(""), 422, "Unprocessable"),
            (Error::TooManyRequests(Quota::of_refused_login(Duration::ZERO)), 429, "Rate limit exceeded"),
            (Error::internal(anyhow::anyhow!("")), 500, "Internal server error"),
            (Error::MailServer { code: "unavailable", message: "".into() }, 502, "Mail server error"),
            (Error::Unavailable(anyhow::anyhow!("")), 503, "Service unavailable"),
        ];
        for (error, status, kind) in table {
            assert_eq!(error.status(), (StatusCode::from_u16(status).unwrap(), kind));
        }
    }

    #[test]
    fn causes_stay_inside() {
        for error in [Error::Internal, Error::Unavailable] {
            let error = error(anyhow::anyhow!("relation email_accounts does not exist"));
            let json = serde_json::to_string(&error.envelope("r-1")).unwrap();
            assert!(!json.contains("relation") && json.contains("r-1"), "{json}");
        }
    }

    #[test]
    fn who_is_told_to_come_back_learns_when() {
        let retry_after = |error: Error| error.header().map(|(name, value)| (name, value.to_str().unwrap().to_owned()));
        let quota = Quota::of_refused_login(Duration::from_secs(7));
        assert_eq!(retry_after(Error::TooManyRequests(quota)), Some((header::RETRY_AFTER, "7".into())));
        assert_eq!(retry_after(Error::Unavailable(anyhow::anyhow!(""))), Some((header::RETRY_AFTER, "1".into())));
    }
}
