//! What so many mailboxes would take: the statements of a job and of a page in tables that look to the planner as those of
//! a million mailboxes would, what a job takes of everything that is paid for, and what follows from both by arithmetic.
//! `docs/CAPACITY.md` has the assumptions and what breaks first.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context, Result, ensure};
use local::workspace_root;
use schedule_work::BATCH;
use serde_json::Value;
use shared::work::JOBS_AT_ONCE;
use tokio_postgres::Client;

use super::{
    Bench, Row, Times, micros, millis, report,
    requests::{Caller, ensure_good, insert_messages},
    scale::{self, id_of},
    sync::{self, Job},
};

/// What is run here: the other functions take minutes to build.
pub(super) const BINARIES: [&str; 5] =
    ["create-account", "sync-account", "sync-floor", "list-messages", "list-changes"];

const DATABASE: &str = "capacity";
/// Mailboxes of each user.
const EACH: u64 = 5;
/// Users whose mailboxes are there with all their messages.
const WHOLE_USERS: u64 = 4;
/// Messages of a mailbox on average.
const MESSAGES: u64 = 20_000;
/// Of one in quick runs.
const FEW_MESSAGES: u64 = 200;
/// Folders of a mailbox on average, for the planner alone.
const FOLDERS: u64 = 10;
const ROUNDS: usize = 600;
const UNCOUNTED: usize = 100;
/// The tables that no statement of a request or job may read from end to end.
const LARGE: [&str; 3] = ["email_accounts", "email_folders", "email_messages"];

pub(super) async fn measure(bench: &Bench, accounts: u64, record: bool) -> Result<Vec<Row>> {
    bench.progress(&format!("capacity: filling tables with {accounts} mailboxes"));
    bench.new_database(DATABASE).await?;
    let owner = bench.owner(DATABASE).await?;
    let messages = if bench.quick { FEW_MESSAGES } else { MESSAGES };
    let bytes = fill(&owner, accounts, messages).await?;
    let scanned = scans(&owner).await?;

    bench.progress("capacity: who is due");
    let batch = i32::try_from(accounts / 100)?.min(BATCH);
    let claims = scale::claim_all(bench, DATABASE, accounts, batch).await?;
    bench.progress("capacity: pages");
    let list = pages(bench, "list-messages", "limit=50")?;
    let changes = pages(bench, "list-changes", &format!("since={}", newest(bench)?))?;
    let (first, unchanged, memory) = sync::jobs(bench, DATABASE, usize::try_from(messages)?).await?;
    let read = scans(&owner).await?;
    ensure!(read == scanned, "a table was read from end to end: {scanned:?} became {read:?}");

    let each = first.database.as_secs_f64() / messages as f64;
    let name = |what: &str| format!("capacity, {accounts} mailboxes: {what}");
    let rows = vec![
        Row::alone(name(&format!("{batch} due, one statement, p50")), "ms", millis(claims.median())).at_most(50.0),
        Row::alone(name("a page of 50 messages, p50"), "ms", millis(list.median())),
        Row::alone(name("changes, of which there are none, p50"), "ms", millis(changes.median())),
        Row::alone(name("a job without news, 20 ms a round trip, p50"), "ms", millis(unchanged.time)),
        Row::alone(name("a job without news: CPU"), "ms", millis(unchanged.cpu)),
        Row::alone(name("a job without news: CPU of PostgreSQL"), "ms", millis(unchanged.database)),
        Row::alone(name("a job without news: transactions that write"), "", unchanged.transactions),
        Row::alone(name("a job without news: to the mail host and back"), "kB", unchanged.bytes as f64 / 1e3),
        Row::alone(name("a message that comes: CPU"), "µs", micros(first.cpu) / messages as f64),
        Row::alone(name("a message that comes: CPU of PostgreSQL"), "µs", each * 1e6),
        Row::alone(name("a message that comes: from the mail host"), "B", first.bytes as f64 / messages as f64),
        Row::alone(name("a message that is stored, indexes included"), "B", bytes).at_most(1000.0),
        Row::alone(name("peak memory of the worker"), "MB", memory as f64 / 1e6).at_most(64.0),
    ];
    if !bench.quick {
        let follows = tables(&Measured { claim: claims.median(), batch, unchanged, first, messages, bytes })?;
        let tables = format!("{follows}From these figures:\n\n{}", report::table(&rows));
        println!("{tables}");
        if record {
            report::put_between(&workspace_root().join("docs/CAPACITY.md"), &tables)?;
        }
    }
    Ok(rows)
}

