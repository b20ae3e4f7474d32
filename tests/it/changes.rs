//! What has changed since a cursor: a copy that follows it is what the lists say, however many write and whenever it asks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use crate::support::{
    Api, User, api, connect, folder_row, logins, message_row, new_database, now_seconds, owner, servers, store,
};
use crate::sync_model::Dice;

/// An answer, which must be one.
async fn changes(api: &Api, user: &User, query: &str) -> Value {
    let answer = api.get(&format!("/api/changes?{query}")).by(user).send().await;
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    assert_eq!(answer.body.as_object().unwrap().len(), 3, "{answer:?}");
    answer.body
}

fn cursor(answer: &Value) -> String {
    answer["cursor"].as_str().unwrap().to_owned()
}

async fn since(api: &Api, user: &User, cursor: &str) -> Vec<Value> {
    let answer = changes(api, user, &format!("since={cursor}")).await;
    assert_eq!(answer["hasMore"], false);
    answer["changes"].as_array().unwrap().clone()
}

fn change(kind: &str, id: &Value, account: &Value, what: &str) -> Value {
    json!({"type": kind, "id": id, "accountId": account["id"], "change": what})
}

#[tokio::test]
async fn each_thing_is_told_once_with_its_last_change_in_their_order() {
    let (api, user, client) = (api().await, User::new(), owner().await);
    // Who has never had anything has a cursor, too.
    let before = changes(api, &user, "").await;
    assert_eq!((&before["changes"], &before["hasMore"]), (&json!([]), &json!(false)));
    let nothing = cursor(&before);
    assert_eq!(since(api, &user, &nothing).await, Vec::<Value>::new());

    let first = api.create(&user, json!({})).await;
    let second = api.create(&user, json!({"emailAddress": "second@example.com"})).await;
    let begun = cursor(&changes(api, &user, "").await);
    let path = |account: &Value| format!("/api/accounts/{}", account["id"].as_str().unwrap());
    api.put(&path(&first), json!({"syncInterval": 600})).by(&user).send().await;
    let [new, old] = ["created", "updated"].map(|what| change("account", &first["id"], &first, what));
    // Changed after the other was created, and new to those who have neither.
    let other = change("account", &second["id"], &second, "created");
    assert_eq!(since(api, &user, &nothing).await, [other, new]);
    assert_eq!(since(api, &user, &begun).await, std::slice::from_ref(&old));
    // What changes nothing is no change.
    let now = cursor(&changes(api, &user, &format!("since={begun}")).await);
    api.put(&path(&first), json!({})).by(&user).send().await;
    api.put(&path(&first), json!({"syncInterval": 600})).by(&user).send().await;
    assert_eq!(since(api, &user, &now).await, Vec::<Value>::new());

    let number = "select last from email_change_numbers where user_id = $1";
    let number: i64 = client.query_one(number, &[&user.user]).await.unwrap().get(0);
    let folder = folder_row(&first, "INBOX", json!({"created_number": number + 1, "changed_number": number + 3}));
    let folder = store(&client, "email_folders", folder).await;
    let message = json!({"created_number": number + 2, "changed_number": number + 2});
    let message = store(&client, "email_messages", message_row(&first, folder, message)).await;
    let gone = "with n as (update email_change_numbers set last = last + 4 where user_id = $1 returning *)
        insert into email_destroyed select tenant_id, user_id, last, 'message', $2, $3, 0 from n";
    let (lost, account) = (Uuid::now_v7(), first["id"].as_str().unwrap().parse::<Uuid>().unwrap());
    client.execute(gone, &[&user.user, &lost, &account]).await.unwrap();
    let came = since(api, &user, &now).await;
    let [message, folder] = [message, folder].map(|id| json!(id));
    let lost = change("message", &json!(lost), &first, "destroyed");
    let expected = [change("message", &message, &first, "created"), change("folder", &folder, &first, "created"), lost];
    assert_eq!(came, expected);

    // What a list shows of a message cannot change without a number.
    let now = cursor(&changes(api, &user, &format!("since={now}")).await);
    for (set, is_seen) in [
        ("preview = 'How it begins'", true),
        ("received_at = received_at + 1", true),
        ("is_readable = not is_readable", false),
    ] {
        let now = cursor(&changes(api, &user, "").await);
        let id: Uuid = message.as_str().unwrap().parse().unwrap();
        client.execute(&format!("update email_messages set {set} where id = $1"), &[&id]).await.unwrap();
        let seen = if is_seen { vec![change("message", &message, &first, "updated")] } else { vec![] };
        assert_eq!(since(api, &user, &now).await, seen, "{set}");
    }

    // An account takes all that it has with it.
    api.delete(&path(&first)).by(&user).send().await;
    assert_eq!(since(api, &user, &now).await, [change("account", &first["id"], &first, "destroyed")]);
    let all = since(api, &user, &nothing).await;
    assert!(all.contains(&change("account", &first["id"], &first, "destroyed")) && all.len() == 3, "{all:?}");
}

