//! What a provider's token endpoint is asked (RFC 6749): tokens for a code, and new ones for a refresh token; and whose they
//! are (OpenID Connect).

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use http_body_util::Full;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::Instant;
use zeroize::{Zeroize, Zeroizing};

use crate::connect::Connector;
use crate::dns::ascii_name;
use crate::error::{clean, cut};
use crate::https;

/// Of an answer. Microsoft's tokens have some 3 KiB each, and there are three.
const ANSWER_BYTES: usize = 64 * 1024;
/// The longest token that is taken: it goes into a line of IMAP, which servers bound.
const TOKEN_BYTES: usize = 16 * 1024;
/// How long an access token is used whose life the provider does not tell.
const UNTOLD_LIFE: Duration = Duration::from_secs(5 * 60);
/// The longest that an access token is believed to live.
pub(crate) const MAX_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long before its end an access token is used no more: the way to the mail server takes a while, and clocks differ.
const EARLY: Duration = Duration::from_secs(60);

/// A place at the provider: a URL of https.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    host: String,
    port: Option<u16>,
    path: String,
}

impl Endpoint {
    /// Reads a URL; `None` where it is not of https, or has a user name.
    pub fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let fits = uri.scheme_str() == Some("https") && !uri.authority()?.as_str().contains('@');
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        fits.then_some(Self { host: ascii_name(uri.host()?)?, port: uri.port_u16(), path })
    }

    fn place(&self) -> (&str, Option<u16>) {
        (&self.host, self.port)
    }
}

/// Who we are at a provider.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    /// Where it gives tokens.
    pub endpoint: &'a Endpoint,
    /// The client's id.
    pub id: &'a str,
    /// Its secret, where it has one.
    pub secret: Option<&'a str>,
}

/// What a provider gave. Wiped when dropped.
pub struct Grant {
    /// What mail servers take.
    pub access_token: Zeroizing<String>,
    /// How long the access token is to be used; a little less than it lives.
    pub life: Duration,
    /// What new access tokens are given for; none where the one that we have stays good.
    pub refresh_token: Option<Zeroizing<String>>,
    /// Who the user is, as [`claims`] reads it.
    pub id_token: Option<Zeroizing<String>>,
    /// What was consented to, where that is told: it may be less than what was asked for.
    pub scope: Option<String>,
}

/// Why a provider gave nothing. The words are for the log, and have no secret in them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The code or the refresh token is not good, or not any more: the user must sign in again.
    #[error("the provider refuses: {0}")]
    Refused(String),
    /// The client's id, secret or another of its settings is not as the provider has it.
    #[error("the provider does not take this client: {0}")]
    Client(String),
    /// The provider is away, asks to come later, or does not answer as it should.
    #[error("the provider is not available: {0}")]
    Unavailable(String),
}

/// Asks for tokens in exchange for the code that the user's browser brought.
///
/// # Errors
/// See [`Failure`].
pub async fn exchange(
    connector: &Connector,
    client: Client<'_>,
    code: &str,
    redirect_uri: &str,
    verifier: &str,
    deadline: Instant,
) -> Result<Grant, Failure> {
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", redirect_uri),
        ("code_verifier", verifier),
    ];
    // Some call a code malformed and not wrong, which is no matter of the client.
    ask(connector, client, &fields, (&[code, verifier], Some("invalid_request")), deadline).await
}

/// Asks for a new access token.
///
/// # Errors
/// See [`Failure`].
pub async fn refresh(
    connector: &Connector,
    client: Client<'_>,
    refresh_token: &str,
    deadline: Instant,
) -> Result<Grant, Failure> {
    let fields = [("grant_type", "refresh_token"), ("refresh_token", refresh_token)];
    ask(connector, client, &fields, (&[refresh_token], None), deadline).await
}

async fn ask(
    connector: &Connector,
    client: Client<'_>,
    fields: &[(&str, &str)],
    (secrets, refusal): (&[&str], Option<&str>),
    deadline: Instant,
) -> Result<Grant, Failure> {
    let own = [Some(("client_id", client.id)), client.secret.map(|secret| ("client_secret", secret))];
    let mut form = Zeroizing::new(String::new());
    for (name, value) in fields.iter().copied().chain(own.into_iter().flatten()) {
        let separator = if form.is_empty() { "" } else { "&" };
        let value = Zeroizing::new(utf8_percent_encode(value, NON_ALPHANUMERIC).to_string());
        form.extend([separator, name, "=", value.as_str()]);
    }
    let request = Request::post(&client.endpoint.path)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(ACCEPT, "application/json")
        .body(Full::from(form.as_bytes().to_vec()))
        .map_err(|_| Failure::Client("its endpoint has no path that could be asked for".into()))?;
    let wanted = |status: StatusCode| status == StatusCode::OK || status.is_client_error();
    let answer = https::send(connector, client.endpoint.place(), request, wanted, ANSWER_BYTES, deadline)
        .await
        .map_err(|failure| Failure::Unavailable(format!("the token endpoint {failure}")))?;
    let secrets: Vec<_> = secrets.iter().copied().chain(client.secret).collect();
    read(answer, &secrets, refusal)
}

