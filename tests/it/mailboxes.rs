//! Synchronising real mailboxes: Dovecot by IMAP and POP3, with another client at the same mailbox; and what that costs in
//! round trips. Random histories with faults are in `sync_model.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mail::connect::{Connector, Policy, Ports, Security, Session, Stream};
use mail::dns::Resolver;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use shared::account::AccountId;
use shared::identity::{Scope, TenantId, UserId};
use shared::work::{Done, WorkError};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::model_imap::{ALL_MAIL, Extensions, FLAGS, Fault, Lie, ModelServer, Then, World};
use crate::model_pop3::{Mailbox, ModelPop3};
use crate::proxy::{Fate, Proxy};
use crate::sign_in::{PASSWORD, mailbox};
use crate::support::{Answer, Service, User, mail, mail_api, owner, servers};
use crate::sync_model::{Dice, Worker, poll_times};

const TIME: Duration = Duration::from_secs(60);

/// The way to the run's Dovecot.
pub async fn connector() -> Connector {
    connector_by(Resolver::new(&[])).await
}

/// The same, with names as somebody else has them.
pub async fn connector_by(resolver: Resolver) -> Connector {
    let policy = Policy {
        private_networks: vec!["127.0.0.0/8".parse().unwrap()],
        ports: Ports::Any,
        allow_plaintext: true,
        ..Policy::default()
    };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(mail().await.ca_file()).unwrap()).unwrap();
    let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Connector::new(resolver, policy, Arc::new(tls))
}

/// Another client at the same mailbox.
pub struct OtherClient {
    stream: Stream,
    commands: u32,
}

impl OtherClient {
    pub async fn sign_in(name: &str) -> Self {
        let session = Session::new(Duration::from_secs(600), 1 << 30);
        let port = mail().await.ports().imaps;
        let mut stream = connector().await.connect("localhost", port, Security::Tls, session).await.unwrap();
        stream.read_line(&mut Vec::new(), 10_000).await.unwrap();
        let mut client = Self { stream, commands: 0 };
        client.say(&format!("LOGIN {name} \"{PASSWORD}\"")).await;
        client
    }

    /// Sends a command, and returns the lines of its answer; it must be accepted.
    pub async fn say(&mut self, command: &str) -> Vec<String> {
        self.commands += 1;
        let tag = format!("t{}", self.commands);
        self.stream.write_all(format!("{tag} {command}\r\n").as_bytes()).await.unwrap();
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            self.stream.read_line(&mut line, 1_000_000).await.unwrap();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if let Some(end) = line.strip_prefix(&format!("{tag} ")) {
                assert!(end.starts_with("OK"), "{command}: {end}");
                return lines;
            }
            lines.push(line);
        }
    }

    pub async fn append(&mut self, folder: &str, message: &[u8]) {
        self.append_with(folder, "()", message).await;
    }

    pub async fn append_with(&mut self, folder: &str, flags: &str, message: &[u8]) {
        let head = format!("APPEND \"{folder}\" {flags} {{{}+}}\r\n", message.len());
        let text = [head.as_bytes(), message].concat();
        // It is sent as it is: what cannot be a text is part of what is tried.
        self.commands += 1;
        let tag = format!("t{}", self.commands);
        self.stream.write_all(&[tag.as_bytes(), b" ", &text, b"\r\n"].concat()).await.unwrap();
        loop {
            let mut line = Vec::new();
            self.stream.read_line(&mut line, 10_000).await.unwrap();
            let line = String::from_utf8_lossy(&line).into_owned();
            if let Some(end) = line.strip_prefix(&format!("{tag} ")) {
                assert!(end.starts_with("OK"), "{end}");
                return;
            }
        }
    }

    /// UIDs and flags, as bits in the order of [`FLAGS`], of each folder.
    pub async fn all(&mut self) -> BTreeMap<(String, u32), u8> {
        let mut all = BTreeMap::new();
        for line in self.say("LIST \"\" \"*\"").await {
            let Some(name) = line.rsplit(" \".\" ").next().or(None) else { continue };
            let name = name.rsplit(" \"/\" ").next().unwrap().trim_matches('"').to_owned();
            self.say(&format!("EXAMINE \"{name}\"")).await;
            for line in self.say("UID FETCH 1:* (UID FLAGS)").await {
                let Some(uid) = line.split("UID ").nth(1).and_then(|rest| rest.split([' ', ')']).next()) else {
                    continue;
                };
                let flags = (0..4).filter(|bit| line.contains(FLAGS[*bit])).map(|bit| 1 << bit).sum();
                all.insert((name.clone(), uid.parse().unwrap()), flags);
            }
        }
        all
    }
}

/// An account, and a worker for it.
pub struct Rig {
    worker: Worker,
    pub owner: Client,
    pub user: User,
    scope: Scope,
    pub account: AccountId,
}

impl Rig {
    async fn new(worker: Worker, settings: Value) -> Self {
        let user = User::new();
        let created = mail_api().await.create(&user, settings).await;
        Self {
            worker,
            owner: owner().await,
            scope: Scope { tenant_id: TenantId(user.tenant), user_id: UserId(user.user) },
            user,
            account: AccountId(created["id"].as_str().unwrap().parse().unwrap()),
        }
    }

    /// Of a mailbox on the run's Dovecot.
    pub async fn dovecot(protocol: &str) -> (Self, String) {
        let ports = mail().await.ports();
        let port = if protocol == "imap" { ports.imaps } else { ports.pop3s };
        Self::dovecot_at(Worker::with(connector().await).await, protocol, port).await
    }

    /// The same by way of proxies: to its IMAP by TLS, and to PostgreSQL.
    pub async fn dovecot_through(dovecot: &Proxy, postgres: &Proxy) -> (Self, String) {
        let worker = Worker::through_with(postgres, connector().await).await;
        Self::dovecot_at(worker, "imap", dovecot.address.port()).await
    }

    async fn dovecot_at(worker: Worker, protocol: &str, port: u16) -> (Self, String) {
        let name = mailbox().await;
        let settings = json!({
            "emailAddress": name, "username": name, "hostname": "localhost", "port": port, "password": PASSWORD,
            "protocol": protocol,
        });
        (Self::new(worker, settings).await, name)
    }

    /// Of a mailbox at a model server.
    pub async fn model(server: &ModelServer) -> Self {
        Self::at(json!({"hostname": "127.0.0.1", "port": server.port(), "encryption": "none"})).await
    }

