//! What leads to a function beside HTTP: queues and schedules, carried to the gateway's functions as Lambda does it.
//!
//! Lambda receives a batch, invokes the function, and deletes what did not fail. What failed it leaves alone: the queue
//! shows it again after its visibility timeout, and makes a dead letter of it after too many times.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use aws_sdk_sqs::types::Message;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    sync::Semaphore,
    task::{AbortHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};
use uuid::Uuid;

use crate::{
    emulator::Queues,
    gateway::{Gateway, Invoker},
    template::{Function, QueueEvent},
};

/// How long one call waits for a message. Lambda's pollers wait 20 s; who waits here may be gone sooner.
const POLL: Duration = Duration::from_secs(5);
/// Before the next call, when one failed.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a batch that waits to get full is looked after.
const WINDOW_STEP: Duration = Duration::from_millis(50);
/// Lambda's first number of invocations at once for a queue without a limit.
const CONCURRENCY: usize = 5;

/// The event sources of a gateway's functions. They end with this value.
pub struct EventSources {
    invoker: Invoker,
    schedules: BTreeMap<String, Vec<Duration>>,
    tasks: Vec<AbortHandle>,
}

impl EventSources {
    /// Starts to poll the functions' queues; the tasks belong to the Tokio runtime that calls this. Schedules stand still
    /// until [`EventSources::run_schedules`].
    ///
    /// # Errors
    /// A function works off a queue that is not there.
    pub fn start(gateway: &Gateway, functions: &[Function], queues: Option<&Queues>) -> Result<Self> {
        let invoker = gateway.invoker();
        let mut tasks = Vec::new();
        for function in functions {
            for event in &function.queues {
                let queues = queues.with_context(|| format!("there is no queue for {}", function.binary))?.clone();
                let source = Source {
                    arn: queues.arn(&event.queue)?.to_owned(),
                    invoker: invoker.clone(),
                    function: function.binary.clone(),
                    event: event.clone(),
                    queues,
                };
                tasks.push(tokio::spawn(Arc::new(source).poll()).abort_handle());
            }
        }
        let schedules =
            functions.iter().map(|function| (function.binary.clone(), function.schedules.clone())).collect();
        Ok(Self { invoker, schedules, tasks })
    }

    /// Lets the schedules run by the clock. The first turn comes after one period, as in AWS.
    pub fn run_schedules(&mut self) {
        for (function, periods) in &self.schedules {
            for period in periods {
                let (invoker, function, period) = (self.invoker.clone(), function.clone(), *period);
                let turns = async move {
                    let mut clock = interval_at(Instant::now() + period, period);
                    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
                    loop {
                        clock.tick().await;
                        // A failure is in the function's own log, and the next turn makes up for it.
                        let _ = invoker.invoke(&function, turn()).await;
                    }
                };
                self.tasks.push(tokio::spawn(turns).abort_handle());
            }
        }
    }

    /// Turns the clock to a function's next turn, and returns what it answered.
    ///
    /// # Errors
    /// It has no schedule.
    pub async fn tick(&self, function: &str) -> Result<Result<Value, Value>> {
        let periods = self.schedules.get(function).filter(|periods| !periods.is_empty());
        periods.with_context(|| format!("{function} has no schedule"))?;
        self.invoker.invoke(function, turn()).await
    }
}

impl Drop for EventSources {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl fmt::Debug for EventSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventSources").field("schedules", &self.schedules).finish_non_exhaustive()
    }
}

/// What EventBridge Scheduler sends where the schedule names no input of its own.
fn turn() -> Value {
    let now = OffsetDateTime::from(SystemTime::now()).format(&Rfc3339).unwrap_or_default();
    json!({
        "version": "0",
        "id": Uuid::now_v7(),
        "detail-type": "Scheduled Event",
        "source": "aws.scheduler",
        "account": "123456789012",
        "time": now,
        "region": "us-east-1",
        "resources": ["arn:aws:scheduler:us-east-1:123456789012:schedule/default/local"],
        "detail": "{}",
    })
}

/// A queue that is polled for a function.
struct Source {
    invoker: Invoker,
    function: String,
    event: QueueEvent,
    queues: Queues,
    arn: String,
}

