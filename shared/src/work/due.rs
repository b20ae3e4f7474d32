//! The function that asks the database who is due, and rings for them.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{WorkError, serve_schedule};
use crate::MAX_IDLE;
use crate::config::ScheduleConfig;
use crate::db::Db;
use crate::log;
use crate::objects::ObjectStore;
use crate::queue::Queue;
use crate::secrets::SecretStore;

/// A turn of the schedule, with whom to ask and where to ring.
#[derive(Clone)]
pub struct DueTurn {
    /// When to stop.
    pub stop_at: Instant,
    /// The way to PostgreSQL, as the role that may ask who is due.
    pub db: Db,
    /// The queue of those who synchronise.
    pub queue: Queue,
    /// The queue of those who send.
    pub outbox: Queue,
    /// What is kept of messages.
    pub objects: ObjectStore,
    /// How long deleted accounts are kept; `None` means for ever.
    pub retention: Option<Duration>,
}

/// Serves a schedule, as [`serve_schedule`], with a database, the queues and a bucket.
///
/// # Errors
/// As [`serve_schedule`]; a queue or the bucket is missing, the secret cannot be read, or the database role is too powerful.
pub async fn serve_due<H, F, A>(handler: H) -> anyhow::Result<()>
where
    H: Fn(DueTurn) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<A, WorkError>> + Send,
    A: Serialize + Send,
{
    let config = ScheduleConfig::from_env()?;
    log::start(config.public.log_level);
    let queue = Queue::new(Some(config.sync_queue_url));
    let outbox = Queue::new(Some(config.outbox_queue_url));
    let db = Db::new(Arc::new(SecretStore::new(config.secrets)), 1, MAX_IDLE).await?;
    let objects = ObjectStore::new(config.mail_bucket)?;
    let (checked, ()) = tokio::join!(db.warm_up(), queue.warm_up());
    checked.await?;
    let turn = DueTurn { stop_at: Instant::now(), db, queue, outbox, objects, retention: config.retention };
    serve_schedule(move |tick| handler(DueTurn { stop_at: tick.stop_at, ..turn.clone() })).await
}
