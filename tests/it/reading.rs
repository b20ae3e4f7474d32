//! Reading messages of real mailboxes: what they show, as they were sent, what hangs on them; and what the object store
//! keeps of that.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reqwest::Url;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

#[cfg(target_os = "linux")]
use crate::credentials::found_on_the_heap;
use crate::mailboxes::OtherClient;
use crate::model_imap::{Extensions, ModelServer, World};
use crate::sign_in::{PASSWORD, mailbox};
use crate::support::{Answer, Service, User, lasting, mail};

/// An account on the run's Dovecot, and the service.
struct Mailbox {
    service: Service,
    user: User,
    account: Uuid,
    name: String,
}

impl Mailbox {
    async fn new(protocol: &str) -> Self {
        let (name, ports) = (mailbox().await, mail().await.ports());
        let port = if protocol == "imap" { ports.imaps } else { ports.pop3s };
        let settings = json!({
            "emailAddress": name, "username": name, "hostname": "localhost", "port": port, "password": PASSWORD,
            "protocol": protocol,
        });
        Self::at(settings, name).await
    }

    async fn at(settings: Value, name: String) -> Self {
        let plain = BTreeMap::from([("MAIL_ALLOW_PLAINTEXT", "true".to_owned())]);
        let (service, user) = (Service::start(Duration::from_secs(60), plain).await, User::new());
        let created = service.api.create(&user, settings).await;
        let account = created["id"].as_str().unwrap().parse().unwrap();
        Self { service, user, account, name }
    }

    async fn get(&self, path: &str) -> Answer {
        self.service.api.get(path).by(&self.user).send().await
    }

    /// Delivers messages, synchronises, and returns their ids, the first delivered first. No two have the same subject.
    async fn deliver(&self, messages: &[Vec<u8>]) -> Vec<Value> {
        let before = self.list().await.len();
        for message in messages {
            mail().await.deliver(&self.name, message).unwrap();
        }
        self.sync().await;
        let mut listed = self.list().await;
        assert_eq!(listed.len(), before + messages.len());
        listed.truncate(messages.len());
        listed.reverse();
        listed
    }

