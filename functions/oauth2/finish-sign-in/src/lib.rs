//! `POST /api/oauth2/accounts`: ends a sign-in with a provider. What the browser brought back is exchanged for tokens, which
//! become those of a new account, or of one that is connected again.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use mail::oauth2::{Client, Failure, Grant, claims, exchange, user_info};
use mailbox::providers::{Host, Owner, Provider};
use mailbox::tokens::Way;
use serde_json::{Map, Value};
use shared::account::AccountName;
use shared::authorization::State;
use shared::db::authorizations::{Connection, MailServer, Reconnected, Taken, Tokens};
use shared::error::Fault;
use shared::http::StatusCode;
use shared::secrets::SecretText;
use shared::validation::{Field, Fields};
use shared::{Error, Reply, SignInCall};

/// The path of this endpoint.
const COLLECTION: &str = "/api/oauth2/accounts";

/// How long the provider has for all answers together. Below the function's own limit (template.yaml, 10 s).
const PROVIDER_TIME: Duration = Duration::from_secs(6);

/// What a client learns when the provider let the user in, but gave nothing lasting.
pub const NO_CONSENT: &str =
    "The provider gave access for an hour only. Start again: it will ask for consent, and give lasting access.";
/// What a client learns when the user did not allow all that mail needs.
pub const TOO_LITTLE: &str = "The user did not allow access to mail. Start again, and leave all boxes ticked.";
/// What a client learns when the account that was to be reconnected is not there any more.
pub const GONE: &str = "The account was deleted meanwhile. Start again without accountId.";
/// What a client learns when the provider is away.
pub const PROVIDER_AWAY: &str = "The provider does not answer, or asks to come later. Start again in a while.";
/// What a client learns when the provider does not say whose mailbox it is.
pub const NOBODY: &str = "The provider names no verified email address for this sign-in. Choose another account there.";

/// What a page brings back.
#[derive(Debug)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = NewConnection, rename_all = "camelCase"))]
pub struct Input {
    /// As the sign-in began with it.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    state: State,
    /// As the provider gave it to the page.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    code: Code,
    /// What the user calls the account; its address unless set. One that is connected again keeps its own.
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    account_name: Option<AccountName>,
}

/// What the provider exchanges for tokens.
#[derive(Debug)]
struct Code(SecretText);

impl Field for Code {
    const RULE: &'static str = "must be the code that the provider gave to the page";

    fn read(value: Value) -> Option<Self> {
        // RFC 6749, A.11. Microsoft's have some 1,500 characters.
        let Value::String(code) = value else { return None };
        let fits = (1..=8192).contains(&code.len()) && code.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        fits.then(|| Self(SecretText::new(code)))
    }
}

impl Input {
    fn read(mut fields: Fields) -> Result<Self, Error> {
        let (state, code) = (fields.required("state"), fields.required("code"));
        let account_name = fields.optional("accountName");
        fields.finish()?;
        match (state, code) {
            (Some(state), Some(code)) => Ok(Self { state, code, account_name }),
            _ => Err(Error::internal(anyhow!("a required field is missing, and no fault says so"))),
        }
    }
}

/// One field at fault.
fn fault<T: Field>(field: &'static str) -> Error {
    Error::Invalid(vec![Fault::new(field, T::RULE, T::fault(field))])
}

/// What a client learns when another address was consented to than the one that was asked for.
pub fn other_address(signed_in: &str, expected: &str) -> String {
    format!(
        "The user signed in as {signed_in}, and this is about {expected}. Start again, and choose that account there."
    )
}

/// Answers one request: 201 with the new account, 200 with the one that is connected again.
///
/// # Errors
/// [`Error::Invalid`] with every fault of the body: a state that is unknown, used, too old or somebody else's, a code that
/// the provider does not take. [`Error::Conflict`] when the provider's answer does not fit: see the constants; also when the
/// caller has an account with that address, or as many as a user can have. [`Error::MailServer`] when the provider is away.
pub async fn handler(call: SignInCall<Way>) -> Result<Reply, Error> {
    let scope = call.call.identity.scope;
    let input = Input::read(call.call.body()?)?;
    let db = &call.call.db;
    let taken = db.take_authorization(&scope, &input.state).await?.ok_or_else(|| fault::<State>("state"))?;
    let provider = call.network.providers.get(&taken.provider).ok_or_else(|| fault::<State>("state"))?;

    let deadline = tokio::time::Instant::now() + PROVIDER_TIME;
    let grant =
        tokens(&call, provider, &taken, &input, deadline).await.map_err(|failure| refusal(provider, failure))?;
    if !provider.is_enough(grant.scope.as_deref()) {
        return Err(Error::Conflict(TOO_LITTLE.into()));
    }
    let owner = owner(&call, provider, &grant, deadline).await?;
    let address = &owner.address;
    if taken.address_key.as_ref().is_some_and(|expected| *expected != address.key()) {
        let expected = taken.address_key.unwrap_or_default();
        return Err(Error::Conflict(other_address(&address.0, &expected).into()));
    }
    let Some(refresh) = grant.refresh_token.map(|token| SecretText::new(token.to_string())) else {
        db.note_lack_of_consent(&scope, &input.state).await?;
        return Err(Error::Conflict(NO_CONSENT.into()));
    };

    let access = SecretText::new(grant.access_token.to_string());
    let hosts = provider.hosts();
    let connection = Connection {
        provider: &provider.name,
        address,
        imap: server(&provider.imap),
        smtp: provider.smtp(&owner).map(server),
        hosts: &hosts,
        tokens: Tokens { refresh: &refresh, access: &access, life: grant.life },
    };
    if let Some(id) = taken.account {
        return match db.reconnect_account(&scope, id, &connection, &call.seal_with).await? {
            Reconnected::Done(account) => Reply::json(StatusCode::OK, &*account),
            Reconnected::OtherAddress(expected) => Err(Error::Conflict(other_address(&address.0, &expected).into())),
            Reconnected::Gone => Err(Error::Conflict(GONE.into())),
        };
    }
    let name = input.account_name.as_ref().map_or(address.0.as_str(), |name| name.0.as_str());
    let most = call.call.accounts_per_user;
    let account = db.insert_connected_account(&scope, name, &connection, &call.seal_with, most).await?;
    let base = call.call.request.base_of(COLLECTION);
    Reply::json(StatusCode::CREATED, &account)?.with_location(&format!("{base}/api/accounts/{}", account.id))
}

