//! `POST /api/oauth2/authorizations`: begins a sign-in with a provider. The answer says where to send the user's browser.

use std::sync::Arc;

use anyhow::anyhow;
use mailbox::providers::{Departure, Providers};
use serde::Serialize;
use serde_json::Value;
use shared::account::{AccountId, EmailAddress};
use shared::authorization::{State, random};
use shared::config::SignInConfig;
use shared::db::accounts::Found;
use shared::db::authorizations::Beginning;
use shared::error::Fault;
use shared::http::StatusCode;
use shared::validation::{Field, Fields};
use shared::{Call, Error, Reply};

/// The longest URL of a page.
const MAX_URI: usize = 2048;

/// Gets the providers ready.
///
/// # Errors
/// See [`Providers::new`].
pub fn providers(config: &SignInConfig) -> anyhow::Result<Arc<Providers>> {
    Providers::new(config).map(Arc::new)
}

/// What a page asks for.
#[derive(Debug)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = NewAuthorization, rename_all = "camelCase"))]
pub struct Input {
    /// The name of a provider that is set up here, as `oauth2` of the found settings has it.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    provider: Text,
    /// Where the provider sends the user back to: one of the URLs that are registered for it.
    #[cfg_attr(feature = "openapi", schema(value_type = String, max_length = 2048))]
    redirect_uri: Text,
    /// Who is to sign in. Another address is refused at the end.
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    email_address: Option<EmailAddress>,
    /// The account that is to be connected again, or with a provider from now on. Its own address is what counts then.
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    account_id: Option<AccountId>,
}

/// Any text of a bounded length.
#[derive(Debug)]
struct Text(String);

impl Field for Text {
    const RULE: &'static str = "must be a string of 1 to 2048 characters";

    fn read(value: Value) -> Option<Self> {
        let Value::String(text) = value else { return None };
        (1..=MAX_URI).contains(&text.len()).then_some(Self(text))
    }
}

/// A sign-in that has begun.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Authorization))]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// Where to send the user's browser.
    authorization_url: String,
    /// What comes back along with the code. It works once, for this user.
    state: String,
    /// When the sign-in ends: milliseconds since the Unix epoch.
    expires_at: i64,
}

impl Input {
    /// Reads the body.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault.
    fn read(mut fields: Fields, providers: &Providers) -> Result<Self, Error> {
        let provider = fields.required::<Text>("provider");
        let redirect_uri = fields.required::<Text>("redirectUri");
        let email_address = fields.optional("emailAddress");
        let account_id = fields.optional("accountId");
        if provider.as_ref().is_some_and(|provider| providers.get(&provider.0).is_none()) {
            fields.refuse(unknown_provider(providers));
        }
        if redirect_uri.as_ref().is_some_and(|uri| !providers.allows(&uri.0)) {
            fields.refuse(Fault::new(
                "redirectUri",
                "must be one of the URLs that are registered for this service, letter by letter",
                "Redirect uri must be one of the registered URLs".into(),
            ));
        }
        fields.finish()?;
        match (provider, redirect_uri) {
            (Some(provider), Some(redirect_uri)) => Ok(Self { provider, redirect_uri, email_address, account_id }),
            _ => Err(Error::internal(anyhow!("a required field is missing, and no fault says so"))),
        }
    }
}

fn unknown_provider(providers: &Providers) -> Fault {
    let names: Vec<_> = providers.names().collect();
    let rule = match names.is_empty() {
        true => "is of no use here: no provider is set up".to_owned(),
        false => format!("must be {}", names.join(" or ")),
    };
    let sentence = format!("Provider {rule}");
    Fault::new("provider", rule, sentence)
}

/// Answers one request.
///
/// # Errors
/// [`Error::Invalid`] with every fault of the body, an account of somebody else among them.
pub async fn handler(call: Call, providers: Arc<Providers>) -> Result<Reply, Error> {
    let scope = call.identity.scope;
    let input = Input::read(call.body()?, &providers)?;
    let provider =
        providers.get(&input.provider.0).ok_or_else(|| Error::Invalid(vec![unknown_provider(&providers)]))?;
    let (state, half) = (State::generate()?, random()?);
    let beginning = Beginning {
        provider: &provider.name,
        redirect_uri: &input.redirect_uri.0,
        account: input.account_id,
        address: input.email_address.as_ref().filter(|_| input.account_id.is_none()),
    };
    let begun = match call.db.start_authorization(&scope, &state, &*half, &beginning).await? {
        Found::Own(begun) => *begun,
        found => {
            let rule = "must be the id of one of your accounts";
            let fault = Fault::new("accountId", rule, format!("Account id {rule}"));
            // Whose it is goes to the log.
            if let Some(id) = input.account_id {
                drop(found.own(&scope, id));
            }
            return Err(Error::Invalid(vec![fault]));
        }
    };
    let address = begun.address.as_deref().or(input.email_address.as_ref().map(|address| address.0.as_str()));
    let state_text = state.text();
    let authorization_url = provider.authorization_url(&Departure {
        state: &state_text,
        challenge: &state.challenge(&*half),
        redirect_uri: &input.redirect_uri.0,
        address,
        needs_consent: begun.needs_consent,
    });
    let output = Output { authorization_url, state: state_text, expires_at: begun.expires_at };
    Reply::json(StatusCode::CREATED, &output)
}
