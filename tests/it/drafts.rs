//! Drafts, and the files that go along.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    Answer, Api, Service, User, api, connect, folder_row, logins, merged, message_row, new_database, owner, servers,
    somebody_waits, store, upload,
};

const DRAFTS: &str = "/api/drafts";
const HOUR: i64 = 60 * 60 * 1000;

async fn create(api: &Api, user: &User, body: Value) -> Value {
    let answer = api.post(DRAFTS, body).by(user).send().await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.body
}

fn path(draft: &Value) -> String {
    format!("{DRAFTS}/{}", draft["id"].as_str().unwrap())
}

/// All of a user's drafts, page by page.
async fn list(api: &Api, user: &User, limit: usize) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("{DRAFTS}?limit={limit}{cursor}")).by(user).send().await;
        assert_eq!(page.status, 200, "{page:?}");
        let drafts = page.body["drafts"].as_array().unwrap();
        assert!(drafts.len() <= limit);
        all.extend(drafts.iter().cloned());
        match page.body["nextCursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

fn strangers(user: &User) -> [User; 3] {
    [user.colleague(), User { user: user.user, ..User::new() }, User::new()]
}

#[tokio::test]
async fn a_draft_is_kept_read_changed_listed_and_deleted() {
    let (api, user) = (api().await, User::new());
    let account = api.create(&user, json!({})).await;
    let body = json!({
        "accountId": account["id"],
        "to": [{"name": "Jäne Doe", "address": "jane@example.com"}, {"address": "jürgen@bücher.example"}],
        "cc": [{"name": " ", "address": "joe@example.com"}], "bcc": [{"address": "ann@example.com"}],
        "replyTo": [{"address": "office@example.com"}],
        "subject": "Größe ☕", "text": "One\r\ntwo", "html": "<p>One</p>", "sendAt": 1_767_225_600_000_i64, "other": 7
    });
    let answer = api.post(DRAFTS, body).by(&user).send().await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let draft = answer.body.clone();
    assert_eq!(answer.header("location"), Some(&*path(&draft)));
    let person = |name: Option<&str>, address: &str| json!({"name": name, "address": address});
    let expected = json!({
        "id": draft["id"], "version": 1, "createdAt": draft["createdAt"], "updatedAt": draft["createdAt"],
        "accountId": account["id"],
        "to": [person(Some("Jäne Doe"), "jane@example.com"), person(None, "jürgen@bücher.example")],
        "cc": [person(None, "joe@example.com")], "bcc": [person(None, "ann@example.com")],
        "replyTo": [person(None, "office@example.com")],
        "subject": "Größe ☕", "text": "One\r\ntwo", "html": "<p>One</p>", "attachments": [],
        "replyToId": null, "forwardOfId": null, "sendAt": 1_767_225_600_000_i64,
    });
    assert_eq!(draft, expected);
    assert_eq!(api.get(&path(&draft)).by(&user).send().await.body, draft);

    // What was read can be put back; what a change does not name is gone.
    let same = api.put(&path(&draft), draft.clone()).by(&user).send().await;
    let mut expected = merged(draft.clone(), json!({"version": 2, "updatedAt": same.body["updatedAt"]}));
    assert_eq!((same.status, &same.body), (200, &expected));
    assert!(same.body["updatedAt"].as_i64() > draft["updatedAt"].as_i64());
    let less = api.put(&path(&draft), json!({"version": 2, "subject": "Less"})).by(&user).send().await;
    expected = json!({
        "id": draft["id"], "version": 3, "createdAt": draft["createdAt"], "updatedAt": less.body["updatedAt"],
        "accountId": null, "to": [], "cc": [], "bcc": [], "replyTo": [], "subject": "Less", "text": null, "html": null,
        "attachments": [], "replyToId": null, "forwardOfId": null, "sendAt": null,
    });
    assert_eq!((less.status, &less.body), (200, &expected));
    assert_eq!(list(api, &user, 10).await, [less.body]);

    let deleted = api.delete(&path(&draft)).by(&user).send().await;
    let said = json!({"message": "Draft deleted successfully", "id": draft["id"]});
    assert_eq!((deleted.status, deleted.body), (200, said));
    for request in [api.delete(&path(&draft)), api.get(&path(&draft)), api.put(&path(&draft), json!({"version": 3}))] {
        request.by(&user).send().await.is_refused(404);
    }
    assert!(list(api, &user, 10).await.is_empty());
}

#[tokio::test]
async fn a_change_of_an_older_version_is_refused_and_of_two_at_once_one_goes() {
    let (api, user) = (api().await, User::new());
    let draft = create(api, &user, json!({"subject": "0"})).await;
    let put = |body: Value| api.put(&path(&draft), body).by(&user).send();
    for bad in [json!({"subject": "x"}), json!({"version": null}), json!({"version": "1"}), json!({"version": 0})] {
        let answer = put(bad).await;
        answer.is_refused(400);
        assert_eq!(answer.faults(), ["version"]);
    }
    assert_eq!(put(json!({"version": 1, "subject": "1"})).await.status, 200);
    for stale in [1, 3] {
        put(json!({"version": stale, "subject": "1"})).await.is_refused(409);
    }
    let at_once = (0..6).map(|n| put(json!({"version": 2, "subject": format!("at once {n}")})));
    let mut answers: Vec<Answer> = join_all(at_once).await;
    answers.sort_by_key(|answer| answer.status);
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 409, 409, 409, 409, 409]);
    assert_eq!(api.get(&path(&draft)).by(&user).send().await.body, answers[0].body);
}