#[tokio::test]
async fn pages_end_where_the_next_one_begins_and_what_is_new_stays_so_to_the_last() {
    let (api, user) = (api().await, User::new());
    let nothing = cursor(&changes(api, &user, "").await);
    let mut accounts = Vec::new();
    for n in 0..5 {
        accounts.push(api.create(&user, json!({"emailAddress": format!("{n}@example.com")})).await);
    }
    let (mut seen, mut at) = (Vec::new(), nothing.clone());
    loop {
        let page = changes(api, &user, &format!("limit=2&since={at}")).await;
        let told = page["changes"].as_array().unwrap();
        if seen.is_empty() {
            // It was not told yet, and is new to this reader although the change is one of an account that is there.
            let path = format!("/api/accounts/{}", accounts[3]["id"].as_str().unwrap());
            api.put(&path, json!({"port": 1})).by(&user).send().await;
        }
        seen.extend(told.iter().map(|change| (change["id"].clone(), change["change"].clone())));
        at = cursor(&page);
        assert_eq!(told.len(), if page["hasMore"] == true { 2 } else { 1 });
        if page["hasMore"] == false {
            break;
        }
    }
    let expected = [0, 1, 2, 4, 3].map(|n: usize| (accounts[n]["id"].clone(), json!("created")));
    assert_eq!(seen, expected);
    assert_eq!(
        changes(api, &user, &format!("since={at}")).await,
        json!({"changes": [], "cursor": at, "hasMore": false})
    );
    // A page that is just full is the last.
    let page = changes(api, &user, &format!("limit=5&since={nothing}")).await;
    assert_eq!((page["changes"].as_array().unwrap().len(), &page["hasMore"]), (5, &json!(false)));
    assert_eq!(cursor(&page), at);
}

