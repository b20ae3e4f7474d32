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
use crate::secrets::{SecretStore, SecretText};

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
        self.open_with(|keys| open_all(keys, scope, account, sealed)).await
    }

    /// Opens a provider's token.
    ///
    /// # Errors
    /// As [`Keyring::open`].
    pub async fn open_token(&self, place: &Place, sealed: &[u8]) -> Result<SecretText, Error> {
        self.open_with(|keys| {
            let token = open(keys, place, sealed)?;
            let text = std::str::from_utf8(&token).map_err(|_| OpenError::Malformed)?;
            Ok(SecretText::new(text.to_owned()))
        })
        .await
    }

    async fn open_with<T>(&self, open: impl Fn(&PrivateKeys) -> Result<T, OpenError>) -> Result<T, Error> {
        let tried_at = Instant::now();
        let refused = match open(&*self.keys().await.map_err(Error::Internal)?) {
            Err(OpenError::UnknownKey(id)) => OpenError::UnknownKey(id),
            outcome => return outcome.map_err(Error::internal),
        };
        if self.0.refresh(tried_at).await.map_err(Error::Internal)? {
            return open(&*self.keys().await.map_err(Error::Internal)?).map_err(Error::internal);
        }
        Err(Error::Internal(anyhow!(refused)))
    }
}

/// The secrets of our clients at providers, as functions have them that ask providers for tokens: read at the start, and
/// again when a provider does not take one.
#[derive(Clone)]
pub struct Clients(Arc<SecretStore>);

impl Clients {
    /// Over the store that has the secrets.
    pub fn new(store: Arc<SecretStore>) -> Self {
        Self(store)
    }

    /// The secret of the client at one provider; none where the client has none.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn secret(&self, provider: &str) -> Result<Option<SecretText>, Error> {
        let secrets = self.0.get().await.map_err(Error::Internal)?;
        Ok(secrets.client_secrets.of(provider).cloned())
    }

    /// Reads the secrets again, after one of `tried_at` was not taken; says whether there may be another to try.
    ///
    /// # Errors
    /// As [`Clients::secret`].
    pub async fn refresh(&self, tried_at: Instant) -> Result<bool, Error> {
        self.0.refresh(tried_at).await.map_err(Error::Internal)
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
