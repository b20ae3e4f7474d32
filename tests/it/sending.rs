//! Sending at its edges: a host with too many of us, a worker that dies at the dot, the same request twice, messages as large
//! as they may be, providers that keep what is sent, connections that break within TLS. What is usual is in `outbox.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, stream};
use local::gateway::PayloadVersion;
use local::services::Redis;
use mail::dns::Resolver;
use serde_json::{Value, json};
use shared::host_slots::HostSlots;
use shared::redis_link::RedisLink;
use shared::secrets::SecretText;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use crate::mailboxes::{OtherClient, connector, connector_by};
use crate::model_imap::{Extensions, ModelServer, World};
use crate::model_smtp::{End, SmtpModel, message_id};
use crate::outbox::{OFFERS, Rig, TIME, everybody_is_here, is};
use crate::sign_in::{PASSWORD, mailbox};
use crate::support::{
    Answer, Api, Request, Service, User, api, connect, mail, mail_api, merged, now_seconds, servers, upload,
};
use crate::sync_model::Worker;

fn id(entry: &Value) -> Uuid {
    entry["id"].as_str().unwrap().parse().unwrap()
}

/// Polls until something is true.
async fn wait_until(is_true: impl AsyncFn() -> bool) {
    let wait = async {
        while !is_true().await {
            tokio::time::sleep(Duration::from_millis(10)).await
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("it does not come true");
}

/// Who finds no slot has tried nothing: the message waits, and its attempts are what they were.
#[tokio::test]
async fn a_host_has_no_more_senders_than_it_may_and_who_found_no_place_comes_again() {
    let (redis, server) = (Redis::start().unwrap(), SmtpModel::start(&OFFERS).await);
    let connections = server.world.lock().unwrap().connections.clone();
    let mut rigs = Vec::new();
    for _ in 0..4 {
        let mut rig = Rig::model(&server).await;
        rig.worker = rig.worker.with_slots(2, &redis.url()).await;
        let entry = rig.put(json!({})).await;
        rigs.push((rig, entry));
    }
    server.world.lock().unwrap().is_busy = true;
    let mut runs: FuturesUnordered<_> =
        rigs.iter().map(|(rig, _)| rig.worker.deliver(&rig.scope, rig.account, TIME)).collect();
    for _ in 0..2 {
        runs.next().await.unwrap().unwrap();
    }
    let mut waiting = Vec::new();
    for (rig, entry) in &rigs {
        let entry = rig.get(entry).await;
        if entry["status"] == "queued" {
            let pause = entry["nextAttemptAt"].as_i64().unwrap() - now_seconds() as i64 * 1000;
            assert!((10_000..=41_000).contains(&pause), "{entry}");
            assert_eq!((&entry["attempts"], &entry["response"]), (&json!(0), &Value::Null), "{entry}");
            waiting.push((rig, entry));
        }
    }
    assert_eq!((waiting.len(), connections.most()), (2, 2));
    server.world.lock().unwrap().is_busy = false;
    while let Some(done) = runs.next().await {
        done.unwrap();
    }
    assert_eq!(server.taken().len(), 2);
    join_all(waiting.iter().map(|(rig, _)| rig.work())).await;
    for (rig, entry) in &rigs {
        let entry = rig.get(entry).await;
        assert_eq!((&entry["status"], &entry["attempts"]), (&json!("sent"), &json!(1)), "{entry}");
    }
    assert_eq!((server.taken().len(), connections.most()), (4, 2));
}

/// A server that has taken nearly all of the time is not given the last dot: nobody would hear what it says to it.
#[tokio::test]
async fn no_dot_goes_out_whose_answer_could_not_be_waited_for() {
    let server = SmtpModel::start(&OFFERS).await;
    let rig = Rig::model(&server).await;
    let entry = rig.put(json!({})).await;
    server.world.lock().unwrap().is_busy = true;
    // Four seconds in all, of which the answer is to have two.
    let work = rig.worker.deliver(&rig.scope, rig.account, Duration::from_secs(2));
    let delay = async {
        tokio::time::sleep(Duration::from_millis(2500)).await;
        server.world.lock().unwrap().is_busy = false;
    };
    tokio::join!(work, delay).0.unwrap();
    let after = rig.get(&entry).await;
    assert_eq!((is(&after).0, &after["attempts"]), ("queued", &json!(1)), "{after}");
    assert!(after["response"].as_str().unwrap().contains("too long"), "{after}");
    assert_eq!(server.taken().len(), 0);
    rig.work().await;
    assert_eq!((is(&rig.get(&entry).await).0, server.taken().len()), ("sent", 1));
}

/// Its host is the same to who sends, who synchronises and who files a copy, however its name is written.
#[tokio::test]
async fn a_host_whose_name_is_in_letters_has_its_slots_by_the_name_that_is_connected_to() {
    let (redis, server) = (Redis::start().unwrap(), SmtpModel::start(&OFFERS).await);
    let mut world = World::new(Extensions { special_use: true, ..Extensions::default() });
    world.create("Sent");
    let mailbox = ModelServer::start(world).await;
    let host = json!({"protocol": "imap", "hostname": "imap.bücher.example", "port": mailbox.port()});
    let connector = connector_by(Resolver::new(&[everybody_is_here().await])).await;
    let worker = Worker::with(connector).await.with_slots(1, &redis.url()).await;
    let rig = Rig::new(api().await, worker, merged(plain(&server), host)).await;
    let link = RedisLink::new(&SecretText::new(redis.url())).unwrap().with_patience(Duration::from_secs(10));
    let others = HostSlots::new(NonZeroU32::MIN, link);
    let slot = others.take("imap.xn--bcher-kva.example", TIME).await.unwrap();
    let entry = rig.put(json!({})).await;
    rig.work().await;
    rig.work().await;
    assert_eq!(is(&rig.get(&entry).await).0, "sent");
    assert!(mailbox.world().commands.is_empty(), "{:?}", mailbox.world().commands);
    others.give_back(slot).await;
    rig.work().await;
    assert!(!mailbox.world().commands.is_empty());
}

/// The server has heard the same, all but the dot, whether the note of it was made or not. What was noted is known to nobody,
/// and what was not is sent by the next one.
#[tokio::test]
async fn a_worker_that_dies_at_its_note_of_the_dot_leaves_one_truth_or_the_other() {
    for is_noted in [true, false] {
        let server = SmtpModel::start(&OFFERS).await;
        let connections = server.world.lock().unwrap().connections.clone();
        let rig = Rig::model(&server).await;
        let entry = rig.put(json!({})).await;
        server.world.lock().unwrap().is_busy = true;
        let url = servers().await.postgres.owner_url("app");
        let blocker = connect(&url).await;
        let mut work = Box::pin(rig.worker.deliver(&rig.scope, rig.account, TIME));
        let pid = async {
            wait_until(async || connections.now() == 1).await;
            blocker.batch_execute("begin").await.unwrap();
            let sql = "select from email_outbox where id = $1 and status = 'sending' for update";
            assert_eq!(blocker.execute(sql, &[&id(&entry)]).await.unwrap(), 1);
            server.world.lock().unwrap().is_busy = false;
            // It says that the dot is about to go out, and is not heard yet.
            let sql =
                "select pid from pg_stat_activity where wait_event_type = 'Lock' and query like '%commit_outgoing%'
                           and $1 = any (pg_blocking_pids(pid))";
            let own: i32 = blocker.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
            let mut pid = None;
            while pid.is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
                pid = rig.owner.query_opt(sql, &[&own]).await.unwrap().map(|row| row.get::<_, i32>(0));
            }
            pid.unwrap()
        };
        let pid = tokio::select! {
            pid = pid => pid,
            done = &mut work => panic!("{done:?}"),
        };
        // Who drops it has killed a process there.
        drop(work);
        if !is_noted {
            rig.owner.execute("select pg_terminate_backend($1)", &[&pid]).await.unwrap();
            // Its statement has that for an answer: the pool learns from the socket that the connection is not to be lent any more,
            // and the socket lasts as long as the process.
            wait_until(async || !std::path::Path::new(&format!("/proc/{pid}")).exists()).await;
        }
        blocker.batch_execute("rollback").await.unwrap();
        let noted = async || {
            let sql = "select dot_at is not null from email_outbox where id = $1";
            rig.owner.query_one(sql, &[&id(&entry)]).await.unwrap().get::<_, bool>(0)
        };
        if is_noted {
            wait_until(noted).await;
        }
        assert_eq!(noted().await, is_noted);
        wait_until(async || connections.now() == 0).await;
        // Should it be lent that connection all the same, it fails, and the queue brings it again.
        rig.wait().await;
        drop(rig.worker.deliver(&rig.scope, rig.account, TIME).await);
        rig.work().await;
        rig.work().await;
        let after = rig.get(&entry).await;
        let ends: Vec<_> = {
            let world = server.world.lock().unwrap();
            assert!(world.heard.iter().all(|heard| heard.message.ends_with(b"At noon.\r\n")));
            world.heard.iter().map(|heard| heard.end).collect()
        };
        match is_noted {
            true => assert_eq!((is(&after).0, ends, server.taken().len()), ("uncertain", vec![End::ClientLeft], 0)),
            false => {
                assert_eq!((is(&after).0, ends, server.taken().len()), ("sent", vec![End::ClientLeft, End::Dot], 1))
            }
        }
    }
}

fn is_replayed(answer: &Answer) -> bool {
    answer.header("idempotency-replayed").is_some_and(|value| value == "true")
}

#[tokio::test]
async fn a_message_is_put_once_and_sent_once_for_each_key() {
    let server = SmtpModel::start(&OFFERS).await;
    let rig = Rig::model(&server).await;
    let many = Api::start_as(servers().await.env(), PayloadVersion::V2, 4).await;
    let put = |user: &User, key: &str, body: Value| -> Request {
        many.post("/api/outbox", body).by(user).header("idempotency-key", key)
    };
    let entries = async || {
        let sql = "select count(*) from email_outbox where account_id = $1";
        rig.owner.query_one(sql, &[&rig.account.0]).await.unwrap().get::<_, i64>(0)
    };
    let mut kept = Vec::new();
    for round in 1..=5 {
        // Twins.
        let (key, body) = (Uuid::new_v4().to_string(), rig.message(json!({"subject": format!("{round}")})));
        let answers = join_all((0..8).map(|_| put(&rig.user, &key, body.clone()).send())).await;
        assert_eq!(answers.iter().filter(|answer| !is_replayed(answer)).count(), 1, "{answers:?}");
        let place = format!("/api/outbox/{}", answers[0].body["id"].as_str().unwrap());
        for answer in &answers {
            assert_eq!((answer.status, &answer.body), (202, &answers[0].body));
            assert_eq!(answer.header("location"), Some(&*place));
        }
        assert_eq!(entries().await, round);
        kept.push((key, body, answers.into_iter().next().unwrap().body));
    }
    // Of bodies that differ, one.
    let key = Uuid::new_v4().to_string();
    let different = (0..8).map(|n| rig.message(json!({"subject": format!("other {n}")})));
    let answers = join_all(different.map(|body| put(&rig.user, &key, body).send())).await;
    let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!((statuses, entries().await), ([[202].as_slice(), &[422; 7]].concat(), 6));
    rig.work().await;
    assert_eq!(server.taken().len(), 6);
    // Once it is sent: the answer is what it was, and nothing is sent again.
    for (key, body, first) in &kept {
        let again = put(&rig.user, key, body.clone()).send().await;
        assert_eq!((again.status, is_replayed(&again), &again.body), (202, true, first));
        assert_eq!((&again.body["status"], &rig.get(first).await["status"]), (&json!("queued"), &json!("sent")));
        put(&rig.user, key, merged(body.clone(), json!({"text": "At one."}))).send().await.is_refused(422);
    }
    rig.work().await;
    assert_eq!((entries().await, server.taken().len()), (6, 6));
    // Another user's same key is his own, and so is another endpoint's.
    let (key, body, first) = &kept[0];
    for user in [rig.user.colleague(), User { user: rig.user.user, ..User::new() }] {
        let settings = json!({"smtpHostname": "127.0.0.1", "smtpPort": server.port, "smtpEncryption": "none"});
        let account = rig.api.create(&user, settings).await;
        put(&user, key, body.clone()).send().await.is_refused(400);
        let own = put(&user, key, merged(body.clone(), json!({"accountId": account["id"]}))).send().await;
        assert_eq!((own.status, is_replayed(&own)), (202, false), "{own:?}");
        assert_ne!(own.body["id"], first["id"]);
    }
    let draft = many.post("/api/drafts", json!({"subject": "x"})).by(&rig.user).header("idempotency-key", key);
    let draft = draft.send().await;
    assert_eq!((draft.status, is_replayed(&draft)), (201, false));
    // A conflict is kept, also when its reason is gone.
    let mute = rig.api.create(&rig.user, json!({"emailAddress": "mute@example.com"})).await;
    let (key, body) = (Uuid::new_v4().to_string(), rig.message(json!({"accountId": mute["id"]})));
    put(&rig.user, &key, body.clone()).send().await.is_refused(409);
    let path = format!("/api/accounts/{}", mute["id"].as_str().unwrap());
    let able = rig.api.put(&path, json!({"smtpHostname": "smtp.example.com"})).by(&rig.user).send().await;
    assert_eq!(able.status, 200, "{able:?}");
    let again = put(&rig.user, &key, body.clone()).send().await;
    again.is_refused(409);
    assert!(is_replayed(&again));
    let other = put(&rig.user, &Uuid::new_v4().to_string(), body).send().await;
    assert_eq!((other.status, is_replayed(&other)), (202, false));
}

/// An account's settings at model servers, with a password in clear.
fn plain(server: &SmtpModel) -> Value {
    json!({
        "protocol": "pop3", "hostname": "127.0.0.1", "port": 1, "encryption": "none",
        "smtpHostname": "127.0.0.1", "smtpPort": server.port, "smtpEncryption": "none",
    })
}

/// The schedule rings for what was scheduled, while its user takes it back: with the real processes, and each outcome is seen.
#[tokio::test]
async fn who_takes_back_and_the_schedule_do_not_both_win() {
    let more = BTreeMap::from([("MAIL_ALLOW_PLAINTEXT", "true".to_owned())]);
    let service = Service::start(Duration::from_secs(60), more).await;
    let (user, server) = (User::new(), SmtpModel::start(&OFFERS).await);
    let account = service.api.create(&user, plain(&server)).await;
    let (mut outcomes, mut rounds, mut pause) = (BTreeMap::new(), 0, Duration::ZERO);
    while rounds < 10 || outcomes.len() < 2 {
        rounds += 1;
        assert!(rounds < 60, "{outcomes:?}");
        let message = json!({
            "accountId": account["id"], "to": [{"address": "john@example.com"}],
            "sendAt": now_seconds() * 1000 + 9_000_000,
        });
        let entry = service.api.post("/api/outbox", message).by(&user).send().await.body;
        assert_eq!(entry["status"], "scheduled");
        let path = format!("/api/outbox/{}", entry["id"].as_str().unwrap());
        let before = server.taken().len();
        // Its time has come.
        let sql = "update email_outbox set due_at = 1, ring_at = 1 where id = $1";
        service.owner.execute(sql, &[&id(&entry)]).await.unwrap();
        let delete = async {
            tokio::time::sleep(pause).await;
            service.api.delete(&path).by(&user).send().await
        };
        let (answer, _) = tokio::join!(delete, service.tick());
        let is_over = async || {
            let status = service.api.get(&path).by(&user).send().await.body["status"].clone();
            status == "sent" || status == "canceled"
        };
        wait_until(is_over).await;
        let status = service.api.get(&path).by(&user).send().await.body["status"].clone();
        let sent = server.taken().len() - before;
        match answer.status {
            200 => assert_eq!((status.as_str(), sent), (Some("canceled"), 0)),
            409 => assert_eq!((status.as_str(), sent), (Some("sent"), 1)),
            _ => panic!("{answer:?}"),
        }
        // Whoever takes back comes later until he is too late.
        pause = if answer.status == 200 { pause * 2 + Duration::from_millis(5) } else { pause / 2 };
        *outcomes.entry(answer.status).or_insert(0) += 1;
    }
}

/// The most bytes of a message as it is sent.
const LIMIT: usize = 25 * 1024 * 1024;

/// What does not look like much in JSON may be a third longer as it is sent, and so may names. None of that comes out over the
/// limit, files are let in as far as it goes, and a worker holds neither what is sent nor the copy.
#[tokio::test]
async fn the_largest_message_is_within_the_limit_as_it_is_sent_and_its_worker_within_its_memory() {
    let service = Service::start(Duration::from_secs(120), BTreeMap::new()).await;
    let (user, name, ports) = (User::new(), mailbox().await, mail().await.ports());
    let settings = json!({
        "emailAddress": name, "username": name, "hostname": "localhost", "port": ports.imaps, "password": PASSWORD,
        "smtpHostname": "localhost", "smtpPort": ports.submissions,
    });
    let account = service.api.create(&user, settings).await;
    let message = |changes: Value| {
        let least = json!({"accountId": account["id"], "to": [{"address": "large@example.com"}]});
        merged(least, changes)
    };
    // As much text as a body takes, in letters of two bytes; names as long as they may be, of four.
    let long_name = "\u{1F4A9}".repeat(255);
    let wordy = json!({
        "subject": "\u{1F4A9}".repeat(998), "text": "Ж".repeat(190_000), "html": "Ж".repeat(190_000),
        "to": vec![json!({"name": long_name, "address": "large@example.com"}); 40],
        "replyTo": vec![json!({"name": long_name, "address": "large@example.com"}); 40],
    });
    for (what, changes, spare) in [("files alone", json!({}), 64 * 1024), ("words", wordy, 160 * 1024)] {
        // The size of a file decides before anybody looks whether it was put.
        let (mut fits, mut is_too_large) = (0, LIMIT);
        let small = upload(&service, &user, &long_name, vec![7; 1000]).await;
        while is_too_large - fits > 1 {
            let size = fits.midpoint(is_too_large);
            let announced = json!({"filename": long_name, "contentType": "application/pdf", "size": size});
            let file = service.api.post("/api/uploads", announced).by(&user).send().await.body;
            let attachments = json!([{"uploadId": small}, {"uploadId": file["id"]}]);
            let body = merged(message(changes.clone()), json!({"attachments": attachments}));
            let answer = service.api.post("/api/outbox", body).by(&user).send().await;
            match answer.status {
                400 => {
                    assert_eq!(answer.faults(), ["attachments"]);
                    is_too_large = size;
                }
                409 => fits = size,
                _ => panic!("{answer:?}"),
            }
            let sql = "delete from email_uploads where id = $1";
            service.owner.execute(sql, &[&id(&file)]).await.unwrap();
        }
        let file = upload(&service, &user, &long_name, vec![7; fits]).await;
        let attachments = json!([{"uploadId": small}, {"uploadId": file}]);
        let body = merged(message(changes), json!({"attachments": attachments}));
        let entry = service.api.post("/api/outbox", body).by(&user).send().await;
        assert_eq!(entry.status, 202, "{entry:?}");
        let sql = "select status || ' ' || copy from email_outbox where id = $1";
        let is_done = async || {
            let state: String = service.owner.query_one(sql, &[&id(&entry.body)]).await.unwrap().get(0);
            assert!(!state.starts_with("rejected") && !state.starts_with("failed"), "{state}");
            state == "sent done"
        };
        wait_until(is_done).await;
        let delivered = mail().await.sink().deliveries();
        let sent = delivered.iter().rfind(|delivery| delivery.sender == name).unwrap().message.len();
        assert!(sent <= LIMIT, "{what}: {sent}");
        assert!(sent > LIMIT - spare, "{what}: only {sent}");
    }
    let mut reader = OtherClient::sign_in(&name).await;
    reader.say("EXAMINE \"Sent\"").await;
    let sizes = reader.say("UID FETCH 1:* (RFC822.SIZE)").await;
    assert_eq!(sizes.iter().filter(|line| line.contains("RFC822.SIZE 2")).count(), 2, "{sizes:?}");
    // What a worker has without, and less than once the message.
    for pid in service.api.gateway.pids("deliver-message").unwrap() {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
        assert!(peak.parse::<u64>().unwrap() < 40 * 1024, "{peak} kB");
    }
}

/// Gmail keeps what goes out by itself, and nothing that goes out by another one's server.
#[tokio::test]
async fn a_copy_is_made_where_none_is_there() {
    let mut ordinary = World::new(Extensions { special_use: true, ..Extensions::default() });
    ordinary.create("Sent");
    let mut gmail = World::gmail();
    gmail.opens_labels = true;
    let mut keeps = World::new(Extensions { special_use: true, ..Extensions::default() });
    keeps.create("Sent");
    // The model finds it, whatever is looked for.
    keeps.append("Sent", 0);
    for (world, gets_copy) in [(gmail, true), (ordinary, true), (keeps, false)] {
        let (server, mailbox) = (SmtpModel::start(&OFFERS).await, ModelServer::start(world).await);
        let settings = merged(plain(&server), json!({"protocol": "imap", "port": mailbox.port()}));
        let rig = Rig::new(api().await, Worker::new().await, settings).await;
        let entry = rig.put(json!({})).await;
        rig.work().await;
        assert_eq!((is(&rig.get(&entry).await).0, server.taken().len()), ("sent", 1));
        let commands = mailbox.world().commands.clone();
        let has = |word: &str| commands.iter().any(|command| command.starts_with(word));
        assert!(has("UID SEARCH SINCE "), "it is looked for first: {commands:?}");
        assert_eq!(has("APPEND"), gets_copy, "{commands:?}");
        let sql = "select copy from email_outbox where id = $1";
        let copy: String = rig.owner.query_one(sql, &[&id(&entry)]).await.unwrap().get(0);
        // The model takes none.
        assert_eq!(copy, if gets_copy { "due" } else { "done" });
    }
}

/// What the server has said is known for as long as its worker has time, and no less.
#[tokio::test]
async fn an_answer_is_noted_when_the_database_is_back() {
    let server = SmtpModel::start(&OFFERS).await;
    let rig = Rig::model(&server).await;
    let entry = rig.put(json!({})).await;
    let name = format!("away_{}", id(&entry).simple());
    let away = format!(
        "create function {name}() returns trigger language plpgsql as $$
         begin
             if clock_timestamp() < '{{until}}' then raise exception 'away'; end if;
             return new;
         end $$;
         create trigger {name} before update on email_outbox for each row
         when (new.id = '{}' and new.status = 'sent') execute function {name}()",
        id(&entry)
    );
    let until: String =
        rig.owner.query_one("select (clock_timestamp() + interval '5 s')::text", &[]).await.unwrap().get(0);
    rig.owner.batch_execute(&away.replace("{until}", &until)).await.unwrap();
    rig.work().await;
    rig.owner.batch_execute(&format!("drop function {name} cascade")).await.unwrap();
    assert_eq!((is(&rig.get(&entry).await).0, server.taken().len()), ("sent", 1));
}

/// Stands before a server, and cuts its first connection when the server has said so many bytes. Returns its port.
async fn cutter(port: u16, limit: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut limit = Some(limit);
        while let Ok((mut client, _)) = listener.accept().await {
            let mut left = limit.take().unwrap_or(usize::MAX);
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = server.split();
                let asking = tokio::io::copy(&mut from_client, &mut to_server);
                let answering = async {
                    let mut buffer = vec![0; 16 * 1024];
                    while left > 0 {
                        let length = from_server.read(&mut buffer).await?;
                        if length == 0 {
                            break;
                        }
                        let passed = length.min(left);
                        to_client.write_all(&buffer[..passed]).await?;
                        left -= passed;
                    }
                    std::io::Result::Ok(())
                };
                tokio::select! {
                    ended = answering => ended,
                    ended = asking => ended.map(drop),
                }
            });
        }
    });
    own
}

