//! The same requests with few and with many accounts in the table.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, stream::poll_fn};
use schedule_work::BATCH;
use tokio_postgres::{AsyncMessage, Client, NoTls, types::Type};
use uuid::Uuid;

use super::{
    Bench, Row, Times, micros, millis,
    requests::{Caller, ensure_good},
    target_directory,
};

/// What is run here: the other functions take minutes to build.
pub(super) const BINARIES: [&str; 2] = ["list-accounts", "get-account"];

pub(super) const FEW: u64 = 10_000;
/// Accounts of each user, scattered over the table as if they had come over time.
const EACH: u64 = 10;
const USERS_ASKING: u64 = 300;
const ROUNDS: usize = 2100;
const UNCOUNTED: usize = 600;

pub(super) async fn measure(bench: &Bench, many: u64) -> Result<Vec<Row>> {
    for count in [FEW, many] {
        bench.progress(&format!("scale: filling a table with {count} accounts"));
        bench.new_database(&database(count)).await?;
        fill(&bench.owner(&database(count)).await?, count, EACH).await?;
    }
    bench.progress("scale: list and get");
    let mut rows = Vec::new();
    for function in BINARIES {
        let mut small = Side::start(bench, function, FEW)?;
        let mut large = Side::start(bench, function, many)?;
        for round in 0..bench.rounds(ROUNDS) {
            let (first, second) = if round % 2 == 0 { (&mut small, &mut large) } else { (&mut large, &mut small) };
            first.ask(round)?;
            second.ask(round)?;
        }
        let (large, small) = (micros(large.times.median()), micros(small.times.median()));
        let row = Row::beside(format!("scale {function}: p50 at {many} ÷ at {FEW} accounts"), "µs", large, small);
        rows.push(if many == 1_000_000 && function == "list-accounts" { row.at_most(1.2) } else { row });
    }
    bench.progress("scale: who is due");
    // A small table has no full batch.
    let batch = i32::try_from(many / 100)?.min(BATCH);
    let times = claim_all(bench, &database(many), many, batch).await?;
    let what = format!("scale schedule-work: {batch} due of {many}, one statement");
    rows.push(Row::alone(format!("{what}: p50"), "ms", millis(times.median())).at_most(50.0));
    rows.push(Row::alone(format!("{what}: p99"), "ms", millis(times.percentile(99))));
    // Due again, or the plans would be of batches of nobody.
    let again = "update email_accounts set next_sync_at = 0 where rung_at is not null";
    bench.owner(&database(many)).await?.batch_execute(again).await?;
    let mut plans = String::new();
    for count in [FEW, many] {
        for query in
            ["select total, (account).* from list_accounts", "select * from find_account", "select * from claim_due"]
        {
            let plan = plan(bench, count, query).await?;
            let reads_all = plan.contains("Seq Scan on email_accounts");
            ensure!(count < many || !reads_all, "{query} reads the whole table of {count} accounts:\n{plan}");
            for line in plan.lines().filter(|line| line.contains(" Scan ")) {
                let node = line.trim_start_matches([' ', '-', '>']).split("  (").next().unwrap_or(line);
                println!("plan of {query} at {count}: {node}");
            }
            plans.push_str(&format!("-- {query}, {count} accounts\n{plan}\n\n"));
        }
    }
    println!();
    if !bench.quick {
        fs::write(target_directory().join("bench-plans.txt"), plans)?;
    }
    Ok(rows)
}

fn database(count: u64) -> String {
    format!("accounts_{count}")
}

/// An id that can be told from a number; `kind` tells tenants, users, accounts and the like apart.
pub(super) const ID_OF: &str = "create function id_of(n bigint, kind int) returns uuid language sql immutable
    as $$ select (lpad(to_hex(kind), 8, '0') || '-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid $$";

pub(super) fn id_of(n: u64, kind: u32) -> Uuid {
    Uuid::from_u64_pair(u64::from(kind) << 32 | 0x7000, 0x8000_u64 << 48 | n)
}

/// Puts accounts into the table, so many of each user, scattered as if they had come over time; of a hundred one is due.
pub(super) async fn fill(owner: &Client, count: u64, each: u64) -> Result<()> {
    let users = count / each;
    owner.batch_execute(ID_OF).await?;
    in_bulk(
        owner,
        &["email_accounts"],
        &format!(
            "insert into email_accounts (id, tenant_id, user_id, account_name, email_address, address_key, protocol,
                 hostname, port, encryption, username, credential_id, created_at, updated_at, next_sync_at)
             select id_of(n, 1), id_of(n % {users} / 100, 2), id_of(n % {users}, 3), 'Work', n || '@example.com',
                 n || '@example.com', 'imap', 'imap.example.com', 993, 'tls', 'jane', id_of(n, 4), n, n,
                 epoch_ms() + case when n % 100 = 0 then -(n % 60000) else 3600000 + n % 3600000 end
             from generate_series(0::bigint, {count} - 1) n"
        ),
    )
    .await
}

