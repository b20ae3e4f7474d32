//! Connections with one mail host at once, counted in a real Redis by workers that know nothing of each other.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use local::services::Redis;
use local::workspace_root;
use serde_json::json;
use shared::account::AccountId;
use shared::host_slots::{HostSlots, Slot};
use shared::identity::{Scope, TenantId, UserId};
use shared::redis_link::RedisLink;
use shared::secrets::SecretText;
use shared::work::Done;
use uuid::Uuid;

use crate::model_imap::{Extensions, ModelServer, World};
use crate::support::{Service, User, api, owner, servers};
use crate::sync_model::Worker;

/// Longer than a test takes.
const LONG: Duration = Duration::from_secs(60);

/// A worker's way to the slots, of which a host has two.
async fn worker(url: String) -> HostSlots {
    worker_of(2, url).await
}

async fn worker_of(per_host: u32, url: String) -> HostSlots {
    // A busy machine may take longer than a worker waits, and nobody would count then.
    let link = RedisLink::new(&SecretText::new(url)).unwrap().with_patience(Duration::from_secs(10));
    link.warm_up().await;
    HostSlots::new(NonZeroU32::new(per_host).unwrap(), link)
}

async fn take(worker: &HostSlots, host: &str) -> Slot {
    worker.take(host, LONG).await.unwrap()
}

async fn connect(url: &str) -> redis::aio::MultiplexedConnection {
    redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap()
}

#[tokio::test]
async fn workers_share_the_slots_of_a_host() {
    let redis = Redis::start().unwrap();
    let (one, other) = (worker(redis.url()).await, worker(redis.url()).await);
    let (first, _second) = (take(&one, "imap.example.com").await, take(&other, "IMAP.example.com").await);
    for worker in [&one, &other] {
        assert_eq!(worker.take("imap.example.com", LONG).await, None);
    }
    let _elsewhere = take(&one, "imap.example.org").await;
    // By whomever.
    other.give_back(first).await;
    let _third = take(&other, "imap.example.com").await;
    assert_eq!(one.take("imap.example.com", LONG).await, None);
}

/// Those with large mailboxes take one slot after the other, for hours.
#[tokio::test]
async fn who_goes_on_leaves_a_quarter_of_the_slots_to_those_who_come_for_a_moment() {
    let redis = Redis::start().unwrap();
    let mut world = World::new(Extensions::default());
    world.append("INBOX", 0);
    let server = ModelServer::start(world).await;
    let (api, user) = (api().await, User::new());
    let settings = json!({"hostname": "127.0.0.1", "port": server.port(), "encryption": "none"});
    let account = AccountId(api.create(&user, settings).await["id"].as_str().unwrap().parse().unwrap());
    let scope = Scope { tenant_id: TenantId(user.tenant), user_id: UserId(user.user) };
    let worker = Worker::new().await.with_slots(4, &redis.url()).await;
    let owner = owner().await;
    let run = async || {
        let rung = "update email_accounts set rung_at = 1, last_sync_at = null where id = $1";
        owner.execute(rung, &[&account.0]).await.unwrap();
        assert_eq!(worker.run(&scope, account, LONG).await.unwrap(), Done::Complete);
        let sql = "select last_sync_at is not null from email_accounts where id = $1";
        owner.query_one(sql, &[&account.0]).await.unwrap().get::<_, bool>(0)
    };
    let others = worker_of(4, redis.url()).await;
    let mut slots = Vec::new();
    for _ in 0..3 {
        slots.push(others.take_again("127.0.0.1", LONG).await.unwrap());
    }
    assert_eq!(others.take_again("127.0.0.1", LONG).await, None);
    assert!(run().await, "who begins finds one");
    let unfinished = "update email_folders set is_complete = false where account_id = $1";
    assert_eq!(owner.execute(unfinished, &[&account.0]).await.unwrap(), 1);
    assert!(!run().await, "who goes on does not");
    others.give_back(slots.pop().unwrap()).await;
    assert!(run().await);
}