    /// Of a large mailbox at a model server, synchronised. Beside it the run's mailboxes have a few messages each, so the planner,
    /// told of those alone, would take any index for as good as another.
    async fn large(server: &ModelServer) -> Self {
        let rig = Self::model(server).await;
        rig.run().await;
        rig.owner.batch_execute("analyze email_messages").await.unwrap();
        rig
    }

    /// Of a mailbox at a server of this machine.
    pub async fn at(settings: Value) -> Self {
        Self::new(Worker::new().await, settings).await
    }

    /// Somebody rings, and the lease of whoever was killed has ended. He does not count: five in a row would be the last.
    pub async fn ring(&self) {
        let sql = "update email_accounts set rung_at = 1, leased_until = least(leased_until, 1), deaths = 0
                   where id = $1";
        self.owner.execute(sql, &[&self.account.0]).await.unwrap();
    }

    /// A worker's turn.
    pub async fn try_for(&self, time: Duration) -> Result<Done, WorkError> {
        self.worker.run(&self.scope, self.account, time).await
    }

    pub async fn run_for(&self, time: Duration) -> Done {
        self.ring().await;
        self.try_for(time).await.unwrap()
    }

    pub async fn run(&self) {
        assert_eq!(self.run_for(TIME).await, Done::Complete);
    }

    pub async fn account(&self) -> (String, Option<String>, Option<i64>) {
        let sql = "select state, last_error_code, last_sync_at from email_accounts where id = $1";
        let row = self.owner.query_one(sql, &[&self.account.0]).await.unwrap();
        (row.get(0), row.get(1), row.get(2))
    }

    pub async fn ids(&self) -> BTreeMap<(String, u32), Uuid> {
        let sql = "select f.path, m.uid, m.id from email_messages m join email_folders f on f.id = m.folder_id
                   where m.account_id = $1 and m.uid is not null";
        let rows = self.owner.query(sql, &[&self.account.0]).await.unwrap();
        rows.iter().map(|row| ((row.get(0), row.get::<_, i64>(1) as u32), row.get(2))).collect()
    }

    pub async fn flags(&self) -> BTreeMap<(String, u32), u8> {
        let sql = "select f.path, m.uid, m.is_read::int + 2 * m.is_flagged::int + 4 * m.is_answered::int + 8 * m.is_draft::int
                   from email_messages m join email_folders f on f.id = m.folder_id
                   where m.account_id = $1 and m.uid is not null";
        let rows = self.owner.query(sql, &[&self.account.0]).await.unwrap();
        rows.iter().map(|row| ((row.get(0), row.get::<_, i64>(1) as u32), row.get::<_, i32>(2) as u8)).collect()
    }

    pub async fn count(&self, sql: &str) -> i64 {
        self.owner.query_one(sql, &[&self.account.0]).await.unwrap().get(0)
    }
}

/// Messages as they come, and worse.
fn odd_messages() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 12] = [
        b"From: a@example.com\r\nSubject: plain\r\nMessage-ID: <1@x>\r\nDate: Mon, 2 Nov 2026 10:00:00 +0000\r\n\r\nHello\r\n",
        b"From: =?utf-8?q?J=C3=BCrgen?= <j@example.com>\r\nSubject: =?iso-8859-1?Q?=FCber?= =?utf-8?b?w6Q=?=\r\n\r\nx\r\n",
        b"Subject: \xfcber raw Latin-1\r\nFrom: \xe4\xf6 <x@y>\r\n\r\nbody\r\n",
        b"Subject: =?utf-8?b?AAAA?= nul\r\nFrom: <broken\r\nTo: ;;;,,@@\r\n\r\n",
        b"\r\n",
        b"no header at all\r\n",
        b"Date: 31 Feb 2026 99:99:99 +9999\r\nSubject: no day\r\n\r\n",
        b"Message-ID: <1@x>\r\nSubject: the same Message-ID\r\n\r\n",
        b"References: <a@b> <c@d>\r\n\r\n",
        b"Subject: =?utf-16?b?2AA=?= half a pair\r\n\r\n",
        b"From: a@b\r\nSubject: attached\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: text/plain\r\n\r\n\
          See the file.\r\n--x\r\nContent-Disposition: attachment; filename=a.pdf\r\n\r\nJVBERi0=\r\n--x--\r\n",
        b"Subject: a\tb\x07c\r\n\r\n",
    ];
    let mut all: Vec<Vec<u8>> = texts.iter().map(|text| text.to_vec()).collect();
    all.push([b"Subject: ".as_slice(), &b"long ".repeat(200_000), b"\r\nFrom: l@example.com\r\n\r\nend\r\n"].concat());
    all
}

#[tokio::test]
async fn a_real_mailbox_is_here_as_it_is_there() {
    let (rig, name) = Rig::dovecot("imap").await;
    let mut other = OtherClient::sign_in(&name).await;
    for folder in ["Sent", "Drafts", "Trash", "Entw&APw-rfe", "Work", "Work.2026"] {
        // Some are there already.
        let _ = other.stream.write_all(format!("x CREATE \"{folder}\"\r\n").as_bytes()).await;
        let mut line = Vec::new();
        while !line.starts_with(b"x ") {
            line.clear();
            other.stream.read_line(&mut line, 10_000).await.unwrap();
        }
    }
    for message in odd_messages() {
        other.append("INBOX", &message).await;
    }
    // More than one command asks for: Dovecot answers several together.
    for number in 0..1_500 {
        let text =
            format!("From: a@example.com\r\nSubject: {number}\r\nMessage-ID: <{number}@work>\r\n\r\nText {number}\r\n");
        other.append("Work", text.as_bytes()).await;
    }
    rig.run().await;
    assert_eq!(rig.flags().await, other.all().await);
    let (state, error, synced) = rig.account().await;
    assert_eq!((state.as_str(), error), ("connected", None));
    assert!(synced.is_some());
    let newest = "select count(*) from email_messages where account_id = $1 and preview is not null";
    let previews = rig.count(newest).await;
    assert!((200..250).contains(&previews), "{previews}: the newest 200 of a folder");
    let unreadable = "select count(*) from email_messages m join email_folders f on f.id = m.folder_id
                      where m.account_id = $1 and f.path = 'Work' and not m.is_readable";
    assert_eq!(rig.count(unreadable).await, 0);
    let subject = "select count(*) from email_messages where account_id = $1 and subject = 'überä'";
    assert_eq!(rig.count(subject).await, 1);
    let row = "select count(*) from email_folders where account_id = $1 and path = 'Entwürfe'";
    assert_eq!(rig.count(row).await, 1);

    // Another client reads, marks, moves and deletes.
    let before = rig.ids().await;
    other.say("SELECT Work").await;
    other.say("UID STORE 1:40 +FLAGS.SILENT (\\Seen)").await;
    other.say("UID STORE 7 +FLAGS.SILENT (\\Flagged \\Answered)").await;
    other.say("UID STORE 100:119 +FLAGS.SILENT (\\Deleted)").await;
    other.say("EXPUNGE").await;
    other.say("UID STORE 300 +FLAGS.SILENT (\\Deleted)").await;
    other.say("UID MOVE 200:209 Trash").await;
    other.append("INBOX", b"From: n@example.com\r\nSubject: new\r\nMessage-ID: <new@x>\r\n\r\nNew text\r\n").await;
    rig.run().await;
    let now = other.all().await;
    assert_eq!(rig.flags().await, now);
    let after = rig.ids().await;
    for (place, id) in &after {
        if let Some(first) = before.get(place) {
            assert_eq!(first, id, "{place:?}");
        }
    }
    // What is marked as deleted and not expunged is there.
    let marked = ("Work".to_owned(), 300);
    assert_eq!((now.contains_key(&marked), after.get(&marked)), (true, before.get(&marked)));
    // What was moved has its id.
    let moved: Vec<_> = (200..210).map(|uid| before[&("Work".to_owned(), uid)]).collect();
    let in_trash: Vec<_> = after.iter().filter(|((folder, _), _)| folder == "Trash").map(|(_, id)| *id).collect();
    assert_eq!(moved, in_trash);
    assert_eq!(rig.count("select count(*) from email_destroyed where account_id = $1 and type = 'message'").await, 20);
    assert_eq!(rig.count("select count(*) from email_messages where account_id = $1 and uid is null").await, 0);
}