/// What the token endpoint answers (RFC 6749, 5.1 and 5.2).
#[derive(Deserialize)]
struct Answer {
    error: Option<String>,
    error_description: Option<String>,
    access_token: Option<Zeroizing<String>>,
    token_type: Option<String>,
    expires_in: Option<Value>,
    refresh_token: Option<Zeroizing<String>>,
    id_token: Option<Zeroizing<String>>,
    scope: Option<String>,
}

/// Errors that mean that the user must sign in again: RFC 6749, OpenID Connect, and Google's for a rule of an organisation.
const REFUSALS: [&str; 6] = [
    "invalid_grant",
    "interaction_required",
    "consent_required",
    "login_required",
    "access_denied",
    "admin_policy_enforced",
];

/// `refusal`: one more error that counts as one.
pub(crate) fn read(answer: Response<Vec<u8>>, secrets: &[&str], refusal: Option<&str>) -> Result<Grant, Failure> {
    let (status, mut body) = (answer.status(), answer.into_body());
    let unavailable = |words: &str| Err(Failure::Unavailable(words.to_owned()));
    if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
        return unavailable(&format!("the token endpoint answers {}", status.as_u16()));
    }
    let answer: Result<Answer, _> = serde_json::from_slice(&body);
    body.zeroize();
    let Ok(answer) = answer else {
        return unavailable(&format!("the token endpoint answers {} and no JSON", status.as_u16()));
    };
    if let Some(error) = answer.error {
        let words = words(&error, answer.error_description.as_deref(), secrets);
        return Err(match error.as_str() {
            error if REFUSALS.contains(&error) || refusal == Some(error) => Failure::Refused(words),
            "temporarily_unavailable" | "server_error" | "slow_down" => Failure::Unavailable(words),
            _ => Failure::Client(words),
        });
    }
    let usable = |token: &Zeroizing<String>| {
        (1..=TOKEN_BYTES).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let Some(access_token) = answer.access_token.filter(|token| status == StatusCode::OK && usable(token)) else {
        return unavailable(&format!("the token endpoint answers {} and no token", status.as_u16()));
    };
    if answer.token_type.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return unavailable("the token is of another type than Bearer");
    }
    Ok(Grant {
        access_token,
        life: life(answer.expires_in.as_ref()),
        refresh_token: answer.refresh_token.filter(usable),
        id_token: answer.id_token,
        scope: answer.scope,
    })
}

/// How long a token is to be used that ends after `expires_in` seconds. Some providers write the number as a text.
fn life(expires_in: Option<&Value>) -> Duration {
    let seconds = expires_in.and_then(|value| value.as_f64().or_else(|| value.as_str()?.parse().ok()));
    let told = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let life = told.unwrap_or(UNTOLD_LIFE).min(MAX_LIFE);
    life - EARLY.min(life / 4)
}

/// What the provider says, without what we have said.
fn words(error: &str, description: Option<&str>, secrets: &[&str]) -> String {
    let words = clean(&format!("{error} {}", description.unwrap_or_default()));
    match secrets.iter().any(|secret| words.contains(secret)) {
        true => "it repeats a secret".to_owned(),
        false => cut(words),
    }
}

/// The claims of an ID token that came straight from the token endpoint, over TLS: that tells who made it, so its signature
/// need not be looked at (OpenID Connect Core, 3.1.3.7). `None` where it is no ID token.
pub fn claims(id_token: &str) -> Option<Map<String, Value>> {
    let payload = id_token.split('.').nth(1)?;
    serde_json::from_slice(&BASE64URL.decode(payload.trim_end_matches('=')).ok()?).ok()
}