/// Exchanges the code. A client secret that the provider does not take may have been replaced: it is read again, and the
/// exchange tried once more.
async fn tokens(
    call: &SignInCall<Way>,
    provider: &Provider,
    taken: &Taken,
    input: &Input,
    deadline: tokio::time::Instant,
) -> Result<Grant, ExchangeError> {
    let verifier = input.state.verifier(&taken.verifier_half);
    let ask = async || {
        let secret = call.clients.secret(&provider.name).await?;
        let client = Client {
            endpoint: &provider.token_endpoint,
            id: &provider.client_id,
            secret: secret.as_ref().map(SecretText::reveal),
        };
        let (connector, code) = (&call.network.connector, input.code.0.reveal());
        Ok::<_, Error>(exchange(connector, client, code, &taken.redirect_uri, &verifier, deadline).await)
    };
    let tried_at = Instant::now();
    let mut answer = ask().await?;
    if matches!(answer, Err(Failure::Client(_))) && call.clients.refresh(tried_at).await? {
        answer = ask().await?;
    }
    Ok(answer?)
}

/// Why there are no tokens.
enum ExchangeError {
    Provider(Failure),
    Service(Error),
}

impl From<Failure> for ExchangeError {
    fn from(failure: Failure) -> Self {
        Self::Provider(failure)
    }
}

impl From<Error> for ExchangeError {
    fn from(error: Error) -> Self {
        Self::Service(error)
    }
}

fn refusal(provider: &Provider, error: ExchangeError) -> Error {
    let failure = match error {
        ExchangeError::Provider(failure) => failure,
        ExchangeError::Service(error) => return error,
    };
    let (provider, error) = (&provider.name, failure.to_string());
    match failure {
        Failure::Refused(_) => {
            tracing::info!(provider, error, "sign_in_refused");
            fault::<Code>("code")
        }
        // What the operator has set up does not fit.
        Failure::Client(_) => Error::internal(failure),
        Failure::Unavailable(_) => {
            tracing::warn!(provider, error, "sign_in_failed");
            Error::MailServer { code: mail::Code::Unavailable.as_str(), message: PROVIDER_AWAY.into() }
        }
    }
}

/// Whose mailbox it is.
async fn owner(
    call: &SignInCall<Way>,
    provider: &Provider,
    grant: &Grant,
    deadline: tokio::time::Instant,
) -> Result<Owner, Error> {
    let id = grant.id_token.as_ref().and_then(|token| claims(token));
    let named = match (&id, &provider.user_info_endpoint) {
        (Some(claims), _) if !provider.is_audience(claims) => Err("the ID token is for another client"),
        (Some(claims), None) => provider.owner(claims),
        (_, Some(endpoint)) => {
            let info = user_info(&call.network.connector, endpoint, &grant.access_token, deadline).await;
            let info = info.map_err(|failure| refusal(provider, failure.into()))?;
            completed(info, id).and_then(|claims| provider.owner(&claims))
        }
        (None, None) => Err("there is no ID token"),
    };
    named.map_err(|reason| {
        tracing::warn!(provider = provider.name, reason, "sign_in_without_address");
        Error::Conflict(NOBODY.into())
    })
}

/// What an endpoint says of a user, and of an ID token who says so: the endpoint itself does not (OpenID Connect Core 5.3.2).
fn completed(mut info: Map<String, Value>, id: Option<Map<String, Value>>) -> Result<Map<String, Value>, &'static str> {
    let Some(mut id) = id else { return Ok(info) };
    if id.get("sub").zip(info.get("sub")).is_some_and(|(one, other)| one != other) {
        return Err("the ID token and the user info are of two users");
    }
    for name in ["iss", "tid"] {
        if let (false, Some(claim)) = (info.contains_key(name), id.remove(name)) {
            info.insert(name.to_owned(), claim);
        }
    }
    Ok(info)
}

fn server(host: &Host) -> MailServer<'_> {
    MailServer { hostname: &host.hostname, port: host.port.into(), encryption: &host.encryption }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn user_info_is_completed_by_the_id_token_of_the_same_user() {
        let map = |value: Value| value.as_object().cloned().unwrap();
        let info = map(json!({"sub": "7", "email": "jane@example.com", "iss": "theirs"}));
        let id = map(json!({"sub": "7", "iss": "https://id.example", "tid": "9", "email": "other@example.com"}));
        let expected = map(json!({"sub": "7", "email": "jane@example.com", "iss": "theirs", "tid": "9"}));
        assert_eq!(completed(info.clone(), Some(id)), Ok(expected));
        assert_eq!(completed(info.clone(), None), Ok(info.clone()));
        assert!(completed(info, Some(map(json!({"sub": "8"})))).is_err());
    }
}
