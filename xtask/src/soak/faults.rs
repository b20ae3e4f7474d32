//! What goes wrong, one after the other, with peace in between.

use std::{collections::BTreeMap, process::Command, time::Duration};

use anyhow::Result;
use local::{
    gateway::Gateway,
    services::{Postgres, Redis},
};
use tokio::{task::block_in_place, time::sleep};
use tokio_postgres::NoTls;

use super::Run;

/// Longer than a failure's excuse, so that most requests have none.
const PEACE: Duration = Duration::from_secs(7);
const ABSENCE: Duration = Duration::from_secs(1);
const KINDS: [&str; 6] =
    ["PostgreSQL killed", "Redis killed", "function killed", "connections cut", "Redis paused", "PostgreSQL restarted"];
/// Those that are killed; the others live through the whole run, so that their memory can be watched.
const VICTIMS: [&str; 2] = ["get-account", "update-account"];

pub(super) async fn strike(
    run: &Run,
    postgres: &mut Postgres,
    redis: &mut Redis,
    gateway: &Gateway,
) -> Result<BTreeMap<&'static str, u32>> {
    let mut struck = BTreeMap::new();
    for (n, kind) in KINDS.iter().cycle().enumerate() {
        sleep(PEACE).await;
        if run.is_over() {
            break;
        }
        run.begin_fault();
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
            "connections cut" => cut(postgres).await?,
            _ => {
                for pid in gateway.pids(VICTIMS[n / KINDS.len() % VICTIMS.len()])? {
                    // It may have ended by itself.
                    let _ = Command::new("kill").args(["-9", &pid.to_string()]).status()?;
                }
            }
        }
        run.end_fault();
        *struck.entry(*kind).or_default() += 1;
    }
    Ok(struck)
}

async fn cut(postgres: &Postgres) -> Result<()> {
    let (owner, connection) = tokio_postgres::connect(&postgres.owner_url("postgres"), NoTls).await?;
    // Ends with the client; its errors reach us as those of the statement.
    tokio::spawn(connection);
    let sql = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'email_service_app'";
    owner.execute(sql, &[]).await?;
    Ok(())
}
