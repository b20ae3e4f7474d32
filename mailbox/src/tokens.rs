//! Access tokens for accounts of providers: the stored one while it is good, else a new one.
//!
//! Of all who need a new one at a time, one asks the provider, and the others wait for what comes of it: the row has a
//! lease. A refresh token that the provider replaced is stored before the access token that came with it is used, so that
//! a worker may die at any moment: what was stored works, and what was not stored was not used. A worker that dies between
//! the provider's answer and the store leaves the old refresh token, which most providers take again; where one does not,
//! the user has to sign in again, and `consentRevoked` says so.

use std::sync::Arc;
use std::time::Duration;

use mail::connect::Connector;
use mail::oauth2::{Client, Failure, Grant, refresh};
use mail::{Code, Error as MailError};
use shared::account::state::Event;
use shared::account::{Account, AccountChange};
use shared::config::{Outbound, SignInConfig};
use shared::credential::Password;
use shared::db::Db;
use shared::db::secrets::Sealed;
use shared::db::tokens::{Lease, Turn};
use shared::identity::Scope;
use shared::keyring::{Clients, Keyring};
use shared::sealing::{Kind, Place, PublicKey, seal};
use shared::secrets::SecretText;
use shared::work::mail::MailJob;
use shared::{Error, MailCall};
use tokio::time::{Instant, sleep, sleep_until};

use crate::providers::{Provider, Providers};
use crate::{Outcome, Settings};

/// How long the provider has to answer.
const ASK_TIME: Duration = Duration::from_secs(6);
/// How long others wait for who asks: the provider's time, and the store's. Whoever dies meanwhile costs them no more.
const LEASE: Duration = Duration::from_secs(10);
/// How long a try may take to get its token: signing in takes a while, too.
const TOKEN_TIME: Duration = Duration::from_secs(5);
/// The least that is left of a try's time for a second one, with a new token: what a provider and a server mostly take.
const AGAIN_TIME: Duration = Duration::from_secs(4);
/// How often those look who wait, at first and at most.
const LOOKS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(400));
/// How often a store is tried whose outcome is not known: nobody else has the token.
const STORES: u32 = 3;

/// The way to mail hosts, and the providers that accounts may be of.
#[derive(Debug, Clone)]
pub struct Way {
    /// To mail hosts and providers.
    pub connector: Connector,
    /// Those that are set up.
    pub providers: Arc<Providers>,
}

/// The way to mail hosts and providers, as the configuration has them.
///
/// # Errors
/// A variable is not usable, or there are no root certificates.
pub fn way(outbound: &Outbound) -> anyhow::Result<Way> {
    let providers = Arc::new(Providers::new(&SignInConfig::from_env()?)?);
    Ok(Way { connector: crate::connector(outbound)?, providers })
}

/// What gets an account its tokens.
pub struct Tokens<'a> {
    /// As the role that may read sealed secrets.
    pub db: &'a Db,
    /// What opens tokens.
    pub keyring: &'a Keyring,
    /// What seals new ones.
    pub seal_with: &'a PublicKey,
    /// Who we are at providers.
    pub clients: &'a Clients,
    /// The way to them.
    pub way: &'a Way,
    /// Whose account it is.
    pub scope: Scope,
}

/// A token that mail servers take.
#[derive(Debug)]
pub struct AccessToken {
    /// The token itself.
    pub text: SecretText,
    /// Whether it was fetched just now: one that a server refuses is not to be replaced by the next.
    pub is_new: bool,
    version: i32,
}

/// What signs in to an account's mailbox.
#[derive(Debug)]
pub struct Key {
    /// The servers, and what proves who one is.
    pub settings: Settings,
    /// The provider's token that is in them.
    token: Option<AccessToken>,
}

impl Key {
    /// A password or a provider's token, whichever the account has, by `deadline`; `None` where there is no password.
    ///
    /// # Errors
    /// As [`Tokens::access_token`].
    pub async fn new(
        tokens: &Tokens<'_>,
        account: &Account,
        sealed: &Sealed,
        deadline: Instant,
    ) -> Result<Option<Self>, TokenError> {
        let secrets = tokens.keyring.open(&tokens.scope, account.id, sealed).await?;
        let (smtp_password, change) = (secrets.smtp_password, AccountChange::default());
        if account.auth_type == "oauth2" {
            return Self::by_token(tokens, account, smtp_password, change, deadline).await.map(Some);
        }
        let settings = Settings::stored(account, secrets.password, smtp_password, change);
        Ok(settings.map(|settings| Self { settings, token: None }))
    }

