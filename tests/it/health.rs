//! Is the process alive, and can it do its work?

use std::time::{Duration, Instant};

use local::emulator::Emulator;
use serde_json::{Value, json};
use tokio::task::block_in_place;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_follows_what_the_service_depends_on() {
    let mut servers = Servers::start().await;
    let mut emulator = block_in_place(Emulator::start).unwrap();
    let queues = local::template::queues(&local::workspace_root().join("template.yaml")).unwrap();
    let (queues, bucket) = (emulator.make(&queues).await.unwrap(), emulator.make_bucket().await.unwrap());
    let mut env = servers.env();
    env.extend(queues.env().iter().chain(bucket.env()).map(|(name, value)| (&*name.clone().leak(), value.clone())));
    let api = Api::start(env).await;
    // Each state lasts until the test changes it. Redis has 100 ms to answer and the others a second, which a busy machine may not
    // grant: then it is asked again.
    let becomes = async |status: u16, state: &str, dependencies: Value| {
        let started = Instant::now();
        loop {
            let answer = api.get("/health/ready").send().await;
            let found = (answer.status, answer.body["status"].as_str(), &answer.body["dependencies"]);
            if found == (status, Some(state), &dependencies) {
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{found:?}, not {state} with {dependencies}");
            tokio::time::sleep(Duration::from_millis(1100)).await;
        }
    };
    let states = |postgresql: &str, redis: &str, queues: &str, objects: &str| json!({"postgresql": postgresql, "redis": redis, "queues": queues, "objects": objects});
    let state = |postgresql: &str, redis: &str| states(postgresql, redis, "healthy", "healthy");
    becomes(200, "healthy", state("healthy", "healthy")).await;

    block_in_place(|| emulator.kill()).unwrap();
    becomes(200, "degraded", states("healthy", "healthy", "degraded", "degraded")).await;
    // It comes back without queue and bucket.
    block_in_place(|| emulator.start_again()).unwrap();
    becomes(200, "degraded", states("healthy", "healthy", "degraded", "degraded")).await;
    emulator.make_again(&queues).await.unwrap();
    becomes(200, "degraded", states("healthy", "healthy", "healthy", "degraded")).await;
    emulator.make_bucket_again(&bucket).await.unwrap();
    becomes(200, "healthy", state("healthy", "healthy")).await;

    servers.redis.kill().unwrap();
    becomes(200, "degraded", state("healthy", "degraded")).await;

    let owner = crate::support::connect(&servers.postgres.owner_url("app")).await;
    owner
        .batch_execute("create table kept as table schema_migrations; delete from schema_migrations where version > 1")
        .await
        .unwrap();
    becomes(503, "unavailable", state("schema outdated", "degraded")).await;
    owner.batch_execute("delete from schema_migrations; insert into schema_migrations table kept").await.unwrap();
    becomes(200, "degraded", state("healthy", "degraded")).await;

    servers.postgres.stop().unwrap();
    becomes(503, "unavailable", state("unavailable", "degraded")).await;
    // With error, message and request id, as every refusal.
    api.get("/health/ready").send().await.is_refused(503);
    assert_eq!(api.request("HEAD", "/health/ready").send().await.status, 503);
    assert_eq!(api.get("/health").send().await.status, 200);
    servers.postgres.start_again().unwrap();
    becomes(200, "degraded", state("healthy", "degraded")).await;
}
