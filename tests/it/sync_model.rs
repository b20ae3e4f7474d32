//! Histories of a mailbox, random and with faults, against a model: after the last synchronisation the database is what the
//! server is, nothing twice, nothing missing, whatever was killed in between.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, poll_fn};
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use mail::connect::{Connector, Policy, Ports};
use mail::dns::Resolver;
use mailbox::providers::Providers;
use mailbox::tokens::Way;
use serde_json::json;
use shared::account::AccountId;
use shared::db::Db;
use shared::host_slots::HostSlots;
use shared::identity::{Scope, TenantId, UserId};
use shared::keyring::{Clients, Keyring};
use shared::redis_link::RedisLink;
use shared::sealing::{PrivateKeys, PublicKey};
use shared::secrets::{SecretSource, SecretStore, SecretText, Secrets, Transport};
use shared::work::mail::MailJob;
use shared::work::{Done, Job, WorkError};
use tokio::time::timeout;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::model_imap::{ALL_MAIL, Extensions, Fault, Lie, ModelServer, STORES, Then, World};
use crate::proxy::{Fate, Proxy};
use crate::support::{JWT_KEY, SEALING_KEYS, User, api, owner, servers};

/// In `cargo verify`; `SYNC_HISTORIES` asks for another number, `SYNC_SEED` for one of them.
const HISTORIES: u64 = 120;

/// Numbers that look random, and are the same each time (xorshift64*).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % sides
    }
}

/// What a worker has, in this process.
pub struct Worker(MailJob<Way>);

impl Worker {
    /// For model servers.
    pub async fn new() -> Self {
        let url = servers().await.postgres.mail_url("app");
        Self::build(url, Self::connector()).await
    }

    /// By this way to mail hosts.
    pub async fn with(connector: Connector) -> Self {
        let url = servers().await.postgres.mail_url("app");
        Self::build(url, connector).await
    }

    /// For model servers, at this database.
    pub async fn at(database_url: String) -> Self {
        Self::build(database_url, Self::connector()).await
    }

    /// With so many connections to a host at once, together with whoever counts in this Redis.
    pub async fn with_slots(mut self, per_host: u32, redis_url: &str) -> Self {
        let link = RedisLink::new(&SecretText::new(redis_url.to_owned())).unwrap();
        // A busy machine may take longer than a worker waits, and nobody would count then.
        let link = link.with_patience(Duration::from_secs(10));
        link.warm_up().await;
        self.0.slots = HostSlots::new(NonZeroU32::new(per_host).unwrap(), link);
        self
    }

    /// For model servers, by way of a proxy to PostgreSQL.
    pub async fn through(proxy: &Proxy) -> Self {
        Self::through_with(proxy, Self::connector()).await
    }

    /// By way of a proxy to PostgreSQL, and by this way to mail hosts.
    pub async fn through_with(proxy: &Proxy, connector: Connector) -> Self {
        let postgres = &servers().await.postgres;
        Self::build(proxy.url(&postgres.mail_url("app"), postgres.port()), connector).await
    }

    fn connector() -> Connector {
        let policy = Policy {
            private_networks: vec!["127.0.0.0/8".parse().unwrap()],
            ports: Ports::Any,
            allow_plaintext: true,
            ..Policy::default()
        };
        Connector::new(Resolver::new(&[]), policy, shared::tls::client_config().unwrap())
    }

