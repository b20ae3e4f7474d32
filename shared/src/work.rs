//! What has no caller: the messages of a queue, and the ticks of a schedule.

pub mod due;
pub mod mail;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::anyhow;
use futures_util::FutureExt;
use lambda_http::lambda_runtime::{self, Context, Error as RuntimeError, LambdaEvent, service_fn};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{timeout, timeout_at};

use crate::account::AccountId;
use crate::config::{PublicConfig, QueueConfig};
use crate::doorbell::Doorbell;
use crate::error::Error;
use crate::identity::Scope;
use crate::join::join_at_most;
use crate::log::{self, JobLine};
use crate::memory::keep_freed;
use crate::metrics::{JobMetrics, milliseconds};
use crate::queue::Queue;

/// How long a job goes on before it makes room for others, however much it has left: a large mailbox is many pieces.
const PIECE: Duration = Duration::from_secs(60);
/// How long before its function's end a job is to stop. The longest single wait, for a mail host's answer, is 15 s;
/// the rest is for what was read until then.
const HANDOVER: Duration = Duration::from_secs(20);
/// How long before its function's end a job is cut off that did not stop, so that the others of its batch, and the log,
/// do not end with it.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long before that a job gets no answer any more that is to be noted: two statements, each of 6 s at most, where the
/// first fails.
const LAST_STATEMENT: Duration = Duration::from_secs(12);
/// How often a message is received before it becomes a dead letter: the queue's `maxReceiveCount` (data.yaml).
pub const ATTEMPTS: u32 = 5;
/// Jobs of a batch at once. They mostly wait for mail hosts, so one that is slow holds up none of the others; and four
/// times the 64 MB that a job may take fit into a small function.
pub const JOBS_AT_ONCE: usize = 4;

/// One message: an account that may have something to do.
#[derive(Debug, Clone)]
pub struct Job {
    /// Whose rows the work may touch.
    pub scope: Scope,
    /// The account.
    pub account_id: AccountId,
    /// How often the message was received, this time included: from 1.
    pub attempt: u32,
    /// When to hand over what is left: after a minute, or earlier when the function's time ends, which a job that goes on
    /// does not outlive.
    pub stop_at: Instant,
    /// When the function's time ends, but for the last words of a job: one that waits for an answer that counts may wait
    /// so long.
    pub ends_at: Instant,
}

/// How a job ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// There is nothing left to do now.
    Complete,
    /// There is more: ring again.
    More,
}

/// Why a job, or a tick, failed. The message comes again after the queue's visibility timeout, and after too many times
/// it becomes a dead letter. What a mail host does wrong is no failure of a job: that is the account's state.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The message is none of ours, and will not become one.
    #[error("the message names no account")]
    Poisoned,
    /// The function's time ended first.
    #[error("the function's time was up")]
    OutOfTime,
    /// The handler panicked.
    #[error("the handler panicked; the line before this one says where")]
    Panicked,
    /// Our fault, with its cause.
    #[error("{0:#}")]
    Internal(anyhow::Error),
}

impl WorkError {
    /// The kind, for the log and the metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Poisoned => "Poisoned message",
            Self::OutOfTime => "Out of time",
            Self::Panicked => "Panic",
            Self::Internal(_) => "Internal error",
        }
    }
}

impl From<anyhow::Error> for WorkError {
    fn from(cause: anyhow::Error) -> Self {
        Self::Internal(cause)
    }
}

/// Nobody asked, so a refusal is our fault, too.
impl From<Error> for WorkError {
    fn from(error: Error) -> Self {
        match error {
            Error::Internal(cause) => Self::Internal(cause),
            refusal => Self::Internal(anyhow!(refusal)),
        }
    }
}

/// Works off a queue: hands each message of a batch to `handler`, and tells which failed, so that the others are done
/// with.
///
/// # Errors
/// The configuration is bad.
pub async fn work<H, F>(handler: H) -> anyhow::Result<()>
where
    H: Fn(Job) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Done, WorkError>> + Send,
{
    work_or_give_up(QueueConfig::from_env()?, |config| config.sync_queue_url.clone(), handler, |_| async {}).await
}

