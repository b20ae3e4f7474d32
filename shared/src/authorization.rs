//! A sign-in with a provider on its way: its state, and what PKCE (RFC 7636) makes of it.
//!
//! The browser has the state, the database its hash and a random half of the verifier; the verifier is a hash of state and
//! half. So a dump of the database finishes nobody's sign-in, nor does who sees the browser's addresses, and no key is
//! needed: who begins and who finishes a sign-in are two functions that can open nothing that is sealed.

use std::fmt;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use rand::TryRng;
use rand::rngs::SysRng;
use serde_json::Value;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::validation::Field;

/// Bytes of a state, and of a verifier's half.
pub const BYTES: usize = 32;

/// What a page carries to the provider and back. It works once, and for its own user; `Debug` prints nothing of it.
pub struct State(Zeroizing<[u8; BYTES]>);

/// What the database has of a verifier.
pub type Half = Zeroizing<[u8; BYTES]>;

/// Random bytes of the system's generator.
///
/// # Errors
/// The generator fails.
pub fn random() -> Result<Half, Error> {
    let mut bytes = Zeroizing::new([0; BYTES]);
    SysRng.try_fill_bytes(&mut *bytes).context("the system's random generator failed").map_err(Error::Internal)?;
    Ok(bytes)
}

impl State {
    /// A new one.
    ///
    /// # Errors
    /// The system's generator fails.
    pub fn generate() -> Result<Self, Error> {
        random().map(Self)
    }

    /// As the page has it.
    pub fn text(&self) -> String {
        BASE64URL.encode(*self.0)
    }

    /// As the database has it.
    pub fn hash(&self) -> [u8; BYTES] {
        Sha256::digest(*self.0).into()
    }

    /// PKCE's verifier: the secret that goes along with the code.
    pub fn verifier(&self, half: &[u8]) -> Zeroizing<String> {
        let hash = Sha256::new().chain_update(b"email_service verifier v1").chain_update(half).chain_update(*self.0);
        Zeroizing::new(BASE64URL.encode(hash.finalize()))
    }

    /// PKCE's challenge, S256: what the provider is told beforehand.
    pub fn challenge(&self, half: &[u8]) -> String {
        BASE64URL.encode(Sha256::digest(self.verifier(half).as_bytes()))
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[state]")
    }
}

impl Field for State {
    const RULE: &'static str =
        "must be the state of a sign-in that you began within the last ten minutes, and not used before";

    fn read(value: Value) -> Option<Self> {
        let bytes = BASE64URL.decode(value.as_str()?).ok()?;
        bytes.try_into().ok().map(|bytes| Self(Zeroizing::new(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_state_goes_to_the_page_and_back() {
        let state = State::generate().unwrap();
        let back = State::read(json!(state.text())).unwrap();
        assert_eq!((state.text().len(), back.hash()), (43, state.hash()));
        assert_ne!(State::generate().unwrap().hash(), state.hash());
        assert_eq!(format!("{state:?}"), "[state]");
        for bad in
            [json!(""), json!(1), json!("x"), json!(format!("{}A", state.text())), json!(null), json!("!".repeat(43))]
        {
            assert!(State::read(bad).is_none());
        }
    }

    #[test]
    fn the_verifier_takes_both_halves() {
        let (state, other) = (State::generate().unwrap(), State::generate().unwrap());
        let (half, other_half) = (random().unwrap(), random().unwrap());
        let verifier = state.verifier(&*half);
        // RFC 7636, 4.1: 43 to 128 of these characters.
        assert!(verifier.len() == 43 && verifier.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        assert_eq!(state.verifier(&*half), verifier);
        assert_ne!(other.verifier(&*half), verifier);
        assert_ne!(state.verifier(&*other_half), verifier);
        assert_eq!(state.challenge(&*half), BASE64URL.encode(Sha256::digest(verifier.as_bytes())));
    }
}
