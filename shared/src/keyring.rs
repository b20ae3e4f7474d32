//! The private keys, as mail functions have them: read at the start, and again when a secret turns out to be sealed with a
//! newer one.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};

use crate::account::AccountId;
use crate::credential::Password;
use crate::db::secrets::Sealed;
use crate::error::Error;
use crate::identity::Scope;
use crate::sealing::{Kind, OpenError, Place, PrivateKeys, open};
use crate::secrets::SecretStore;

/// Opens what is sealed.
#[derive(Clone)]
pub struct Keyring(Arc<SecretStore>);

/// The passwords of an account.
#[derive(Debug)]
pub struct Passwords {
    /// For reading mail; none for an account from before secrets were sealed.
    pub password: Option<Password>,
    /// For sending, where that is another one.
    pub smtp_password: Option<Password>,
}

impl Keyring {
    /// Over the store that has the keys.
    ///
    /// # Errors
    /// It has none.
    pub async fn new(store: Arc<SecretStore>) -> anyhow::Result<Self> {
        let keyring = Self(store);
        keyring.keys().await?;
        Ok(keyring)
    }

    /// The keys as they are now.
    ///
    /// # Errors
    /// The store has none.
    pub async fn keys(&self) -> anyhow::Result<Arc<PrivateKeys>> {
        let keys = self.0.get().await?.sealing_private_keys;
        keys.context(
            "bad configuration: SEALING_PRIVATE_KEYS must be keys as `migrate` makes them (or set MAIL_SECRET_ARN)",
        )
    }

    /// Opens an account's secrets. Where one is sealed with a key that is not here yet, the keys are read again.
    ///
    /// # Errors
    /// [`Error::Internal`]: the key is gone, or the sealed value is not this account's.
    pub async fn open(&self, scope: &Scope, account: AccountId, sealed: &Sealed) -> Result<Passwords, Error> {
        let tried_at = Instant::now();
        let refused = match open_all(&*self.keys().await.map_err(Error::Internal)?, scope, account, sealed) {
            Err(OpenError::UnknownKey(id)) => OpenError::UnknownKey(id),
            outcome => return outcome.map_err(Error::internal),
        };
        if self.0.refresh(tried_at).await.map_err(Error::Internal)? {
            let keys = self.keys().await.map_err(Error::Internal)?;
            return open_all(&keys, scope, account, sealed).map_err(Error::internal);
        }
        Err(Error::Internal(anyhow!(refused)))
    }
}

fn open_all(keys: &PrivateKeys, scope: &Scope, account: AccountId, sealed: &Sealed) -> Result<Passwords, OpenError> {
    let one = |kind, sealed: &Option<Vec<u8>>| -> Result<Option<Password>, OpenError> {
        let Some(sealed) = sealed else { return Ok(None) };
        let secret = open(keys, &Place { scope: *scope, account, kind }, sealed)?;
        Password::from_bytes(&secret).map(Some).ok_or(OpenError::Malformed)
    };
    Ok(Passwords {
        password: one(Kind::Password, &sealed.password)?,
        smtp_password: one(Kind::SmtpPassword, &sealed.smtp_password)?,
    })
}
