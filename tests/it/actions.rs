//! Flags, moves and deletions: on real servers beside other clients, on model servers that can do less, and while the same
//! mailbox is synchronised.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use local::gateway::PayloadVersion;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::mailboxes::{OtherClient, Rig};
use crate::model_imap::{ALL_MAIL, BIN, Extensions, ModelServer, SPAM, World};
use crate::model_pop3::{Mailbox, ModelPop3};
use crate::proxy::Proxy;
use crate::sign_in::PASSWORD;
use crate::support::{Answer, Api, User, folder_row, mail, mail_api, mail_env, message_row, owner, servers, store};

/// As [`mail_api`], and servers without encryption are allowed.
async fn plain_api() -> &'static Api {
    static API: OnceCell<Api> = OnceCell::const_new();
    let start = async || {
        let mut env = mail_env().await;
        env.insert("MAIL_ALLOW_PLAINTEXT", "true".to_owned());
        Api::start(env).await
    };
    API.get_or_init(start).await
}

/// The folder's id, total and unread.
async fn folder(rig: &Rig, path: &str) -> (Uuid, i32, i32) {
    let sql = "select id, total, unread from email_folders where account_id = $1 and path = $2";
    let row = rig.owner.query_one(sql, &[&rig.account.0, &path]).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

/// What the server counts.
async fn counted(other: &mut OtherClient, path: &str) -> (i32, i32) {
    let line = other.say(&format!("STATUS \"{path}\" (MESSAGES UNSEEN)")).await.remove(0);
    let number = |name: &str| {
        let rest = line.split(name).nth(1).unwrap();
        rest.trim().split([' ', ')']).next().unwrap().parse().unwrap()
    };
    (number("MESSAGES"), number("UNSEEN"))
}

async fn put(api: &Api, rig: &Rig, id: Uuid, change: Value) -> Answer {
    api.put(&format!("/api/messages/{id}"), change).by(&rig.user).send().await
}

async fn delete(api: &Api, rig: &Rig, id: Uuid, query: &str) -> Answer {
    api.delete(&format!("/api/messages/{id}{query}")).by(&rig.user).send().await
}

/// The codes of a batch's results; none for a success.
async fn batch(api: &Api, rig: &Rig, body: Value) -> Vec<Option<String>> {
    let answer = api.post("/api/messages/batch", body.clone()).by(&rig.user).send().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let results = answer.body["results"].as_array().unwrap().clone();
    let ids: Vec<_> = results.iter().map(|result| result["id"].clone()).collect();
    assert_eq!(Value::from(ids), body["ids"], "in the order of the ids");
    for result in &results {
        assert_eq!(result["success"], result["code"].is_null(), "{result}");
        assert_eq!(result["success"], result["message"].is_null(), "{result}");
    }
    results.iter().map(|result| result["code"].as_str().map(str::to_owned)).collect()
}

/// Where a message lies, with its UID.
async fn place(rig: &Rig, id: Uuid) -> Option<(String, Option<i64>)> {
    let sql = "select f.path, m.uid from email_messages m join email_folders f on f.id = m.folder_id where m.id = $1";
    rig.owner.query_opt(sql, &[&id]).await.unwrap().map(|row| (row.get(0), row.get(1)))
}

async fn last_number(rig: &Rig) -> i64 {
    rig.count(
        "select max(n) from (
        select changed_number from email_messages where account_id = $1
        union all select number from email_destroyed where account_id = $1
        union all select changed_number from email_folders where account_id = $1) as all_of_them (n)",
    )
    .await
}

async fn append(other: &mut OtherClient, folder: &str, number: u32) {
    let text = format!("From: a@example.com\r\nSubject: {number}\r\nMessage-ID: <{number}@x>\r\n\r\nText {number}\r\n");
    other.append(folder, text.as_bytes()).await;
}

