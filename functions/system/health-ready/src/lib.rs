//! `GET /health/ready`: the service can do its work: PostgreSQL answers, and its schema is the one that the functions
//! were built for. All else can be away for a while, which is `degraded`: without Redis each function counts requests for
//! itself, without a queue nobody is rung and the schedule finds the work later, without the object store messages that
//! were never read, and files, have to wait.

use std::time::Duration;

use serde::Serialize;
use shared::db::SCHEMA_VERSION;
use shared::error::Envelope;
use shared::http::StatusCode;
use shared::objects::ObjectStore;
use shared::queue::Queue;
use shared::{Error, ReadinessCall, Reply, SERVICE, VERSION};

/// The state of the service and of what it depends on.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Readiness))]
pub struct Output {
    /// `healthy`; `degraded` without Redis, a queue or the object store; `unavailable` without PostgreSQL or its schema.
    #[cfg_attr(feature = "openapi", schema(pattern = "^(healthy|degraded|unavailable)$"))]
    status: &'static str,
    /// The service's name.
    service: &'static str,
    /// The service's version.
    version: &'static str,
    /// The state of each.
    dependencies: Dependencies,
}

/// The answer of 503: what every error has, and the state beside it.
#[derive(Serialize)]
struct Unavailable<'a> {
    #[serde(flatten)]
    error: Envelope<'a>,
    #[serde(flatten)]
    state: Output,
}

/// What the service depends on.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Dependencies {
    /// `healthy`, `schema outdated` or `unavailable`.
    postgresql: &'static str,
    /// `healthy` or `degraded`.
    redis: &'static str,
    /// Those by which workers are rung: `healthy` or `degraded`.
    queues: &'static str,
    /// Where messages that were read, and files, are kept: `healthy` or `degraded`.
    objects: &'static str,
}

/// The longest that a queue or the object store is waited for: who asks wants to know now.
const PATIENCE: Duration = Duration::from_secs(1);

impl Dependencies {
    fn status(&self) -> (StatusCode, &'static str) {
        if self.postgresql != "healthy" {
            return (StatusCode::SERVICE_UNAVAILABLE, "unavailable");
        }
        let is_whole = [self.redis, self.queues, self.objects].iter().all(|state| *state == "healthy");
        (StatusCode::OK, if is_whole { "healthy" } else { "degraded" })
    }
}

fn postgresql(schema_version: Result<i32, Error>) -> &'static str {
    match schema_version {
        // A newer schema suits the code that still runs: migrations come before the functions.
        Ok(version) if version >= SCHEMA_VERSION => "healthy",
        Ok(version) => {
            tracing::error!(version, wanted = SCHEMA_VERSION, "the schema is outdated: run the migrations");
            "schema outdated"
        }
        Err(error) => {
            if let Some(cause) = error.cause() {
                tracing::error!(error = format!("{cause:#}"), "PostgreSQL is not ready");
            }
            "unavailable"
        }
    }
}

/// Of what can be away.
fn state(what: &str, answer: Result<(), String>) -> &'static str {
    match answer {
        Ok(()) => "healthy",
        Err(error) => {
            tracing::warn!(error, what, "a dependency is not ready");
            "degraded"
        }
    }
}

// Where there is no queue or no store, as on a laptop, nobody misses it.

async fn queues([sync, outbox]: &[Queue; 2]) -> Result<(), String> {
    let answers = tokio::join!(sync.ask(PATIENCE), outbox.ask(PATIENCE));
    answers.0.unwrap_or(Ok(())).and(answers.1.unwrap_or(Ok(())))
}

async fn objects(objects: Option<&ObjectStore>) -> Result<(), String> {
    match objects {
        Some(objects) => objects.ask(PATIENCE).await,
        None => Ok(()),
    }
}

/// Answers one request.
///
/// # Errors
/// None that can happen: what is broken is the answer.
pub async fn handler(call: ReadinessCall) -> Result<Reply, Error> {
    let (schema_version, redis, queues, objects) = tokio::join!(
        call.db.schema_version(),
        call.redis.is_up(),
        queues(&call.queues),
        objects(call.objects.as_ref())
    );
    let dependencies = Dependencies {
        postgresql: postgresql(schema_version),
        redis: if redis { "healthy" } else { "degraded" },
        queues: state("queues", queues),
        objects: state("objects", objects),
    };
    let (code, status) = dependencies.status();
    let state = Output { status, service: SERVICE, version: VERSION, dependencies };
    if code.is_success() {
        return Reply::json(code, &state);
    }
    let error = Envelope {
        error: UNAVAILABLE,
        message: NOT_READY.to_owned(),
        request_id: &call.request_id,
        code: None,
        details: &[],
    };
    Reply::json(code, &Unavailable { error, state })
}

/// The kind of a 503.
pub const UNAVAILABLE: &str = "Service unavailable";
/// What a person learns from it.
pub const NOT_READY: &str = "The service is not ready: dependencies says what it waits for. Please try again later.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_postgresql_decides_whether_the_service_is_ready() {
        let status = |postgresql, redis, queues, objects| Dependencies { postgresql, redis, queues, objects }.status();
        assert_eq!(status("healthy", "healthy", "healthy", "healthy"), (StatusCode::OK, "healthy"));
        for (redis, queues, objects) in
            [("degraded", "healthy", "healthy"), ("healthy", "degraded", "healthy"), ("healthy", "healthy", "degraded")]
        {
            assert_eq!(status("healthy", redis, queues, objects), (StatusCode::OK, "degraded"));
        }
        assert_eq!(status("schema outdated", "healthy", "healthy", "healthy").0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status("unavailable", "degraded", "healthy", "healthy").0, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn an_older_schema_is_not_ready_and_a_newer_one_is() {
        assert_eq!(postgresql(Ok(SCHEMA_VERSION - 1)), "schema outdated");
        assert_eq!(postgresql(Ok(SCHEMA_VERSION)), "healthy");
        assert_eq!(postgresql(Ok(SCHEMA_VERSION + 1)), "healthy");
    }
}