#[tokio::test]
async fn strangers_find_nothing_and_change_nothing() {
    let (api, user) = (api().await, User::new());
    let draft = create(api, &user, json!({"subject": "Mine"})).await;
    for stranger in strangers(&user) {
        assert!(list(api, &stranger, 10).await.is_empty());
        for request in [
            api.get(&path(&draft)),
            api.put(&path(&draft), json!({"version": 1, "subject": "Stolen"})),
            api.delete(&path(&draft)),
        ] {
            request.by(&stranger).send().await.is_refused(404);
        }
    }
    for id in ["x", "0198c0de-0000-7000-8000-00000000000a", "%00"] {
        api.get(&format!("{DRAFTS}/{id}")).by(&user).send().await.is_refused(404);
    }
    for request in [api.get(DRAFTS), api.post(DRAFTS, json!({})), api.get(&path(&draft)), api.delete(&path(&draft))] {
        request.send().await.is_refused(401);
    }
    assert_eq!(list(api, &user, 10).await, [draft]);
}

#[tokio::test]
async fn every_fault_is_named_with_its_place() {
    let (api, user) = (api().await, User::new());
    let evil = "a\r\nBcc: x@example.com";
    let bad = json!({
        "accountId": "1", "to": [{"name": evil, "address": "jane@example.com"}, {"name": "x", "address": evil}, {}], "cc": {},
        "subject": evil, "text": "a\0b", "html": 1, "sendAt": "now",
        "attachments": [{"filename": evil, "contentType": "text/plain\r\nX: y", "contentId": evil, "isInline": "yes"}],
        "replyToId": evil, "forwardOfId": 7
    });
    let draft = create(api, &user, json!({})).await;
    for request in [api.post(DRAFTS, bad.clone()), api.put(&path(&draft), merged(bad, json!({"version": 1})))] {
        let answer = request.by(&user).send().await;
        answer.is_refused(400);
        let expected = [
            "accountId",
            "attachments[0].contentId",
            "attachments[0].contentType",
            "attachments[0].filename",
            "attachments[0].isInline",
            "attachments[0].uploadId",
            "cc",
            "forwardOfId",
            "html",
            "replyToId",
            "sendAt",
            "subject",
            "text",
            "to[0].name",
            "to[1].address",
            "to[2].address",
        ];
        assert_eq!(answer.faults(), expected);
    }
    let far = json!({"sendAt": 4_102_444_800_000_i64});
    assert_eq!(api.post(DRAFTS, far).by(&user).send().await.faults(), ["sendAt"]);
    for query in ["limit=0", "limit=201", "cursor=x", "limit=1&limit=2"] {
        api.get(&format!("{DRAFTS}?{query}")).by(&user).send().await.is_refused(400);
    }
    assert_eq!(api.get(&path(&draft)).by(&user).send().await.body, draft);
}

