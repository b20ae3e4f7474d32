//! Each minute: rings for the messages and the accounts that are due, and purges what deleted ones leave behind.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use shared::work::WorkError;
use shared::work::due::DueTurn;

/// Accounts that are claimed in one statement, which is to take 50 ms at most where there are a million and each row is in
/// another page: a dozen indexes, and as many checks until V25, made 50 µs each on a quick machine, and 115 on a slow one.
pub const BATCH: i32 = 400;
/// When an account is due again for which nobody came: its message was lost, or its worker was.
const AGAIN: Duration = Duration::from_secs(5 * 60);
/// The same for a message that is to be sent.
const SEND_AGAIN: Duration = Duration::from_secs(2 * 60);
/// Rows that are purged in one statement, which holds nobody up but others' purges, yet has four seconds at most.
const PURGE_BATCH: i32 = 5000;
/// How long a turn purges. A mailbox of a million messages is gone within a day all the same.
const PURGE_TIME: Duration = Duration::from_secs(5);

/// Accounts that are forgotten in one statement: each takes the checks of all that may refer to it.
const ACCOUNTS_BATCH: i32 = 1000;

/// Accounts whose objects are deleted in one turn: a second for each, where it had thousands.
const OBJECTS_BATCH: i32 = 10;
/// Messages that give their files back in one statement: of each some uploads are looked for.
const FILES_BATCH: i32 = 500;
/// Uploads that are deleted at once: as many as the object store takes in one call.
const UPLOADS_BATCH: i32 = 1000;
/// The longest that a request may write objects which began before its account was deleted.
const OBJECTS_AGE: Duration = Duration::from_secs(60);

/// How long a count of the accounts by their state is good for the dashboard: it reads all of them.
const COUNT_EVERY: Duration = Duration::from_secs(60 * 60);
/// When this process counted last.
static COUNTED: Mutex<Option<Instant>> = Mutex::new(None);

/// What a turn did.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Turned {
    /// Accounts that were due.
    pub due: usize,
    /// Of those, the ones that could not be rung for. Nothing is lost with them: they are due again in five minutes.
    pub failed: usize,
    /// For how long the one was due that had waited longest.
    pub lag_seconds: u64,
    /// Messages that were due to be sent.
    pub messages_due: usize,
    /// For how long the one was due that had waited longest.
    pub messages_lag_seconds: u64,
    /// Accounts of which the last was purged.
    pub purged_accounts: u64,
    /// Accounts that were forgotten themselves, `RETENTION_DAYS` after they were deleted.
    pub forgotten_accounts: u64,
    /// Rows that were purged, these included.
    pub purged_rows: u64,
    /// Objects of deleted accounts that were.
    pub purged_objects: usize,
    /// Messages that could not be sent and gave their files back, for nobody tried them again.
    pub released_messages: u64,
    /// Uploads that nothing had used for a day.
    pub purged_uploads: u64,
    /// Once an hour: how many accounts are in each state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accounts: Option<BTreeMap<String, i64>>,
}

/// Rings for all that is due, and purges, both in batches and for as long as there is time.
///
/// # Errors
/// PostgreSQL or the object store fails. What was done until then stays done.
pub async fn handler(turn: DueTurn) -> Result<Turned, WorkError> {
    let mut turned = Turned::default();
    // Somebody waits for these.
    loop {
        let batch = turn.db.claim_due_outgoing(BATCH, SEND_AGAIN).await?;
        // An account is rung for once, however much it has to send.
        let mut accounts = HashSet::new();
        let doorbells: Vec<_> =
            batch.iter().map(|due| due.doorbell).filter(|bell| accounts.insert(bell.account_id)).collect();
        turned.messages_due += batch.len();
        turned.failed += turn.outbox.ring_many(&doorbells).await.len();
        let lag = batch.iter().map(|due| due.late.as_secs()).max().unwrap_or_default();
        turned.messages_lag_seconds = turned.messages_lag_seconds.max(lag);
        if is_last(batch.len(), BATCH) || Instant::now() >= turn.stop_at {
            break;
        }
    }
    loop {
        let batch = turn.db.claim_due(BATCH, AGAIN).await?;
        let doorbells: Vec<_> = batch.iter().map(|due| due.doorbell).collect();
        turned.due += batch.len();
        turned.failed += turn.queue.ring_many(&doorbells).await.len();
        let lag = batch.iter().map(|due| due.late.as_secs()).max().unwrap_or_default();
        turned.lag_seconds = turned.lag_seconds.max(lag);
        if is_last(batch.len(), BATCH) || Instant::now() >= turn.stop_at {
            break;
        }
    }
    let until = turn.stop_at.min(Instant::now() + PURGE_TIME);
    while Instant::now() < until {
        let batch = turn.db.purge_mail(PURGE_BATCH).await?;
        turned.purged_accounts += batch.accounts;
        turned.purged_rows += batch.total();
        if is_last(batch.total(), PURGE_BATCH) {
            break;
        }
    }
    if let Some(age) = turn.retention {
        while Instant::now() < until {
            let batch = turn.db.purge_accounts(age, ACCOUNTS_BATCH).await?;
            turned.forgotten_accounts += batch;
            if is_last(batch, ACCOUNTS_BATCH) {
                break;
            }
        }
    }
    for (tenant, account) in turn.db.accounts_with_objects(OBJECTS_AGE, OBJECTS_BATCH).await? {
        if Instant::now() >= until {
            break;
        }
        turned.purged_objects += turn.objects.delete_account(tenant, account).await?;
        turn.db.forget_objects(account).await?;
    }
    while Instant::now() < until {
        let batch = turn.db.purge_idempotency_keys(PURGE_BATCH).await?;
        turned.purged_rows += batch;
        if is_last(batch, PURGE_BATCH) {
            break;
        }
    }
    while Instant::now() < until {
        let batch = turn.db.release_files(FILES_BATCH).await?;
        turned.released_messages += batch;
        if is_last(batch, FILES_BATCH) {
            break;
        }
    }
    while Instant::now() < until {
        // Objects before the rows that speak of them.
        let unused = turn.db.uploads_to_purge(UPLOADS_BATCH).await?;
        turn.objects.delete_uploads(&unused).await?;
        turned.purged_uploads += turn.db.purge_uploads(&unused).await?;
        if is_last(unused.len(), UPLOADS_BATCH) {
            break;
        }
    }
    if is_time_to_count(Instant::now()) && Instant::now() < turn.stop_at {
        turned.accounts = Some(turn.db.count_account_states().await?);
    }
    Ok(turned)
}

/// Says so once an hour.
fn is_time_to_count(now: Instant) -> bool {
    let mut counted = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    let is_time = counted.is_none_or(|at| now.saturating_duration_since(at) >= COUNT_EVERY);
    if is_time {
        *counted = Some(now);
    }
    is_time
}

/// Whether a batch was not full: then there are no more.
fn is_last(count: impl TryInto<i32>, limit: i32) -> bool {
    count.try_into().is_ok_and(|count| count < limit)
}