/// Accounts and a message of each, and a few users with all of theirs; then the planner is told of all the others'.
/// Returns what a message takes.
async fn fill(owner: &Client, accounts: u64, messages: u64) -> Result<f64> {
    scale::fill(owner, accounts, EACH).await?;
    let users = accounts / EACH;
    let whole = format!("n % {users} < {WHOLE_USERS}");
    let inserted = insert_messages(&format!(
        "select n * {messages} + i as n, id_of(n % {users} / 100, 2) as tenant_id, id_of(n % {users}, 3) as user_id,
             id_of(n, 1) as account_id, id_of(n, 5) as folder_id, (n * 7919 + i * 60) * 1000 as received_at, true as has_preview
         from generate_series(0::bigint, {accounts} - 1) n, generate_series(0, case when {whole} then {messages} - 1 else 0 end) i"
    ));
    let folders = format!(
        "insert into email_folders (id, tenant_id, user_id, account_id, wire_name, path, role, is_selectable,
             created_number, changed_number)
         select id_of(n, 5), id_of(n % {users} / 100, 2), id_of(n % {users}, 3), id_of(n, 1), 'INBOX', 'INBOX', 'inbox', true, 0, 0
         from generate_series(0::bigint, {accounts} - 1) n"
    );
    scale::in_bulk(owner, &["email_folders", "email_messages"], &format!("{folders}; {inserted}")).await?;
    let sql = "select pg_total_relation_size('email_messages') / count(*)::float8 from email_messages";
    let bytes = owner.query_one(sql, &[]).await?.try_get(0)?;
    // Rows are taken to be as many for each page as when they were counted. The planner works with that number, with how
    // many different values a column has, and with the heights of indexes, which a level more would change by nothing.
    let all_folders = accounts * FOLDERS;
    let all_messages = accounts * messages;
    owner
        .batch_execute(&format!(
            "alter table email_messages alter tenant_id set (n_distinct = {tenants}), alter user_id set (n_distinct = {users}),
                 alter account_id set (n_distinct = {accounts}), alter folder_id set (n_distinct = {all_folders});
             alter table email_folders alter tenant_id set (n_distinct = {tenants}), alter user_id set (n_distinct = {users}),
                 alter account_id set (n_distinct = {accounts});
             analyze email_messages; analyze email_folders;
             update pg_class c set reltuples = c.reltuples * t.scale
                 from (select oid as id, {all_messages} / reltuples as scale from pg_class where relname = 'email_messages'
                       union all
                       select oid, {all_folders} / reltuples from pg_class where relname = 'email_folders') t
                 where c.oid = t.id or c.oid in (select indexrelid from pg_index where indrelid = t.id)",
            tenants = users.div_ceil(100),
        ))
        .await?;
    Ok(bytes)
}

