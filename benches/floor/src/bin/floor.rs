//! The floor: what PostgreSQL, Redis, their clients and the Lambda runtime cost by themselves.
//!
//! An event says what to send, so there is nothing here of what the service does around it: no token, no rule, no
//! JSON of accounts, no log.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use futures_util::future::{join_all, try_join};
use lambda_http::lambda_runtime::{self, LambdaEvent, run_concurrent, service_fn};
use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};
use tokio_postgres::types::{IsNull, ToSql, Type, private::BytesMut, to_sql_checked};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

#[derive(Deserialize)]
struct Event {
    /// The words of one Redis command.
    redis: Option<Vec<String>>,
    /// Statements for PostgreSQL. Those of a flight leave together; the next flight waits for their answers.
    flights: Vec<Vec<Statement>>,
}

#[derive(Deserialize)]
struct Statement {
    sql: String,
    params: Vec<Param>,
}

/// A parameter by its type.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Param {
    Uuid(Option<Uuid>),
    Text(Option<String>),
    Texts(Option<Vec<String>>),
    Int4(Option<i32>),
    Int8(Option<i64>),
    Bool(Option<bool>),
    /// The bytes of a text, which JSON carries as it is.
    Bytea(Option<String>),
}

impl Param {
    fn kind(&self) -> Type {
        match self {
            Self::Uuid(_) => Type::UUID,
            Self::Text(_) => Type::TEXT,
            Self::Texts(_) => Type::TEXT_ARRAY,
            Self::Int4(_) => Type::INT4,
            Self::Int8(_) => Type::INT8,
            Self::Bool(_) => Type::BOOL,
            Self::Bytea(_) => Type::BYTEA,
        }
    }
}

impl ToSql for Param {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Uuid(value) => value.to_sql(kind, out),
            Self::Text(value) => value.to_sql(kind, out),
            Self::Texts(value) => value.to_sql(kind, out),
            Self::Int4(value) => value.to_sql(kind, out),
            Self::Int8(value) => value.to_sql(kind, out),
            Self::Bool(value) => value.to_sql(kind, out),
            Self::Bytea(value) => value.as_ref().map(String::as_bytes).to_sql(kind, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    rows: usize,
    /// How long both connections took at the start, next to each other.
    connect_micros: u128,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let started = Instant::now();
    let (postgres, redis) = try_join(connect_postgres(), connect_redis()).await?;
    let connect_micros = started.elapsed().as_micros();
    let postgres = Arc::new(postgres);
    run_concurrent(service_fn(move |event: LambdaEvent<Event>| {
        let (postgres, redis) = (postgres.clone(), redis.clone());
        async move {
            let rows = answer(&postgres, redis, event.payload).await?;
            Ok::<_, lambda_runtime::Error>(Answer { rows, connect_micros })
        }
    }))
    .await
}

async fn connect_postgres() -> Result<Client> {
    let url = std::env::var("DATABASE_URL").context("DATABASE_URL is not set")?;
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn connect_redis() -> Result<MultiplexedConnection> {
    let url = std::env::var("REDIS_URL").context("REDIS_URL is not set")?;
    Ok(redis::Client::open(url)?.get_multiplexed_async_connection().await?)
}

async fn answer(postgres: &Client, mut redis: MultiplexedConnection, event: Event) -> Result<usize> {
    if let Some(words) = event.redis {
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| {
            command.arg(word);
        });
        command.query_async::<(bool, u32, u64, u64)>(&mut redis).await?;
    }
    let mut rows = 0;
    for flight in &event.flights {
        let answers = join_all(flight.iter().map(|Statement { sql, params }| async {
            let params: Vec<_> = params.iter().map(|param| (param as &(dyn ToSql + Sync), param.kind())).collect();
            postgres.query_typed(sql, &params).await
        }));
        for answer in answers.await {
            rows += answer?.len();
        }
    }
    Ok(rows)
}
