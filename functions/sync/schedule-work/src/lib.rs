//! Each minute: rings for the accounts that are due.

use std::time::{Duration, Instant};

use serde::Serialize;
use shared::work::WorkError;
use shared::work::due::DueTurn;

/// Accounts that are claimed in one statement, which is to hold their rows for less than a request waits.
const BATCH: i32 = 1000;
/// When an account is due again for which nobody came: its message was lost, or its worker was.
const AGAIN: Duration = Duration::from_secs(5 * 60);

/// What a turn did.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Turned {
    /// Accounts that were due.
    pub due: usize,
    /// Of those, the ones that could not be rung for. Nothing is lost with them: they are due again in five minutes.
    pub failed: usize,
    /// For how long the one was due that had waited longest.
    pub lag_seconds: u64,
}

/// Rings for all that is due, in batches, for as long as there is time.
///
/// # Errors
/// PostgreSQL fails. Whoever was rung for until then was.
pub async fn handler(turn: DueTurn) -> Result<Turned, WorkError> {
    let mut turned = Turned { due: 0, failed: 0, lag_seconds: 0 };
    loop {
        let batch = turn.db.claim_due(BATCH, AGAIN).await?;
        let doorbells: Vec<_> = batch.iter().map(|due| due.doorbell).collect();
        turned.due += batch.len();
        turned.failed += turn.queue.ring_many(&doorbells).await.len();
        let lag = batch.iter().map(|due| due.late.as_secs()).max().unwrap_or_default();
        turned.lag_seconds = turned.lag_seconds.max(lag);
        if usize::try_from(BATCH).is_ok_and(|full| batch.len() < full) || Instant::now() >= turn.stop_at {
            return Ok(turned);
        }
    }
}