#[tokio::test]
async fn what_is_done_here_another_client_sees_and_the_other_way_round() {
    let (rig, name) = Rig::dovecot("imap").await;
    let api = mail_api().await;
    let mut other = OtherClient::sign_in(&name).await;
    other.say("CREATE Work").await;
    for number in 0..8 {
        append(&mut other, "INBOX", number).await;
    }
    rig.run().await;
    let ids: Vec<Uuid> = rig.ids().await.into_values().collect();
    let (work, ..) = folder(&rig, "Work").await;
    let (trash, ..) = folder(&rig, "Trash").await;

    // Flags, of one that another client has just marked.
    other.say("SELECT INBOX").await;
    other.say("UID STORE 1 +FLAGS.SILENT (\\Flagged)").await;
    let before = last_number(&rig).await;
    let answer = put(api, &rig, ids[0], json!({"isRead": true, "isAnswered": true})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let flags = ["isRead", "isFlagged", "isAnswered", "isDraft"].map(|flag| answer.body[flag].as_bool().unwrap());
    assert_eq!(flags, [true, true, true, false], "as the server has them");
    assert_eq!(rig.flags().await, other.all().await);
    assert!(last_number(&rig).await > before);
    let now = last_number(&rig).await;
    assert_eq!(put(api, &rig, ids[0], json!({"isRead": true})).await.body, answer.body);
    assert_eq!(put(api, &rig, ids[0], json!({})).await.body, answer.body);
    assert_eq!(last_number(&rig).await, now, "nothing has changed");

    // Moves keep the id, and deletions are moves at first.
    let moved = put(api, &rig, ids[1], json!({"folderId": work, "isFlagged": true})).await;
    assert_eq!((moved.status, &moved.body["folderId"], &moved.body["id"]), (200, &json!(work), &json!(ids[1])));
    let trashed = delete(api, &rig, ids[2], "").await;
    assert_eq!((trashed.status, &trashed.body["folderId"]), (200, &json!(trash)));
    assert_eq!(rig.flags().await, other.all().await);
    for path in ["INBOX", "Work", "Trash"] {
        let (_, total, unread) = folder(&rig, path).await;
        assert_eq!((total, unread), counted(&mut other, path).await, "{path}");
    }
    let again = delete(api, &rig, ids[2], "").await;
    assert_eq!((again.status, &again.body["id"]), (200, &json!(ids[2])));
    let gone = delete(api, &rig, ids[3], "?permanent=true").await;
    assert_eq!((gone.status, place(&rig, ids[3]).await), (200, None));
    for id in [ids[2], ids[3]] {
        delete(api, &rig, id, "").await.is_refused(404);
        put(api, &rig, id, json!({"isRead": true})).await.is_refused(404);
        let destroyed = "select count(*) from email_destroyed where id = $1 and type = 'message'";
        assert_eq!(rig.owner.query_one(destroyed, &[&id]).await.unwrap().get::<_, i64>(0), 1);
    }
    assert_eq!(rig.flags().await, other.all().await);

    // Many at once, of several folders, with one that another client has just taken away.
    other.say("SELECT INBOX").await;
    other.say("UID MOVE 5 Work").await;
    let body =
        json!({"ids": [ids[5], ids[4], Uuid::now_v7(), ids[1], ids[0]], "set": {"isRead": true, "folderId": trash}});
    let not_found = Some("notFound".to_owned());
    assert_eq!(batch(api, &rig, body).await, [None, not_found.clone(), not_found, None, None]);
    rig.run().await;
    assert_eq!(rig.flags().await, other.all().await);
    let expected = [(0, "Trash"), (1, "Trash"), (4, "Work"), (5, "Trash"), (6, "INBOX")];
    for (n, path) in expected {
        assert_eq!(place(&rig, ids[n]).await.unwrap().0, path, "{n}");
    }
    let deleted = batch(api, &rig, json!({"ids": [ids[6], ids[5], ids[1]], "delete": true})).await;
    assert_eq!(deleted, [None, None, None]);
    assert_eq!(place(&rig, ids[6]).await.unwrap().0, "Trash");
    assert_eq!((place(&rig, ids[5]).await, place(&rig, ids[1]).await), (None, None));
    assert_eq!(rig.flags().await, other.all().await);
    // And the next synchronisation has nothing to say.
    let now = last_number(&rig).await;
    rig.run().await;
    rig.run().await;
    assert_eq!((rig.flags().await, last_number(&rig).await), (other.all().await, now));
}

/// Another client: Python's own. It marks, moves and brings in messages, destroys some and tells their Message-IDs.
const CLIENT: &str = r#"
import imaplib, random, ssl, sys
host, port, name, password, ca = sys.argv[1:]
box = imaplib.IMAP4_SSL(host, int(port), ssl_context=ssl.create_default_context(cafile=ca))
box.login(name, password)
dice = random.Random(7)
for number in range(120):
    folder, to = dice.sample(["INBOX", "Work", "Trash"], 2)
    box.select(folder)
    uids = box.uid("SEARCH", "ALL")[1][0].split()
    if uids:
        uid = dice.choice(uids)
        what = dice.randrange(6)
        if what == 0:
            box.uid("MOVE", uid, to)
        elif what == 1 and number % 2:
            found = box.uid("FETCH", uid, "(BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")[1]
            if isinstance(found[0], tuple):
                print(found[0][1].decode().split("<")[1].split(">")[0])
                box.uid("STORE", uid, "+FLAGS.SILENT", "(\\Deleted)")
                box.uid("EXPUNGE", uid)
        else:
            flag = dice.choice(["\\Seen", "\\Flagged", "\\Answered"])
            box.uid("STORE", uid, dice.choice("+-") + "FLAGS.SILENT", "(" + flag + ")")
    if number % 10 == 0:
        text = "From: p@example.com\r\nSubject: p%d\r\nMessage-ID: <p%d@x>\r\n\r\nText\r\n" % (number, number)
        box.append("INBOX", None, None, text.encode())
box.logout()
"#;

#[tokio::test]
async fn two_clients_and_a_worker_at_once_lose_nothing() {
    let (rig, name) = Rig::dovecot("imap").await;
    let api = mail_api().await;
    let mut other = OtherClient::sign_in(&name).await;
    other.say("CREATE Work").await;
    for number in 0..40 {
        append(&mut other, "INBOX", number).await;
    }
    rig.run().await;
    let ids: Vec<Uuid> = rig.ids().await.into_values().collect();
    let folders = [folder(&rig, "INBOX").await.0, folder(&rig, "Work").await.0, folder(&rig, "Trash").await.0];
    let (port, ca) = (mail().await.ports().imaps.to_string(), mail().await.ca_file().display().to_string());
    let client = tokio::task::spawn_blocking(move || {
        let arguments = ["-c", CLIENT, "localhost", &port, &name, PASSWORD, &ca];
        Command::new("python3").args(arguments).output().unwrap()
    });
    let sql = "select message_id from email_messages where id = $1";
    let users = async {
        let (mut statuses, mut destroyed) = (BTreeMap::new(), BTreeSet::new());
        for n in 0..30_usize {
            let id = ids[n * 7 % ids.len()];
            if n % 6 == 5 {
                let row = rig.owner.query_opt(sql, &[&id]).await.unwrap();
                let answer = delete(api, &rig, id, "?permanent=true").await;
                // A worker that sees at once what the request destroyed may forget the message before the request does: that
                // is then not found.
                let is_gone = answer.status == 404 && rig.owner.query_opt(sql, &[&id]).await.unwrap().is_none();
                if answer.status == 200 || is_gone {
                    destroyed.extend(row.map(|row| row.get::<_, String>(0)));
                }
                *statuses.entry(answer.status).or_insert(0) += 1;
                continue;
            }
            if n % 6 == 4 {
                let some: Vec<_> = ids.iter().skip(n % 20).step_by(5).collect();
                let set = json!({"isRead": n % 4 == 0, "folderId": folders[n % 3]});
                batch(api, &rig, json!({"ids": some, "set": set})).await;
                continue;
            }
            let change = match n % 3 {
                0 => json!({"isRead": n % 2 == 0}),
                1 => json!({"folderId": folders[n % 5 % 3]}),
                _ => json!({"isFlagged": n % 2 == 0, "folderId": folders[n % 3]}),
            };
            let answer = put(api, &rig, id, change).await;
            *statuses.entry(answer.status).or_insert(0) += 1;
        }
        (statuses, destroyed)
    };
    let worker = async {
        for _ in 0..10 {
            rig.run().await;
        }
    };
    let (output, (statuses, mut destroyed), ()) = tokio::join!(client, users, worker);
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(statuses.keys().all(|status| [200, 404, 409].contains(status)), "{statuses:?}");
    assert!(statuses[&200] >= 5 && !destroyed.is_empty(), "{statuses:?}");
    destroyed.extend(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned));
    for _ in 0..3 {
        rig.run().await;
        rig.owner
            .execute(
                "update email_folders set doubted_at = 0 where doubted_at is not null and account_id = $1",
                &[&rig.account.0],
            )
            .await
            .unwrap();
    }
    assert_eq!(rig.flags().await, other.all().await);
    let sql = "select message_id from email_messages where account_id = $1";
    let here = rig.owner.query(sql, &[&rig.account.0]).await.unwrap();
    let mut here: Vec<String> = here.iter().map(|row| row.get(0)).collect();
    here.sort();
    let theirs = (0..120).step_by(10).map(|number| format!("p{number}@x"));
    let all: BTreeSet<String> = (0..40).map(|number| format!("{number}@x")).chain(theirs).collect();
    let once: BTreeSet<String> = here.iter().cloned().collect();
    assert_eq!(once.len(), here.len(), "none of them twice: {here:?}");
    let lost: Vec<_> = all.difference(&once).filter(|id| !destroyed.contains(*id)).collect();
    assert!(lost.is_empty() && once.is_subset(&all), "lost: {lost:?}; destroyed: {destroyed:?}");
}

