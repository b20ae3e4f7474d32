//! The end: faults stop, everything settles, and each mailbox, outbox and object must be what it has to be.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use local::event_sources::EventSources;
use serde_json::Value;
use tokio::time::sleep;
use tokio_postgres::{Client, NoTls};

use super::{
    DATABASE, Run,
    imap::{OtherClient, Place},
    lock,
    mailbox::{Mailbox, subject_of},
    stage::Servers,
    user::{User, text},
};

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// Who has not ended by then what he was at is dead, and his lease is ended: it would last for minutes.
const DEATH: Duration = Duration::from_secs(15);
const STEP: Duration = Duration::from_secs(2);

/// Each table that has an account's rows.
const TABLES: &str = "select c.table_name::text from information_schema.columns c join information_schema.tables t using (table_name)
    where t.table_type = 'BASE TABLE' and c.table_schema = 'public' and c.column_name in ('account_id', 'tenant_id', 'user_id')
    group by c.table_name having count(*) = 3";

/// What is left in the way of an end, for which time has to pass.
const PASS_TIME: &str = "update email_outbox set due_at = 1, ring_at = 1 where id in
    (select id from email_outbox where due_at > 1 and leased_until is null for update skip locked);
    update email_accounts set next_sync_at = 1 where id in (select id from email_accounts
        where rung_at is not null and leased_until is null and next_sync_at > 1 for update skip locked)";
const END_LEASES: &str =
    "update email_outbox set leased_until = 1, due_at = 1, ring_at = 1 where leased_until is not null;
    update email_accounts set leased_until = 1 where leased_until is not null";
const UNSETTLED: &str = "select count(*) from email_outbox
    where status in ('queued', 'sending') or leased_until is not null or copy = 'due'";

pub(super) async fn connect(servers: &Servers) -> Result<Client> {
    let (owner, connection) = tokio_postgres::connect(&servers.postgres.owner_url(DATABASE), NoTls).await?;
    // Ends with the client; its errors reach us as those of the statement.
    tokio::spawn(connection);
    Ok(owner)
}

/// Waits until every mailbox is as its server has it and nothing is to be sent any more; returns how many messages there are.
pub(super) async fn settle(run: &Run, servers: &Servers, sources: &EventSources, users: &mut [User]) -> Result<usize> {
    let (owner, began, mut leases_ended) = (connect(servers).await?, Instant::now(), false);
    let (mut open, mut messages): (Vec<&mut User>, usize) = (users.iter_mut().collect(), 0);
    loop {
        if !leases_ended && began.elapsed() > DEATH {
            owner.batch_execute(END_LEASES).await?;
            leases_ended = true;
        }
        owner.batch_execute(PASS_TIME).await?;
        // Its failure is in its own log, and the next turn makes up for it.
        let _ = sources.tick("schedule-work").await?;
        for user in &open {
            user.synchronise().await?;
        }
        sleep(STEP).await;
        let unsettled: i64 = owner.query_one(UNSETTLED, &[]).await?.get(0);
        let mut odd = Vec::new();
        if unsettled > 0 {
            odd.push(format!("{unsettled} messages of outboxes are not settled"));
        } else {
            let mut left = Vec::new();
            for user in open {
                match compare(&owner, servers, user).await? {
                    Ok(count) => messages += count,
                    Err(difference) => {
                        odd.push(difference);
                        left.push(user);
                    }
                }
            }
            open = left;
        }
        if odd.is_empty() || began.elapsed() > PATIENCE {
            odd.into_iter().for_each(|difference| run.differs(difference));
            println!("settled: {:.0} s", began.elapsed().as_secs_f64());
            return Ok(messages);
        }
    }
}

/// How many messages a mailbox has, or how the server, the database and the API differ.
async fn compare(owner: &Client, servers: &Servers, user: &mut User) -> Result<Result<usize, String>> {
    let mailbox = user.mailbox.clone();
    let address = &mailbox.address;
    let stands = user.how_it_stands().await?;
    if stands["status"] != "idle" || stands["state"] != "connected" {
        return Ok(Err(format!("{address} does not come to rest: {stands}")));
    }
    let there = OtherClient::sign_in(servers.ports.imap, address).await?.all().await?;
    let here = stored(owner, &mailbox).await?;
    if there != here {
        return Ok(Err(format!("{address}: {}", differing(&there, &here))));
    }
    let path = format!("/api/accounts/{}/folders", mailbox.account);
    let folders = mailbox.caller.ask("folders", "GET", &path, None, &[200]).await?.body;
    let paths: BTreeMap<String, String> =
        folders["folders"].as_array().into_iter().flatten().map(id_and_path).collect();
    let followed = user.follow().await?;
    let Some(listed) = user.list().await?.filter(|_| followed) else {
        return Ok(Err(format!("{address} gets no list and no changes")));
    };
    let seen = |message: &Value| Place {
        folder: paths.get(&text(message, "folderId")).cloned().unwrap_or_default(),
        uid: 0,
        flags: ["isRead", "isFlagged", "isAnswered", "isDraft"].map(|flag| message[flag] == true),
        subject: text(message, "subject"),
    };
    let mut listed: Vec<Place> = listed.iter().map(seen).collect();
    let mut expected: Vec<Place> = there.iter().map(|place| Place { uid: 0, ..place.clone() }).collect();
    listed.sort();
    expected.sort();
    if listed != expected {
        return Ok(Err(format!("{address} as it is listed: {}", differing(&expected, &listed))));
    }
    if let Some(difference) = user.compare_copy() {
        return Ok(Err(difference));
    }
    let subjects: BTreeSet<_> = there.iter().map(|place| place.subject.clone()).collect();
    let lost: Vec<_> = lock(&mailbox.kept).difference(&subjects).cloned().collect();
    if !lost.is_empty() {
        return Ok(Err(format!("{address} has lost what nobody destroyed: {lost:?}")));
    }
    Ok(Ok(there.len()))
}

