//! The providers that users can sign in with: Google and Microsoft, whose settings are here, and others that the operator
//! describes in full. A provider exists where the operator has a client there.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, ensure};
use mail::oauth2::Endpoint;
use serde::Deserialize;
use serde_json::{Map, Value};
use shared::account::{ENCRYPTIONS, EmailAddress};
use shared::config::SignInConfig;
use shared::validation::Field;
use url::Url;

/// Scopes of OpenID Connect. They are about who signs in, and answers need not repeat them.
const IDENTITY_SCOPES: [&str; 4] = ["openid", "email", "profile", "offline_access"];
/// Microsoft's servers for sending, of organisations and of persons.
const MICROSOFTS_SMTP: &str = "smtp.office365.com";
/// See [`MICROSOFTS_SMTP`].
const PERSONAL_SMTP: &str = "smtp-mail.outlook.com";
/// The tenant that all personal accounts of Microsoft are in.
const PERSONAL_TENANT: &str = "9188040d-6c67-4c5b-b112-36a304b66dad";
/// The longest name: the column's width.
const MAX_NAME: usize = 64;

/// All providers, by their names.
#[derive(Debug, Default)]
pub struct Providers {
    by_name: BTreeMap<String, Provider>,
    redirect_uris: Vec<String>,
}

/// A provider that the operator has a client at.
#[derive(Debug)]
pub struct Provider {
    /// What the API and accounts call it.
    pub name: String,
    /// The client's id.
    pub client_id: String,
    /// Where codes are exchanged for tokens, and refresh tokens for new ones.
    pub token_endpoint: Endpoint,
    /// Where a token tells whose it is; for providers whose token endpoint does not.
    pub user_info_endpoint: Option<Endpoint>,
    /// The server for reading.
    pub imap: Host,
    /// The other server for reading.
    pub pop3: Option<Host>,
    smtp: Option<Host>,
    personal_smtp: Option<Host>,
    authorization_endpoint: Url,
    scopes: Vec<String>,
    parameters: BTreeMap<String, String>,
    consent_parameters: BTreeMap<String, String>,
    identity: Identity,
}

/// A mail server of a provider.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Host {
    /// Its name.
    pub hostname: String,
    /// Its port.
    pub port: u16,
    /// `tls` or `starttls`.
    pub encryption: String,
}

/// Who signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The address of the mailbox.
    pub address: EmailAddress,
    /// Whether Microsoft has it for a person and not for an organisation: its server for sending is another one.
    is_personal: bool,
}

/// What the claims must say, and which of them is the address.
#[derive(Debug)]
enum Identity {
    Google { issuers: Vec<String> },
    Microsoft { issuer: Option<String>, tenant: String },
    Other { issuer: Option<String>, address: String },
}

/// How a page is sent to a provider.
#[derive(Debug, Clone, Copy)]
pub struct Departure<'a> {
    /// The state that it is to bring back.
    pub state: &'a str,
    /// PKCE's challenge.
    pub challenge: &'a str,
    /// Where it comes back to.
    pub redirect_uri: &'a str,
    /// Who is expected to sign in.
    pub address: Option<&'a str>,
    /// Whether the provider is to ask for consent although it has it: else some give no refresh token.
    pub needs_consent: bool,
}

/// One provider in `OAUTH2_PROVIDERS`. What is built in may be left out.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    client_id: String,
    tenant: Option<String>,
    authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    user_info_endpoint: Option<String>,
    issuer: Option<String>,
    address_claim: Option<String>,
    scopes: Option<Vec<String>>,
    parameters: Option<BTreeMap<String, String>>,
    consent_parameters: Option<BTreeMap<String, String>>,
    imap: Option<Host>,
    pop3: Option<Host>,
    smtp: Option<Host>,
}

