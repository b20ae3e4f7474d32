//! Synchronising: an account's turn, start to end.
//!
//! The database says what is due and what was done, in batches of one transaction each, so whatever is killed here is
//! gone on with by the next who is rung. [`plan`](self) decides, a driver for each protocol carries it out.

mod imap;
mod message;
mod plan;
mod pop3;
mod suspects;

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::mail::connect::Session;
use ::mail::imap::{Imap, UidSet};
use ::mail::login::{Login, Protocol};
use ::mail::pop3::Pop3;
use shared::account::state::Event;
use shared::account::{AccountChange, AccountId};
use shared::db::Db;
use shared::db::mailboxes::{End, Mailbox, Turn};
use shared::db::secrets::Fault;
use shared::work::mail::MailJob;
use shared::work::{Done, Job, WorkError};

use crate::tokens::{AccessToken, TokenError, Tokens, Way};
use crate::{OAUTH2, Settings};

/// A lease outlasts all that its holder may wait for: a minute of work, a mail host's last answer (15 s), a last
/// statement (6 s), and clocks that differ.
const LEASE: Duration = Duration::from_secs(120);
/// When a large loss is looked at a second time, and how long it must have lasted then.
const SECOND_LOOK: Duration = Duration::from_secs(65);
/// When it goes on where a session broke at a message.
const NEXT_PIECE: Duration = Duration::from_secs(60);
/// See [`SECOND_LOOK`].
const DOUBT_PATIENCE: Duration = Duration::from_secs(60);
/// What may be read in a session. A minute at 100 Mbit/s is 750 MB; a session that is fed more ends.
const SESSION_BYTES: u64 = 1 << 30;
/// When an account has its turn whose mail host has as many connections of ours as it may have: twice that at the most.
const HOST_PAUSE: Duration = Duration::from_secs(20);
/// How long a token may take: longer than a refresh whose worker has died is waited for.
const TOKEN_TIME: Duration = Duration::from_secs(20);
/// Beyond the time to stop: an answer that is on its way.
const GRACE: Duration = Duration::from_secs(15);

/// Each UID that there can be, as a multirange.
const ALL_UIDS: &str = "{[0,4294967296)}";

/// How a session with a server ended that went through all folders.
struct Pass {
    /// Much is missing, which has to be seen again.
    doubt: bool,
    /// The inbox could not be read. Other folders may be such that nobody can.
    failed: bool,
}

/// Why a session ended early.
#[derive(Debug)]
enum Stop {
    /// Somebody else has the account by now.
    Lost,
    /// The time is up.
    Time,
    /// The mail host failed.
    Mail(::mail::Error),
    /// It did while it gave out messages; `grew`: some that were not here.
    Broken { error: ::mail::Error, grew: bool },
    /// The provider gave no token.
    Provider(::mail::Error),
    /// We failed.
    Internal(shared::Error),
}

impl From<::mail::Error> for Stop {
    fn from(error: ::mail::Error) -> Self {
        Self::Mail(error)
    }
}

impl From<shared::Error> for Stop {
    fn from(error: shared::Error) -> Self {
        Self::Internal(error)
    }
}

impl From<TokenError> for Stop {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Provider(error) => Self::Provider(error),
            TokenError::Service(error) => Self::Internal(error),
        }
    }
}