/// Folder and flags of each message on a model server, by its key.
fn there(server: &ModelServer) -> BTreeMap<(String, u32), u8> {
    let world = server.world();
    let messages = world.folders.iter().flat_map(|(name, folder)| {
        folder.messages.iter().map(move |(uid, message)| ((name.clone(), *uid), message.flags))
    });
    messages.collect()
}

#[tokio::test]
async fn servers_that_can_do_less_destroy_nothing_that_was_not_meant() {
    let api = plain_api().await;
    for (moves, uidplus) in [(true, true), (true, false), (false, true), (false, false)] {
        let extensions = Extensions { moves, uidplus, utf8_accept: moves, special_use: true, ..Extensions::default() };
        let mut world = World::new(extensions);
        for name in ["Trash", "Büro"] {
            world.create(name);
        }
        (0..6).for_each(|_| world.append("INBOX", 0));
        let server = ModelServer::start(world).await;
        let rig = Rig::model(&server).await;
        rig.run().await;
        let ids: Vec<Uuid> = rig.ids().await.into_values().collect();
        let what = format!("moves {moves}, uidplus {uidplus}");
        let (work, ..) = folder(&rig, "Büro").await;
        let answer = put(api, &rig, ids[0], json!({"folderId": work, "isRead": true})).await;
        assert_eq!((answer.status, &answer.body["folderId"]), (200, &json!(work)), "{what}: {answer:?}");
        // Its UID is known where the server has told.
        let (path, uid) = place(&rig, ids[0]).await.unwrap();
        assert_eq!((path.as_str(), uid.is_some()), ("Büro", uidplus), "{what}");
        if !uidplus {
            put(api, &rig, ids[0], json!({"isRead": false})).await.is_refused(409);
        }
        rig.run().await;
        assert_eq!(
            (rig.flags().await, place(&rig, ids[0]).await),
            (there(&server), Some(("Büro".to_owned(), Some(1)))),
            "{what}"
        );
        assert_eq!(delete(api, &rig, ids[1], "").await.status, 200, "{what}");
        rig.run().await;
        assert_eq!((rig.flags().await, place(&rig, ids[1]).await.unwrap().0), (there(&server), "Trash".to_owned()));

        // For good, where that is possible of this one alone: what another client has marked, now or in a moment, is not ours.
        server.world().folders.get_mut("INBOX").unwrap().messages.values_mut().last().unwrap().is_deleted = true;
        for (id, query) in [(ids[1], ""), (ids[2], "?permanent=true")] {
            let answer = delete(api, &rig, id, query).await;
            if uidplus {
                assert_eq!(answer.status, 200, "{what}: {answer:?}");
            } else {
                answer.is_refused(409);
            }
            rig.run().await;
            assert_eq!((rig.flags().await, place(&rig, id).await.is_some()), (there(&server), !uidplus), "{what}");
        }
        assert_eq!(place(&rig, ids[5]).await.unwrap().0, "INBOX", "{what}");
        let expunges = |line: &&String| line.contains("EXPUNGE") && !line.contains("UID EXPUNGE");
        assert_eq!(server.world().commands.iter().find(expunges), None, "{what}");
        // Without either, what has moved is where it was as well, for whoever cleans up there.
        let world = server.world();
        let marked = world.folders["INBOX"].messages.values().filter(|message| message.is_deleted).count();
        let (left, marks) = if uidplus {
            (3, 1)
        } else if moves {
            (4, 1)
        } else {
            (6, 3)
        };
        assert_eq!((world.folders["INBOX"].messages.len(), marked), (left, marks), "{what}");
    }
}