#[tokio::test]
async fn a_killed_workers_slots_are_free_again_when_their_time_is_up() {
    let redis = Redis::start().unwrap();
    let worker = worker(redis.url()).await;
    let (hold, started) = (Duration::from_millis(400), Instant::now());
    let _killed = worker.take("imap.example.com", hold).await.unwrap();
    // A longer one, before and after: each expires alone.
    let _lives = take(&worker, "imap.example.com").await;
    while worker.take("imap.example.com", LONG).await.is_none() {
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    // Redis counts whole milliseconds.
    assert!(started.elapsed() + Duration::from_millis(2) >= hold);
    assert_eq!(worker.take("imap.example.com", LONG).await, None);
    let mut connection = connect(&redis.url()).await;
    let life: i64 =
        redis::cmd("PTTL").arg("email_service:hosts:imap.example.com").query_async(&mut connection).await.unwrap();
    assert!(life > 0, "what nobody uses is forgotten: {life}");
}

#[tokio::test]
async fn a_clock_that_was_set_back_keeps_no_slot() {
    let redis = Redis::start().unwrap();
    let worker = worker(redis.url()).await;
    let mut connection = connect(&redis.url()).await;
    let key = "email_service:hosts:imap.example.com";
    for member in ["a", "b"] {
        let () = redis::cmd("ZADD")
            .arg(key)
            .arg(4_000_000_000_000_u64)
            .arg(member)
            .query_async(&mut connection)
            .await
            .unwrap();
    }
    let _slot = take(&worker, "imap.example.com").await;
    let count: u32 = redis::cmd("ZCARD").arg(key).query_async(&mut connection).await.unwrap();
    assert_eq!(count, 1);
}

#[tokio::test]
async fn while_redis_is_away_everybody_gets_one_and_nobody_waits() {
    let mut redis = Redis::start().unwrap();
    let worker = worker(redis.url()).await;
    redis.kill().unwrap();
    let started = Instant::now();
    let slots = [take(&worker, "imap.example.com").await, take(&worker, "imap.example.com").await];
    let third = take(&worker, "imap.example.com").await;
    for slot in slots.into_iter().chain([third]) {
        worker.give_back(slot).await;
    }
    // 100 ms for the one that notices; the rest is room for a busy machine.
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    redis.start_again().unwrap();
    let started = Instant::now();
    // It is looked for once a second.
    while worker.take("imap.example.net", LONG).await.is_some() {
        assert!(started.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The template's permissions, on a Redis that forgets the script before each use.
#[tokio::test]
async fn slots_are_taken_and_given_back_with_the_permissions_of_the_template() {
    let redis = Redis::start().unwrap();
    let template = std::fs::read_to_string(workspace_root().join("data.yaml")).unwrap();
    let permissions = template.split("AccessString: >-").nth(1).unwrap().split("AuthenticationMode").next().unwrap();
    let mut connection = connect(&redis.url()).await;
    let rules: Vec<&str> = permissions.split_whitespace().chain(["-script", ">password"]).collect();
    let () = redis::cmd("ACL").arg("SETUSER").arg("functions").arg(rules).query_async(&mut connection).await.unwrap();
    let worker = worker(redis.url().replace("//", "//functions:password@")).await;
    for _ in 0..3 {
        let () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut connection).await.unwrap();
        let slots = [take(&worker, "imap.example.com").await, take(&worker, "imap.example.com").await];
        assert_eq!(worker.take("imap.example.com", LONG).await, None, "it is Redis who counts");
        for slot in slots {
            worker.give_back(slot).await;
        }
    }
}

/// Accounts of one host, which takes its time. Who finds no slot is asked nothing and told nothing, and has his turn when the
/// schedule finds him due: then by the real functions, which count in the same Redis.
#[tokio::test]
async fn a_host_has_no_more_connections_than_it_may_and_who_found_none_comes_again() {
    const ACCOUNTS: usize = 4;
    let redis = Redis::start().unwrap();
    let more =
        [("MAIL_ALLOW_PLAINTEXT", "true".into()), ("MAIL_HOST_CONNECTIONS", "1".into()), ("REDIS_URL", redis.url())];
    let service = Service::start(Duration::from_secs(60), BTreeMap::from(more)).await;
    let mut world = World::new(Extensions::default());
    (0..30).for_each(|_| world.append("INBOX", 0));
    world.is_busy = true;
    let connections = world.connections.clone();
    let server = ModelServer::start(world).await;
    let mut accounts = Vec::new();
    for _ in 0..ACCOUNTS {
        let user = User::new();
        let settings = json!({"hostname": "127.0.0.1", "port": server.port(), "encryption": "none"});
        let account: Uuid = service.api.create(&user, settings).await["id"].as_str().unwrap().parse().unwrap();
        accounts.push((Scope { tenant_id: TenantId(user.tenant), user_id: UserId(user.user) }, AccountId(account)));
    }
    service.owner.execute("update email_accounts set rung_at = 1", &[]).await.unwrap();
    let database: String = service.owner.query_one("select current_database()::text", &[]).await.unwrap().get(0);
    let worker = Worker::at(servers().await.postgres.mail_url(&database)).await.with_slots(1, &redis.url()).await;
    let mut runs: FuturesUnordered<_> =
        accounts.iter().map(|(scope, account)| worker.run(scope, *account, LONG)).collect();
    for _ in 1..ACCOUNTS {
        assert_eq!(runs.next().await.unwrap().unwrap(), Done::Complete);
    }
    let sql = "select next_sync_at - epoch_ms() from email_accounts
               where leased_until is null and rung_at is null and state = 'new' and last_error_code is null and last_sync_at is null";
    let postponed = service.owner.query(sql, &[]).await.unwrap();
    assert_eq!(postponed.len(), ACCOUNTS - 1);
    assert!(postponed.iter().all(|row| (10_000..=40_000).contains(&row.get::<_, i64>(0))), "{postponed:?}");
    assert_eq!(connections.most(), 1);
    server.world().is_busy = false;
    assert_eq!(runs.next().await.unwrap().unwrap(), Done::Complete);
    let started = Instant::now();
    loop {
        // For more than a minute is due who is rung for already.
        let sql = "select id from email_accounts
                   where last_sync_at is null and next_sync_at between epoch_ms() + 1 and epoch_ms() + 60000";
        let waiting: Vec<Uuid> = service.owner.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        if !waiting.is_empty() {
            service.make_due(&waiting, 60).await;
            assert_eq!(service.tick().await["due"], waiting.len());
        }
        let sql = "select count(*) from email_accounts where last_sync_at is not null";
        if service.owner.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == ACCOUNTS as i64 {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{}", service.api.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let sql = "select count(*) from email_accounts a
               where state = 'connected' and 30 = (select count(*) from email_messages m where m.account_id = a.id)";
    assert_eq!(service.owner.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), ACCOUNTS as i64);
    // On a machine with other things to do Redis may seem to be away.
    assert!(
        connections.most() == 1 || service.api.log().contains("nobody counts connections"),
        "{}",
        connections.most()
    );
}
