//! `POST /api/messages/batch`: changes up to 200 messages alike, or deletes them, on their mail servers first, and says of each
//! what became of it.

use mailbox::actions::{Action, carry_out};
use mailbox::tokens::Way;
use serde::Serialize;
use shared::error::Fault;
use shared::http::StatusCode;
use shared::message::{BatchIds, MessageChange, MessageId};
use shared::validation::Field;
use shared::{Error, MailCall, Reply};
use tokio::time::Instant;

/// What a body must have beside the ids.
const RULE: &str = "must be true, unless there is set";

/// A body, as the reference has it.
#[cfg(feature = "openapi")]
#[derive(utoipa::ToSchema)]
#[schema(as = Batch)]
pub struct Input {
    /// 1 to 200 different messages.
    #[schema(min_items = 1, max_items = 200)]
    pub ids: Vec<MessageId>,
    /// What is to change.
    #[schema(nullable = false)]
    pub set: Option<MessageChange>,
    /// To the trash with them, or for good with those that are there. Instead of `set`.
    #[schema(nullable = false)]
    pub delete: Option<bool>,
}

/// What became of them.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = BatchResult))]
pub struct Output {
    /// In the order of the ids.
    results: Vec<Outcome>,
}

/// What became of one message.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = BatchOutcome))]
pub struct Outcome {
    /// The message.
    id: MessageId,
    /// Whether it is as it was to be.
    success: bool,
    /// Why not: `notFound`, `conflict`, `rateLimited`, `internal`, or what is the matter with its mail server, as in `lastError`.
    #[cfg_attr(feature = "openapi", schema(required))]
    code: Option<&'static str>,
    /// The same for a person.
    #[cfg_attr(feature = "openapi", schema(required))]
    message: Option<String>,
}

/// Answers one request.
///
/// # Errors
/// [`Error::Invalid`] with every fault of the body, and for a folder that is of no account of these messages.
pub async fn handler(call: MailCall<Way>) -> Result<Reply, Error> {
    let started = Instant::now();
    let mut fields = call.body()?;
    let ids = fields.required::<BatchIds>("ids");
    let set = fields.optional::<MessageChange>("set");
    let is_deletion = fields.optional::<bool>("delete");
    if set.is_some() == (is_deletion == Some(true)) {
        fields.refuse(Fault::new("delete", RULE, bool::fault("delete")));
    }
    fields.finish()?;
    let action = set.map_or(Action::Delete { is_permanent: false }, Action::Change);
    let ids = ids.map(|ids| ids.0).unwrap_or_default();
    let outcomes = carry_out(&call, &ids, action, started).await?;
    let results = ids.into_iter().zip(outcomes).map(|(id, outcome)| told(id, outcome.map(drop))).collect();
    Reply::json(StatusCode::OK, &Output { results })
}

fn told(id: MessageId, outcome: Result<(), Error>) -> Outcome {
    let Err(error) = outcome else { return Outcome { id, success: true, code: None, message: None } };
    let code = match &error {
        Error::MailServer { code, .. } => code,
        Error::NotFound(_) => "notFound",
        Error::Conflict(_) => "conflict",
        Error::TooManyRequests(_) => "rateLimited",
        _ => "internal",
    };
    if let Some(cause) = error.cause() {
        tracing::error!(messageId = %id, error = format!("{cause:#}"), "batch_failed");
    }
    Outcome { id, success: false, code: Some(code), message: Some(error.to_string()) }
}