    async fn build(url: String, connector: Connector) -> Self {
        let servers = servers().await;
        let text = |text: String| SecretText::new(text);
        // Those who are killed keep their slots of a mail host for a time, which the run's own workers would lack.
        let of_their_own = format!("{}/1", servers.redis.url().trim_end_matches('/'));
        let (url, redis) = (text(url), text(of_their_own));
        let mut secrets =
            Secrets::new(&url, redis.clone(), [Some(text(JWT_KEY.into())), None], Transport::Any).unwrap();
        secrets.sealing_private_keys = Some(Arc::new(PrivateKeys::parse(&SEALING_KEYS.1).unwrap()));
        let store = Arc::new(SecretStore::new(SecretSource::Environment(Box::new(secrets))));
        let nobody = Scope { tenant_id: TenantId(Uuid::nil()), user_id: UserId(Uuid::nil()) };
        let now = Instant::now();
        let job = Job { scope: nobody, account_id: AccountId(Uuid::nil()), attempt: 1, stop_at: now, ends_at: now };
        // All model servers are one host.
        let slots = HostSlots::new(NonZeroU32::new(10_000).unwrap(), RedisLink::new(&redis).unwrap());
        let db = Db::new(store.clone(), 4, Duration::from_secs(60)).await.unwrap();
        let (keyring, clients) = (Keyring::new(store.clone()).await.unwrap(), Clients::new(store));
        let seal_with = Arc::new(PublicKey::parse(&SEALING_KEYS.0).unwrap());
        let network = Way { connector, providers: Arc::new(Providers::default()) };
        Self(MailJob { job, db, keyring, seal_with, clients, network, slots })
    }

    pub async fn run(&self, scope: &Scope, account_id: AccountId, time: Duration) -> Result<Done, WorkError> {
        mailbox::sync::run(&self.job(scope, account_id, time)).await
    }

    /// Sends what the account has to send.
    pub async fn deliver(&self, scope: &Scope, account_id: AccountId, time: Duration) -> Result<Done, WorkError> {
        mailbox::outbox::run(&self.job(scope, account_id, time), &mailbox::outbox::Files::default()).await
    }

    fn job(&self, scope: &Scope, account_id: AccountId, time: Duration) -> MailJob<Way> {
        let stop_at = Instant::now() + time;
        let job = Job { scope: *scope, account_id, attempt: 1, stop_at, ends_at: stop_at + time };
        MailJob { job, ..self.0.clone() }
    }
}

/// Polls a future so often; `None` when it is not done then. Who drops it has killed a process there.
pub async fn poll_times<F: Future + Unpin>(future: &mut F, mut times: usize) -> Option<F::Output> {
    poll_fn(|context| match times.checked_sub(1) {
        None => Poll::Ready(None),
        Some(left) => {
            times = left;
            Pin::new(&mut *future).poll(context).map(Some)
        }
    })
    .await
}

/// One turn of an account's worker, and perhaps what strikes it there: it is killed, or another one works beside it, or has
/// its turn before it is done, or a connection is cut, to one of these.
pub async fn turn<R, F>(
    dice: &mut Dice,
    history: &mut String,
    run: impl Fn() -> R,
    ring: impl Fn() -> F,
    servers: &[(&str, &Proxy)],
) where
    R: Future<Output = Result<Done, WorkError>>,
    F: Future<Output = ()>,
{
    ring().await;
    let mut running = Box::pin(run());
    // Most turns are over early.
    let most = 60 << dice.roll(3);
    let (stroke, polls) = (dice.roll(6 + servers.len()), 1 + dice.roll(most));
    match stroke {
        0 => {
            *history += &format!("killed after {polls}; ");
            let _ = poll_times(&mut running, polls).await;
        }
        1 => {
            *history += "two at once; ";
            let (first, second) = tokio::join!(running, run());
            first.expect(history);
            second.expect(history);
        }
        2 => {
            // Its lease ends while it works on, and another one has its turn.
            *history += &format!("overtaken after {polls}; ");
            if poll_times(&mut running, polls).await.is_none() {
                ring().await;
                run().await.expect(history);
                running.await.expect(history);
            }
        }
        3..=5 => {
            *history += "ran; ";
            running.await.expect(history);
        }
        cut => {
            let (name, proxy) = servers[cut - 6];
            *history += &format!("cut off from the {name} after {polls}; ");
            if poll_times(&mut running, polls).await.is_none() {
                // A connection that is being made meanwhile lives on.
                let _ = timeout(Duration::from_millis(100), proxy.strike(Fate::Reset)).await;
                // Whether it got through with another connection or not.
                let _ = running.await;
            }
        }
    }
}

