//! Lists of folders and messages. The rows are as a worker would leave them.

use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::{Api, User, api, folder_row, merged, message_row, owner, servers, store, store_label};

async fn folder(client: &Client, account: &Value, path: &str, changes: Value) -> Uuid {
    store(client, "email_folders", folder_row(account, path, changes)).await
}

async fn message(client: &Client, account: &Value, folder: Uuid, changes: Value) -> Uuid {
    store(client, "email_messages", message_row(account, folder, changes)).await
}

/// The ids of a list's first page, and the cursor of the next.
async fn page(api: &Api, user: &User, query: &str) -> (Vec<Uuid>, Option<String>) {
    let answer = api.get(&format!("/api/messages?{query}")).by(user).send().await;
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    let messages = answer.body["messages"].as_array().unwrap();
    let ids = messages.iter().map(|message| message["id"].as_str().unwrap().parse().unwrap()).collect();
    assert_eq!(answer.body.as_object().unwrap().len(), 2);
    (ids, answer.body["nextCursor"].as_str().map(str::to_owned))
}

#[tokio::test]
async fn folders_have_their_places_and_stay_until_their_messages_are_gone() {
    let (api, user, client) = (api().await, User::new(), owner().await);
    let account = api.create(&user, json!({})).await;
    let path = format!("/api/accounts/{}/folders", account["id"].as_str().unwrap());
    let answer = api.get(&path).by(&user).send().await;
    assert_eq!((answer.status, answer.body), (200, json!({"folders": []})));

    let inbox = folder(&client, &account, "INBOX", json!({"role": "inbox", "total": 7, "unread": 2})).await;
    let work = folder(&client, &account, "Wörk", json!({"is_selectable": false})).await;
    let gone = folder(&client, &account, "Wörk/2026/Old", json!({"is_gone": true, "role": "archive"})).await;
    let other = api.create(&user, json!({"emailAddress": "other@example.com"})).await;
    folder(&client, &other, "INBOX", json!({"role": "inbox"})).await;
    let shape =
        |id: Uuid, parent: Option<Uuid>, name: &str, path: &str, role: Option<&str>, selectable, total, unread| {
            json!({
                "id": id, "accountId": account["id"], "parentId": parent, "name": name, "path": path, "role": role,
                "isSelectable": selectable, "total": total, "unread": unread
            })
        };
    let expected = json!({"folders": [
        shape(inbox, None, "INBOX", "INBOX", Some("inbox"), true, 7, 2),
        shape(work, None, "Wörk", "Wörk", None, false, 0, 0),
        shape(gone, Some(work), "Old", "Wörk/2026/Old", Some("archive"), true, 0, 0),
    ]});
    let answer = api.get(&path).by(&user).send().await;
    assert_eq!((answer.status, answer.body), (200, expected));
}

