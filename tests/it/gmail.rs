//! Gmail: a message is there once, and labels are the folders that it is in. Random histories are in `sync_model.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::mailboxes::Rig;
use crate::model_imap::{ALL_MAIL, BIN, ModelServer, SPAM, World};
use crate::support::mail_api;
use crate::sync_model::poll_times;

/// Of all mail: the labels of each message, without the messages.
fn count_label_fetches(server: &ModelServer) -> usize {
    let commands = server.world().commands.clone();
    commands.iter().filter(|command| command.ends_with("X-GM-LABELS)") && command.starts_with("UID FETCH 1:")).count()
}

/// Labels come with messages. Those of all messages are asked for anew once they are here, for a label may have got another
/// name meanwhile, and not in each turn of a first synchronisation.
#[tokio::test]
async fn a_mailbox_of_many_turns_tells_its_labels_once_more_when_it_is_here() {
    let mut world = World::gmail();
    world.create("Work");
    (0..3_000).for_each(|_| world.deliver(&["Work"], 0));
    let server = ModelServer::start(world).await;
    let rig = Rig::model(&server).await;
    let stored = "select count(*) from email_messages where account_id = $1 and uid is not null";
    for polls in 10.. {
        rig.ring().await;
        let mut running = Box::pin(rig.try_for(Duration::from_secs(60)));
        let ended = poll_times(&mut running, polls).await;
        drop(running);
        if rig.count(stored).await > 0 || ended.is_some() {
            break;
        }
    }
    let first = rig.count(stored).await;
    assert!((1..3_000).contains(&first), "{first} came before the worker died");
    assert_eq!(count_label_fetches(&server), 0);
    server.world().rename("Work", "Play");
    rig.run().await;
    assert_eq!((rig.count(stored).await, count_label_fetches(&server)), (3_000, 0));
    for _ in 0..2 {
        rig.run().await;
        assert_eq!(count_label_fetches(&server), 1);
    }
    let labelled = "select count(*) from email_labels l join email_folders f on f.id = l.folder_id
                    where f.account_id = $1 and f.path = 'Play'";
    assert_eq!(rig.count(labelled).await, 3_000);
}

/// Who gets a label has changed, and is told as such.
#[tokio::test]
async fn a_label_that_is_made_has_nobody_asked() {
    let server = ModelServer::start(world()).await;
    let rig = Rig::model(&server).await;
    rig.run().await;
    server.world().create("New");
    rig.run().await;
    server.world().label(0, &["New"]);
    rig.run().await;
    assert_eq!((in_folder(&rig, "New").await, count_label_fetches(&server)), (vec![1], 0));
}

/// The account's folders by their paths.
async fn folders(rig: &Rig) -> BTreeMap<String, Value> {
    let answer = mail_api().await.get(&format!("/api/accounts/{}/folders", rig.account)).by(&rig.user).send().await;
    let folders = answer.body["folders"].as_array().unwrap();
    folders.iter().map(|folder| (folder["path"].as_str().unwrap().to_owned(), folder.clone())).collect()
}

/// What a list answers, page by page: the number of each message, with the path of its folder and its id.
async fn listed(rig: &Rig, query: &str) -> BTreeMap<u64, (String, Uuid)> {
    let folders = folders(rig).await;
    let path = |id: &Value| folders.values().find(|folder| folder["id"] == *id).unwrap()["path"].as_str().unwrap();
    let (mut all, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let page = format!("/api/messages?limit=2&{query}{cursor}");
        let answer = mail_api().await.get(&page).by(&rig.user).send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        for message in answer.body["messages"].as_array().unwrap() {
            let key = message["subject"].as_str().unwrap().trim_start_matches("Message ").parse().unwrap();
            let id = message["id"].as_str().unwrap().parse().unwrap();
            let before = all.insert(key, (path(&message["folderId"]).to_owned(), id));
            assert_eq!(before, None, "{query}: a message twice");
        }
        let Some(next) = answer.body["nextCursor"].as_str() else { return all };
        cursor = format!("&cursor={next}");
    }
}

async fn keys(rig: &Rig, query: &str) -> Vec<u64> {
    listed(rig, query).await.into_keys().collect()
}

async fn in_folder(rig: &Rig, path: &str) -> Vec<u64> {
    let id = folders(rig).await[path]["id"].as_str().unwrap().to_owned();
    keys(rig, &format!("folderId={id}")).await
}

/// Some messages, which are numbered from 1.
fn world() -> World {
    let mut world = World::gmail();
    world.create("Work");
    world.create("R&AOk-sum&AOk-");
    world.deliver(&["INBOX"], 0);
    world.deliver(&["INBOX", "Work"], 1);
    world.deliver(&["[Gmail]/Sent Mail", "R&AOk-sum&AOk-", "[Gmail]/Starred"], 1);
    world.deliver(&[], 0);
    world.deliver(&["Work"], 0);
    world.append(SPAM, 0);
    world.append(BIN, 0);
    world
}