/// What the server has moved before it could not go on is moved here as well, and of the rest each is said to be where it was.
#[tokio::test]
async fn a_move_that_stops_half_way_is_told_of_each_message() {
    let api = plain_api().await;
    for uidplus in [true, false] {
        let mut world = World::new(Extensions { moves: true, uidplus, ..Extensions::default() });
        world.create("Work");
        (0..5).for_each(|_| world.append("INBOX", 0));
        world.moves_at_most = Some(2);
        let server = ModelServer::start(world).await;
        let rig = Rig::model(&server).await;
        rig.run().await;
        let ids: Vec<Uuid> = rig.ids().await.into_values().collect();
        let (work, ..) = folder(&rig, "Work").await;
        let outcomes = batch(api, &rig, json!({"ids": ids, "set": {"folderId": work}})).await;
        let failed = outcomes.iter().filter(|error| error.as_deref() == Some("unavailable")).count();
        let moved = outcomes.iter().filter(|error| error.is_none()).count();
        // A server that does not say which it has moved: of none is it said to be.
        assert_eq!((moved, failed), if uidplus { (2, 3) } else { (0, 5) }, "{outcomes:?}");
        for (id, error) in ids.iter().zip(&outcomes) {
            let expected = if error.is_none() { "Work" } else { "INBOX" };
            assert_eq!(place(&rig, *id).await.unwrap().0, expected);
        }
        rig.run().await;
        assert_eq!(rig.flags().await, there(&server));
        assert_eq!(rig.ids().await.into_values().collect::<std::collections::BTreeSet<_>>(), ids.into_iter().collect());
    }
}

/// Another client that is quicker takes only its own: the rest goes where it should.
#[tokio::test]
async fn what_another_client_takes_at_the_same_moment_is_gone_and_the_rest_is_done() {
    let api = plain_api().await;
    for moves in [true, false] {
        let mut world = World::new(Extensions { moves, uidplus: true, ..Extensions::default() });
        world.create("Work");
        (0..7).for_each(|_| world.append("INBOX", 0));
        let server = ModelServer::start(world).await;
        let rig = Rig::model(&server).await;
        rig.run().await;
        let ids: Vec<Uuid> = rig.ids().await.into_values().collect();
        let (work, ..) = folder(&rig, "Work").await;
        let gone = Some("notFound".to_owned());
        server.world().overtakes = ("Seen", 1);
        let body = json!({"ids": ids[..5], "set": {"isRead": true}});
        assert_eq!(batch(api, &rig, body).await, [gone.clone(), None, None, None, None], "moves {moves}");
        server.world().overtakes = (if moves { "MOVE" } else { "COPY" }, 1);
        let body = json!({"ids": ids[1..4], "set": {"folderId": work}});
        assert_eq!(batch(api, &rig, body).await, [gone.clone(), None, None], "moves {moves}");
        // What is copied, and gone before it can be taken out of where it was.
        server.world().overtakes = ("Deleted", usize::from(!moves));
        let body = json!({"ids": ids[4..5], "set": {"folderId": work}});
        assert_eq!(batch(api, &rig, body).await, [None], "moves {moves}");
        assert_eq!(server.world().overtakes.1, 0);
        // While it is asked what is there.
        server.world().overtakes = ("FETCH", 1);
        let body = json!({"ids": ids[5..], "set": {"isRead": true}});
        assert_eq!(batch(api, &rig, body).await, [gone, None], "moves {moves}");
        assert_eq!(server.world().overtakes.1, 0);
        for id in &ids[2..5] {
            assert_eq!(place(&rig, *id).await.unwrap().0, "Work");
        }
        // Alone, and again and again: it is not where it was.
        server.world().overtakes = ("", 1);
        put(api, &rig, ids[6], json!({"isRead": false})).await.is_refused(404);
        rig.run().await;
        server.world().overtakes = ("", 9);
        let body = json!({"ids": ids[2..5], "set": {"isFlagged": true}});
        assert_eq!(batch(api, &rig, body).await, vec![Some("conflict".to_owned()); 3], "moves {moves}");
        assert_eq!(server.world().overtakes.1, 6, "it is not tried for ever");
        server.world().overtakes.1 = 0;
        rig.run().await;
        assert_eq!((rig.flags().await, there(&server)), (BTreeMap::new(), BTreeMap::new()));
    }
}

/// What lies together and goes the same way is one command to the server, and of two accounts only the one that has the folder
/// is visited.
#[tokio::test]
async fn a_batch_goes_by_folders_and_says_of_each_message_what_became_of_it() {
    let servers = servers().await;
    let postgres = Proxy::to_port(servers.postgres.port()).await;
    let mut env = mail_env().await;
    env.insert("MAIL_ALLOW_PLAINTEXT", "true".to_owned());
    env.insert("mail: DATABASE_URL", postgres.url(&servers.postgres.mail_url("app"), servers.postgres.port()));
    let api = Api::start_as(env, PayloadVersion::V2, 1).await;
    let mut world = World::new(Extensions { moves: true, uidplus: true, special_use: true, ..Extensions::default() });
    for name in ["Trash", "Work"] {
        world.create(name);
    }
    (0..4).for_each(|_| world.append("INBOX", 0));
    (0..3).for_each(|_| world.append("Work", 0));
    let server = ModelServer::start(world).await;
    let rig = Rig::model(&server).await;
    rig.run().await;
    let ids: Vec<Uuid> = rig.ids().await.into_values().collect();
    let other = api.create(&rig.user, json!({"emailAddress": "other@example.com"})).await;
    let inbox = store(&rig.owner, "email_folders", folder_row(&other, "INBOX", json!({"role": "inbox"}))).await;
    let elsewhere = store(&rig.owner, "email_messages", message_row(&other, inbox, json!({"uid": 1}))).await;
    let (trash, ..) = folder(&rig, "Trash").await;
    let all: Vec<_> = ids.iter().chain([&elsewhere]).collect();
    let body = json!({"ids": all, "set": {"folderId": trash, "isFlagged": true}});
    // The first connects the function.
    assert_eq!(batch(&api, &rig, json!({"ids": [ids[0]], "set": {"isRead": true}})).await, [None]);
    server.world().commands.clear();
    postgres.take_trips();
    let mut expected = vec![None; 7];
    expected.push(Some("conflict".to_owned()));
    assert_eq!(batch(&api, &rig, body).await, expected);
    assert_eq!(postgres.take_trips(), 2, "one before the visit, one after it");
    let said = server.world().commands.clone();
    let count = |word: &str| said.iter().filter(|line| line.contains(word)).count();
    assert_eq!((count("SELECT"), count("UID STORE"), count("UID MOVE")), (2, 2, 2), "{said:#?}");
    rig.run().await;
    assert_eq!(rig.flags().await, there(&server));
}