/// How often each large table was read from end to end.
async fn scans(owner: &Client) -> Result<Vec<(String, i64)>> {
    // What a connection has to tell it tells a second later.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    owner.batch_execute("select pg_stat_clear_snapshot()").await?;
    let sql = "select relname::text, seq_scan from pg_stat_user_tables where relname = any ($1) order by 1";
    let rows = owner.query(sql, &[&LARGE.as_slice()]).await?;
    ensure!(rows.len() == LARGE.len(), "a table is missing");
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// A user of whom all is there.
fn whole_user() -> Result<Caller> {
    Caller::with_ids(id_of(0, 2), id_of(1, 3))
}

fn event(function: &str, query: &str) -> Result<Vec<u8>> {
    let mut event: Value = serde_json::from_slice(&whole_user()?.event(function, None, None)?)?;
    event["rawQueryString"] = query.into();
    Ok(serde_json::to_vec(&event)?)
}

/// Where the changes of that user end.
fn newest(bench: &Bench) -> Result<String> {
    let answer = bench.start("list-changes", DATABASE)?.invoke(&event("list-changes", "")?)?;
    ensure_good(&answer)?;
    let body: Value = serde_json::from_str(answer.json()?["body"].as_str().context("no body")?)?;
    Ok(body["cursor"].as_str().with_context(|| format!("no cursor: {body}"))?.to_owned())
}

fn pages(bench: &Bench, function: &str, query: &str) -> Result<Times> {
    let mut environment = bench.start(function, DATABASE)?;
    let event = event(function, query)?;
    let mut times = Times::default();
    for round in 0..bench.rounds(ROUNDS) {
        let answer = environment.invoke(&event)?;
        ensure_good(&answer)?;
        if round >= bench.rounds(UNCOUNTED) {
            times.0.push(answer.took);
        }
    }
    Ok(times)
}

/// What the arithmetic begins with.
struct Measured {
    claim: Duration,
    batch: i32,
    unchanged: Job,
    /// Of all messages of a mailbox.
    first: Job,
    messages: u64,
    /// What one takes in the database.
    bytes: f64,
}

const MAILBOXES: [f64; 4] = [1e3, 1e5, 1e6, 1e7];
const MINUTES: [f64; 2] = [5.0, 15.0];
const MONTH: f64 = 730.0 * 3600.0;

// Assumed: docs/CAPACITY.md, "Assumed", has the reasons.
/// What a mail host takes to sign somebody in, beside the round trips.
const SIGN_IN: f64 = 0.3;
/// Messages that come to a mailbox in a month.
const ARRIVE: f64 = 50.0 * 30.0;
/// What of the mailboxes is at the largest mail host.
const AT_ONE_HOST: f64 = 1.0 / 3.0;
/// Of the worker, in the template.
const WORKER_GB: f64 = 0.5;
/// The processor of one ACU, half of which is left for what was not foreseen.
const CORES_PER_ACU: f64 = 0.25;
const HEADROOM: f64 = 2.0;
/// Messages that the schedule hands to the queue in a second, at 20 ms a round trip: `shared/src/queue.rs`.
const RUNG_PER_SECOND: f64 = 4000.0;
/// A job's lines, Lambda's own among them.
const LOGGED: f64 = 1800.0;

/// Of us-east-1, in dollars.
mod price {
    pub(super) const GB_SECOND: f64 = 0.000_016_666_7;
    pub(super) const INVOCATION: f64 = 0.20e-6;
    pub(super) const ACU_HOUR: f64 = 0.12;
    pub(super) const STORED_GB: f64 = 0.10;
    pub(super) const QUEUE_CALL: f64 = 0.40e-6;
    pub(super) const NAT_BYTE: f64 = 0.045e-9;
    pub(super) const LOG_BYTE: f64 = 0.50e-9;
}

/// A line of the table: its name, and its figure for so many mailboxes and minutes.
type Line<'a> = (&'a str, Box<dyn Fn(f64, f64) -> f64 + 'a>);

fn tables(measured: &Measured) -> Result<String> {
    let Measured { claim, batch, unchanged, first, messages, bytes } = measured;
    let of_message = |total: f64| total / *messages as f64;
    let at_once = JOBS_AT_ONCE as f64;
    let jobs = |mailboxes: f64, minutes: f64| mailboxes / (minutes * 60.0);
    let time = unchanged.time.as_secs_f64() + SIGN_IN;
    let arrive = |mailboxes: f64| mailboxes * ARRIVE / MONTH;
    let workers = move |n, m| jobs(n, m) * time / at_once;
    let cores = move |n, m| {
        jobs(n, m) * unchanged.database.as_secs_f64() + arrive(n) * of_message(first.database.as_secs_f64())
    };
    let nat = move |n, m| jobs(n, m) * unchanged.bytes as f64 + arrive(n) * of_message(first.bytes as f64);
    let acus = move |n, m| cores(n, m) / CORES_PER_ACU * HEADROOM;
    let stored = move |n: f64| n * *messages as f64 * bytes / 1e9;
    let lambda = move |n, m| {
        workers(n, m) * WORKER_GB * price::GB_SECOND * MONTH + jobs(n, m) / at_once * price::INVOCATION * MONTH
    };
    // In by tens, out and away as many at a time as a worker takes.
    let queue = move |n, m| jobs(n, m) * (0.1 + 2.0 / at_once) * price::QUEUE_CALL * MONTH;
    let database = move |n, m| acus(n, m) * price::ACU_HOUR * MONTH / 3600.0;
    let log = move |n, m| jobs(n, m) * LOGGED * price::LOG_BYTE * MONTH;
    let way_out = move |n, m| nat(n, m) * price::NAT_BYTE * MONTH;
    let sum = move |n, m| {
        lambda(n, m) + queue(n, m) + database(n, m) + stored(n) * price::STORED_GB + way_out(n, m) + log(n, m)
    };
    let turn = move |n: f64, m: f64| {
        let due = n / m;
        (due / f64::from(*batch)).ceil() * claim.as_secs_f64() + due / RUNG_PER_SECOND
    };
    let lines: [Line; 17] = [
        ("jobs a second", Box::new(jobs)),
        ("the schedule's turn, s of 60", Box::new(turn)),
        ("workers at once, four jobs in each", Box::new(workers)),
        ("connections at once to the largest mail host", Box::new(move |n, m| jobs(n, m) * time * AT_ONE_HOST)),
        ("Lambda, thousand seconds a month", Box::new(move |n, m| workers(n, m) * MONTH / 1e3)),
        ("processors of PostgreSQL", Box::new(cores)),
        ("transactions that write, a second", Box::new(move |n, m| jobs(n, m) * unchanged.transactions)),
        ("database, ACU, with as much again to spare", Box::new(acus)),
        ("rows of messages, TB", Box::new(move |n, _| stored(n) / 1e3)),
        ("queue, million calls a month", Box::new(move |n, m| queue(n, m) / price::QUEUE_CALL / 1e6)),
        ("through NAT, TB a month", Box::new(move |n, m| nat(n, m) * MONTH / 1e12)),
        ("$ a month: Lambda", Box::new(lambda)),
        ("database, processors", Box::new(database)),
        ("database, rows", Box::new(move |n, _| stored(n) * price::STORED_GB)),
        ("queue, NAT, log", Box::new(move |n, m| queue(n, m) + way_out(n, m) + log(n, m))),
        ("**sum**", Box::new(sum)),
        ("**cents a mailbox**", Box::new(move |n, m| sum(n, m) / n * 100.0)),
    ];
    let mut text = String::new();
    for minutes in MINUTES {
        write!(
            text,
            "Every {minutes} minutes:\n\n| mailboxes | 1 thousand | 100 thousand | 1 million | 10 million |\n"
        )?;
        writeln!(text, "| --- | --: | --: | --: | --: |")?;
        for (name, figure) in &lines {
            let figures = MAILBOXES.map(|mailboxes| number(figure(mailboxes, minutes)));
            writeln!(text, "| {name} | {} |", figures.join(" | "))?;
        }
        text.push('\n');
    }
    Ok(text)
}

/// Two digits that mean something, and a comma between thousands.
fn number(figure: f64) -> String {
    match figure {
        ..0.095 => format!("{figure:.2}"),
        ..9.95 => format!("{figure:.1}"),
        _ => {
            let digits = format!("{figure:.0}");
            let groups: Vec<&str> =
                digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
            groups.join(",")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_for_people() {
        assert_eq!([0.004, 0.5, 9.94, 12.3, 1_234_567.0].map(number), ["0.00", "0.5", "9.9", "12", "1,234,567"]);
    }

    #[test]
    fn what_follows_grows_with_the_mailboxes_and_not_with_the_minutes() -> Result<()> {
        let job = |time, bytes| Job {
            time: Duration::from_millis(time),
            cpu: Duration::from_millis(2),
            database: Duration::from_millis(3),
            transactions: 2.0,
            bytes,
        };
        let (unchanged, first) = (job(100, 6000), job(2000, 20_000_000));
        let claim = Duration::from_millis(20);
        let text = tables(&Measured { claim, batch: 500, unchanged, first, messages: 20_000, bytes: 700.0 })?;
        // A million mailboxes in 300 s, and a job of 0.4 s, of which a worker has four at once.
        assert!(text.contains("| jobs a second | 3.3 | 333 | 3,333 | 33,333 |"), "{text}");
        assert!(text.contains("| workers at once, four jobs in each | 0.3 | 33 | 333 | 3,333 |"), "{text}");
        assert!(text.contains("| rows of messages, TB | 0.01 | 1.4 | 14 | 140 |"), "{text}");
        assert!(text.contains("| jobs a second | 1.1 | 111 | 1,111 | 11,111 |"), "{text}");
        Ok(())
    }
}
