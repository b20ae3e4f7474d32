//! Synchronising: an account's turn, start to end.
//!
//! The database says what is due and what was done, in batches of one transaction each, so whatever is killed here is
//! gone on with by the next who is rung. [`plan`](self) decides, a driver for each protocol carries it out.

mod imap;
mod message;
mod plan;
mod pop3;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ::mail::connect::{Connector, Session};
use ::mail::imap::{Imap, UidSet};
use ::mail::login::{Login, Protocol, Secret};
use ::mail::pop3::Pop3;
use shared::account::state::Event;
use shared::account::{AccountChange, AccountId};
use shared::credential::Password;
use shared::db::Db;
use shared::db::mailboxes::{End, Mailbox, Turn};
use shared::db::secrets::Fault;
use shared::identity::Scope;
use shared::keyring::Keyring;
use shared::work::{Done, WorkError};
use zeroize::Zeroizing;

use crate::Settings;

/// A lease outlasts all that its holder may wait for: a minute of work, a mail host's last answer (15 s), a last
/// statement (6 s), and clocks that differ.
const LEASE: Duration = Duration::from_secs(120);
/// When a large loss is looked at a second time, and how long it must have lasted then.
const SECOND_LOOK: Duration = Duration::from_secs(65);
/// See [`SECOND_LOOK`].
const DOUBT_PATIENCE: Duration = Duration::from_secs(60);
/// What may be read in a session. A minute at 100 Mbit/s is 750 MB; a session that is fed more ends.
const SESSION_BYTES: u64 = 1 << 30;
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

/// Gives an account its turn, if it is its turn, until `stop_at`.
///
/// # Errors
/// What is our fault. What a mail host does wrong becomes the account's state.
pub async fn run(
    db: &Db,
    keyring: &Keyring,
    connector: &Connector,
    scope: &Scope,
    account: AccountId,
    stop_at: Instant,
) -> Result<Done, WorkError> {
    let Turn::Mine(mailbox) = db.begin_sync(scope, account, LEASE).await? else { return Ok(Done::Complete) };
    let secrets = keyring.open(scope, account, &mailbox.sealed).await?;
    synchronise(db, connector, &mailbox, secrets.password, stop_at).await
}

/// Synchronises an account that is leased, and gives it back.
async fn synchronise(
    db: &Db,
    connector: &Connector,
    mailbox: &Mailbox,
    password: Option<Password>,
    stop_at: Instant,
) -> Result<Done, WorkError> {
    let Some(settings) = Settings::stored(&mailbox.account, password, None, AccountChange::default()) else {
        // Nothing can be tried: the account stays as it is, until a password is set.
        let end = End { more: false, complete: false, soon: None, event: Event::Failed, fault: None };
        db.finish_sync(mailbox, end).await?;
        return Ok(Done::Complete);
    };
    let end = match session(db, connector, mailbox, &settings, stop_at).await {
        Ok(pass) => End {
            more: false,
            complete: !pass.failed,
            soon: pass.doubt.then_some(SECOND_LOOK),
            event: Event::SignedIn,
            fault: None,
        },
        Err(Stop::Time) => End { more: true, complete: false, soon: None, event: Event::SignedIn, fault: None },
        Err(Stop::Lost) => return Ok(Done::Complete),
        Err(Stop::Internal(error)) => return Err(error.into()),
        Err(Stop::Mail(error)) => {
            let service = mailbox.account.protocol.as_str();
            tracing::info!(accountId = %mailbox.account.id, service, code = error.code.as_str(), detail = error.detail, "sync_failed");
            let event = match error.code {
                ::mail::Code::Authentication | ::mail::Code::ConsentRevoked => Event::Refused,
                _ => Event::Failed,
            };
            let fault = Fault { code: error.code.as_str(), message: &error.message, service };
            db.finish_sync(mailbox, End { more: false, complete: false, soon: None, event, fault: Some(fault) })
                .await?;
            return Ok(Done::Complete);
        }
    };
    db.finish_sync(mailbox, end).await?;
    Ok(if end.more { Done::More } else { Done::Complete })
}

/// Signs in, synchronises, and signs out.
async fn session(
    db: &Db,
    connector: &Connector,
    mailbox: &Mailbox,
    settings: &Settings,
    stop_at: Instant,
) -> Result<Pass, Stop> {
    let server = &settings.incoming;
    let session = Session { deadline: (stop_at + GRACE).into(), bytes: SESSION_BYTES };
    let login =
        Login::new(&settings.username, Secret::Password(Zeroizing::new(settings.password.reveal().to_owned())))?;
    let stream = connector.connect(&server.host, server.port, server.security, session).await?;
    match server.protocol {
        Protocol::Pop3 | Protocol::Smtp => {
            let mut pop3 = Pop3::sign_in(stream, server.security, &login).await?;
            let pass = pop3::Driver { db, mailbox, stop_at }.run(&mut pop3).await?;
            pop3.sign_out().await;
            Ok(pass)
        }
        Protocol::Imap => {
            let mut imap = Imap::sign_in(stream, server.security, &login).await?;
            let features = imap.features().await?;
            let pass = imap::Driver { db, mailbox, features, stop_at }.run(&mut imap).await?;
            imap.sign_out().await;
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
