//! Brings a database's schema up to date with `migrations/`.

use anyhow::{Context, anyhow};
use postgres_protocol::password::scram_sha_256;
use refinery::Runner;
use shared::db::DatabaseUrl;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

mod embedded {
    refinery::embed_migrations!("../../migrations");
}

/// The role that the functions log in as.
const APP_ROLE: &str = "email_service_app";
/// Any number, as long as every migration takes the same lock.
const LOCK: i64 = 0x656d_6169_6c5f_7376;

/// The migrations, in order, with the table that records them.
pub fn runner() -> Runner {
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name("schema_migrations");
    runner
}

/// Applies what is missing and returns its names; none the second time. Two at once wait for each other.
///
/// `owner_url` logs in as a role that may create roles and tables. The password in `app_url`, where given,
/// becomes that of the functions' role.
///
/// # Errors
/// The database cannot be reached; a migration fails, and is rolled back as a whole; a migration that was applied has
/// been edited since.
pub async fn apply(owner_url: &str, app_url: Option<&str>) -> anyhow::Result<Vec<String>> {
    let owner = parse(owner_url).context("the owner's database URL is not usable")?;
    let app = app_url.map(parse).transpose().context("the functions' database URL is not usable")?;
    let mut client = owner.connect().await?;
    // Held until the connection closes, which it does on every way out of here.
    client
        .query_typed("select pg_advisory_lock($1)", &[(&LOCK, Type::INT8)])
        .await
        .context("cannot wait for other migrations")?;
    let report = runner().run_async(&mut client).await.context("a migration failed")?;
    if let Some(password) = app.as_ref().and_then(DatabaseUrl::password) {
        set_password(&client, password).await.context("cannot set the password of the functions' role")?;
    }
    Ok(report.applied_migrations().iter().map(ToString::to_string).collect())
}

fn parse(url: &str) -> anyhow::Result<DatabaseUrl> {
    DatabaseUrl::parse(url).ok_or_else(|| anyhow!("it must be postgres://user:password@host:port/database"))
}

/// Sends the SCRAM verifier and not the password, which the server would log along with a failing statement.
async fn set_password(client: &Client, password: &[u8]) -> anyhow::Result<()> {
    let verifier = scram_sha_256(password);
    let statement = client
        .query_typed(
            "select format('alter role %I password %L', $1, $2)",
            &[(&APP_ROLE, Type::TEXT), (&verifier, Type::TEXT)],
        )
        .await?;
    let statement: &str = statement.first().ok_or_else(|| anyhow!("format gave no row"))?.try_get(0)?;
    client.batch_execute(statement).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_know_the_newest_migration() {
        let newest = runner().get_migrations().iter().map(|m| m.version()).max();
        assert_eq!(newest.map(i64::from), Some(i64::from(shared::db::SCHEMA_VERSION)));
    }
}