#[tokio::test]
async fn flags_that_a_worker_read_before_are_put_right_by_the_next() {
    let api = plain_api().await;
    for condstore in [true, false] {
        let mut world = World::new(Extensions { condstore, moves: true, uidplus: true, ..Extensions::default() });
        (0..3).for_each(|_| world.append("INBOX", 0));
        let server = ModelServer::start(world).await;
        let rig = Rig::model(&server).await;
        rig.run().await;
        let ids: Vec<Uuid> = rig.ids().await.into_values().collect();
        let sql = "select uid_next, modseq, checked_at, total, unread from email_folders where account_id = $1";
        let row = rig.owner.query_one(sql, &[&rig.account.0]).await.unwrap();
        let (next, modseq): (i64, Option<i64>) = (row.get(0), row.get(1));
        let (total, unread): (i32, i32) = (row.get(3), row.get(4));
        assert_eq!(put(api, &rig, ids[0], json!({"isFlagged": true})).await.status, 200);
        // As a worker writes that has read all flags before, of a folder too large to be compared each time.
        let late =
            "update email_folders set uid_next = $2, modseq = $3, total = $4, unread = $5, stored = stored + 5000,
                        checked_at = epoch_ms() where account_id = $1 returning checked_at";
        let row = rig.owner.query_one(late, &[&rig.account.0, &next, &modseq, &total, &unread]).await.unwrap();
        assert_eq!(row.get::<_, Option<i64>>(0), None, "not all flags were compared");
        let late = "update email_folders set stored = stored - 5000 where account_id = $1";
        rig.owner.execute(late, &[&rig.account.0]).await.unwrap();
        rig.owner.execute("update email_messages set is_flagged = false where id = $1", &[&ids[0]]).await.unwrap();
        rig.run().await;
        assert_eq!(rig.flags().await, there(&server), "condstore {condstore}");
    }
}

#[tokio::test]
async fn a_worker_that_saw_a_message_in_its_new_place_first_gives_way() {
    let (api, mut world) =
        (plain_api().await, World::new(Extensions { moves: true, uidplus: true, ..Extensions::default() }));
    world.create("Work");
    (0..3).for_each(|_| world.append("INBOX", 0));
    let server = ModelServer::start(world).await;
    let rig = Rig::model(&server).await;
    rig.run().await;
    let ids: Vec<Uuid> = rig.ids().await.into_values().collect();
    let (work, ..) = folder(&rig, "Work").await;
    // What a worker stores that fetched it there before the move was known here.
    let account = json!({"id": rig.account.0, "tenantId": rig.user.tenant, "userId": rig.user.user});
    let copy = store(&rig.owner, "email_messages", message_row(&account, work, json!({"uid": 1}))).await;
    rig.owner.execute("update email_folders set stored = stored + 1 where id = $1", &[&work]).await.unwrap();
    assert_eq!(put(api, &rig, ids[0], json!({"folderId": work})).await.status, 200);
    assert_eq!((place(&rig, copy).await, place(&rig, ids[0]).await), (None, Some(("Work".to_owned(), Some(1)))));
    // And one that found the old place empty and knows nothing of the new one.
    rig.owner.execute("update email_messages set uid = null where id = $1", &[&ids[1]]).await.unwrap();
    let lost = "update email_folders set stored = stored - 1, orphans = orphans + 1
                where id = (select folder_id from email_messages where id = $1)";
    rig.owner.execute(lost, &[&ids[1]]).await.unwrap();
    put(api, &rig, ids[1], json!({"folderId": work})).await.is_refused(409);
    for _ in 0..2 {
        rig.run().await;
    }
    assert_eq!(rig.flags().await, there(&server));
}