#[tokio::test]
async fn a_message_looks_as_promised() {
    let (api, user, client) = (api().await, User::new(), owner().await);
    let account = api.create(&user, json!({})).await;
    let inbox = folder(&client, &account, "INBOX", json!({"role": "inbox"})).await;
    let thread = Uuid::now_v7();
    let full = json!({
        "thread_id": thread, "uid": 7, "received_at": 2000, "sent_at": 1999, "size": 5_000_000_000_i64, "is_read": true,
        "is_flagged": true, "is_answered": true, "is_draft": true, "has_attachments": true, "subject": "Größe \"x\"",
        "from_list": r#"[["Jäne","jane@example.com"]]"#, "to_list": r#"[[null,"joe@example.com"],["Ann","ann@example.com"]]"#,
        "cc_list": r#"[[null,"cc@example.com"]]"#, "bcc_list": r#"[[null,"bcc@example.com"]]"#,
        "reply_to_list": r#"[["List","list@example.com"]]"#, "message_id": "2@example.com",
        "in_reply_to": "1@example.com", "preview": "How it begins"
    });
    let first = message(&client, &account, inbox, full).await;
    let bare = message(&client, &account, inbox, json!({"thread_id": thread, "is_readable": false})).await;
    let answer = api.get("/api/messages").by(&user).send().await;
    let empty = json!([]);
    let expected = json!({"messages": [
        {
            "id": first, "accountId": account["id"], "folderId": inbox, "threadId": thread, "messageId": "2@example.com",
            "inReplyTo": "1@example.com", "subject": "Größe \"x\"", "from": [{"name": "Jäne", "address": "jane@example.com"}],
            "to": [{"name": null, "address": "joe@example.com"}, {"name": "Ann", "address": "ann@example.com"}],
            "cc": [{"name": null, "address": "cc@example.com"}], "bcc": [{"name": null, "address": "bcc@example.com"}],
            "replyTo": [{"name": "List", "address": "list@example.com"}], "sentAt": 1999, "receivedAt": 2000,
            "size": 5_000_000_000_i64, "isRead": true, "isFlagged": true, "isAnswered": true, "isDraft": true,
            "hasAttachments": true, "preview": "How it begins"
        },
        {
            "id": bare, "accountId": account["id"], "folderId": inbox, "threadId": thread, "messageId": null,
            "inReplyTo": null, "subject": "Lunch?", "from": empty, "to": empty, "cc": empty, "bcc": empty, "replyTo": empty,
            "sentAt": null, "receivedAt": 1000, "size": 5120, "isRead": false, "isFlagged": false, "isAnswered": false,
            "isDraft": false, "hasAttachments": false, "preview": null
        }
    ], "nextCursor": null});
    assert_eq!((answer.status, answer.body), (200, expected));
}

/// A message of the test's own, as the filters see it.
struct Sample {
    id: Uuid,
    account: usize,
    folder: usize,
    received_at: i64,
    is_read: bool,
    is_flagged: bool,
}