#[tokio::test]
async fn what_a_draft_names_must_be_the_users_and_is_null_once_it_is_gone() {
    let (api, user, owner) = (api().await, User::new(), owner().await);
    let account = api.create(&user, json!({})).await;
    let folder = store(&owner, "email_folders", folder_row(&account, "INBOX", json!({}))).await;
    let mut messages = Vec::new();
    for _ in 0..2 {
        messages.push(store(&owner, "email_messages", message_row(&account, folder, json!({}))).await);
    }
    let named = json!({"accountId": account["id"], "replyToId": messages[0], "forwardOfId": messages[1]});
    let names = ["accountId", "forwardOfId", "replyToId"];
    let draft = create(api, &user, named.clone()).await;
    for name in names {
        assert_eq!(draft[name], named[name]);
    }
    let unknown = Uuid::now_v7();
    let unknown = json!({"accountId": unknown, "replyToId": unknown, "forwardOfId": unknown, "attachments": [{"uploadId": unknown}]});
    let answer = api.post(DRAFTS, unknown.clone()).by(&user).send().await;
    answer.is_refused(400);
    let all = ["accountId", "attachments[0].uploadId", "forwardOfId", "replyToId"];
    assert_eq!(answer.faults(), all);
    let answer = api.put(&path(&draft), merged(unknown, json!({"version": 1}))).by(&user).send().await;
    assert_eq!(answer.faults(), all);
    for stranger in strangers(&user) {
        assert_eq!(api.post(DRAFTS, named.clone()).by(&stranger).send().await.faults(), names);
    }

    // A message that is gone: the draft says so, and a client that still names it can go on.
    owner.execute("delete from email_messages where id = $1", &[&messages[0]]).await.unwrap();
    let shown = api.get(&path(&draft)).by(&user).send().await.body;
    assert_eq!(shown, merged(draft.clone(), json!({"replyToId": null})));
    let kept = api.put(&path(&draft), merged(named.clone(), json!({"version": 1}))).by(&user).send().await;
    assert_eq!((kept.status, &kept.body["replyToId"]), (200, &Value::Null), "{kept:?}");
    let new = api.post(DRAFTS, named.clone()).by(&user).send().await;
    assert_eq!(new.faults(), ["replyToId"]);
    // And so with the account, and all messages in it.
    assert_eq!(
        api.delete(&format!("/api/accounts/{}", account["id"].as_str().unwrap())).by(&user).send().await.status,
        200
    );
    let shown = list(api, &user, 10).await;
    for name in names {
        assert_eq!(shown[0][name], Value::Null);
    }
    assert_eq!(
        api.put(&path(&draft), merged(shown[0].clone(), json!({"version": 2}))).by(&user).send().await.status,
        200
    );
}

#[tokio::test]
async fn pages_are_newest_first_and_end_before_they_are_too_large() {
    let (api, user) = (api().await, User::new());
    let mut made = Vec::new();
    for n in 0..5 {
        made.insert(0, create(api, &user, json!({"subject": format!("{n}")})).await);
    }
    for limit in [1, 2, 4, 5, 200] {
        assert_eq!(list(api, &user, limit).await, made, "{limit}");
    }
    // One that was deleted is a place all the same.
    let page = api.get(&format!("{DRAFTS}?limit=2")).by(&user).send().await;
    let cursor = page.body["nextCursor"].as_str().unwrap().to_owned();
    assert_eq!(api.delete(&path(&made[1])).by(&user).send().await.status, 200);
    let rest = api.get(&format!("{DRAFTS}?cursor={cursor}")).by(&user).send().await;
    assert_eq!(rest.body, json!({"drafts": made[2..], "nextCursor": null}));

    let (user, mut large) = (User::new(), Vec::new());
    for n in 0..4 {
        large.insert(0, create(api, &user, json!({"subject": format!("{n}"), "text": "\"".repeat(500_000)})).await);
    }
    let page = api.get(DRAFTS).by(&user).send().await;
    assert_eq!(page.body["drafts"], json!(large[..1]), "a megabyte each");
    assert_eq!(list(api, &user, 200).await, large);
}

#[tokio::test]
async fn a_draft_may_have_a_mebibyte_and_no_more() {
    let (api, user) = (api().await, User::new());
    let body = |length: usize| {
        let empty = json!({"text": ""}).to_string();
        json!({"text": "x".repeat(length - empty.len())}).to_string()
    };
    let send = |length: usize| {
        api.request("POST", DRAFTS).header("content-type", "application/json").body(body(length)).by(&user).send()
    };
    let draft = send(1024 * 1024).await;
    assert_eq!(draft.status, 201);
    assert_eq!(api.get(&path(&draft.body)).by(&user).send().await.body, draft.body);
    send(1024 * 1024 + 1).await.is_refused(413);
}

