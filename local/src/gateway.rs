//! A local API Gateway and Lambda: serves the built function binaries over HTTP as they run in AWS.
//!
//! A request becomes an event (`event`), waits for a process of its function (`pool`), which fetches it over the
//! Lambda runtime API (`runtime_api`), and the process's answer becomes the HTTP response. Unlike API Gateway it stands
//! on a developer's machine, within reach of every page in their browser (`pages`).

mod event;
pub(crate) mod pages;
mod pool;
mod route;
mod runtime_api;

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONNECTION, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Handle,
    task::{AbortHandle, JoinSet},
};

use crate::template::Function;
use pool::Pool;
use route::Routes;

/// API Gateway's limits: the size of a body, of request line and headers together, and the time for an answer.
const BODY_LIMIT: usize = 10 * 1024 * 1024;
const HEAD_LIMIT: usize = 10_240;
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// A larger body than allowed is read up to here, so that the client gets to see the refusal.
const DRAIN_LIMIT: usize = 64 * 1024 * 1024;
/// How long a client may take to send a head or a body.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Receives each line that a function writes: the function's name, then the line.
pub type Log = Arc<dyn Fn(&str, &str) + Send + Sync>;

/// The event format that functions get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadVersion {
    /// Format 1.0, of REST APIs.
    V1,
    /// Format 2.0, of HTTP APIs.
    V2,
}

/// What a gateway serves, and how.
#[derive(Clone)]
pub struct Options {
    /// The address for clients; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The functions and their routes.
    pub functions: Vec<Function>,
    /// The directory with the functions' binaries.
    pub binaries: PathBuf,
    /// The functions' environment. Of ours they see PATH and HOME only.
    pub env: Vec<(String, String)>,
    /// What functions that open sealed secrets have beside that, or in its place.
    pub mail_env: Vec<(String, String)>,
    /// Likewise of the function that asks who is due.
    pub scheduler_env: Vec<(String, String)>,
    /// Likewise of functions that only read.
    pub reader_env: Vec<(String, String)>,
    /// What functions that ask mail providers for tokens have beside that.
    pub providers_env: Vec<(String, String)>,
    /// The most processes per function; 0 counts as 1.
    pub concurrency: usize,
    /// Where the functions' output goes.
    pub log: Log,
    /// The event format.
    pub payload_version: PayloadVersion,
}

impl Options {
    /// A free port on 127.0.0.1, two processes per function, output to standard error, event format 2.0.
    pub fn new(functions: Vec<Function>, binaries: PathBuf) -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            functions,
            binaries,
            env: Vec::new(),
            mail_env: Vec::new(),
            scheduler_env: Vec::new(),
            reader_env: Vec::new(),
            providers_env: Vec::new(),
            concurrency: 2,
            log: Arc::new(|_, line| eprintln!("{line}")),
            payload_version: PayloadVersion::V2,
        }
    }
}

/// A running gateway. Dropping it ends the functions' processes.
pub struct Gateway {
    shared: Arc<Shared>,
    address: SocketAddr,
    listeners: Vec<AbortHandle>,
    runtime: Handle,
}

struct Shared {
    pools: HashMap<String, Arc<Pool>>,
    routes: Routes,
    payload_version: PayloadVersion,
}

/// What came of an invocation: the function's answer, or the error payload that Lambda reports.
type Outcome = Result<Bytes, Value>;