/// As [`work()`]. `give_up` is told of a job that failed at its last attempt: its message becomes a dead letter.
async fn work_or_give_up<H, F, G, E>(
    config: QueueConfig,
    queue_of: impl FnOnce(&QueueConfig) -> Option<String>,
    handler: H,
    give_up: G,
) -> anyhow::Result<()>
where
    H: Fn(Job) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Done, WorkError>> + Send,
    G: Fn(Job) -> E + Clone + Send + Sync + 'static,
    E: Future<Output = ()> + Send,
{
    log::start(config.public.log_level);
    let queue = Queue::new(queue_of(&config));
    let back = Arc::new(Back::new(config.public));
    run(move |event: LambdaEvent<Batch>| {
        let (back, queue, handler, give_up) = (back.clone(), queue.clone(), handler.clone(), give_up.clone());
        async move { Ok(work_off(&back, &queue, handler, give_up, event).await) }
    })
    .await
}

/// A function's turn, by its schedule.
#[derive(Debug, Clone)]
pub struct Tick {
    /// When to stop.
    pub stop_at: Instant,
}

/// Serves a schedule: hands each tick to `handler`. What that answers is in the log; a failure is a failed invocation.
///
/// # Errors
/// The configuration is bad.
pub async fn serve_schedule<H, F, A>(handler: H) -> anyhow::Result<()>
where
    H: Fn(Tick) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<A, WorkError>> + Send,
    A: Serialize + Send,
{
    let config = PublicConfig::from_env()?;
    log::start(config.log_level);
    let back = Arc::new(Back::new(config));
    // What the schedule says of itself decides nothing.
    run(move |event: LambdaEvent<IgnoredAny>| {
        let (back, handler) = (back.clone(), handler.clone());
        async move { take_turn(&back, handler, &event.context).await }
    })
    .await
}

