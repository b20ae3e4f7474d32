//! `GET /health`: the process is alive. It connects to nothing, so it answers whatever else is broken.

use serde::Serialize;
use shared::http::StatusCode;
use shared::{Error, PublicCall, Reply, SERVICE, VERSION};

/// The answer.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Health))]
pub struct Output {
    /// Always `healthy`.
    status: &'static str,
    /// The service's name.
    service: &'static str,
    /// The service's version.
    version: &'static str,
}

/// Answers one request.
///
/// # Errors
/// None that can happen.
pub async fn handler(_: PublicCall) -> Result<Reply, Error> {
    Reply::json(StatusCode::OK, &Output { status: "healthy", service: SERVICE, version: VERSION })
}