#[tokio::test]
async fn a_cursor_that_was_never_the_callers_is_refused_and_one_that_is_too_old_is_gone() {
    let database = new_database().await;
    let servers = servers().await;
    let mut env = servers.env();
    env.extend(logins(&servers.postgres, &database));
    let (api, user) = (Api::start(env).await, User::new());
    let client = connect(&servers.postgres.owner_url(&database)).await;
    api.get("/api/changes").send().await.is_refused(401);
    let nothing = cursor(&changes(&api, &user, "").await);
    let account = api.create(&user, json!({})).await;
    let begun = cursor(&changes(&api, &user, "").await);
    for stranger in [user.colleague(), User { user: user.user, ..User::new() }, User::new()] {
        let own = cursor(&changes(&api, &stranger, "").await);
        assert_eq!(since(&api, &stranger, &own).await, Vec::<Value>::new());
        for foreign in [&nothing, &begun] {
            let refused = api.get(&format!("/api/changes?since={foreign}")).by(&stranger).send().await;
            refused.is_refused(400);
            assert_eq!(refused.faults(), ["since"]);
        }
        // Their numbers are no secret; that they are somebody else's opens nothing.
        api.create(&stranger, json!({})).await;
        let told = since(&api, &stranger, &own).await;
        assert!(told.len() == 1 && told[0]["id"] != account["id"], "{told:?}");
    }
    let message = "AQAAAAAAAAfQAZjA3gAAcACAAAAAAAAAAQ";
    let mutilated = begun.replacen('A', "B", 3);
    for bad in ["", "x", "0", "1", "since", message, &begun[1..], &format!("{begun}A"), &mutilated] {
        let refused = api.get(&format!("/api/changes?since={bad}&limit=1001")).by(&user).send().await;
        refused.is_refused(400);
        let faults = refused.faults();
        assert!(faults.contains(&"limit"), "{bad}: {faults:?}");
        let refused = api.get(&format!("/api/changes?since={bad}")).by(&user).send().await;
        refused.is_refused(400);
        assert_eq!(refused.faults(), ["since"], "{bad}");
    }
    api.get(&format!("/api/changes?since={begun}&since={begun}")).by(&user).send().await.is_refused(400);

    // A database that was restored has given fewer numbers.
    let number = "update email_change_numbers set last = last + $2 where user_id = $1 and tenant_id = $3";
    client.execute(number, &[&user.user, &-1_i64, &user.tenant]).await.unwrap();
    api.get(&format!("/api/changes?since={begun}")).by(&user).send().await.is_refused(400);
    client.execute(number, &[&user.user, &1_i64, &user.tenant]).await.unwrap();

    // What was destroyed is forgotten after thirty days, and whoever has not heard of it must list anew.
    let path = format!("/api/accounts/{}", account["id"].as_str().unwrap());
    api.delete(&path).by(&user).send().await;
    let after = cursor(&changes(&api, &user, "").await);
    client.execute("select purge_mail(1000)", &[]).await.unwrap();
    let told = [change("account", &account["id"], &account, "destroyed")];
    assert_eq!(since(&api, &user, &begun).await, told);
    let days = (now_seconds() as i64 - 30 * 24 * 60 * 60) * 1000;
    client.execute("update email_destroyed set destroyed_at = $1", &[&(days + 100_000)]).await.unwrap();
    client.execute("select purge_mail(1000)", &[]).await.unwrap();
    assert_eq!(since(&api, &user, &begun).await, told);
    client.execute("update email_destroyed set destroyed_at = $1", &[&(days - 100_000)]).await.unwrap();
    client.execute("select purge_mail(1000)", &[]).await.unwrap();
    for old in [&nothing, &begun] {
        api.get(&format!("/api/changes?since={old}")).by(&user).send().await.is_refused(410);
        api.get(&format!("/api/changes?since={old}")).by(&user.colleague()).send().await.is_refused(400);
    }
    assert_eq!(since(&api, &user, &after).await, Vec::<Value>::new());
}