    async fn sync(&self) {
        let path = format!("/api/accounts/{}/sync", self.account);
        let asked = self.service.api.request("POST", &path).by(&self.user).send().await;
        assert_eq!(asked.status, 202, "{asked:?}");
        let wait = async {
            while self.get(&path).await.body["status"] != "idle" {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("the synchronisation does not end");
    }

    async fn list(&self) -> Vec<Value> {
        self.get("/api/messages?limit=200").await.body["messages"].as_array().unwrap().clone()
    }

    /// Its server is found at another port.
    async fn go_by(&self, port: u16) {
        let sql = "update email_accounts set port = $2 where id = $1";
        self.service.owner.execute(sql, &[&self.account, &i32::from(port)]).await.unwrap();
    }

    /// Nobody answers where the mailbox was.
    async fn lose_mail_host(&self) {
        self.go_by(1).await;
    }
}

fn path_of(message: &Value) -> String {
    format!("/api/messages/{}", message["id"].as_str().unwrap())
}

const PLAIN: &str = "From: Jane <jane@example.com>\r\nTo: you@example.com\r\nSubject: plain\r\nMessage-ID: <1@x>\r\n\
                     Content-Type: text/plain; charset=utf-8\r\n\r\nGr\u{fc}\u{df}e\r\n";

/// HTML with a picture of its own, one from elsewhere and a script; and a file.
fn rich(file: &[u8]) -> Vec<u8> {
    use base64::Engine;
    let encoded = base64::engine::general_purpose::STANDARD.encode(file);
    let lines: Vec<&str> = encoded.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!(
        "From: a@example.com\r\nSubject: rich\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=m\r\n\r\n\
         --m\r\nContent-Type: multipart/related; boundary=r\r\n\r\n\
         --r\r\nContent-Type: text/html; charset=utf-8\r\n\r\n\
         <p onclick=\"steal()\">Hello</p><script>steal()</script><img src=\"cid:logo@x\">\
         <img src=\"https://tracker.example/pixel.gif\"><a href=\"javascript:steal()\">x</a>\r\n\
         --r\r\nContent-Type: image/png; name=logo.png\r\nContent-ID: <logo@x>\r\nContent-Disposition: inline\r\n\
         Content-Transfer-Encoding: base64\r\n\r\niVBORw0KGgo=\r\n--r--\r\n\
         --m\r\nContent-Type: text/html\r\nContent-Disposition: attachment; filename*=UTF-8''%C3%9Cbersicht.html\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n{}\r\n--m--\r\n",
        lines.join("\r\n")
    )
    .into_bytes()
}

#[tokio::test]
async fn a_message_is_fetched_once_and_kept() {
    let mailbox = Mailbox::new("imap").await;
    let messages = mailbox.deliver(&[PLAIN.into(), rich(b"<script>"), PLAIN.replace("plain", "other").into()]).await;
    let [plain, rich, other] = [0, 1, 2].map(|index| path_of(&messages[index]));
    let first = mailbox.get(&plain).await;
    assert_eq!(first.status, 200, "{first:?}");
    for field in ["id", "accountId", "folderId", "subject", "from", "receivedAt", "size", "isRead"] {
        assert_eq!(first.body[field], messages[0][field], "{field}");
    }
    assert_eq!(first.body["text"].as_str().unwrap().trim_end(), "Gr\u{fc}\u{df}e");
    assert_eq!(
        [&first.body["html"], &first.body["hasRemoteContent"], &first.body["isTruncated"], &first.body["attachments"]],
        [&Value::Null, &json!(false), &json!(false), &json!([])]
    );
    let shown = mailbox.get(&rich).await.body;
    let html = shown["html"].as_str().unwrap();
    assert!(html.contains("Hello") && !html.contains("script") && !html.contains("onclick"), "{html}");
    assert!(html.contains("data-remote-src=\"https://tracker.example/pixel.gif\""), "{html}");
    assert_eq!(shown["hasRemoteContent"], true);
    let attachments = shown["attachments"].as_array().unwrap();
    assert_eq!(attachments.len(), 2, "{attachments:?}");
    let logo = format!("{rich}/attachments/{}", attachments[0]["id"].as_str().unwrap());
    assert!(html.contains(&format!("src=\"{logo}\"")), "{html}");
    assert_eq!((&attachments[1]["filename"], &attachments[1]["size"]), (&json!("Übersicht.html"), &json!(8)));
    // Reading does not mark as read, neither here nor there.
    mailbox.sync().await;
    assert_eq!(mailbox.list().await.iter().filter(|message| message["isRead"] == false).count(), 3);
    let mut there = OtherClient::sign_in(&mailbox.name).await;
    there.say("EXAMINE INBOX").await;
    assert_eq!(there.say("UID SEARCH SEEN").await[0], "* SEARCH");

    mailbox.lose_mail_host().await;
    assert_eq!(mailbox.get(&plain).await.body, first.body);
    assert_eq!(mailbox.get(&logo).await.bytes, b"\x89PNG\r\n\x1a\n");
    let refused = mailbox.get(&other).await;
    refused.is_refused(502);
    assert_eq!(refused.body["code"], "unreachable");
    // All of it lies under tenant and account, and is gone when the bucket's days are over.
    let prefix = format!("mail/{}/{}/", mailbox.user.tenant, mailbox.account);
    for key in mailbox.service.bucket.keys().await.unwrap() {
        assert!(key.starts_with(&prefix), "{key}");
        mailbox.service.bucket.delete(&key).await.unwrap();
    }
    mailbox.get(&plain).await.is_refused(502);
}

#[tokio::test]
async fn bytes_are_as_they_were_and_cannot_be_taken_for_a_page() {
    let mailbox = Mailbox::new("imap").await;
    let sent = rich("<script>alert(1)</script>".as_bytes());
    let message = path_of(&mailbox.deliver(std::slice::from_ref(&sent)).await[0]);
    let raw = mailbox.get(&format!("{message}/raw")).await;
    assert_eq!((raw.status, raw.header("content-type")), (200, Some("message/rfc822")));
    // The server adds fields of its own before it.
    assert!(raw.bytes.ends_with(&sent), "{}", String::from_utf8_lossy(&raw.bytes));
    let file = mailbox.get(&format!("{message}/attachments/{}", id_of(&mailbox, &message, 1).await)).await;
    assert_eq!(file.bytes, b"<script>alert(1)</script>");
    assert_eq!(file.header("content-type"), Some("application/octet-stream"));
    assert_eq!(
        file.header("content-disposition"),
        Some("attachment; filename=\"_bersicht.html\"; filename*=UTF-8''%C3%9Cbersicht.html")
    );
    assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
    for unknown in ["99", "x", "../raw", "-1"] {
        mailbox.get(&format!("{message}/attachments/{}", unknown.replace('/', "%2F"))).await.is_refused(404);
    }
}

async fn id_of(mailbox: &Mailbox, message: &str, index: usize) -> String {
    mailbox.get(message).await.body["attachments"][index]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_is_too_long_for_an_answer_is_a_link_of_five_minutes() {
    let mailbox = Mailbox::new("imap").await;
    let file: Vec<u8> = (0..6_000_000_u32).map(|at| (at % 251) as u8).collect();
    let sent = rich(&file);
    let message = path_of(&mailbox.deliver(std::slice::from_ref(&sent)).await[0]);
    let attachment = format!("{message}/attachments/{}", id_of(&mailbox, &message, 1).await);
    // The second time it lies there already.
    for (path, kind, bytes) in [
        (&attachment, "application/octet-stream", &file),
        (&attachment, "application/octet-stream", &file),
        (&format!("{message}/raw"), "message/rfc822", &sent),
    ] {
        let answer = mailbox.get(path).await;
        assert_eq!(answer.status, 303, "{answer:?}");
        let link = answer.header("location").unwrap().to_owned();
        for part in ["X-Amz-Expires=300", "X-Amz-Signature=", "response-content-disposition=attachment", "mail/"] {
            assert!(link.contains(part), "{link}");
        }
        let fetched = reqwest::get(&link).await.unwrap();
        assert_eq!(fetched.status(), 200);
        assert_eq!(fetched.headers()["content-type"], kind);
        let name = match path.ends_with("raw") {
            true => "attachment; filename=\"message.eml\"",
            false => "attachment; filename=\"_bersicht.html\"; filename*=UTF-8''%C3%9Cbersicht.html",
        };
        assert_eq!(fetched.headers()["content-disposition"], name);
        assert!(fetched.bytes().await.unwrap().ends_with(bytes));
        // The emulator believes any signature; S3 believes this one, and with it no other object, name, type or time.
        let signed = |link: &str| signature(&link.parse().unwrap()) == parameter(link, "X-Amz-Signature");
        assert!(signed(&link), "{link}");
        let key = link.split('?').next().unwrap().rsplit('/').next().unwrap();
        for (part, other) in [(key, "other"), ("=attachment", "=inline"), ("%2F", "%2F..."), ("=300", "=301")] {
            assert!(link.contains(part) && !signed(&link.replacen(part, other, 1)), "{part} in {link}");
        }
    }
}

fn parameter(link: &str, name: &str) -> String {
    let url: Url = link.parse().unwrap();
    url.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned()
}

/// What a link must be signed with, by the emulator's key: AWS Signature Version 4, "Authenticating Requests: Using Query
/// Parameters".
fn signature(link: &Url) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let hash = |text: &str| hex(&Sha256::digest(text));
    let mut query: Vec<_> =
        link.query().unwrap().split('&').filter(|pair| !pair.starts_with("X-Amz-Signature=")).collect();
    query.sort_unstable();
    assert!(query.contains(&"X-Amz-SignedHeaders=host"), "{query:?}");
    let host = format!("{}:{}", link.host_str().unwrap(), link.port().unwrap());
    let request = format!("GET\n{}\n{}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD", link.path(), query.join("&"));
    let credential = parameter(link.as_str(), "X-Amz-Credential");
    let (key, scope) = credential.split_once('/').unwrap();
    let date = parameter(link.as_str(), "X-Amz-Date");
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hash(&request));
    let key = scope.split('/').fold(format!("AWS4{key}").into_bytes(), |key, part| hmac(&key, part));
    hex(&hmac(&key, &text))
}

/// RFC 2104, of keys no longer than a block.
fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let padded = |with: u8| (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ with).collect::<Vec<_>>();
    let inner = Sha256::digest([padded(0x36), text.into()].concat());
    Sha256::digest([padded(0x5c), inner.to_vec()].concat()).to_vec()
}