    async fn by_token(
        tokens: &Tokens<'_>,
        account: &Account,
        smtp_password: Option<Password>,
        change: AccountChange,
        deadline: Instant,
    ) -> Result<Self, TokenError> {
        let token = tokens.access_token(account, None, deadline).await?;
        let provider = account.provider.as_deref().and_then(|name| tokens.way.providers.get(name));
        // It was there a moment ago.
        let provider = provider.ok_or_else(|| MailError::new(Code::Unavailable, "the provider is not set up"));
        let provider = provider.map_err(TokenError::Provider)?;
        let settings = Settings::with_token(account, token.text.clone(), provider, smtp_password, change);
        Ok(Self { settings: settings.map_err(TokenError::Provider)?, token: Some(token) })
    }

    /// The same with a newer token, after a server has refused the one that is in it although its time had not ended: the
    /// provider may have ended it, or all consent with it. `None` where another one would be of no use.
    ///
    /// # Errors
    /// As [`Tokens::access_token`].
    pub async fn renewed(
        self,
        tokens: &Tokens<'_>,
        account: &Account,
        deadline: Instant,
    ) -> Result<Option<Self>, TokenError> {
        let Some(refused) = self.token.filter(|token| !token.is_new) else { return Ok(None) };
        let token = tokens.access_token(account, Some(&refused), deadline).await?;
        Ok(Some(Self { settings: self.settings.with_newer_token(&token.text), token: Some(token) }))
    }
}

/// Why there is no token.
#[derive(Debug)]
pub enum TokenError {
    /// The provider's doing, as `lastError` tells it.
    Provider(MailError),
    /// Ours.
    Service(Error),
}

impl From<Error> for TokenError {
    fn from(error: Error) -> Self {
        Self::Service(error)
    }
}

impl<'a> Tokens<'a> {
    /// With what a worker's job has.
    pub fn of_job(job: &'a MailJob<Way>) -> Self {
        Self {
            db: &job.db,
            keyring: &job.keyring,
            seal_with: &job.seal_with,
            clients: &job.clients,
            way: &job.network,
            scope: job.job.scope,
        }
    }

    /// With what a call of a mail function has.
    pub fn of_call(call: &'a MailCall<Way>) -> Self {
        Self {
            db: &call.db,
            keyring: &call.keyring,
            seal_with: &call.seal_with,
            clients: &call.clients,
            way: &call.network,
            scope: call.identity.scope,
        }
    }

