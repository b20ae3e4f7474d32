//! Who gets in, over HTTP. `shared::auth` has the finer cases.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use uuid::Uuid;

use crate::support::{Api, JWT_KEY, READER_DATABASE_URL, User, account, api, now_seconds, servers, sign};

#[tokio::test]
async fn a_token_and_the_development_headers_both_say_who_calls() {
    let (api, user) = (api().await, User::new());
    api.create(&user, json!({})).await;
    let by_headers = api.get("/api/accounts").by_headers(&user).send().await;
    assert_eq!((by_headers.status, &by_headers.body["pagination"]["total"]), (200, &json!(1)));
    let line = api.log_of(&by_headers).await;
    assert_eq!(
        (&line["tenantId"], &line["userId"], &line["role"]),
        (&json!(user.tenant), &json!(user.user), &json!("user"))
    );
    let admin = api.get("/api/accounts").by_headers(&user).header("x-user-role", "admin").send().await;
    assert_eq!(api.log_of(&admin).await["role"], "admin");
}

#[tokio::test]
async fn every_account_endpoint_asks_for_an_identity() {
    let api = api().await;
    let one = format!("/api/accounts/{}", Uuid::now_v7());
    for (method, path) in
        [("GET", "/api/accounts"), ("POST", "/api/accounts"), ("GET", &one), ("PUT", &one), ("DELETE", &one)]
    {
        api.request(method, path).send().await.is_refused(401);
        api.request(method, path).bearer("nonsense").send().await.is_refused(401);
    }
}

#[tokio::test]
async fn an_invalid_tenant_uuid_is_refused() {
    for bad in ["1", "", "11111111-1111-1111-1111-11111111111g", "11111111111111111111111111111111"] {
        let request = api().await.get("/api/accounts").header("x-tenant-id", bad);
        request.header("x-user-id", &Uuid::new_v4().to_string()).send().await.is_refused(401);
    }
}

#[tokio::test]
async fn an_invalid_user_uuid_is_refused() {
    for bad in ["1", "", "admin", "' or '1'='1"] {
        let request = api().await.get("/api/accounts").header("x-user-id", bad);
        request.header("x-tenant-id", &Uuid::new_v4().to_string()).send().await.is_refused(401);
    }
}

#[tokio::test]
async fn development_headers_mean_nothing_where_they_are_not_allowed() {
    let mut env = servers().await.env();
    env.remove("ALLOW_HEADER_AUTH");
    let api = Api::start(env).await;
    let user = User::new();
    api.get("/api/accounts").by_headers(&user).send().await.is_refused(401);
    assert_eq!(api.get("/api/accounts").by(&user).send().await.status, 200);
    // Also there, they may not contradict the token.
    api.get("/api/accounts").by(&user).by_headers(&User::new()).send().await.is_refused(403);
}

#[tokio::test]
async fn a_token_always_wins_and_contradicting_headers_are_refused_with_a_warning() {
    let (api, user, victim) = (api().await, User::new(), User::new());
    api.create(&victim, json!({})).await;
    for headers in [victim, User { tenant: victim.tenant, ..user }, User { user: victim.user, ..user }] {
        for request in [api.get("/api/accounts"), api.post("/api/accounts", account(json!({})))] {
            request.by(&user).by_headers(&headers).send().await.is_refused(403);
        }
    }
    let warning = api
        .log_line(|line| line["message"] == "identity_override_blocked" && line["tenantId"] == json!(user.tenant))
        .await;
    assert_eq!(warning["level"], "WARN");
    assert_eq!(api.get("/api/accounts").by(&user).by_headers(&user).send().await.status, 200);
    // A bad token is not saved by good headers.
    api.get("/api/accounts").bearer("a.b.c").by_headers(&victim).send().await.is_refused(401);
    assert!(api.addresses(&user).await.is_empty());
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    let (api, user) = (api().await, User::new());
    let good = user.token();
    let (head, payload, signature) = {
        let mut parts = good.split('.');
        (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap())
    };
    // {"alg":"none"} and its case variants, with and without a signature.
    let unsigned = ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJOb25lIn0", "eyJhbGciOiJOT05FIiwidHlwIjoiSldUIn0"];
    let victims_payload = sign(&User::new().claims(), "x").split('.').nth(1).unwrap().to_owned();
    let with = |algorithm, key: &[u8]| {
        jsonwebtoken::encode(&Header::new(algorithm), &user.claims(), &EncodingKey::from_secret(key)).unwrap()
    };
    let mut critical = Header::new(Algorithm::HS256);
    critical.crit = Some(vec!["exp".to_owned()]);
    let critical = jsonwebtoken::encode(&critical, &user.claims(), &EncodingKey::from_secret(JWT_KEY.as_bytes()));
    let mut forged = vec![
        critical.unwrap(),
        format!("{head}.{payload}."),
        format!("{head}.{payload}"),
        format!("{head}.{victims_payload}.{signature}"),
        format!("{head}.{payload}.{}", signature.chars().rev().collect::<String>()),
        format!("{good}.extra"),
        with(Algorithm::HS256, b""),
        with(Algorithm::HS256, b"another key of the right length ..."),
        with(Algorithm::HS384, JWT_KEY.as_bytes()),
        with(Algorithm::HS512, JWT_KEY.as_bytes()),
        user.token_with(json!({"exp": now_seconds() - 1})),
        user.token_with(json!({"exp": null})),
        user.token_with(json!({"exp": "9999999999"})),
        user.token_with(json!({"exp": true})),
        user.token_with(json!({"nbf": now_seconds() + 60})),
        user.token_with(json!({"tenant_id": "1"})),
        user.token_with(json!({"tenant_id": user.tenant.simple().to_string()})),
        user.token_with(json!({"exp": now_seconds() as f64 - 0.4})),
        user.token_with(json!({"user_id": null})),
        user.token_with(json!({"role": "root"})),
        "x".repeat(8193),
    ];
    forged.extend(
        unsigned.iter().flat_map(|head| [format!("{head}.{payload}."), format!("{head}.{payload}.{signature}")]),
    );
    for token in forged {
        let answer = api.get("/api/accounts").bearer(&token).send().await;
        assert_eq!(answer.status, 401, "{token}");
    }
    for authorization in
        [good.clone(), format!("Basic {good}"), format!("Bearer {good}, Bearer {good}"), "Bearer".to_owned()]
    {
        api.get("/api/accounts").header("authorization", &authorization).send().await.is_refused(401);
    }
    assert_eq!(api.get("/api/accounts").bearer(&good).send().await.status, 200);
}