/// A real server behind a connection that breaks within what it says in clear up to STARTTLS, within the handshake of TLS, and
/// within all that is said inside of it. What it has taken is not sent again, and all else is.
#[tokio::test]
async fn wherever_a_connection_breaks_in_tls_a_message_is_sent_once_or_nobody_says_that_it_was() {
    let name = mailbox().await;
    let ports = mail().await.ports();
    let settings = json!({
        "emailAddress": name, "username": name, "protocol": "pop3", "hostname": "localhost", "port": ports.pop3s,
        "password": PASSWORD, "smtpHostname": "localhost", "smtpPort": ports.submissions,
    });
    for (encryption, port) in [("tls", ports.submissions), ("starttls", ports.submission)] {
        let attempt = async |limit: usize| {
            let rig = Rig::new(
                mail_api().await,
                Worker::with(connector().await).await,
                merged(settings.clone(), json!({"smtpPort": cutter(port, limit).await, "smtpEncryption": encryption})),
            )
            .await;
            let entry = rig.put(json!({})).await;
            rig.work().await;
            let first = is(&rig.get(&entry).await).0.to_owned();
            rig.work().await;
            let after = rig.get(&entry).await;
            let id = after["messageId"].as_str().unwrap();
            let deliveries = mail().await.sink().deliveries();
            let taken = deliveries.iter().filter(|delivery| message_id(&delivery.message) == id);
            let taken = taken.count();
            let expected = if first == "uncertain" { "uncertain" } else { "sent" };
            assert_eq!(is(&after).0, expected, "{encryption} {limit}: first {first}");
            assert!(taken == 1 || first == "uncertain" && taken == 0, "{encryption} {limit}: {first}, {taken} times");
            first
        };
        // Coarsely through the handshake, and finely through the answers: those of a session have less than 2 kB, and those in
        // clear some 250 bytes.
        let begin = (0..400).step_by(if encryption == "starttls" { 40 } else { 400 });
        let coarse = begin.chain((400..6000).step_by(400));
        let firsts: Vec<(usize, String)> =
            stream::iter(coarse).map(async |limit| (limit, attempt(limit).await)).buffered(4).collect().await;
        let enough = firsts.iter().find(|(_, first)| first == "sent").expect("a session has less than 6 kB").0;
        let fine = (enough.saturating_sub(1000)..enough).step_by(20);
        let mut firsts: BTreeSet<String> = firsts.into_iter().map(|(_, first)| first).collect();
        firsts.extend(stream::iter(fine).map(attempt).buffered(4).collect::<Vec<_>>().await);
        let all = ["queued", "sent", "uncertain"].map(str::to_owned);
        assert_eq!(firsts, BTreeSet::from(all), "{encryption}");
    }
}
