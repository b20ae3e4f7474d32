//! Signing in with a provider: the whole round against an emulator that others maintain, and all that may go wrong against
//! a provider of our own, whose tokens the run's Dovecot takes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use futures_util::future::join_all;
use local::certificates::Certificate;
use local::gateway::PayloadVersion;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::sealing::generate;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio_rustls::TlsAcceptor;
use url::Url;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::secrets::{Moto, aws};
use crate::sign_in::{PASSWORD, create, mailbox, state_of, try_stored};
use crate::support::{
    Answer, Api, CLIENT_SECRETS, JWT_KEY, MAIL_PRIVATE_KEYS, Service, User, lasting, logins, mail, mail_env, merged,
    new_database, owner, servers,
};

const REDIRECT_URI: &str = "http://localhost:3000/connected";
const CLIENT_SECRET: &str = "a secret of our client at the provider";

/// What a provider does for one address.
#[derive(Clone)]
struct Habits {
    /// The address in the ID token, where it is another one.
    named: Option<String>,
    /// Whether a refresh token comes with a code, other than after a question for consent.
    is_lasting: bool,
    /// Whether a refresh token is replaced with each use, and the old one then is no good.
    rotates: bool,
    /// What the token endpoint answers instead: a status and a body.
    refusal: Option<(u16, String)>,
    /// How long it takes to answer a refresh.
    delay: Duration,
    /// What was consented to.
    scope: Option<&'static str>,
    /// Whether mail servers take the access tokens.
    is_taken: bool,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            named: None,
            is_lasting: true,
            rotates: true,
            refusal: None,
            delay: Duration::ZERO,
            scope: None,
            is_taken: true,
        }
    }
}

struct Code {
    address: String,
    challenge: String,
    redirect_uri: String,
    client_id: String,
    asked_for_consent: bool,
}

#[derive(Default)]
struct Ledger {
    habits: HashMap<String, Habits>,
    codes: HashMap<String, Code>,
    /// Whose refresh token each is that is good.
    refresh_tokens: HashMap<String, String>,
    /// How often the token endpoint was asked to refresh, by address.
    refreshes: HashMap<String, usize>,
    /// All that was ever given out.
    given: BTreeSet<String>,
}

/// A provider that keeps a strict ledger: a code and a refresh token work once, and for whom they were given to.
struct Provider {
    url: String,
    ledger: Arc<Mutex<Ledger>>,
}

impl Provider {
    async fn start() -> Self {
        let issued = mail().await.authority().issue(Certificate::Good).unwrap();
        let chain = CertificateDer::pem_slice_iter(issued.certificate.as_bytes()).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = lasting(async { TcpListener::bind("127.0.0.1:0").await.unwrap() }).await;
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let (books, issuer) = (ledger.clone(), url.clone());
        lasting(async move {
            drop(tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (acceptor, ledger, issuer) = (acceptor.clone(), books.clone(), issuer.clone());
                    drop(tokio::spawn(async move {
                        let Ok(mut stream) = acceptor.accept(stream).await else { return };
                        let (mut request, mut buffer) = (String::new(), [0; 8192]);
                        // Small forms come with their head or right after it.
                        while !request.contains("grant_type=") {
                            match stream.read(&mut buffer).await {
                                Ok(length @ 1..) => request += std::str::from_utf8(&buffer[..length]).unwrap(),
                                _ => return,
                            }
                        }
                        let form = request.split_once("\r\n\r\n").unwrap().1;
                        let form: HashMap<_, _> = url::form_urlencoded::parse(form.as_bytes()).into_owned().collect();
                        let (status, body, delay) = answer(&ledger, &form, &issuer).await;
                        tokio::time::sleep(delay).await;
                        let head = format!(
                            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                            body.len()
                        );
                        let _ = stream.write_all((head + &body).as_bytes()).await;
                        let _ = stream.shutdown().await;
                    }));
                }
            }));
        })
        .await;
        Self { url, ledger }
    }

    /// What the user does in the browser: signs in as this address and allows everything. Returns the code.
    fn consent(&self, authorization_url: &str, address: &str) -> String {
        let query = query(authorization_url);
        assert_eq!((query["response_type"].as_str(), query["code_challenge_method"].as_str()), ("code", "S256"));
        let code = format!("code-{}", Uuid::new_v4());
        let entry = Code {
            address: address.to_owned(),
            challenge: query["code_challenge"].clone(),
            redirect_uri: query["redirect_uri"].clone(),
            client_id: query["client_id"].clone(),
            asked_for_consent: query.get("prompt").is_some_and(|prompt| prompt == "consent"),
        };
        let mut ledger = self.ledger.lock().unwrap();
        ledger.given.insert(code.clone());
        ledger.codes.insert(code.clone(), entry);
        code
    }

    fn habits(&self, address: &str, change: impl FnOnce(&mut Habits)) {
        change(self.ledger.lock().unwrap().habits.entry(address.to_owned()).or_default());
    }

    fn refreshes(&self, address: &str) -> usize {
        self.ledger.lock().unwrap().refreshes.get(address).copied().unwrap_or_default()
    }

    /// The user takes the consent back at the provider.
    fn revoke(&self, address: &str) {
        self.ledger.lock().unwrap().refresh_tokens.retain(|_, owner| owner != address);
    }
}