/// Time passes: what was doubted is looked at again.
pub async fn pass_time(owner: &Client, account: AccountId) {
    let sql = "update email_folders set doubted_at = 0 where account_id = $1 and doubted_at is not null";
    owner.execute(sql, &[&account.0]).await.unwrap();
}

/// Folder, UID, flags, the number in the Message-ID, and the id of each message here.
pub async fn here(owner: &Client, account: AccountId) -> BTreeMap<(String, u32), (u8, u64, Uuid)> {
    let sql = "select f.path, m.uid, m.is_read::int + 2 * m.is_flagged::int + 4 * m.is_answered::int
                   + 8 * m.is_draft::int, split_part(m.message_id, '@', 1), m.id
               from email_messages m join email_folders f on f.id = m.folder_id
               where m.account_id = $1 and m.uid is not null";
    let rows = owner.query(sql, &[&account.0]).await.unwrap();
    let read = |row: &tokio_postgres::Row| {
        let key = row.get::<_, Option<&str>>(3).and_then(|key| key.parse().ok()).unwrap_or_default();
        ((row.get(0), row.get::<_, i64>(1) as u32), (row.get::<_, i32>(2) as u8, key, row.get(4)))
    };
    let all: BTreeMap<_, _> = rows.iter().map(read).collect();
    assert_eq!(all.len(), rows.len(), "a message twice");
    all
}

/// One mailbox, here and there.
struct Rig {
    worker: Worker,
    postgres: Proxy,
    owner: Client,
    server: ModelServer,
    scope: Scope,
    account: AccountId,
}

impl Rig {
    async fn new(world: World) -> Self {
        let (user, server) = (User::new(), ModelServer::start(world).await);
        let settings = json!({"hostname": "127.0.0.1", "port": server.port(), "encryption": "none"});
        let created = api().await.create(&user, settings).await;
        let postgres = Proxy::to_port(servers().await.postgres.port()).await;
        Self {
            worker: Worker::through(&postgres).await,
            postgres,
            owner: owner().await,
            server,
            scope: Scope { tenant_id: TenantId(user.tenant), user_id: UserId(user.user) },
            account: AccountId(created["id"].as_str().unwrap().parse().unwrap()),
        }
    }

    /// Somebody rings, and the lease of whoever was killed has ended. He does not count: five in a row would be the last.
    async fn ring(&self) {
        let sql = "update email_accounts set rung_at = 1, leased_until = least(leased_until, 1), deaths = 0
                   where id = $1";
        self.owner.execute(sql, &[&self.account.0]).await.unwrap();
    }

    async fn run(&self) -> Done {
        self.ring().await;
        self.worker.run(&self.scope, self.account, Duration::from_secs(20)).await.unwrap()
    }

    /// Synchronises until that is done.
    async fn settle(&self) {
        self.server.world().fault = None;
        for _ in 0..3 {
            while self.run().await == Done::More {}
            pass_time(&self.owner, self.account).await;
        }
    }

    async fn here(&self) -> BTreeMap<(String, u32), (u8, u64, Uuid)> {
        here(&self.owner, self.account).await
    }

    fn there(&self) -> BTreeMap<(String, u32), (u8, u64)> {
        let world = self.server.world();
        let messages = world.folders.iter().flat_map(|(name, folder)| {
            folder.messages.iter().map(move |(uid, message)| ((name.clone(), *uid), (message.flags, message.key)))
        });
        messages.collect()
    }