/// All that lists show of a user, but for what is no change.
async fn lists(api: &Api, user: &User) -> BTreeMap<(String, String), Value> {
    let get = async |path: String| {
        let answer = api.get(&path).by(user).send().await;
        // An account may be gone meanwhile.
        assert!(answer.status == 200 || answer.status == 404, "{path}: {answer:?}");
        answer.body
    };
    let mut all = BTreeMap::new();
    let mut add = |kind: &str, thing: &Value, passing: &[&str]| {
        let mut thing = thing.clone();
        for field in passing {
            thing.as_object_mut().unwrap().remove(*field);
        }
        if let Some(error) = thing["lastError"].as_object_mut() {
            error.remove("at");
        }
        assert!(all.insert((kind.to_owned(), thing["id"].as_str().unwrap().to_owned()), thing).is_none());
    };
    let passing = ["lastSyncAt", "nextSyncAt", "isSyncing", "updatedAt"];
    let accounts = get("/api/accounts?limit=1000".to_owned()).await;
    for account in accounts["accounts"].as_array().unwrap() {
        add("account", account, &passing);
        let folders = get(format!("/api/accounts/{}/folders", account["id"].as_str().unwrap())).await;
        for folder in folders["folders"].as_array().into_iter().flatten() {
            add("folder", folder, &[]);
        }
    }
    for (list, kind, limit) in [("messages", "message", 200), ("outbox", "outbox", 100)] {
        let mut cursor = String::new();
        loop {
            let page = get(format!("/api/{list}?limit={limit}{cursor}")).await;
            for thing in page[if list == "outbox" { "entries" } else { list }].as_array().unwrap() {
                add(kind, thing, &[]);
            }
            let Some(next) = page["nextCursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
    }
    all
}

/// Somebody with a copy.
struct Reader<'a> {
    api: &'a Api,
    user: User,
    cursor: String,
    copy: BTreeMap<(String, String), Value>,
    /// What it was ever told of.
    known: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    async fn begin(api: &'a Api, user: User) -> Self {
        let cursor = cursor(&changes(api, &user, "").await);
        let copy = lists(api, &user).await;
        let known = copy.keys().map(|(_, id)| id.clone()).collect();
        Self { api, user, cursor, copy, known }
    }

    /// Asks once, and says whether there was nothing.
    async fn follow(&mut self, limit: usize) -> bool {
        let answer = changes(self.api, &self.user, &format!("limit={limit}&since={}", self.cursor)).await;
        let told = answer["changes"].as_array().unwrap();
        assert!(told.len() <= limit && (told.len() == limit || answer["hasMore"] == false), "{answer}");
        let now = if told.is_empty() { BTreeMap::new() } else { lists(self.api, &self.user).await };
        for change in told {
            let [kind, id, what] = ["type", "id", "change"].map(|field| change[field].as_str().unwrap().to_owned());
            match what.as_str() {
                "destroyed" if kind == "account" => {
                    self.copy.retain(|key, thing| *key.1 != id && thing["accountId"] != change["id"]);
                }
                "destroyed" => {
                    self.copy.remove(&(kind, id));
                }
                _ => {
                    let is_new = self.known.insert(id.clone());
                    assert!(what == "created" || !is_new, "nobody told that it was there: {change}");
                    let key = (kind, id);
                    match now.get(&key) {
                        Some(thing) => self.copy.insert(key, thing.clone()),
                        None => self.copy.remove(&key),
                    };
                }
            }
        }
        self.cursor = cursor(&answer);
        told.is_empty()
    }
}

/// Somebody who writes an account's mail as a worker does, statement by statement and not always to the end.
struct Writer<'a> {
    api: &'a Api,
    user: User,
    dice: Dice,
    worker: Client,
    owner: Client,
    name: usize,
    account: Uuid,
    token: i64,
    /// Where messages can lie, and the label.
    folders: Vec<Uuid>,
    label: Option<Uuid>,
}