async fn answer(ledger: &Mutex<Ledger>, form: &HashMap<String, String>, issuer: &str) -> (u16, String, Duration) {
    let mail = mail().await;
    let mut ledger = ledger.lock().unwrap();
    let error =
        |error: &str| (400, json!({"error": error, "error_description": "AADSTS70008"}).to_string(), Duration::ZERO);
    if form.get("client_secret").map(String::as_str) != Some(CLIENT_SECRET) {
        return error("invalid_client");
    }
    let is_code = form["grant_type"] == "authorization_code";
    let (address, asked_for_consent, client_id) = if is_code {
        let Some(code) = ledger.codes.remove(&form["code"]) else { return error("invalid_grant") };
        let challenge = BASE64URL.encode(Sha256::digest(&form["code_verifier"]));
        if challenge != code.challenge
            || form["redirect_uri"] != code.redirect_uri
            || form["client_id"] != code.client_id
        {
            return error("invalid_grant");
        }
        (code.address, code.asked_for_consent, code.client_id)
    } else {
        let token = &form["refresh_token"];
        let Some(address) = ledger.refresh_tokens.get(token).cloned() else {
            // Whoever had it asked all the same.
            return error("invalid_grant");
        };
        *ledger.refreshes.entry(address.clone()).or_default() += 1;
        (address, false, form["client_id"].clone())
    };
    let habits = ledger.habits.get(&address).cloned().unwrap_or_default();
    if let Some((status, body)) = habits.refusal {
        return (status, body, habits.delay);
    }
    let named = habits.named.unwrap_or_else(|| address.clone());
    let claims = json!({"iss": issuer, "aud": client_id, "email": named, "email_verified": true});
    let access_token = match habits.is_taken {
        true => mail.token(&address).unwrap(),
        false => mail.expired_token(&address).unwrap(),
    };
    let mut body = json!({
        "access_token": access_token, "token_type": "Bearer", "expires_in": 3600,
        "id_token": format!("e30.{}.c2ln", BASE64URL.encode(claims.to_string())),
    });
    if let Some(scope) = habits.scope {
        body["scope"] = scope.into();
    }
    if is_code && (habits.is_lasting || asked_for_consent) || !is_code && habits.rotates {
        if !is_code {
            ledger.refresh_tokens.remove(&form["refresh_token"]);
        }
        let token = format!("refresh-{}", Uuid::new_v4());
        ledger.refresh_tokens.insert(token.clone(), address);
        ledger.given.insert(token.clone());
        body["refresh_token"] = token.into();
    }
    ledger.given.insert(access_token);
    (200, body.to_string(), habits.delay)
}

fn query(url: &str) -> BTreeMap<String, String> {
    Url::parse(url).unwrap().query_pairs().into_owned().collect()
}

async fn provider() -> &'static Provider {
    static PROVIDER: OnceCell<Provider> = OnceCell::const_new();
    PROVIDER.get_or_init(Provider::start).await
}

/// The environment of functions that know the provider, twice: as one of the operator's own, and in Google's place.
async fn env() -> BTreeMap<&'static str, String> {
    let (url, ports) = (&provider().await.url, mail().await.ports());
    let host = |port: u16| json!({"hostname": "localhost", "port": port, "encryption": "tls"});
    let own = json!({
        "clientId": "ours", "authorizationEndpoint": format!("{url}/authorize"), "tokenEndpoint": format!("{url}/token"),
        "issuer": url, "scopes": ["openid", "email", "mail"], "imap": host(ports.imaps), "pop3": host(ports.pop3s),
        "smtp": host(ports.submissions),
    });
    let google = json!({
        "clientId": "googles", "tokenEndpoint": format!("{url}/token"), "issuer": url, "imap": host(ports.imaps),
        "smtp": host(ports.submissions),
    });
    let mut env = mail_env().await;
    env.insert("RATE_LIMIT_PER_MINUTE", "0".into());
    // Nothing secret is logged at any level.
    env.insert("LOG_LEVEL", "trace".into());
    let elsewhere = |host: &str| json!({"hostname": host, "port": 993, "encryption": "tls"});
    let other = json!({"imap": elsewhere("imap.example.com"), "pop3": null, "smtp": elsewhere("smtp.example.com")});
    let moved = merged(own.clone(), other);
    env.insert("OAUTH2_PROVIDERS", json!({"own": own, "moved": moved, "google": google}).to_string());
    env.insert("OAUTH2_REDIRECT_URIS", format!("{REDIRECT_URI},https://app.example.com/connected?x=y"));
    let secrets = json!({"own": CLIENT_SECRET, "moved": CLIENT_SECRET, "google": CLIENT_SECRET});
    env.insert(CLIENT_SECRETS, secrets.to_string());
    env
}

async fn oauth_api() -> &'static Api {
    static API: OnceCell<Api> = OnceCell::const_new();
    API.get_or_init(|| async { Api::start(env().await).await }).await
}

async fn start(api: &Api, user: &User, changes: Value) -> Answer {
    let body = merged(json!({"provider": "own", "redirectUri": REDIRECT_URI}), changes);
    api.post("/api/oauth2/authorizations", body).by(user).send().await
}

async fn finish(api: &Api, user: &User, state: &Value, code: &str) -> Answer {
    api.post("/api/oauth2/accounts", json!({"state": state, "code": code})).by(user).send().await
}

/// A round without a browser: begins, consents as this address, and ends.
async fn connect(api: &Api, user: &User, address: &str, changes: Value) -> Answer {
    let started = start(api, user, changes).await;
    assert_eq!(started.status, 201, "{started:?}");
    let code = provider().await.consent(started.body["authorizationUrl"].as_str().unwrap(), address);
    finish(api, user, &started.body["state"], &code).await
}

/// An account that is connected, and its path.
async fn connected(api: &Api, user: &User, address: &str) -> (Value, String) {
    let answer = connect(api, user, address, json!({})).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let path = format!("/api/accounts/{}", answer.body["id"].as_str().unwrap());
    (answer.body, path)
}