#[tokio::test]
async fn a_user_has_a_thousand_drafts_and_no_more() {
    let database = new_database().await;
    let servers = servers().await;
    let mut env = servers.env();
    env.extend(logins(&servers.postgres, &database));
    let (api, user) = (Api::start(env).await, User::new());
    let owner = connect(&servers.postgres.owner_url(&database)).await;
    let fill = "insert into email_drafts (id, tenant_id, user_id, content, created_at, updated_at)
                select gen_random_uuid(), $1, $2, '{}', 0, 0 from generate_series(1, 999)";
    owner.execute(fill, &[&user.tenant, &user.user]).await.unwrap();
    let last = create(&api, &user, json!({})).await;
    api.post(DRAFTS, json!({})).by(&user).send().await.is_refused(409);
    assert_eq!(api.delete(&path(&last)).by(&user).send().await.status, 200);
    create(&api, &user, json!({})).await;
}

#[tokio::test]
async fn a_draft_is_created_once_for_each_key() {
    let (api, user, owner) = (api().await, User::new(), owner().await);
    let account = api.create(&user, json!({})).await;
    let folder = store(&owner, "email_folders", folder_row(&account, "INBOX", json!({}))).await;
    let key = Uuid::new_v4().to_string();
    let send = |body: Value| api.post(DRAFTS, body).by(&user).header("idempotency-key", &key).send();
    // A 400 of the database may be corrected, too.
    let message = message_row(&account, folder, json!({}));
    let body = json!({"subject": "x", "replyToId": message["id"], "text": "y"});
    assert_eq!(send(body.clone()).await.faults(), ["replyToId"]);
    store(&owner, "email_messages", message).await;
    let answers = join_all((0..6).map(|_| send(body.clone()))).await;
    let replayed = |answer: &Answer| answer.header("idempotency-replayed").is_some();
    assert_eq!(answers.iter().filter(|answer| !replayed(answer)).count(), 1);
    for answer in &answers {
        assert_eq!(
            (answer.status, &answer.body, answer.header("location")),
            (201, &answers[0].body, Some(&*path(&answer.body)))
        );
    }
    send(json!({"subject": "z"})).await.is_refused(422);
    // The answer stays what it was, and the key is the endpoint's alone.
    let draft = &answers[0].body;
    assert_eq!(api.put(&path(draft), json!({"version": 1})).by(&user).send().await.status, 200);
    assert_eq!(api.delete(&path(draft)).by(&user).send().await.status, 200);
    let again = send(body).await;
    assert_eq!((again.status, replayed(&again), &again.body), (201, true, draft));
    assert!(list(api, &user, 10).await.is_empty());
    let other = crate::support::account(json!({"emailAddress": "other@example.com"}));
    let answer = api.post("/api/accounts", other).by(&user).header("idempotency-key", &key).send().await;
    assert_eq!((answer.status, replayed(&answer)), (201, false));
}

/// Announces a file; returns the answer.
async fn announce(api: &Api, user: &User, size: usize) -> Value {
    let body = json!({"filename": "Bericht über alles.pdf", "contentType": "Application/PDF", "size": size});
    let answer = api.post("/api/uploads", body).by(user).send().await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.body
}

/// Puts a file as the link says; returns the store's status.
async fn put(link: &Value, bytes: &[u8]) -> u16 {
    let mut request = reqwest::Client::new().put(link["url"].as_str().unwrap()).body(bytes.to_vec());
    for (name, value) in link["headers"].as_object().unwrap() {
        request = request.header(name, value.as_str().unwrap());
    }
    request.send().await.unwrap().status().as_u16()
}

fn key(user: &User, upload: &Value) -> String {
    format!("uploads/{}/{}/{}", user.tenant, user.user, upload["id"].as_str().unwrap())
}

/// Lets what nothing uses have been unused for so long, in milliseconds.
async fn age(service: &Service, user: &User, milliseconds: i64) {
    let sql = "update email_uploads set unused_since = epoch_ms() - $2 where user_id = $1 and unused_since is not null";
    service.owner.execute(sql, &[&user.user, &milliseconds]).await.unwrap();
}

