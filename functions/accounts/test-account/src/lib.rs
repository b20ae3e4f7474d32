//! `POST /api/accounts/{id}/test`: tries what is stored, and notes what came of it. Fields of the body take the place of
//! stored ones for this try, which then notes nothing; those that signing in does not depend on are as good as none.

use mailbox::tokens::{Tokens, Way};
use mailbox::{Outcome, Settings};
use shared::account::AccountChange;
use shared::db::secrets::Fault;
use shared::http::StatusCode;
use shared::{Error, MailCall, Reply};
use tokio::time::Instant;

/// Answers one request: 200 also when the login fails.
///
/// # Errors
/// [`Error::Invalid`] with every fault of the body, [`Error::Forbidden`] for somebody else's account,
/// [`Error::NotFound`] for none, [`Error::TooManyRequests`] where the server has refused this login less than a minute
/// ago.
pub async fn handler(call: MailCall<Way>) -> Result<Reply, Error> {
    let started = Instant::now();
    let (scope, id) = (call.identity.scope, call.account_id()?);
    let change = match call.request.body.is_empty() {
        true => AccountChange::default(),
        false => AccountChange::read(call.body()?)?,
    };
    let overrides = change.concerns_signing_in();
    let stored = call.db.begin_try(&scope, id, overrides).await?.own(&scope, id)?;
    let secrets = call.keyring.open(&scope, id, &stored.sealed).await?;
    let outcome = if stored.account.auth_type == "oauth2" && change.password.is_none() {
        Tokens::of_call(&call).try_all(&stored.account, secrets.smtp_password, change, started).await?
    } else {
        match Settings::stored(&stored.account, secrets.password, secrets.smtp_password, change) {
            Some(settings) => settings.try_all(&call.network.connector, started).await,
            None => return Reply::json(StatusCode::OK, &Outcome::without_password(&stored.account)),
        }
    };
    if !overrides {
        let (event, tried) = outcome.event();
        let fault =
            tried.and_then(|tried| Some(Fault { code: tried.code?, message: &tried.message, service: tried.service }));
        call.db.record_try(&scope, &stored, event, fault).await?;
    }
    Reply::json(StatusCode::OK, &outcome)
}
