//! Start-up of the functions that have to do with mail hosts: those that seal, those that reach mail hosts, and those that
//! open what is sealed. What they have is what they need, and no more.

use std::future::Future;
use std::sync::Arc;

use anyhow::anyhow;
use futures_util::future;
use lambda_http::lambda_runtime::{self, Error as RuntimeError, LambdaEvent, service_fn};
use serde_json::Value;

use super::{Connected, Gate, begin, connect, respond, run, serve, start};
use crate::MAX_IDLE;
use crate::call::{Call, MailCall, NetworkCall, Reply, SignInCall};
use crate::config::{Config, Outbound, SignInConfig, mail_bucket, sealing_public_key};
use crate::db::Db;
use crate::error::Error;
use crate::issuer::Keys;
use crate::keyring::{Clients, Keyring};
use crate::log;
use crate::metrics::Visits;
use crate::objects::ObjectStore;
use crate::redis_link::RedisLink;
use crate::sealing::{PrivateKeys, PublicKey};
use crate::secrets::SecretStore;

/// Serves an endpoint of identified callers that is sent passwords: it can seal them, and open none.
///
/// # Errors
/// As [`serve()`]; `SEALING_PUBLIC_KEY` is missing.
pub async fn serve_sealing<H, F>(handler: H) -> anyhow::Result<()>
where
    H: Fn(Call, Arc<PublicKey>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Error>> + Send,
{
    let key = Arc::new(sealing_public_key()?);
    // The library's random generator takes its time at the first use, which is not to be a request's.
    key.warm_up()?;
    serve(move |call| handler(call, key.clone())).await
}

/// Serves an endpoint of identified callers that begins a sign-in with a provider: it knows the providers, and reaches none.
///
/// # Errors
/// As [`serve()`]; the providers are not usable.
pub async fn serve_providers<P, H, F>(
    prepare: impl Fn(&SignInConfig) -> anyhow::Result<P>,
    handler: H,
) -> anyhow::Result<()>
where
    P: Clone + Send + Sync + 'static,
    H: Fn(Call, P) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Error>> + Send,
{
    let providers = prepare(&SignInConfig::from_env()?)?;
    serve(move |call| handler(call, providers.clone())).await
}

/// Serves an endpoint of identified callers that ends a sign-in with a provider. It reaches providers and stores what they
/// give; what is stored it can neither read nor open.
///
/// # Errors
/// As [`serve()`]; `SEALING_PUBLIC_KEY` is missing, or the providers are not usable.
pub async fn serve_sign_in<N, H, F>(prepare: impl Fn(&Outbound) -> anyhow::Result<N>, handler: H) -> anyhow::Result<()>
where
    N: Clone + Send + Sync + 'static,
    H: Fn(SignInCall<N>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Error>> + Send,
{
    let seal_with = Arc::new(sealing_public_key()?);
    seal_with.warm_up()?;
    let network = prepare(&Outbound::from_env()?)?;
    let (config, app, checked) = start().await?;
    let app = Arc::new(app);
    run(config.public, Visits::Hosts, checked, move |front, event| {
        let (app, handler, network, seal_with) = (app.clone(), handler.clone(), network.clone(), seal_with.clone());
        async move {
            let db = app.db.for_request();
            let call = |identity, request| SignInCall {
                call: Call { identity, request, db: db.clone(), accounts_per_user: app.accounts_per_user },
                seal_with: seal_with.clone(),
                clients: Clients::new(app.secrets.clone()),
                network: network.clone(),
            };
            let handling = |identity, request| handler(call(identity, request));
            respond(&front, &app.gate, Some(db.clone()), handling, event).await
        }
    })
    .await
}

/// Serves an endpoint of identified callers that reaches mail hosts, and neither PostgreSQL nor a key.
///
/// # Errors
/// The configuration is bad, or the secret cannot be read.
pub async fn serve_network<N, H, F>(prepare: impl Fn(&Outbound) -> anyhow::Result<N>, handler: H) -> anyhow::Result<()>
where
    N: Clone + Send + Sync + 'static,
    H: Fn(NetworkCall<N>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Error>> + Send,
{
    let (config, store, secrets) = begin(Config::of_network()?).await?;
    let network = prepare(&Outbound::from_env()?)?;
    let keys = Keys::new(&config.auth, &secrets, &store)?;
    let redis = RedisLink::new(&secrets.redis_url)?;
    tokio::join!(redis.warm_up(), keys.warm_up());
    let gate = Arc::new(Gate::new(&config, keys, &redis, true));
    run(config.public, Visits::Hosts, future::ok(()), move |front, event| {
        let (gate, network, handler) = (gate.clone(), network.clone(), handler.clone());
        async move {
            let handling = |identity, request| handler(NetworkCall { identity, request, network: network.clone() });
            respond(&front, &gate, None, handling, event).await
        }
    })
    .await
}

/// Serves an endpoint of identified callers that tries whether one can sign in to an account: of tries a user has few.
///
/// # Errors
/// As [`serve_mail`].
pub async fn serve_tries<N, H, F>(prepare: impl Fn(&Outbound) -> anyhow::Result<N>, handler: H) -> anyhow::Result<()>
where
    N: Clone + Send + Sync + 'static,
    H: Fn(MailCall<N>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Error>> + Send,
{
    serve_signing_in(true, prepare, handler).await
}

/// Serves an endpoint of identified callers that works in their mailboxes.
///
/// # Errors
/// As [`serve()`]; there are no private keys, or no public one.
pub async fn serve_mail<N, H, F>(prepare: impl Fn(&Outbound) -> anyhow::Result<N>, handler: H) -> anyhow::Result<()>
where
    N: Clone + Send + Sync + 'static,
    H: Fn(MailCall<N>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Error>> + Send,
{
    serve_signing_in(false, prepare, handler).await
}

async fn serve_signing_in<N, H, F>(
    are_tries: bool,
    prepare: impl Fn(&Outbound) -> anyhow::Result<N>,
    handler: H,
) -> anyhow::Result<()>
where
    N: Clone + Send + Sync + 'static,
    H: Fn(MailCall<N>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Error>> + Send,
{
    let (config, store, secrets) = begin(Config::from_env()?).await?;
    let network = prepare(&Outbound::from_env()?)?;
    let seal_with = Arc::new(sealing_public_key()?);
    let (keyring, clients) = (Keyring::new(store.clone()).await?, Clients::new(store.clone()));
    let keys = Keys::new(&config.auth, &secrets, &store)?;
    let (connected, ()) = tokio::join!(connect(&config, store, &secrets), keys.warm_up());
    let Connected { db, redis, checked } = connected?;
    let gate = Arc::new(Gate::new(&config, keys, &redis, are_tries));
    run(config.public, Visits::Hosts, checked, move |front, event| {
        let (gate, network, handler) = (gate.clone(), network.clone(), handler.clone());
        let (db, keyring, seal_with, clients) = (db.for_request(), keyring.clone(), seal_with.clone(), clients.clone());
        async move {
            let call = |identity, request| MailCall {
                identity,
                request,
                db: db.clone(),
                keyring: keyring.clone(),
                seal_with: seal_with.clone(),
                clients: clients.clone(),
                network: network.clone(),
            };
            let handling = |identity, request| handler(call(identity, request));
            respond(&front, &gate, Some(db.clone()), handling, event).await
        }
    })
    .await
}

/// Serves an endpoint of identified callers that reads messages: it signs in to their accounts, and keeps what it read.
///
/// # Errors
/// As [`serve_mail`]; there is no bucket.
pub async fn serve_reading<N, H, F>(prepare: impl Fn(&Outbound) -> anyhow::Result<N>, handler: H) -> anyhow::Result<()>
where
    N: Clone + Send + Sync + 'static,
    H: Fn(MailCall<N>, ObjectStore) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Error>> + Send,
{
    let objects = ObjectStore::new(mail_bucket()?)?;
    objects.warm_up().await;
    serve_mail(prepare, move |call| handler(call, objects.clone())).await
}

/// An order to a function that nobody reaches over HTTP.
pub struct MailCommand {
    /// The way to all rows that the order is about, as the role that may read sealed secrets.
    pub db: Db,
    /// What opens them.
    pub keys: Arc<PrivateKeys>,
    /// What seals them.
    pub current: PublicKey,
}

/// Serves orders that are given by hand, whatever their event holds: each reads the secrets and keys anew.
///
/// # Errors
/// The configuration is bad.
pub async fn serve_command<H, F>(handler: H) -> anyhow::Result<()>
where
    H: Fn(MailCommand) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = anyhow::Result<Value>> + Send,
{
    let config = Config::from_env()?;
    log::start(config.public.log_level);
    let obey = move |_: LambdaEvent<Value>| {
        let (source, handler) = (config.secrets.clone(), handler.clone());
        async move {
            let store = Arc::new(SecretStore::new(source));
            let keys = Keyring::new(store.clone()).await?.keys().await?;
            let current = sealing_public_key()?;
            let db = Db::new(store, 1, MAX_IDLE).await?;
            handler(MailCommand { db, keys, current }).await
        }
    };
    let service = service_fn(move |event| {
        let outcome = obey(event);
        async move { outcome.await.map_err(|error| RuntimeError::from(format!("{error:#}"))) }
    });
    Box::pin(lambda_runtime::run(service)).await.map_err(|error| anyhow!(error))
}