#[tokio::test]
async fn at_gmail_folders_are_labels() {
    let api = plain_api().await;
    let mut world = World::gmail();
    world.create("Work");
    world.deliver(&["INBOX"], 0);
    world.deliver(&["INBOX", "Work"], 0);
    world.deliver(&["INBOX"], 0);
    world.deliver(&["Work"], 1);
    let server = ModelServer::start(world).await;
    let rig = Rig::model(&server).await;
    rig.run().await;
    let ids: Vec<Uuid> = rig.ids().await.into_values().collect();
    let id = async |path: &str| folder(&rig, path).await.0;
    let (inbox, work, all, bin) = (id("INBOX").await, id("Work").await, id(ALL_MAIL).await, id(BIN).await);
    let labels = |nth: usize| -> Vec<String> {
        server.world().folders[ALL_MAIL].messages.values().nth(nth).unwrap().labels.iter().cloned().collect()
    };
    let shown = async |id: Uuid| {
        let answer = api.get("/api/messages").by(&rig.user).send().await;
        let found =
            answer.body["messages"].as_array().unwrap().iter().find(|message| message["id"] == json!(id)).cloned();
        found.map(|message| message["folderId"].as_str().unwrap().parse::<Uuid>().unwrap())
    };
    let counts = async || {
        let mut all = Vec::new();
        for path in ["INBOX", "Work", ALL_MAIL, BIN] {
            let (_, total, unread) = folder(&rig, path).await;
            all.push((total, unread));
        }
        all
    };
    // Into another folder, and out of the inbox.
    let moved = put(api, &rig, ids[0], json!({"folderId": work, "isRead": true})).await;
    assert_eq!((moved.status, &moved.body["folderId"], labels(0)), (200, &json!(work), vec!["Work".to_owned()]));
    let archived = put(api, &rig, ids[1], json!({"folderId": all})).await;
    assert_eq!((archived.status, labels(1)), (200, vec!["Work".to_owned()]));
    assert_eq!(archived.body["folderId"], json!(work), "what it is shown under then");
    assert_eq!(shown(ids[2]).await, Some(inbox));
    let (here, there_now) = (rig.flags().await, there(&server));
    assert_eq!((here, counts().await), (there_now, vec![(1, 1), (3, 1), (4, 2), (0, 0)]));
    let unread = api.get(&format!("/api/messages?folderId={work}&isRead=false")).by(&rig.user).send().await;
    assert_eq!(unread.body["messages"].as_array().unwrap().len(), 1, "labels know what is read");
    // What another client destroys meanwhile is gone, and the other gets its label.
    server.world().overtakes = ("LABELS", 1);
    let answers = batch(api, &rig, json!({"ids": [ids[0], ids[3]], "set": {"folderId": inbox}})).await;
    assert_eq!((answers, server.world().overtakes.1), (vec![Some("notFound".to_owned()), None], 0));
    assert_eq!(labels(2), ["INBOX"]);
    // To the trash and back, and for good.
    assert_eq!(delete(api, &rig, ids[2], "").await.body["folderId"], json!(bin));
    assert_eq!(place(&rig, ids[2]).await.unwrap().0, BIN);
    let back = put(api, &rig, ids[2], json!({"folderId": inbox})).await;
    assert_eq!((back.status, &back.body["folderId"]), (200, &json!(inbox)), "{back:?}");
    rig.run().await;
    assert_eq!((rig.flags().await, shown(ids[2]).await), (there(&server), Some(inbox)));
    assert_eq!(delete(api, &rig, ids[2], "?permanent=true").await.status, 200);
    assert_eq!((place(&rig, ids[2]).await, counts().await[3]), (None, (0, 0)));
    assert_eq!(server.world().folders[BIN].messages.len(), 0);
    let now = last_number(&rig).await;
    rig.run().await;
    assert_eq!((rig.flags().await, last_number(&rig).await), (there(&server), now), "all was as it is there");
}

/// A star is a label as well, and none that a message is filed under.
#[tokio::test]
async fn at_gmail_a_message_that_moves_keeps_its_star() {
    let (api, mut world) = (plain_api().await, World::gmail());
    ["friends", "projects"].iter().for_each(|name| world.create(name));
    world.deliver(&["[Gmail]/Starred", "projects"], 0);
    let server = ModelServer::start(world).await;
    let rig = Rig::model(&server).await;
    rig.run().await;
    let id = rig.ids().await.into_values().next().unwrap();
    let labels = || server.world().folders[ALL_MAIL].messages.values().next().unwrap().labels.clone();
    let (friends, ..) = folder(&rig, "friends").await;
    assert_eq!(put(api, &rig, id, json!({"folderId": friends})).await.status, 200);
    assert_eq!(labels(), BTreeSet::from(["[Gmail]/Starred".to_owned(), "friends".to_owned()]));
    // Where it is already.
    assert_eq!(put(api, &rig, id, json!({"folderId": friends})).await.status, 200);
    assert_eq!(labels().len(), 2);
    let (all, ..) = folder(&rig, ALL_MAIL).await;
    assert_eq!(put(api, &rig, id, json!({"folderId": all})).await.status, 200);
    assert_eq!(labels(), BTreeSet::from(["[Gmail]/Starred".to_owned()]));
}

/// Gmail takes a label away there, and the message goes on to lie where nobody sees it.
#[tokio::test]
async fn at_gmail_without_all_mail_what_is_destroyed_goes_through_the_trash() {
    let (api, mut world) = (plain_api().await, World::gmail());
    world.delete(ALL_MAIL);
    (0..2).for_each(|_| world.append("INBOX", 0));
    world.append(SPAM, 0);
    let server = ModelServer::start(world).await;
    let rig = Rig::model(&server).await;
    rig.run().await;
    server.world().commands.clear();
    let ids: Vec<Uuid> = rig.ids().await.into_values().collect();
    for id in &ids {
        assert_eq!(delete(api, &rig, *id, "?permanent=true").await.status, 200);
    }
    let moves = server.world().commands.iter().filter(|command| command.starts_with("UID MOVE")).count();
    assert_eq!(moves, 2, "what is spam lies nowhere else");
    assert!(server.world().folders.values().all(|folder| folder.messages.is_empty()));
    rig.run().await;
    assert_eq!(rig.ids().await.len(), 0);
}

/// Until it is synchronised, what is here is of the mailbox that the account named before.
#[tokio::test]
async fn in_another_mailbox_nothing_is_read_or_changed_by_the_places_of_the_one_before() {
    let api = plain_api().await;
    for protocol in ["imap", "pop3"] {
        let mut world = World::new(Extensions { moves: true, uidplus: true, ..Extensions::default() });
        world.create("Trash");
        (0..3).for_each(|_| world.append("INBOX", 0));
        let server = ModelServer::start(world).await;
        let pop3 = ModelPop3::start(Mailbox { messages: (1..=3).collect(), ..Mailbox::default() }).await;
        let rig = match protocol {
            "imap" => Rig::model(&server).await,
            _ => {
                Rig::at(json!({"hostname": "127.0.0.1", "port": pop3.port, "encryption": "none", "protocol": "pop3"}))
                    .await
            }
        };
        rig.run().await;
        let ids: Vec<Uuid> = rig.ids().await.into_values().collect();
        assert_eq!(ids.len(), 3);
        let other = json!({"protocol": "imap", "port": server.port(), "username": "other", "password": "another"});
        let changed = api.put(&format!("/api/accounts/{}", rig.account), other).by(&rig.user).send().await;
        assert_eq!(changed.status, 200, "{changed:?}");
        server.world().commands.clear();
        put(api, &rig, ids[0], json!({"isRead": true})).await.is_refused(409);
        delete(api, &rig, ids[1], "?permanent=true").await.is_refused(409);
        api.get(&format!("/api/messages/{}", ids[2])).by(&rig.user).send().await.is_refused(404);
        let commands = server.world().commands.clone();
        assert!(
            !commands.iter().any(|command| command.starts_with("SELECT") || command.starts_with("UID")),
            "{commands:?}"
        );
        rig.run().await;
        assert_eq!(rig.flags().await, there(&server));
    }
}