#[tokio::test]
async fn a_message_is_there_once_and_in_the_folder_of_each_of_its_labels() {
    let server = ModelServer::start(world()).await;
    let rig = Rig::model(&server).await;
    rig.run().await;
    let expected =
        [(1, "INBOX"), (2, "INBOX"), (3, "[Gmail]/Sent Mail"), (4, ALL_MAIL), (5, "Work"), (6, SPAM), (7, BIN)];
    for query in ["", &format!("accountId={}", rig.account)] {
        let found = listed(&rig, query).await.into_iter().map(|(key, (path, _))| (key, path));
        assert_eq!(found.collect::<Vec<_>>(), expected.map(|(key, path)| (key, path.to_owned())), "{query}");
    }
    for (query, expected) in [
        ("role=inbox", vec![1, 2]),
        ("role=inbox&isRead=false", vec![1]),
        ("role=inbox&before=0", vec![]),
        ("role=inbox&after=0", vec![1, 2]),
        ("role=sent", vec![3]),
        ("role=all", vec![1, 2, 3, 4, 5]),
        ("role=junk", vec![6]),
        ("role=trash", vec![7]),
        ("isRead=false", vec![1, 4, 5, 6, 7]),
    ] {
        assert_eq!(keys(&rig, query).await, expected, "{query}");
    }
    for (path, expected) in
        [("Work", vec![2, 5]), ("Résumé", vec![3]), ("[Gmail]/Starred", vec![3]), (ALL_MAIL, vec![1, 2, 3, 4, 5])]
    {
        assert_eq!(in_folder(&rig, path).await, expected, "{path}");
        assert_eq!(folders(&rig).await[path]["total"], expected.len(), "{path}");
    }
    assert_eq!(folders(&rig).await["INBOX"]["unread"], 1);
    let sql = "select s.folders_done, s.folders_total, s.messages_done, s.messages_total
               from email_accounts a, find_sync(a.tenant_id, a.user_id, a.id) s where a.id = $1";
    let row = rig.owner.query_one(sql, &[&rig.account.0]).await.unwrap();
    let progress: Vec<i64> = (0..4).map(|column| row.get(column)).collect();
    assert_eq!(progress, [3, 3, 7, 7], "labels are nothing to be fetched");

    server.world().commands.clear();
    rig.run().await;
    assert!(!server.world().commands.iter().any(|command| command.starts_with("EXAMINE")), "nothing has changed");
}

#[tokio::test]
async fn labels_come_and_go_and_messages_stay_what_they_are() {
    let server = ModelServer::start(world()).await;
    let rig = Rig::model(&server).await;
    rig.run().await;
    let ids = |listed: BTreeMap<u64, (String, Uuid)>| listed.into_values().map(|(_, id)| id).collect::<Vec<_>>();
    let first = ids(listed(&rig, "").await);
    let changed = async |since: i64| -> Vec<i64> {
        let sql = "select substr(subject, 9)::int8 from email_messages where account_id = $1 and changed_number > $2
                   order by 1";
        rig.owner.query(sql, &[&rig.account.0, &since]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    let last = async || rig.count("select max(changed_number) from email_messages where account_id = $1").await;

    // One is archived, another gets a label, and they alone have changed.
    let before = last().await;
    server.world().label(0, &[]);
    server.world().label(4, &["Work", "INBOX"]);
    rig.run().await;
    assert_eq!(keys(&rig, "role=inbox").await, [2, 5]);
    assert_eq!(listed(&rig, "").await[&1].0, ALL_MAIL);
    assert_eq!(changed(before).await, [1, 5]);

    // Into the trash, where labels are none, and back.
    server.world().shift(ALL_MAIL, 1, BIN);
    rig.run().await;
    assert_eq!((keys(&rig, "role=trash").await, in_folder(&rig, "Work").await), (vec![2, 7], vec![5]));
    server.world().shift(BIN, 1, ALL_MAIL);
    rig.run().await;
    assert_eq!((keys(&rig, "role=trash").await, in_folder(&rig, "Work").await), (vec![7], vec![2, 5]));
    assert_eq!(ids(listed(&rig, "").await), first);

    // The server does not say that messages have changed whose label has another name.
    server.world().rename("Work", "Job");
    rig.run().await;
    assert_eq!(in_folder(&rig, "Job").await, [2, 5]);
    assert!(!folders(&rig).await.contains_key("Work"));
    let before = last().await;
    server.world().delete("Job");
    rig.run().await;
    assert!(!folders(&rig).await.contains_key("Job"));
    assert_eq!(changed(before).await, [2, 5]);
    assert_eq!(ids(listed(&rig, "").await), first);

    // What is destroyed has no labels.
    server.world().expunge(ALL_MAIL, 1);
    rig.run().await;
    let labels = "select count(*) from email_labels where user_id = (select user_id from email_accounts where id = $1)";
    let expected: usize = server.world().folders[ALL_MAIL].messages.values().map(|message| message.labels.len()).sum();
    assert_eq!(rig.count(labels).await, expected as i64);
}

#[tokio::test]
async fn without_the_folder_of_all_mail_each_folder_is_one() {
    let server = ModelServer::start(world()).await;
    let rig = Rig::model(&server).await;
    rig.run().await;
    let first = listed(&rig, "").await;
    {
        let mut world = server.world();
        (0..3).for_each(|_| world.shift(ALL_MAIL, 0, "INBOX"));
        world.shift(ALL_MAIL, 0, "Work");
        world.shift(ALL_MAIL, 0, "Work");
        world.delete(ALL_MAIL);
    }
    rig.run().await;
    let second = listed(&rig, "").await;
    assert_eq!(
        second.values().map(|(_, id)| id).collect::<Vec<_>>(),
        first.values().map(|(_, id)| id).collect::<Vec<_>>()
    );
    assert_eq!((keys(&rig, "role=inbox").await, in_folder(&rig, "Work").await), (vec![1, 2, 3], vec![4, 5]));
    let labels = "select count(*) from email_labels where user_id = (select user_id from email_accounts where id = $1)";
    assert_eq!(rig.count(labels).await, 0);
    {
        let mut world = server.world();
        world.create(ALL_MAIL);
        (0..3).for_each(|_| world.shift("INBOX", 0, ALL_MAIL));
        (0..2).for_each(|_| world.shift("Work", 0, ALL_MAIL));
    }
    rig.run().await;
    assert_eq!(listed(&rig, "").await, first);
}
