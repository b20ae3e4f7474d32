//! Lists of messages with few and with many in the table, and what a message takes there.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Bench, Row, Times, micros,
    requests::{Caller, ensure_good, insert_messages},
    scale::{self, ID_OF, id_of},
};

pub(super) const BINARY: &str = "list-messages";
pub(super) const FEW: u64 = 10_000;
/// Messages of each user, but for the one who has half of all.
const EACH: u64 = 50;
const USERS_ASKING: u64 = 300;
const ROUNDS: usize = 2100;
const UNCOUNTED: usize = 600;
const TABLES: [&str; 3] = ["email_accounts", "email_folders", "email_messages"];

pub(super) async fn measure(bench: &Bench, many: u64) -> Result<Vec<Row>> {
    let mut rows = sizes(bench).await?;
    rows.extend(search(bench).await?);
    for count in [FEW, many] {
        bench.progress(&format!("messages: filling a table with {count}"));
        bench.new_database(&database(count)).await?;
        fill(bench, count).await?;
    }
    for (name, who, query) in [
        ("all", Who::Many, "limit=50"),
        ("all, of one who has half of them", Who::Half, "limit=50"),
        ("unread in the inbox, of one who has half of them", Who::Half, "limit=50&role=inbox&isRead=false"),
    ] {
        bench.progress(&format!("messages: {name}"));
        let mut small = Side::start(bench, who, query, FEW)?;
        let mut large = Side::start(bench, who, query, many)?;
        for round in 0..bench.rounds(ROUNDS) {
            let (first, second) = if round % 2 == 0 { (&mut small, &mut large) } else { (&mut large, &mut small) };
            first.ask(round)?;
            second.ask(round)?;
        }
        let (large, small) = (micros(large.times.median()), micros(small.times.median()));
        let row = Row::beside(format!("list-messages, {name}: p50 at {many} ÷ at {FEW}"), "µs", large, small);
        rows.push(if many >= 1_000_000 { row.at_most(1.2) } else { row });
    }
    Ok(rows)
}

fn database(count: u64) -> String {
    format!("messages_{count}")
}

async fn fill(bench: &Bench, count: u64) -> Result<()> {
    let others = count / 2 / EACH;
    let owner = bench.owner(&database(count)).await?;
    // As if they had come over time, to all users alike.
    let messages = insert_messages(&format!(
        "select n, id_of(u / 100, 2) as tenant_id, id_of(u, 3) as user_id, id_of(u, 1) as account_id,
             id_of(u * 10 + (n / 2 + n / (2 * {others})) % 5, 5) as folder_id, n * 1000 as received_at, true as has_preview
         from (select n, case when n % 2 = 0 then 0 else 1 + n / 2 % {others} end as u
               from generate_series(0, {count}::bigint - 1) n) whose"
    ));
    owner.batch_execute(ID_OF).await?;
    scale::in_bulk(
        &owner,
        &TABLES,
        &format!(
            "insert into email_accounts (id, tenant_id, user_id, account_name, email_address, address_key, protocol,
                 hostname, port, encryption, username, credential_id, created_at, updated_at)
             select id_of(u, 1), id_of(u / 100, 2), id_of(u, 3), 'Work', u || '@example.com', u || '@example.com', 'imap',
                 'imap.example.com', 993, 'tls', 'jane', id_of(u, 4), u, u
             from generate_series(0, {others}) u;
             insert into email_folders (id, tenant_id, user_id, account_id, wire_name, path, role, is_selectable,
                 created_number, changed_number)
             select id_of(u * 10 + f, 5), id_of(u / 100, 2), id_of(u, 3), id_of(u, 1), convert_to('F' || f, 'UTF8'), 'F' || f,
                 case f when 0 then 'inbox' end, true, 0, 0
             from generate_series(0, {others}) u, generate_series(0, 4) f;
             {messages}"
        ),
    )
    .await
}

/// What a message takes in PostgreSQL, indexes included: one of a first synchronisation, and one that arrives later.
async fn sizes(bench: &Bench) -> Result<Vec<Row>> {
    // Ten mailboxes of ten folders, in batches of 500 in turn, newest first; the newest 200 of a folder have a preview.
    let first = insert_messages(
        "select batch * 500 + i as n, id_of(0, 2) as tenant_id, id_of(batch % 10, 3) as user_id,
             id_of(batch % 10, 1) as account_id, id_of(batch % 10 * 10 + batch / 20, 5) as folder_id,
             1000000000 - (batch / 10 % 2 * 500 + i) * 60000 as received_at, batch / 10 % 2 = 0 and i < 200 as has_preview
         from generate_series(0, 499) i",
    );
    let first = format!("do $$ begin for batch in 0::bigint..199 loop {first}; end loop; end $$");
    // To ten inboxes in turn; each has a preview.
    let later = insert_messages(
        "select n, id_of(0, 2) as tenant_id, id_of(n % 10, 3) as user_id, id_of(n % 10, 1) as account_id,
             id_of(n % 10 * 10, 5) as folder_id, n * 1000 as received_at, true as has_preview
         from generate_series(0, 99999::bigint) n",
    );
    let mut rows = Vec::new();
    for (name, database, inserts) in
        [("of a first synchronisation", "messages_first", first), ("that arrives", "messages_later", later)]
    {
        bench.progress(&format!("messages: what one {name} takes"));
        bench.new_database(database).await?;
        let owner = bench.owner(database).await?;
        owner.batch_execute(&format!("{ID_OF}; {inserts}")).await?;
        let sql = "select pg_total_relation_size('email_messages') / count(*)::float8 from email_messages";
        let bytes: f64 = owner.query_one(sql, &[]).await?.try_get(0)?;
        rows.push(Row::alone(format!("a message {name}, indexes included"), "B", bytes).at_most(1000.0));
    }
    Ok(rows)
}