/// Fills tables. Without triggers the foreign keys are not checked, and indexes are faster made afterwards than kept up.
pub(super) async fn in_bulk(owner: &Client, tables: &[&str], inserts: &str) -> Result<()> {
    let names = tables.join("'::regclass, '");
    owner
        .batch_execute(&format!(
            "set session_replication_role = replica;
             set maintenance_work_mem = '512MB';
             create temp table definitions as select pg_get_indexdef(indexrelid) as sql, relname
                 from pg_index join pg_class on oid = indexrelid
                 where indrelid in ('{names}'::regclass) and not indisprimary
                     and not exists (select from pg_constraint where conindid = indexrelid);
             do $$ declare name text; begin
                 for name in select relname from definitions loop execute 'drop index ' || name; end loop;
             end $$;
             {inserts};
             do $$ declare definition text; begin
                 for definition in select sql from definitions loop execute definition; end loop;
             end $$;
             drop table definitions;"
        ))
        .await?;
    owner.batch_execute(&format!("vacuum analyze {}", tables.join(", "))).await?;
    owner.batch_execute("checkpoint").await?;
    Ok(())
}

/// A function over one of the tables, asked by many users in turn.
struct Side {
    environment: local::environment::Environment,
    events: Vec<Vec<u8>>,
    uncounted: usize,
    times: Times,
}

impl Side {
    fn start(bench: &Bench, function: &str, count: u64) -> Result<Self> {
        let users = count / EACH;
        let event = |n: u64| {
            let user = n * (users / USERS_ASKING).max(1) % users;
            let id = (function == "get-account").then(|| id_of(user + users * (n % EACH), 1));
            Caller::with_ids(id_of(user / 100, 2), id_of(user, 3))?.event(function, id, None)
        };
        let events = (0..USERS_ASKING).map(event).collect::<Result<_>>()?;
        let (environment, uncounted) = (bench.start(function, &database(count))?, bench.rounds(UNCOUNTED));
        Ok(Self { environment, events, uncounted, times: Times::default() })
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

/// Claims all that is due, one account in a hundred, as the schedule does: the time of each full batch.
pub(super) async fn claim_all(bench: &Bench, database: &str, count: u64, batch: i32) -> Result<Times> {
    let url = bench.postgres.scheduler_url(database);
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    // Ends with the client; its errors reach us as those of the statement.
    tokio::spawn(connection);
    let mut times = Times::default();
    loop {
        let started = Instant::now();
        let claimed = client.query_typed("select * from claim_due($1, 300000)", &[(&batch, Type::INT4)]).await?.len();
        if i32::try_from(claimed)? < batch {
            break;
        }
        times.0.push(started.elapsed());
    }
    let expected = usize::try_from(count)? / 100 / usize::try_from(batch)?;
    ensure!(times.0.len() >= expected, "{} batches are due, not {expected}", times.0.len());
    Ok(times)
}

/// The plans of the statements inside a function, as they are after PostgreSQL has settled on them.
async fn plan(bench: &Bench, count: u64, query: &str) -> Result<String> {
    let (client, mut connection) = tokio_postgres::connect(&bench.postgres.owner_url(&database(count)), NoTls).await?;
    let last = Arc::new(Mutex::new(Vec::<String>::new()));
    let sink = last.clone();
    tokio::spawn(async move {
        let mut messages = std::pin::pin!(poll_fn(move |context| connection.poll_message(context)));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notice(notice) = message
                && notice.message().contains("email_accounts")
            {
                sink.lock().unwrap_or_else(PoisonError::into_inner).push(notice.message().to_owned());
            }
        }
    });
    let (tenant, user) = (id_of(0, 2), id_of(7, 3));
    let (role, arguments) = match query.rsplit(' ').next() {
        Some("claim_due") => ("scheduler", format!("({BATCH}, 300000)")),
        Some("find_account") => ("app", format!("('{tenant}', '{user}', '{}')", id_of(7, 1))),
        _ => ("app", format!("('{tenant}', '{user}', 100, 0)")),
    };
    client
        .batch_execute(&format!(
            "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;
             set auto_explain.log_analyze = on; set auto_explain.log_timing = off; set client_min_messages = log;
             set role email_service_{role}"
        ))
        .await?;
    for _ in 0..8 {
        last.lock().unwrap_or_else(PoisonError::into_inner).clear();
        client.simple_query(&format!("{query}{arguments}")).await?;
    }
    let plans = last.lock().unwrap_or_else(PoisonError::into_inner).join("\n");
    (!plans.is_empty()).then_some(plans).context("PostgreSQL told no plan")
}