/// Ends the time of an account's access token.
async fn expire(account: &Value) {
    let id: Uuid = account["credentialId"].as_str().unwrap().parse().unwrap();
    let sql = "update email_credentials set access_token_expires_at = 1 where id = $1";
    assert_eq!(owner().await.execute(sql, &[&id]).await.unwrap(), 1);
}

async fn sealed_tokens(account: &Value) -> (Option<Vec<u8>>, Option<Vec<u8>>, i32) {
    let id: Uuid = account["credentialId"].as_str().unwrap().parse().unwrap();
    let sql = "select sealed_refresh_token, sealed_access_token, tokens_version from email_credentials where id = $1";
    let row = owner().await.query_one(sql, &[&id]).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

#[tokio::test]
async fn a_mailbox_is_connected_with_a_provider_and_signs_in_by_its_tokens() {
    let (api, user, address) = (oauth_api().await, User::new(), mailbox().await);
    let started = start(api, &user, json!({"emailAddress": address})).await;
    assert_eq!(started.status, 201, "{started:?}");
    let asked = query(started.body["authorizationUrl"].as_str().unwrap());
    assert_eq!(
        (&asked["client_id"], &asked["redirect_uri"], &asked["login_hint"]),
        (&"ours".into(), &REDIRECT_URI.into(), &address)
    );
    assert_eq!(started.body["state"], asked["state"].as_str());
    let left = started.body["expiresAt"].as_u64().unwrap() / 1000 - crate::support::now_seconds();
    assert!((590..=601).contains(&left), "{left}");

    let code = provider().await.consent(started.body["authorizationUrl"].as_str().unwrap(), &address);
    let created = api
        .post("/api/oauth2/accounts", json!({"state": started.body["state"], "code": code, "accountName": " Private "}))
        .by(&user)
        .send()
        .await;
    assert_eq!(created.status, 201, "{created:?}");
    let account = created.body.clone();
    let path = format!("/api/accounts/{}", account["id"].as_str().unwrap());
    assert_eq!(created.header("location"), Some(path.as_str()));
    assert_eq!(
        (&account["authType"], &account["provider"], &account["state"]),
        (&json!("oauth2"), &json!("own"), &json!("new"))
    );
    assert_eq!(
        (&account["accountName"], &account["emailAddress"], &account["username"]),
        (&json!("Private"), &json!(address), &json!(address))
    );
    let ports = mail().await.ports();
    assert_eq!(
        (&account["hostname"], &account["port"], &account["smtpPort"]),
        (&json!("localhost"), &json!(ports.imaps), &json!(ports.submissions))
    );
    assert_eq!(account["nextSyncAt"], account["createdAt"], "it is due");
    assert_eq!(api.get(&path).by(&user).send().await.body, account);

    let tried = try_stored(api, &user, &path).await;
    assert_eq!(
        (tried.status, &tried.body["success"], &tried.body["smtp"]["success"]),
        (200, &json!(true), &json!(true)),
        "{tried:?}"
    );
    assert_eq!(state_of(api, &user, &path).await, json!({"state": "connected", "code": null, "service": null}));
    assert_eq!(provider().await.refreshes(&address), 0, "the first token is still good");

    // By POP3 as well; and to no server but the provider's.
    let pop3 = json!({"protocol": "pop3", "port": ports.pop3s, "smtpHostname": null});
    let tried = api.post(&format!("{path}/test"), pop3).by(&user).send().await;
    assert_eq!(
        tried.body["incoming"],
        json!({"service": "pop3", "success": true, "code": null, "message": "Signed in."}),
        "{tried:?}"
    );
    for elsewhere in [
        json!({"hostname": "127.0.0.1"}),
        json!({"smtpHostname": "127.0.0.1"}),
        json!({"encryption": "none", "port": ports.imap}),
    ] {
        let tried = api.post(&format!("{path}/test"), elsewhere).by(&user).send().await;
        assert_eq!(
            (&tried.body["success"], &tried.body["incoming"]["service"]),
            (&json!(false), &json!("oauth2")),
            "{tried:?}"
        );
        assert!(tried.body["incoming"]["message"].as_str().unwrap().contains("its own servers alone"), "{tried:?}");
    }
    // A password for one try is a password.
    let tried = api.post(&format!("{path}/test"), json!({"password": PASSWORD})).by(&user).send().await;
    assert_eq!(tried.body["success"], true, "{tried:?}");
}

#[tokio::test]
async fn tokens_are_sealed_told_to_nobody_and_gone_with_the_account() {
    let (api, user, address) = (oauth_api().await, User::new(), mailbox().await);
    let (account, path) = connected(api, &user, &address).await;
    let (refresh, access, _) = sealed_tokens(&account).await;
    assert!(refresh.is_some() && access.is_some());
    try_stored(api, &user, &path).await;
    let dump: String = owner()
        .await
        .query("select c::text from email_credentials c union all select o::text from oauth2_authorizations o", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get::<_, String>(0))
        .collect();
    let log = api.log();
    for secret in provider().await.ledger.lock().unwrap().given.iter().chain([&CLIENT_SECRET.to_owned()]) {
        assert!(!dump.contains(secret.as_str()) && !log.contains(secret.as_str()), "{secret}");
    }
    assert_eq!(api.delete(&path).by(&user).send().await.status, 200);
    assert!(matches!(sealed_tokens(&account).await, (None, None, _)));
}

#[tokio::test]
async fn a_state_works_once_for_its_user_and_for_ten_minutes() {
    let (api, user, address) = (oauth_api().await, User::new(), mailbox().await);
    // One that is used ten minutes later. Others may have forgotten it by then.
    let begin = async || {
        let started = start(api, &user, json!({})).await;
        let url = started.body["authorizationUrl"].as_str().unwrap();
        (started.body["state"].clone(), provider().await.consent(url, &address))
    };
    let (state, code) = begin().await;
    let all = owner().await;
    let by_user = "where tenant_id = $1 and user_id = $2";
    let sql = format!("update oauth2_authorizations set expires_at = expires_at - 600000 {by_user}");
    assert_eq!(all.execute(&sql, &[&user.tenant, &user.user]).await.unwrap(), 1);
    finish(api, &user, &state, &code).await.is_refused(400);

    let (state, code) = begin().await;
    for stranger in [user.colleague(), User { user: user.user, ..User::new() }, User::new()] {
        let refused = finish(api, &stranger, &state, &code).await;
        refused.is_refused(400);
        assert_eq!(refused.faults(), ["state"]);
    }
    for wrong in [json!("x"), json!("A".repeat(43)), json!(1), json!(null)] {
        let refused = finish(api, &user, &wrong, &code).await;
        refused.is_refused(400);
        assert_eq!(refused.faults(), ["state"], "{wrong}");
    }
    // At the same moment from two pages, and once more.
    let (one, other) = tokio::join!(finish(api, &user, &state, &code), finish(api, &user, &state, &code));
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 400]);
    finish(api, &user, &state, &code).await.is_refused(400);
    assert_eq!(api.addresses(&user).await, std::slice::from_ref(&address));

    // What has ended is forgotten by the next who come, whoever it was.
    all.execute(&format!("update oauth2_authorizations set expires_at = 1 {by_user}"), &[&user.tenant, &user.user])
        .await
        .unwrap();
    let left = format!("select count(*) from oauth2_authorizations {by_user}");
    for _ in 0..50 {
        start(api, &User::new(), json!({})).await;
        if all.query_one(&left, &[&user.tenant, &user.user]).await.unwrap().get::<_, i64>(0) == 0 {
            return;
        }
    }
    panic!("nobody forgets it");
}

