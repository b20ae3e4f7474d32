//! A worker that signs in to mailboxes: what `serve_mail` is to a request.

use std::future::Future;
use std::sync::Arc;

use super::{Done, JOBS_AT_ONCE, Job, WorkError, work_or_give_up};
use crate::MAX_IDLE;
use crate::config::{Config, Outbound, mail_host_connections};
use crate::db::Db;
use crate::host_slots::HostSlots;
use crate::keyring::Keyring;
use crate::log;
use crate::redis_link::RedisLink;
use crate::secrets::SecretStore;

/// A job, with what it takes to work on a mailbox.
#[derive(Clone)]
pub struct MailJob<N> {
    /// Whose account, and until when.
    pub job: Job,
    /// The way to PostgreSQL, as the role that may read what is sealed.
    pub db: Db,
    /// What opens it.
    pub keyring: Keyring,
    /// The way to mail hosts.
    pub network: N,
    /// How many use it at once.
    pub slots: HostSlots,
}

/// Works off a queue, as [`super::work()`], with all that it takes to sign in to accounts. Where a job fails each time, the
/// account says so and is left alone for an hour.
///
/// # Errors
/// As [`super::work()`]; a secret cannot be read, there are no private keys, or the database role is too powerful.
pub async fn work_mail<N, H, F>(prepare: impl Fn(&Outbound) -> anyhow::Result<N>, handler: H) -> anyhow::Result<()>
where
    N: Clone + Send + Sync + 'static,
    H: Fn(MailJob<N>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Done, WorkError>> + Send,
{
    let config = Config::from_env()?;
    log::start(config.public.log_level);
    let network = prepare(&Outbound::from_env()?)?;
    let per_host = mail_host_connections()?;
    let store = Arc::new(SecretStore::new(config.secrets));
    let secrets = store.get().await?;
    let keyring = Keyring::new(store.clone()).await?;
    let db = Db::new(store, JOBS_AT_ONCE, MAX_IDLE).await?;
    let redis = RedisLink::new(&secrets.redis_url)?;
    let (connected, ()) = tokio::join!(db.warm_up(), redis.warm_up());
    connected?;
    let slots = HostSlots::new(per_host, redis);
    let last_words = db.clone();
    let handler = move |job| {
        let (db, keyring, network, slots) = (db.for_request(), keyring.clone(), network.clone(), slots.clone());
        handler(MailJob { job, db, keyring, network, slots })
    };
    let give_up = move |job: Job| {
        let db = last_words.clone();
        async move {
            if let Err(error) = db.give_up_sync(&job.scope, job.account_id).await {
                tracing::error!(accountId = %job.account_id, error = %error, "nobody is told that a job is given up");
            }
        }
    };
    work_or_give_up(handler, give_up).await
}