#[tokio::test]
async fn a_pop3_mailbox_is_one_folder_and_nothing_is_changed_there() {
    let (rig, name) = Rig::dovecot("pop3").await;
    let mut other = OtherClient::sign_in(&name).await;
    for message in odd_messages() {
        other.append("INBOX", &message).await;
    }
    let count = i64::try_from(odd_messages().len()).unwrap();
    rig.run().await;
    let messages = "select count(*) from email_messages where account_id = $1";
    assert_eq!(rig.count(messages).await, count);
    let folder = "select total from email_folders where account_id = $1 and role = 'inbox'";
    assert_eq!(i64::from(rig.owner.query_one(folder, &[&rig.account.0]).await.unwrap().get::<_, i32>(0)), count);
    // A flag here is nobody's business there, and stays.
    rig.owner
        .execute("update email_messages set is_read = true where account_id = $1", &[&rig.account.0])
        .await
        .unwrap();
    other.append("INBOX", b"From: n@example.com\r\nSubject: new\r\n\r\nNew text\r\n").await;
    other.say("SELECT INBOX").await;
    other.say("UID STORE 1:2 +FLAGS.SILENT (\\Deleted)").await;
    other.say("EXPUNGE").await;
    let before = rig.ids().await;
    rig.run().await;
    assert_eq!(rig.count(messages).await, count - 1);
    assert_eq!(rig.count("select count(*) from email_messages where account_id = $1 and not is_read").await, 1);
    let after = rig.ids().await;
    assert_eq!(after.iter().filter(|(place, id)| before.get(place) == Some(id)).count() as i64, count - 2);
    assert_eq!(
        other.say("UID SEARCH ALL").await[0].split(' ').count() as i64,
        2 + count - 1,
        "nothing was changed there"
    );
}

#[tokio::test]
async fn round_trips_and_statements_are_few() {
    let all = Extensions {
        condstore: true,
        qresync: true,
        list_status: true,
        esearch: true,
        special_use: true,
        ..Extensions::default()
    };
    let mut world = World::new(all);
    for name in ["Sent", "Drafts", "Trash", "A", "B", "C", "D", "E", "F"] {
        world.create(name);
        (0..30).for_each(|_| world.append(name, 0));
    }
    let server = ModelServer::start(world).await;
    let proxy = Proxy::to_port(servers().await.postgres.port()).await;
    let settings = json!({"hostname": "127.0.0.1", "port": server.port(), "encryption": "none"});
    let rig = Rig::new(Worker::through(&proxy).await, settings).await;
    rig.run().await;
    let cost = async || {
        proxy.take_trips();
        server.world().turns = 0;
        rig.run().await;
        (server.world().turns, proxy.take_trips())
    };
    assert_eq!(cost().await, (3, 2), "unchanged: signing in, the list, signing out; the turn and its end");
    for name in ["Sent", "A", "B", "C"] {
        let mut world = server.world();
        (0..3).for_each(|_| world.append(name, 0));
        (0..3).for_each(|nth| world.flag(name, nth, 3));
        world.expunge(name, 9);
    }
    let (turns, statements) = cost().await;
    // Of all folders: what is gone and what has changed; what came and how far they are; what is destroyed.
    assert_eq!((turns, statements), (5, 2 + 3));
    assert_eq!(cost().await, (3, 2));
    // A server that can nothing of all that.
    server.world().extensions = Extensions::default();
    cost().await;
    let (turns, statements) = cost().await;
    assert!(turns <= 6 && statements <= 2 + 10, "{turns} {statements}");
}