#[tokio::test]
async fn issuer_audience_and_algorithm_are_as_configured() {
    let mut env = servers().await.env();
    env.extend([
        ("JWT_ISSUER", "us".to_owned()),
        ("JWT_AUDIENCE", "mail".to_owned()),
        ("JWT_ALGORITHM", "HS512".to_owned()),
    ]);
    let (api, user) = (Api::start(env).await, User::new());
    let token = |algorithm, issuer: &str| {
        let claims = crate::support::merged(user.claims(), json!({"iss": issuer, "aud": "mail"}));
        jsonwebtoken::encode(&Header::new(algorithm), &claims, &EncodingKey::from_secret(JWT_KEY.as_bytes())).unwrap()
    };
    assert_eq!(api.get("/api/accounts").bearer(&token(Algorithm::HS512, "us")).send().await.status, 200);
    api.get("/api/accounts").bearer(&token(Algorithm::HS512, "them")).send().await.is_refused(401);
    api.get("/api/accounts").bearer(&token(Algorithm::HS256, "us")).send().await.is_refused(401);
}

#[tokio::test]
async fn a_bad_configuration_stops_the_start_and_says_why() {
    for (name, value, reason) in [
        ("JWT_SECRET_KEY", "too short", "JWT_SECRET_KEY must be at least 32 bytes long"),
        ("JWT_SECRET_KEY", "a signing key, long enough, and a line break\n", "JWT_SECRET_KEY must be without white"),
        ("JWT_SECRET_KEY", "{{resolve:secretsmanager:key:SecretString}}", "JWT_SECRET_KEY must be the value itself"),
        ("JWT_SECRET_KEY_PREVIOUS", "too short", "JWT_SECRET_KEY_PREVIOUS must be at least 32 bytes long"),
        ("JWT_ALGORITHM", "ES256", "JWT_PUBLIC_KEY must be set, or JWT_JWKS, or JWT_JWKS_URL"),
        ("JWT_JWKS_URL", "http://issuer.example.com/keys", "JWT_JWKS_URL must be an address with https://"),
        ("JWT_IDS", "any", "JWT_ISSUER must be set where JWT_IDS is any"),
        ("CORS_ORIGINS", ",", "CORS_ORIGINS must be origins such as https://app.example.com"),
        ("CORS_ORIGINS", "http://localhost:99999", "CORS_ORIGINS must be origins such as https://app.example.com"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand", "DATABASE_URL must be an address with sslmode=verify-full"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand", "REDIS_URL must be an address with rediss://"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand", "ALLOW_HEADER_AUTH must be unset or false in a deployed stack"),
        (READER_DATABASE_URL, "", "DATABASE_URL must be postgres://"),
        ("RATE_LIMIT_PER_MINUTE", "many", "RATE_LIMIT_PER_MINUTE must be a whole number"),
    ] {
        let mut env = servers().await.env();
        env.insert(name, value.to_owned());
        let api = Api::start(env).await;
        assert!(api.gateway.invoke("get-account", json!({})).await.unwrap().is_err(), "{name} was accepted");
        assert!(api.log().contains(reason), "{name}: {}", api.log());
    }
}