impl Writer<'_> {
    /// One function of a worker's, in a transaction that others have to wait for, and that is undone now and then.
    async fn call(&mut self, function: &str, arguments: &str) {
        let arguments = format!("'{}', {}, {arguments}", self.account, self.token);
        self.apply(function, &arguments).await;
    }

    /// The same of one that needs no lease.
    async fn apply(&mut self, function: &str, arguments: &str) -> Vec<Row> {
        let User { tenant, user } = self.user;
        let sql = format!("select * from {function}('{tenant}', '{user}', {arguments})");
        self.worker.batch_execute("begin").await.unwrap();
        let rows = self.worker.query(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        tokio::time::sleep(Duration::from_millis(self.dice.roll(6) as u64)).await;
        let end = if self.dice.roll(6) == 0 { "rollback" } else { "commit" };
        self.worker.batch_execute(end).await.unwrap();
        rows
    }

    /// Any of the account's things in a table.
    async fn any(&mut self, table: &str) -> Option<Uuid> {
        let sql = format!("select id from {table} where account_id = $1 order by id");
        let rows = self.owner.query(&sql, &[&self.account]).await.unwrap();
        (!rows.is_empty()).then(|| rows[self.dice.roll(rows.len())].get(0))
    }

    /// Takes the account, and looks what there is.
    async fn begin(&mut self) {
        let ring = "update email_accounts set rung_at = 1, leased_until = null where id = $1";
        self.owner.execute(ring, &[&self.account]).await.unwrap();
        let begin = "select (account).lease_token from begin_sync($1, $2, $3, 600000) where outcome = 'begun'";
        let row = self.worker.query_opt(begin, &[&self.user.tenant, &self.user.user, &self.account]).await.unwrap();
        self.token = row.map_or(0, |row| row.get(0));
    }

    async fn look(&mut self) {
        let sql = "select id, is_label, is_gone, uid_validity from email_folders where account_id = $1 order by path";
        let rows = self.owner.query(sql, &[&self.account]).await.unwrap();
        self.folders.clear();
        self.label = None;
        for row in &rows {
            let id: Uuid = row.get(0);
            match (row.get::<_, bool>(1), row.get::<_, bool>(2)) {
                (true, false) => self.label = Some(id),
                (false, false) => {
                    if row.get::<_, Option<i64>>(3).is_none() {
                        let to = format!(
                            "array['{id}']::uuid[], array[1]::bigint[], array[1]::bigint[], array[null]::bigint[]"
                        );
                        self.call("reset_folders", &to).await;
                    }
                    self.folders.push(id);
                }
                (_, true) => {
                    self.call("orphan_messages", &format!("'{id}', '{{[1,1000)}}'")).await;
                    self.call("destroy_orphans", &format!("array['{id}']::uuid[], 0")).await;
                }
            }
        }
    }

    async fn create(&mut self) {
        let address = format!("{}-{}@example.com", self.name, Uuid::new_v4());
        let settings = json!({"emailAddress": address, "smtpHostname": "smtp.example.com"});
        let account = self.api.create(&self.user, settings).await;
        self.account = account["id"].as_str().unwrap().parse().unwrap();
        self.begin().await;
    }

    async fn happen(&mut self) {
        let path = format!("/api/accounts/{}", self.account);
        match self.dice.roll(26) {
            0 => {
                self.api.delete(&path).by(&self.user).send().await;
                self.create().await;
            }
            1 => {
                // With what takes the lease back, too.
                let port = 1000 + self.dice.roll(3);
                self.api.put(&path, json!({"port": port})).by(&self.user).send().await;
                self.begin().await;
            }
            2 => {
                let state = ["'connected'", "'connectError'"][self.dice.roll(2)];
                let error =
                    ["null, null, null", "'unreachable', 'No answer', 'imap'", "'unreachable', 'No answer', 'smtp'"];
                let error = error[self.dice.roll(3)];
                self.call("finish_sync", &format!("false, true, {state}, 0, 1000, {error}")).await;
                self.begin().await;
            }
            3 | 4 => {
                let names: Vec<_> = ["A", "B", "L"].into_iter().filter(|_| self.dice.roll(6) > 0).collect();
                let list =
                    |of: &dyn Fn(&str) -> String| names.iter().map(|name| of(name)).collect::<Vec<_>>().join(",");
                let role = ["null", "'inbox'"][self.dice.roll(2)];
                let arguments = format!(
                    "array[{}]::uuid[], array[{}]::bytea[], array[{}]::text[], array[{}]::text[], array[{}]::text[],
                     array[{}]::boolean[], array[{}]::boolean[]",
                    list(&|_| format!("'{}'", Uuid::now_v7())),
                    list(&|name| format!("'{name}'")),
                    list(&|name| format!("'{name}'")),
                    list(&|_| "'/'".to_owned()),
                    list(&|name| if name == "A" { role.to_owned() } else { "null".to_owned() }),
                    list(&|_| "true".to_owned()),
                    list(&|name| (name == "L").to_string()),
                );
                self.call("store_folders", &arguments).await;
                self.look().await;
            }
            5 if self.label.is_some() => {
                let (label, total) = (self.label.unwrap(), self.dice.roll(3));
                self.call("store_labels", &format!("array['{label}']::uuid[], array[1], array[{total}], array[0]"))
                    .await;
            }
            6 | 7 if !self.folders.is_empty() => {
                let folder = self.folders[self.dice.roll(self.folders.len())];
                let (from, many) = (self.dice.roll(20), self.dice.roll(6));
                self.call("orphan_messages", &format!("'{folder}', '{{[{from},{})}}'", from + many)).await;
            }
            8 if !self.folders.is_empty() => {
                let folder = self.folders[self.dice.roll(self.folders.len())];
                self.call("destroy_orphans", &format!("array['{folder}']::uuid[], 0")).await;
            }
            9 | 10 => self.write().await,
            11 | 12 => self.deliver().await,
            13 => self.decide().await,
            14 | 15 if !self.folders.is_empty() => self.act().await,
            16 => {
                if let Some(message) = self.any("email_messages").await {
                    let preview = ["null", "'How it begins'"][self.dice.roll(2)];
                    let has_attachments = self.dice.roll(2) == 0;
                    self.apply("note_opened", &format!("'{message}', {preview}, {has_attachments}, null")).await;
                }
            }
            _ if !self.folders.is_empty() => self.store_batch().await,
            _ => self.look().await,
        }
    }

    /// Puts a message into the outbox.
    async fn write(&mut self) {
        let at = [Value::Null, json!(now_seconds() * 1000 + 3_600_000)][self.dice.roll(6) / 5].clone();
        let message = json!({"accountId": self.account, "to": [{"address": "john@example.com"}], "sendAt": at});
        let answer = self.api.post("/api/outbox", message).by(&self.user).send().await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }

    /// Takes what is to be sent, as a worker does, which may die with it, while its user decides something about another.
    async fn deliver(&mut self) {
        let User { tenant, user } = self.user;
        let claim = "select task, (entry).id, (entry).lease_token from claim_outgoing($1, $2, $3, 20)";
        let Some(row) = self.worker.query_opt(claim, &[&tenant, &user, &self.account]).await.unwrap() else { return };
        let (task, id, token): (String, Uuid, i64) = (row.get(0), row.get(1), row.get(2));
        if task == "send" && self.dice.roll(3) > 0 {
            self.apply("commit_outgoing", &format!("'{id}', {token}, '{{0}}'")).await;
        }
        if self.dice.roll(4) == 0 {
            return;
        }
        let statuses: &[_] = match task.as_str() {
            "send" => &["sent", "queued", "queued", "rejected", "failed", "uncertain"],
            "look" => &["sent", "queued", "uncertain"],
            _ => &["sent"],
        };
        let status = statuses[self.dice.roll(statuses.len())];
        let (pause, hold) = match status {
            "queued" => ("10", ["null", "15"][self.dice.roll(2)]),
            "uncertain" => ("10", "null"),
            _ => ("null", "null"),
        };
        let reception = ["pending", "accepted"][usize::from(status == "sent")];
        let arguments = format!(
            r#"'{id}', {token}, '{status}', '[{{"address":"john@example.com","status":"{reception}","response":null}}]',
            '{{}}', 'Answer {}', 'none', 0, {pause}, {hold}, false"#,
            self.dice.roll(3)
        );
        // Who holds one row has the others of the account wait: not for each other.
        let (api, caller, other) = (self.api, self.user, self.any("email_outbox").await);
        let deciding = async {
            if let Some(other) = other {
                decide(api, &caller, other, true).await;
            }
        };
        tokio::join!(self.apply("finish_outgoing", &arguments), deciding);
    }

    /// Its user changes his mind about a message.
    async fn decide(&mut self) {
        let is_wanted = self.dice.roll(2) == 0;
        if let Some(entry) = self.any("email_outbox").await {
            decide(self.api, &self.user, entry, is_wanted).await;
        }
    }

    /// Flags, moves and deletes a message, as from the API.
    async fn act(&mut self) {
        let Some(message) = self.any("email_messages").await else { return };
        let sql = "select folder_id, coalesce(uid, 0) from email_messages where id = $1";
        let Some(row) = self.owner.query_opt(sql, &[&message]).await.unwrap() else { return };
        let (folder, uid): (Uuid, i64) = (row.get(0), row.get(1));
        let uuid = |id: Option<Uuid>| id.map_or("null".to_owned(), |id| format!("'{id}'"));
        let to = Some(self.folders[self.dice.roll(self.folders.len())]).filter(|to| *to != folder);
        let (to, destroyed) = match self.dice.roll(3) {
            0 => (None, false),
            1 => (to, false),
            _ => (None, true),
        };
        let label = self.label.filter(|_| self.dice.roll(2) == 0);
        let (added, removed) = if self.dice.roll(2) == 0 { (label, None) } else { (None, label) };
        let bits = ["null", "0", "1", "3"][self.dice.roll(4)];
        let next = ["null".to_owned(), (30 + self.dice.roll(9)).to_string()][self.dice.roll(2)].clone();
        let arguments = format!(
            "'{}', array['{message}']::uuid[], array['{folder}']::uuid[], array[{uid}]::bigint[],
             array[{bits}]::smallint[], array[{}]::uuid[], array[1]::bigint[], array[{next}]::bigint[],
             array[{}], array[{destroyed}], array[{}]::uuid[], array[{}]::uuid[], {}, false",
            self.account,
            uuid(to),
            self.dice.roll(4) == 0,
            uuid(added),
            uuid(removed),
            self.dice.roll(2) == 0,
        );
        self.apply("apply_actions", &arguments).await;
    }

    async fn store_batch(&mut self) {
        let folder = self.folders[self.dice.roll(self.folders.len())];
        let mut some = |most: usize| -> Vec<usize> { (1..most).filter(|_| self.dice.roll(8) == 0).collect() };
        let (flagged, came, labelled) = (some(25), some(25), some(25));
        let list = |of: &[usize], what: &mut dyn FnMut(usize) -> String| {
            of.iter().map(|uid| what(*uid)).collect::<Vec<_>>().join(",")
        };
        let account = self.account;
        let identity = |uid: usize| format!("'{}'", Uuid::new_v5(&account, &[uid as u8 % 20]));
        let null = |_: usize| "null".to_owned();
        let dice = &mut self.dice;
        let labels = self.label.map(|label| (label, some_of(&labelled, dice)));
        let arguments = format!(
            "array['{folder}']::uuid[], array[1]::bigint[], array[null]::text[], array[null]::bigint[], array[null]::bigint[],
             array[null]::boolean[], array[null]::bigint[], array[{}]::integer[], array[{}]::integer[],
             array[{}]::integer[], array[{}]::bigint[], array[{}]::smallint[], array[{}]::integer[], array[{}]::uuid[],
             array[{}]::bigint[], array[{}]::uuid[], array[{}]::uuid[], array[{}]::bigint[], array[{}]::bigint[], array[{}]::bigint[],
             array[{}]::smallint[], array[{}]::text[], array[{}]::text[], array[{}]::text[], array[{}]::text[], array[{}]::text[],
             array[{}]::text[], array[{}]::text[], array[{}]::text[], array[{}]::text[], array[{}]::integer[], array[{}]::bigint[],
             array[{}]::integer[], array[{}]::bigint[], array[{}]::uuid[]",
            dice.roll(3),
            dice.roll(2),
            list(&flagged, &mut |_| "1".to_owned()),
            list(&flagged, &mut |uid| uid.to_string()),
            list(&flagged, &mut |_| dice.roll(16).to_string()),
            list(&came, &mut |_| "1".to_owned()),
            list(&came, &mut |_| format!("'{}'", Uuid::now_v7())),
            list(&came, &mut |uid| uid.to_string()),
            list(&came, &mut |uid| identity(uid)),
            list(&came, &mut |uid| identity(uid)),
            // The same message may have another date, or a preview, when it is found again.
            list(&came, &mut |_| (1000 + dice.roll(2)).to_string()),
            list(&came, &mut |_| null(0)),
            list(&came, &mut |_| "7".to_owned()),
            list(&came, &mut |_| dice.roll(16).to_string()),
            list(&came, &mut |uid| format!("'{uid}'")),
            list(&came, &mut |_| null(0)),
            list(&came, &mut |_| null(0)),
            list(&came, &mut |_| null(0)),
            list(&came, &mut |_| null(0)),
            list(&came, &mut |_| null(0)),
            list(&came, &mut |_| null(0)),
            list(&came, &mut |_| null(0)),
            list(&came, &mut |_| ["null", "'How'"][dice.roll(2)].to_owned()),
            if labels.is_some() { list(&labelled, &mut |_| "1".to_owned()) } else { String::new() },
            if labels.is_some() { list(&labelled, &mut |uid| uid.to_string()) } else { String::new() },
            labels.iter().flat_map(|(_, uids)| uids).map(|_| "1").collect::<Vec<_>>().join(","),
            labels.iter().flat_map(|(_, uids)| uids).map(usize::to_string).collect::<Vec<_>>().join(","),
            labels.iter().flat_map(|(label, uids)| uids.iter().map(move |_| format!("'{label}'"))).collect::<Vec<_>>().join(","),
        );
        self.call("store_batch", &arguments).await;
    }
}