#[tokio::test]
async fn other_users_and_other_tenants_read_nothing() {
    let mailbox = Mailbox::new("imap").await;
    let message = path_of(&mailbox.deliver(&[rich(b"secret")]).await[0]);
    let attachment = format!("{message}/attachments/{}", id_of(&mailbox, &message, 1).await);
    let elsewhere = User { tenant: Uuid::new_v4(), ..mailbox.user };
    for path in [&message, &format!("{message}/raw"), &attachment] {
        assert_eq!(mailbox.get(path).await.status, 200);
        for stranger in [mailbox.user.colleague(), elsewhere, User::new()] {
            mailbox.service.api.get(path).by(&stranger).send().await.is_refused(404);
        }
        mailbox.service.api.get(path).send().await.is_refused(401);
        let unknown = path.replace(message.rsplit('/').next().unwrap(), &Uuid::now_v7().to_string());
        mailbox.get(&unknown).await.is_refused(404);
        mailbox.get(&path.replace(message.rsplit('/').next().unwrap(), "no-id")).await.is_refused(404);
    }
    let deleted =
        mailbox.service.api.delete(&format!("/api/accounts/{}", mailbox.account)).by(&mailbox.user).send().await;
    assert_eq!(deleted.status, 200);
    for path in [&message, &format!("{message}/raw"), &attachment] {
        mailbox.get(path).await.is_refused(404);
    }
}

