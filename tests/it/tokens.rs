//! Tokens that are checked with public keys, where these come from, and how keys are replaced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jsonwebtoken::Algorithm;
use local::certificates::Certificate;
use local::gateway::PayloadVersion;
use local::signing::SigningKey;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::issuer::{Answer, Issuer, PUBLIC, set};
use crate::secrets::{Moto, aws};
use crate::support::{Answer as Reply, Api, JWT_KEY, User, lasting, merged, servers, sign};

/// With one process for each function, so that what one knows the next request's knows.
async fn start(env: BTreeMap<&'static str, String>) -> Api {
    Api::start_as(env, PayloadVersion::V2, 1).await
}

async fn list(api: &Api, token: &str) -> Reply {
    api.get("/api/accounts").bearer(token).send().await
}

fn key(algorithm: Algorithm, kid: &str) -> SigningKey {
    SigningKey::new(algorithm, kid).unwrap()
}

#[tokio::test]
async fn a_public_key_in_pem_checks_tokens_of_its_algorithm() {
    for algorithm in PUBLIC {
        let (own, other) = (key(algorithm, "1"), key(algorithm, "1"));
        let mut env = servers().await.env();
        env.insert("JWT_ALGORITHM", format!("{algorithm:?}"));
        env.insert("JWT_PUBLIC_KEY", own.pem().replace('\n', "\\n"));
        // Nobody needs it, so it may be missing.
        env.remove("JWT_SECRET_KEY");
        let (api, user) = (start(env).await, User::new());
        let answer = list(&api, &own.sign(&user.claims()).unwrap()).await;
        assert_eq!(answer.status, 200, "{algorithm:?} {}", api.log());
        assert_eq!(api.log_of(&answer).await["userId"], json!(user.user));
        list(&api, &other.sign(&user.claims()).unwrap()).await.is_refused(401);
        list(&api, &user.token()).await.is_refused(401);
    }
}

#[tokio::test]
async fn the_keys_of_an_issuer_are_fetched_at_the_start_and_no_request_costs_network_after_that() {
    for algorithm in PUBLIC {
        let own = key(algorithm, "1");
        let issuer = Issuer::start(set(&[&key(algorithm, "0"), &own])).await;
        let (api, user) = (start(issuer.env(algorithm).await).await, User::new());
        let token = own.sign(&user.claims()).unwrap();
        for _ in 0..20 {
            assert_eq!(list(&api, &token).await.status, 200, "{algorithm:?} {}", api.log());
        }
        assert_eq!(issuer.take_asked(), 1);
        // Nor does what cannot be a token of the issuer's, or is signed by nobody with a key that is known.
        let forged = key(algorithm, "1").sign(&user.claims()).unwrap();
        for bad in [&*user.token(), &forged, "a.b.c", "nonsense", &token[..token.len() - 5]] {
            list(&api, bad).await.is_refused(401);
        }
        assert_eq!(issuer.take_asked(), 0);
    }
}

#[tokio::test]
async fn an_unknown_key_is_asked_for_once_a_minute_at_most() {
    let [first, second, third] = ["1", "2", "3"].map(|kid| key(Algorithm::ES256, kid));
    let issuer = Issuer::start(set(&[&first])).await;
    let (api, user) = (start(issuer.env(Algorithm::ES256).await).await, User::new());
    let token = |key: &SigningKey| key.sign(&user.claims()).unwrap();
    assert_eq!(list(&api, &token(&first)).await.status, 200);
    issuer.answers(set(&[&first, &second]));
    assert_eq!(list(&api, &token(&second)).await.status, 200, "{}", api.log());
    assert_eq!(issuer.take_asked(), 2);
    issuer.answers(set(&[&third]));
    for _ in 0..20 {
        list(&api, &token(&third)).await.is_refused(401);
        assert_eq!(list(&api, &token(&first)).await.status, 200);
    }
    assert_eq!(issuer.take_asked(), 0);
}