    /// The database is what the server is.
    async fn check(&self, history: &str) {
        let (mut here, there) = (BTreeMap::new(), self.there());
        for (place, (flags, key, _)) in self.here().await {
            // Of a message that could not be read only its place and flags are known.
            let key = if key == 0 && history.contains("Garbled") {
                there.get(&place).map_or(0, |(_, key)| *key)
            } else {
                key
            };
            here.insert(place, (flags, key));
        }
        assert_eq!(here, there, "{history}");
        let sql = "select path, total, unread, stored, orphans, is_gone from email_folders where account_id = $1";
        let folders = self.owner.query(sql, &[&self.account.0]).await.unwrap();
        let names: BTreeSet<String> = folders.iter().map(|row| row.get(0)).collect();
        let labels: BTreeSet<(String, i64)> = {
            let world = self.server.world();
            assert_eq!(names, world.folders.keys().cloned().collect(), "{history}");
            for row in &folders {
                let name: &str = row.get(0);
                let shown = world.shown(name);
                let unread = shown.iter().filter(|message| message.flags & 1 == 0).count();
                let found: (i32, i32, i32, i32) = (row.get(1), row.get(2), row.get(3), row.get(4));
                let (total, stored) = (shown.len() as i32, world.folders[name].messages.len() as i32);
                assert_eq!(found, (total, unread as i32, stored, 0), "{history} {row:?}");
            }
            let all_mail = world.folders.get(ALL_MAIL).into_iter().flat_map(|folder| &folder.messages);
            let told =
                all_mail.flat_map(|(uid, message)| message.labels.iter().map(|label| (label.clone(), i64::from(*uid))));
            told.collect()
        };
        let sql = "select f.path, m.uid,
                       (m.received_at, m.is_read, m.is_flagged) = (l.received_at, l.is_read, l.is_flagged)
                   from email_labels l
                   join email_messages m on m.id = l.message_id left join email_folders f on f.id = l.folder_id
                   where l.user_id = $1";
        let rows = self.owner.query(sql, &[&self.scope.user_id.0]).await.unwrap();
        assert!(rows.iter().all(|row| row.get(2)), "{history}");
        assert_eq!(rows.iter().map(|row| (row.get(0), row.get(1))).collect::<BTreeSet<_>>(), labels, "{history}");
        let sql = "select count(*) from email_labels where user_id = $1";
        let count: i64 = self.owner.query_one(sql, &[&self.scope.user_id.0]).await.unwrap().get(0);
        assert_eq!(count, labels.len() as i64, "{history}: labels of nothing");
        let sql = "select count(*) from email_messages where account_id = $1 and uid is null";
        assert_eq!(self.owner.query_one(sql, &[&self.account.0]).await.unwrap().get::<_, i64>(0), 0, "{history}");
        let sql = "select count(*) filter (where m.created_number > m.changed_number or m.changed_number > n.last),
                       count(*) - count(distinct m.changed_number)
                   from email_messages m join email_change_numbers n using (tenant_id, user_id) where user_id = $1";
        let row = self.owner.query_one(sql, &[&self.scope.user_id.0]).await.unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (0, 0), "{history}: numbers of changes");
    }
}

const NAMES: [&str; 4] = ["INBOX", "Sent", "Büro", "Trash"];

/// One thing happens at the server. Says which messages it moved.
pub fn happen(world: &mut World, dice: &mut Dice, moved: &mut BTreeSet<u64>) -> String {
    let (name, other, nth) = (NAMES[dice.roll(4)], NAMES[dice.roll(4)], dice.roll(50));
    let keys = |world: &World, name: &str| -> Vec<u64> {
        world.folders.get(name).map(|folder| folder.messages.values().map(|m| m.key).collect()).unwrap_or_default()
    };
    match dice.roll(20) {
        0..=6 => {
            let (count, flags) = (1 + dice.roll(4), dice.roll(16) as u8);
            (0..count).for_each(|_| world.append(name, flags));
            format!("append {count} to {name}")
        }
        7..=9 => {
            world.flag(name, nth, dice.roll(16) as u8);
            format!("flag {name} {nth}")
        }
        10..=12 => {
            world.expunge(name, nth);
            format!("expunge {name} {nth}")
        }
        13..=14 => {
            let before = keys(world, name);
            world.shift(name, nth, other);
            // Also within its folder, under another UID.
            moved.extend(before.iter().filter(|key| name == other || !keys(world, name).contains(key)));
            format!("move {name} {nth} to {other}")
        }
        15 => {
            world.create(name);
            format!("create {name}")
        }
        16 => {
            moved.extend(keys(world, name));
            world.rename(name, other);
            format!("rename {name} to {other}")
        }
        17 => {
            world.delete(name);
            format!("delete {name}")
        }
        18 => {
            world.renumber(name);
            format!("renumber {name}")
        }
        _ => {
            let (condstore, qresync) = (dice.roll(2) == 0, dice.roll(2) == 0);
            world.extensions = Extensions {
                condstore,
                qresync: condstore && qresync,
                list_status: dice.roll(2) == 0,
                esearch: dice.roll(2) == 0,
                special_use: dice.roll(2) == 0,
                utf8_accept: dice.roll(2) == 0,
                ..world.extensions
            };
            format!("{:?}", world.extensions)
        }
    }
}

