//! Visiting a mailbox for a caller who waits.
//!
//! Visits take none of the slots of a mail host, which are for workers: those can come later, and a caller who waits
//! cannot. How many visits there are is what users ask for, each within the rate limit.

use std::time::Duration;

use mail::connect::Session;
use mail::message::Raw;
use shared::account::state::{Event, State};
use shared::db::secrets::{Fault, Stored};
use shared::db::visits::{Located, Place, Whereabouts};
use shared::{Error, MailCall};
use tokio::time::Instant;

use crate::sync::pop3_identity;
use crate::tokens::{Key, TokenError, Tokens, Way};
use crate::{Host, OAUTH2, Outcome};

/// How long a visit may take in all. API Gateway waits for 29 s, and the function's start, its statements and the answer
/// have the rest.
pub const TIME: Duration = Duration::from_secs(20);
/// How much of it a provider may take for its token.
const TOKEN_TIME: Duration = Duration::from_secs(8);

/// Signs in to an account's mailbox. `started` is when the request came; `bytes` may be read from the network in all.
///
/// A refused login moves the account's state, and so does one that goes well where the account was in another than
/// `connected`; what else goes wrong is the caller's answer and nothing more.
///
/// # Errors
/// [`Error::TooManyRequests`] where the server has refused the login less than a minute ago, [`Error::MailServer`] for what
/// is the mail host's or the provider's doing.
pub async fn begin(call: &MailCall<Way>, stored: &Stored, started: Instant, bytes: u64) -> Result<Host, Error> {
    stored.check_turn()?;
    let (scope, account) = (&call.identity.scope, &stored.account);
    let session = Session { deadline: started + TIME, bytes };
    let (service, error) = match sign_in(call, stored, started, session).await {
        Ok(host) => {
            if account.state != State::Connected {
                call.db.record_try(scope, stored, Event::SignedIn, None).await?;
            }
            return Ok(host);
        }
        Err(Failure::Internal(error)) => return Err(error),
        Err(Failure::Missing) => {
            let missing = Outcome::without_password(account).incoming;
            let code = missing.code.unwrap_or_default();
            return Err(Error::MailServer { code, message: missing.message.into() });
        }
        Err(Failure::Mail(error)) => (account.protocol.as_str(), error),
        Err(Failure::Provider(error)) => (OAUTH2, error),
    };
    if matches!(error.code, mail::Code::Authentication | mail::Code::ConsentRevoked) {
        let fault = Fault { code: error.code.as_str(), message: &error.message, service };
        call.db.record_try(scope, stored, Event::Refused, Some(fault)).await?;
    }
    Err(failure(service, error))
}

/// Why nobody has signed in.
enum Failure {
    /// There is no password.
    Missing,
    Mail(mail::Error),
    Provider(mail::Error),
    Internal(Error),
}

impl From<TokenError> for Failure {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Provider(error) => Self::Provider(error),
            TokenError::Service(error) => Self::Internal(error),
        }
    }
}

async fn sign_in(call: &MailCall<Way>, stored: &Stored, started: Instant, session: Session) -> Result<Host, Failure> {
    let (tokens, connector) = (Tokens::of_call(call), &call.network.connector);
    let (account, deadline) = (&stored.account, started + TOKEN_TIME);
    let key = Key::new(&tokens, account, &stored.sealed, deadline).await?.ok_or(Failure::Missing)?;
    let refused = match key.settings.sign_in(connector, session).await {
        Err(error) if error.code == mail::Code::Authentication => error,
        outcome => return outcome.map_err(Failure::Mail),
    };
    match key.renewed(&tokens, account, deadline).await? {
        Some(key) => key.settings.sign_in(connector, session).await.map_err(Failure::Mail),
        None => Err(Failure::Mail(refused)),
    }
}

/// What a caller learns of a mail host that failed. `service` is as `lastError` has it.
pub fn failure(service: &str, error: mail::Error) -> Error {
    let code = error.code.as_str();
    tracing::info!(service, code, detail = error.detail, "visit_failed");
    Error::MailServer { code, message: error.message.into() }
}

/// Where a message is. Where the settings name another mailbox by now, what is here has no place there.
pub fn place_of<'a>(located: &'a Located, message: &Whereabouts) -> Option<(&'a Place, u32, u32)> {
    let folder = located.folder(message.folder_id)?;
    Some((folder, folder.uid_validity?, message.uid?))
}

/// A message as it was sent, of `limit` bytes at most; `None` where it is not there any more, or not where it was.
///
/// # Errors
/// [`Error::MailServer`] where the mail host fails.
pub async fn fetch_raw(
    host: &mut Host,
    located: &Located,
    message: &Whereabouts,
    limit: usize,
) -> Result<Option<Raw>, Error> {
    let service = located.stored.account.protocol.as_str();
    let Some((folder, uid_validity, uid)) = place_of(located, message) else { return Ok(None) };
    let raw = match host {
        Host::Imap(imap, features) => imap.fetch_raw(features, &folder.wire_name, uid_validity, uid, limit).await,
        Host::Pop3(pop3) => {
            async {
                let listed = pop3.uids().await?;
                match listed.iter().find(|listed| pop3_identity(&listed.uid) == message.identity) {
                    Some(listed) => pop3.retrieve(listed.number, limit).await.map(Some),
                    None => Ok(None),
                }
            }
            .await
        }
    };
    raw.map_err(|error| failure(service, error))
}