/// The same at a server that nobody here has written, over TLS.
#[tokio::test]
async fn at_a_real_server_too_round_trips_and_statements_are_few() {
    const FOLDERS: [&str; 10] = ["INBOX", "Sent", "Drafts", "Trash", "Junk", "Archive", "A", "B", "C", "D"];
    let postgres = Proxy::to_port(servers().await.postgres.port()).await;
    let dovecot = Proxy::to_port(mail().await.ports().imaps).await;
    let (rig, name) = Rig::dovecot_through(&dovecot, &postgres).await;
    let mut other = OtherClient::sign_in(&name).await;
    for folder in &FOLDERS[6..] {
        other.say(&format!("CREATE {folder}")).await;
    }
    let message =
        |key: usize| format!("From: a@example.com\r\nSubject: {key}\r\nMessage-ID: <{key}@ten>\r\n\r\nText\r\n");
    for key in 0..100 {
        other.append(FOLDERS[key % 10], message(key).as_bytes()).await;
    }
    rig.run().await;
    // It looks once more where it has been at work.
    let rest = async || {
        rig.run().await;
        rig.run().await;
    };
    rest().await;
    assert_eq!(rig.count("select count(*) from email_folders where account_id = $1 and stored = 10").await, 10);

    // What TLS takes by itself, up to the greeting, for which nobody asks.
    dovecot.take_trips();
    let session = Session::new(TIME, 1 << 20);
    let stream = connector().await.connect("localhost", dovecot.address.port(), Security::Tls, session).await;
    let mut stream = stream.unwrap();
    stream.read_line(&mut Vec::new(), 10_000).await.unwrap();
    let tls = dovecot.take_trips();
    assert!(tls > 0, "it went another way");
    let cost = async || {
        dovecot.take_trips();
        postgres.take_trips();
        rig.run().await;
        (dovecot.take_trips().saturating_sub(tls), postgres.take_trips())
    };
    // An answer that a busy machine hands on in two pieces, the first before all was said, counts twice.
    let least = async || cost().await.min(cost().await).min(cost().await);
    assert_eq!(least().await, (3, 2), "unchanged: signing in, the list, signing out; the turn and its end");
    for (folder, first) in ["INBOX", "Sent", "A", "B"].into_iter().zip((100..).step_by(3)) {
        other.say(&format!("SELECT {folder}")).await;
        other.say("UID STORE 1:3 +FLAGS.SILENT (\\Seen \\Flagged)").await;
        other.say("UID STORE 5 +FLAGS.SILENT (\\Deleted)").await;
        other.say("EXPUNGE").await;
        for key in first..first + 3 {
            other.append(folder, message(key).as_bytes()).await;
        }
    }
    let (turns, statements) = cost().await;
    // Of all folders: what is gone and what has changed; what came and how far they are; what is destroyed.
    assert!(turns <= 5 && statements <= 2 + 3, "{turns} {statements}");
    assert_eq!(rig.flags().await, other.all().await);
    assert_eq!(rig.ids().await.len(), 100 + 4 * 2);
    rest().await;
    assert_eq!(least().await, (3, 2));
}

#[tokio::test]
async fn no_fault_of_a_server_deletes_a_message() {
    for extensions in [
        Extensions::default(),
        Extensions { condstore: true, qresync: true, list_status: true, ..Extensions::default() },
    ] {
        let mut world = World::new(extensions);
        world.create("Work");
        (0..30).for_each(|_| world.append("INBOX", 0));
        (0..30).for_each(|_| world.append("Work", 1));
        let server = ModelServer::start(world).await;
        let rig = Rig::model(&server).await;
        rig.run().await;
        let before = rig.ids().await;
        assert_eq!(before.len(), 60);
        let mut faults = vec![Fault::Empty, Fault::Garbled];
        faults.extend((0..8).map(Fault::No));
        faults.extend((0..20).map(|step| Fault::Drop(step * 150)));
        for fault in faults {
            server.world().append("INBOX", 0);
            server.world().renumber("Work");
            server.world().fault = Some(fault);
            rig.run_for(TIME).await;
            let ids: Vec<Uuid> = before.values().copied().collect();
            let kept = "select count(*) from email_messages where id = any ($1)";
            assert_eq!(rig.owner.query_one(kept, &[&ids]).await.unwrap().get::<_, i64>(0), 60, "{fault:?}");
            assert_eq!(rig.count("select count(*) from email_destroyed where account_id = $1").await, 0, "{fault:?}");
            server.world().fault = None;
            rig.run().await;
        }
        let after = rig.ids().await;
        let kept: Vec<_> = before.values().filter(|id| after.values().any(|now| now == *id)).collect();
        assert_eq!(kept.len(), 60);
    }
}

const UNREADABLE: &str = "select count(*) from email_messages where account_id = $1 and not is_readable";

/// What cannot be read just while it is matched anew is what it was.
#[tokio::test]
async fn what_cannot_be_read_while_it_is_matched_anew_is_what_it_was() {
    let all = Extensions { condstore: true, qresync: true, list_status: true, ..Extensions::default() };
    for extensions in [Extensions::default(), Extensions { object_id: true, ..Extensions::default() }, all] {
        let mut world = World::new(extensions);
        world.create("Work");
        (0..10).for_each(|_| world.append("INBOX", 1));
        let server = ModelServer::start(world).await;
        let rig = Rig::model(&server).await;
        rig.run().await;
        let shown =
            "select string_agg(concat_ws(' ', id, subject, preview, is_read), ',' order by id) from email_messages
                     where account_id = $1 and uid is not null and is_readable and subject <> 'Message 11'";
        let shown = async || -> String { rig.owner.query_one(shown, &[&rig.account.0]).await.unwrap().get(0) };
        let before = shown().await;
        {
            let mut world = server.world();
            // The third and the ninth get other UIDs, the sixth is elsewhere, and the twelfth is new.
            world.shift("INBOX", 5, "Work");
            world.renumber("INBOX");
            (0..2).for_each(|_| world.append("INBOX", 0));
            world.fault = Some(Fault::Garbled);
        }
        rig.run().await;
        assert_eq!(shown().await, before, "{extensions:?}");
        let moved = "select count(*) from email_messages m join email_folders f on f.id = m.folder_id
                     where m.account_id = $1 and f.path = 'Work' and m.subject = 'Message 6'";
        let destroyed = "select count(*) from email_destroyed where account_id = $1";
        let counts = (rig.count(moved).await, rig.count(UNREADABLE).await, rig.count(destroyed).await);
        assert_eq!((rig.ids().await.len(), counts), (12, (1, 1, 0)), "{extensions:?}");
    }
}

/// A server that begins to offer UTF8=ACCEPT, or no longer does.
#[tokio::test]
async fn a_folder_whose_name_is_written_in_another_way_is_the_same() {
    let mut world = World::new(Extensions::default());
    for name in ["Büro", "R&D"] {
        world.create(name);
        (0..3).for_each(|_| world.append(name, 0));
    }
    let server = ModelServer::start(world).await;
    let rig = Rig::model(&server).await;
    rig.run().await;
    let shown = "select string_agg(concat_ws(' ', f.id, f.path, f.is_gone, m.id, m.uid), ',' order by f.id, m.uid)
                 from email_folders f left join email_messages m on m.folder_id = f.id where f.account_id = $1";
    let shown = async || -> String { rig.owner.query_one(shown, &[&rig.account.0]).await.unwrap().get(0) };
    let before = shown().await;
    for utf8_accept in [true, false] {
        server.world().extensions.utf8_accept = utf8_accept;
        server.world().commands.clear();
        rig.run().await;
        assert_eq!(shown().await, before, "{utf8_accept}");
        let commands = server.world().commands.clone();
        assert!(!commands.iter().any(|command| command.contains("HEADER.FIELDS")), "{commands:?}");
    }
}