#[tokio::test]
async fn a_message_that_is_gone_from_its_mailbox_is_not_found_and_nothing_is_changed_here() {
    let mailbox = Mailbox::new("imap").await;
    let message = path_of(&mailbox.deliver(&[PLAIN.into()]).await[0]);
    let sql = "update email_messages set uid = uid + 100";
    mailbox.service.owner.execute(sql, &[]).await.unwrap();
    for path in [message.clone(), format!("{message}/raw"), format!("{message}/attachments/1")] {
        mailbox.get(&path).await.is_refused(404);
    }
    assert_eq!(mailbox.list().await.len(), 1);
}

/// What is kept of a message is not noted of it any more.
#[tokio::test]
async fn what_a_message_shows_is_kept_once_it_is_noted_of_it() {
    let mailbox = Mailbox::new("imap").await;
    let text = PLAIN.replace("Message-ID: <1@x>", "Message-ID: <1@x>\r\nReferences: <0@x>");
    let message = mailbox.deliver(&[text.into_bytes()]).await.remove(0);
    let (id, owner): (Uuid, _) = (message["id"].as_str().unwrap().parse().unwrap(), &mailbox.service.owner);
    owner.batch_execute("begin").await.unwrap();
    owner.execute("select from email_messages where id = $1 for update", &[&id]).await.unwrap();
    let failed = mailbox.get(&path_of(&message)).await;
    owner.batch_execute("rollback").await.unwrap();
    assert!(failed.status >= 500, "{failed:?}");
    assert_eq!(mailbox.get(&path_of(&message)).await.status, 200);
    let row = owner.query_one("select reference_ids from email_messages where id = $1", &[&id]).await.unwrap();
    assert_eq!(row.get::<_, Option<Vec<String>>>(0), Some(vec!["0@x".to_owned()]));
}

