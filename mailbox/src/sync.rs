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
use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::mail::connect::Session;
use ::mail::imap::UidSet;
use shared::account::state::{Event, State};
use shared::account::{Account, AccountId};
use shared::db::Db;
use shared::db::mailboxes::{End, Mailbox, Turn};
use shared::db::secrets::Fault;
use shared::log::COUNTED;
use shared::work::mail::MailJob;
use shared::work::{Done, Job, WorkError};

use crate::tokens::{Key, TokenError, Tokens, Way};
use crate::{Host, OAUTH2, Settings};

pub(crate) use self::pop3::identity as pop3_identity;

/// A lease outlasts all that its holder may wait for: a minute of work, a mail host's last answer (15 s), a last
/// statement (6 s), and clocks that differ. `doubt_check` and `destroy_orphans` in the migrations know it.
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
/// How late an account is of which the log says so: it has missed a turn, whatever its interval.
const LATE: Duration = Duration::from_secs(60 * 60);
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
    if let Some(late) = lateness(&mailbox.account, now_ms()) {
        let account = &mailbox.account;
        tracing::info!(
            target: COUNTED,
            accountId = %account.id,
            hostname = account.hostname,
            lateSeconds = late.as_secs(),
            "sync_late"
        );
    }
    let tokens = Tokens::of_job(job);
    let deadline = || tokio::time::Instant::now() + TOKEN_TIME;
    let key = match Key::new(&tokens, &mailbox.account, &mailbox.sealed, deadline()).await {
        Ok(Some(key)) => key,
        Ok(None) => {
            // Nothing can be tried: the account stays as it is, until a password is set.
            let end = End { more: false, complete: false, soon: None, event: Event::Failed, fault: None };
            db.finish_sync(&mailbox, end).await?;
            return Ok(Done::Complete);
        }
        Err(error) => return finish(db, &mailbox, Err(error.into())).await,
    };
    let host = &key.settings.incoming.host;
    let goes_on = mailbox.folders.iter().any(|folder| folder.is_selectable && !folder.is_gone && !folder.is_complete);
    let slot = if goes_on { job.slots.take_again(host, LEASE).await } else { job.slots.take(host, LEASE).await };
    let Some(slot) = slot else {
        tracing::info!(target: COUNTED, accountId = %mailbox.account.id, host, "host_busy");
        // Those who wait for one host do not come back all at once.
        db.postpone_sync(&mailbox.lease, HOST_PAUSE.mul_f64(1.0 + chance(*account_id))).await?;
        return Ok(Done::Complete);
    };
    let mut connection = None;
    let mut outcome = session(job, &mailbox, &key.settings, &mut connection).await;
    if matches!(&outcome, Err(Stop::Mail(error)) if error.code == ::mail::Code::Authentication) {
        match key.renewed(&tokens, &mailbox.account, deadline()).await {
            Ok(Some(key)) => outcome = session(job, &mailbox, &key.settings, &mut connection).await,
            Ok(None) => {}
            Err(error) => outcome = Err(error.into()),
        }
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
    tracing::info!(target: COUNTED, accountId = %mailbox.account.id, service, code, detail = error.detail, "sync_failed");
    let event = match error.code {
        ::mail::Code::Authentication | ::mail::Code::ConsentRevoked => Event::Refused,
        _ => Event::Failed,
    };
    let fault = Fault { code, message: &error.message, service };
    db.finish_sync(mailbox, End { event, fault: Some(fault), soon, ..done }).await?;
    Ok(Done::Complete)
}

/// For how long an account has been due that is begun at `now`, where that is long. Who rings for it moves `next_sync_at` on,
/// so one that is begun again and again and never done shows by when all was there last, or by what has changed since: its
/// user's settings, its state. Those that nobody waits for are left out, those that are tried after pauses of their own, and
/// a first synchronisation, which takes as long as it takes.
fn lateness(account: &Account, now: i64) -> Option<Duration> {
    let is_awaited = account.is_sync_enabled && matches!(account.state, State::New | State::Connected);
    let since = account.last_sync_at?.max(account.updated_at).max(account.state_changed_at);
    let late = u64::try_from(now - since - i64::from(account.sync_interval) * 1000).ok()?;
    Some(Duration::from_millis(late)).filter(|late| is_awaited && *late >= LATE)
}

