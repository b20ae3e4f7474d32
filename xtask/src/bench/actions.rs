//! Changing messages on their mail server, one and as many as a batch may have, beside a bare client that says the same there.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Bench, DATABASE, Row, Times, micros, requests::ensure_good, sync::Rig};

pub(super) const BINARIES: [&str; 5] =
    ["batch-messages", "create-account", "sync-account", "sync-floor", "update-message"];

/// In ten folders: in each as many as a batch may have.
const MESSAGES: usize = 2_000;
const UNCOUNTED: usize = 20;
const ROUNDS: usize = 200;

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    bench.progress(&format!("changing messages: filling a mailbox with {MESSAGES} of them"));
    let mut rig = Rig::new(bench, DATABASE, "jane@mail.example").await?;
    rig.fill(0, MESSAGES)?;
    rig.sync(&mut rig.start("sync-account")?).await?;
    let sql = "select m.id from email_messages m join email_folders f on f.id = m.folder_id
               where f.account_id = $1 and f.role = 'inbox' order by m.uid";
    let ids: Vec<Uuid> = rig.owner.query(sql, &[&rig.account]).await?.iter().map(|row| row.get(0)).collect();
    ensure!(ids.len() == 200, "{} messages in the inbox", ids.len());
    let first = *ids.first().context("an empty inbox")?;
    let mut rows = compare(&mut rig, "update-message", Some(first), 1, |is_read| json!({ "isRead": is_read }))?;
    rows.extend(compare(
        &mut rig,
        "batch-messages",
        None,
        ids.len(),
        |is_read| json!({ "ids": ids, "set": { "isRead": is_read } }),
    )?);
    Ok(rows)
}

/// The function in the inbox, and the bare client in a folder that has as many: what one has changed the other must not find so.
fn compare(
    rig: &mut Rig,
    function: &str,
    id: Option<Uuid>,
    count: usize,
    body: impl Fn(bool) -> Value,
) -> Result<Vec<Row>> {
    let bench = rig.bench;
    bench.progress(&format!("changing messages: {function}"));
    let mut ours = rig.start(function)?;
    let (mut our_times, mut floor_times) = (Times::default(), Times::default());
    let mut cpu_before = (Duration::ZERO, Duration::ZERO);
    let (uncounted, rounds, port) = (bench.rounds(UNCOUNTED), bench.rounds(ROUNDS), rig.server.ports().imaps);
    for n in 0..uncounted + rounds {
        if n == uncounted {
            cpu_before = (ours.cpu_time()?, rig.floor.cpu_time()?);
        }
        let is_read = n % 2 == 0;
        let answer = ours.invoke(&rig.caller.event(function, id, Some(body(is_read)))?)?;
        ensure_good(&answer)?;
        let text = answer.json()?["body"].as_str().map(str::to_owned).context("no body")?;
        let done = text.matches(&format!("\"isRead\":{is_read}")).count() + text.matches("\"success\":true").count();
        ensure!(done == count, "{done} of {count} messages changed: {text}");
        let (sign, flags) = (if is_read { '+' } else { '-' }, format!("UID FETCH 1:{count} (UID FLAGS)\r\n"));
        let look = format!("a2 SELECT Folder1\r\na3 {flags}");
        let store = format!("a4 UID STORE 1:{count} {sign}FLAGS.SILENT (\\Seen)\r\na5 {flags}");
        let took = rig.say(port, &[rig.login(), look, store, String::new()], None)?;
        if n >= uncounted {
            our_times.0.push(answer.took);
            floor_times.0.push(took);
        }
    }
    let cpu = |after, before| micros(after - before) / rounds as f64;
    let used = (cpu(ours.cpu_time()?, cpu_before.0), cpu(rig.floor.cpu_time()?, cpu_before.1));
    let beside = |what: &str, ours, floor| {
        Row::beside(format!("{function} of {count} ÷ bare client: {what}"), "µs", ours, floor)
    };
    Ok(vec![
        beside("p50", micros(our_times.median()), micros(floor_times.median())),
        beside("p99", micros(our_times.percentile(99)), micros(floor_times.percentile(99))),
        beside("CPU", used.0, used.1),
        Row::alone(format!("peak memory {function}"), "MB", ours.peak_memory()? as f64 / 1e6).at_most(64.0),
    ])
}
