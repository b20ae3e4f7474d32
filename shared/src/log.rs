//! The log: JSON lines on standard output, one per request or job and one per event worth a warning. On Lambda the line
//! of a request or job also carries its metrics (see [`crate::metrics`]).

use std::io::Write;

use serde::Serialize;
use serde_json::Value;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::doorbell::Doorbell;
use crate::identity::{Role, TenantId, UserId};
use crate::metrics::{JobMetrics, Metrics};

/// The crates of ours whose events are heard at the configured level.
const OURS: [&str; 7] = [
    env!("CARGO_CRATE_NAME"),
    "batch_messages",
    "finish_sign_in",
    "health_ready",
    "mailbox",
    "migrate",
    "reseal_secrets",
];

/// The target of the events that CloudWatch counts (`AWS::Logs::MetricFilter` in template.yaml). As other metrics they do
/// not depend on the log's level.
pub const COUNTED: &str = "counted";

/// A turn's line, which is counted likewise.
const TICK: &str = "tick";

/// Starts the log. `level` is for our own code. Libraries are heard from warnings on: at their trace level they
/// would print whole events, passwords included.
pub fn start(level: LevelFilter) {
    let filter = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_targets(OURS.map(|name| (name, level)))
        .with_target(COUNTED, level.max(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_target(false);
    // It is started already when a test calls twice; the first start holds.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();

    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(location, message_of_panic = message, "panic");
    }));
}

/// The line of one request.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestLine<'a> {
    /// As in the answer.
    pub request_id: &'a str,
    /// `GET`, `POST` and so on.
    pub method: &'a str,
    /// The route that matched.
    pub route: &'a str,
    /// The path, clipped.
    pub path: &'a str,
    /// The HTTP status of the answer.
    pub status: u16,
    /// From the event to the answer, in milliseconds.
    pub duration_ms: f64,
    /// Whose tenant, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    /// Who, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// In which role, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// As API Gateway saw it.
    pub source_ip: &'a str,
    /// The client's program, clipped.
    pub user_agent: &'a str,
    /// Whether it is the process's first request.
    pub cold_start: bool,
    /// Whether this process counted it because Redis was away; none where requests are not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit_fallback: Option<bool>,
    /// The kind of the refusal or failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<&'static str>,
    /// The inner cause of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// On Lambda.
    #[serde(flatten)]
    pub metrics: Option<Metrics<'a>>,
}

impl RequestLine<'_> {
    /// Writes the line, as the log's level allows. Metrics do not depend on it: without the line they stand alone.
    pub fn write(&self) {
        write("request", self.status >= 500, self, self.metrics.as_ref());
    }
}

/// The line of one job: of a message, or of a schedule's tick.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobLine<'a> {
    /// The invocation's, which the messages of a batch share.
    pub request_id: &'a str,
    /// The message's, the same at each attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<&'a str>,
    /// Whose account, and which, where the message says.
    #[serde(flatten)]
    pub doorbell: Option<Doorbell>,
    /// How often the message was received, this time included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// From the message's sending to the work's begin, earlier attempts included, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<f64>,
    /// Of the work, in milliseconds.
    pub duration_ms: f64,
    /// `done`, `more` or `failed`.
    pub outcome: &'static str,
    /// What a tick answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<&'a Value>,
    /// Whether it is the process's first.
    pub cold_start: bool,
    /// The kind of the failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_kind: Option<&'static str>,
    /// The cause of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// On Lambda.
    #[serde(flatten)]
    pub metrics: Option<JobMetrics<'a>>,
}

impl JobLine<'_> {
    /// As [`RequestLine::write`]; that of a turn whatever the level.
    pub fn write(&self) {
        let message = if self.message_id.is_some() { "job" } else { TICK };
        write(message, self.error_kind.is_some(), self, self.metrics.as_ref());
    }
}

fn write(message: &'static str, is_error: bool, members: &impl Serialize, metrics: Option<&impl Serialize>) {
    // `tracing` has no nested values, which metrics need; otherwise the line is like its own.
    #[derive(Serialize)]
    struct Line<'a, M> {
        timestamp: String,
        level: &'static str,
        message: &'static str,
        #[serde(flatten)]
        members: &'a M,
    }
    let (level, enabled) = match is_error {
        true => ("ERROR", tracing::enabled!(Level::ERROR)),
        false => ("INFO", tracing::enabled!(Level::INFO)),
    };
    if !enabled && message != TICK {
        if let Some(metrics) = metrics {
            write_line(metrics);
        }
        return;
    }
    let mut timestamp = String::new();
    // Neither writing to a string nor to our standard output can fail in a way that we could report.
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    write_line(&Line { timestamp, level, message, members });
}

fn write_line(value: &impl Serialize) {
    // Room for a usual line, which otherwise moves four times as it grows.
    let mut line = Vec::with_capacity(2048);
    if serde_json::to_writer(&mut line, value).is_ok() {
        line.push(b'\n');
        let _ = std::io::stdout().lock().write_all(&line);
    }
}

/// The first `max` characters: a client chooses what it sends, but not how long our log lines are.
pub fn clip(text: &str, max: usize) -> &str {
    text.char_indices().nth(max).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clip_keeps_whole_characters() {
        assert_eq!(clip("héllo", 2), "hé");
        assert_eq!(clip("hé", 2), "hé");
        assert_eq!(clip("", 2), "");
    }
}