#[tokio::test]
async fn every_combination_of_filters_finds_what_it_should_page_by_page() {
    let (api, user, client) = (api().await, User::new(), owner().await);
    let mut accounts = Vec::new();
    for n in 0..2 {
        accounts.push(api.create(&user, json!({"emailAddress": format!("{n}@example.com")})).await);
    }
    let roles = [(0, Some("inbox")), (0, Some("sent")), (0, None), (1, Some("inbox"))];
    let mut folders = Vec::new();
    for (n, (account, role)) in roles.into_iter().enumerate() {
        folders.push(folder(&client, &accounts[account], &format!("F{n}"), json!({ "role": role })).await);
    }
    // Somebody else's, and one's own of an account that is deleted, must not be found by any of them.
    let strangers = api.create(&User::new(), json!({})).await;
    let deleted = api.create(&user, json!({"emailAddress": "deleted@example.com"})).await;
    for account in [&strangers, &deleted] {
        let inbox = folder(&client, account, "INBOX", json!({"role": "inbox"})).await;
        for received_at in [3, 7] {
            message(&client, account, inbox, json!({"received_at": received_at, "is_flagged": true})).await;
        }
    }
    api.delete(&format!("/api/accounts/{}", deleted["id"].as_str().unwrap())).by(&user).send().await;
    let mut samples = Vec::new();
    for n in 0..60_usize {
        let folder = n * 7 % 4;
        let (account, received_at) = (roles[folder].0, n as i64 / 4);
        let (is_read, is_flagged) = (n % 3 != 0, n % 5 == 0);
        let row = json!({"received_at": received_at, "is_read": is_read, "is_flagged": is_flagged, "uid": n});
        let id = message(&client, &accounts[account], folders[folder], row).await;
        samples.push(Sample { id, account, folder, received_at, is_read, is_flagged });
    }
    samples.sort_by_key(|sample| std::cmp::Reverse((sample.received_at, sample.id)));

    let own = |values: &[&str]| [&[""], values].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
    let one_of = |name: &str, ids: Vec<String>| {
        std::iter::once(String::new()).chain(ids.into_iter().map(|id| format!("&{name}={id}"))).collect::<Vec<_>>()
    };
    let filters = [
        one_of("accountId", accounts.iter().map(|account| account["id"].as_str().unwrap().to_owned()).collect()),
        one_of("folderId", folders.iter().map(Uuid::to_string).collect()),
        own(&["&role=inbox", "&role=Sent"]),
        own(&["&isRead=true", "&isRead=false"]),
        own(&["&isFlagged=true", "&isFlagged=false"]),
        own(&["&after=4", "&before=9", "&after=4&before=9"]),
    ];
    let mut found_any = 0;
    for n in 0..filters.iter().map(Vec::len).product::<usize>() {
        let mut rest = n;
        let chosen = filters.each_ref().map(|values| {
            let value = rest % values.len();
            rest /= values.len();
            value
        });
        let given = chosen.iter().filter(|value| **value > 0).count();
        // More of them at once only find less.
        if given > 3 {
            continue;
        }
        let [account, folder, role, read, flag, time] = chosen;
        let fits = |sample: &&Sample| {
            (account == 0 || sample.account == account - 1)
                && (folder == 0 || sample.folder == folder - 1)
                && [None, Some("inbox"), Some("sent")][role].is_none_or(|name| roles[sample.folder].1 == Some(name))
                && [None, Some(true), Some(false)][read].is_none_or(|read| sample.is_read == read)
                && [None, Some(true), Some(false)][flag].is_none_or(|flag| sample.is_flagged == flag)
                && (time % 2 == 0 || sample.received_at >= 4)
                && (time < 2 || sample.received_at < 9)
        };
        let expected: Vec<_> = samples.iter().filter(fits).map(|sample| sample.id).collect();
        let query: String = filters.iter().zip(chosen).map(|(values, value)| values[value].as_str()).collect();
        assert_eq!(page(api, &user, &format!("limit=200{query}")).await, (expected.clone(), None), "{query}");
        found_any += usize::from(!expected.is_empty());
        // Also page by page, with a bound in time as well.
        if given < 2 || given == 2 && time > 0 {
            let (mut pages, mut cursor) = (Vec::new(), String::new());
            loop {
                let (found, next) = page(api, &user, &format!("limit=7{query}{cursor}")).await;
                assert!(found.len() == 7 || next.is_none(), "{query}");
                pages.extend(found);
                let Some(next) = next else { break };
                cursor = format!("&cursor={next}");
            }
            assert_eq!(pages, expected, "{query}");
        }
    }
    assert!(found_any > 100, "{found_any}");
}

#[tokio::test]
async fn pages_are_fifty_unless_asked_and_a_full_last_page_is_the_last() {
    let (api, user, client) = (api().await, User::new(), owner().await);
    let account = api.create(&user, json!({})).await;
    let inbox = folder(&client, &account, "INBOX", json!({})).await;
    for _ in 0..52 {
        message(&client, &account, inbox, json!({})).await;
    }
    let (first, next) = page(api, &user, "").await;
    assert_eq!(first.len(), 50);
    let (last, next) = page(api, &user, &format!("limit=2&cursor={}", next.unwrap())).await;
    assert_eq!((last.len(), next), (2, None));
    assert!(first.iter().chain(&last).is_sorted_by(|a, b| a > b), "all came at once: the id decides");
}

