//! Why a request is one call of a database function: the ways to set the row-level security context, one after the
//! other in the floor's process.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{
    Bench, DATABASE, Row, Times, micros,
    requests::{Caller, seed},
};

const UNCOUNTED: usize = 200;
const ROUNDS: usize = 1500;

pub(super) async fn measure(bench: &Bench) -> Result<Vec<Row>> {
    bench.progress("ways to set the context");
    let caller = Caller::new()?;
    let id = seed(bench, &caller, 1).await?[0];
    let statement = |sql: &str, params: Value| json!({ "sql": sql, "params": params });
    let (begin, commit) = (statement("begin", json!([])), statement("commit", json!([])));
    let context = statement(
        "select set_config('app.tenant_id', $1, true), set_config('app.user_id', $2, true)",
        json!([{ "text": caller.tenant }, { "text": caller.user }]),
    );
    let params = caller.params(&[json!({ "uuid": id })]);
    let select = statement(
        "select * from email_accounts where tenant_id = $1 and user_id = $2 and id = $3 and is_enabled",
        params.clone(),
    );
    let function = statement("select * from find_account($1, $2, $3)", params);
    let ways = [
        json!([[function]]),
        json!([[begin, context, select, commit]]),
        json!([[begin], [context], [select], [commit]]),
    ];
    let mut floor = bench.start("floor", DATABASE)?;
    let mut times = [Times::default(), Times::default(), Times::default()];
    let (uncounted, rounds) = (bench.rounds(UNCOUNTED), bench.rounds(ROUNDS));
    for round in 0..uncounted + rounds {
        for (flights, times) in ways.iter().zip(&mut times) {
            let answer = floor.invoke(json!({ "flights": flights }).to_string().as_bytes())?;
            if round == 0 {
                ensure!(answer.json()?["rows"].as_u64() >= Some(1), "the account was not found by {flights}");
            } else if round >= uncounted {
                times.0.push(answer.took);
            }
        }
    }
    let [function, flight, steps] = times.map(|times| micros(times.median()));
    Ok(vec![
        Row::beside("context: function call ÷ four statements in one flight", "µs", function, flight),
        Row::beside("context: function call ÷ four statements one by one", "µs", function, steps),
    ])
}