#[tokio::test]
async fn a_code_works_once_and_with_its_own_state_alone() {
    let (api, user, address) = (oauth_api().await, User::new(), mailbox().await);
    let first = start(api, &user, json!({})).await.body;
    let second = start(api, &user, json!({})).await.body;
    let code = provider().await.consent(first["authorizationUrl"].as_str().unwrap(), &address);
    // Another sign-in's code has another verifier.
    let refused = finish(api, &user, &second["state"], &code).await;
    refused.is_refused(400);
    assert_eq!(refused.faults(), ["code"]);
    let used = provider().await.consent(first["authorizationUrl"].as_str().unwrap(), &address);
    assert_eq!(finish(api, &user, &first["state"], &used).await.status, 201);
    let third = start(api, &user, json!({})).await.body;
    let refused = finish(api, &user, &third["state"], &used).await;
    refused.is_refused(400);
    assert_eq!(refused.faults(), ["code"]);
    // A denial has no code.
    let fourth = start(api, &user, json!({})).await.body;
    let refused = api
        .post("/api/oauth2/accounts", json!({"state": fourth["state"], "error": "access_denied"}))
        .by(&user)
        .send()
        .await;
    refused.is_refused(400);
    assert_eq!(refused.faults(), ["code"]);
    assert_eq!(api.addresses(&user).await.len(), 1);
}

#[tokio::test]
async fn what_a_sign_in_begins_with_is_looked_at() {
    let (api, user) = (oauth_api().await, User::new());
    let (foreign, _) = connected(api, &User::new(), &mailbox().await).await;
    for (changes, field) in [
        (json!({"provider": "yahoo"}), "provider"),
        (json!({"provider": 1}), "provider"),
        (json!({"redirectUri": "https://evil.example.com/"}), "redirectUri"),
        (json!({"redirectUri": format!("{REDIRECT_URI}/")}), "redirectUri"),
        (json!({"redirectUri": format!("{REDIRECT_URI}?x=y")}), "redirectUri"),
        (json!({"redirectUri": "https://app.example.com/connected"}), "redirectUri"),
        (json!({"emailAddress": "jane"}), "emailAddress"),
        (json!({"accountId": "x"}), "accountId"),
        (json!({"accountId": Uuid::now_v7()}), "accountId"),
        (json!({"accountId": foreign["id"]}), "accountId"),
    ] {
        let refused = start(api, &user, changes.clone()).await;
        refused.is_refused(400);
        assert_eq!(refused.faults(), [field], "{changes}");
    }
    let blocked = api
        .log_line(|line| line["message"] == "cross_tenant_access_blocked" && line["userId"] == json!(user.user))
        .await;
    assert_eq!(blocked["accountId"], foreign["id"]);
    let refused = api.post("/api/oauth2/authorizations", json!({})).by(&user).send().await;
    assert_eq!(refused.faults(), ["provider", "redirectUri"]);
    let refused = api.post("/api/oauth2/accounts", json!({})).by(&user).send().await;
    assert_eq!(refused.faults(), ["code", "state"]);
    for path in ["/api/oauth2/authorizations", "/api/oauth2/accounts"] {
        api.post(path, json!({})).send().await.is_refused(401);
    }
    assert_eq!(start(api, &user, json!({"redirectUri": "https://app.example.com/connected?x=y"})).await.status, 201);
    // Where no provider is set up.
    let api = crate::support::mail_api().await;
    start(api, &user, json!({})).await.is_refused(400);
    let found = api.get("/api/autoconfig?emailAddress=jane%40gmail.com").by(&user).send().await;
    assert_eq!((found.status, &found.body["oauth2"]), (200, &Value::Null), "{found:?}");
    let found = oauth_api().await.get("/api/autoconfig?emailAddress=jane%40gmail.com").by(&user).send().await;
    assert_eq!(found.body["oauth2"], "google", "{found:?}");
    let found = oauth_api().await.get("/api/autoconfig?emailAddress=jane%40outlook.com").by(&user).send().await;
    assert_eq!(found.body["oauth2"], Value::Null, "{found:?}");
}