/// Nor does it lose what the server does not say of it then: its flags, and its date where the server has ids.
#[tokio::test]
async fn what_is_known_again_keeps_what_is_not_told_of_it() {
    let mut world = World::new(Extensions { object_id: true, ..Extensions::default() });
    (0..5).for_each(|_| world.append("INBOX", 15));
    let server = ModelServer::start(world).await;
    let rig = Rig::model(&server).await;
    rig.run().await;
    let shown = "select string_agg(concat_ws(' ', id, uid, received_at, is_read, is_flagged, is_answered, is_draft, is_readable),
                     ',' order by uid)
                 from email_messages where account_id = $1";
    let shown = async || -> String { rig.owner.query_one(shown, &[&rig.account.0]).await.unwrap().get(0) };
    let before = shown().await;
    {
        let mut world = server.world();
        world.renumber("INBOX");
        world.fault = Some(Fault::Garbled);
        world.lies = vec![
            Lie::new("UID FETCH 3 (UID FLAGS", "* 3 FETCH (UID 3 FLAGS nonsense\r\n{tag} OK done\r\n", Then::GoOn),
            Lie::new(
                "UID FETCH 3 (UID INTERNALDATE",
                "* 3 FETCH (UID 3 EMAILID (M3) RFC822.SIZE 1003)\r\n{tag} OK done\r\n",
                Then::GoOn,
            ),
        ];
    }
    rig.run().await;
    for lie in ["UID FETCH 3 (UID FLAGS", "UID FETCH 3 (UID INTERNALDATE"] {
        let is_it = |command: &String| command.starts_with(lie);
        assert!(server.world().commands.iter().any(is_it), "{lie}: {:?}", server.world().commands);
    }
    assert_eq!(shown().await, before);
}

/// Where nothing tells two messages apart, neither is taken for one of those that were here.
#[tokio::test]
async fn what_two_messages_agree_in_tells_of_neither() {
    let mut world = World::new(Extensions::default());
    (0..10).for_each(|_| world.append("INBOX", 0));
    // The fourth can be read, so there is one left that the third may be.
    world.sizes = BTreeMap::from([(3, 1), (4, 1), (6, 2), (9, 2)]);
    let server = ModelServer::start(world).await;
    let rig = Rig::model(&server).await;
    rig.run().await;
    let before = rig.ids().await;
    server.world().renumber("INBOX");
    server.world().fault = Some(Fault::Garbled);
    rig.run().await;
    let after = rig.ids().await;
    let is_other = |(place, id): &(&(String, u32), &Uuid)| after.get(*place) != Some(*id);
    let others: Vec<u32> = before.iter().filter(is_other).map(|((_, uid), _)| *uid).collect();
    assert_eq!((others, after.len(), rig.count(UNREADABLE).await), (vec![6, 9], 10, 2));
}

/// A server that fails at saying which message that is has lost nothing by it, and is not asked for ever.
#[tokio::test]
async fn who_fails_at_saying_which_message_that_is_is_asked_twice() {
    const MARKS: &str = "UID FETCH 3 (UID INTERNALDATE";
    let lies = [
        Lie::new(MARKS, "{tag} NO [SERVERBUG] not now\r\n", Then::GoOn),
        Lie::new(MARKS, "* 3 FETCH (UID 3 nonsense\r\n{tag} OK done\r\n", Then::GoOn),
        Lie::new(MARKS, "", Then::HangUp),
    ];
    // Another failure before is none of this.
    const REFUSED: &str = "state = 'authenticationError', failures = 1, last_error_code = 'authentication', ";
    const AWAY: &str = "state = 'connectError', failures = 1, last_error_code = 'unreachable', ";
    // As where sessions broke at it until that was proved.
    const BROKEN: &str = "state = 'connectError', failures = 1, last_error_code = 'protocol', ";
    let alone = lies.iter().map(|lie| (lie, ""));
    let ways = alone.chain([REFUSED, AWAY, BROKEN].map(|earlier| (&lies[0], earlier)));
    for ((lie, earlier), is_told) in ways.flat_map(|way| [(way, true), (way, false)]) {
        let mut world = World::new(Extensions::default());
        (0..5).for_each(|_| world.append("INBOX", 0));
        let server = ModelServer::start(world).await;
        let rig = Rig::model(&server).await;
        rig.run().await;
        let before = rig.ids().await;
        let ids: Vec<Uuid> = before.values().copied().collect();
        let kept = "select count(*) from email_messages where id = any ($1)";
        let kept = async || -> i64 { rig.owner.query_one(kept, &[&ids]).await.unwrap().get(0) };
        server.world().renumber("INBOX");
        server.world().lies = vec![lie.clone()];
        server.world().fault = Some(Fault::Garbled);
        if !earlier.is_empty() {
            let sql = format!(
                "update email_accounts
                 set {earlier} last_error_message = 'x', last_error_service = 'imap', last_error_at = 1 where id = $1"
            );
            rig.owner.execute(&sql, &[&rig.account.0]).await.unwrap();
        }
        rig.run().await;
        let expected = if earlier == REFUSED { "authenticationError" } else { "connectError" };
        assert_eq!((rig.account().await.0.as_str(), rig.ids().await.len(), kept().await), (expected, 4, 5));
        if is_told {
            server.world().lies.clear();
        }
        server.world().fault = Some(Fault::Garbled);
        rig.run().await;
        assert_eq!(rig.ids().await.len(), 5, "{lie:?}");
        rig.run().await;
        assert_eq!(rig.account().await.0, "connected", "{lie:?}");
        assert_eq!((kept().await, rig.count(UNREADABLE).await), if is_told { (5, 0) } else { (4, 1) }, "{lie:?}");
        assert_eq!(rig.ids().await == before, is_told, "{lie:?}");
    }
}

/// Who is told of is there, in whatever words.
#[tokio::test]
async fn a_message_whose_flags_cannot_be_read_either_is_what_it_was() {
    let mut world = World::new(Extensions::default());
    (0..5).for_each(|_| world.append("INBOX", 0));
    let server = ModelServer::start(world).await;
    let rig = Rig::model(&server).await;
    rig.run().await;
    let before = rig.ids().await;
    {
        let mut world = server.world();
        world.renumber("INBOX");
        let nonsense = "* 3 FETCH (UID 3 FLAGS nonsense\r\n{tag} OK done\r\n";
        world.lies = vec![Lie::new("UID FETCH 3 (UID FLAGS)", nonsense, Then::GoOn)];
        world.fault = Some(Fault::Garbled);
    }
    rig.run().await;
    assert_eq!((rig.ids().await, rig.count(UNREADABLE).await), (before, 0));
}

