//! Ringing for a worker. The database says what is due; a message is only a doorbell, so a lost or doubled one changes
//! nothing but the moment.
//!
//! Only functions that make a [`Queue`] have SQS's client in their program: the linker leaves out what nobody calls.

use std::time::Duration;

use anyhow::Context;
use aws_config::retry::RetryConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{QueueAttributeName, SendMessageBatchRequestEntry};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;
use tokio::time::timeout;

use crate::account::AccountId;
use crate::aws;
use crate::doorbell::Doorbell;
use crate::error::describe;
use crate::identity::Scope;

/// The longest that a request waits for the queue: what is lost is found by the schedule all the same.
const RING_LIMIT: Duration = Duration::from_millis(250);
/// The longest that a batch waits. Nobody waits for the schedule, but its function's time ends.
const BATCH_LIMIT: Duration = Duration::from_secs(5);
/// SQS keeps no message back for longer.
pub const LONGEST_DELAY: Duration = Duration::from_secs(15 * 60);
/// SQS takes no more messages in one call.
const BATCH_SIZE: usize = 10;
/// Batches on their way at once: at 20 ms a round trip 4,000 messages a second, and few connections.
const BATCHES_AT_ONCE: usize = 8;
/// Before a second attempt, which is to come within [`RING_LIMIT`]: the first may meet a connection that was closed
/// while the function was frozen.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// The way to the workers of a queue.
#[derive(Debug, Clone)]
pub struct Queue(Option<Link>);

#[derive(Debug, Clone)]
struct Link {
    client: Client,
    url: String,
}

impl Queue {
    /// The queue at this URL; without one, nobody is rung.
    pub fn new(url: Option<String>) -> Self {
        let Some(url) = url else { return Self(None) };
        let retries = RetryConfig::standard().with_initial_backoff(RETRY_AFTER);
        let aws = aws::config("SQS", retries);
        Self(Some(Link { client: Client::new(&aws), url }))
    }

    /// Opens a connection, so that no request pays for it. A queue that is away is no reason not to start.
    pub async fn warm_up(&self) {
        if let Some(Err(error)) = self.ask(BATCH_LIMIT).await {
            tracing::warn!(error, "the queue is away; starting all the same");
        }
    }

    /// Whether the queue answers, or why it does not; `None` without a queue.
    pub fn ask(&self, limit: Duration) -> BoxFuture<'_, Option<Result<(), String>>> {
        Box::pin(async move {
            let Link { client, url } = self.0.as_ref()?;
            // Any call would do. This one changes nothing.
            let call = client.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::QueueArn);
            Some(match timeout(limit, call.send()).await {
                Ok(answer) => answer.map(drop).map_err(describe),
                Err(_) => Err(format!("no answer within {limit:?}")),
            })
        })
    }

    /// Rings for an account, best effort, within 250 ms. What could not be said is in the log.
    pub async fn ring(&self, scope: Scope, account_id: AccountId) {
        self.ring_after(scope, account_id, Duration::ZERO).await;
    }

    /// The same, and the worker hears it so much later, at most [`LONGEST_DELAY`].
    pub async fn ring_after(&self, scope: Scope, account_id: AccountId, delay: Duration) {
        let Some(link) = &self.0 else { return };
        let reason = match timeout(RING_LIMIT, link.ring_one(Doorbell::new(scope, account_id), delay)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => describe(error),
            Err(_) => format!("no answer within {RING_LIMIT:?}"),
        };
        tracing::warn!(reason, accountId = %account_id, "nobody was rung; the schedule finds the work");
    }

    /// Rings for many accounts; returns those for which it could not. Their reasons are in the log, one a batch.
    pub async fn ring_many(&self, doorbells: &[Doorbell]) -> Vec<Doorbell> {
        let Some(link) = &self.0 else { return Vec::new() };
        // Owned, for the compiler finds no lifetime for a closure over slices.
        let batches: Vec<Vec<Doorbell>> = doorbells.chunks(BATCH_SIZE).map(<[Doorbell]>::to_vec).collect();
        let ringing = stream::iter(batches).map(|batch| link.ring_batch(batch)).buffer_unordered(BATCHES_AT_ONCE);
        let failed: Vec<Vec<Doorbell>> = ringing.collect().await;
        failed.concat()
    }
}

