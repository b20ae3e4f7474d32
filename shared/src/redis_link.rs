//! The connection to Redis, which may be away at any time without holding a request up.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult, Script, ServerErrorKind,
};
use tokio::time::{Instant, timeout};

use crate::MAX_IDLE;
use crate::secrets::SecretText;
use crate::tls;

/// The longest that a request waits for Redis.
pub const PATIENCE: Duration = Duration::from_millis(100);
/// How long after an attempt to connect the next one is made, and the first one given up.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A link that mends itself: while it is down, requests are told so at once, but for one that reconnects each second.
///
/// That one waits for the connection, within its patience. A task of its own would get nowhere in a function that is
/// frozen between requests: it would be one round trip further with each of them, and too late by then.
#[derive(Clone)]
pub struct RedisLink {
    client: Client,
    state: Arc<Mutex<State>>,
    patience: Duration,
}

enum State {
    Up { connection: MultiplexedConnection, used_at: Instant },
    Down { retry_at: Instant },
}

impl State {
    fn up(connection: MultiplexedConnection) -> Self {
        Self::Up { connection, used_at: Instant::now() }
    }

    /// Down, until the next attempt has had its time.
    fn down() -> Self {
        Self::Down { retry_at: Instant::now() + RETRY_AFTER }
    }
}

/// What a request finds.
enum Way {
    Open(MultiplexedConnection),
    /// It is this request's turn to connect.
    Reconnect,
    Away,
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
        let state = Arc::new(Mutex::new(State::Down { retry_at: Instant::now() }));
        Ok(Self { client, state, patience: PATIENCE })
    }

    /// The same for who may wait longer.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Starts connecting and waits as long as a request would; a slow handshake goes on by itself.
    pub async fn warm_up(&self) {
        self.set(State::down());
        let link = self.clone();
        let connecting = tokio::spawn(async move {
            match timeout(RETRY_AFTER, link.connect()).await {
                Ok(Ok(_)) => tracing::debug!("Redis is connected"),
                Ok(Err(error)) => tell_lost(&error.to_string()),
                Err(_) => tell_lost("no connection in time"),
            }
        });
        let _ = timeout(self.patience, connecting).await;
    }

    /// Runs one command; `None` when Redis is away or takes longer than [`PATIENCE`], or what stands for it.
    ///
    /// The first failure is noticed by the request that meets it. A connection that was closed while nobody used it
    /// (as happens to a frozen function) is replaced on the spot, within the same patience.
    pub async fn run<T, F>(&self, command: impl Fn(MultiplexedConnection) -> F) -> Option<T>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let way = self.way();
        let attempt = async {
            match way {
                Way::Away => return Ok(None),
                Way::Reconnect => command(self.connect().await?).await,
                Way::Open(connection) => match command(connection).await {
                    Err(error) if error.is_connection_dropped() || error.is_io_error() => {
                        command(self.connect().await?).await
                    }
                    other => other,
                },
            }
            .map(Some)
        };
        let reason = match timeout(self.patience, attempt).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        self.set(State::down());
        tell_lost(&reason);
        None
    }

    /// Whether Redis answers now.
    pub async fn is_up(&self) -> bool {
        self.run(ping).await.is_some()
    }

    fn way(&self) -> Way {
        let now = Instant::now();
        let mut state = self.state();
        match &mut *state {
            State::Up { connection, used_at } if now - *used_at < MAX_IDLE => {
                *used_at = now;
                return Way::Open(connection.clone());
            }
            State::Down { retry_at } if now < *retry_at => return Way::Away,
            State::Up { .. } | State::Down { .. } => {}
        }
        // Whoever else comes meanwhile does not wait.
        *state = State::down();
        Way::Reconnect
    }

    /// Connects, and makes sure that somebody answers: a server that hangs still accepts connections.
    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        // Our own time limits enclose every use.
        let config = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        ping(connection.clone()).await?;
        self.set(State::up(connection.clone()));
        Ok(connection)
    }

    fn set(&self, state: State) {
        *self.state() = state;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment, so a panic elsewhere left it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell_lost(reason: &str) {
    tracing::warn!(reason, "redis_unavailable: counting requests in this process until it is back");
}

/// A script over one key.
#[derive(Clone)]
pub struct KeyScript {
    text: &'static str,
    script: Script,
}

impl KeyScript {
    /// Of this text.
    pub fn new(text: &'static str) -> Self {
        Self { text, script: Script::new(text) }
    }

    /// Runs it, by its hash where Redis knows it. Where it does not, the whole script is sent, and not loaded first: a
    /// serverless cache may answer the next command from another shard, which does not know it either.
    ///
    /// # Errors
    /// Redis fails.
    pub async fn run<T: FromRedisValue>(
        &self,
        mut connection: MultiplexedConnection,
        key: &str,
        arguments: impl Fn(&mut Cmd),
    ) -> RedisResult<T> {
        let call = |command: &str, script: &str| {
            let mut call = Cmd::with_capacity(8, command.len() + script.len() + key.len() + 64);
            call.arg(command).arg(script).arg(1).arg(key);
            arguments(&mut call);
            call
        };
        match call("EVALSHA", self.script.get_hash()).query_async(&mut connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                call("EVAL", self.text).query_async(&mut connection).await
            }
            other => other,
        }
    }
}

async fn ping(mut connection: MultiplexedConnection) -> RedisResult<()> {
    redis::cmd("PING").query_async(&mut connection).await
}
