//! Which pages may read the answers.

use serde_json::json;

use crate::support::{Answer, Api, User, api, servers};

const ORIGIN: &str = "http://localhost:3000";

fn allowed_origin(answer: &Answer) -> Option<&str> {
    answer.header("access-control-allow-origin")
}

#[tokio::test]
async fn a_preflight_says_what_is_allowed_and_for_how_long() {
    for path in ["/api/accounts", "/api/accounts/7", "/health", "/unknown"] {
        let request = api()
            .await
            .request("OPTIONS", path)
            .header("origin", ORIGIN)
            .header("access-control-request-method", "PUT");
        let answer = request.header("access-control-request-headers", "authorization,content-type").send().await;
        assert_eq!(answer.status, 204);
        assert_eq!(allowed_origin(&answer), Some(ORIGIN));
        assert_eq!(answer.header("access-control-allow-methods"), Some("GET, POST, PUT, DELETE, OPTIONS"));
        assert_eq!(
            answer.header("access-control-allow-headers"),
            Some("Content-Type, Authorization, X-Tenant-ID, X-User-ID, X-User-Role, Idempotency-Key")
        );
        assert!(answer.header("access-control-max-age").unwrap().parse::<u32>().unwrap() > 0);
        assert_eq!(answer.header("x-ratelimit-limit"), None, "preflights are not counted");
    }
}

#[tokio::test]
async fn answers_good_and_bad_are_readable_and_so_are_their_headers() {
    let (api, user) = (api().await, User::new());
    let requests = [
        (200, api.get("/health")),
        (200, api.get("/api/accounts").by(&user)),
        (400, api.get("/api/accounts?limit=0").by(&user)),
        (401, api.get("/api/accounts")),
        (403, api.get("/api/accounts").by(&user).by_headers(&User::new())),
        (404, api.get("/unknown")),
        (405, api.request("PATCH", "/api/accounts")),
        (413, api.post("/api/accounts", json!("x".repeat(70_000))).by(&user)),
    ];
    for (status, request) in requests {
        let answer = request.header("origin", ORIGIN).send().await;
        assert_eq!((answer.status, allowed_origin(&answer)), (status, Some(ORIGIN)));
        let exposed = answer.header("access-control-expose-headers").unwrap();
        for name in [
            "X-RateLimit-Limit",
            "X-RateLimit-Remaining",
            "X-RateLimit-Reset",
            "RateLimit",
            "RateLimit-Policy",
            "Retry-After",
            "Location",
            "Content-Disposition",
            "X-Request-Id",
            "Idempotency-Replayed",
        ] {
            assert!(exposed.split(", ").any(|exposed| exposed == name), "{name}");
        }
    }
}

#[tokio::test]
async fn other_origins_get_nothing() {
    for origin in [
        "http://localhost:3000.evil.example",
        "https://localhost:3000",
        "http://localhost:3001",
        "null",
        "http://LOCALHOST:3000",
    ] {
        for request in [api().await.get("/health"), api().await.request("OPTIONS", "/api/accounts")] {
            let answer = request.header("origin", origin).header("access-control-request-method", "GET").send().await;
            assert!(
                !answer.headers.keys().any(|name| name.as_str().starts_with("access-control-")),
                "{origin}: {answer:?}"
            );
        }
    }
    assert_eq!(allowed_origin(&api().await.get("/health").send().await), None, "no origin, no header");
}

#[tokio::test]
async fn origins_are_as_configured() {
    let mut env = servers().await.env();
    env.insert("CORS_ORIGINS", "https://app.example.com,https://Admin.example.com:443".to_owned());
    let api = Api::start(env).await;
    for (origin, allowed) in [
        ("https://app.example.com", true),
        // As a browser writes it, however it was configured.
        ("https://admin.example.com", true),
        ("https://Admin.example.com:443", false),
        (ORIGIN, false),
    ] {
        let answer = api.get("/health").header("origin", origin).send().await;
        assert_eq!(allowed_origin(&answer), allowed.then_some(origin));
    }
}