#[tokio::test]
async fn a_file_goes_straight_into_the_store_once_as_it_was_announced() {
    let service = Service::start(Duration::from_secs(60), BTreeMap::new()).await;
    let (api, user) = (&service.api, User::new());
    let link = announce(api, &user, 5).await;
    let url = reqwest::Url::parse(link["url"].as_str().unwrap()).unwrap();
    assert!(url.path().ends_with(&key(&user, &link)), "{url}");
    let query: BTreeMap<_, _> = url.query_pairs().into_owned().collect();
    // What the store holds a sender to.
    let signed: BTreeSet<_> = query["X-Amz-SignedHeaders"].split(';').collect();
    assert_eq!(signed, BTreeSet::from(["content-length", "content-type", "host", "if-none-match"]));
    assert_eq!(query["X-Amz-Expires"], "900");
    assert_eq!(link["headers"], json!({"content-type": "application/pdf", "if-none-match": "*"}));
    assert_eq!(link.as_object().unwrap().len(), 4);
    let row = "select created_at from email_uploads where user_id = $1";
    let created_at: i64 = service.owner.query_one(row, &[&user.user]).await.unwrap().get(0);
    assert_eq!(link["expiresAt"], created_at + 15 * 60 * 1000);
    assert_eq!(put(&link, b"hello").await, 200);
    assert_eq!(put(&link, b"other").await, 412);
    assert_eq!(service.bucket.keys().await.unwrap(), [key(&user, &link)]);

    for (bad, faults) in [
        (json!({}), vec!["contentType", "filename", "size"]),
        (json!({"filename": "a/b", "contentType": "pdf", "size": "5"}), vec!["contentType", "filename", "size"]),
        (
            json!({"filename": "a\r\nb", "contentType": "text/plain\r\n", "size": -1}),
            vec!["contentType", "filename", "size"],
        ),
        (json!({"filename": "a", "contentType": "a/b", "size": 25 * 1024 * 1024 + 1}), vec!["size"]),
    ] {
        assert_eq!(api.post("/api/uploads", bad).by(&user).send().await.faults(), faults);
    }
    api.post("/api/uploads", json!({})).send().await.is_refused(401);
    for size in [0, 25 * 1024 * 1024] {
        announce(api, &user, size).await;
    }

    // Under a key the same link, byte by byte.
    let body = json!({"filename": "a", "contentType": "a/b", "size": 1});
    let send = |body: &Value| api.post("/api/uploads", body.clone()).by(&user).header("idempotency-key", "k").send();
    let (first, again) = (send(&body).await, send(&body).await);
    assert_eq!((first.status, again.status, &again.body), (201, 201, &first.body));
    assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), (None, Some("true")));
    send(&merged(body, json!({"size": 2}))).await.is_refused(422);
}

