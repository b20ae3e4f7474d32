//! What CloudWatch counts: metrics in its embedded metric format, inside the log line of a request or job. No call and
//! no agent is needed, and nothing waits for it.
//!
//! Dimensions are few on purpose: each combination is a metric that costs money. Tenants and users are none, and by
//! function there is only what says which of them to look at.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::SERVICE;

const NAMESPACE: &str = "EmailService";

const COUNTS_AND_TIMES: [Metric; 9] = [
    Metric { name: "Requests", unit: "Count" },
    Metric { name: "Errors4xx", unit: "Count" },
    Metric { name: "Errors5xx", unit: "Count" },
    Metric { name: "RateLimited", unit: "Count" },
    Metric { name: "RateLimitFallback", unit: "Count" },
    Metric { name: "ColdStart", unit: "Count" },
    Metric { name: "Duration", unit: "Milliseconds" },
    Metric { name: "DatabaseTime", unit: "Milliseconds" },
    Metric { name: "RedisTime", unit: "Milliseconds" },
];

const OF_JOBS: [Metric; 4] = [
    Metric { name: "Jobs", unit: "Count" },
    Metric { name: "JobErrors", unit: "Count" },
    Metric { name: "JobDuration", unit: "Milliseconds" },
    Metric { name: "JobDelay", unit: "Milliseconds" },
];

const BY_FUNCTION: [Metric; 3] = [
    Metric { name: "Requests", unit: "Count" },
    Metric { name: "Errors5xx", unit: "Count" },
    Metric { name: "Duration", unit: "Milliseconds" },
];

/// Of requests, by whether a mail host or a provider may have taken part of the time: the alarm api-latency is of the others.
const BY_VISITS: [Metric; 1] = [Metric { name: "Duration", unit: "Milliseconds" }];

const ERRORS: [Metric; 1] = [Metric { name: "Errors", unit: "Count" }];

const ALL_REQUESTS: [Directive; 3] = [
    Directive { namespace: NAMESPACE, dimensions: &[&["Service"]], metrics: &COUNTS_AND_TIMES },
    Directive { namespace: NAMESPACE, dimensions: &[&["Service", "Function"]], metrics: &BY_FUNCTION },
    Directive { namespace: NAMESPACE, dimensions: &[&["Service", "Visits"]], metrics: &BY_VISITS },
];

/// By function alone: what several workers do together says nothing.
const ALL_JOBS: Directive =
    Directive { namespace: NAMESPACE, dimensions: &[&["Service", "Function"]], metrics: &OF_JOBS };

/// Kinds are those of [`crate::Error`] and [`crate::work::WorkError`], a dozen.
const BY_KIND: Directive =
    Directive { namespace: NAMESPACE, dimensions: &[&["Service", "ErrorKind"]], metrics: &ERRORS };

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metric {
    name: &'static str,
    unit: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Directive {
    namespace: &'static str,
    dimensions: &'static [&'static [&'static str]],
    metrics: &'static [Metric],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Directives {
    timestamp: u64,
    cloud_watch_metrics: &'static RawValue,
}

impl Directives {
    fn now(cloud_watch_metrics: &'static RawValue) -> Self {
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { timestamp: u64::try_from(timestamp.as_millis()).unwrap_or_default(), cloud_watch_metrics }
    }
}

/// Of a request that was answered well, and of any other. They are half of the line, so they are written once and then
/// copied.
static WITHOUT_ERROR: LazyLock<Box<RawValue>> = LazyLock::new(|| json(ALL_REQUESTS.iter().collect()));
static WITH_ERROR: LazyLock<Box<RawValue>> = LazyLock::new(|| json(ALL_REQUESTS.iter().chain([&BY_KIND]).collect()));

/// Likewise of jobs.
static JOB_WITHOUT_ERROR: LazyLock<Box<RawValue>> = LazyLock::new(|| json(vec![&ALL_JOBS]));
static JOB_WITH_ERROR: LazyLock<Box<RawValue>> = LazyLock::new(|| json(vec![&ALL_JOBS, &BY_KIND]));

fn json(directives: Vec<&Directive>) -> Box<RawValue> {
    // Texts in lists: they always have a JSON form.
    to_raw_value(&directives).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The metrics of one request, as members of its log line.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Metrics<'a> {
    #[serde(rename = "_aws")]
    aws: Directives,
    service: &'static str,
    function: &'a str,
    visits: Visits,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_kind: Option<&'static str>,
    errors: u8,
    requests: u8,
    errors4xx: u8,
    errors5xx: u8,
    rate_limited: u8,
    rate_limit_fallback: u8,
    cold_start: u8,
    duration: f64,
    database_time: f64,
    redis_time: f64,
}

/// Whom a function reaches outside the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Visits {
    /// Nobody: what it takes is our own time.
    Nobody,
    /// Users' mail hosts, or their providers.
    Hosts,
}

/// What a request did, as far as CloudWatch is concerned.
pub struct Measured<'a> {
    /// The Lambda function's name.
    pub function: &'a str,
    /// Whom that function visits.
    pub visits: Visits,
    /// The HTTP status of the answer.
    pub status: u16,
    /// The kind of the refusal or failure.
    pub error_kind: Option<&'static str>,
    /// Whether it was the process's first.
    pub cold_start: bool,
    /// Whether it was counted without Redis.
    pub fallback: bool,
    /// From the event to the answer.
    pub duration: Duration,
    /// Of that, waiting for PostgreSQL.
    pub database_time: Duration,
    /// Of that, waiting for Redis.
    pub redis_time: Duration,
}

