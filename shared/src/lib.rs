//! What every function of email_service shares.
//!
//! A request, start to end:
//!
//! 1. A function's `main` is one call. It starts the log, reads [`config`], opens PostgreSQL and Redis in parallel, and
//!    polls the Lambda runtime. Which call it is says what the function holds: [`serve()`] an endpoint's database,
//!    [`serve_sealing`] the key that seals as well, [`serve_network`] the way to mail servers and no database,
//!    [`serve_mail`] that way, the keys that open and the role that may read what is sealed; [`serve_providers`] and
//!    [`serve_sign_in`] are the two ends of a sign-in with a provider; [`serve_readiness`] and [`serve_public`] know no caller, and [`serve_command`] is not reached over HTTP.
//! 2. Each event becomes a [`Request`]; `respond` in `serve.rs` is one straight function: identify the caller
//!    ([`auth`]), count the request ([`rate_limit`]), build a [`Call`], await the function's handler, turn its
//!    [`Reply`] or [`Error`] into a response with [`cors`] headers, and write the log line.
//! 3. The handler parses its input into the types of [`account`] with [`validation`], asks `call.db` for one
//!    thing ([`db::accounts`]), and shapes the reply.
//!
//! A job, start to end, is told alike: `main` is one call, [`work_mail`] for a queue or [`serve_due`] for a clock; they
//! are [`work()`] and [`serve_schedule`] with what the functions hold. Each message becomes a [`work::Job`]; `work_off` in `work.rs` is one straight function: read the [`doorbell`], await the
//! handler, ring the [`queue`] again when there is more, write the log line, and say whether the message failed.

pub mod config;
pub mod event;

pub mod call;
pub mod error;
pub mod serve;

pub mod doorbell;
pub mod host_slots;
pub mod objects;
pub mod queue;
pub mod work;

pub mod auth;
pub mod claims;
pub mod cors;
pub mod identity;
pub mod issuer;
pub mod key_set;
pub mod keyring;
pub mod quota;
pub mod rate_limit;

pub mod account;
pub mod address;
pub mod authorization;
pub mod change;
pub mod composition;
pub mod credential;
pub mod draft;
pub mod folder;
pub mod idempotency;
pub mod message;
pub mod outbox;
pub mod sealing;
pub mod search;
pub mod sync;
pub mod upload;
pub mod validation;

#[cfg(feature = "openapi")]
mod openapi;

mod aws;
mod connections;
pub mod db;
pub mod join;
pub mod log;
mod memory;
pub mod metrics;
pub mod redis_link;
pub mod secrets;
pub mod tls;
mod variables;

pub use lambda_http::{http, lambda_runtime};

pub use call::{Call, MailCall, NetworkCall, PublicCall, ReadinessCall, Reply, SignInCall};
pub use error::Error;
pub use event::Request;
pub use serve::mail::{
    MailCommand, serve_command, serve_mail, serve_network, serve_providers, serve_reading, serve_sealing,
    serve_sign_in, serve_tries,
};
pub use serve::{Sending, serve, serve_public, serve_readiness, serve_ringing, serve_sending, serve_uploads};
pub use work::due::serve_due;
pub use work::mail::{work_mail, work_outbox};
pub use work::{serve_schedule, work};

/// How long a connection to PostgreSQL or Redis may go unused before it is replaced rather than trusted: Lambda's
/// network forgets those that idle for some 350 s and tells nobody, load balancers and firewalls sooner.
pub const MAX_IDLE: std::time::Duration = std::time::Duration::from_secs(60);

/// The present moment, in milliseconds since the Unix epoch.
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The service's name, as health checks and Redis keys show it.
pub const SERVICE: &str = "email_service";
/// The service's version, as health checks show it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
