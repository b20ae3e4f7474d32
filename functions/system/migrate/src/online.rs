//! What a migration's SQL leaves to do because it reads the whole table: without holding writers up, from where it
//! stopped last, and without harm when all is done already.

use anyhow::{Context, Result};
use shared::address::address_key;
use tokio_postgres::Client;
use tokio_postgres::types::Type;
use uuid::Uuid;

/// The unique index over addresses, by the name that the functions know.
const ADDRESS_INDEX: &str = "email_accounts_address_key";
/// The same while the one of the release before is in its place.
const NEXT_ADDRESS_INDEX: &str = "email_accounts_address_key_next";
/// One enabled account per address and user. Tenant and user are part of it, so that a refusal tells nothing about
/// others. The key comes first: else the planner, which takes a user's accounts for one at the most where an index has a
/// condition, would search them all by this one for an id.
const ADDRESSES: &str = "email_accounts (address_key, tenant_id, user_id) where is_enabled";

/// The others, and of which rows they are.
const INDEXES: [(&str, &str); 5] = [
    // For the purge.
    ("email_accounts_disabled_idx", "email_accounts (updated_at) where not is_enabled"),
    // For the purge of what deleted accounts had.
    ("email_accounts_unpurged_idx", "email_accounts (updated_at) where not is_enabled and mail_purged_at is null"),
    // For those who let go of the files of messages that nobody tries any more.
    (
        "email_outbox_untried_idx",
        "email_outbox (tried_since) where status in ('failed', 'uncertain') and due_at is null and cardinality(uploads) > 0",
    ),
    // For those who ask what has changed.
    ("email_accounts_changes_idx", "email_accounts (user_id, changed_number)"),
    ("email_folders_changes_idx", "email_folders (user_id, changed_number)"),
];

/// Rows that are locked at a time, for less than a request waits.
const BATCH: i32 = 1000;

/// Ends what V5, V8, V14 and V19 began: builds their indexes, gives older accounts their address keys, and drops the index that
/// decided before.
///
/// # Errors
/// PostgreSQL fails. What was done until then stays done.
pub async fn finish(client: &mut Client) -> Result<()> {
    client.batch_execute("set role email_service_owner").await?;
    // A function's request may hold up the exchange of the indexes, and must not be held up by it for long.
    client.batch_execute("set lock_timeout = '5s'").await?;
    let was_replaced = address_index_is_of_v5(client).await?;
    if !was_replaced {
        build_index(client, "unique index", NEXT_ADDRESS_INDEX, ADDRESSES).await?;
    }
    for (name, of) in INDEXES {
        build_index(client, "index", name, of).await?;
    }
    fill_address_keys(client).await.context("cannot give all accounts their address keys")?;
    if !was_replaced {
        // In one transaction.
        let exchange =
            format!("drop index if exists {ADDRESS_INDEX}; alter index {NEXT_ADDRESS_INDEX} rename to {ADDRESS_INDEX}");
        client.batch_execute(&exchange).await.context("cannot exchange the unique indexes over addresses")?;
    }
    client.batch_execute("reset lock_timeout; reset role").await?;
    Ok(())
}

/// The one of before was over an expression, `lower(email_address)`.
async fn address_index_is_of_v5(client: &Client) -> Result<bool> {
    let sql = "select indexprs is null from pg_index where indexrelid = to_regclass($1)";
    let rows = client.query_typed(sql, &[(&ADDRESS_INDEX, Type::TEXT)]).await?;
    Ok(rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or_default())
}

/// Builds an index beside those who write, unless it is there. One that was interrupted stays behind, invalid.
async fn build_index(client: &Client, kind: &str, name: &str, of: &str) -> Result<()> {
    let sql = "select indisvalid from pg_index where indexrelid = to_regclass($1)";
    let rows = client.query_typed(sql, &[(&name, Type::TEXT)]).await?;
    match rows.first().map(|row| row.try_get::<_, bool>(0)).transpose()? {
        Some(true) => return Ok(()),
        Some(false) => client.batch_execute(&format!("drop index concurrently {name}")).await?,
        None => {}
    }
    let create = format!("create {kind} concurrently {name} on {of}");
    client.batch_execute(&create).await.with_context(|| format!("cannot build the index {name}"))
}

/// Gives accounts the keys that only this code knows. Two that have become one address stay two, see
/// `set_address_keys` in V5.
async fn fill_address_keys(client: &mut Client) -> Result<()> {
    let (mut after, mut filled, mut taken) = (Uuid::nil(), 0, 0);
    loop {
        let batch = client.transaction().await?;
        let sql = "select id, email_address, address_key from accounts_to_key($1, $2)";
        let rows = batch.query_typed(sql, &[(&after, Type::UUID), (&BATCH, Type::INT4)]).await?;
        let Some(last) = rows.last() else { break };
        after = last.try_get(0)?;
        let (mut ids, mut keys) = (Vec::new(), Vec::new());
        for row in &rows {
            let key = address_key(row.try_get(1)?);
            if row.try_get::<_, Option<&str>>(2)? != Some(key.as_str()) {
                ids.push(row.try_get::<_, Uuid>(0)?);
                keys.push(key);
            }
        }
        let sql = "select set_address_keys($1, $2)";
        let row = batch.query_typed(sql, &[(&ids, Type::UUID_ARRAY), (&keys, Type::TEXT_ARRAY)]).await?;
        taken += row.first().map(|row| row.try_get::<_, i64>(0)).transpose()?.unwrap_or_default();
        filled += ids.len();
        batch.commit().await?;
    }
    if filled > 0 {
        tracing::info!(filled, "accounts have their address keys");
    }
    if taken > 0 {
        tracing::warn!(taken, "accounts share an address with another one of their user, by the rule of V5: both stay");
    }
    Ok(())
}