/// An answer without a UID may have been about what was moved.
#[tokio::test]
async fn what_is_told_of_nobody_may_be_of_what_was_moved() {
    let mut world = World::new(Extensions::default());
    world.create("Work");
    (0..5).for_each(|_| world.append("INBOX", 0));
    let server = ModelServer::start(world).await;
    let rig = Rig::model(&server).await;
    rig.run().await;
    let ids = async || -> BTreeSet<Uuid> { rig.ids().await.into_values().collect() };
    let before = ids().await;
    server.world().shift("INBOX", 2, "Work");
    let of_nobody = "* 1 FETCH (nonsense\r\n{tag} OK done\r\n";
    server.world().lies = vec![Lie::new("UID FETCH 1 (UID FLAGS INTERNALDATE", of_nobody, Then::GoOn)];
    rig.run().await;
    assert_eq!((ids().await, rig.count(UNREADABLE).await), (before, 0));
}

/// A folder that could not be read, or that did not say what is in it, was not searched, however often that is so: neither for its
/// own messages nor, this time, for those of others.
#[tokio::test]
async fn what_was_in_a_folder_that_cannot_be_read_is_not_destroyed() {
    const WORK: &str = "EXAMINE \"Work\"";
    let refused = || Lie::new(WORK, "{tag} NO [SERVERBUG] its index is being built\r\n", Then::GoOn);
    let silent = || Lie::new("UID SEARCH", "{tag} OK done\r\n", Then::GoOn);
    for (is_renumbered, lie) in [(false, refused()), (true, refused()), (true, silent())] {
        let mut world = World::new(Extensions::default());
        world.create("Work");
        (0..5).for_each(|_| world.append("INBOX", 0));
        (0..30).for_each(|_| world.append("Work", 1));
        let server = ModelServer::start(world).await;
        let rig = Rig::model(&server).await;
        rig.run().await;
        let before: Vec<Uuid> = rig.ids().await.into_values().collect();
        if is_renumbered {
            server.world().renumber("Work");
        } else {
            server.world().fault = Some(Fault::Empty);
            rig.run().await;
            server.world().fault = None;
        }
        server.world().lies = vec![lie];
        for _ in 0..4 {
            let doubts = "update email_folders set doubted_at = 0 where account_id = $1 and doubted_at is not null";
            rig.owner.execute(doubts, &[&rig.account.0]).await.unwrap();
            rig.run().await;
        }
        let kept = "select count(*) from email_messages where id = any ($1)";
        assert_eq!(rig.owner.query_one(kept, &[&before]).await.unwrap().get::<_, i64>(0), 35);
        assert_eq!(rig.count("select count(*) from email_destroyed where account_id = $1").await, 0);
        server.world().lies.clear();
        rig.run().await;
        let mut after: Vec<Uuid> = rig.ids().await.into_values().collect();
        after.sort_unstable();
        assert_eq!((after.len(), before.iter().all(|id| after.binary_search(id).is_ok())), (35, true));
        // What is gone in truth is destroyed then.
        server.world().expunge("Work", 3);
        rig.run().await;
        assert_eq!(rig.count("select count(*) from email_messages where account_id = $1").await, 34);
    }
}

/// What its user has done with a message is nowhere but here.
#[tokio::test]
async fn a_pop3_message_that_is_found_again_has_its_flags() {
    let server = ModelPop3::start(Mailbox { messages: (1..=8).collect(), ..Mailbox::default() }).await;
    let settings = json!({"hostname": "127.0.0.1", "port": server.port, "encryption": "none", "protocol": "pop3"});
    let rig = Rig::at(settings).await;
    rig.run().await;
    let flag =
        "update email_messages set is_read = subject < '6', is_flagged = subject < '3', is_answered = subject = '2'
                where account_id = $1";
    rig.owner.execute(flag, &[&rig.account.0]).await.unwrap();
    let flags = "select string_agg(concat_ws(' ', id, subject, is_read, is_flagged, is_answered, changed_number), ',' order by id)
                 from email_messages where account_id = $1 and uid is not null and subject < '9'";
    let flags = async || -> String { rig.owner.query_one(flags, &[&rig.account.0]).await.unwrap().get(0) };
    let unread = "select unread from email_folders where account_id = $1";
    let unread = async || -> i32 { rig.owner.query_one(unread, &[&rig.account.0]).await.unwrap().get(0) };
    let before = flags().await;
    // For a moment nothing is there.
    server.mailbox.lock().unwrap().lies = vec![Lie::new("UIDL", "+OK\r\n.\r\n", Then::GoOn)];
    rig.run().await;
    assert_eq!(rig.ids().await.len(), 0);
    {
        let mut mailbox = server.mailbox.lock().unwrap();
        mailbox.lies.clear();
        mailbox.commands.clear();
        mailbox.messages.push(9);
    }
    rig.run().await;
    assert_eq!((flags().await, unread().await, rig.ids().await.len()), (before.clone(), 4, 9));
    let commands = server.mailbox.lock().unwrap().commands.clone();
    let fetched: Vec<_> = commands.iter().filter(|command| command.starts_with("TOP")).collect();
    assert_eq!(fetched, ["TOP 9 40"]);
    // The same mailbox has another name.
    let rename = "update email_accounts set username = username || '.' where id = $1";
    rig.owner.execute(rename, &[&rig.account.0]).await.unwrap();
    rig.run().await;
    assert_eq!((flags().await, unread().await, rig.ids().await.len()), (before, 4, 9));
    // In another mailbox the same ids are other messages.
    rig.owner.execute(rename, &[&rig.account.0]).await.unwrap();
    server.mailbox.lock().unwrap().longer = 100;
    rig.run().await;
    let subjects = "select string_agg(subject, ' ' order by uid desc) from email_messages
                    where account_id = $1 and uid is not null and not is_read";
    let subjects: String = rig.owner.query_one(subjects, &[&rig.account.0]).await.unwrap().get(0);
    assert_eq!(subjects, "101 102 103 104 105 106 107 108 109");
}

