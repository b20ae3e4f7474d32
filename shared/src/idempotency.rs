//! `Idempotency-Key`: who sends a request again, because no answer came, gets the answer of the first and does nothing more.
//!
//! The key is claimed, the thing is made and the answer is kept in one statement (`claim_key` in
//! `migrations/V15__writing.sql`), so whatever dies, there are all three or none. Of two at once the second waits in
//! PostgreSQL for the first.
//!
//! A body may hold a password, and a plain hash of it would tell whoever has a dump when a guess is right. So the hash
//! that is stored is one under the key, and the key is not stored but as a hash: a key that was made at random, as it
//! should be, gives nothing to guess at. No secret of ours is in it, which would be replaced one day and is known to the
//! functions.

use std::borrow::Cow;
use std::fmt;
use std::io;

use sha2::{Digest, Sha256};
use tokio_postgres::Row;

use crate::error::{Error, Fault};
use crate::event::Request;
use crate::validation::Fields;

/// The header that a client sends, as people write it.
pub const KEY: &str = "Idempotency-Key";
/// As an event has it.
const HEADER: &str = "idempotency-key";
/// The most characters of a key.
pub const MAX_KEY: usize = 255;
/// What a key must be.
pub const RULE: &str = "must be 1 to 255 visible characters of ASCII, without spaces";

/// What a client learns whose first request with the key has not ended.
pub const RUNNING: &str = "A request with this Idempotency-Key is being worked on. Send it again in a moment.";
/// What a client learns who uses a key again.
pub const OTHER_BODY: &str = "This Idempotency-Key was used for a request with another body. Use a new key.";

/// What tells a request from others: its key, and what it asks for. Both as hashes.
pub struct Once {
    key_hash: [u8; 32],
    fingerprint: [u8; 32],
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[idempotency key]")
    }
}

impl Once {
    /// Reads the request's key; `None` where it has none. `endpoint` is what keys are counted by, beside the user. `fields`
    /// are the whole body: nothing may have been taken out.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no key.
    pub fn read(request: &Request, endpoint: &'static str, fields: &Fields) -> Result<Option<Self>, Error> {
        let Some(key) = request.headers.get(HEADER).map(str::trim) else { return Ok(None) };
        if !(1..=MAX_KEY).contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::Invalid(vec![Fault::new(KEY, RULE, format!("{KEY} {RULE}"))]));
        }
        // No key and no endpoint has a NUL in it.
        let begin = |purpose: &str| Hasher(Sha256::new().chain_update(format!("{purpose}\0{endpoint}\0{key}\0")));
        let mut body = begin("body");
        // Names in order and no white space: the same however the client wrote it.
        serde_json::to_writer(&mut body, fields.object()).map_err(Error::internal)?;
        Ok(Some(Self { key_hash: begin("key").0.finalize().into(), fingerprint: body.0.finalize().into() }))
    }

    /// The two hashes, as a statement takes them: null where there is no key.
    pub(crate) fn hashes(once: Option<&Self>) -> (Option<&[u8]>, Option<&[u8]>) {
        (once.map(|once| &once.key_hash[..]), once.map(|once| &once.fingerprint[..]))
    }
}

struct Hasher(Sha256);

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What was made, now or by an earlier request with the same key.
#[derive(Debug)]
pub struct Made<T> {
    /// As it was when it was made.
    pub thing: T,
    /// Whether that was answered before.
    pub is_replayed: bool,
}

impl<T> Made<T> {
    /// The thing as something else.
    pub fn map<U>(self, other: impl FnOnce(T) -> U) -> Made<U> {
        Made { thing: other(self.thing), is_replayed: self.is_replayed }
    }
}

/// Whether a row of a statement that began with `claim_key` is an answer that was given before.
///
/// # Errors
/// [`Error::Conflict`] while the first request is at work, [`Error::Unprocessable`] after one with another body.
pub(crate) fn is_replayed(row: &Row) -> Result<bool, Error> {
    match row.try_get("claim")? {
        "new" => Ok(false),
        "kept" => Ok(true),
        "running" => Err(Error::Conflict(RUNNING.into())),
        _ => Err(Error::Unprocessable(OTHER_BODY)),
    }
}

/// A conflict that is kept.
pub(crate) fn conflict(message: impl Into<Cow<'static, str>>, is_replayed: bool) -> Error {
    if is_replayed { Error::ReplayedConflict(message.into()) } else { Error::Conflict(message.into()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::event::Pairs;

    fn once(key: &str, endpoint: &'static str, body: &Value) -> Result<Option<Once>, Error> {
        let headers = Pairs(vec![("idempotency-key".to_owned(), key.to_owned())]);
        let request = Request { headers, ..Request::default() };
        Once::read(&request, endpoint, &Fields::new(body.as_object().unwrap().clone()))
    }

    fn hashes(key: &str, endpoint: &'static str, body: &Value) -> ([u8; 32], [u8; 32]) {
        let once = once(key, endpoint, body).unwrap().unwrap();
        (once.key_hash, once.fingerprint)
    }

    #[test]
    fn without_a_key_there_is_none() {
        let fields = Fields::new(serde_json::Map::new());
        assert!(Once::read(&Request::default(), "POST /x", &fields).unwrap().is_none());
    }

    #[test]
    fn keys_are_visible_characters() {
        let body = json!({});
        for good in ["1", "~", "\"8e03978e-40d5-43e8-bc93-6894a57f9324\"", &"k".repeat(255)] {
            assert!(once(good, "POST /x", &body).is_ok(), "{good}");
        }
        for bad in ["", " ", "a b", "ä", "a\tb", "\u{7f}", &"k".repeat(256)] {
            let Err(Error::Invalid(faults)) = once(bad, "POST /x", &body) else { panic!("{bad:?}") };
            assert_eq!(faults[0].field, KEY);
        }
    }

    #[test]
    fn what_differs_has_another_hash() {
        let body = json!({"a": 1, "b": {"c": [true, null]}});
        let (key, fingerprint) = hashes("k", "POST /x", &body);
        assert_eq!(hashes("k", "POST /x", &json!({"b": {"c": [true, null]}, "a": 1})), (key, fingerprint));
        let (same_key, other) = hashes("k", "POST /x", &json!({"a": 1, "b": {"c": [true, false]}}));
        assert!(same_key == key && other != fingerprint);
        for (other_key, endpoint) in [("l", "POST /x"), ("k", "POST /y")] {
            let (other, other_print) = hashes(other_key, endpoint, &body);
            assert!(other != key && other_print != fingerprint);
        }
        assert_ne!(key, fingerprint);
    }

    proptest! {
        #[test]
        fn whoever_has_the_hashes_but_not_the_key_cannot_try_a_body(key in "[!-~]{16,255}", guess in "[!-~]{1,15}") {
            let body = json!({"password": "secret"});
            prop_assert_ne!(hashes(&key, "POST /x", &body).1, hashes(&guess, "POST /x", &body).1);
        }
    }
}
