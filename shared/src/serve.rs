//! Start-up, and the pipeline that every request runs through.

pub mod mail;

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use futures_util::future::{self, BoxFuture};
use futures_util::{FutureExt, TryFutureExt};
use lambda_http::http::{HeaderName, HeaderValue, header};
use lambda_http::lambda_runtime::{self, Error as RuntimeError, LambdaEvent, service_fn};

use crate::MAX_IDLE;
use crate::auth::{Authenticator, refuse_override};
use crate::call::{Call, PublicCall, ReadinessCall, Reply};
use crate::config::{Config, PublicConfig, QueueConfig, SendLimits, mail_bucket, probed_bucket, send_limits};
use crate::cors::Cors;
use crate::db::Db;
use crate::error::Error;
use crate::event::{Event, Request, Response};
use crate::identity::Identity;
use crate::issuer::Keys;
use crate::log::{self, RequestLine};
use crate::memory::keep_freed;
use crate::metrics::{Measured, Metrics, Visits, milliseconds};
use crate::objects::ObjectStore;
use crate::queue::Queue;
use crate::quota::Quota;
use crate::rate_limit::{Decision, RateLimiter, Subject};
use crate::redis_link::RedisLink;
use crate::secrets::{SecretStore, Secrets};

/// Serves an endpoint of identified callers: connects to PostgreSQL and Redis, then hands each request to
/// `handler`.
///
/// # Errors
/// The configuration is bad, the secret cannot be read, or the database role is too powerful.
pub async fn serve<H, F>(handler: H) -> anyhow::Result<()>
where
    H: Fn(Call) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Error>> + Send,
{
    let (config, app, checked) = start().await?;
    let app = Arc::new(app);
    run(config.public, Visits::Nobody, checked, move |front, event| {
        let (app, handler) = (app.clone(), handler.clone());
        async move {
            let (db, accounts_per_user) = (app.db.for_request(), app.accounts_per_user);
            let call = |identity, request| Call { identity, request, db: db.clone(), accounts_per_user };
            let handling = |identity, request| handler(call(identity, request));
            respond(&front, &app.gate, Some(db.clone()), handling, event).await
        }
    })
    .await
}

/// As [`serve()`], for an endpoint that rings.
///
/// # Errors
/// As [`serve()`].
pub async fn serve_ringing<H, F>(handler: H) -> anyhow::Result<()>
where
    H: Fn(Call, Queue) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Error>> + Send,
{
    let queue = warming_queue(QueueConfig::from_env()?.sync_queue_url).await;
    serve(move |call| handler(call, queue.clone())).await
}

/// As [`serve()`], for an endpoint that rings for whoever sends messages.
///
/// # Errors
/// As [`serve()`].
pub async fn serve_sending<H, F>(handler: H) -> anyhow::Result<()>
where
    H: Fn(Call, Sending) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Error>> + Send,
{
    let limits = send_limits()?;
    let sending = Sending { queue: warming_queue(QueueConfig::from_env()?.outbox_queue_url).await, limits };
    serve(move |call| handler(call, sending.clone())).await
}

/// What an endpoint has that is about messages to be sent.
#[derive(Clone)]
pub struct Sending {
    /// Where it rings.
    pub queue: Queue,
    /// How many messages may be put into the outbox.
    pub limits: SendLimits,
}

/// A queue whose connection opens beside the others; nothing waits for it.
async fn warming_queue(url: Option<String>) -> Queue {
    let queue = Queue::new(url);
    let warming = queue.clone();
    drop(tokio::spawn(async move { warming.warm_up().await }));
    queue
}

/// As [`serve()`], for an endpoint that gives leave to put something into the object store. It signs, and calls nobody.
///
/// # Errors
/// As [`serve()`]; there is no bucket.
pub async fn serve_uploads<H, F>(handler: H) -> anyhow::Result<()>
where
    H: Fn(Call, ObjectStore) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Error>> + Send,
{
    let objects = ObjectStore::new(mail_bucket()?)?;
    serve(move |call| handler(call, objects.clone())).await
}