/// Gives an account its turn, if it is its turn.
///
/// # Errors
/// What is our fault. What a mail host does wrong becomes the account's state.
pub async fn run(job: &MailJob<Way>) -> Result<Done, WorkError> {
    let MailJob { job: Job { scope, account_id, .. }, db, .. } = job;
    let Turn::Mine(mailbox) = db.begin_sync(scope, *account_id, LEASE).await? else { return Ok(Done::Complete) };
    let (settings, token) = if mailbox.account.auth_type == "oauth2" {
        match by_token(job, &mailbox, None).await {
            Ok((settings, token)) => (settings, Some(token)),
            Err(stop) => return finish(db, &mailbox, Err(stop)).await,
        }
    } else {
        let secrets = job.keyring.open(scope, *account_id, &mailbox.sealed).await?;
        match Settings::stored(&mailbox.account, secrets.password, None, AccountChange::default()) {
            Some(settings) => (settings, None),
            None => {
                // Nothing can be tried: the account stays as it is, until a password is set.
                let end = End { more: false, complete: false, soon: None, event: Event::Failed, fault: None };
                db.finish_sync(&mailbox, end).await?;
                return Ok(Done::Complete);
            }
        }
    };
    let Some(slot) = job.slots.take(&settings.incoming.host, LEASE).await else {
        // Those who wait for one host do not come back all at once.
        db.postpone_sync(&mailbox.lease, HOST_PAUSE.mul_f64(1.0 + chance(*account_id))).await?;
        return Ok(Done::Complete);
    };
    let mut connection = None;
    let mut outcome = session(job, &mailbox, &settings, &mut connection).await;
    if let (Err(Stop::Mail(error)), Some(token)) = (&outcome, &token)
        && error.code == ::mail::Code::Authentication
        && !token.is_new
    {
        // The provider may have ended the token before its time, or all consent with it.
        outcome = match by_token(job, &mailbox, Some(token)).await {
            Ok((settings, _)) => session(job, &mailbox, &settings, &mut connection).await,
            Err(stop) => Err(stop),
        };
    }
    let leave = async {
        if let Some(connection) = connection {
            connection.sign_out().await;
        }
        job.slots.give_back(slot).await;
    };
    let (done, ()) = tokio::join!(finish(db, &mailbox, outcome), leave);
    done
}

/// What it takes to sign in to an account of a provider. `refused`: a token that the mail host did not take.
async fn by_token(
    job: &MailJob<Way>,
    mailbox: &Mailbox,
    refused: Option<&AccessToken>,
) -> Result<(Settings, AccessToken), Stop> {
    let account = &mailbox.account;
    let deadline = tokio::time::Instant::now() + TOKEN_TIME;
    let token = Tokens::of_job(job).access_token(account, refused, deadline).await?;
    let provider = account.provider.as_deref().and_then(|name| job.network.providers.get(name));
    let provider = provider.ok_or_else(|| ::mail::Error::new(::mail::Code::Unavailable, "the provider is not set up"));
    let provider = provider.map_err(Stop::Provider)?;
    let settings = Settings::with_token(account, token.text.clone(), provider, None, AccountChange::default());
    Ok((settings.map_err(Stop::Provider)?, token))
}

/// Gives the account back, with what came of its turn.
async fn finish(db: &Db, mailbox: &Mailbox, outcome: Result<Pass, Stop>) -> Result<Done, WorkError> {
    let done = End { more: false, complete: false, soon: None, event: Event::SignedIn, fault: None };
    let protocol = mailbox.account.protocol.as_str();
    let (service, error, soon) = match outcome {
        Ok(pass) => {
            let end = End { complete: !pass.failed, soon: pass.doubt.then_some(SECOND_LOOK), ..done };
            db.finish_sync(mailbox, end).await?;
            return Ok(Done::Complete);
        }
        Err(Stop::Time) => {
            db.finish_sync(mailbox, End { more: true, ..done }).await?;
            return Ok(Done::More);
        }
        Err(Stop::Lost) => return Ok(Done::Complete),
        Err(Stop::Broken { error, grew: true }) => {
            tracing::info!(accountId = %mailbox.account.id, detail = error.detail, "sync_broken");
            db.finish_sync(mailbox, End { more: true, ..done }).await?;
            return Ok(Done::More);
        }
        Err(Stop::Internal(error)) => return Err(error.into()),
        Err(Stop::Broken { error, grew: false }) => (protocol, error, Some(NEXT_PIECE)),
        Err(Stop::Mail(error)) => (protocol, error, None),
        Err(Stop::Provider(error)) => (OAUTH2, error, None),
    };
    let code = error.code.as_str();
    tracing::info!(accountId = %mailbox.account.id, service, code, detail = error.detail, "sync_failed");
    let event = match error.code {
        ::mail::Code::Authentication | ::mail::Code::ConsentRevoked => Event::Refused,
        _ => Event::Failed,
    };
    let fault = Fault { code, message: &error.message, service };
    db.finish_sync(mailbox, End { event, fault: Some(fault), soon, ..done }).await?;
    Ok(Done::Complete)
}