fn id_and_path(folder: &Value) -> (String, String) {
    (text(folder, "id"), text(folder, "path"))
}

/// What is on one side alone.
fn differing(there: &[Place], here: &[Place]) -> String {
    let only =
        |of: &[Place], other: &[Place]| of.iter().filter(|place| !other.contains(place)).cloned().collect::<Vec<_>>();
    format!("only there {:?}, only here {:?}", only(there, here), only(here, there))
}

async fn stored(owner: &Client, mailbox: &Mailbox) -> Result<Vec<Place>> {
    let sql = "select f.path, coalesce(m.uid, 0), m.is_read, m.is_flagged, m.is_answered, m.is_draft, m.subject
               from email_messages m join email_folders f on f.id = m.folder_id where m.account_id = $1";
    let account: uuid::Uuid = mailbox.account.parse()?;
    let place = |row: &tokio_postgres::Row| Place {
        folder: row.get(0),
        uid: row.get(1),
        flags: [row.get(2), row.get(3), row.get(4), row.get(5)],
        subject: row.get(6),
    };
    let mut places: Vec<Place> = owner.query(sql, &[&account]).await?.iter().map(place).collect();
    places.sort();
    Ok(places)
}

/// Each message of an outbox is at the sink as often as its status says, as its sender wrote it, and nothing else is
/// there; returns how many there are of each status.
pub(super) async fn check_sent(run: &Run, servers: &Servers, users: &[User]) -> Result<BTreeMap<String, usize>> {
    let mut taken: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for delivery in servers.mail.lock().await.sink().deliveries_after(0) {
        let message = String::from_utf8_lossy(&delivery.message).into_owned();
        let subject = subject_of(&message).unwrap_or_default();
        taken.entry(subject).or_default().push((delivery, message));
    }
    let mut statuses = BTreeMap::<String, usize>::new();
    for mailbox in users.iter().map(|user| &user.mailbox) {
        let entries = std::mem::take(&mut *lock(&mailbox.sent));
        for (subject, entry) in entries {
            let path = format!("/api/outbox/{}", entry.id);
            let found = mailbox.caller.ask("outbox entry", "GET", &path, None, &[200]).await?.body;
            let at_the_sink = taken.remove(&subject).unwrap_or_default();
            let status = text(&found, "status");
            let fits = match status.as_str() {
                "sent" => at_the_sink.len() == 1,
                "uncertain" => at_the_sink.len() <= 1,
                _ => at_the_sink.is_empty(),
            };
            let id = text(&found, "messageId");
            let whole = at_the_sink.iter().all(|(delivery, message)| {
                delivery.sender == mailbox.address
                    && delivery.recipients == [entry.to.as_str()]
                    && message.contains(&id)
            });
            if !fits || !whole {
                run.differs(format!("{subject} is at the sink {} times: {found}", at_the_sink.len()));
            }
            *statuses.entry(status).or_default() += 1;
        }
    }
    if !taken.is_empty() {
        run.differs(format!("nobody asked for {:?}", taken.keys()));
    }
    Ok(statuses)
}

/// Every row and every object is where its account's are; returns how many objects were looked at.
pub(super) async fn check_tenants(run: &Run, servers: &Servers, users: &[User]) -> Result<usize> {
    let owner = connect(servers).await?;
    for row in owner.query(TABLES, &[]).await? {
        let table: String = row.get(0);
        let sql = format!(
            "select count(*) from {table} t left join email_accounts a on a.id = t.account_id
             where t.account_id is not null and (a.tenant_id, a.user_id) is distinct from (t.tenant_id, t.user_id)"
        );
        let foreign: i64 = owner.query_one(&sql, &[]).await.with_context(|| table.clone())?.get(0);
        if foreign > 0 {
            run.differs(format!("{foreign} rows of {table} are not where their account's are"));
        }
    }
    let keys = servers.bucket.keys().await?;
    for key in &keys {
        let owner = users
            .iter()
            .map(|user| &user.mailbox)
            .find(|mailbox| key.starts_with(&format!("mail/{}/{}/", mailbox.caller.tenant, mailbox.account)));
        let object = servers.bucket.get(key).await?;
        if !owner.is_some_and(|mailbox| String::from_utf8_lossy(&object).contains(&mailbox.marker)) {
            run.differs(format!("the object {key} is nobody's, or has what is somebody else's"));
        }
    }
    Ok(keys.len())
}