/// Serves an endpoint of anybody, and connects to nothing.
///
/// # Errors
/// The configuration is bad.
pub async fn serve_public<H, F>(handler: H) -> anyhow::Result<()>
where
    H: Fn(PublicCall) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Error>> + Send,
{
    let config = PublicConfig::from_env()?;
    log::start(config.log_level);
    run(config, Visits::Nobody, future::ok(()), move |front, event| {
        let handler = handler.clone();
        async move {
            let cors = front.cors.clone();
            respond_public(&front, |request| handler(PublicCall { request, cors }), event).await
        }
    })
    .await
}

/// Serves the readiness check, which asks PostgreSQL, Redis, the queues and the object store but knows no caller.
///
/// # Errors
/// As [`serve()`].
pub async fn serve_readiness<H, F>(handler: H) -> anyhow::Result<()>
where
    H: Fn(ReadinessCall) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Error>> + Send,
{
    let (config, store, secrets) = begin(Config::from_env()?).await?;
    let QueueConfig { sync_queue_url, outbox_queue_url, .. } = QueueConfig::from_env()?;
    let queues = [warming_queue(sync_queue_url).await, warming_queue(outbox_queue_url).await];
    let objects = probed_bucket().map(ObjectStore::new).transpose()?;
    let Connected { db, redis, checked } = connect(&config, store, &secrets).await?;
    run(config.public, Visits::Nobody, checked, move |front, event| {
        let request_id = event.context.request_id.clone();
        let (queues, objects) = (queues.clone(), objects.clone());
        let call = ReadinessCall { request_id, db: db.clone(), redis: redis.clone(), queues, objects };
        let handler = handler.clone();
        async move { respond_public(&front, |_| handler(call), event).await }
    })
    .await
}

/// Who is let through.
struct Gate {
    authenticator: Authenticator,
    limiter: Option<RateLimiter>,
    /// Whether a request is also one of the few tries at mail hosts that a user has.
    counts_tries: bool,
}

impl Gate {
    fn new(config: &Config, keys: Keys, redis: &RedisLink, counts_tries: bool) -> Self {
        Self {
            authenticator: Authenticator::new(&config.auth, keys),
            limiter: config.rate_limit.map(|limit| RateLimiter::new(limit, redis.clone())),
            counts_tries,
        }
    }
}

/// What an endpoint of identified callers works with.
struct App {
    gate: Gate,
    secrets: Arc<SecretStore>,
    db: Db,
    accounts_per_user: i32,
}

/// Starts the log, and reads the secrets.
async fn begin(config: Config) -> anyhow::Result<(Config, Arc<SecretStore>, Secrets)> {
    log::start(config.public.log_level);
    let store = Arc::new(SecretStore::new(config.secrets.clone()));
    let secrets = store.get().await?;
    Ok((config, store, secrets))
}

/// The ways to PostgreSQL and Redis.
struct Connected {
    db: Db,
    redis: RedisLink,
    checked: Checked,
}

/// Whether PostgreSQL's role is one to work with.
type Checked = BoxFuture<'static, anyhow::Result<()>>;

/// Opens PostgreSQL and Redis, both at once.
async fn connect(config: &Config, store: Arc<SecretStore>, secrets: &Secrets) -> anyhow::Result<Connected> {
    let db = Db::new(store, config.concurrency, MAX_IDLE).await?;
    let redis = RedisLink::new(&secrets.redis_url)?;
    let (checked, ()) = tokio::join!(db.warm_up(), redis.warm_up());
    Ok(Connected { db, redis, checked: checked.boxed() })
}

/// Reads the configuration, opens PostgreSQL and Redis, and asks for the keys that check tokens, all at once.
async fn start() -> anyhow::Result<(Config, App, Checked)> {
    let (config, store, secrets) = begin(Config::from_env()?).await?;
    let keys = Keys::new(&config.auth, &secrets, &store)?;
    let (connected, ()) = tokio::join!(connect(&config, store.clone(), &secrets), keys.warm_up());
    let Connected { db, redis, checked } = connected?;
    let gate = Gate::new(&config, keys, &redis, false);
    let accounts_per_user = config.accounts_per_user;
    Ok((config, App { gate, secrets: store, db, accounts_per_user }, checked))
}

