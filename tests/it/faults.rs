//! What breaks underneath, and what comes of it.

use serde_json::json;

use crate::support::{Api, Servers, User, account, connect};

#[tokio::test]
async fn a_dead_postgresql_is_a_plain_500_and_after_its_return_all_is_well_without_a_restart() {
    let mut servers = Servers::start().await;
    let api = servers.api().await;
    let user = User::new();
    let created = api.create(&user, json!({})).await;
    let one = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    let pids = api.gateway.pids("get-account").unwrap();
    for crash in [true, false] {
        if crash {
            servers.postgres.kill().unwrap();
        } else {
            servers.postgres.stop().unwrap();
        }
        for request in [
            api.get("/api/accounts"),
            api.get(&one),
            api.put(&one, json!({"port": 1})),
            api.delete(&one),
            api.post("/api/accounts", account(json!({}))),
        ] {
            let answer = request.by(&user).send().await;
            answer.is_refused(500);
            assert!(!answer.body.to_string().to_lowercase().contains("postgres"));
            assert!(
                api.log_of(&answer).await["error"].as_str().unwrap().contains("no connection to PostgreSQL"),
                "{}",
                api.log()
            );
        }
        servers.postgres.start_again().unwrap();
        assert_eq!(api.get(&one).by(&user).send().await.body, created, "nothing was lost, nothing changed");
        assert_eq!(api.put(&one, json!({})).by(&user).send().await.status, 200);
    }
    assert_eq!(api.gateway.pids("get-account").unwrap()[..pids.len()], pids);
}

#[tokio::test]
async fn a_function_starts_while_postgresql_is_away_and_works_once_it_is_there() {
    let mut servers = Servers::start().await;
    servers.postgres.stop().unwrap();
    let api = servers.api().await;
    api.get("/api/accounts").by(&User::new()).send().await.is_refused(500);
    servers.postgres.start_again().unwrap();
    assert_eq!(api.get("/api/accounts").by(&User::new()).send().await.status, 200);
}

#[tokio::test]
async fn a_slow_statement_ends_before_the_function_does() {
    let servers = Servers::start().await;
    let api = servers.api().await;
    let user = User::new();
    let created = api.create(&user, json!({})).await;
    let one = format!("/api/accounts/{}", created["id"].as_str().unwrap());
    let blocker = connect(&servers.postgres.owner_url("app")).await;
    blocker.batch_execute("begin; lock table email_accounts in access exclusive mode").await.unwrap();
    let answer = api.put(&one, json!({"port": 1})).by(&user).send().await;
    answer.is_refused(500);
    assert!(api.log_of(&answer).await["error"].as_str().unwrap().contains("timeout"), "{}", api.log());
    blocker.batch_execute("rollback").await.unwrap();
    assert_eq!(api.get(&one).by(&user).send().await.body, created);
}

#[tokio::test]
async fn a_postgresql_that_never_answers_is_given_up_on() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let servers = crate::support::servers().await;
    let mut env = servers.env();
    let hung = servers
        .postgres
        .app_url("app")
        .replace(&servers.postgres.port().to_string(), &listener.local_addr().unwrap().port().to_string());
    env.insert("DATABASE_URL", hung);
    let api = Api::start(env).await;
    let answer = api.get("/api/accounts").by(&User::new()).send().await;
    answer.is_refused(500);
    assert!(api.log_of(&answer).await["durationMs"].as_f64().unwrap() < 9_000.0, "{}", api.log());
}

#[tokio::test]
async fn a_function_killed_in_the_middle_leaves_nothing_half_written() {
    let servers = Servers::start().await;
    let api = Api::start_as(servers.env(), xtask::gateway::PayloadVersion::V2, 1).await;
    let user = User::new();
    api.create(&user, json!({"emailAddress": "first@example.com"})).await;
    let blocker = connect(&servers.postgres.owner_url("app")).await;
    blocker.batch_execute("begin; lock table email_accounts in share mode").await.unwrap();
    let url = format!("{}/api/accounts", api.url());
    let request = reqwest::Client::new().post(url).bearer_auth(user.token()).json(&account(json!({}))).send();
    let killer = async {
        let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'";
        while blocker.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) == 0 {}
        let pid = api.gateway.pids("create-account").unwrap()[0].to_string();
        assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    };
    let (answer, ()) = tokio::join!(request, killer);
    assert_eq!(answer.unwrap().status(), 500, "the gateway's own words: no function was left to answer");
    blocker.batch_execute("rollback").await.unwrap();
    // The statement that lost its client either happened as a whole or not at all.
    let waiting = "select count(*) from pg_stat_activity where usename = 'email_service_app' and state = 'active'";
    while blocker.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0 {}
    let halves = "select count(*) from email_credentials c where not exists (select from email_accounts a where a.credential_id = c.id)";
    assert_eq!(blocker.query_one(halves, &[]).await.unwrap().get::<_, i64>(0), 0);
    let answer =
        api.post("/api/accounts", account(json!({"emailAddress": "third@example.com"}))).by(&user).send().await;
    assert_eq!(answer.status, 201, "another process has taken over");
}
