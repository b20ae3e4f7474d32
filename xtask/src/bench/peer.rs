//! Any server with the same API, beside this service over HTTP: the same requests to both in turn.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request,
    body::Bytes,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use local::{
    gateway::{Gateway, Options},
    template, workspace_root,
};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{
    Bench, DATABASE, Row, Times, micros,
    requests::{Caller, account},
};

const USERS: usize = 60;
/// A user stays below fifty requests in a minute, which the peer may count.
const ROUNDS: usize = 7;

/// Where the peer is.
pub(super) struct Peer {
    address: String,
    base: String,
    /// What its requests carry beside the headers that the service's development mode takes.
    pub(super) headers: Vec<(String, String)>,
}

impl Peer {
    pub(super) fn parse(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("http://").with_context(|| format!("--peer needs an http:// URL, not {url}"))?;
        let (address, base) = rest.split_once('/').unwrap_or((rest, ""));
        let address = if address.contains(':') { address.to_owned() } else { format!("{address}:80") };
        let base = format!("/{base}").trim_end_matches('/').to_owned();
        Ok(Self { address, base, headers: Vec::new() })
    }
}

pub(super) async fn measure(bench: &Bench, peer: &Peer) -> Result<Vec<Row>> {
    let functions = template::routes(&workspace_root().join("template.yaml"))?;
    let mut options = Options::new(functions, bench.binaries.clone());
    options.env = bench.env(DATABASE);
    // Which does not allow header authentication.
    options.env.retain(|(name, _)| name != "AWS_LAMBDA_INITIALIZATION_TYPE");
    options.env.push(("ALLOW_HEADER_AUTH".to_owned(), "true".to_owned()));
    options.log = std::sync::Arc::new(|_, _| {});
    let gateway = Gateway::start(options).await?;
    gateway.prewarm();
    let here = Peer::parse(&gateway.url())?;
    let (mut ours, mut theirs) = (Side::connect(&here).await?, Side::connect(peer).await?);
    bench.progress(&format!("the service and {} in turn", peer.address));
    for user in 0..USERS {
        let caller = Caller::new()?;
        let uncounted = user < USERS / 10;
        for round in 0..ROUNDS {
            for side in [&mut ours, &mut theirs] {
                side.round(&caller, round, uncounted).await?;
            }
        }
    }
    let mut rows = Vec::new();
    for (index, name) in OPERATIONS.iter().enumerate() {
        let (ours, theirs) = (&ours.times[index], &theirs.times[index]);
        for (what, percent) in [("p50", 50), ("p99", 99)] {
            let (ours, theirs) = (micros(ours.percentile(percent)), micros(theirs.percentile(percent)));
            rows.push(Row::beside(format!("peer, {name}: {what}"), "µs", ours, theirs));
        }
        let rate = |times: &Times| times.0.len() as f64 / times.0.iter().sum::<Duration>().as_secs_f64();
        rows.push(Row::beside(format!("peer, {name}: requests"), "1/s", rate(ours), rate(theirs)));
    }
    gateway.shutdown().await;
    Ok(rows)
}

const OPERATIONS: [&str; 5] = ["create", "get", "list", "update", "delete"];

struct Side<'a> {
    peer: &'a Peer,
    connection: SendRequest<Full<Bytes>>,
    times: [Times; 5],
}

impl<'a> Side<'a> {
    async fn connect(peer: &'a Peer) -> Result<Self> {
        Ok(Self { peer, connection: connect(&peer.address).await?, times: Default::default() })
    }

    /// One account from its creation to its deletion.
    async fn round(&mut self, caller: &Caller, round: usize, uncounted: bool) -> Result<()> {
        let address = format!("{round}@{}.example.com", caller.user);
        let created = self.send(0, Method::POST, "/api/accounts", Some(account(&address)), caller).await?;
        let path = format!("/api/accounts/{}", created["id"].as_str().context("the new account has no id")?);
        self.send(1, Method::GET, &path, None, caller).await?;
        self.send(2, Method::GET, "/api/accounts", None, caller).await?;
        self.send(3, Method::PUT, &path, Some(json!({ "port": 995 })), caller).await?;
        self.send(4, Method::DELETE, &path, None, caller).await?;
        if uncounted {
            self.times = Default::default();
        }
        Ok(())
    }

    async fn send(
        &mut self,
        operation: usize,
        method: Method,
        path: &str,
        body: Option<Value>,
        caller: &Caller,
    ) -> Result<Value> {
        let Peer { address, base, headers } = self.peer;
        if self.connection.ready().await.is_err() {
            self.connection = connect(address).await?;
        }
        let mut request = Request::builder()
            .method(&method)
            .uri(format!("{base}{path}"))
            .header("host", address)
            .header("content-type", "application/json")
            .header("x-tenant-id", caller.tenant.to_string())
            .header("x-user-id", caller.user.to_string());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::from(body.map(|body| body.to_string()).unwrap_or_default()))?;
        let sent = Instant::now();
        let response = self.connection.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        self.times[operation].0.push(sent.elapsed());
        let text = String::from_utf8_lossy(&body);
        ensure!(status.is_success(), "{method} {path} at {address}: {status} {text}");
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    }
}

async fn connect(address: &str) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("cannot reach {address}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Ends with the sender; its errors reach us as those of the request.
    tokio::spawn(connection);
    Ok(sender)
}