/// Polls the Lambda runtime.
async fn run<E, A, H, F>(answer: H) -> anyhow::Result<()>
where
    E: for<'de> Deserialize<'de> + Send + 'static,
    A: Serialize + Send + 'static,
    H: Fn(LambdaEvent<E>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<A, RuntimeError>> + Send + 'static,
{
    keep_freed();
    // Boxed for the reasons that serve.rs has.
    let service = service_fn(move |event| Box::pin(answer(event)));
    Box::pin(lambda_runtime::run_concurrent(service)).await.map_err(|error: RuntimeError| anyhow!(error))
}

/// What every function has that nobody calls.
struct Back {
    /// True until the first job.
    cold: AtomicBool,
    /// The function's name, where metrics are wanted.
    metrics_of: Option<String>,
}

impl Back {
    fn new(config: PublicConfig) -> Self {
        Self { cold: AtomicBool::new(true), metrics_of: config.metrics_of }
    }

    fn metrics(&self, error_kind: Option<&'static str>, took: Duration, delay: Duration) -> Option<JobMetrics<'_>> {
        self.metrics_of.as_deref().map(|function| JobMetrics::new(function, error_kind, took, delay))
    }
}

/// The messages that SQS hands to Lambda together. A message that is not as it should be fails alone, so every part may
/// be missing.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Batch {
    #[serde(rename = "Records")]
    records: Vec<Message>,
}

impl Batch {
    /// What its messages say, each with how often it was received, and how long ago it was sent.
    pub fn read(&self) -> impl Iterator<Item = (Option<Doorbell>, u32, Duration)> {
        self.records.iter().map(|message| (message.doorbell(), message.attempt(), message.waited()))
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Message {
    message_id: String,
    body: String,
    attributes: Attributes,
}

/// Numbers, written as texts.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Attributes {
    approximate_receive_count: String,
    sent_timestamp: String,
}

/// Which messages are to come again; SQS is done with the others. A batch without ids must not be taken for one without
/// failures: Lambda takes an empty id for the failure of all.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct BatchAnswer {
    batch_item_failures: Vec<Failure>,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Failure {
    item_identifier: String,
}

/// When a function's time ends, for its jobs.
#[derive(Clone, Copy)]
struct Hours {
    stop_at: Instant,
    cut_off_at: Instant,
    /// What of it the last statement may take.
    last_statement: Duration,
}

impl Hours {
    /// A function with little time gives half of it to its jobs.
    fn of(context: &Context) -> Self {
        let end = UNIX_EPOCH + Duration::from_millis(context.deadline);
        let left = end.duration_since(SystemTime::now()).unwrap_or_default();
        let now = Instant::now();
        Self {
            stop_at: now + left - HANDOVER.min(left / 2),
            cut_off_at: now + left - LAST_WORDS.min(left / 4),
            last_statement: LAST_STATEMENT.min(left / 4),
        }
    }
}

/// One batch, start to end.
async fn work_off<H, F, G, E>(
    back: &Back,
    queue: &Queue,
    handler: H,
    give_up: G,
    event: LambdaEvent<Batch>,
) -> BatchAnswer
where
    H: Fn(Job) -> F,
    F: Future<Output = Result<Done, WorkError>>,
    G: Fn(Job) -> E,
    E: Future<Output = ()>,
{
    let hours = Hours::of(&event.context);
    let request_id = event.context.request_id.as_str();
    let jobs = event.payload.records.into_iter().map(|message| {
        let (handler, give_up) = (&handler, &give_up);
        async move {
            let (started, delay) = (Instant::now(), message.waited());
            let cold_start = back.cold.swap(false, Ordering::Relaxed);
            let (doorbell, attempt) = (message.doorbell(), message.attempt());
            let stop_at = hours.stop_at.min(started + PIECE);
            let job = doorbell.map(|bell| Job {
                scope: bell.scope(),
                account_id: bell.account_id,
                attempt,
                stop_at,
                ends_at: hours.cut_off_at - hours.last_statement,
            });
            let outcome = match job.clone() {
                None => Err(WorkError::Poisoned),
                Some(_) if started >= hours.stop_at => Err(WorkError::OutOfTime),
                Some(job) => unwinding(hours, async { handler(job).await }).await,
            };
            if let (Err(_), Some(job), ATTEMPTS..) = (&outcome, job, attempt) {
                // Should it take longer, or panic, the message is a dead letter all the same.
                let giving_up = AssertUnwindSafe(async { give_up(job).await }).catch_unwind();
                let _ = timeout(LAST_WORDS / 2, giving_up).await;
            }
            if let (Ok(Done::More), Some(doorbell)) = (&outcome, doorbell) {
                queue.ring(doorbell.scope(), doorbell.account_id).await;
            }
            let (took, error) = (started.elapsed(), outcome.as_ref().err());
            let line = JobLine {
                request_id,
                message_id: Some(&message.message_id),
                doorbell,
                attempt: Some(attempt),
                delay_ms: Some(milliseconds(delay)),
                duration_ms: milliseconds(took),
                outcome: match outcome {
                    Ok(Done::Complete) => "done",
                    Ok(Done::More) => "more",
                    Err(_) => "failed",
                },
                result: None,
                cold_start,
                error_kind: error.map(WorkError::kind),
                error: error.map(ToString::to_string),
                metrics: back.metrics(error.map(WorkError::kind), took, delay),
            };
            line.write();
            outcome.err().map(|_| Failure { item_identifier: message.message_id })
        }
    });
    let failures = join_at_most(JOBS_AT_ONCE, jobs).await;
    BatchAnswer { batch_item_failures: failures.into_iter().flatten().collect() }
}

/// One tick, start to end.
async fn take_turn<H, F, A>(back: &Back, handler: H, context: &Context) -> Result<Value, RuntimeError>
where
    H: Fn(Tick) -> F,
    F: Future<Output = Result<A, WorkError>>,
    A: Serialize,
{
    let started = Instant::now();
    let cold_start = back.cold.swap(false, Ordering::Relaxed);
    let hours = Hours::of(context);
    let answer = unwinding(hours, async { handler(Tick { stop_at: hours.stop_at }).await }).await;
    let answer = answer.and_then(|answer| serde_json::to_value(answer).map_err(|error| anyhow!(error).into()));
    let (took, error) = (started.elapsed(), answer.as_ref().err());
    let line = JobLine {
        request_id: &context.request_id,
        message_id: None,
        doorbell: None,
        attempt: None,
        delay_ms: None,
        duration_ms: milliseconds(took),
        outcome: if error.is_some() { "failed" } else { "done" },
        result: answer.as_ref().ok(),
        cold_start,
        error_kind: error.map(WorkError::kind),
        error: error.map(ToString::to_string),
        metrics: back.metrics(error.map(WorkError::kind), took, Duration::ZERO),
    };
    line.write();
    answer.map_err(RuntimeError::from)
}

/// A panic, or the end of the function's time, becomes an error like another.
async fn unwinding<T>(hours: Hours, handling: impl Future<Output = Result<T, WorkError>>) -> Result<T, WorkError> {
    match timeout_at(hours.cut_off_at.into(), AssertUnwindSafe(handling).catch_unwind()).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(WorkError::Panicked),
        Err(_) => Err(WorkError::OutOfTime),
    }
}

impl Message {
    /// `None` where it is none of ours.
    fn doorbell(&self) -> Option<Doorbell> {
        Doorbell::parse(&self.body)
    }

    /// How often it was received, this time included; once when that is unknown.
    fn attempt(&self) -> u32 {
        self.attributes.approximate_receive_count.parse().unwrap_or(1)
    }

    /// How long ago it was sent; nothing when that is unknown.
    fn waited(&self) -> Duration {
        let sent = self.attributes.sent_timestamp.parse().ok().map(|millis| UNIX_EPOCH + Duration::from_millis(millis));
        sent.and_then(|sent| SystemTime::now().duration_since(sent).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::AtomicUsize;

    use serde_json::json;
    use tokio::sync::Notify;
    use uuid::Uuid;

    use super::*;
    use crate::identity::{TenantId, UserId};

    fn back() -> Back {
        Back { cold: AtomicBool::new(true), metrics_of: None }
    }

    fn doorbell() -> Doorbell {
        let scope = Scope { tenant_id: TenantId(Uuid::now_v7()), user_id: UserId(Uuid::now_v7()) };
        Doorbell::new(scope, AccountId(Uuid::now_v7()))
    }

    /// An event as SQS sends it, for a function that has so much time.
    fn event(time: Duration, bodies: &[String]) -> LambdaEvent<Batch> {
        let record = |(index, body): (usize, &String)| {
            json!({
                "messageId": format!("m{index}"), "receiptHandle": "AQEB", "body": body,
                "attributes": {
                    "ApproximateReceiveCount": "3", "SentTimestamp": "1545082649183",
                    "SenderId": "AIDAIENQZJOLO23YVJ4VO", "ApproximateFirstReceiveTimestamp": "1545082649185"
                },
                "messageAttributes": {}, "md5OfBody": "e4e68fb7bd0e697a0ae8f1bb342846b3", "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-2:123456789012:my-queue", "awsRegion": "us-east-2"
            })
        };
        let records: Vec<Value> = bodies.iter().enumerate().map(record).collect();
        LambdaEvent::new(serde_json::from_value(json!({ "Records": records })).unwrap(), context(time))
    }

    fn context(time: Duration) -> Context {
        let end = (SystemTime::now() + time).duration_since(UNIX_EPOCH).unwrap();
        let mut context = Context::default();
        context.request_id = "request-7".to_owned();
        context.deadline = end.as_millis().try_into().unwrap();
        context
    }

    const PLENTY: Duration = Duration::from_secs(300);

    fn failed(answer: BatchAnswer) -> BTreeSet<String> {
        answer.batch_item_failures.into_iter().map(|failure| failure.item_identifier).collect()
    }

    fn ids<const N: usize>(ids: [&str; N]) -> BTreeSet<String> {
        ids.map(str::to_owned).into()
    }

    #[tokio::test]
    async fn a_job_that_fails_at_its_last_attempt_is_given_up() {
        let doorbells: Vec<_> = std::iter::repeat_with(doorbell).take(5).collect();
        let mut bodies: Vec<_> = doorbells.iter().map(Doorbell::body).collect();
        bodies.push("poison".to_owned());
        let mut event = event(PLENTY, &bodies);
        for (index, message) in event.payload.records.iter_mut().enumerate() {
            message.attributes.approximate_receive_count = if index == 3 { "4" } else { "5" }.to_owned();
        }
        let given_up = std::sync::Mutex::new(BTreeSet::new());
        let index = |job: &Job| doorbells.iter().position(|known| known.account_id == job.account_id).unwrap();
        let answer = work_off(
            &back(),
            &Queue::new(None),
            |job| {
                let index = index(&job);
                async move {
                    match index {
                        0 => Ok(Done::Complete),
                        1 => panic!("no"),
                        _ => Err(anyhow!("no").into()),
                    }
                }
            },
            |job| {
                given_up.lock().unwrap().insert(index(&job));
                // The batch does not end with it.
                assert_ne!(job.account_id, doorbells[4].account_id);
                std::future::ready(())
            },
            event,
        )
        .await;
        assert_eq!(failed(answer), ids(["m1", "m2", "m3", "m4", "m5"]));
        assert_eq!(given_up.into_inner().unwrap(), BTreeSet::from([1, 2, 4]));
    }

    #[tokio::test]
    async fn a_message_fails_alone() {
        let doorbells: Vec<_> = std::iter::repeat_with(doorbell).take(6).collect();
        let mut bodies: Vec<_> = doorbells.iter().map(Doorbell::body).collect();
        bodies[2] = "poison".to_owned();
        let done = AtomicUsize::new(0);
        let answer = work_off(
            &back(),
            &Queue::new(None),
            |job| {
                let (doorbells, done) = (&doorbells, &done);
                async move {
                    let index = doorbells.iter().position(|known| known.account_id == job.account_id).unwrap();
                    assert_eq!((job.scope, job.attempt), (doorbells[index].scope(), 3));
                    assert!(job.stop_at <= Instant::now() + Duration::from_secs(60), "of five minutes");
                    match index {
                        0 => return Err(anyhow!("no").into()),
                        1 => return Err(Error::NotFound("no").into()),
                        3 => panic!("no"),
                        4 => return Ok(Done::More),
                        _ => {}
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    Ok(Done::Complete)
                }
            },
            |_| async {},
            event(PLENTY, &bodies),
        )
        .await;
        assert_eq!(failed(answer), ids(["m0", "m1", "m2", "m3"]));
        assert_eq!(done.into_inner(), 1);
    }

    #[test]
    fn the_answer_is_what_lambda_reads() {
        let answer = |failures: &[&str]| {
            let failure = |id: &&str| Failure { item_identifier: (*id).to_owned() };
            serde_json::to_value(BatchAnswer { batch_item_failures: failures.iter().map(failure).collect() }).unwrap()
        };
        assert_eq!(answer(&[]), json!({"batchItemFailures": []}));
        assert_eq!(answer(&["m0"]), json!({"batchItemFailures": [{"itemIdentifier": "m0"}]}));
    }

    #[tokio::test]
    async fn a_slow_job_holds_up_no_other_and_not_all_run_at_once() {
        let bodies: Vec<_> = std::iter::repeat_with(doorbell).take(10).map(|doorbell| doorbell.body()).collect();
        let (begun, running, most, last) =
            (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0), Notify::new());
        let answer = work_off(
            &back(),
            &Queue::new(None),
            |_| async {
                most.fetch_max(running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                // The first waits for the last.
                match begun.fetch_add(1, Ordering::Relaxed) {
                    0 => last.notified().await,
                    9 => last.notify_one(),
                    _ => tokio::task::yield_now().await,
                }
                running.fetch_sub(1, Ordering::Relaxed);
                Ok(Done::Complete)
            },
            |_| async {},
            event(PLENTY, &bodies),
        )
        .await;
        assert_eq!(failed(answer), ids([]));
        assert_eq!(most.into_inner(), JOBS_AT_ONCE);
    }

    #[tokio::test]
    async fn a_job_that_does_not_stop_is_cut_off_and_none_begins_when_the_time_is_up() {
        let bodies: Vec<_> =
            std::iter::repeat_with(doorbell).take(JOBS_AT_ONCE + 2).map(|doorbell| doorbell.body()).collect();
        let begun = AtomicUsize::new(0);
        let started = Instant::now();
        let answer = work_off(
            &back(),
            &Queue::new(None),
            |_| {
                let index = begun.fetch_add(1, Ordering::Relaxed);
                async move {
                    match index {
                        0 => Ok(Done::Complete),
                        _ => std::future::pending().await,
                    }
                }
            },
            |_| async {},
            event(Duration::from_secs(4), &bodies),
        )
        .await;
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
        // The second wave got one place at once, and the rest when the time was up.
        assert_eq!(begun.into_inner(), JOBS_AT_ONCE + 1);
        assert_eq!(failed(answer), ids(["m1", "m2", "m3", "m4", "m5"]));
    }

    #[test]
    fn a_job_is_told_to_stop_twenty_seconds_before_the_end() {
        for (time, stop, cut_off) in [(300, 280, 298), (30, 15, 28), (4, 2, 3), (0, 0, 0)] {
            let hours = Hours::of(&context(Duration::from_secs(time)));
            let near = |at: Instant, expected: u64| {
                let left = at.saturating_duration_since(Instant::now()).as_secs_f64();
                (left - expected as f64).abs() < 0.5
            };
            assert!(near(hours.stop_at, stop) && near(hours.cut_off_at, cut_off), "{time}");
        }
    }

    #[tokio::test]
    async fn a_tick_answers_or_is_a_failed_invocation() {
        let tick = |fails: bool| async move {
            let handler = |_: Tick| async move {
                match fails {
                    true => Err(WorkError::from(anyhow!("no database"))),
                    false => Ok(json!({"rung": 3})),
                }
            };
            take_turn(&back(), handler, &context(PLENTY)).await
        };
        assert_eq!(tick(false).await.unwrap(), json!({"rung": 3}));
        assert!(tick(true).await.unwrap_err().to_string().contains("no database"));
        let panics = |_: Tick| async { panic!("no") };
        assert!(take_turn::<_, _, ()>(&back(), panics, &context(PLENTY)).await.is_err());
    }
}