/// The same at Gmail.
fn happen_at_gmail(world: &mut World, dice: &mut Dice, moved: &mut BTreeSet<u64>) -> String {
    const LABELS: [&str; 5] = ["Büro", "Other", "INBOX", "[Gmail]/Sent Mail", "[Gmail]/Starred"];
    let (name, other, nth) = (STORES[dice.roll(3)], STORES[dice.roll(3)], dice.roll(50));
    let (label, new) = (LABELS[dice.roll(2)], LABELS[dice.roll(2)]);
    let chosen = dice.roll(32);
    let labels: Vec<&str> = (0..5)
        .filter(|bit| chosen & 1 << bit != 0 && world.folders.contains_key(LABELS[*bit]))
        .map(|bit| LABELS[bit])
        .collect();
    match dice.roll(20) {
        0..=4 => {
            world.deliver(&labels, dice.roll(16) as u8);
            format!("deliver {labels:?}")
        }
        5 => {
            world.append(name, dice.roll(16) as u8);
            format!("append to {name}")
        }
        6..=7 => {
            world.flag(name, nth, dice.roll(16) as u8);
            format!("flag {name} {nth}")
        }
        8..=9 => {
            world.expunge(name, nth);
            format!("expunge {name} {nth}")
        }
        10..=11 => {
            moved.extend(world.folders[name].messages.values().map(|message| message.key));
            world.shift(name, nth, other);
            format!("move {name} {nth} to {other}")
        }
        12..=14 => {
            world.label(nth, &labels);
            format!("label {nth} {labels:?}")
        }
        15 => {
            world.create(label);
            format!("create {label}")
        }
        16 => {
            world.rename(label, new);
            format!("rename {label} to {new}")
        }
        17 => {
            world.delete(label);
            format!("delete {label}")
        }
        18 => {
            world.renumber(name);
            format!("renumber {name}")
        }
        _ => {
            let (condstore, list_status) = (dice.roll(2) == 0, dice.roll(2) == 0);
            let utf8_accept = dice.roll(2) == 0;
            world.extensions = Extensions { condstore, list_status, utf8_accept, ..world.extensions };
            format!("{:?}", world.extensions)
        }
    }
}

/// Something happens at a server, and is told; with the messages that were moved.
type Happen = fn(&mut World, &mut Dice, &mut BTreeSet<u64>) -> String;