#[tokio::test]
async fn another_address_than_the_one_that_was_asked_for_is_refused_and_touches_nothing() {
    let (api, user, provider) = (oauth_api().await, User::new(), provider().await);
    let [address, other] = [mailbox().await, mailbox().await];
    let refused = connect(api, &user, &other, json!({"emailAddress": address})).await;
    refused.is_refused(409);
    assert!(refused.body["message"].as_str().unwrap().contains(&other), "{refused:?}");
    assert!(api.addresses(&user).await.is_empty());
    // Another spelling is the same address.
    assert_eq!(connect(api, &user, &address, json!({"emailAddress": address.to_uppercase()})).await.status, 201);

    assert_eq!(connect(api, &user.colleague(), &address, json!({})).await.status, 201, "that is another user's matter");
    let id = api.get("/api/accounts").by(&user).send().await.body["accounts"][0]["id"].clone();
    let account = api.get(&format!("/api/accounts/{}", id.as_str().unwrap())).by(&user).send().await.body;
    let before = sealed_tokens(&account).await;
    let refused = connect(api, &user, &other, json!({"accountId": id})).await;
    refused.is_refused(409);
    assert_eq!(sealed_tokens(&account).await, before, "the old tokens are untouched");
    assert_eq!(api.get(&format!("/api/accounts/{}", id.as_str().unwrap())).by(&user).send().await.body, account);
    // It is the address that the provider names that counts, and it must name one.
    provider.habits(&other, |habits| habits.named = Some(String::new()));
    let refused = connect(api, &user, &other, json!({})).await;
    refused.is_refused(409);
    // One address, one account.
    connect(api, &user, &address, json!({})).await.is_refused(409);
}

/// A domain moves: no token of the new provider would be sent to a server of the old one's.
#[tokio::test]
async fn reconnecting_with_another_provider_changes_all_servers() {
    let (api, user) = (oauth_api().await, User::new());
    let (account, path) = connected(api, &user, &mailbox().await).await;
    let address = account["emailAddress"].as_str().unwrap();
    let relay = json!({"smtpUsername": "relay", "smtpPassword": PASSWORD});
    assert_eq!(api.put(&path, relay).by(&user).send().await.status, 200);
    let moved = connect(api, &user, address, json!({"accountId": account["id"], "provider": "moved"})).await;
    let fields = ["provider", "hostname", "smtpHostname", "smtpUsername"].map(|field| moved.body[field].clone());
    assert_eq!(
        fields,
        [json!("moved"), json!("imap.example.com"), json!("smtp.example.com"), Value::Null],
        "{moved:?}"
    );
}

#[tokio::test]
async fn reconnecting_keeps_the_account_and_a_password_account_becomes_the_providers_and_back() {
    let (api, user, provider) = (oauth_api().await, User::new(), provider().await);
    let (account, path) =
        create(api, &user, json!({"password": "typed in wrongly", "port": 1, "hostname": "imap.example.com"})).await;
    let address = account["emailAddress"].as_str().unwrap();
    let reconnected = connect(api, &user, address, json!({"accountId": account["id"]})).await;
    assert_eq!(reconnected.status, 200, "{reconnected:?}");
    for field in ["id", "credentialId", "createdAt", "accountName", "emailAddress"] {
        assert_eq!(reconnected.body[field], account[field], "{field}");
    }
    assert_eq!((&reconnected.body["authType"], &reconnected.body["hostname"]), (&json!("oauth2"), &json!("localhost")));
    assert!(reconnected.body["updatedAt"].as_i64() > account["updatedAt"].as_i64());
    assert_eq!(try_stored(api, &user, &path).await.body["success"], true);
    let id: Uuid = account["credentialId"].as_str().unwrap().parse().unwrap();
    let kept = "select num_nonnulls(algorithm, password_hash, salt, sealed_password, password_key) from email_credentials where id = $1";
    assert_eq!(
        owner().await.query_one(kept, &[&id]).await.unwrap().get::<_, i32>(0),
        0,
        "nothing is left of the password"
    );

    // Consent is taken back: that ends in authenticationError, and in connected once the user has signed in again.
    provider.revoke(address);
    expire(&account).await;
    let tried = try_stored(api, &user, &path).await;
    assert_eq!(
        (&tried.body["incoming"]["service"], &tried.body["incoming"]["code"]),
        (&json!("oauth2"), &json!("consentRevoked")),
        "{tried:?}"
    );
    assert_eq!(
        state_of(api, &user, &path).await,
        json!({"state": "authenticationError", "code": "consentRevoked", "service": "oauth2"})
    );
    assert_eq!(connect(api, &user, address, json!({"accountId": account["id"]})).await.body["state"], "new");
    assert_eq!(try_stored(api, &user, &path).await.body["success"], true);
    assert_eq!(state_of(api, &user, &path).await["state"], "connected");

    // A password makes it one of a password, and its tokens are gone.
    let changed = api.put(&path, json!({"password": PASSWORD})).by(&user).send().await;
    assert_eq!(
        (&changed.body["authType"], &changed.body["provider"], &changed.body["state"]),
        (&json!("password"), &Value::Null, &json!("new"))
    );
    assert!(matches!(sealed_tokens(&account).await, (None, None, _)));
    assert_eq!(try_stored(api, &user, &path).await.body["success"], true);

    // Deleted while its user was at the provider.
    let started = start(api, &user, json!({"accountId": account["id"]})).await.body;
    let code = provider.consent(started["authorizationUrl"].as_str().unwrap(), address);
    api.delete(&path).by(&user).send().await;
    finish(api, &user, &started["state"], &code).await.is_refused(409);
}