impl Source {
    async fn poll(self: Arc<Self>) {
        let slots = Arc::new(Semaphore::new(self.event.concurrency.unwrap_or(CONCURRENCY)));
        let mut invocations = JoinSet::new();
        loop {
            while invocations.try_join_next().is_some() {}
            // Nothing is received that nobody is free to work off: its time would run.
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            match self.batch().await {
                Ok(messages) if messages.is_empty() => {}
                Ok(messages) => {
                    let source = self.clone();
                    invocations.spawn(async move {
                        if let Err(error) = source.carry(&messages).await {
                            eprintln!("{}: {error:#}", source.event.queue);
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    eprintln!("cannot receive from {}: {error:#}", self.event.queue);
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// The messages of one invocation: what one call gives, or where there is a window, what comes until it ends.
    async fn batch(&self) -> Result<Vec<Message>> {
        let QueueEvent { queue, batch_size, window, .. } = &self.event;
        let mut messages = self.queues.receive(queue, *batch_size, POLL).await?;
        let end = Instant::now() + *window;
        while !messages.is_empty() && messages.len() < *batch_size && Instant::now() < end {
            // No call that waits: one that we gave up would still receive, and nobody had the messages.
            let more = self.queues.receive(queue, batch_size - messages.len(), Duration::ZERO).await?;
            if more.is_empty() {
                sleep(WINDOW_STEP).await;
            }
            messages.extend(more);
        }
        Ok(messages)
    }

    async fn carry(&self, messages: &[Message]) -> Result<()> {
        let records: Vec<Value> = messages.iter().map(|message| record(message, &self.arn)).collect();
        let outcome = self.invoker.invoke(&self.function, json!({ "Records": records })).await?;
        let ids: Vec<&str> = messages.iter().filter_map(Message::message_id).collect();
        let failed = failed(&outcome, &ids, self.event.reports_failures);
        let is_done = |message: &&Message| message.message_id().is_some_and(|id| !failed.contains(&id));
        let done: Vec<&Message> = messages.iter().filter(is_done).collect();
        self.queues.delete(&self.event.queue, &done).await
    }
}

fn record(message: &Message, arn: &str) -> Value {
    let attributes: serde_json::Map<String, Value> = message
        .attributes()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.as_str().to_owned(), value.clone().into()))
        .collect();
    json!({
        "messageId": message.message_id(),
        "receiptHandle": message.receipt_handle(),
        "body": message.body(),
        "attributes": attributes,
        "messageAttributes": {},
        "md5OfBody": message.md5_of_body(),
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": "us-east-1",
    })
}

/// The ids of a batch's messages that failed. Lambda takes an answer that it cannot read, or that names a message which is
/// not in the batch, for the failure of all.
fn failed<'a>(outcome: &Result<Value, Value>, ids: &[&'a str], reports_failures: bool) -> Vec<&'a str> {
    let Ok(answer) = outcome else { return ids.to_vec() };
    match answer.get("batchItemFailures") {
        _ if !reports_failures => Vec::new(),
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(failures)) => {
            let known = |failure: &Value| ids.iter().copied().find(|id| failure["itemIdentifier"] == **id);
            failures.iter().map(known).collect::<Option<_>>().unwrap_or_else(|| ids.to_vec())
        }
        Some(_) => ids.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lambda_reads_an_answer_that_it_cannot_read_as_the_failure_of_all() {
        let report = |failures: Value| Ok(json!({ "batchItemFailures": failures }));
        let all = ["a", "b"];
        for (outcome, expected) in [
            (Ok(Value::Null), &[][..]),
            (Ok(json!({})), &[]),
            (report(Value::Null), &[]),
            (report(json!([])), &[]),
            (report(json!([{"itemIdentifier": "b"}])), &["b"]),
            (report(json!([{"itemIdentifier": "b"}, {"itemIdentifier": ""}])), &all),
            (report(json!([{"itemIdentifier": "c"}])), &all),
            (report(json!([{"itemIdentifier": null}])), &all),
            (report(json!([{"id": "b"}])), &all),
            (report(json!("b")), &all),
            (Err(json!({"errorType": "Runtime.ExitError"})), &all),
        ] {
            assert_eq!(failed(&outcome, &all, true), expected, "{outcome:?}");
        }
        assert_eq!(failed(&report(json!([{"itemIdentifier": "b"}])), &all, false), [""; 0]);
        assert_eq!(failed(&Err(json!({})), &all, false), all);
    }
}
