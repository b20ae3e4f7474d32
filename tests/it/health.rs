//! Is the process alive, and can it do its work?

use serde_json::json;

use crate::support::{Api, Servers, api};

#[tokio::test]
async fn health_needs_no_identity_no_database_and_no_configuration() {
    let answer = api().await.get("/health").send().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, json!({"status": "healthy", "service": "email_service", "version": "1.0.0"}));
    assert_eq!(answer.header("x-ratelimit-limit"), None);

    let alone = Api::start([].into()).await;
    assert_eq!(alone.get("/health").send().await.status, 200);
    alone.get("/unknown").send().await.is_refused(404);
}

#[tokio::test]
async fn uptime_monitors_may_send_head() {
    let api = api().await;
    for path in ["/health", "/health/ready"] {
        let (get, head) = (api.get(path).send().await, api.request("HEAD", path).send().await);
        assert_eq!((get.status, head.status), (200, 200), "{path}");
        let names = |answer: &crate::support::Answer| {
            let names = answer.headers.keys().map(|name| name.as_str().to_owned());
            names.filter(|name| name != "content-length").collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(names(&get), names(&head), "{path}");
        assert_eq!(api.log_of(&head).await["method"], "HEAD");
    }
    for (path, status) in [("/api/accounts", 405), ("/api/accounts/7", 405), ("/docs", 405), ("/unknown", 404)] {
        assert_eq!(api.request("HEAD", path).send().await.status, status, "{path}");
    }
}

#[tokio::test]
async fn readiness_follows_what_the_service_depends_on() {
    let mut servers = Servers::start().await;
    let api = servers.api().await;
    let ready = || async {
        let answer = api.get("/health/ready").send().await;
        let dependencies = answer.body["dependencies"].clone();
        (answer.status, answer.body["status"].as_str().unwrap_or_default().to_owned(), dependencies)
    };
    let state = |postgresql: &str, redis: &str| json!({"postgresql": postgresql, "redis": redis});
    assert_eq!(ready().await, (200, "healthy".to_owned(), state("healthy", "healthy")));

    servers.redis.kill().unwrap();
    assert_eq!(ready().await, (200, "degraded".to_owned(), state("healthy", "degraded")));

    let owner = crate::support::connect(&servers.postgres.owner_url("app")).await;
    owner
        .batch_execute("create table kept as table schema_migrations; delete from schema_migrations where version > 1")
        .await
        .unwrap();
    assert_eq!(ready().await.2, state("schema outdated", "degraded"));
    owner.batch_execute("delete from schema_migrations; insert into schema_migrations table kept").await.unwrap();
    assert_eq!(ready().await.0, 200);

    servers.postgres.stop().unwrap();
    assert_eq!(ready().await, (503, "unavailable".to_owned(), state("unavailable", "degraded")));
    // With error, message and request id, as every refusal.
    api.get("/health/ready").send().await.is_refused(503);
    assert_eq!(api.request("HEAD", "/health/ready").send().await.status, 503);
    assert_eq!(api.get("/health").send().await.status, 200);
    servers.postgres.start_again().unwrap();
    assert_eq!(ready().await.0, 200);
}
