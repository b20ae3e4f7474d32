//! `POST /api/accounts/test`: tries the settings of a create's body, and stores nothing.

use mail::connect::Connector;
use mailbox::Settings;
use shared::account::NewAccount;
use shared::http::StatusCode;
use shared::{Error, NetworkCall, Reply};
use tokio::time::Instant;

/// Answers one request: 200 also when the login fails.
///
/// # Errors
/// [`Error::Invalid`] with every fault of the body.
pub async fn handler(call: NetworkCall<Connector>) -> Result<Reply, Error> {
    let started = Instant::now();
    let settings = Settings::new(NewAccount::read(call.body()?)?);
    Reply::json(StatusCode::OK, &settings.try_all(&call.network, started).await)
}
