//! What goes wrong, one after the other, with peace in between.

use std::{collections::BTreeMap, process::Command, time::Duration};

use anyhow::Result;
use local::gateway::Gateway;
use tokio::{task::block_in_place, time::sleep};
use tokio_postgres::NoTls;

use super::{Run, stage::Servers};

/// Longer than a failure's excuse, so that most requests have none.
const PEACE: Duration = Duration::from_secs(7);
const ABSENCE: Duration = Duration::from_secs(1);
/// What mail and queues are away for: longer than one try.
const LONG_ABSENCE: Duration = Duration::from_secs(3);
const KINDS: [&str; 15] = [
    "PostgreSQL killed",
    "send worker killed",
    "mail server killed",
    "Redis killed",
    "sync worker killed",
    "object store paused",
    "function killed",
    "queue killed",
    "connections cut",
    "mail server stopped",
    "Redis paused",
    "provider paused",
    "PostgreSQL restarted",
    "queue paused",
    "mail server paused",
];
/// Those that are killed; the others live through the whole run, so that their memory can be watched.
const VICTIMS: [&str; 4] = ["get-account", "get-message", "update-account", "send-message"];
pub(super) const WORKERS: [&str; 2] = ["sync-account", "deliver-message"];

pub(super) async fn strike(run: &Run, servers: &mut Servers, gateway: &Gateway) -> Result<BTreeMap<&'static str, u32>> {
    let mut struck = BTreeMap::new();
    for (n, kind) in KINDS.iter().cycle().enumerate() {
        sleep(PEACE).await;
        if run.is_over() {
            break;
        }
        run.begin_fault();
        run.log(&format!("FAULT: {kind}"));
        let Servers { postgres, redis, queue, queues, store, mail, provider, .. } = &mut *servers;
        match *kind {
            "PostgreSQL killed" => {
                block_in_place(|| postgres.kill())?;
                sleep(ABSENCE).await;
                block_in_place(|| postgres.start_again())?;
            }
            "PostgreSQL restarted" => {
                block_in_place(|| postgres.stop())?;
                block_in_place(|| postgres.start_again())?;
            }
            "connections cut" => cut(&postgres.owner_url("postgres")).await?,
            "Redis killed" => {
                block_in_place(|| redis.kill())?;
                sleep(ABSENCE).await;
                block_in_place(|| redis.start_again())?;
            }
            "Redis paused" => {
                redis.pause()?;
                sleep(ABSENCE).await;
                redis.resume()?;
            }
            // All that was in it is gone.
            "queue killed" => {
                block_in_place(|| queue.kill())?;
                sleep(LONG_ABSENCE).await;
                block_in_place(|| queue.start_again())?;
                queue.make_again(queues).await?;
            }
            "queue paused" => {
                queue.pause()?;
                sleep(LONG_ABSENCE).await;
                queue.resume()?;
            }
            "object store paused" => {
                store.pause()?;
                sleep(LONG_ABSENCE).await;
                store.resume()?;
            }
            "provider paused" => {
                provider.pause()?;
                sleep(LONG_ABSENCE).await;
                provider.resume()?;
            }
            "mail server killed" => {
                let mut mail = mail.lock().await;
                block_in_place(|| mail.kill())?;
                sleep(LONG_ABSENCE).await;
                block_in_place(|| mail.start_again())?;
            }
            "mail server stopped" => {
                let mut mail = mail.lock().await;
                block_in_place(|| mail.stop())?;
                sleep(LONG_ABSENCE).await;
                block_in_place(|| mail.start_again())?;
            }
            "mail server paused" => {
                let mut mail = mail.lock().await;
                mail.pause()?;
                sleep(LONG_ABSENCE).await;
                mail.resume()?;
            }
            "sync worker killed" => kill(gateway, WORKERS[0])?,
            "send worker killed" => kill(gateway, WORKERS[1])?,
            _ => kill(gateway, VICTIMS[n / KINDS.len() % VICTIMS.len()])?,
        }
        run.end_fault();
        run.log("fault over");
        *struck.entry(*kind).or_default() += 1;
    }
    Ok(struck)
}

/// Kills all of a function's processes.
pub(super) fn kill(gateway: &Gateway, function: &str) -> Result<()> {
    for pid in gateway.pids(function)? {
        // It may have ended by itself.
        let _ = Command::new("kill").args(["-9", &pid.to_string()]).status()?;
    }
    Ok(())
}

async fn cut(owner_url: &str) -> Result<()> {
    let (owner, connection) = tokio_postgres::connect(owner_url, NoTls).await?;
    // Ends with the client; its errors reach us as those of the statement.
    tokio::spawn(connection);
    let sql = "select pg_terminate_backend(pid) from pg_stat_activity where usename like 'email_service_%'";
    owner.execute(sql, &[]).await?;
    Ok(())
}