    /// A token for an account of a provider, by `deadline`. `refused` is one that a server did not take although its time
    /// had not ended: consent may have been taken back, and a refresh tells.
    ///
    /// # Errors
    /// [`TokenError::Provider`] with [`Code::ConsentRevoked`] where the user has to sign in again, and [`Code::Unavailable`]
    /// where it may go well later.
    pub async fn access_token(
        &self,
        account: &Account,
        refused: Option<&AccessToken>,
        deadline: Instant,
    ) -> Result<AccessToken, TokenError> {
        let name = account.provider.as_deref().unwrap_or_default();
        let Some(provider) = self.way.providers.get(name) else {
            let mut error = MailError::new(Code::Unavailable, format!("the provider {name} is not set up"));
            error.message = "The service no longer knows this provider. Ask its operator.".into();
            return Err(TokenError::Provider(error));
        };
        let (mut since, mut pause) = (None, LOOKS.0);
        loop {
            let refused = refused.map(|token| token.version);
            let turn = self.db.claim_token(&self.scope, account.credential_id, refused, since, LEASE).await?;
            match turn {
                Turn::Fresh(sealed) => {
                    let text = self.keyring.open_token(&self.place(account, Kind::AccessToken), &sealed.value).await?;
                    return Ok(AccessToken { text, is_new: since.is_some(), version: sealed.version });
                }
                Turn::Claimed(sealed, lease) => match self.fetch(account, provider, &sealed.value, lease).await {
                    // Others were stored meanwhile: they count.
                    Ok(None) => {}
                    Ok(Some(text)) => return Ok(AccessToken { text, is_new: true, version: sealed.version + 1 }),
                    Err(error) => {
                        let code = match &error {
                            TokenError::Provider(error) => error.code,
                            TokenError::Service(_) => Code::Unavailable,
                        };
                        // Where this fails as well, the lease ends by itself.
                        let noted =
                            self.db.fail_refresh(&self.scope, account.credential_id, lease, code.as_str()).await;
                        if let Err(error) = noted {
                            tracing::warn!(error = format!("{error:#}"), "a refresh that failed is not noted");
                        }
                        return Err(error);
                    }
                },
                Turn::Wait(began) => {
                    since = Some(began);
                    if Instant::now() + pause > deadline {
                        sleep_until(deadline).await;
                        return Err(unavailable("another worker has asked the provider, and has no answer yet"));
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(LOOKS.1);
                }
                Turn::Failed(code) => {
                    let detail = "another worker has asked the provider";
                    return Err(match code == Code::ConsentRevoked.as_str() {
                        true => TokenError::Provider(MailError::new(Code::ConsentRevoked, detail)),
                        false => unavailable(detail),
                    });
                }
                Turn::Missing => {
                    let detail = "the account has no tokens";
                    return Err(TokenError::Provider(MailError::new(Code::ConsentRevoked, detail)));
                }
            }
        }
    }

    /// Signs in to the servers of an account of a provider, as [`Settings::try_all`] does. Where a token is refused whose
    /// time had not ended, once more with a new one: the provider may have ended it, or all consent with it.
    ///
    /// # Errors
    /// Ours; what goes wrong elsewhere is in the outcome.
    pub async fn try_all(
        &self,
        account: &Account,
        smtp_password: Option<Password>,
        change: AccountChange,
        started: Instant,
    ) -> Result<Outcome, Error> {
        let without_token = |error| match error {
            TokenError::Provider(error) => Ok(Outcome::without_token(error)),
            TokenError::Service(error) => Err(error),
        };
        let deadline = started + TOKEN_TIME;
        let key = match Key::by_token(self, account, smtp_password, change, deadline).await {
            Ok(key) => key,
            Err(error) => return without_token(error),
        };
        let outcome = key.settings.try_all(&self.way.connector, started).await;
        let left = (started + crate::TRY_TIME).saturating_duration_since(Instant::now());
        if outcome.event().0 != Event::Refused || left < AGAIN_TIME {
            return Ok(outcome);
        }
        match key.renewed(self, account, deadline).await {
            Ok(Some(key)) => Ok(key.settings.try_all(&self.way.connector, started).await),
            Ok(None) => Ok(outcome),
            Err(TokenError::Provider(error)) if error.code != Code::ConsentRevoked => Ok(outcome),
            Err(error) => without_token(error),
        }
    }

    /// Asks the provider and stores what it gives. `None`: the account has other tokens meanwhile, and these are nothing.
    async fn fetch(
        &self,
        account: &Account,
        provider: &Provider,
        sealed: &[u8],
        lease: Lease,
    ) -> Result<Option<SecretText>, TokenError> {
        let refresh_token = self.keyring.open_token(&self.place(account, Kind::RefreshToken), sealed).await?;
        let deadline = Instant::now() + ASK_TIME;
        let ask = async |secret: Option<SecretText>| {
            let client = Client {
                endpoint: &provider.token_endpoint,
                id: &provider.client_id,
                secret: secret.as_ref().map(SecretText::reveal),
            };
            refresh(&self.way.connector, client, refresh_token.reveal(), deadline).await
        };
        let tried_at = std::time::Instant::now();
        let mut answer = ask(self.clients.secret(&provider.name).await?).await;
        if matches!(answer, Err(Failure::Client(_))) && self.clients.refresh(tried_at).await? {
            answer = ask(self.clients.secret(&provider.name).await?).await;
        }
        let Grant { access_token, life, refresh_token, .. } = answer.map_err(|failure| {
            let (provider, error) = (&provider.name, failure.to_string());
            match failure {
                // Nobody can sign in with this provider until the operator has mended it.
                Failure::Client(_) => tracing::error!(provider, error, "token_refresh_failed"),
                _ => tracing::warn!(accountId = %account.id, provider, error, "token_refresh_failed"),
            }
            match failure {
                Failure::Refused(_) => TokenError::Provider(MailError::new(Code::ConsentRevoked, error)),
                _ => unavailable(&error),
            }
        })?;
        let sealed = |kind, token: &str| {
            seal(self.seal_with, &self.place(account, kind), token.as_bytes()).map_err(Error::Internal)
        };
        let access = sealed(Kind::AccessToken, &access_token)?;
        let refresh = refresh_token.map(|token| sealed(Kind::RefreshToken, &token)).transpose()?;
        let mut attempt = 1;
        let is_stored = loop {
            let access = (access.as_slice(), life);
            let stored = self
                .db
                .store_tokens(
                    &self.scope,
                    account.credential_id,
                    lease,
                    self.seal_with.id(),
                    access,
                    refresh.as_deref(),
                )
                .await;
            match stored {
                // Where the first one was stored and its answer lost, the second finds another version.
                Err(error) if attempt < STORES => {
                    tracing::warn!(error = format!("{error:#}"), "tokens are not stored yet");
                    sleep(LOOKS.1).await;
                    attempt += 1;
                }
                stored => break stored?,
            }
        };
        tracing::info!(accountId = %account.id, provider = provider.name, is_stored, "token_refreshed");
        Ok(is_stored.then(|| SecretText::new(access_token.to_string())))
    }

    fn place(&self, account: &Account, kind: Kind) -> Place {
        Place { scope: self.scope, account: account.id, kind }
    }
}

fn unavailable(detail: &str) -> TokenError {
    let mut error = MailError::new(Code::Unavailable, detail);
    error.message = "The provider asks to try again later, or does not answer.".into();
    TokenError::Provider(error)
}