#[tokio::test]
async fn a_key_that_was_swapped_under_its_name_is_taken_with_the_next_set() {
    let (old, new, unknown) = (key(Algorithm::EdDSA, "1"), key(Algorithm::EdDSA, "1"), key(Algorithm::EdDSA, "2"));
    let issuer = Issuer::start(set(&[&old])).await;
    let (api, user) = (start(issuer.env(Algorithm::EdDSA).await).await, User::new());
    let token = |key: &SigningKey| key.sign(&user.claims()).unwrap();
    assert_eq!(list(&api, &token(&old)).await.status, 200);
    issuer.answers(set(&[&new]));
    // Its name is known, so nobody is asked: the set is, each hour, or for a name that is not known.
    list(&api, &token(&new)).await.is_refused(401);
    list(&api, &token(&unknown)).await.is_refused(401);
    assert_eq!(list(&api, &token(&new)).await.status, 200, "{}", api.log());
    list(&api, &token(&old)).await.is_refused(401);
}

/// An issuer that is of no use at the start: the functions start and say when to come again, to who may be somebody.
#[tokio::test]
async fn without_keys_nobody_is_refused_for_good_and_requests_do_not_wait() {
    let own = key(Algorithm::ES256, "1");
    let issuer = Issuer::start(Answer::Away).await;
    let (api, user) = (start(issuer.env(Algorithm::ES256).await).await, User::new());
    let token = own.sign(&user.claims()).unwrap();
    let answer = list(&api, &token).await;
    answer.is_refused(503);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(api.log_of(&answer).await["error"].as_str().unwrap().contains("no keys"), "{}", api.log());
    // What cannot be a token of the issuer's is known for that all the same.
    list(&api, &user.token()).await.is_refused(401);
    list(&api, "nonsense").await.is_refused(401);
    // The development headers need no key.
    assert_eq!(api.get("/api/accounts").by_headers(&user).send().await.status, 200);

    issuer.answers(set(&[&own]));
    let started = Instant::now();
    while list(&api, &token).await.status != 200 {
        assert!(started.elapsed() < Duration::from_secs(30), "{}", api.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    api.log_line(|line| line["message"] == "token_keys_unavailable: the last ones go on").await;
}

#[tokio::test]
async fn a_silent_issuer_holds_up_a_start_and_one_request_for_two_seconds_each() {
    let (own, unknown) = (key(Algorithm::ES256, "1"), key(Algorithm::ES256, "2"));
    let issuer = Issuer::start(Answer::Silence).await;
    let env = issuer.env(Algorithm::ES256).await;
    let (api, user) = (start(env.clone()).await, User::new());
    let token = |key: &SigningKey| key.sign(&user.claims()).unwrap();
    let started = Instant::now();
    for _ in 0..10 {
        list(&api, &token(&own)).await.is_refused(503);
    }
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());

    issuer.answers(set(&[&own]));
    let api = start(env).await;
    assert_eq!(list(&api, &token(&own)).await.status, 200, "{}", api.log());
    issuer.answers(Answer::Silence);
    let started = Instant::now();
    list(&api, &token(&unknown)).await.is_refused(401);
    assert!((2..15).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    let started = Instant::now();
    for _ in 0..10 {
        list(&api, &token(&unknown)).await.is_refused(401);
        assert_eq!(list(&api, &token(&own)).await.status, 200);
    }
    // Ten waits of two seconds would be longer.
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_set_that_is_of_no_use_does_not_take_the_place_of_a_good_one() {
    let (own, unknown) = (key(Algorithm::RS256, "1"), key(Algorithm::RS256, "2"));
    let user = User::new();
    let token = |key: &SigningKey| key.sign(&user.claims()).unwrap();
    let good = json!({"keys": [own.jwk()]});
    let padded = merged(good.clone(), json!({"padding": "x".repeat(70_000)}));
    let crowded = json!({"keys": std::iter::repeat_n(own.jwk(), 101).collect::<Vec<_>>()});
    let foreign = json!({"keys": [key(Algorithm::ES256, "1").jwk(), merged(own.jwk().clone(), json!({"use": "enc"}))]});
    for (name, bad) in [
        ("huge", Answer::Other("200 OK", padded.to_string())),
        ("crowded", Answer::Set(crowded)),
        ("foreign", Answer::Set(foreign)),
        ("empty", Answer::Set(json!({"keys": []}))),
        ("no JSON", Answer::Other("200 OK", "<html>".to_owned())),
        ("an error", Answer::Other("500 Internal Server Error", good.to_string())),
        ("a redirect", Answer::Other("302 Found\r\nlocation: /.well-known/jwks.json?version=1", good.to_string())),
        ("away", Answer::Away),
    ] {
        let issuer = Issuer::start(set(&[&own])).await;
        let api = start(issuer.env(Algorithm::RS256).await).await;
        assert_eq!(list(&api, &token(&own)).await.status, 200, "{name} {}", api.log());
        issuer.answers(bad);
        list(&api, &token(&unknown)).await.is_refused(401);
        assert_eq!(issuer.take_asked(), 2, "{name}");
        assert_eq!(list(&api, &token(&own)).await.status, 200, "{name} {}", api.log());
        assert!(api.log().contains("token_keys_unavailable"), "{name} {}", api.log());
    }
}

/// As the sets of large issuers are: keys to encrypt with, of other algorithms, for other uses, and broken ones.
#[tokio::test]
async fn of_a_mixed_set_only_the_keys_of_the_algorithm_check_tokens() {
    let [own, encrypts, signs, broken] = ["own", "enc", "ops", "broken"].map(|kid| key(Algorithm::RS256, kid));
    let [other, ec] = [key(Algorithm::PS256, "ps"), key(Algorithm::ES256, "ec")];
    let changed = |key: &SigningKey, change: Value| merged(key.jwk().clone(), change);
    let keys = json!({"keys": [
        changed(&encrypts, json!({"use": "enc", "alg": "RSA-OAEP"})), changed(&signs, json!({"key_ops": ["sign"]})),
        changed(&broken, json!({"e": 65537})), other.jwk(), ec.jwk(), 7, null,
        {"kty": "oct", "k": "YSBzZWNyZXQgdGhhdCBldmVyeWJvZHkgY2FuIHJlYWQ", "kid": "oct", "alg": "HS256"}, own.jwk(),
    ]});
    let issuer = Issuer::start(Answer::Set(keys)).await;
    let (api, user) = (start(issuer.env(Algorithm::RS256).await).await, User::new());
    assert_eq!(list(&api, &own.sign(&user.claims()).unwrap()).await.status, 200, "{}", api.log());
    let as_rs256 = |kid: &str| format!(r#"{{"alg":"RS256","kid":"{kid}"}}"#);
    for token in [
        encrypts.sign(&user.claims()).unwrap(),
        signs.sign(&user.claims()).unwrap(),
        broken.sign(&user.claims()).unwrap(),
        other.sign(&user.claims()).unwrap(),
        other.sign_as(Algorithm::RS256, &as_rs256("ps"), &user.claims()).unwrap(),
        ec.sign(&user.claims()).unwrap(),
        ec.sign_as(Algorithm::ES256, &as_rs256("ec"), &user.claims()).unwrap(),
        sign(&user.claims(), "a secret that everybody can read"),
    ] {
        list(&api, &token).await.is_refused(401);
    }
}

#[tokio::test]
async fn an_issuer_that_cannot_prove_its_name_is_not_believed() {
    for certificate in [Certificate::Expired, Certificate::OtherName, Certificate::OtherAuthority] {
        let own = key(Algorithm::ES256, "1");
        let issuer = Issuer::start_with(certificate, set(&[&own])).await;
        let api = start(issuer.env(Algorithm::ES256).await).await;
        list(&api, &own.sign(&User::new().claims()).unwrap()).await.is_refused(503);
        assert!(api.log().contains("no TLS with localhost"), "{}", api.log());
    }
}

/// Sends requests with whatever token is current, until it is told to stop.
struct Traffic {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Vec<u16>>,
}

impl Traffic {
    fn start(api: &Arc<Api>, token: impl Fn() -> String + Send + 'static) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count, api) = (stop.clone(), sent.clone(), api.clone());
        let task = tokio::spawn(async move {
            let mut statuses = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                statuses.push(list(&api, &token()).await.status);
                count.fetch_add(1, Ordering::SeqCst);
            }
            statuses
        });
        Self { stop, sent, task }
    }

    /// Lets some requests pass.
    async fn go_on(&self) {
        let until = self.sent.load(Ordering::SeqCst) + 10;
        while self.sent.load(Ordering::SeqCst) < until && !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    /// Fails unless each request was answered as it should be.
    async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        let statuses = self.task.await.unwrap();
        assert!(statuses.len() > 30 && statuses.iter().all(|status| *status == 200), "{statuses:?}");
    }
}

/// docs/OPERATIONS.md, "The signing key", step by step.
#[tokio::test]
async fn an_issuer_replaces_its_key_and_no_request_is_refused() {
    let [old, new] = ["old", "new"].map(|kid| Arc::new(key(Algorithm::RS256, kid)));
    let issuer = Issuer::start(set(&[&old])).await;
    let (api, user) = (Arc::new(start(issuer.env(Algorithm::RS256).await).await), User::new());
    let signs_new = Arc::new(AtomicBool::new(false));
    let (switch, keys) = (signs_new.clone(), [old.clone(), new.clone()]);
    let traffic =
        Traffic::start(&api, move || keys[usize::from(switch.load(Ordering::SeqCst))].sign(&user.claims()).unwrap());
    traffic.go_on().await;
    // Published before it signs; then it signs; then the other is gone.
    issuer.answers(set(&[&old, &new]));
    traffic.go_on().await;
    signs_new.store(true, Ordering::SeqCst);
    traffic.go_on().await;
    issuer.answers(set(&[&new]));
    traffic.go_on().await;
    traffic.end().await;
}

/// docs/OPERATIONS.md, "The signing key", with a secret; processes that go on running read it anew by themselves.
#[tokio::test]
async fn a_signing_secret_is_replaced_and_no_request_is_refused() {
    const NEW: &str = "the next signing key of the tests, long enough";
    let (servers, moto) = (servers().await, Moto::start().await);
    let secret = |key: &str, previous: Option<&str>| {
        json!({
            "DATABASE_URL": servers.postgres.app_url("app"), "REDIS_URL": servers.redis.url(),
            "JWT_SECRET_KEY": key, "JWT_SECRET_KEY_PREVIOUS": previous
        })
    };
    let arn = moto.create("service", &secret(JWT_KEY, None)).await;
    let mut env = aws(&moto);
    env.insert("SECRET_ARN", arn.clone());
    env.insert("RATE_LIMIT_PER_MINUTE", "0".to_owned());
    let (api, user) = (Arc::new(start(env).await), User::new());
    let signs_new = Arc::new(AtomicBool::new(false));
    let switch = signs_new.clone();
    let traffic = Traffic::start(&api, move || match switch.load(Ordering::SeqCst) {
        true => sign(&user.claims(), NEW),
        false => sign(&user.claims(), JWT_KEY),
    });
    traffic.go_on().await;
    moto.put(&arn, &secret(NEW, Some(JWT_KEY))).await;
    traffic.go_on().await;
    signs_new.store(true, Ordering::SeqCst);
    traffic.go_on().await;
    // A token of before is good as long as its key is there.
    assert_eq!(list(&api, &user.token()).await.status, 200);
    moto.put(&arn, &secret(NEW, None)).await;
    traffic.go_on().await;
    traffic.end().await;
}

#[tokio::test]
async fn the_secret_of_before_is_accepted_beside_the_current_one() {
    let mut env = servers().await.env();
    env.insert("JWT_SECRET_KEY_PREVIOUS", "the signing key of before, long enough".to_owned());
    let (api, user) = (start(env).await, User::new());
    let token = |key: &str| sign(&user.claims(), key);
    for good in [JWT_KEY, "the signing key of before, long enough"] {
        assert_eq!(list(&api, &token(good)).await.status, 200);
    }
    list(&api, &token("another signing key, of nobody that we know")).await.is_refused(401);
}

#[tokio::test]
async fn claims_have_the_issuers_names_and_ids_its_form() {
    let own = key(Algorithm::RS256, "1");
    let mut env = servers().await.env();
    let issuer = "https://tenant.auth.example/";
    env.extend([
        ("JWT_ALGORITHM", "RS256".to_owned()),
        ("JWT_PUBLIC_KEY", own.pem().to_owned()),
        ("JWT_ISSUER", issuer.to_owned()),
        ("JWT_TENANT_CLAIM", "org_id".to_owned()),
        ("JWT_USER_CLAIM", "sub".to_owned()),
        ("JWT_ROLE_CLAIM", "https://example.com/roles".to_owned()),
        ("JWT_IDS", "any".to_owned()),
    ]);
    let api = start(env).await;
    let token = |issuer: &str, org: &str, sub: &str| {
        let claims = json!({"iss": issuer, "org_id": org, "sub": sub, "exp": User::new().claims()["exp"],
            "https://example.com/roles": ["reader", "admin"]});
        own.sign(&claims).unwrap()
    };
    let answer = list(&api, &token(issuer, "org_7", "auth0|5f7c8ec7")).await;
    assert_eq!(answer.status, 200, "{}", api.log());
    let line = api.log_of(&answer).await;
    let id = |text: &str| Uuid::new_v5(&Uuid::new_v5(&Uuid::NAMESPACE_URL, issuer.as_bytes()), text.as_bytes());
    let found = (&line["tenantId"], &line["userId"], &line["role"]);
    assert_eq!(found, (&json!(id("org_7")), &json!(id("auth0|5f7c8ec7")), &json!("admin")));
    // Nobody becomes another by choosing an id that looks like what the other's was made into.
    list(&api, &token(issuer, "org_7", &id("auth0|5f7c8ec7").to_string())).await.is_refused(401);
    list(&api, &token("https://other.auth.example/", "org_7", "auth0|5f7c8ec7")).await.is_refused(401);
    list(&api, &token(issuer, "org_7", "")).await.is_refused(401);
    list(&api, &own.sign(&User::new().claims()).unwrap()).await.is_refused(401);
}

/// Functions without a way out read what the one with a way out keeps for them.
#[tokio::test]
async fn the_keys_of_an_issuer_are_kept_in_a_secret_for_functions_that_cannot_reach_it() {
    let moto = Moto::start().await;
    let [first, second] = ["1", "2"].map(|kid| key(Algorithm::ES256, kid));
    let issuer = Issuer::start(set(&[&first])).await;
    let arn = moto.create("keys", &json!({"keys": []})).await;
    let mut env = issuer.env(Algorithm::ES256).await;
    env.extend(aws(&moto));
    env.insert("JWT_JWKS_SECRET_ARN", arn.clone());
    let (api, user) = (start(env).await, User::new());
    let turn = || async { api.gateway.invoke("refresh-keys", json!({})).await.unwrap() };
    let token = |key: &SigningKey| key.sign(&user.claims()).unwrap();

    assert_eq!(turn().await.unwrap()["status"], "changed");
    assert_eq!(list(&api, &token(&first)).await.status, 200, "{}", api.log());
    assert_eq!(turn().await.unwrap()["status"], "unchanged");
    issuer.answers(set(&[&second, &first]));
    assert_eq!(turn().await.unwrap()["status"], "changed");
    issuer.answers(set(&[&first, &second]));
    assert_eq!(turn().await.unwrap()["status"], "unchanged");
    issuer.take_asked();
    // The secret is asked, and not the issuer.
    assert_eq!(list(&api, &token(&second)).await.status, 200, "{}", api.log());
    assert_eq!(issuer.take_asked(), 0);

    // What nobody could check a token with is not kept.
    for bad in [Answer::Set(json!({"keys": []})), Answer::Other("200 OK", "<html>".to_owned()), Answer::Away] {
        issuer.answers(bad);
        assert!(turn().await.is_err());
    }
    let kept = moto.call("GetSecretValue", json!({"SecretId": arn})).await;
    assert!(kept["SecretString"].as_str().unwrap().contains(r#""kid":"2""#), "{kept}");
}

/// Where there is nothing to keep, as under `cargo dev`.
#[tokio::test]
async fn without_an_issuer_the_function_that_keeps_keys_does_nothing() {
    let api = Api::start(servers().await.env()).await;
    let answer = lasting(async move { api.gateway.invoke("refresh-keys", json!({})).await.unwrap() }).await;
    assert_eq!(answer.unwrap()["status"], "there is nothing to keep");
}