/// What every function has at its front, whoever may call it.
struct Front {
    cors: Arc<Cors>,
    /// True until the first request.
    cold: AtomicBool,
    /// The function's name, where metrics are wanted.
    metrics_of: Option<Arc<str>>,
    visits: Visits,
}

/// Polls the Lambda runtime. Nothing that `respond` does is a failed invocation, for then the gateway would answer in
/// its own words. What `checked` finds amiss ends the process as if it had not started: the first request is on its way
/// here, and has not come to PostgreSQL, while that is asked.
async fn run<H, F>(
    config: PublicConfig,
    visits: Visits,
    checked: impl Future<Output = anyhow::Result<()>>,
    respond: H,
) -> anyhow::Result<()>
where
    H: Fn(Arc<Front>, LambdaEvent<Event>) -> F + Clone + Send + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    keep_freed();
    let front = Arc::new(Front {
        cors: Arc::new(Cors::new(config.cors_origins)),
        cold: AtomicBool::new(true),
        metrics_of: config.metrics_of.map(Arc::from),
        visits,
    });
    let service = service_fn(move |event| {
        // Boxed, because the runtime's layers move the future a dozen times before they poll it.
        let response = Box::pin(respond(front.clone(), event));
        async move { Ok::<_, Infallible>(response.await) }
    });
    // One at a time on classic Lambda; as many as AWS_LAMBDA_MAX_CONCURRENCY says on Managed Instances.
    // Boxed, because the compiler refuses futures that nest as deeply as the runtime's does around ours.
    let serving = Box::pin(lambda_runtime::run_concurrent(service));
    future::try_join(serving.map_err(|error: RuntimeError| anyhow!(error)), checked).await.map(drop)
}

/// One request of an endpoint of identified callers, start to end. `db` is what the handler works with, for its stopwatch.
async fn respond<H, F>(front: &Front, gate: &Gate, db: Option<Db>, handler: H, event: LambdaEvent<Event>) -> Response
where
    H: FnOnce(Identity, Request) -> F,
    F: Future<Output = Result<Reply, Error>>,
{
    let (mut exchange, request) = Exchange::begin(front, event);
    let identified = gate.authenticator.identify(&request).await;
    if let Some(limiter) = &gate.limiter {
        let started = Instant::now();
        exchange.decision = Some(match &identified {
            Ok(identity) if gate.counts_tries => {
                // One after the other: a try that is refused takes no place among all requests.
                match limiter.check(Subject::Tries(identity.scope)).await {
                    tries if !tries.allowed => tries,
                    _ => limiter.check(Subject::User(identity.scope)).await,
                }
            }
            Ok(identity) => limiter.check(Subject::User(identity.scope)).await,
            Err(_) => limiter.check(Subject::Address(&request.source_ip)).await,
        });
        exchange.redis_time = started.elapsed();
    }
    exchange.identity = identified.as_ref().ok().copied();
    exchange.db = db;
    let outcome = match (identified, &exchange.decision) {
        (_, Some(decision)) if !decision.allowed => Err(Error::TooManyRequests(decision.quota)),
        (Err(error), _) => Err(error),
        (Ok(identity), _) => match refuse_override(&identity, &request) {
            Err(error) => Err(error),
            Ok(()) => unwinding(handler(identity, request)).await,
        },
    };
    exchange.end(outcome)
}

/// One request of an endpoint of anybody, start to end.
async fn respond_public<H, F>(front: &Front, handler: H, event: LambdaEvent<Event>) -> Response
where
    H: FnOnce(Request) -> F,
    F: Future<Output = Result<Reply, Error>>,
{
    let (exchange, request) = Exchange::begin(front, event);
    let outcome = unwinding(async { handler(request).await }).await;
    exchange.end(outcome)
}