/// What is looked for in vain, by one who has so many messages: each is looked at.
async fn search(bench: &Bench) -> Result<Vec<Row>> {
    const COUNT: u64 = 100_000;
    const ROUNDS: usize = 60;
    bench.progress("messages: a search");
    let database = "messages_search";
    bench.new_database(database).await?;
    let (tenant, user) = (id_of(0, 2), id_of(0, 3));
    let owner = bench.owner(database).await?;
    owner.batch_execute(ID_OF).await?;
    let messages = insert_messages(&format!(
        "select n, id_of(0, 2) as tenant_id, id_of(0, 3) as user_id, id_of(0, 1) as account_id, id_of(n % 10, 5) as folder_id,
             n * 1000 as received_at, true as has_preview from generate_series(1, {COUNT}::bigint) n"
    ));
    let account = "insert into email_accounts (id, tenant_id, user_id, account_name, email_address, address_key, protocol,
             hostname, port, encryption, username, credential_id, created_at, updated_at)
         select id_of(0, 1), id_of(0, 2), id_of(0, 3), 'Work', 'x@example.com', 'x@example.com', 'imap', 'imap.example.com', 993,
             'tls', 'jane', id_of(0, 4), 1, 1";
    scale::in_bulk(&owner, &TABLES, &format!("{account}; {messages}")).await?;
    let mut environment = bench.start(BINARY, database)?;
    let mut rows = Vec::new();
    let long = format!("q={}", "example%20cot".repeat(18));
    for (name, query) in [
        ("q", "q=quartz%20vein"),
        // As each message begins to match.
        ("q that often begins", "q=example.cot"),
        ("q of a cased script", "q=%D0%BF%D1%80%D0%B8%D0%B2%D0%B5%D1%82"),
        ("q of 198 letters", &*long),
        ("subject", "subject=quartz"),
        ("from", "from=quartz"),
        ("to", "to=quartz"),
        ("q, from, to and subject at once", "q=example&from=quartz&to=quartz&subject=quartz&hasAttachments=false"),
        ("threadId", "threadId=00000001-0000-7000-8000-000000000000"),
    ] {
        let mut event: Value =
            serde_json::from_slice(&Caller::with_ids(tenant, user)?.event("list-messages", None, None)?)?;
        event["rawQueryString"] = query.into();
        let event = serde_json::to_vec(&event)?;
        let mut times = Times::default();
        for round in 0..bench.rounds(ROUNDS).max(5) {
            let answer = environment.invoke(&event)?;
            ensure_good(&answer)?;
            if round > 2 {
                times.0.push(answer.took);
            }
        }
        let name = format!("list-messages, {name} in vain, {COUNT} messages: p50");
        rows.push(Row::alone(name, "ms", micros(times.median()) / 1000.0).at_most(200.0));
    }
    Ok(rows)
}

/// Who asks.
#[derive(Clone, Copy)]
enum Who {
    /// Users with few messages, in turn.
    Many,
    /// The one who has half of all.
    Half,
}

/// The function over one of the tables.
struct Side {
    environment: local::environment::Environment,
    events: Vec<Vec<u8>>,
    uncounted: usize,
    times: Times,
}

impl Side {
    fn start(bench: &Bench, who: Who, query: &str, count: u64) -> Result<Self> {
        let others = count / 2 / EACH;
        let event = |n: u64| {
            let user = match who {
                Who::Many => 1 + n * (others / USERS_ASKING).max(1) % others,
                Who::Half => 0,
            };
            let event = Caller::with_ids(id_of(user / 100, 2), id_of(user, 3))?.event("list-messages", None, None)?;
            let mut event: Value = serde_json::from_slice(&event)?;
            event["rawQueryString"] = query.into();
            Ok(serde_json::to_vec(&event)?)
        };
        let events = (0..USERS_ASKING).map(event).collect::<Result<Vec<_>>>()?;
        let mut environment = bench.start(BINARY, &database(count))?;
        let answer = environment.invoke(&events[0])?.json()?;
        let body: Value = serde_json::from_str(answer["body"].as_str().context("no body")?)?;
        ensure!(body["messages"].as_array().is_some_and(|page| page.len() == 50), "no page of fifty: {body}");
        Ok(Self { environment, events, uncounted: bench.rounds(UNCOUNTED), times: Times::default() })
    }

    fn ask(&mut self, round: usize) -> Result<()> {
        let answer = self.environment.invoke(&self.events[round % self.events.len()])?;
        ensure_good(&answer)?;
        if round >= self.uncounted {
            self.times.0.push(answer.took);
        }
        Ok(())
    }
}
