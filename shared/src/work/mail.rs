//! A worker that signs in to mailboxes: what `serve_mail` is to a request.

use std::future::Future;
use std::sync::Arc;

use super::{Done, JOBS_AT_ONCE, Job, WorkError, work_or_give_up};
use crate::MAX_IDLE;
use crate::config::{Config, Outbound, QueueConfig, mail_host_connections, sealing_public_key};
use crate::db::Db;
use crate::host_slots::HostSlots;
use crate::keyring::{Clients, Keyring};
use crate::log;
use crate::redis_link::RedisLink;
use crate::sealing::PublicKey;
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
    /// What seals it.
    pub seal_with: Arc<PublicKey>,
    /// Who we are at providers.
    pub clients: Clients,
    /// The way to mail hosts.
    pub network: N,
    /// How many use it at once.
    pub slots: HostSlots,
}

/// Works off a queue, as [`super::work()`], with all that it takes to sign in to accounts. Where a job fails each time, the
/// account says so and is left alone for an hour. So it does where no worker lives to say it: see `begin_sync`.
///
/// # Errors
/// As [`super::work()`]; a secret cannot be read, there are no private keys or no public one, or the database role is too powerful.
pub async fn work_mail<N, H, F>(prepare: impl Fn(&Outbound) -> anyhow::Result<N>, handler: H) -> anyhow::Result<()>
where
    N: Clone + Send + Sync + 'static,
    H: Fn(MailJob<N>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Done, WorkError>> + Send,
{
    let (handler, db) = equipped(prepare, handler).await?;
    let give_up = move |job: Job| {
        let db = db.clone();
        async move {
            if let Err(error) = db.give_up_sync(&job.scope, job.account_id).await {
                tracing::error!(accountId = %job.account_id, error = %error, "nobody is told that a job is given up");
            }
        }
    };
    work_or_give_up(QueueConfig::from_env()?, |config| config.sync_queue_url.clone(), handler, give_up).await
}

/// As [`work_mail`], for the queue of messages to be sent. Where a job fails each time, its messages are due again when its
/// leases end, until a day has passed.
///
/// # Errors
/// As [`work_mail`].
pub async fn work_outbox<N, H, F>(prepare: impl Fn(&Outbound) -> anyhow::Result<N>, handler: H) -> anyhow::Result<()>
where
    N: Clone + Send + Sync + 'static,
    H: Fn(MailJob<N>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Done, WorkError>> + Send,
{
    let (handler, _) = equipped(prepare, handler).await?;
    work_or_give_up(QueueConfig::from_env()?, |config| config.outbox_queue_url.clone(), handler, |_| async {}).await
}

/// A handler that has all that it takes to sign in to accounts, and the way to PostgreSQL.
async fn equipped<N, H, F>(
    prepare: impl Fn(&Outbound) -> anyhow::Result<N>,
    handler: H,
) -> anyhow::Result<(impl Fn(Job) -> F + Clone + Send + Sync + 'static, Db)>
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
    let seal_with = Arc::new(sealing_public_key()?);
    let (keyring, clients) = (Keyring::new(store.clone()).await?, Clients::new(store.clone()));
    let db = Db::new(store, JOBS_AT_ONCE, MAX_IDLE).await?;
    let redis = RedisLink::new(&secrets.redis_url)?;
    let (checked, ()) = tokio::join!(db.warm_up(), redis.warm_up());
    checked.await?;
    let slots = HostSlots::new(per_host, redis);
    let all = db.clone();
    let handler = move |job| {
        let (db, keyring, network, slots) = (all.for_request(), keyring.clone(), network.clone(), slots.clone());
        let (seal_with, clients) = (seal_with.clone(), clients.clone());
        handler(MailJob { job, db, keyring, seal_with, clients, network, slots })
    };
    Ok((handler, db))
}