/// A panic becomes an error like another. The state that it may have left half-changed is the request's own.
fn unwinding(handling: impl Future<Output = Result<Reply, Error>>) -> impl Future<Output = Result<Reply, Error>> {
    let panicked = || Error::internal(anyhow!("the handler panicked; the line before this one says where"));
    AssertUnwindSafe(handling).catch_unwind().map(move |outcome| outcome.unwrap_or_else(|_| Err(panicked())))
}

/// What is known of a request while it is answered: for the answer's headers and for the log line.
struct Exchange {
    started: Instant,
    cold_start: bool,
    is_format_2: bool,
    request_id: String,
    method: String,
    route: String,
    path: String,
    source_ip: String,
    user_agent: String,
    cors_headers: Vec<(HeaderName, HeaderValue)>,
    identity: Option<Identity>,
    decision: Option<Decision>,
    redis_time: Duration,
    db: Option<Db>,
    metrics_of: Option<Arc<str>>,
    visits: Visits,
}

impl Exchange {
    fn begin(front: &Front, event: LambdaEvent<Event>) -> (Self, Request) {
        let request = Request::from(event.payload);
        let exchange = Self {
            started: Instant::now(),
            cold_start: front.cold.swap(false, Ordering::Relaxed),
            is_format_2: request.is_format_2,
            request_id: event.context.request_id,
            method: request.method.clone(),
            route: request.route.clone(),
            path: log::clip(&request.path, 256).to_owned(),
            source_ip: request.source_ip.clone(),
            user_agent: log::clip(&request.user_agent, 256).to_owned(),
            cors_headers: front.cors.headers(&request),
            identity: None,
            decision: None,
            redis_time: Duration::ZERO,
            db: None,
            metrics_of: front.metrics_of.clone(),
            visits: front.visits,
        };
        (exchange, request)
    }

    fn end(self, outcome: Result<Reply, Error>) -> Response {
        let (status, error) = match &outcome {
            Ok(reply) => (reply.status, None),
            Err(error) => (error.status().0, Some(error)),
        };
        self.log(status.as_u16(), error);
        let quota = match error {
            // Not always the common one.
            Some(Error::TooManyRequests(quota)) => Some(*quota),
            _ => self.decision.map(|decision| decision.quota),
        };
        let (own_headers, mut body, is_base64_encoded) = match outcome {
            Ok(reply) => (reply.headers, reply.body, reply.is_base64_encoded),
            Err(error) => {
                // The envelope is strings and numbers: it always has a JSON form.
                let body = serde_json::to_string(&error.envelope(&self.request_id)).unwrap_or_default();
                (Vec::from_iter(error.header()), body, false)
            }
        };
        // Whatever the answer is, this method asks for its head alone (RFC 9110, 9.3.2).
        if self.method == "HEAD" {
            body.clear();
        }
        // Room for all of them.
        let mut headers = Vec::with_capacity(24);
        headers.extend([
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000; includeSubDomains")),
        ]);
        if let Ok(id) = HeaderValue::from_str(&self.request_id) {
            headers.push((HeaderName::from_static("x-request-id"), id));
        }
        headers.extend(quota.iter().flat_map(Quota::headers));
        headers.extend(self.cors_headers);
        headers.push((header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
        // What is the same for everybody has a type, and a time to be cached, of its own.
        headers.retain(|(general, _)| own_headers.iter().all(|(own, _)| own != general));
        headers.extend(own_headers);
        Response {
            status_code: status.as_u16(),
            headers,
            body,
            is_base64_encoded,
            cookies: self.is_format_2.then_some([]),
        }
    }

    fn log(&self, status: u16, error: Option<&Error>) {
        let error_kind = error.map(|error| error.status().1);
        let duration = self.started.elapsed();
        let fallback = self.decision.map(|decision| decision.fallback);
        let metrics = self.metrics_of.as_deref().map(|function| {
            Metrics::from(Measured {
                function,
                visits: self.visits,
                status,
                error_kind,
                cold_start: self.cold_start,
                fallback: fallback.unwrap_or_default(),
                duration,
                database_time: self.db.as_ref().map(Db::waited).unwrap_or_default(),
                redis_time: self.redis_time,
            })
        });
        let line = RequestLine {
            request_id: &self.request_id,
            method: &self.method,
            route: &self.route,
            path: &self.path,
            status,
            duration_ms: milliseconds(duration),
            tenant_id: self.identity.map(|identity| identity.scope.tenant_id),
            user_id: self.identity.map(|identity| identity.scope.user_id),
            role: self.identity.map(|identity| identity.role),
            source_ip: &self.source_ip,
            user_agent: &self.user_agent,
            cold_start: self.cold_start,
            rate_limit_fallback: fallback,
            error_kind,
            error: error.and_then(Error::cause).map(|cause| format!("{cause:#}")),
            metrics,
        };
        line.write();
    }
}

#[cfg(test)]
mod tests {
    use lambda_http::http::StatusCode;
    use lambda_http::lambda_runtime::Context;

    use super::*;

    fn front() -> Front {
        Front {
            cors: Arc::new(Cors::new(vec![])),
            cold: AtomicBool::new(true),
            metrics_of: None,
            visits: Visits::Nobody,
        }
    }

    fn event() -> LambdaEvent<Event> {
        let mut context = Context::default();
        context.request_id = "request-7".into();
        LambdaEvent::new(Event::default(), context)
    }

    fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
        response.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.to_str().unwrap())
    }