impl Gateway {
    /// Starts to listen; the gateway's tasks belong to the Tokio runtime that calls this.
    pub async fn start(options: Options) -> Result<Self> {
        for function in &options.functions {
            let binary = options.binaries.join(&function.binary);
            ensure!(binary.is_file(), "{} is not there: build the functions first", binary.display());
        }
        let api = listen((Ipv4Addr::LOCALHOST, 0).into()).await?;
        let api_address = api.local_addr()?;
        let pools: HashMap<_, _> = options
            .functions
            .iter()
            .map(|function| (function.binary.clone(), Arc::new(Pool::new(function.clone(), &options, api_address))))
            .collect();
        let shared = Arc::new(Shared {
            routes: Routes::new(&options.functions),
            payload_version: options.payload_version,
            pools: pools.clone(),
        });
        // No limit on silence here: a process is silent for as long as it handles an event.
        let api = serve(api, None, move |request, _| runtime_api::answer(pools.clone(), request));
        let mut gateway = Self { shared, address: options.listen, listeners: vec![api], runtime: Handle::current() };
        gateway.address = gateway.listen(options.listen).await?;
        Ok(gateway)
    }

    /// Serves one more address; returns it with the port that was taken.
    pub async fn listen(&mut self, address: SocketAddr) -> Result<SocketAddr> {
        let listener = listen(address).await?;
        let address = listener.local_addr()?;
        let shared = self.shared.clone();
        self.listeners.push(serve(listener, Some(PATIENCE), move |request, client| {
            let shared = shared.clone();
            async move { shared.answer(request, client, address).await }
        }));
        Ok(address)
    }

    /// The base of the API's URLs, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// As [`Invoker::invoke`].
    pub async fn invoke(&self, function: &str, event: Value) -> Result<Result<Value, Value>> {
        self.invoker().invoke(function, event).await
    }

    /// What invokes the functions beside the gateway.
    pub fn invoker(&self) -> Invoker {
        Invoker { shared: self.shared.clone(), runtime: self.runtime.clone() }
    }

    /// Starts a process of each function that has none.
    pub fn prewarm(&self) {
        // They may outlive the caller's runtime.
        let _entered = self.runtime.enter();
        self.shared.pools.values().for_each(Pool::prewarm);
    }

    /// The ids of a function's processes.
    pub fn pids(&self, function: &str) -> Result<Vec<u32>> {
        Ok(self.shared.pool(function)?.pids())
    }

    /// Stops listening, ends all processes and waits until they are gone.
    pub async fn shutdown(self) {
        self.listeners.iter().for_each(AbortHandle::abort);
        for pool in self.shared.pools.values() {
            pool.close().await;
        }
    }
}

/// Invokes a gateway's functions as Lambda's event sources do. When the gateway ends, invocations fail.
#[derive(Clone)]
pub struct Invoker {
    shared: Arc<Shared>,
    runtime: Handle,
}