impl Link {
    fn ring_one(&self, doorbell: Doorbell, delay: Duration) -> BoxFuture<'_, anyhow::Result<()>> {
        // Whole seconds; what comes too early finds nothing to do.
        let seconds = i32::try_from(delay.min(LONGEST_DELAY).as_millis().div_ceil(1000)).unwrap_or_default();
        let call = self.client.send_message().queue_url(&self.url).message_body(doorbell.body());
        let call = call.set_delay_seconds(Some(seconds).filter(|seconds| *seconds > 0));
        Box::pin(async { Ok(call.send().await.map(drop)?) })
    }

    /// Rings for at most [`BATCH_SIZE`] accounts; returns those for which it could not.
    async fn ring_batch(&self, batch: Vec<Doorbell>) -> Vec<Doorbell> {
        let reason = match timeout(BATCH_LIMIT, self.send_batch(&batch)).await {
            Ok(Ok(failed)) => return failed,
            Ok(Err(error)) => describe(error),
            Err(_) => format!("no answer within {BATCH_LIMIT:?}"),
        };
        tracing::warn!(reason, count = batch.len(), "a batch was not rung");
        batch
    }

    /// The call may succeed and single messages fail.
    fn send_batch<'a>(&'a self, batch: &'a [Doorbell]) -> BoxFuture<'a, anyhow::Result<Vec<Doorbell>>> {
        Box::pin(async move {
            let mut call = self.client.send_message_batch().queue_url(&self.url);
            for (index, doorbell) in batch.iter().enumerate() {
                let entry = SendMessageBatchRequestEntry::builder().id(index.to_string()).message_body(doorbell.body());
                call = call.entries(entry.build()?);
            }
            let answer = call.send().await.context("SQS did not take the batch")?;
            let mut failed = Vec::new();
            for failure in answer.failed() {
                tracing::warn!(code = failure.code(), error = failure.message(), "a message of a batch was not taken");
                failed.extend(failure.id().parse().ok().and_then(|index: usize| batch.get(index)));
            }
            Ok(failed)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
    use serde_json::Value;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::Mutex;
    use uuid::Uuid;

    use super::*;
    use crate::identity::{TenantId, UserId};

    fn doorbell() -> Doorbell {
        let scope = Scope { tenant_id: TenantId(Uuid::now_v7()), user_id: UserId(Uuid::now_v7()) };
        Doorbell::new(scope, AccountId(Uuid::now_v7()))
    }

    /// A queue at a server of the test's own.
    async fn queue_at(listener: &TcpListener) -> Queue {
        let config = aws_sdk_sqs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("us-east-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "test"))
            .endpoint_url(format!("http://{}", listener.local_addr().unwrap()))
            .http_client(aws::client())
            .build();
        let url = "https://sqs.us-east-1.amazonaws.com/123456789012/sync".to_owned();
        Queue(Some(Link { client: Client::from_conf(config), url }))
    }

    /// Answers each request by what `answer` makes of its JSON; keeps the requests.
    fn answer_with(
        listener: TcpListener,
        answer: impl Fn(&Value) -> Value + Send + Sync + 'static,
    ) -> Arc<Mutex<Vec<String>>> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (requests, answer) = (seen.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (requests, answer) = (requests.clone(), answer.clone());
                tokio::spawn(async move {
                    let mut text = String::new();
                    let mut buffer = [0; 16 * 1024];
                    loop {
                        let length = stream.read(&mut buffer).await.unwrap();
                        if length == 0 {
                            return;
                        }
                        text += std::str::from_utf8(&buffer[..length]).unwrap();
                        let Some((_, body)) = text.split_once("\r\n\r\n") else { continue };
                        let Ok(body) = serde_json::from_str(body) else { continue };
                        let answer = answer(&body).to_string();
                        requests.lock().await.push(std::mem::take(&mut text));
                        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-amz-json-1.0";
                        let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        seen
    }

    #[tokio::test]
    async fn a_queue_that_is_silent_or_away_costs_a_request_a_quarter_of_a_second_at_most() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let queues = [queue_at(&silent).await, queue_at(&gone).await];
        drop(gone);
        for queue in queues {
            let (started, doorbell) = (Instant::now(), doorbell());
            queue.ring(doorbell.scope(), doorbell.account_id).await;
            // 250 ms, and room for a machine with other things to do: the client itself would wait for longer.
            assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        }
    }

    #[tokio::test]
    async fn without_a_queue_nobody_is_rung_and_nothing_fails() {
        let queue = Queue::new(None);
        queue.warm_up().await;
        queue.ring(doorbell().scope(), doorbell().account_id).await;
        assert_eq!(queue.ring_many(&[doorbell()]).await, []);
    }

    #[tokio::test]
    async fn a_worker_is_rung_later_in_whole_seconds_and_no_later_than_the_queue_can() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let queue = queue_at(&listener).await;
        let requests = answer_with(listener, |_| serde_json::json!({"MessageId": "m", "MD5OfMessageBody": "m"}));
        let doorbell = doorbell();
        for delay in [Duration::ZERO, Duration::from_millis(7001), LONGEST_DELAY * 2] {
            queue.ring_after(doorbell.scope(), doorbell.account_id, delay).await;
        }
        let requests = requests.lock().await;
        let delays: Vec<_> = requests
            .iter()
            .map(|request| request.split("\"DelaySeconds\":").nth(1))
            .map(|rest| rest.and_then(|rest| rest.split([',', '}']).next()?.parse::<u32>().ok()))
            .collect();
        assert_eq!(delays, [None, Some(8), Some(900)]);
    }

    #[tokio::test]
    async fn many_are_rung_in_tens_and_the_ones_that_fail_are_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let queue = queue_at(&listener).await;
        let doorbells: Vec<_> = std::iter::repeat_with(doorbell).take(23).collect();
        let unlucky = doorbells[7].body();
        let requests = answer_with(listener, move |request| {
            let entries = request["Entries"].as_array().unwrap();
            let of = |lucky: bool| -> Vec<Value> {
                let entries = entries.iter().filter(|entry| (entry["MessageBody"] != unlucky) == lucky);
                let answer = |entry: &Value| {
                    serde_json::json!({"Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": "m",
                        "Code": "InternalError", "SenderFault": false})
                };
                entries.map(answer).collect()
            };
            serde_json::json!({ "Successful": of(true), "Failed": of(false) })
        });
        assert_eq!(queue.ring_many(&doorbells).await, [doorbells[7]]);
        let requests = requests.lock().await;
        let sizes: Vec<_> = requests.iter().map(|request| request.matches("MessageBody").count()).collect();
        assert_eq!((sizes.len(), sizes.iter().sum::<usize>(), sizes.iter().max()), (3, 23, Some(&10)));
    }

    #[tokio::test]
    async fn a_batch_that_is_not_taken_fails_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let queue = queue_at(&listener).await;
        drop(listener);
        let doorbells = [doorbell(), doorbell()];
        assert_eq!(queue.ring_many(&doorbells).await, doorbells);
    }
}