impl<'a> From<Measured<'a>> for Metrics<'a> {
    fn from(measured: Measured<'a>) -> Self {
        let Measured {
            function,
            visits,
            status,
            error_kind,
            cold_start,
            fallback,
            duration,
            database_time,
            redis_time,
        } = measured;
        Self {
            aws: Directives::now(if error_kind.is_some() { &WITH_ERROR } else { &WITHOUT_ERROR }),
            service: SERVICE,
            function,
            visits,
            error_kind,
            errors: u8::from(error_kind.is_some()),
            requests: 1,
            errors4xx: u8::from((400..500).contains(&status)),
            errors5xx: u8::from(status >= 500),
            rate_limited: u8::from(status == 429),
            rate_limit_fallback: u8::from(fallback),
            cold_start: u8::from(cold_start),
            duration: milliseconds(duration),
            database_time: milliseconds(database_time),
            redis_time: milliseconds(redis_time),
        }
    }
}

/// The metrics of one job, as members of its log line.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct JobMetrics<'a> {
    #[serde(rename = "_aws")]
    aws: Directives,
    service: &'static str,
    function: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_kind: Option<&'static str>,
    errors: u8,
    jobs: u8,
    job_errors: u8,
    job_duration: f64,
    job_delay: f64,
}

impl<'a> JobMetrics<'a> {
    /// Of a job of this function that took so long, after so long a wait, and failed in this way.
    pub fn new(function: &'a str, error_kind: Option<&'static str>, duration: Duration, delay: Duration) -> Self {
        Self {
            aws: Directives::now(if error_kind.is_some() { &JOB_WITH_ERROR } else { &JOB_WITHOUT_ERROR }),
            service: SERVICE,
            function,
            error_kind,
            errors: u8::from(error_kind.is_some()),
            jobs: 1,
            job_errors: u8::from(error_kind.is_some()),
            job_duration: milliseconds(duration),
            job_delay: milliseconds(delay),
        }
    }
}

/// To the microsecond.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn metrics(status: u16, error_kind: Option<&'static str>) -> Value {
        let time = Duration::from_micros(1500);
        let measured = Measured {
            function: "f",
            visits: Visits::Nobody,
            status,
            error_kind,
            cold_start: true,
            fallback: false,
            duration: time,
            database_time: time,
            redis_time: time,
        };
        serde_json::to_value(Metrics::from(measured)).unwrap()
    }

    #[test]
    fn every_metric_and_dimension_that_is_declared_has_a_value() {
        let job = |kind| {
            let (took, waited) = (Duration::from_micros(1500), Duration::from_secs(2));
            serde_json::to_value(JobMetrics::new("f", kind, took, waited)).unwrap()
        };
        let of_requests = [metrics(200, None), metrics(429, Some("Rate limit exceeded"))];
        for metrics in of_requests.into_iter().chain([job(None), job(Some("Panic"))]) {
            for directive in metrics["_aws"]["CloudWatchMetrics"].as_array().unwrap() {
                for metric in directive["Metrics"].as_array().unwrap() {
                    assert!(metrics[metric["Name"].as_str().unwrap()].is_number(), "{metric}");
                }
                for dimension in
                    directive["Dimensions"].as_array().unwrap().iter().flat_map(|set| set.as_array().unwrap())
                {
                    assert!(metrics[dimension.as_str().unwrap()].is_string(), "{dimension}");
                }
            }
        }
    }

    #[test]
    fn a_further_function_costs_three_metrics() {
        let declared = metrics(200, None)["_aws"]["CloudWatchMetrics"].clone();
        let declared = declared.as_array().unwrap().iter();
        let by_function = declared.filter(|directive| directive["Dimensions"].to_string().contains("Function"));
        let count: usize = by_function.map(|directive| directive["Metrics"].as_array().unwrap().len()).sum();
        assert_eq!(count, 3);
    }

    #[test]
    fn answers_are_counted_by_class_and_errors_by_kind() {
        let [good, limited, failed] = [
            metrics(200, None),
            metrics(429, Some("Rate limit exceeded")),
            metrics(500, Some("Internal server error")),
        ];
        assert_eq!([&good["Errors4xx"], &limited["Errors4xx"], &failed["Errors4xx"]], [0, 1, 0]);
        assert_eq!([&good["Errors5xx"], &limited["Errors5xx"], &failed["Errors5xx"]], [0, 0, 1]);
        assert_eq!([&good["RateLimited"], &limited["RateLimited"], &failed["RateLimited"]], [0, 1, 0]);
        assert_eq!(good["_aws"]["CloudWatchMetrics"].as_array().unwrap().len(), 3);
        assert_eq!(failed["_aws"]["CloudWatchMetrics"][3]["Dimensions"], json!([["Service", "ErrorKind"]]));
        assert_eq!(good["Duration"], 1.5);
    }
}