impl Invoker {
    /// Invokes a function with a raw event. The inner error is the payload that Lambda would report.
    pub async fn invoke(&self, function: &str, event: Value) -> Result<Result<Value, Value>> {
        let pool = self.shared.pool(function)?.clone();
        // A process that this starts may outlive the caller's runtime.
        match self.runtime.spawn(async move { pool.invoke(event.to_string().into()).await }).await? {
            Ok(answer) => Ok(Ok(serde_json::from_slice(&answer).context("the function answered with no JSON")?)),
            Err(payload) => Ok(Err(payload)),
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.listeners.iter().for_each(AbortHandle::abort);
        for pool in self.shared.pools.values() {
            drop(pool.close());
        }
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Shared {
    fn pool(&self, function: &str) -> Result<&Arc<Pool>> {
        self.pools.get(function).with_context(|| format!("there is no function {function}"))
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        client: SocketAddr,
        listener: SocketAddr,
    ) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = match read_body(body, BODY_LIMIT).await {
            Ok(body) => body,
            Err(refusal) => return refusal,
        };
        if event::head_size(&head) > HEAD_LIMIT {
            return message(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "Request Header Fields Too Large");
        }
        if !event::is_acceptable(&head) {
            return message(StatusCode::BAD_REQUEST, "Bad Request");
        }
        if !pages::is_addressed_to_us(&head, listener.ip()) {
            return message(StatusCode::FORBIDDEN, "Forbidden");
        }
        let invoke_api = head.uri.path().strip_prefix("/2015-03-31/functions/");
        if let Some(name) = invoke_api.and_then(|rest| rest.strip_suffix("/invocations")) {
            if pages::is_from_another_origin(&head) {
                return message(StatusCode::FORBIDDEN, "Forbidden");
            }
            return self.answer_invoke_api(&head.method, name, body).await;
        }
        let Some(matched) = self.routes.find(&head.method, head.uri.path()) else {
            return message(StatusCode::NOT_FOUND, "Not Found");
        };
        let event = match self.payload_version {
            PayloadVersion::V1 => event::build_v1(&head, &body, &matched, client.ip(), listener.port()),
            PayloadVersion::V2 => event::build_v2(&head, &body, &matched, client.ip(), listener.port()),
        };
        let outcome = self.pools[matched.function].invoke(event.to_string().into());
        match tokio::time::timeout(ANSWER_LIMIT, outcome).await {
            Ok(outcome) => outcome
                .ok()
                .and_then(|answer| event::response(self.payload_version, &answer))
                .unwrap_or_else(|| message(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")),
            Err(_) => message(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable"),
        }
    }

    /// Lambda's own API, for `cargo lambda invoke` and the AWS command line.
    async fn answer_invoke_api(&self, method: &Method, name: &str, event: Bytes) -> Response<Full<Bytes>> {
        if method != Method::POST {
            return message(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        }
        let Some(pool) = self.pools.values().find(|pool| pool.is_called(name)) else {
            let error = json!({ "Type": "User", "Message": format!("Function not found: {name}") });
            let mut response = respond(StatusCode::NOT_FOUND, error.to_string().into());
            response.headers_mut().insert("x-amzn-errortype", HeaderValue::from_static("ResourceNotFoundException"));
            return response;
        };
        let mut response = match pool.invoke(event).await {
            Ok(answer) => respond(StatusCode::OK, answer),
            Err(payload) => {
                let mut response = respond(StatusCode::OK, payload.to_string().into());
                response.headers_mut().insert("x-amz-function-error", HeaderValue::from_static("Unhandled"));
                response
            }
        };
        response.headers_mut().insert("x-amz-executed-version", HeaderValue::from_static("$LATEST"));
        response
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Answers each connection in a task of its own. Aborting the returned task closes them all.
pub(crate) fn serve<F, A>(listener: TcpListener, patience: Option<Duration>, answer: F) -> AbortHandle
where
    F: Fn(Request<Incoming>, SocketAddr) -> A + Clone + Send + 'static,
    A: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let accept = async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, client)) => {
                        let answer = answer.clone();
                        connections.spawn(serve_connection(stream, patience, move |request| answer(request, client)));
                    }
                    // Out of file descriptors, say: they come back when connections end.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    };
    tokio::spawn(accept).abort_handle()
}

async fn serve_connection<F, A>(stream: TcpStream, patience: Option<Duration>, answer: F)
where
    F: Fn(Request<Incoming>) -> A,
    A: Future<Output = Response<Full<Bytes>>>,
{
    // Both can fail only because the client is gone, and then there is nobody to tell.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let answer = answer(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(patience);
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

/// Reads a body of at most `limit` bytes; the error is the response for the client.
async fn read_body(body: Incoming, limit: usize) -> Result<Bytes, Response<Full<Bytes>>> {
    let too_large = || message(StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large");
    match tokio::time::timeout(PATIENCE, Limited::new(body, DRAIN_LIMIT).collect()).await {
        Ok(Ok(body)) => Some(body.to_bytes()).filter(|body| body.len() <= limit).ok_or_else(too_large),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(closing(too_large())),
        Ok(Err(_)) => Err(closing(message(StatusCode::BAD_REQUEST, "Bad Request"))),
        Err(_) => Err(closing(message(StatusCode::REQUEST_TIMEOUT, "Request Timeout"))),
    }
}

/// What is left of the body must not be taken for the next request.
fn closing(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn message(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    respond(status, json!({ "message": text }).to_string().into())
}

fn respond(status: StatusCode, json: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(json));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests;