/// From 0 to 1, another for each account.
pub(crate) fn chance(account: AccountId) -> f64 {
    f64::from(account.0.as_bytes()[15]) / 255.0
}

/// Signs in and synchronises; where that went well, somebody is left to sign out.
async fn session(
    job: &MailJob<Way>,
    mailbox: &Mailbox,
    settings: &Settings,
    connection: &mut Option<Host>,
) -> Result<Pass, Stop> {
    let (db, stop_at) = (&job.db, job.job.stop_at);
    let session = Session { deadline: (stop_at + GRACE).into(), bytes: SESSION_BYTES };
    let mut host = settings.sign_in(&job.network.connector, session).await?;
    let pass = match &mut host {
        Host::Pop3(pop3) => pop3::Driver { db, mailbox, stop_at }.run(pop3).await?,
        Host::Imap(imap, features) => {
            let driver =
                imap::Driver { db, mailbox, features: *features, stop_at, labels: HashMap::new(), loses_labels: false };
            driver.run(imap).await?
        }
    };
    *connection = Some(host);
    Ok(pass)
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// As PostgreSQL writes them: `{[1,5],[7,7]}`.
fn multirange(uids: &UidSet) -> String {
    let mut text = "{".to_owned();
    for range in uids.ranges() {
        let comma = if text.len() == 1 { "" } else { "," };
        // A String takes whatever is written.
        let _ = write!(text, "{comma}[{},{}]", range.start(), range.end());
    }
    text + "}"
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
    use shared::account::CredentialId;
    use shared::identity::{TenantId, UserId};
    use uuid::Uuid;

    use super::*;

    const MINUTE: i64 = 60_000;
    const NOW: i64 = 1_000_000 * MINUTE;

    /// In minutes, of an account where all was there 80 minutes ago and which is looked at every ten, but for this change.
    fn late(change: fn(&mut Account)) -> Option<u64> {
        let mut account = Account {
            id: AccountId(Uuid::nil()),
            tenant_id: TenantId(Uuid::nil()),
            user_id: UserId(Uuid::nil()),
            account_name: "Work".to_owned(),
            email_address: "jane@example.com".to_owned(),
            protocol: "imap".to_owned(),
            hostname: "imap.example.com".to_owned(),
            port: 993,
            encryption: "tls".to_owned(),
            username: "jane".to_owned(),
            credential_id: CredentialId(Uuid::nil()),
            is_sync_enabled: true,
            sync_interval: 600,
            last_sync_at: Some(NOW - 80 * MINUTE),
            is_syncing: true,
            is_enabled: true,
            smtp_hostname: None,
            smtp_port: None,
            smtp_encryption: None,
            smtp_username: None,
            auth_type: "password".to_owned(),
            provider: None,
            state: State::Connected,
            state_changed_at: 0,
            next_sync_at: Some(NOW),
            last_error: None,
            created_at: 0,
            updated_at: 0,
        };
        change(&mut account);
        lateness(&account, NOW).map(|late| late.as_secs() / 60)
    }

    #[test]
    fn late_is_who_has_been_due_for_an_hour() {
        assert_eq!(late(|_| {}), Some(70));
        assert_eq!(late(|account| account.sync_interval = 1200), Some(60));
        assert_eq!(late(|account| account.sync_interval = 1201), None);
        assert_eq!(late(|account| account.last_sync_at = Some(NOW - MINUTE)), None, "its user asked for it");
        assert_eq!(late(|account| account.last_sync_at = None), None, "it is the first one");
        // Whatever of these was last: somebody who wanted no mail for a year waits since he wants it again.
        assert_eq!(late(|account| account.updated_at = NOW - 75 * MINUTE), Some(65));
        assert_eq!(late(|account| account.updated_at = NOW), None);
        assert_eq!(late(|account| account.state_changed_at = NOW - 75 * MINUTE), Some(65));
        assert_eq!(late(|account| account.state_changed_at = NOW), None);
        // And whoever waits.
        assert_eq!(late(|account| account.state = State::New), Some(70));
        assert_eq!(late(|account| account.state = State::ConnectError), None);
        assert_eq!(late(|account| account.state = State::AuthenticationError), None);
        assert_eq!(late(|account| account.state = State::CredentialsMissing), None);
        assert_eq!(late(|account| account.is_sync_enabled = false), None);
    }

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
