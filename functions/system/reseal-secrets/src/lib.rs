//! Seals every stored secret with the current key, when a key is replaced: docs/OPERATIONS.md, "The sealing keys".
//!
//! Online: accounts go on working, for the old keys still open. Resumable: what is done stays done, and the next call
//! goes on with what is left, wherever this one ended.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shared::MailCommand;
use shared::db::secrets::Sealed;
use shared::sealing::{Kind, OpenError, Place, PrivateKeys, PublicKey, open, seal};
use uuid::Uuid;

/// How long one call works: below the function's own limit (template.yaml, 300 s), for the answer says what is left.
const PATIENCE: Duration = Duration::from_secs(240);
/// How many rows are looked up at once.
const BATCH: i32 = 500;

/// Answers one event, whatever it holds: how many secrets were sealed anew, how many could not be opened (their keys
/// are gone; the accounts need their passwords set again), and how many are left for the next call.
///
/// # Errors
/// PostgreSQL fails. What was done until then stays.
pub async fn handler(command: MailCommand) -> anyhow::Result<Value> {
    let MailCommand { db, keys, current } = command;
    let started = Instant::now();
    let (mut resealed, mut unreadable, mut after) = (0_u64, 0_u64, Uuid::nil());
    'batches: loop {
        let batch = db.secrets_to_reseal(current.id(), after, BATCH).await?;
        let Some((_, last)) = batch.last() else { break };
        after = last.0;
        for (place, id) in batch {
            let old = db.find_sealed(&place.scope, id).await?;
            match anew(&keys, &current, place, &old) {
                Ok(new) => resealed += u64::from(db.reseal(&place.scope, id, current.id(), &old, &new).await?),
                Err(error) => {
                    tracing::error!(accountId = %place.account, error = format!("{error:#}"), "a secret is not readable");
                    unreadable += 1;
                }
            }
            if started.elapsed() > PATIENCE {
                break 'batches;
            }
        }
    }
    let left = db.count_secrets_to_reseal(current.id()).await?;
    let outcome = json!({"key": current.id(), "resealed": resealed, "unreadable": unreadable, "left": left});
    tracing::info!(%outcome, "secrets sealed anew");
    Ok(outcome)
}

/// All secrets of a row, opened and sealed with the current key.
fn anew(keys: &PrivateKeys, current: &PublicKey, place: Place, old: &Sealed) -> anyhow::Result<Sealed> {
    let one = |kind, sealed: &Option<Vec<u8>>| -> anyhow::Result<Option<Vec<u8>>> {
        let place = Place { kind, ..place };
        let Some(sealed) = sealed else { return Ok(None) };
        let secret = open(keys, &place, sealed).map_err(|error: OpenError| anyhow::anyhow!(error))?;
        seal(current, &place, &secret).map(Some)
    };
    Ok(Sealed {
        password: one(Kind::Password, &old.password)?,
        smtp_password: one(Kind::SmtpPassword, &old.smtp_password)?,
        refresh_token: one(Kind::RefreshToken, &old.refresh_token)?,
        access_token: one(Kind::AccessToken, &old.access_token)?,
    })
}