#[tokio::test]
async fn a_file_is_there_as_long_as_something_uses_it_and_a_day() {
    let service = Service::start(Duration::from_secs(60), BTreeMap::new()).await;
    let (api, user, other) = (&service.api, User::new(), User::new());
    let mut links = Vec::new();
    for _ in 0..4 {
        let link = announce(api, &user, 5).await;
        assert_eq!(put(&link, b"hello").await, 200);
        links.push(link);
    }
    let [used, shared, dropped, late] = &links[..] else { panic!() };
    let attached = |of: &[&Value]| -> Value {
        of.iter().map(|link| json!({"uploadId": link["id"], "filename": null, "contentType": null, "contentId": null, "isInline": false})).collect()
    };
    let first = create(api, &user, json!({"attachments": attached(&[used, shared, used])})).await;
    assert_eq!(first["attachments"], attached(&[used, shared, used]));
    let second = create(api, &user, json!({"attachments": attached(&[shared, dropped])})).await;
    // Somebody else's file is none.
    let foreign = api.post(DRAFTS, json!({"attachments": attached(&[used])})).by(&other).send().await;
    assert_eq!(foreign.faults(), ["attachments[0].uploadId"]);

    // A change that is refused takes nothing and gives nothing up.
    let unknown = json!({"id": Uuid::now_v7()});
    let refused = json!({"version": 1, "attachments": attached(&[late, &unknown])});
    assert_eq!(api.put(&path(&second), refused).by(&user).send().await.faults(), ["attachments[1].uploadId"]);
    let changed = json!({"version": 1, "attachments": attached(&[shared])});
    assert_eq!(api.put(&path(&second), changed).by(&user).send().await.status, 200);
    age(&service, &user, 24 * HOUR - 60_000).await;
    assert_eq!(service.tick().await["purgedUploads"], 0);
    // In the last minute something uses one, and then not any more: it has a new day.
    let third = create(api, &user, json!({"attachments": attached(&[dropped])})).await;
    assert_eq!(api.delete(&path(&third)).by(&user).send().await.status, 200);
    let unused_for = "select epoch_ms() - unused_since from email_uploads where id = $1::text::uuid";
    let dropped_for: i64 =
        service.owner.query_one(unused_for, &[&dropped["id"].as_str().unwrap()]).await.unwrap().get(0);
    assert!(dropped_for < HOUR, "{dropped_for}");

    // After a day nothing can use it any more; an hour later it is gone, and what is used is not.
    age(&service, &user, 24 * HOUR + 1).await;
    for gone in [dropped, late] {
        let answer = api.post(DRAFTS, json!({"attachments": attached(&[gone])})).by(&user).send().await;
        assert_eq!(answer.faults(), ["attachments[0].uploadId"]);
    }
    assert_eq!(service.tick().await["purgedUploads"], 0);
    age(&service, &user, 25 * HOUR + 1).await;
    assert_eq!(service.tick().await["purgedUploads"], 2);
    let mut left = [key(&user, used), key(&user, shared)];
    left.sort();
    assert_eq!(service.bucket.keys().await.unwrap(), left);
    // One of two drafts goes: what the other has stays.
    assert_eq!(api.delete(&path(&first)).by(&user).send().await.status, 200);
    age(&service, &user, 25 * HOUR + 1).await;
    assert_eq!(service.tick().await["purgedUploads"], 1);
    assert_eq!(service.bucket.keys().await.unwrap(), [key(&user, shared)]);
    assert_eq!(service.tick().await["purgedUploads"], 0);
}

#[tokio::test]
async fn who_sends_a_draft_takes_its_files_after_it() {
    let service = Service::start(Duration::from_secs(60), BTreeMap::new()).await;
    let user = User::new();
    let account = service.api.create(&user, json!({"smtpHostname": "smtp.example.com"})).await;
    let file = upload(&service, &user, "x", b"hello".to_vec()).await;
    let attachments = json!([{"uploadId": file}]);
    let draft = create(&service.api, &user, json!({"attachments": attachments})).await;
    let id: Uuid = draft["id"].as_str().unwrap().parse().unwrap();
    let file: Uuid = file.as_str().unwrap().parse().unwrap();
    // As whoever changes it: the draft, and then its files.
    let database: String = service.owner.query_one("select current_database()::text", &[]).await.unwrap().get(0);
    let mut change = connect(&servers().await.postgres.owner_url(&database)).await;
    let change = change.transaction().await.unwrap();
    change.execute("select from email_drafts where id = $1 for no key update", &[&id]).await.unwrap();
    let message = json!({
        "accountId": account["id"], "to": [{"address": "john@example.com"}], "draftId": draft["id"],
        "attachments": attachments, "sendAt": crate::support::now_seconds() * 1000 + 9_000_000,
    });
    let send = service.api.post("/api/outbox", message).by(&user).send();
    let files = async {
        somebody_waits(&service.owner).await;
        change.execute("select from email_uploads where id = $1 for update nowait", &[&file]).await.unwrap();
        change.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(send, files);
    assert_eq!(answer.status, 202, "{answer:?}");
    service.api.get(&path(&draft)).by(&user).send().await.is_refused(404);
}

#[tokio::test]
async fn a_user_has_so_many_files_and_bytes_and_no_more() {
    let service = Service::start(Duration::from_secs(60), BTreeMap::new()).await;
    let api = &service.api;
    let fill =
        "insert into email_uploads (id, tenant_id, user_id, filename, content_type, size, created_at, unused_since)
                select gen_random_uuid(), $1, $2, 'x', 'x/y', $3, 0, epoch_ms() from generate_series(1, $4)";
    for (size, count) in [(0_i64, 999_i32), (26_214_400, 81)] {
        let user = User::new();
        service.owner.execute(fill, &[&user.tenant, &user.user, &size, &count]).await.unwrap();
        announce(api, &user, 1).await;
        let body = json!({"filename": "a", "contentType": "a/b", "size": 26_214_400});
        api.post("/api/uploads", body).by(&user).send().await.is_refused(409);
        announce(api, &User::new(), 26_214_400).await;
    }
}