fn host(hostname: &str, port: u16, encryption: &str) -> Option<Host> {
    Some(Host { hostname: hostname.into(), port, encryption: encryption.into() })
}

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Option<BTreeMap<String, String>> {
    Some(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
}

fn texts<const N: usize>(texts: [&str; N]) -> Option<Vec<String>> {
    Some(texts.map(str::to_owned).into())
}

impl Settings {
    /// https://developers.google.com/identity/protocols/oauth2/web-server and
    /// https://developers.google.com/workspace/gmail/imap/imap-smtp.
    fn or_googles(self) -> Self {
        Self {
            authorization_endpoint: self
                .authorization_endpoint
                .or(Some("https://accounts.google.com/o/oauth2/v2/auth".into())),
            token_endpoint: self.token_endpoint.or(Some("https://oauth2.googleapis.com/token".into())),
            scopes: self.scopes.or(texts(["openid", "email", "https://mail.google.com/"])),
            // Without these Google gives no refresh token: the first always, the second once it has consent.
            parameters: self.parameters.or(pairs([("access_type", "offline")])),
            consent_parameters: self.consent_parameters.or(pairs([("prompt", "consent")])),
            imap: self.imap.or(host("imap.gmail.com", 993, "tls")),
            pop3: self.pop3.or(host("pop.gmail.com", 995, "tls")),
            smtp: self.smtp.or(host("smtp.gmail.com", 465, "tls")),
            ..self
        }
    }

    /// https://learn.microsoft.com/en-us/exchange/client-developer/legacy-protocols/how-to-authenticate-an-imap-pop-smtp-application-by-using-oauth
    fn or_microsofts(self) -> Self {
        let tenant = self.tenant.clone().unwrap_or_else(|| "common".to_owned());
        let endpoint = |name: &str| Some(format!("https://login.microsoftonline.com/{tenant}/oauth2/v2.0/{name}"));
        let scopes = [
            "openid",
            "email",
            "profile",
            "offline_access",
            "https://outlook.office.com/IMAP.AccessAsUser.All",
            "https://outlook.office.com/POP.AccessAsUser.All",
            "https://outlook.office.com/SMTP.Send",
        ];
        Self {
            authorization_endpoint: self.authorization_endpoint.or(endpoint("authorize")),
            token_endpoint: self.token_endpoint.or(endpoint("token")),
            scopes: self.scopes.or(texts(scopes)),
            parameters: self.parameters.or(pairs([("response_mode", "query")])),
            imap: self.imap.or(host("outlook.office365.com", 993, "tls")),
            pop3: self.pop3.or(host("outlook.office365.com", 995, "tls")),
            smtp: self.smtp.or(host(MICROSOFTS_SMTP, 587, "starttls")),
            tenant: Some(tenant),
            ..self
        }
    }
}

impl Provider {
    fn new(name: String, settings: Settings) -> anyhow::Result<Self> {
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(
            (1..=MAX_NAME).contains(&name.len()) && name.chars().all(is_name),
            "a provider's name is of small letters, digits and hyphens"
        );
        ensure!(!settings.client_id.is_empty(), "clientId is empty");
        ensure!(settings.tenant.is_none() || name == "microsoft", "only microsoft has a tenant");
        let settings = match name.as_str() {
            "google" => settings.or_googles(),
            "microsoft" => settings.or_microsofts(),
            _ => settings,
        };
        // Where the operator names another server, it is that of all.
        let personal_smtp = settings.smtp.as_ref().filter(|smtp| smtp.hostname == MICROSOFTS_SMTP);
        let personal_smtp = personal_smtp.and_then(|_| host(PERSONAL_SMTP, 587, "starttls"));
        let identity = match name.as_str() {
            "google" => Identity::Google {
                issuers: match settings.issuer {
                    Some(issuer) => vec![issuer],
                    None => vec!["https://accounts.google.com".into(), "accounts.google.com".into()],
                },
            },
            "microsoft" => {
                let tenant = settings.tenant.unwrap_or_default();
                let is_tenant = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
                ensure!(!tenant.is_empty() && tenant.chars().all(is_tenant), "tenant is a word, an id or a domain");
                Identity::Microsoft { issuer: settings.issuer, tenant }
            }
            _ => Identity::Other {
                issuer: settings.issuer,
                address: settings.address_claim.unwrap_or_else(|| "email".into()),
            },
        };
        let endpoint =
            |name: &str, url: &str| Endpoint::parse(url).with_context(|| format!("{name} is no URL of https"));
        let authorization_endpoint = settings.authorization_endpoint.context("authorizationEndpoint is missing")?;
        let authorization_endpoint = Url::parse(&authorization_endpoint)
            .ok()
            .filter(|url| url.scheme() == "https" && url.fragment().is_none())
            .context("authorizationEndpoint is no URL of https")?;
        let token_endpoint = settings.token_endpoint.context("tokenEndpoint is missing")?;
        let scopes = settings.scopes.context("scopes are missing")?;
        let is_scope = |scope: &String| !scope.is_empty() && scope.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(!scopes.is_empty() && scopes.iter().all(is_scope), "scopes are words");
        let hosts = [&settings.imap, &settings.pop3, &settings.smtp];
        for host in hosts.into_iter().flatten() {
            // Tokens are never sent in clear.
            let is_encrypted = ENCRYPTIONS.contains(&host.encryption.as_str()) && host.encryption != "none";
            ensure!(is_encrypted, "the encryption of {} is tls or starttls", host.hostname);
        }
        Ok(Self {
            name,
            client_id: settings.client_id,
            token_endpoint: endpoint("tokenEndpoint", &token_endpoint)?,
            user_info_endpoint: settings
                .user_info_endpoint
                .as_deref()
                .map(|url| endpoint("userInfoEndpoint", url))
                .transpose()?,
            imap: settings.imap.context("imap is missing")?,
            pop3: settings.pop3,
            smtp: settings.smtp,
            personal_smtp,
            authorization_endpoint,
            scopes,
            parameters: settings.parameters.unwrap_or_default(),
            consent_parameters: settings.consent_parameters.unwrap_or_default(),
            identity,
        })
    }

    /// Where a page is sent to begin (RFC 6749, 4.1.1; RFC 7636, 4.3).
    pub fn authorization_url(&self, departure: &Departure<'_>) -> String {
        let mut url = self.authorization_endpoint.clone();
        let scopes = self.scopes.join(" ");
        {
            let mut query = url.query_pairs_mut();
            query.extend_pairs([
                ("response_type", "code"),
                ("client_id", &self.client_id),
                ("redirect_uri", departure.redirect_uri),
                ("scope", &scopes),
                ("state", departure.state),
                ("code_challenge", departure.challenge),
                ("code_challenge_method", "S256"),
            ]);
            query.extend_pairs(&self.parameters);
            if departure.needs_consent {
                query.extend_pairs(&self.consent_parameters);
            }
            if let Some(address) = departure.address {
                query.append_pair("login_hint", address);
            }
        }
        url.into()
    }

    /// Whether what was consented to is all that mail needs. A provider that says nothing has given what was asked for.
    pub fn is_enough(&self, scope: Option<&str>) -> bool {
        let Some(scope) = scope.filter(|scope| !scope.is_empty()) else { return true };
        let mut needed = self.scopes.iter().filter(|scope| !IDENTITY_SCOPES.contains(&scope.as_str()));
        needed.all(|needed| scope.split_whitespace().any(|given| given.eq_ignore_ascii_case(needed)))
    }

    /// Whose mailbox was consented to, by the claims of an ID token.
    ///
    /// Google: `email`, verified. Microsoft: `preferred_username`, whose domain the user's organisation has proved to be its
    /// own; `email` is whatever an administrator typed, so it counts only where `xms_edov` says that its domain is proved.
    /// Others: the claim that the operator names, unless the provider says that it is not verified.
    ///
    /// # Errors
    /// In words for the log: the claims are not for us, or have no such address.
    pub fn owner(&self, claims: &Map<String, Value>) -> Result<Owner, &'static str> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let is_true = |name: &str| match claims.get(name) {
            Some(Value::Bool(is_true)) => *is_true,
            // Some write it so.
            Some(Value::String(text)) => text == "true" || text == "1",
            Some(Value::Number(number)) => number.as_u64() == Some(1),
            _ => false,
        };
        let address = |name: &str| EmailAddress::read(claims.get(name).cloned().unwrap_or_default());
        let issuer_is = |expected: &str| text("iss") == Some(expected);
        let found = match &self.identity {
            Identity::Google { issuers } => {
                if !issuers.iter().any(|issuer| issuer_is(issuer)) {
                    return Err("the ID token is of another issuer");
                }
                address("email").filter(|_| is_true("email_verified"))
            }
            Identity::Microsoft { issuer, tenant } => {
                let tid = text("tid").unwrap_or_default();
                let fits = match issuer {
                    Some(issuer) => issuer_is(issuer),
                    None => issuer_is(&format!("https://login.microsoftonline.com/{tid}/v2.0")),
                };
                // The issuer is that of the user's own tenant, whatever the endpoint's was.
                let is_id = uuid::Uuid::try_parse(tenant).is_ok();
                if !fits || is_id && !tid.eq_ignore_ascii_case(tenant) {
                    return Err("the ID token is of another issuer");
                }
                address("preferred_username").or_else(|| address("email").filter(|_| is_true("xms_edov")))
            }
            Identity::Other { issuer, address: claim } => {
                if issuer.as_ref().is_some_and(|issuer| !issuer_is(issuer)) {
                    return Err("the ID token is of another issuer");
                }
                address(claim).filter(|_| !claims.contains_key("email_verified") || is_true("email_verified"))
            }
        };
        let address = found.ok_or("the claims have no verified address")?;
        Ok(Owner { address, is_personal: text("tid") == Some(PERSONAL_TENANT) })
    }

    /// The server for sending.
    pub fn smtp(&self, owner: &Owner) -> Option<&Host> {
        self.personal_smtp.as_ref().filter(|_| owner.is_personal).or(self.smtp.as_ref())
    }

    /// Whether an ID token is for our client.
    pub fn is_audience(&self, claims: &Map<String, Value>) -> bool {
        match claims.get("aud") {
            Some(Value::String(audience)) => *audience == self.client_id,
            Some(Value::Array(all)) => all.iter().any(|audience| *audience == self.client_id.as_str()),
            _ => false,
        }
    }

    /// The names of its servers, which are the only ones that its tokens are sent to.
    pub fn hosts(&self) -> Vec<&str> {
        let all = [Some(&self.imap), self.pop3.as_ref(), self.smtp.as_ref(), self.personal_smtp.as_ref()];
        all.into_iter().flatten().map(|host| host.hostname.as_str()).collect()
    }
}