    #[tokio::test]
    async fn a_panic_becomes_a_500_in_the_usual_form() {
        let response = respond_public(&front(), |_| async { panic!("secret inside") }, event()).await;
        assert_eq!(response.status_code, 500);
        assert!(
            response.body.contains(r#""requestId":"request-7""#) && !response.body.contains("secret"),
            "{}",
            response.body
        );
        assert_eq!(header(&response, "x-request-id"), Some("request-7"));
        assert_eq!(header(&response, "cache-control"), Some("no-store"));
    }

    #[tokio::test]
    async fn a_panic_before_the_first_await_is_caught_too() {
        fn handler(_: Request) -> std::future::Ready<Result<Reply, Error>> {
            panic!("at once")
        }
        assert_eq!(respond_public(&front(), handler, event()).await.status_code, 500);
    }

    #[tokio::test]
    async fn every_header_name_stands_once() {
        let reply = || async { Reply::json(StatusCode::CREATED, &"x")?.with_location("/x") };
        let response = respond_public(&front(), |_| reply(), event()).await;
        let mut names: Vec<_> = response.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "{names:?}");
    }

    #[tokio::test]
    async fn a_head_has_no_body_whatever_the_answer() {
        for outcome in [Reply::json(StatusCode::OK, &"x"), Err(Error::NotFound("nothing here"))] {
            let mut head = event();
            head.payload = serde_json::from_str(r#"{"requestContext":{"http":{"method":"HEAD"}}}"#).unwrap();
            let response = respond_public(&front(), |_| std::future::ready(outcome), head).await;
            assert_eq!((response.body.as_str(), header(&response, "content-type")), ("", Some("application/json")));
        }
    }

    #[tokio::test]
    async fn a_header_of_its_own_takes_the_place_of_the_general_one() {
        let own = vec![(header::CACHE_CONTROL, HeaderValue::from_static("public"))];
        let reply = Ok(Reply::text(StatusCode::OK, own, String::new()));
        let response = respond_public(&front(), |_| std::future::ready(reply), event()).await;
        let values: Vec<_> = response.headers.iter().filter(|(name, _)| name == header::CACHE_CONTROL).collect();
        assert!(values.len() == 1 && values[0].1 == "public", "{values:?}");
    }

    #[tokio::test]
    async fn only_the_first_request_is_a_cold_start() {
        let front = front();
        assert!(Exchange::begin(&front, event()).0.cold_start);
        assert!(!Exchange::begin(&front, event()).0.cold_start);
    }
}