/// A POP3 server does not tell how many are unread, and what a user reads during a turn counts.
#[tokio::test]
async fn what_is_read_while_a_pop3_mailbox_is_synchronised_is_not_unread() {
    let server = ModelPop3::start(Mailbox { messages: (1..=450).collect(), ..Mailbox::default() }).await;
    let settings = json!({"hostname": "127.0.0.1", "port": server.port, "encryption": "none", "protocol": "pop3"});
    let rig = Rig::at(settings).await;
    let stored = "select count(*) from email_messages where account_id = $1";
    rig.ring().await;
    let mut running = Box::pin(rig.try_for(TIME));
    while rig.count(stored).await == 0 {
        assert!(poll_times(&mut running, 1).await.is_none());
    }
    let newest: Vec<Uuid> = rig.ids().await.into_values().take(3).collect();
    for id in &newest {
        let answer =
            mail_api().await.put(&format!("/api/messages/{id}"), json!({"isRead": true})).by(&rig.user).send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(running.await.unwrap(), Done::Complete);
    let unread = "select unread::int8 from email_folders where account_id = $1";
    assert_eq!((rig.count(stored).await, rig.count(unread).await), (450, 447));
    rig.run().await;
    assert_eq!(rig.count(unread).await, 447);
}

#[tokio::test]
async fn what_is_too_much_for_one_turn_goes_on_in_the_next() {
    let mut world = World::new(Extensions { esearch: true, ..Extensions::default() });
    (0..6_000).for_each(|_| world.append("INBOX", 0));
    let server = ModelServer::start(world).await;
    let rig = Rig::model(&server).await;
    let (mut turn, mut here, mut newest_first) = (Duration::from_millis(50), 0, false);
    while rig.run_for(turn).await == Done::More {
        let sql = "select count(*), min(uid) from email_messages where account_id = $1";
        let row = rig.owner.query_one(sql, &[&rig.account.0]).await.unwrap();
        let (count, lowest): (i64, Option<i64>) = (row.get(0), row.get(1));
        newest_first |= count < 6_000 && lowest.is_some_and(|uid| uid > 1);
        // A machine with other things to do needs longer turns to get anywhere at all.
        if count == here {
            turn *= 2;
            assert!(turn < TIME, "nothing comes, however long a turn is");
        }
        here = count;
    }
    assert!(newest_first, "all came in one turn, or the oldest first");
    assert_eq!(rig.ids().await.len(), 6_000);
}

/// Those with folders of more than 20,000 messages, one at a time.
static LARGE: Mutex<()> = Mutex::const_new(());

/// A server that does not tell what has changed may take longer to tell all flags of a large folder than a turn lasts.
#[tokio::test]
async fn what_is_new_in_a_large_folder_does_not_wait_for_its_flags() {
    let _alone = LARGE.lock().await;
    let mut world = World::new(Extensions::default());
    (0..20_500).for_each(|_| world.append("INBOX", 0));
    let server = ModelServer::start(world).await;
    let rig = Rig::large(&server).await;
    let checked = "select coalesce(max(checked_at), 0) from email_folders where account_id = $1";
    let flagged = "select count(*) from email_messages where account_id = $1 and is_flagged";
    let asked =
        |uids: &str| server.world().commands.iter().any(|command| command.starts_with(&format!("UID FETCH {uids} ")));
    let asked_for_all = || asked("1:5500") && asked("5501:13500") && asked("13501:17500") && asked("19501:20500");
    let due = "update email_folders set checked_at = null where account_id = $1";
    rig.owner.execute(due, &[&rig.account.0]).await.unwrap();
    for nth in [5, 20_000] {
        server.world().flag("INBOX", nth, 2);
    }
    (0..3).for_each(|_| server.world().append("INBOX", 0));
    server.world().commands.clear();
    assert_eq!(rig.run_for(Duration::ZERO).await, Done::Complete);
    assert!(asked_for_all());
    assert_eq!(
        (rig.ids().await.len(), rig.count(flagged).await),
        (20_503, 1),
        "what is new has come, and the newest flags"
    );
    let first = rig.count(checked).await;
    assert!(first > 0, "nobody begins with it again at once");
    server.world().append("INBOX", 1);
    server.world().commands.clear();
    rig.run().await;
    assert_eq!((rig.ids().await.len(), asked_for_all()), (20_504, false));
    // Where there is time enough it is done.
    rig.owner.execute(due, &[&rig.account.0]).await.unwrap();
    rig.run().await;
    assert_eq!((rig.count(flagged).await, rig.count(checked).await >= first), (2, true));
    assert_eq!(rig.count("select count(*) from email_destroyed where account_id = $1").await, 0);
    server.world().expunge("INBOX", 5);
    rig.run().await;
    assert_eq!(rig.ids().await.len(), 20_503);
}

/// Whatever all flags of a large folder are compared for, those that the server tells to have changed come at once.
#[tokio::test]
async fn what_has_changed_in_a_large_folder_does_not_wait_for_labels() {
    let _alone = LARGE.lock().await;
    let mut world = World::gmail();
    world.create("Work");
    (0..20_500).for_each(|_| world.append(ALL_MAIL, 0));
    world.label(7, &["Work"]);
    let server = ModelServer::start(world).await;
    let rig = Rig::large(&server).await;
    server.world().rename("Work", "Job");
    server.world().flag(ALL_MAIL, 5, 2);
    rig.run_for(Duration::ZERO).await;
    let flagged = "select count(*) from email_messages where account_id = $1 and is_flagged";
    assert_eq!(rig.count(flagged).await, 1);
}

/// Where it is not known which flags are old, such as at a server that only just got CONDSTORE, all are compared once.
#[tokio::test]
async fn a_server_is_not_asked_what_has_changed_before_all_was_compared() {
    let _alone = LARGE.lock().await;
    let mut world = World::new(Extensions { condstore: true, ..Extensions::default() });
    (0..20_500).for_each(|_| world.append("INBOX", 0));
    let server = ModelServer::start(world).await;
    let rig = Rig::large(&server).await;
    let forget = "update email_folders set modseq = null, checked_at = null where account_id = $1";
    rig.owner.execute(forget, &[&rig.account.0]).await.unwrap();
    server.world().flag("INBOX", 5, 2);
    let modseqs = "select count(modseq) from email_folders where account_id = $1";
    let flagged = "select count(*) from email_messages where account_id = $1 and is_flagged";
    rig.run_for(Duration::ZERO).await;
    server.world().append("INBOX", 1);
    rig.run().await;
    assert_eq!((rig.count(flagged).await, rig.count(modseqs).await), (0, 0), "it is not due");
    let due = "update email_folders set checked_at = null where account_id = $1";
    rig.owner.execute(due, &[&rig.account.0]).await.unwrap();
    rig.run().await;
    assert_eq!((rig.count(flagged).await, rig.count(modseqs).await), (1, 1));
}

#[tokio::test]
async fn a_refused_password_a_closed_port_and_a_lost_lease_are_what_they_are() {
    let (rig, name) = Rig::dovecot("imap").await;
    mail().await.add_user(&name, "another").unwrap();
    rig.run().await;
    let (state, error, synced) = rig.account().await;
    assert_eq!((state.as_str(), error.as_deref(), synced), ("authenticationError", Some("authentication"), None));
    mail().await.add_user(&name, PASSWORD).unwrap();
    rig.run().await;
    assert_eq!(rig.account().await.0, "connected");
    let sql = "update email_accounts set port = 1 where id = $1";
    rig.owner.execute(sql, &[&rig.account.0]).await.unwrap();
    rig.run().await;
    let (state, error, _) = rig.account().await;
    assert_eq!((state.as_str(), error.as_deref()), ("connectError", Some("unreachable")));
}

/// One of two tenants whose mailboxes nobody could tell apart by their numbers: only what their messages say differs.
struct Tenant {
    server: ModelServer,
    user: User,
    account: AccountId,
    mark: &'static str,
    foreign: &'static str,
}

impl Tenant {
    async fn new(service: &Service, mark: &'static str, foreign: &'static str) -> Self {
        let mut world = World::new(Extensions { condstore: true, qresync: true, ..Extensions::default() });
        world.mark = mark;
        (0..200).for_each(|_| world.append("INBOX", 0));
        let (server, user) = (ModelServer::start(world).await, User::new());
        let settings = json!({"hostname": "127.0.0.1", "port": server.port(), "encryption": "none"});
        let account = service.api.create(&user, settings).await["id"].as_str().unwrap().parse().unwrap();
        Self { server, user, account: AccountId(account), mark, foreign }
    }

    async fn run(&self, service: &Service, worker: &Worker) {
        let sql = "update email_accounts set rung_at = 1, leased_until = least(leased_until, 1), deaths = 0
                   where id = $1";
        service.owner.execute(sql, &[&self.account.0]).await.unwrap();
        let scope = Scope { tenant_id: TenantId(self.user.tenant), user_id: UserId(self.user.user) };
        // It fails with the database, and there is another one.
        let _ = worker.run(&scope, self.account, TIME).await;
    }

    /// What the API answers; nothing in it is the other tenant's.
    async fn get(&self, service: &Service, path: &str) -> Answer {
        let answer = service.api.get(path).by(&self.user).send().await;
        assert!(
            !String::from_utf8_lossy(&answer.bytes).contains(self.foreign),
            "{} reads {} at {path}",
            self.mark,
            self.foreign
        );
        answer
    }

    /// Lists all messages, which are this tenant's, and reads one; whether that was there to be read.
    async fn look(&self, service: &Service, nth: usize) -> (Vec<String>, bool) {
        let (mut messages, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(service, &format!("/api/messages?limit=200{cursor}")).await;
            assert_eq!(page.status, 200, "{page:?}");
            messages.extend(page.body["messages"].as_array().unwrap().iter().cloned());
            let Some(next) = page.body["nextCursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        let subjects = messages.iter().map(|message| message["subject"].as_str().unwrap().to_owned());
        let subjects: Vec<String> = subjects.collect();
        assert!(subjects.iter().all(|subject| subject.ends_with(self.mark)), "{subjects:?}");
        let Some(message) = messages.get(nth % messages.len().max(1)) else { return (subjects, false) };
        let shown = self.get(service, &format!("/api/messages/{}", message["id"].as_str().unwrap())).await;
        if shown.status == 200 {
            let text = message["subject"].as_str().unwrap().replace("Message", "Hello");
            assert_eq!(shown.body["text"].as_str().unwrap().trim_end(), text);
        }
        (subjects, shown.status == 200)
    }
}

/// In one process, by one pool of connections, while servers, processes and the database fail. The bodies are read by the
/// real functions, from the same servers.
#[tokio::test]
async fn mailboxes_of_two_tenants_in_one_process_never_meet() {
    const ROUNDS: usize = 12;
    let plain = BTreeMap::from([("MAIL_ALLOW_PLAINTEXT", "true".to_owned())]);
    let service = Service::start(Duration::from_secs(60), plain).await;
    let postgres = &servers().await.postgres;
    let database: String = service.owner.query_one("select current_database()::text", &[]).await.unwrap().get(0);
    let proxy = Proxy::to_port(postgres.port()).await;
    let worker = Worker::at(proxy.url(&postgres.mail_url(&database), postgres.port())).await;
    let tenants = [Tenant::new(&service, "-anna", "-boris").await, Tenant::new(&service, "-boris", "-anna").await];
    let mut dice = Dice::new(0x5EED);
    for round in 0..ROUNDS {
        for tenant in &tenants {
            let mut world = tenant.server.world();
            world.append("INBOX", 0);
            world.fault = [None, Some(Fault::Drop(round * 500)), Some(Fault::No(round % 4))][round % 3];
        }
        let both = async { tokio::join!(tenants[0].run(&service, &worker), tenants[1].run(&service, &worker)) };
        let mut both = Box::pin(both);
        let working = async {
            let polls = if round % 4 < 2 { usize::MAX } else { 20 + dice.roll(150) };
            // Who drops them has killed a process.
            if poll_times(&mut both, polls).await.is_none() && round % 4 == 3 {
                let _ = timeout(Duration::from_millis(100), proxy.strike(Fate::Reset)).await;
                both.await;
            }
        };
        tokio::join!(working, tenants[0].look(&service, round), tenants[1].look(&service, round));
    }
    for tenant in &tenants {
        tenant.server.world().fault = None;
        let sql = "select state = 'connected' and rung_at is null from email_accounts where id = $1";
        let is_done = async || service.owner.query_one(sql, &[&tenant.account.0]).await.unwrap().get::<_, bool>(0);
        tenant.run(&service, &worker).await;
        tenant.run(&service, &worker).await;
        assert!(is_done().await);
        for nth in [0, 100, 200] {
            let (mut subjects, is_read) = tenant.look(&service, nth).await;
            assert!(is_read);
            let mut expected: Vec<_> = (1..=200 + ROUNDS).map(|key| format!("Message {key}{}", tenant.mark)).collect();
            subjects.sort();
            expected.sort();
            assert_eq!(subjects, expected);
        }
        let sql = "select count(*) from email_messages m join email_accounts a on a.id = m.account_id
                   where a.id = $1 and ((m.tenant_id, m.user_id) <> (a.tenant_id, a.user_id)
                       or m::text not like '%' || $2 || '%' or m::text like '%' || $3 || '%')";
        let count = service.owner.query_one(sql, &[&tenant.account.0, &tenant.mark, &tenant.foreign]).await.unwrap();
        assert_eq!(count.get::<_, i64>(0), 0);
    }
}