/// The claims that a provider's user info endpoint tells (OpenID Connect Core, 5.3).
///
/// # Errors
/// See [`Failure`].
pub async fn user_info(
    connector: &Connector,
    endpoint: &Endpoint,
    access_token: &str,
    deadline: Instant,
) -> Result<Map<String, Value>, Failure> {
    let broken = |words: String| Failure::Unavailable(format!("the user info endpoint {words}"));
    let mut bearer = HeaderValue::try_from(Zeroizing::new(format!("Bearer {access_token}")).as_str())
        .map_err(|_| broken("cannot be asked with this token".into()))?;
    bearer.set_sensitive(true);
    let request = Request::get(&endpoint.path)
        .header(AUTHORIZATION, bearer)
        .header(ACCEPT, "application/json")
        .body(Full::default())
        .map_err(|_| broken("has no path that could be asked for".into()))?;
    let answer =
        https::send(connector, endpoint.place(), request, |status| status == StatusCode::OK, ANSWER_BYTES, deadline)
            .await
            .map_err(|failure| broken(failure.to_string()))?;
    match answer.status() {
        StatusCode::OK => serde_json::from_slice(answer.body()).map_err(|_| broken("answers no JSON object".into())),
        status => Err(broken(format!("answers {}", status.as_u16()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn answer(status: u16, body: impl Into<Vec<u8>>) -> Result<Grant, Failure> {
        read(
            Response::builder().status(status).body(body.into()).unwrap(),
            &["code-7", "hunter2"],
            Some("invalid_request"),
        )
    }

    fn failure(status: u16, body: &str) -> Failure {
        answer(status, body).err().unwrap()
    }

    #[test]
    fn endpoints_are_urls_of_https() {
        let endpoint = |host: &str, port, path: &str| Some(Endpoint { host: host.into(), port, path: path.into() });
        assert_eq!(
            Endpoint::parse("https://oauth2.googleapis.com/token"),
            endpoint("oauth2.googleapis.com", None, "/token")
        );
        assert_eq!(Endpoint::parse("https://localhost:8443/t?a=b"), endpoint("localhost", Some(8443), "/t?a=b"));
        assert_eq!(Endpoint::parse("https://example.com"), endpoint("example.com", None, "/"));
        for bad in ["http://example.com/", "https://user@example.com/", "example.com", "", "https://", "https://a b/"] {
            assert_eq!(Endpoint::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn tokens_are_read_and_used_a_little_shorter_than_they_live() {
        let body = json!({
            "access_token": "a", "token_type": "bearer", "expires_in": 3600, "refresh_token": "r", "scope": "x y", "id_token": "i",
        });
        let grant = answer(200, body.to_string()).unwrap();
        assert_eq!((grant.access_token.as_str(), grant.life), ("a", Duration::from_secs(3540)));
        assert_eq!(grant.refresh_token.as_deref().map(String::as_str), Some("r"));
        assert_eq!((grant.scope.as_deref(), grant.id_token.as_deref().map(String::as_str)), (Some("x y"), Some("i")));
        for (expires_in, seconds) in [
            (json!("3600"), 3540.0),
            (json!(40), 30.0),
            (json!(0), 0.0),
            (json!(-1), 240.0),
            (json!("soon"), 240.0),
            (json!(null), 240.0),
            (json!(1e300), 240.0),
            (json!(1e9), 86340.0),
        ] {
            assert_eq!(life(Some(&expires_in)).as_secs_f64(), seconds, "{expires_in}");
        }
    }

    #[test]
    fn who_must_sign_in_again_is_told_from_who_must_wait_and_from_us() {
        use Failure::{Client, Refused, Unavailable};
        let error = |error: &str| json!({"error": error, "error_description": "AADSTS70008: expired\r\n"}).to_string();
        assert_eq!(failure(400, &error("invalid_grant")), Refused("invalid_grant AADSTS70008: expired".into()));
        assert!(matches!(failure(401, &error("interaction_required")), Refused(_)));
        assert!(matches!(failure(400, &error("invalid_request")), Refused(_)));
        assert!(matches!(failure(401, &error("invalid_client")), Client(_)));
        assert!(matches!(failure(400, &error("unauthorized_client")), Client(_)));
        assert!(matches!(failure(400, &error("temporarily_unavailable")), Unavailable(_)));
        // Whatever is in it.
        for status in [429, 500, 503, 408] {
            assert!(matches!(failure(status, &error("invalid_grant")), Unavailable(_)), "{status}");
        }
        for (status, body) in [
            (200, "<html>"),
            (403, "<html>"),
            (302, ""),
            (200, "{}"),
            (200, "[]"),
            (400, r#"{"access_token":"a"}"#),
            (200, r#"{"access_token":""}"#),
            (200, r#"{"access_token":"a b"}"#),
            (200, r#"{"access_token":"a\r\n"}"#),
            (200, r#"{"access_token":"a","token_type":"mac"}"#),
        ] {
            assert!(matches!(failure(status, body), Unavailable(_)), "{status} {body}");
        }
        assert!(answer(200, json!({"access_token": "a".repeat(TOKEN_BYTES + 1)}).to_string()).is_err());
    }

    #[test]
    fn a_provider_that_repeats_a_secret_is_not_quoted() {
        for secret in ["code-7", "hunter2"] {
            let body = json!({"error": "invalid_grant", "error_description": format!("bad {secret}!")}).to_string();
            assert_eq!(failure(400, &body), Failure::Refused("it repeats a secret".into()));
        }
    }

    #[test]
    fn claims_are_those_of_the_payload() {
        let token = |payload: &str| format!("e30.{}.c2ln", BASE64URL.encode(payload));
        assert_eq!(claims(&token(r#"{"email":"jane@example.com"}"#)).unwrap()["email"], "jane@example.com");
        for bad in ["", "e30", "e30.!.x", &token("[]"), &token("x")] {
            assert!(claims(bad).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(status in 200u16..600, body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = answer(status, body);
        }
    }
}