/// A mailbox's history, and what must be true after it.
async fn live(seed: u64) {
    let mut dice = Dice::new(seed);
    let extensions = Extensions { object_id: dice.roll(2) == 0, ..Extensions::default() };
    let (mut world, happen): (_, Happen) = match seed % 4 {
        0 => (World::gmail(), happen_at_gmail),
        _ => (World::new(extensions), happen),
    };
    world.ends_late = dice.roll(2) == 0;
    let mut history = format!("SYNC_SEED={seed}: ");
    let mut moved = BTreeSet::new();
    for _ in 0..dice.roll(12) {
        history += &happen(&mut world, &mut dice, &mut moved);
        history += "; ";
    }
    let rig = Rig::new(world).await;
    let mut ids = BTreeMap::new();
    for _ in 0..3 + dice.roll(4) {
        for _ in 0..dice.roll(6) {
            history += &happen(&mut rig.server.world(), &mut dice, &mut moved);
            history += "; ";
        }
        rig.server.world().fault = match dice.roll(10) {
            0 => Some(Fault::No(dice.roll(8))),
            1 => Some(Fault::Drop(dice.roll(4000))),
            2 => Some(Fault::Empty),
            3 => Some(Fault::Garbled),
            _ => None,
        };
        let fault = rig.server.world().fault;
        if let Some(fault) = fault {
            history += &format!("{fault:?}; ");
        }
        let run = || rig.worker.run(&rig.scope, rig.account, Duration::from_secs(20));
        turn(&mut dice, &mut history, run, || rig.ring(), &[("database", &rig.postgres)]).await;
        for (_, (_, key, id)) in rig.here().await {
            ids.entry(key).or_insert(id);
        }
    }
    rig.settle().await;
    rig.check(&history).await;
    // What nobody moved has its first id, and can be read if it ever could: a message that cannot has no key here.
    let there = rig.there();
    for (place, (_, _, id)) in rig.here().await {
        let (_, key) = there[&place];
        if let Some(first) = ids.get(&key).filter(|_| !moved.contains(&key)) {
            assert_eq!(first, &id, "{history} {place:?}");
        }
    }
}

#[tokio::test]
async fn whatever_happens_the_database_ends_as_the_server_is() {
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    if let Some(seed) = number("SYNC_SEED") {
        return live(seed).await;
    }
    let count = number("SYNC_HISTORIES").unwrap_or(HISTORIES);
    stream::iter(0..count).map(live).buffer_unordered(4).collect::<Vec<_>>().await;
}

/// A folder of which there is much, at first or all at once later, whose worker dies again and again while messages arrive: what
/// is here stays what it is, the newest comes first, each goes on where the last one was, and in the end all is here.
#[tokio::test]
async fn a_large_folder_comes_piece_by_piece_whoever_is_killed_between_them() {
    const MESSAGES: usize = 6_000;
    let all = Extensions { condstore: true, qresync: true, list_status: true, esearch: true, ..Extensions::default() };
    let some = Extensions { condstore: true, ..Extensions::default() };
    for (extensions, is_first) in
        [(Extensions::default(), true), (all, true), (Extensions::default(), false), (some, false), (all, false)]
    {
        let mut world = World::new(extensions);
        world.ends_late = extensions.condstore;
        (0..10).for_each(|_| world.append("INBOX", 0));
        let rig = Rig::new(world).await;
        if !is_first {
            rig.settle().await;
        }
        let (newest, mut before) = (("INBOX".to_owned(), 10 + MESSAGES as u32), rig.here().await);
        (0..MESSAGES).for_each(|_| rig.server.world().append("INBOX", 0));
        let (mut dice, mut polls, mut partial) = (Dice::new(0x5EED), 10, 0);
        loop {
            rig.ring().await;
            let mut running = Box::pin(rig.worker.run(&rig.scope, rig.account, Duration::from_secs(20)));
            let ended = poll_times(&mut running, polls + dice.roll(2)).await;
            // Who drops it has killed a process there.
            drop(running);
            let here = rig.here().await;
            for (place, stored) in &before {
                assert_eq!(here.get(place), Some(stored), "{place:?}");
            }
            assert!(here.len() <= 10 || here.contains_key(&newest));
            if let Some(Done::Complete) = ended.map(Result::unwrap) {
                break;
            }
            // Who gets nowhere before he dies lives longer the next time.
            match here.len() == before.len() {
                true => polls += 2,
                false => partial += 1,
            }
            before = here;
            rig.server.world().append("INBOX", 1);
        }
        rig.settle().await;
        rig.check("a large folder").await;
        let after = rig.here().await;
        assert!(before.iter().all(|(place, stored)| after.get(place) == Some(stored)));
        assert!(partial >= 2, "{partial} have died between two pieces");
    }
}

