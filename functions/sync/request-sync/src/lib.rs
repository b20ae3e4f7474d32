//! `POST /api/accounts/{id}/sync`: asks for a synchronisation at once, whatever the account's plans are.

use serde::Serialize;
use shared::account::AccountId;
use shared::http::StatusCode;
use shared::queue::Queue;
use shared::sync::Status;
use shared::{Call, Error, Reply};

/// What was asked for.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = SyncRequest))]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// The account.
    account_id: AccountId,
    /// Always `queued`.
    status: Status,
    /// When it was first asked for, in milliseconds since the Unix epoch.
    requested_at: i64,
}

/// Answers one request.
///
/// # Errors
/// [`Error::Forbidden`] for somebody else's account, [`Error::NotFound`] for none, [`Error::TooManyRequests`] where the
/// server has refused this login less than a minute ago.
pub async fn handler(call: Call, queue: Queue) -> Result<Reply, Error> {
    let (scope, id) = (call.identity.scope, call.account_id()?);
    let requested = call.db.request_sync(&scope, id).await?.own(&scope, id)?;
    if !requested.is_running {
        queue.ring(scope, id).await;
    }
    let output = Output { account_id: id, status: Status::Queued, requested_at: requested.at };
    Reply::json(StatusCode::ACCEPTED, &output)
}