#[tokio::test]
async fn a_message_of_pop3_is_read_and_stays_on_the_server() {
    let mailbox = Mailbox::new("pop3").await;
    let messages = mailbox.deliver(&[PLAIN.into(), rich(b"file")]).await;
    let shown = messages.iter().map(path_of).collect::<Vec<_>>();
    let mut subjects = Vec::new();
    for path in &shown {
        let answer = mailbox.get(path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        subjects.push(answer.body["subject"].as_str().unwrap().to_owned());
        assert!(answer.body["text"].is_string(), "{answer:?}");
    }
    subjects.sort();
    assert_eq!(subjects, ["plain", "rich"]);
    mailbox.sync().await;
    assert_eq!(mailbox.list().await.len(), 2);
}

#[tokio::test]
async fn what_only_the_whole_message_tells_is_noted_once() {
    let mailbox = Mailbox::new("imap").await;
    let message = &mailbox.deliver(&[rich(b"file")]).await[0];
    let owner = &mailbox.service.owner;
    owner.execute("update email_messages set preview = null, has_attachments = false", &[]).await.unwrap();
    let numbers =
        async || -> i64 { owner.query_one("select changed_number from email_messages", &[]).await.unwrap().get(0) };
    let before = numbers().await;
    let shown = mailbox.get(&path_of(message)).await.body;
    assert_eq!((&shown["preview"], &shown["hasAttachments"]), (&json!("Hello x"), &json!(true)));
    let after = numbers().await;
    assert!(after > before);
    mailbox.get(&path_of(message)).await;
    assert_eq!(numbers().await, after);
    assert_eq!(mailbox.list().await[0]["preview"], shown["preview"]);
}

/// What comes after the bytes of a server that are let through.
#[derive(Clone, Copy)]
enum Then {
    End,
    Silence,
    /// Lines without an end.
    Flood,
}

/// A way to a port, on which the server is cut off after so many bytes; it is a port as well.
async fn cut_off(port: u16, bytes: u64, then: Then) -> u16 {
    let listener = lasting(async { TcpListener::bind("127.0.0.1:0").await.unwrap() }).await;
    let own = listener.local_addr().unwrap().port();
    let serve = async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(async move {
                let ((mut from_client, mut to_client), (from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                let mut from_server = from_server.take(bytes);
                let answers = async {
                    tokio::io::copy(&mut from_server, &mut to_client).await?;
                    match then {
                        Then::End => Ok(()),
                        Then::Silence => std::future::pending().await,
                        // Long lines: it is the bytes that are to be too many, before the time is up on a busy machine.
                        Then::Flood => loop {
                            to_client
                                .write_all(format!("* OK {}\r\n", "more ".repeat(800)).repeat(10).as_bytes())
                                .await?;
                        },
                    }
                };
                tokio::select! {
                    _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                    _ = async { answers.await as std::io::Result<()> } => {}
                }
            });
        }
    };
    lasting(async move { drop(tokio::spawn(serve)) }).await;
    own
}

#[tokio::test]
async fn a_message_that_breaks_off_in_the_middle_is_none_and_nothing_of_it_is_kept() {
    let mailbox = Mailbox::new("imap").await;
    let message = path_of(&mailbox.deliver(&[rich(&vec![7; 1_000_000])]).await[0]);
    let port = mail().await.ports().imaps;
    mailbox.go_by(cut_off(port, 200_000, Then::End).await).await;
    for path in [message.clone(), format!("{message}/raw")] {
        let refused = mailbox.get(&path).await;
        refused.is_refused(502);
        assert_eq!(refused.body["code"], "unreachable", "{refused:?}");
    }
    assert_eq!(mailbox.service.bucket.keys().await.unwrap(), Vec::<String>::new());
    mailbox.go_by(port).await;
    assert_eq!(mailbox.get(&message).await.status, 200);
}

/// Of a read and of a change, wherever the server stops to be of use: before the login, and in the middle of a message.
#[tokio::test]
async fn a_visit_ends_in_time_and_after_so_many_bytes() {
    let mut world = World::new(Extensions::default());
    (0..2).for_each(|_| world.append("INBOX", 0));
    world.wholes.insert(1, format!("Subject: long\r\n\r\n{}", "All of it.\r\n".repeat(50_000)));
    let server = ModelServer::start(world).await;
    let settings = json!({"hostname": "127.0.0.1", "port": server.port(), "encryption": "none"});
    let mailbox = Mailbox::at(settings, String::new()).await;
    mailbox.sync().await;
    let message = path_of(mailbox.list().await.iter().find(|message| message["subject"] == "Message 1").unwrap());
    for (bytes, then, code) in
        [(100, Then::Silence, "unreachable"), (100_000, Then::Silence, "unreachable"), (100, Then::Flood, "protocol")]
    {
        mailbox.go_by(cut_off(server.port(), bytes, then).await).await;
        let started = Instant::now();
        let change = mailbox.service.api.put(&message, json!({"isRead": true})).by(&mailbox.user).send();
        let (read, changed) = tokio::join!(mailbox.get(&message), change);
        // A visit has 20 s; the gateway would have given up after 29.
        assert!(started.elapsed() < Duration::from_secs(28), "{:?}", started.elapsed());
        let refused = if bytes == 100 { vec![read, changed] } else { vec![read] };
        for answer in refused {
            answer.is_refused(502);
            assert_eq!(answer.body["code"], code, "{answer:?}");
        }
    }
    mailbox.go_by(server.port()).await;
    assert_eq!(mailbox.get(&message).await.status, 200);
}

#[tokio::test]
async fn a_message_of_nothing_is_one_and_of_one_that_is_too_long_the_beginning_is_read() {
    let mut world = World::new(Extensions::default());
    (0..2).for_each(|_| world.append("INBOX", 0));
    let line = format!("{}\r\n", "x".repeat(998));
    let long = format!("Subject: long\r\nContent-Type: text/plain\r\n\r\n{}", line.repeat(53 * 1024));
    world.wholes.extend([(1, String::new()), (2, long)]);
    let server = ModelServer::start(world).await;
    let settings = json!({"hostname": "127.0.0.1", "port": server.port(), "encryption": "none"});
    let mailbox = Mailbox::at(settings, String::new()).await;
    mailbox.sync().await;
    let listed = mailbox.list().await;
    let [nothing, long] =
        ["Message 1", "Message 2"].map(|subject| path_of(listed.iter().find(|m| m["subject"] == subject).unwrap()));
    let shown = mailbox.get(&nothing).await;
    assert_eq!((shown.status, &shown.body["html"], &shown.body["attachments"]), (200, &Value::Null, &json!([])));
    let raw = mailbox.get(&format!("{nothing}/raw")).await;
    assert_eq!((raw.status, raw.bytes.len()), (200, 0), "{raw:?}");
    let shown = mailbox.get(&long).await;
    assert_eq!((shown.status, &shown.body["isTruncated"]), (200, &json!(true)));
    let text = shown.body["text"].as_str().unwrap();
    assert!(text.len() > 1_000_000 && text.len() <= 1 << 20, "{}", text.len());
    let raw = mailbox.get(&format!("{long}/raw")).await;
    raw.is_refused(409);
    assert!(raw.body["message"].as_str().unwrap().contains("more than 50 MB"), "{raw:?}");
}

/// A message of some 30 MB, with 200 files.
fn heavy() -> Vec<u8> {
    let mut message =
        b"From: a@example.com\r\nSubject: heavy\r\nContent-Type: multipart/mixed; boundary=h\r\n\r\n".to_vec();
    let line = [b"QUJD".repeat(19).as_slice(), b"\r\n"].concat();
    for number in 0..200 {
        let head = format!(
            "--h\r\nContent-Type: application/octet-stream\r\nContent-Disposition: attachment; filename={number}.bin\r\n\
             Content-Transfer-Encoding: base64\r\n\r\n"
        );
        message.extend_from_slice(head.as_bytes());
        message.extend_from_slice(&line.repeat(1950));
    }
    message.extend_from_slice(b"--h--\r\n");
    message
}

#[tokio::test]
async fn large_and_empty_messages_are_read_within_bounds() {
    let mailbox = Mailbox::new("imap").await;
    let many: Vec<u8> = [
        b"Subject: many\r\nContent-Type: multipart/mixed; boundary=p\r\n\r\n".to_vec(),
        b"--p\r\nContent-Type: application/pdf; name=file.pdf\r\n\r\nx\r\n".repeat(10_000),
        b"--p--\r\n".to_vec(),
    ]
    .concat();
    let messages = mailbox.deliver(&[heavy(), many, b"\r\n".to_vec()]).await;
    let by_subject = |subject: &str| path_of(messages.iter().find(|message| message["subject"] == subject).unwrap());
    let shown = mailbox.get(&by_subject("heavy")).await;
    assert_eq!(shown.status, 200, "{}", shown.body);
    let attachments = shown.body["attachments"].as_array().unwrap();
    assert_eq!((attachments.len(), &attachments[199]["size"]), (200, &json!(1950 * 57)));
    let last = format!("{}/attachments/{}", by_subject("heavy"), attachments[199]["id"].as_str().unwrap());
    assert_eq!(mailbox.get(&last).await.bytes, b"ABC".repeat(19 * 1950));
    assert_eq!(mailbox.get(&format!("{}/raw", by_subject("heavy"))).await.status, 303);
    let shown = mailbox.get(&by_subject("many")).await;
    assert_eq!(shown.status, 200, "{}", shown.body);
    // The message itself is the first of 10,000 parts.
    let attachments = shown.body["attachments"].as_array().unwrap();
    assert_eq!((attachments.len(), &shown.body["isTruncated"]), (9_999, &json!(true)));
    let last = format!("{}/attachments/{}", by_subject("many"), attachments[9_998]["id"].as_str().unwrap());
    assert_eq!(mailbox.get(&last).await.bytes, b"x");
    let shown = mailbox.get(&by_subject("")).await;
    assert_eq!((shown.status, &shown.body["html"], &shown.body["attachments"]), (200, &Value::Null, &json!([])));
    for function in ["get-message", "get-attachment", "get-raw-message"] {
        for pid in mailbox.service.api.gateway.pids(function).unwrap() {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
            let peak: u64 = peak.trim().trim_end_matches(" kB").trim().parse().unwrap();
            // Less than half of what the template gives.
            assert!(peak < 256 * 1024, "{function}: {peak} kB");
        }
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_opened_password_is_not_left_in_the_memory_of_a_function() {
    use base64::Engine;
    let mailbox = Mailbox::new("imap").await;
    // Each function signs in, for nobody has read its message before.
    let messages: Vec<_> = (0..5)
        .map(|n| String::from_utf8(rich(b"x")).unwrap().replace("Subject: rich", &format!("Subject: {n}")).into_bytes())
        .collect();
    let paths: Vec<_> = mailbox.deliver(&messages).await.iter().map(path_of).collect();
    let api = &mailbox.service.api;
    // All have the same parts.
    let file = id_of(&mailbox, &paths[0], 1).await;
    let requests = [
        ("get-message", 200, api.get(&paths[4])),
        ("get-raw-message", 200, api.get(&format!("{}/raw", paths[1]))),
        ("get-attachment", 200, api.get(&format!("{}/attachments/{file}", paths[2]))),
        ("copy-attachments", 201, api.post(&format!("{}/uploads", paths[3]), json!({}))),
    ];
    // As SASL says it, and as it is stored.
    let said = format!("\0{}\0{PASSWORD}", mailbox.name);
    let said = base64::engine::general_purpose::STANDARD.encode(said);
    for (function, status, request) in requests {
        let answer = request.by(&mailbox.user).send().await;
        assert_eq!(answer.status, status, "{answer:?}");
        for secret in [PASSWORD, &said] {
            // The process answers before it lets go of everything.
            let started = Instant::now();
            while let Some(region) = found_on_the_heap(api, function, secret) {
                assert!(started.elapsed() < Duration::from_secs(10), "{function} still has {secret} in {region}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