/// Something of all that can happen, in each folder, of which one gets other UIDs. There are as many messages as before.
fn much_happens(world: &mut World, nth: usize, moved: &mut BTreeSet<u64>) {
    let flags = (nth % 16) as u8;
    for (from, to) in [("Büro", "Trash"), ("INBOX", "Büro")] {
        moved.extend(world.folders[from].messages.values().next().map(|message| message.key));
        world.shift(from, 0, to);
    }
    world.append("INBOX", flags);
    world.append("INBOX", 0);
    world.expunge("INBOX", nth);
    world.expunge("Trash", 0);
    for name in NAMES {
        world.flag(name, nth, flags);
    }
    world.renumber("Sent");
}

/// Several times as many as such a turn has.
const MOST_AWAITS: usize = 500;

/// Kills a turn that has much to do at each place where it can die, one after the other, and has the next do what it left.
async fn die_everywhere(extensions: Extensions) {
    let mut world = World::new(extensions);
    for name in NAMES {
        world.create(name);
        (0..6).for_each(|_| world.append(name, 0));
    }
    let rig = Rig::new(world).await;
    rig.settle().await;
    let (mut ids, mut moved) = (BTreeMap::new(), BTreeSet::new());
    for polls in 1..MOST_AWAITS {
        much_happens(&mut rig.server.world(), polls, &mut moved);
        rig.ring().await;
        let mut running = Box::pin(rig.worker.run(&rig.scope, rig.account, Duration::from_secs(20)));
        let ended = poll_times(&mut running, polls).await;
        // Who drops it has killed a process there.
        drop(running);
        let history = format!("{extensions:?}: killed after {polls}");
        rig.settle().await;
        rig.check(&history).await;
        for (_, (_, key, id)) in rig.here().await {
            let first = *ids.entry(key).or_insert(id);
            assert!(first == id || moved.contains(&key), "{history} {key}");
        }
        if let Some(done) = ended {
            assert_eq!(done.unwrap(), Done::Complete);
            assert!(polls > 10, "{history}: it had less to do than it should");
            return;
        }
    }
    panic!("{extensions:?}: a turn does not end");
}

#[tokio::test]
async fn a_turn_may_die_at_each_of_its_awaits() {
    let all = Extensions {
        condstore: true,
        qresync: true,
        list_status: true,
        esearch: true,
        utf8_accept: true,
        object_id: true,
        ..Extensions::default()
    };
    stream::iter([Extensions::default(), all]).map(die_everywhere).buffer_unordered(2).collect::<Vec<_>>().await;
}

/// What a session has lost that saw nothing is looked for before it is given up, also where as many have arrived meanwhile.
#[tokio::test]
async fn what_was_lost_in_a_lie_is_found_though_the_numbers_agree() {
    for extensions in [Extensions::default(), Extensions { condstore: true, ..Extensions::default() }] {
        let mut world = World::new(extensions);
        (0..3).for_each(|_| world.append("INBOX", 0));
        let rig = Rig::new(world).await;
        rig.settle().await;
        let first = rig.here().await;
        (0..3).for_each(|_| rig.server.world().append("INBOX", 0));
        rig.run().await;
        // As a session leaves it to which the folder seemed to be empty, and after it a worker that died when it had stored what
        // arrived and not how far it was.
        let sql = "update email_messages set uid = null where account_id = $1 and uid <= 3";
        rig.owner.execute(sql, &[&rig.account.0]).await.unwrap();
        let sql = "update email_folders set uid_next = 4, stored = 3, orphans = 3, is_complete = true
                   where account_id = $1 and path = 'INBOX'";
        rig.owner.execute(sql, &[&rig.account.0]).await.unwrap();
        rig.server.world().append("INBOX", 0);
        rig.settle().await;
        let here = rig.here().await;
        assert!(first.iter().all(|(place, stored)| here.get(place) == Some(stored)), "{first:?} {here:?}");
        rig.check("lost and found").await;
    }
}