/// From 0 to 1, another for each account.
fn chance(account: AccountId) -> f64 {
    f64::from(account.0.as_bytes()[15]) / 255.0
}

/// Somebody who has signed in, and is done.
enum Connection {
    Pop3(Pop3),
    Imap(Imap),
}

impl Connection {
    async fn sign_out(self) {
        match self {
            Self::Pop3(pop3) => pop3.sign_out().await,
            Self::Imap(imap) => imap.sign_out().await,
        }
    }
}

/// Signs in and synchronises; where that went well, somebody is left to sign out.
async fn session(
    job: &MailJob<Way>,
    mailbox: &Mailbox,
    settings: &Settings,
    connection: &mut Option<Connection>,
) -> Result<Pass, Stop> {
    let (db, stop_at) = (&job.db, job.job.stop_at);
    let server = &settings.incoming;
    let session = Session { deadline: (stop_at + GRACE).into(), bytes: SESSION_BYTES };
    let login = Login::new(&settings.username, settings.proof.secret())?;
    let stream = job.network.connector.connect(&server.host, server.port, server.security, session).await?;
    match server.protocol {
        Protocol::Pop3 | Protocol::Smtp => {
            let mut pop3 = Pop3::sign_in(stream, server.security, &login).await?;
            let pass = pop3::Driver { db, mailbox, stop_at }.run(&mut pop3).await?;
            *connection = Some(Connection::Pop3(pop3));
            Ok(pass)
        }
        Protocol::Imap => {
            let mut imap = Imap::sign_in(stream, server.security, &login).await?;
            let features = imap.features().await?;
            let pass = imap::Driver { db, mailbox, features, stop_at, labels: HashMap::new() }.run(&mut imap).await?;
            *connection = Some(Connection::Imap(imap));
            Ok(pass)
        }
    }
}

/// Milliseconds since the Unix epoch.
fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// As PostgreSQL writes them: `{[1,5],[7,7]}`.
fn multirange(uids: &UidSet) -> String {
    let ranges: Vec<String> = uids.ranges().map(|range| format!("[{},{}]", range.start(), range.end())).collect();
    format!("{{{}}}", ranges.join(","))
}

/// As PostgreSQL writes them: `{[1,6),[7,8)}`. What is no UID is left out.
fn uid_set(multirange: &str) -> UidSet {
    let inside = multirange.trim_matches(['{', '}', '[', ')']);
    let ranges = inside.split("),[").filter_map(|range| {
        let (first, end) = range.split_once(',')?;
        let (first, end) = (first.parse::<u32>().ok()?, end.parse::<u64>().ok()?);
        Some(first..=u32::try_from(end.checked_sub(1)?).ok()?)
    });
    ranges.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_uids_are_postgresqls_multiranges() {
        for (uids, written, read) in [
            ("1:5,7", "{[1,5],[7,7]}", "{[1,6),[7,8)}"),
            ("4294967295", "{[4294967295,4294967295]}", "{[4294967295,4294967296)}"),
        ] {
            let uids: UidSet = uids.parse().unwrap();
            assert_eq!(multirange(&uids), written);
            assert_eq!(uid_set(read), uids);
        }
        assert_eq!(multirange(&UidSet::new()), "{}");
        assert_eq!(uid_set("{}"), UidSet::new());
    }
}