/// Takes a message of the outbox back, or has it tried again; neither is possible at any time.
async fn decide(api: &Api, user: &User, entry: Uuid, is_wanted: bool) {
    let path = format!("/api/outbox/{entry}");
    let answer = match is_wanted {
        true => api.post(&format!("{path}/retry"), json!({})).by(user).send().await,
        false => api.delete(&path).by(user).send().await,
    };
    assert!([200, 202, 204, 404, 409].contains(&answer.status), "{answer:?}");
}

fn some_of(all: &[usize], dice: &mut Dice) -> Vec<usize> {
    all.iter().copied().filter(|_| dice.roll(2) == 0).collect()
}

/// Rounds of the history below; `CHANGES_SEED` asks for another one.
const TURNS: usize = 60;

#[tokio::test]
async fn a_copy_that_follows_the_changes_is_what_the_lists_say_whoever_writes_meanwhile() {
    let database = new_database().await;
    let servers = servers().await;
    let mut env = servers.env();
    env.extend(logins(&servers.postgres, &database));
    let (api, user) = (Api::start_as(env, local::gateway::PayloadVersion::V2, 3).await, User::new());
    let seed = std::env::var("CHANGES_SEED").map_or(1, |seed| seed.parse().unwrap());
    let owner = connect(&servers.postgres.owner_url(&database)).await;
    let mut writers = Vec::new();
    for name in 0..4 {
        let mut writer = Writer {
            api: &api,
            user,
            dice: Dice::new(seed * 100 + name as u64),
            worker: connect(&servers.postgres.mail_url(&database)).await,
            owner: connect(&servers.postgres.owner_url(&database)).await,
            name,
            account: Uuid::nil(),
            token: 0,
            folders: Vec::new(),
            label: None,
        };
        writer.create().await;
        writers.push(writer);
    }
    // The same user of another tenant writes as well, and must be in nobody's copy.
    let namesake = User { user: user.user, ..User::new() };
    let stranger = api.create(&namesake, json!({"smtpHostname": "smtp.example.com"})).await;
    let message = json!({"accountId": stranger["id"], "to": [{"address": "john@example.com"}]});
    assert_eq!(api.post("/api/outbox", message).by(&namesake).send().await.status, 202);
    let stranger = format!("/api/accounts/{}", stranger["id"].as_str().unwrap());

    let is_over = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::Relaxed;
    let writing = async {
        let each = writers.iter_mut().map(async |writer| {
            for _ in 0..TURNS {
                writer.happen().await;
            }
            // Whatever became of the others.
            writer.write().await;
        });
        futures_util::future::join_all(each).await;
        is_over.store(true, order);
    };
    let cleaning = async {
        for n in 0.. {
            if is_over.load(order) {
                return;
            }
            owner.execute("select purge_mail(7)", &[]).await.unwrap();
            api.put(&stranger, json!({"port": 1000 + n % 7})).by(&namesake).send().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let reading = futures_util::future::join_all((0..3).map(async |n| {
        let mut dice = Dice::new(seed * 100 + 50 + n);
        let mut reader = Reader::begin(&api, user).await;
        let mut asked = 0;
        while !is_over.load(order) {
            reader.follow([1, 2, 7, 50][dice.roll(4)]).await;
            tokio::time::sleep(Duration::from_millis(dice.roll(30) as u64)).await;
            asked += 1;
            // Somebody else comes, who has nothing yet.
            if asked == 10 {
                reader = Reader::begin(&api, user).await;
            }
        }
        reader
    }));
    let (readers, ..) = tokio::join!(reading, writing, cleaning);
    let expected = lists(&api, &user).await;
    for kind in ["account", "folder", "message", "outbox"] {
        let many = expected.keys().filter(|key| key.0 == kind).count();
        assert!(many > 1, "{kind}: {many}");
    }
    for (n, mut reader) in readers.into_iter().enumerate() {
        while !reader.follow(5).await {}
        let differing: Vec<_> = expected.iter().filter(|(key, thing)| reader.copy.get(*key) != Some(thing)).collect();
        let too_much: Vec<_> = reader.copy.keys().filter(|key| !expected.contains_key(*key)).collect();
        assert!(differing.is_empty() && too_much.is_empty(), "seed {seed}, reader {n}: {differing:#?}, {too_much:?}");
    }
}