/// Also where a provider vouches for the mailbox.
#[tokio::test]
async fn a_sign_in_makes_no_more_accounts_than_a_user_may_have() {
    let mut env = env().await;
    env.insert("ACCOUNTS_PER_USER", "1".into());
    let (api, user) = (Api::start(env).await, User::new());
    let (account, _) = connected(&api, &user, &mailbox().await).await;
    let second = connect(&api, &user, &mailbox().await, json!({})).await;
    second.is_refused(409);
    assert!(second.body["message"].as_str().unwrap().contains("1 accounts"), "{second:?}");
    // One that is there can be connected again.
    let address = account["emailAddress"].as_str().unwrap();
    assert_eq!(connect(&api, &user, address, json!({"accountId": account["id"]})).await.status, 200);
}

#[tokio::test]
async fn without_a_lasting_token_the_next_sign_in_asks_for_consent() {
    let (api, user, provider, address) = (oauth_api().await, User::new(), provider().await, mailbox().await);
    provider.habits(&address, |habits| habits.is_lasting = false);
    let google = json!({"provider": "google"});
    let first = start(api, &user, google.clone()).await.body;
    let asked = query(first["authorizationUrl"].as_str().unwrap());
    assert_eq!((asked["access_type"].as_str(), asked.get("prompt")), ("offline", None));
    let code = provider.consent(first["authorizationUrl"].as_str().unwrap(), &address);
    finish(api, &user, &first["state"], &code).await.is_refused(409);
    let elsewhere = start(api, &user.colleague(), google.clone()).await.body;
    assert!(
        !query(elsewhere["authorizationUrl"].as_str().unwrap()).contains_key("prompt"),
        "that is one user's matter"
    );
    let created = connect(api, &user, &address, google.clone()).await;
    assert_eq!((created.status, &created.body["provider"]), (201, &json!("google")), "{created:?}");
    // A reconnection asks at once.
    let again = start(api, &user, merged(google, json!({"accountId": created.body["id"]}))).await.body;
    let asked = query(again["authorizationUrl"].as_str().unwrap());
    assert_eq!((asked["prompt"].as_str(), &asked["login_hint"]), ("consent", &address));
}