#[tokio::test]
async fn messages_that_were_written_to_be_large_make_short_pages_and_no_answer_too_large_for_lambda() {
    let (api, user, client) = (api().await, User::new(), owner().await);
    let account = api.create(&user, json!({})).await;
    let inbox = folder(&client, &account, "INBOX", json!({})).await;
    // What grows most: many short addresses, and what has to be escaped twice.
    let list = format!("[{}]", vec![r#"[null,"a"]"#; 2200].join(","));
    let row = json!({
        "from_list": list, "to_list": list, "cc_list": list, "bcc_list": list, "reply_to_list": list,
        "subject": "\"".repeat(24_000), "preview": "\\".repeat(200)
    });
    for n in 0..25 {
        message(&client, &account, inbox, merged(row.clone(), json!({"received_at": n}))).await;
    }
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let answer = api.get(&format!("/api/messages?limit=200{cursor}")).by(&user).send().await;
        assert_eq!(answer.status, 200);
        // As the function writes it: a text within JSON.
        let length = Value::from(answer.body.to_string()).to_string().len();
        assert!(length < 6_000_000, "{length}");
        let messages = answer.body["messages"].as_array().unwrap();
        assert!(!messages.is_empty() && messages.len() < 25);
        found.extend(messages.iter().map(|message| message["receivedAt"].as_i64().unwrap()));
        let Some(next) = answer.body["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(found, (0..25).rev().collect::<Vec<_>>());
}

/// What one request has freed is there for the next: it is not given back to the system, to be asked for again page by page.
#[tokio::test]
async fn a_function_that_is_warm_asks_for_no_more_memory() {
    const REQUESTS: u64 = 20;
    let (api, user, client) = (Api::start(servers().await.env()).await, User::new(), owner().await);
    let account = api.create(&user, json!({})).await;
    let inbox = folder(&client, &account, "INBOX", json!({})).await;
    for _ in 0..50 {
        message(&client, &account, inbox, json!({"subject": "long ".repeat(400)})).await;
    }
    let faults = || {
        let [pid] = &api.gateway.pids("list-messages").unwrap()[..] else { panic!("one at a time") };
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // proc_pid_stat(5): minflt is the tenth field, and the name before it has an end of its own.
        status.rsplit(") ").next().unwrap().split(' ').nth(7).unwrap().parse::<u64>().unwrap()
    };
    let mut before = 0;
    for request in 0..2 * REQUESTS {
        if request == REQUESTS {
            before = faults();
        }
        assert_eq!(page(&api, &user, "").await.0.len(), 50);
    }
    let each = (faults() - before) / REQUESTS;
    assert!(each < 10, "{each} pages for a request");
}

#[tokio::test]
async fn what_is_not_the_callers_finds_nothing_and_helps_nobody() {
    let (api, user, client) = (api().await, User::new(), owner().await);
    let account = api.create(&user, json!({})).await;
    let inbox = folder(&client, &account, "INBOX", json!({"role": "inbox"})).await;
    for n in 0..3 {
        message(&client, &account, inbox, json!({"received_at": n})).await;
    }
    let id = account["id"].as_str().unwrap();
    let (_, cursor) = page(api, &user, "limit=2").await;
    let cursor = cursor.unwrap();
    for stranger in [user.colleague(), User { user: user.user, ..User::new() }, User::new()] {
        for query in ["", "role=inbox", "isRead=false", &format!("accountId={id}"), &format!("folderId={inbox}")] {
            assert_eq!(page(api, &stranger, query).await, (vec![], None), "{query}");
        }
        // A cursor is a place, and opens nothing.
        assert_eq!(page(api, &stranger, &format!("cursor={cursor}")).await, (vec![], None));
    }
    let unknown = Uuid::now_v7();
    for query in
        [format!("accountId={unknown}"), format!("folderId={unknown}"), format!("accountId={id}&folderId={unknown}")]
    {
        assert_eq!(page(api, &user, &query).await, (vec![], None), "{query}");
    }
    api.get("/api/messages").send().await.is_refused(401);
    assert_eq!(page(api, &user, "").await.0.len(), 3);
    api.put(&format!("/api/accounts/{id}"), json!({"isEnabled": false})).by(&user).send().await;
    for query in ["", "role=inbox", "isRead=false", &format!("accountId={id}"), &format!("folderId={inbox}")] {
        assert_eq!(page(api, &user, query).await, (vec![], None), "{query}");
    }
}

#[tokio::test]
async fn a_query_that_cannot_be_read_is_refused_with_every_fault() {
    let (api, user) = (api().await, User::new());
    let all = "limit=0&cursor=x&accountId=7&folderId=x&role=bin&isRead=1&isFlagged=yes&after=now&before=-1";
    let refused = api.get(&format!("/api/messages?{all}")).by(&user).send().await;
    refused.is_refused(400);
    let names = ["accountId", "after", "before", "cursor", "folderId", "isFlagged", "isRead", "limit", "role"];
    assert_eq!(refused.faults(), names);
    for bad in [
        "limit=201",
        "limit=",
        "limit=5&limit=5",
        "cursor=",
        "cursor=AAAA",
        "after=1.5",
        "isRead=",
        "accountId=",
        "role=",
        // Of another kind, and one byte short.
        "cursor=AgAAAAAAAAfQAZjA3gAAcACAAAAAAAAAAQ",
        "cursor=AQAAAAAAAAfQAZjA3gAAcACAAAAAAAAA",
    ] {
        let refused = api.get(&format!("/api/messages?{bad}")).by(&user).send().await;
        refused.is_refused(400);
        assert_eq!(refused.faults(), [bad.split('=').next().unwrap()], "{bad}");
    }
    // As elsewhere, a parameter that nobody knows is none.
    assert_eq!(page(api, &user, "unknown=1&limit=200").await, (vec![], None));
}

/// What a list finds, by subject.
async fn subjects(api: &Api, user: &User, query: &[(&str, &str)]) -> Vec<String> {
    let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let query: Vec<_> = query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    let query = query.join("&");
    let answer = api.get(&format!("/api/messages?{query}")).by(user).send().await;
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    let messages = answer.body["messages"].as_array().unwrap();
    messages.iter().map(|message| message["subject"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn texts_are_found_in_any_script_and_case_and_mean_nothing_but_themselves() {
    let (api, user, client) = (api().await, User::new(), owner().await);
    let account = api.create(&user, json!({})).await;
    let inbox = folder(&client, &account, "INBOX", json!({"role": "inbox"})).await;
    for (text, finds, not) in [
        ("Lunch", &["lunch", "LUNCH", "lUn", "n"][..], &["lunsh", "lunch?"][..]),
        (
            "Grüße aus der Straße",
            &["GRÜSSE", "grüsse", "STRASSE", "straẞe", "e AUS d", "ß", "ss"],
            &["strase", "grusse"],
        ),
        ("Привет, МИР", &["привет", "ПРИВЕТ, мир", "Ир"], &["privet", "миру"]),
        ("ΟΔΟΣ Σίσυφος", &["οδος", "οδοσ", "σίσυφοσ", "ΣΊΣΥΦΟΣ"], &["οδοί"]),
        ("İSTANBUL ısı", &["istanbul", "İstanbul", "ISI", "ısı", "isi"], &["ustanbul"]),
        ("こんにちは世界", &["世界", "にち"], &["世 界"]),
        ("שלום مرحبا", &["שלום", "مرحبا", "ם م"], &["שלומ"]),
        ("ﬁnance ſtop", &["finance", "FINANCE", "stop", "STOP"], &["fnance"]),
        ("🎉 party", &["🎉", "🎉 P"], &["🎈"]),
        ("𐐨𐐩", &["𐐀", "𐐁"], &["𐐂"]),
        ("100% _sure_", &["100%", "%", "_", "_SURE_"], &["100_", "%sure", "_sure%"]),
        (r#"it's "so" \ or so"#, &["it's", "\"so\"", "\\", " \\ ", "\"SO\" \\"], &["\\\\", "\"\"", "\\or", "\\s"]),
        ("a.b*c+d?(e)[f]{2}^$|g", &["a.b*c", "+D?(", "(e)[f]{2}^$|G", "|", "[f]"], &["axb", "a.bbc", ".*", "[e]"]),
        ("caf\u{e9}", &["CAFE\u{301}", "caf\u{c9}"], &["cafe"]),
        (&"long ".repeat(60), &[&"long ".repeat(40), "ng LONG"], &[&"lang ".repeat(40)]),
    ] {
        message(&client, &account, inbox, json!({"subject": text})).await;
        for (looked_for, is_found) in finds.iter().map(|text| (text, true)).chain(not.iter().map(|text| (text, false)))
        {
            for parameter in ["subject", "q"] {
                let found = subjects(api, &user, &[(parameter, looked_for)]).await;
                assert_eq!(found.contains(&text.to_owned()), is_found, "{parameter} {looked_for:?} in {text:?}");
            }
        }
    }
}

#[tokio::test]
async fn names_and_addresses_are_searched_and_not_how_they_are_stored() {
    let (api, user, client) = (api().await, User::new(), owner().await);
    let account = api.create(&user, json!({})).await;
    let inbox = folder(&client, &account, "INBOX", json!({})).await;
    let people = [
        (Some("Doe, Jane"), "jane@example.com"),
        (None, "null-and@void.example"),
        (Some(r#"Joe "the \ back" Null"#), "joe@example.com"),
        (Some(r"ends in \"), "back@example.com"),
        (Some("],["), "brackets@example.com"),
        (Some(","), "comma@example.com"),
        (Some("JÜRGEN"), "j@bücher.example"),
        (Some("Nn"), "lone@example.com"),
    ];
    let columns = ["from_list", "to_list", "cc_list", "bcc_list", "preview"];
    for (n, (name, address)) in people.iter().enumerate() {
        let list = Value::from(vec![json!([name, address])]).to_string();
        for column in columns {
            let value = if column == "preview" { json!(address) } else { json!(list) };
            let subject = format!("{n} {column}");
            message(&client, &account, inbox, json!({ column: value, "subject": subject, "received_at": n })).await;
        }
    }
    let texts = [
        "jane",
        "DOE, J",
        "doe,j",
        ",",
        "null",
        "NULL-AND",
        "l",
        "\"",
        "\\",
        "\\\"",
        "\"the",
        "back\\",
        "n \\",
        "],[",
        "[",
        "]",
        "\",\"",
        "[\"",
        "null,",
        "[null",
        "],",
        "jürgen",
        "bücher.",
        "@",
        "nn\",",
        "example.com\"",
        "[[",
        "]]",
        "nul",
        "\\\\",
    ];
    for text in texts {
        let lower = text.to_lowercase();
        let within = |text: &str| text.to_lowercase().contains(&lower);
        let fits = |columns: &[&str]| {
            let mut fitting = Vec::new();
            for (n, (name, address)) in people.iter().enumerate() {
                for column in columns {
                    let is_name = *column != "preview" && name.is_some_and(within);
                    let subject = format!("{n} {column}");
                    if is_name || within(address) || columns.len() == 5 && within(&subject) {
                        fitting.push(subject);
                    }
                }
            }
            fitting.sort();
            fitting
        };
        for (parameter, columns) in [("from", &columns[..1]), ("to", &columns[1..4]), ("q", &columns[..])] {
            let mut found = subjects(api, &user, &[(parameter, text), ("limit", "200")]).await;
            found.sort();
            assert_eq!(found, fits(columns), "{parameter}={text}");
        }
    }
}

#[tokio::test]
async fn texts_threads_and_attachments_go_with_the_other_filters_and_with_cursors() {
    let (api, user, client) = (api().await, User::new(), owner().await);
    let account = api.create(&user, json!({})).await;
    let id = account["id"].as_str().unwrap();
    let mut folders = Vec::new();
    for (path, role) in [("INBOX", Some("inbox")), ("Sent", Some("sent"))] {
        folders.push(folder(&client, &account, path, json!({ "role": role })).await);
    }
    let label = folder(&client, &account, "Label", json!({"is_label": true})).await;
    let threads = [Uuid::now_v7(), Uuid::now_v7()];
    // Another user's message of the same thread is found by nobody but him.
    let (stranger, colleague) = (User::new(), user.colleague());
    for other in [&stranger, &colleague] {
        let theirs = api.create(other, json!({})).await;
        let inbox = folder(&client, &theirs, "INBOX", json!({"role": "inbox"})).await;
        message(&client, &theirs, inbox, json!({"thread_id": threads[0], "subject": "Größe", "has_attachments": true}))
            .await;
    }
    let mut samples = Vec::new();
    for n in 0..80_usize {
        let (thread, place, is_read) = (threads[n % 2], n / 2 % 2, n % 5 != 0);
        let (has_attachments, subject) = (n % 3 == 0, ["Größe", "Farbe", "größer"][n / 4 % 3]);
        let row = json!({
            "thread_id": thread, "received_at": n / 3, "is_read": is_read, "has_attachments": has_attachments,
            "subject": subject, "from_list": format!(r#"[[null,"{}@example.com"]]"#, n % 7)
        });
        let message = message(&client, &account, folders[place], row).await;
        let is_labelled = n % 4 < 2;
        if is_labelled {
            store_label(&client, &account, label, message).await;
        }
        samples.push((message, n, is_labelled));
    }
    samples.sort_by_key(|(id, n, _)| std::cmp::Reverse((n / 3, *id)));
    let texts = ["", "&q=GR%C3%96SS", "&subject=farb", "&from=3%40EXAMPLE", "&q=3%40&subject=GR%C3%96%C3%9FE"];
    let places = ["", "&role=inbox", "&isRead=false", &format!("&folderId={label}"), &format!("&accountId={id}")];
    let mut found_any = 0;
    for n in 0..texts.len() * 3 * 3 * 5 * 2 {
        let (text, thread, attached, place, time) = (n % 5, n / 5 % 3, n / 15 % 3, n / 45 % 5, n / 225);
        let fits = |&&(_, n, is_labelled): &&(Uuid, usize, bool)| {
            let great = n / 4 % 3 != 1;
            let is_text = [true, great, !great, n % 7 == 3, n % 7 == 3 && great][text];
            is_text
                && (thread == 2 || thread == n % 2)
                && (attached == 2 || (n % 3 == 0) == (attached == 0))
                && [true, n / 2 % 2 == 0, n % 5 == 0, is_labelled, true][place]
                && (time == 0 || n / 3 >= 4)
        };
        let expected: Vec<_> = samples.iter().filter(fits).map(|(id, ..)| *id).collect();
        let thread = threads.get(thread).map(|thread| format!("&threadId={thread}")).unwrap_or_default();
        let attached = ["&hasAttachments=true", "&hasAttachments=false", ""][attached];
        let place = &places[place];
        let query = format!("{}{thread}{attached}{place}{}", texts[text], ["", "&after=4"][time]);
        assert_eq!(page(api, &user, &format!("limit=200{query}")).await, (expected.clone(), None), "{query}");
        found_any += usize::from(!expected.is_empty());
        if n % 3 == 0 {
            let (mut pages, mut cursor) = (Vec::new(), String::new());
            loop {
                let (found, next) = page(api, &user, &format!("limit=3{query}{cursor}")).await;
                pages.extend(found);
                let Some(next) = next else { break };
                cursor = format!("&cursor={next}");
            }
            assert_eq!(pages, expected, "{query}");
        }
    }
    assert!(found_any > 200, "{found_any}");
    for nobody in [&stranger, &colleague] {
        for query in
            [format!("threadId={}", threads[0]), "q=gr%C3%B6%C3%9Fe".to_owned(), "hasAttachments=true".to_owned()]
        {
            let (found, _) = page(api, nobody, &query).await;
            assert!(found.len() == 1 && samples.iter().all(|(id, ..)| *id != found[0]), "{query}");
        }
    }
    assert_eq!(page(api, &user, &format!("threadId={}", Uuid::now_v7())).await, (vec![], None));

    let long = "a".repeat(201);
    for bad in
        ["q=", "q=%00", "from=%0A", "to=", &format!("subject={long}"), "q=a&q=b", "threadId=7", "hasAttachments=1"]
    {
        let refused = api.get(&format!("/api/messages?{bad}")).by(&user).send().await;
        refused.is_refused(400);
        assert_eq!(refused.faults(), [bad.split('=').next().unwrap()], "{bad}");
    }
}
