//! `GET /health`: the process is alive. It connects to nothing, so it answers whatever else is broken.

use serde::Serialize;
use shared::http::StatusCode;
use shared::{Error, PublicCall, Reply, SERVICE, VERSION};

#[derive(Serialize)]
struct Output {
    status: &'static str,
    service: &'static str,
    version: &'static str,
}

/// Answers one request.
///
/// # Errors
/// None that can happen.
pub async fn handler(_: PublicCall) -> Result<Reply, Error> {
    Reply::json(StatusCode::OK, &Output { status: "healthy", service: SERVICE, version: VERSION })
}