#[tokio::test]
async fn what_the_provider_does_not_do_is_told_apart() {
    let (api, user, provider, address) = (oauth_api().await, User::new(), provider().await, mailbox().await);
    provider.habits(&address, |habits| habits.scope = Some("openid email"));
    connect(api, &user, &address, json!({})).await.is_refused(409);
    provider.habits(&address, |habits| habits.scope = Some("openid email MAIL"));
    for refusal in [(503, ""), (429, r#"{"error":"invalid_grant"}"#), (200, "<html>"), (200, "{}")] {
        provider.habits(&address, |habits| habits.refusal = Some((refusal.0, refusal.1.to_owned())));
        let refused = connect(api, &user, &address, json!({})).await;
        refused.is_refused(502);
        assert_eq!(refused.body["code"], "unavailable", "{refused:?}");
    }
    provider.habits(&address, |habits| habits.refusal = Some((200, "x".repeat(70 * 1024))));
    connect(api, &user, &address, json!({})).await.is_refused(502);
    provider.habits(&address, |habits| habits.refusal = None);
    let (account, path) = connected(api, &user, &address).await;

    // The same later, when a token is refreshed: nothing of that is the user's matter.
    for refusal in [
        (503, "".to_owned()),
        (429, r#"{"error":"slow_down"}"#.to_owned()),
        (401, r#"{"error":"invalid_client"}"#.to_owned()),
    ] {
        provider.habits(&address, |habits| habits.refusal = Some(refusal));
        expire(&account).await;
        let tried = try_stored(api, &user, &path).await;
        assert_eq!(
            (&tried.body["incoming"]["service"], &tried.body["incoming"]["code"]),
            (&json!("oauth2"), &json!("unavailable")),
            "{tried:?}"
        );
        assert_eq!(
            state_of(api, &user, &path).await,
            json!({"state": "connectError", "code": "unavailable", "service": "oauth2"})
        );
    }
    provider.habits(&address, |habits| habits.refusal = None);
    assert_eq!(try_stored(api, &user, &path).await.body["success"], true);
}

#[tokio::test]
async fn a_rotated_token_is_stored_and_a_token_that_ended_early_is_replaced() {
    let (api, user, provider, address) = (oauth_api().await, User::new(), provider().await, mailbox().await);
    let (account, path) = connected(api, &user, &address).await;
    for round in 1..=3 {
        let before = sealed_tokens(&account).await;
        expire(&account).await;
        assert_eq!(try_stored(api, &user, &path).await.body["success"], true);
        let after = sealed_tokens(&account).await;
        assert!(before.0 != after.0 && before.1 != after.1 && after.2 == before.2 + 1);
        assert_eq!(provider.refreshes(&address), round);
    }
    // A provider that keeps its refresh token.
    provider.habits(&address, |habits| habits.rotates = false);
    let before = sealed_tokens(&account).await;
    expire(&account).await;
    assert_eq!(try_stored(api, &user, &path).await.body["success"], true);
    let after = sealed_tokens(&account).await;
    assert!(before.0 == after.0 && before.1 != after.1);

    // The server refuses a token whose time has not ended: once more with a new one, and no more often.
    let again = async || {
        let sql = "update email_accounts set state = 'connected', tried_at = null where email_address = $1";
        owner().await.execute(sql, &[&address]).await.unwrap();
        try_stored(api, &user, &path).await.body["incoming"]["code"].clone()
    };
    provider.habits(&address, |habits| habits.is_taken = false);
    expire(&account).await;
    let refreshes = provider.refreshes(&address);
    assert_eq!((again().await, provider.refreshes(&address)), (json!("authentication"), refreshes + 1));
    assert_eq!((again().await, provider.refreshes(&address)), (json!("authentication"), refreshes + 2));
    provider.habits(&address, |habits| habits.is_taken = true);
    assert_eq!((again().await, provider.refreshes(&address)), (Value::Null, refreshes + 3));
    // And where all consent was taken back with it, that is what is said.
    provider.habits(&address, |habits| habits.is_taken = false);
    expire(&account).await;
    assert_eq!(again().await, "authentication");
    provider.revoke(&address);
    assert_eq!(again().await, "consentRevoked");
}

#[tokio::test]
async fn fifty_at_once_on_one_account_ask_the_provider_once() {
    let (provider, address, user) = (provider().await, mailbox().await, User::new());
    let api = Api::start_as(env().await, PayloadVersion::V2, 10).await;
    let (account, path) = connected(&api, &user, &address).await;
    provider.habits(&address, |habits| habits.delay = Duration::from_millis(700));
    expire(&account).await;
    let tries = join_all((0..50).map(|_| try_stored(&api, &user, &path))).await;
    let failed: Vec<_> = tries.iter().filter(|tried| tried.body["success"] != true).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(provider.refreshes(&address), 1);

    // What goes wrong is asked once as well, by those who wait for it.
    provider.habits(&address, |habits| habits.refusal = Some((400, r#"{"error":"invalid_grant"}"#.to_owned())));
    expire(&account).await;
    let tries = join_all((0..5).map(|_| try_stored(&api, &user, &path))).await;
    assert!(
        tries.iter().all(|tried| tried.status == 429 || tried.body["incoming"]["code"] == "consentRevoked"),
        "{tries:?}"
    );
    assert_eq!(provider.refreshes(&address), 2);
}

#[tokio::test]
async fn a_worker_that_dies_with_the_answer_in_hand_loses_nothing_that_could_be_kept() {
    let (provider, user) = (provider().await, User::new());
    for rotates in [false, true] {
        let address = mailbox().await;
        let api = Api::start_as(env().await, PayloadVersion::V2, 1).await;
        let (account, path) = connected(&api, &user, &address).await;
        provider.habits(&address, |habits| {
            habits.rotates = rotates;
            habits.delay = Duration::from_secs(5);
        });
        let before = sealed_tokens(&account).await;
        expire(&account).await;
        // The provider has replaced the token, and its answer is on the way.
        let killed = async {
            while provider.refreshes(&address) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            api.signal("test-account", "KILL");
        };
        let (tried, ()) = tokio::join!(api.request("POST", &format!("{path}/test")).by(&user).status(), killed);
        assert!(tried >= 500, "{tried}");
        let after = sealed_tokens(&account).await;
        assert_eq!((after.0, after.2), (before.0, before.2), "the old token is there");
        provider.habits(&address, |habits| habits.delay = Duration::ZERO);
        // Who comes next waits for the lease, and says so where it outlasts the try.
        let died_at = Instant::now();
        let last = loop {
            let tried = try_stored(&api, &user, &path).await;
            match tried.body["incoming"]["code"].as_str() {
                Some("unavailable") => assert!(died_at.elapsed() < Duration::from_secs(20), "{tried:?}"),
                _ => break tried,
            }
        };
        assert!(died_at.elapsed() > Duration::from_secs(5));
        match rotates {
            false => assert_eq!(last.body["success"], true, "{last:?}"),
            true => {
                assert_eq!(last.body["incoming"]["code"], "consentRevoked", "{last:?}");
                let state = json!({"state": "authenticationError", "code": "consentRevoked", "service": "oauth2"});
                assert_eq!(state_of(&api, &user, &path).await, state);
                assert_eq!(connect(&api, &user, &address, json!({"accountId": account["id"]})).await.status, 200);
                assert_eq!(try_stored(&api, &user, &path).await.body["success"], true);
            }
        }
    }
}

#[tokio::test]
async fn the_whole_round_goes_through_an_emulator_that_others_maintain() {
    let mail = mail().await;
    let provider = lasting(async { local::provider::Provider::start(crate::support::mail().await).unwrap() }).await;
    let mut env = env().await;
    env.insert("OAUTH2_PROVIDERS", json!({"local": provider.settings(mail)}).to_string());
    env.remove(CLIENT_SECRETS);
    let (api, user, address) = (Api::start(env).await, User::new(), mailbox().await);
    let browser = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .tls_certs_only([reqwest::Certificate::from_pem(mail.authority().pem().as_bytes()).unwrap()])
        .build()
        .unwrap();
    let come_back = async |address: &str| {
        let body = json!({"provider": "local", "redirectUri": REDIRECT_URI, "emailAddress": address});
        let started = api.post("/api/oauth2/authorizations", body).by(&user).send().await;
        let request = browser.get(started.body["authorizationUrl"].as_str().unwrap());
        let answer = lasting(async { request.send().await.unwrap() }).await;
        assert_eq!(answer.status(), 302);
        query(answer.headers()["location"].to_str().unwrap())
    };
    let denied = come_back("denied@mail.example").await;
    assert_eq!((denied["error"].as_str(), denied.get("code")), ("access_denied", None));
    let back = come_back(&address).await;
    let created = finish(&api, &user, &json!(back["state"]), &back["code"]).await;
    assert_eq!((created.status, &created.body["emailAddress"]), (201, &json!(address)), "{created:?}");
    let path = format!("/api/accounts/{}", created.body["id"].as_str().unwrap());
    for _ in 0..2 {
        let tried = try_stored(&api, &user, &path).await;
        assert_eq!((tried.status, &tried.body["success"]), (200, &json!(true)), "{tried:?}");
        let before = sealed_tokens(&created.body).await;
        expire(&created.body).await;
        assert_eq!(try_stored(&api, &user, &path).await.body["success"], true);
        assert_ne!(sealed_tokens(&created.body).await.0, before.0, "it replaces its refresh tokens");
    }
    // The code again, with a state of its own.
    let again = come_back(&mailbox().await).await;
    let refused = finish(&api, &user, &json!(again["state"]), &back["code"]).await;
    refused.is_refused(400);
    assert_eq!(refused.faults(), ["code"]);
}

#[tokio::test]
async fn tokens_are_sealed_anew_with_the_passwords() {
    let (user, address, database) = (User::new(), mailbox().await, new_database().await);
    let postgres = &servers().await.postgres;
    let [old, new] = ["old", "new"].map(|id| generate(id).unwrap());
    let with_keys = async |keys: &[&(String, Zeroizing<String>)]| {
        let mut env = env().await;
        env.extend(logins(postgres, &database));
        env.insert("SEALING_PUBLIC_KEY", keys[0].0.clone());
        env.insert(MAIL_PRIVATE_KEYS, keys.iter().map(|key| key.1.as_str()).collect::<Vec<_>>().join(","));
        Api::start(env).await
    };
    let before = with_keys(&[&old]).await;
    let (_, path) = connected(&before, &user, &address).await;
    let api = with_keys(&[&new, &old]).await;
    let outcome = api.gateway.invoke("reseal-secrets", json!({})).await.unwrap().unwrap();
    assert_eq!(outcome, json!({"key": "new", "resealed": 1, "unreadable": 0, "left": 0}));
    let after = with_keys(&[&new]).await;
    assert_eq!(try_stored(&after, &user, &path).await.body["success"], true);
    let all = crate::support::connect(&postgres.owner_url(&database)).await;
    all.batch_execute("update email_credentials set access_token_expires_at = 1").await.unwrap();
    assert_eq!(try_stored(&after, &user, &path).await.body["success"], true, "the refresh token opens as well");
}

#[tokio::test]
async fn a_clients_secret_that_the_provider_does_not_take_is_read_again() {
    let (moto, user) = (Moto::start().await, User::new());
    let servers = servers().await;
    let service = json!({"DATABASE_URL": servers.postgres.app_url("app"), "REDIS_URL": servers.redis.url(), "JWT_SECRET_KEY": JWT_KEY});
    let secret = |secret: &str| json!({"own": secret});
    let arn = moto.create("providers", &secret("replaced")).await;
    let mut env = env().await;
    for name in ["DATABASE_URL", "REDIS_URL", "JWT_SECRET_KEY", CLIENT_SECRETS] {
        env.remove(name);
    }
    env.extend(aws(&moto));
    env.insert("SECRET_ARN", moto.create("service", &service).await);
    env.insert("providers: PROVIDERS_SECRET_ARN", arn.clone());
    let api = Api::start_as(env, PayloadVersion::V2, 1).await;
    let address = mailbox().await;
    connect(&api, &user, &address, json!({})).await.is_refused(500);
    assert!(api.log().contains("the provider does not take this client: invalid_client"), "{}", api.log());
    moto.put(&arn, &secret(CLIENT_SECRET)).await;
    // It is read again every three seconds at the most.
    let started = Instant::now();
    while connect(&api, &user, &address, json!({})).await.status == 500 {
        assert!(started.elapsed() < Duration::from_secs(10), "{}", api.log());
    }
    assert_eq!(api.addresses(&user).await, [address]);
}

#[tokio::test]
async fn mail_is_synchronised_by_tokens_and_stays_when_the_account_is_connected_again() {
    let (provider, user, address) = (provider().await, User::new(), mailbox().await);
    let more = env().await.into_iter().filter(|(name, _)| name.contains("OAUTH2")).collect();
    let service = Service::start(Duration::from_secs(30), more).await;
    let api = &service.api;
    let (account, path) = connected(api, &user, &address).await;
    let messages = async || {
        let listed = api.get("/api/messages").by(&user).send().await.body;
        let messages = listed["messages"].as_array().unwrap().iter();
        messages.map(|message| message["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // Asks for a synchronisation, and waits for its end.
    let synchronise = async || {
        let asked = api.request("POST", &format!("{path}/sync")).by(&user).send().await;
        assert_eq!(asked.status, 202, "{asked:?}");
        let started = Instant::now();
        loop {
            let sync = api.get(&format!("{path}/sync")).by(&user).send().await.body;
            if sync["status"] == "idle" {
                return json!({"state": sync["state"], "code": sync["lastError"]["code"], "service": sync["lastError"]["service"]});
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{sync} {}", api.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let connected_state = json!({"state": "connected", "code": null, "service": null});
    let expire = "update email_credentials set access_token_expires_at = 1";
    for round in 0..2 {
        let message = format!("From: joe@example.com\r\nSubject: {round}\r\n\r\nHello\r\n");
        mail().await.deliver(&address, message.as_bytes()).unwrap();
        assert_eq!(synchronise().await, connected_state);
        assert_eq!((messages().await.len(), provider.refreshes(&address)), (round + 1, round));
        service.owner.batch_execute(expire).await.unwrap();
    }
    let before = messages().await;
    provider.revoke(&address);
    let revoked = json!({"state": "authenticationError", "code": "consentRevoked", "service": "oauth2"});
    assert_eq!(synchronise().await, revoked);
    let again = connect(api, &user, &address, json!({"accountId": account["id"]})).await;
    assert_eq!((again.status, &again.body["id"]), (200, &account["id"]), "{again:?}");
    assert_eq!(synchronise().await, connected_state);
    assert_eq!(messages().await, before, "the same messages under the same ids");
}
