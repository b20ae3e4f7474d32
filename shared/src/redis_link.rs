//! The connection to Redis, which may be away at any time without holding a request up.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult};
use tokio::time::{Instant, timeout};

use crate::secrets::SecretText;
use crate::tls;

/// The longest that a request waits for Redis.
pub const PATIENCE: Duration = Duration::from_millis(100);
/// How long a connection attempt may take. It runs beside the requests, none of which waits for it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long after a failure the next attempt is made.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A link that mends itself: while it is down, requests are told so at once, and one task beside them reconnects.
#[derive(Clone)]
pub struct RedisLink {
    client: Client,
    state: Arc<Mutex<State>>,
}

enum State {
    Up(MultiplexedConnection),
    Connecting,
    Down { retry_at: Instant },
}

impl RedisLink {
    /// A link to this address, down until [`RedisLink::warm_up`] or the first use.
    ///
    /// # Errors
    /// The address is none.
    pub fn new(url: &SecretText) -> anyhow::Result<Self> {
        if url.reveal().starts_with("rediss:") {
            tls::install_provider();
        }
        let client = Client::open(url.reveal()).context("REDIS_URL is not usable")?;
        Ok(Self { client, state: Arc::new(Mutex::new(State::Down { retry_at: Instant::now() })) })
    }

    /// Starts connecting and waits as long as a request would; a slow handshake goes on by itself.
    pub async fn warm_up(&self) {
        self.set(State::Connecting);
        let connecting = tokio::spawn(self.clone().reconnect());
        let _ = timeout(PATIENCE, connecting).await;
    }

    /// Runs one command; `None` when Redis is away or takes longer than [`PATIENCE`].
    ///
    /// The first failure is noticed by the request that meets it. A connection that was closed while nobody used it
    /// (as happens to a frozen function) is replaced on the spot, within the same patience.
    pub async fn run<T, F>(&self, command: impl Fn(MultiplexedConnection) -> F) -> Option<T>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let connection = self.connection()?;
        let attempt = async {
            match command(connection).await {
                Err(error) if error.is_connection_dropped() || error.is_io_error() => {
                    let replacement = self.connect().await?;
                    self.set(State::Up(replacement.clone()));
                    command(replacement).await
                }
                other => other,
            }
        };
        match timeout(PATIENCE, attempt).await {
            Ok(Ok(value)) => Some(value),
            Ok(Err(error)) => self.lost(&error.to_string()),
            Err(_) => self.lost("no answer in time"),
        }
    }

    /// Whether Redis answers now.
    pub async fn is_up(&self) -> bool {
        self.run(ping).await.is_some()
    }

    fn connection(&self) -> Option<MultiplexedConnection> {
        let mut state = self.state();
        match &*state {
            State::Up(connection) => return Some(connection.clone()),
            State::Down { retry_at } if *retry_at <= Instant::now() => {
                *state = State::Connecting;
                tokio::spawn(self.clone().reconnect());
            }
            State::Connecting | State::Down { .. } => {}
        }
        None
    }

    async fn reconnect(self) {
        match timeout(CONNECT_TIMEOUT, self.connect()).await {
            Ok(Ok(connection)) => {
                tracing::debug!("Redis is connected");
                self.set(State::Up(connection));
            }
            Ok(Err(error)) => self.lost(&error.to_string()).unwrap_or_default(),
            Err(_) => self.lost("no connection in time").unwrap_or_default(),
        }
    }

    /// Connects, and makes sure that somebody answers: a server that hangs still accepts connections.
    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        // Our own time limits enclose every use.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        ping(connection.clone()).await?;
        Ok(connection)
    }

    fn lost<T>(&self, reason: &str) -> Option<T> {
        tracing::warn!(reason, "redis_unavailable: counting requests in this process until it is back");
        self.set(State::Down { retry_at: Instant::now() + RETRY_AFTER });
        None
    }

    fn set(&self, state: State) {
        *self.state() = state;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment, so a panic elsewhere left it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ping(mut connection: MultiplexedConnection) -> RedisResult<()> {
    redis::cmd("PING").query_async(&mut connection).await
}
