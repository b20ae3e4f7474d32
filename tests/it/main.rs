//! Tests of the service as a whole. `support.rs` starts what they need.

mod accounts;
mod addresses;
mod arrows;
mod attacks;
mod auth;
mod cors;
mod credentials;
mod database;
mod docs;
mod errors;
mod faults;
mod front_doors;
mod health;
mod isolation;
mod issuer;
mod jobs;
mod proxy;
mod rate_limit;
mod sealing;
mod secrets;
mod sign_in;
mod support;
mod templates;
mod tidy;
mod tokens;
mod tries;
