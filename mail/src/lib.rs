//! Mail protocols and nothing else: this crate knows no tenant, no database and no Lambda.
//!
//! [`connect`] is the only place that opens a connection; whatever speaks a protocol gets a [`connect::Stream`] that
//! was checked, is bounded in time and bytes, and encrypts where that was asked for.

pub mod clean;
pub mod compose;
pub mod connect;
pub mod content;
mod date;
pub mod discover;
pub mod dns;
mod error;
mod https;
pub mod imap;
pub mod login;
pub mod message;
pub mod oauth2;
pub mod pop3;
mod sasl;
pub mod smtp;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use error::{Code, Error};