/// A server may say a message twice, once so that nobody can read it.
#[tokio::test]
async fn what_is_said_badly_and_then_well_is_here_once() {
    let mut world = World::new(Extensions::default());
    (0..3).for_each(|_| world.append("INBOX", 0));
    world.lies = vec![Lie::new("UID FETCH", "* 2 FETCH (UID 2 FLAGS nonsense\r\n", Then::Truth)];
    let rig = Rig::new(world).await;
    assert_eq!(rig.run().await, Done::Complete);
    rig.check("said twice").await;
}

/// A folder that is shared and cannot be read keeps no other one in the list that is there no more.
#[tokio::test]
async fn an_empty_folder_that_is_gone_goes_though_another_one_is_refused() {
    let mut world = World::new(Extensions::default());
    world.append("INBOX", 0);
    world.create("Shared");
    world.create("Old");
    let refusal = |on| Lie::new(on, "{tag} NO [NOPERM] It is not yours\r\n", Then::GoOn);
    world.lies = vec![refusal("STATUS \"Shared\""), refusal("EXAMINE \"Shared\"")];
    let rig = Rig::new(world).await;
    rig.settle().await;
    rig.server.world().delete("Old");
    rig.run().await;
    let sql = "select array_agg(path order by path) from email_folders where account_id = $1";
    let left: Vec<String> = rig.owner.query_one(sql, &[&rig.account.0]).await.unwrap().get(0);
    assert_eq!(left, ["INBOX", "Shared"]);
}

/// Commands for the next folder are under way when a server tells what has become of the one before: that ends with CLOSED
/// (RFC 7162 section 3.2.11).
#[tokio::test]
async fn what_is_said_before_a_folder_is_closed_is_not_of_the_next_one() {
    let all = Extensions { condstore: true, qresync: true, list_status: true, esearch: true, ..Extensions::default() };
    let mut world = World::new(all);
    world.create("Work");
    for name in ["INBOX", "INBOX", "INBOX", "Work", "Work", "Work"] {
        world.append(name, 0);
    }
    let rig = Rig::new(world).await;
    rig.settle().await;
    let before = rig.here().await;
    let of_inbox = "* VANISHED 1\r\n* 2 FETCH (UID 3 FLAGS (\\Answered))\r\n* OK [CLOSED] It was the inbox\r\n";
    {
        let mut world = rig.server.world();
        world.lies = vec![Lie::new("EXAMINE \"Work\"", of_inbox, Then::Truth)];
        world.flag("INBOX", 1, 1);
        world.flag("Work", 1, 1);
    }
    rig.run().await;
    rig.check("closed").await;
    let ids = |here: BTreeMap<_, (u8, u64, Uuid)>| here.into_values().map(|(_, key, id)| (key, id)).collect::<Vec<_>>();
    assert_eq!(ids(rig.here().await), ids(before));
}

/// A message that was moved from here lies above the cursor, and is read elsewhere before the next synchronisation.
#[tokio::test]
async fn flags_of_what_is_here_above_the_cursor_are_known_as_well() {
    for qresync in [false, true] {
        let extensions = Extensions { condstore: true, qresync, ..Extensions::default() };
        let mut world = World::new(extensions);
        (0..3).for_each(|_| world.append("INBOX", 0));
        let rig = Rig::new(world).await;
        rig.settle().await;
        rig.server.world().append("INBOX", 0);
        rig.run().await;
        let sql = "update email_folders set uid_next = 4, modseq = modseq - 1 where account_id = $1 and path = 'INBOX'";
        rig.owner.execute(sql, &[&rig.account.0]).await.unwrap();
        rig.server.world().flag("INBOX", 3, 1);
        rig.settle().await;
        rig.check("read elsewhere").await;
    }
}