/// What another request has changed meanwhile is not changed back: no server would tell.
#[tokio::test]
async fn flags_of_pop3_that_are_not_named_stay_as_they_are_by_then() {
    let (rig, name) = Rig::dovecot("pop3").await;
    let api = mail_api().await;
    append(&mut OtherClient::sign_in(&name).await, "INBOX", 0).await;
    rig.run().await;
    let id = rig.ids().await.into_values().next().unwrap();
    let mut other = owner().await;
    let changing = other.transaction().await.unwrap();
    changing.execute("select from email_accounts where id = $1 for update", &[&rig.account.0]).await.unwrap();
    let waits = "select count(*) from pg_stat_activity where pg_backend_pid() = any (pg_blocking_pids(pid))";
    let meanwhile = async {
        while changing.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        changing
            .execute("update email_messages set is_flagged = true, is_answered = true where id = $1", &[&id])
            .await
            .unwrap();
        changing.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(put(api, &rig, id, json!({"isRead": true})), meanwhile);
    let flags = ["isRead", "isFlagged", "isAnswered"].map(|flag| answer.body[flag].clone());
    assert_eq!((answer.status, flags), (200, [json!(true), json!(true), json!(true)]), "{answer:?}");
    let cleared = put(api, &rig, id, json!({"isFlagged": false})).await;
    assert_eq!((&cleared.body["isRead"], &cleared.body["isFlagged"]), (&json!(true), &json!(false)));
}

#[tokio::test]
async fn a_pop3_mailbox_keeps_flags_here_and_hides_what_is_deleted() {
    let (rig, name) = Rig::dovecot("pop3").await;
    let api = mail_api().await;
    let mut other = OtherClient::sign_in(&name).await;
    for number in 0..4 {
        append(&mut other, "INBOX", number).await;
    }
    rig.run().await;
    let ids: Vec<Uuid> = rig.ids().await.into_values().collect();
    let (inbox, ..) = folder(&rig, "INBOX").await;
    let read = put(api, &rig, ids[0], json!({"isRead": true, "folderId": inbox})).await;
    assert_eq!((read.status, &read.body["isRead"], &read.body["isFlagged"]), (200, &json!(true), &json!(false)));
    put(api, &rig, ids[0], json!({"folderId": Uuid::now_v7()})).await.is_refused(409);
    assert_eq!(delete(api, &rig, ids[1], "").await.status, 200);
    delete(api, &rig, ids[1], "").await.is_refused(404);
    assert_eq!(folder(&rig, "INBOX").await, (inbox, 3, 2));
    append(&mut other, "INBOX", 4).await;
    rig.run().await;
    assert_eq!(
        (place(&rig, ids[1]).await, folder(&rig, "INBOX").await),
        (None, (inbox, 4, 3)),
        "it does not come back"
    );
    assert_eq!(rig.count("select count(*) from email_messages where account_id = $1 and is_read").await, 1);
    other.say("SELECT INBOX").await;
    assert_eq!(other.say("UID SEARCH ALL").await[0], "* SEARCH 1 2 3 4 5", "nothing was changed there");
    // What was hidden is forgotten with the account.
    let hidden = "select count(*) from email_hidden where account_id = $1";
    assert_eq!(rig.count(hidden).await, 1);
    assert_eq!(api.delete(&format!("/api/accounts/{}", rig.account)).by(&rig.user).send().await.status, 200);
    assert_eq!(rig.count(hidden).await, 0);
    put(api, &rig, ids[0], json!({"isRead": true})).await.is_refused(404);
}

#[tokio::test]
async fn nobody_changes_what_is_not_his() {
    let (api, user, client) = (mail_api().await, User::new(), owner().await);
    let account = api.create(&user, json!({"protocol": "pop3"})).await;
    let inbox = store(&client, "email_folders", folder_row(&account, "INBOX", json!({"role": "inbox"}))).await;
    let id = store(&client, "email_messages", message_row(&account, inbox, json!({"uid": 1}))).await;
    let path = format!("/api/messages/{id}");
    let bodies = [("PUT", json!({"isRead": true})), ("DELETE", json!(null))];
    for stranger in [user.colleague(), User { user: user.user, ..User::new() }, User::new()] {
        for (method, body) in &bodies {
            api.request(method, &path).json(body.clone()).by(&stranger).send().await.is_refused(404);
        }
        let body = json!({"ids": [id], "delete": true});
        let answer = api.post("/api/messages/batch", body).by(&stranger).send().await;
        assert_eq!((answer.status, &answer.body["results"][0]["code"]), (200, &json!("notFound")));
    }
    for unknown in ["x", &Uuid::now_v7().to_string()] {
        for (method, body) in &bodies {
            let path = format!("/api/messages/{unknown}");
            api.request(method, &path).json(body.clone()).by(&user).send().await.is_refused(404);
        }
    }
    for (method, path, body) in [
        ("PUT", path.as_str(), json!({})),
        ("DELETE", path.as_str(), json!(null)),
        ("POST", "/api/messages/batch", json!({"ids": [id], "delete": true})),
    ] {
        api.request(method, path).json(body).send().await.is_refused(401);
    }
    for method in ["PUT", "DELETE"] {
        let answer = api.request(method, "/api/messages/batch").json(json!({})).by(&user).send().await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST, OPTIONS")));
    }
    let row = "select not is_read and uid = 1 from email_messages where id = $1";
    assert!(client.query_one(row, &[&id]).await.unwrap().get::<_, bool>(0), "nothing was changed");
}

#[tokio::test]
async fn bad_bodies_are_told_by_their_fields() {
    let (api, user, client) = (mail_api().await, User::new(), owner().await);
    let account = api.create(&user, json!({})).await;
    let inbox = store(&client, "email_folders", folder_row(&account, "INBOX", json!({"role": "inbox"}))).await;
    let id = store(&client, "email_messages", message_row(&account, inbox, json!({"uid": 1}))).await;
    let strangers = api.create(&User::new(), json!({})).await;
    let foreign = store(&client, "email_folders", folder_row(&strangers, "INBOX", json!({}))).await;
    let path = format!("/api/messages/{id}");
    for (body, fields) in [
        (json!({"isRead": 1, "isFlagged": null, "isAnswered": "true"}), vec!["isAnswered", "isFlagged", "isRead"]),
        (json!({"folderId": "x"}), vec!["folderId"]),
        (json!({"folderId": foreign}), vec!["folderId"]),
        (json!({"folderId": Uuid::now_v7()}), vec!["folderId"]),
    ] {
        let answer = api.put(&path, body.clone()).by(&user).send().await;
        answer.is_refused(400);
        assert_eq!(answer.faults(), fields, "{body}");
    }
    let many: Vec<Uuid> = (0..201).map(|_| Uuid::now_v7()).collect();
    for (body, fields) in [
        (json!({}), vec!["ids", "delete"]),
        (json!({"ids": [], "delete": true}), vec!["ids"]),
        (json!({"ids": [id, id], "delete": true}), vec!["ids"]),
        (json!({"ids": ["x"], "delete": true}), vec!["ids"]),
        (json!({"ids": many, "delete": true}), vec!["ids"]),
        (json!({"ids": [id], "delete": false}), vec!["delete"]),
        (json!({"ids": [id], "set": {"isRead": true}, "delete": true}), vec!["delete"]),
        (json!({"ids": [id], "set": {"isRead": 1}}), vec!["set"]),
        (json!({"ids": [id], "set": {"folderId": foreign}}), vec!["folderId"]),
    ] {
        let answer = api.post("/api/messages/batch", body.clone()).by(&user).send().await;
        answer.is_refused(400);
        for field in fields {
            assert!(answer.faults().contains(&field), "{body}: {answer:?}");
        }
    }
    let answer = api.delete(&format!("{path}?permanent=1")).by(&user).send().await;
    assert_eq!((answer.status, answer.faults()), (400, vec!["permanent"]));
    let full: Vec<Uuid> = many[1..].to_vec();
    let answer = api.post("/api/messages/batch", json!({"ids": full, "set": {}})).by(&user).send().await;
    assert_eq!((answer.status, answer.body["results"].as_array().unwrap().len()), (200, 200));
}

#[tokio::test]
async fn a_mail_server_that_fails_is_a_502_and_changes_nothing() {
    let (rig, name) = Rig::dovecot("imap").await;
    let api = mail_api().await;
    let mut other = OtherClient::sign_in(&name).await;
    append(&mut other, "INBOX", 0).await;
    rig.run().await;
    let id = *rig.ids().await.values().next().unwrap();
    let flags = rig.flags().await;
    // The server is away.
    let point = async |port: i32| {
        rig.owner.execute("update email_accounts set port = $2 where id = $1", &[&rig.account.0, &port]).await.unwrap();
    };
    point(1).await;
    let answer = put(api, &rig, id, json!({"isRead": true})).await;
    answer.is_refused(502);
    assert_eq!(answer.body["code"], "unreachable");
    assert_eq!(batch(api, &rig, json!({"ids": [id], "delete": true})).await, [Some("unreachable".to_owned())]);
    assert_eq!((rig.flags().await, rig.account().await.0), (flags.clone(), "connected".to_owned()));
    point(i32::from(mail().await.ports().imaps)).await;
    // The login is refused: the account says so, and the next try has to wait.
    let path = format!("/api/accounts/{}", rig.account);
    assert_eq!(api.put(&path, json!({"password": "wrong"})).by(&rig.user).send().await.status, 200);
    let answer = put(api, &rig, id, json!({"isRead": true})).await;
    answer.is_refused(502);
    assert_eq!(
        (&answer.body["code"], rig.account().await.0),
        (&json!("authentication"), "authenticationError".to_owned())
    );
    let tried = "update email_accounts set tried_at = epoch_ms() where id = $1";
    rig.owner.execute(tried, &[&rig.account.0]).await.unwrap();
    put(api, &rig, id, json!({"isRead": true})).await.is_refused(429);
    assert_eq!(batch(api, &rig, json!({"ids": [id], "delete": true})).await, [Some("rateLimited".to_owned())]);
    assert_eq!(rig.flags().await, flags);
    // With a good password it is connected again.
    assert_eq!(api.put(&path, json!({"password": PASSWORD})).by(&rig.user).send().await.status, 200);
    assert_eq!(put(api, &rig, id, json!({"isRead": true})).await.status, 200);
    assert_eq!((rig.account().await.0, rig.flags().await), ("connected".to_owned(), other.all().await));
}

#[tokio::test]
async fn a_mailbox_without_a_trash_says_so() {
    let api = plain_api().await;
    let mut world = World::new(Extensions { moves: true, uidplus: true, ..Extensions::default() });
    world.append("INBOX", 0);
    let server = ModelServer::start(world).await;
    let rig = Rig::model(&server).await;
    rig.run().await;
    let id = *rig.ids().await.values().next().unwrap();
    delete(api, &rig, id, "").await.is_refused(409);
    assert_eq!(delete(api, &rig, id, "?permanent=true").await.status, 200);
    assert_eq!(server.world().folders["INBOX"].messages.len(), 0);
}
