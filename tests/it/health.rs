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
    assert_eq!(api.get("/health").send().await.status, 200);
    servers.postgres.start_again().unwrap();
    assert_eq!(ready().await.0, 200);
}