impl Providers {
    /// Reads the configuration.
    ///
    /// # Errors
    /// `OAUTH2_PROVIDERS` is not usable; says why.
    pub fn new(config: &SignInConfig) -> anyhow::Result<Self> {
        let settings: HashMap<String, Settings> = match config.providers.as_str() {
            "" => HashMap::new(),
            text => serde_json::from_str(text).context(
                "bad configuration: OAUTH2_PROVIDERS must be a JSON object that has the settings for each name",
            )?,
        };
        let provider = |(name, settings): (String, Settings)| {
            let provider = Provider::new(name.clone(), settings);
            Ok((name.clone(), provider.with_context(|| format!("bad configuration: OAUTH2_PROVIDERS: {name}"))?))
        };
        let by_name = settings.into_iter().map(provider).collect::<anyhow::Result<_>>()?;
        Ok(Self { by_name, redirect_uris: config.redirect_uris.clone() })
    }

    /// The provider of that name.
    pub fn get(&self, name: &str) -> Option<&Provider> {
        self.by_name.get(name)
    }

    /// Their names, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Whether providers may send pages there.
    pub fn allows(&self, redirect_uri: &str) -> bool {
        self.redirect_uris.iter().any(|allowed| allowed == redirect_uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn providers(settings: Value) -> anyhow::Result<Providers> {
        let redirect_uris = vec!["https://app.example.com/connected".to_owned()];
        Providers::new(&SignInConfig { providers: settings.to_string(), redirect_uris })
    }

    fn other() -> Value {
        json!({
            "clientId": "c", "authorizationEndpoint": "https://id.example.com/authorize?x=y",
            "tokenEndpoint": "https://id.example.com/token", "issuer": "https://id.example.com", "scopes": ["openid", "mail"],
            "imap": {"hostname": "imap.example.com", "port": 993, "encryption": "tls"},
        })
    }

    fn query(url: &str) -> BTreeMap<String, String> {
        Url::parse(url).unwrap().query_pairs().into_owned().collect()
    }

    fn departure(needs_consent: bool) -> Departure<'static> {
        Departure {
            state: "s",
            challenge: "c",
            redirect_uri: "https://app.example.com/?a=b",
            address: Some("a+b@c.de"),
            needs_consent,
        }
    }

    #[test]
    fn a_page_is_sent_with_all_that_the_provider_asks_for() {
        let providers = providers(json!({
            "google": {"clientId": "g"}, "microsoft": {"clientId": "m", "tenant": "organizations"}, "example": other(),
        }))
        .unwrap();
        assert_eq!(providers.names().collect::<Vec<_>>(), ["example", "google", "microsoft"]);
        let google = providers.get("google").unwrap();
        let url = google.authorization_url(&departure(false));
        assert!(url.starts_with("https://accounts.google.com/o/oauth2/v2/auth?"), "{url}");
        let expected = [
            ("response_type", "code"),
            ("client_id", "g"),
            ("redirect_uri", "https://app.example.com/?a=b"),
            ("scope", "openid email https://mail.google.com/"),
            ("state", "s"),
            ("code_challenge", "c"),
            ("code_challenge_method", "S256"),
            ("access_type", "offline"),
            ("login_hint", "a+b@c.de"),
        ];
        assert_eq!(Some(query(&url)), pairs(expected));
        assert_eq!(query(&google.authorization_url(&departure(true)))["prompt"], "consent");
        let microsoft = providers.get("microsoft").unwrap().authorization_url(&departure(true));
        assert!(microsoft.starts_with("https://login.microsoftonline.com/organizations/oauth2/v2.0/authorize?"));
        assert!(query(&microsoft)["scope"].contains(" offline_access ") && !query(&microsoft).contains_key("prompt"));
        assert_eq!(query(&providers.get("example").unwrap().authorization_url(&departure(false)))["x"], "y");
        assert!(providers.allows("https://app.example.com/connected"));
        for other in
            ["https://app.example.com/connected/", "https://app.example.com/Connected", "https://app.example.com", ""]
        {
            assert!(!providers.allows(other), "{other}");
        }
    }

    #[test]
    fn the_address_is_one_that_the_provider_vouches_for() {
        let providers = providers(json!({
            "google": {"clientId": "g"}, "microsoft": {"clientId": "m"}, "example": other(),
        }))
        .unwrap();
        let google = |changes: Value| {
            let mut claims =
                json!({"iss": "https://accounts.google.com", "email": "jane@gmail.com", "email_verified": true});
            claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            providers.get("google").unwrap().owner(claims.as_object().unwrap()).map(|owner| owner.address.0)
        };
        assert_eq!(google(json!({})).unwrap(), "jane@gmail.com");
        assert!(google(json!({"iss": "accounts.google.com", "email_verified": "true"})).is_ok());
        for bad in [
            json!({"email_verified": false}),
            json!({"email_verified": null}),
            json!({"iss": "https://evil.example"}),
            json!({"email": "jane"}),
            json!({"email": 1}),
        ] {
            assert!(google(bad.clone()).is_err(), "{bad}");
        }
        let tid = "9122040d-6c67-4c5b-b112-36a304b66dad";
        let microsoft = |changes: Value| {
            let mut claims = json!({"iss": format!("https://login.microsoftonline.com/{tid}/v2.0"), "tid": tid, "preferred_username": "jane@contoso.com", "email": "boss@fabrikam.com"});
            claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            providers.get("microsoft").unwrap().owner(claims.as_object().unwrap()).map(|owner| owner.address.0)
        };
        assert_eq!(microsoft(json!({})).unwrap(), "jane@contoso.com");
        assert!(microsoft(json!({"preferred_username": "+1 555 0100"})).is_err(), "an address that anybody may type");
        assert_eq!(microsoft(json!({"preferred_username": null, "xms_edov": true})).unwrap(), "boss@fabrikam.com");
        assert!(microsoft(json!({"tid": "another"})).is_err());
        let example = |claims: Value| {
            providers.get("example").unwrap().owner(claims.as_object().unwrap()).map(|owner| owner.address.0)
        };
        assert_eq!(
            example(json!({"iss": "https://id.example.com", "email": "jane@example.com"})).unwrap(),
            "jane@example.com"
        );
        assert!(
            example(json!({"iss": "https://id.example.com", "email": "jane@example.com", "email_verified": false}))
                .is_err()
        );
        assert!(example(json!({"email": "jane@example.com"})).is_err());
        let google = providers.get("google").unwrap();
        for (audience, is_ours) in
            [(json!("g"), true), (json!(["x", "g"]), true), (json!("x"), false), (json!(null), false)]
        {
            assert_eq!(google.is_audience(json!({"aud": audience}).as_object().unwrap()), is_ours);
        }
    }

    #[test]
    fn one_tenant_means_that_tenant() {
        let [own, other] = ["9122040d-6c67-4c5b-b112-36a304b66dad", "11111111-6c67-4c5b-b112-36a304b66dad"];
        let providers = providers(json!({"microsoft": {"clientId": "m", "tenant": own}})).unwrap();
        for (tid, is_ours) in [(own, true), (other, false)] {
            let claims = json!({"iss": format!("https://login.microsoftonline.com/{tid}/v2.0"), "tid": tid, "preferred_username": "jane@contoso.com"});
            assert_eq!(providers.get("microsoft").unwrap().owner(claims.as_object().unwrap()).is_ok(), is_ours);
        }
    }

    #[test]
    fn a_persons_mailbox_at_microsoft_sends_by_another_server() {
        let smtp = |settings: Value, tid: &str| {
            let providers = providers(json!({"microsoft": settings})).unwrap();
            let microsoft = providers.get("microsoft").unwrap();
            let claims = json!({"iss": format!("https://login.microsoftonline.com/{tid}/v2.0"), "tid": tid, "preferred_username": "jane@outlook.com"});
            let owner = microsoft.owner(claims.as_object().unwrap()).unwrap();
            let smtp = microsoft.smtp(&owner).unwrap().hostname.clone();
            assert!(microsoft.hosts().contains(&smtp.as_str()));
            smtp
        };
        assert_eq!(smtp(json!({"clientId": "m"}), PERSONAL_TENANT), PERSONAL_SMTP);
        assert_eq!(smtp(json!({"clientId": "m"}), "11111111-6c67-4c5b-b112-36a304b66dad"), MICROSOFTS_SMTP);
        let own = json!({"clientId": "m", "smtp": {"hostname": "smtp.example.com", "port": 465, "encryption": "tls"}});
        assert_eq!(smtp(own, PERSONAL_TENANT), "smtp.example.com");
    }

    #[test]
    fn less_than_mail_is_not_enough() {
        let providers = providers(json!({"google": {"clientId": "g"}})).unwrap();
        let google = providers.get("google").unwrap();
        assert!(google.is_enough(None) && google.is_enough(Some("https://mail.google.com/ openid")));
        assert!(!google.is_enough(Some("openid https://www.googleapis.com/auth/userinfo.email")));
    }

    #[test]
    fn what_cannot_be_used_stops_the_start_and_says_why() {
        for (change, words) in [
            (json!({"clientId": ""}), "clientId"),
            (json!({"tokenEndpoint": "http://id.example.com/token"}), "tokenEndpoint"),
            (json!({"authorizationEndpoint": "http://id.example.com/"}), "authorizationEndpoint"),
            (json!({"userInfoEndpoint": "x"}), "userInfoEndpoint"),
            (json!({"scopes": []}), "scopes"),
            (json!({"scopes": ["a b"]}), "scopes"),
            (json!({"imap": {"hostname": "x", "port": 143, "encryption": "none"}}), "encryption"),
            (json!({"tenant": "common"}), "tenant"),
            (json!({"clientSecret": "hunter2"}), "clientSecret"),
        ] {
            let mut settings = other();
            settings.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let error = format!("{:#}", providers(json!({"example": settings})).unwrap_err());
            assert!(
                error.contains("OAUTH2_PROVIDERS") && error.contains(words) && !error.contains("hunter2"),
                "{error}"
            );
        }
        for bad in [json!([]), json!({"Example": other()}), json!({"": other()}), json!({"example": {"clientId": "c"}})]
        {
            assert!(providers(bad.clone()).is_err(), "{bad}");
        }
        assert_eq!(providers(json!({})).unwrap().names().count(), 0);
    }
}
