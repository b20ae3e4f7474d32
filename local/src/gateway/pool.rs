//! The processes of one function and the invocations that wait for them.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::oneshot,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use uuid::Uuid;

use super::{Log, Options, Outcome};
use crate::{LAMBDA_ENV, template::Function};

/// How long a process may take until it asks for its first event, as in Lambda.
const INIT_LIMIT: Duration = Duration::from_secs(10);
/// What a process wrote before it ended is waited for, but not what its own children may still write.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub(super) type ProcessId = u64;

/// An event for a process.
#[derive(Debug)]
pub(super) struct Invocation {
    pub(super) id: String,
    pub(super) event: Bytes,
    pub(super) deadline_ms: u128,
}

/// A function: the processes that run it and the requests for it.
pub(super) struct Pool {
    function: Function,
    binary: PathBuf,
    env: Vec<(String, String)>,
    pub(super) runtime_api: SocketAddr,
    /// The most processes, and how many events each takes at once.
    concurrency: usize,
    events_per_process: usize,
    log: Log,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    closed: bool,
    last_process: ProcessId,
    processes: HashMap<ProcessId, Process>,
    /// Requests for which no process was free.
    waiting: VecDeque<Request>,
    /// Processes that asked for an event when there was none; like Lambda, we take the one that worked last.
    idle: VecDeque<(ProcessId, oneshot::Sender<Invocation>)>,
    running: HashMap<String, Running>,
    watchers: JoinSet<()>,
}

struct Process {
    pid: Option<u32>,
    running: usize,
    has_asked: bool,
    /// Dropping it ends the process.
    _life: oneshot::Sender<()>,
}

struct Request {
    event: Bytes,
    reply: oneshot::Sender<Outcome>,
}

struct Running {
    process: ProcessId,
    reply: oneshot::Sender<Outcome>,
    timer: AbortHandle,
}

impl Pool {
    pub(super) fn new(function: Function, options: &Options, runtime_api: SocketAddr) -> Self {
        let concurrent = options.env.iter().find(|(name, _)| name == "AWS_LAMBDA_MAX_CONCURRENCY");
        // Of one name, the last value counts.
        let own_env = match &function {
            function if function.opens_secrets => &options.mail_env[..],
            function if function.asks_who_is_due => &options.scheduler_env,
            function if function.only_reads => &options.reader_env,
            _ => &[],
        };
        let providers_env = if function.asks_providers { &options.providers_env[..] } else { &[] };
        let mut env = [&options.env[..], own_env, providers_env].concat();
        // The others' is in the environment of all.
        env.retain(|(name, _)| !(function.reaches_no_database && name == "DATABASE_URL"));
        Self {
            binary: options.binaries.join(&function.binary),
            function,
            env,
            runtime_api,
            concurrency: options.concurrency.max(1),
            events_per_process: concurrent.and_then(|(_, value)| value.parse().ok()).unwrap_or(1),
            log: options.log.clone(),
            state: Mutex::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.function.binary
    }

    pub(super) fn is_called(&self, name: &str) -> bool {
        name == self.function.binary || name == self.function.logical_id
    }

    pub(super) fn log(&self, line: &str) {
        (self.log)(self.name(), line);
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.state().processes.values().filter_map(|process| process.pid).collect()
    }

    /// Starts a process if there is none.
    pub(super) fn prewarm(self: &Arc<Self>) {
        let mut state = self.state();
        if state.processes.is_empty() {
            self.spawn(&mut state);
        }
    }

    /// Hands the event to a free process, or has it wait for one, and returns what became of it.
    pub(super) async fn invoke(self: &Arc<Self>, event: Bytes) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        {
            let mut state = self.state();
            if state.closed {
                return Err(failure("Runtime.ExitError", "the gateway is shut down"));
            }
            state.waiting.push_back(Request { event, reply });
            while !state.waiting.is_empty()
                && let Some((process, poll)) = state.idle.pop_back()
            {
                // A poll whose connection is gone is of no use.
                if !poll.is_closed()
                    && let Some(invocation) = self.take(&mut state, process)
                {
                    // Should the process die right now, then its end fails the invocation.
                    let _ = poll.send(invocation);
                }
            }
            self.grow(&mut state);
        }
        outcome.await.unwrap_or_else(|_| Err(failure("Runtime.ExitError", "the function was shut down")))
    }

    /// The next event for a process; nothing when the process is to end.
    pub(super) async fn next(self: &Arc<Self>, process: ProcessId) -> Option<Invocation> {
        let event = {
            let mut state = self.state();
            state.processes.get_mut(&process)?.has_asked = true;
            if let Some(invocation) = self.take(&mut state, process) {
                return Some(invocation);
            }
            let (poll, event) = oneshot::channel();
            state.idle.push_back((process, poll));
            event
        };
        event.await.ok()
    }

    /// Reports what became of an invocation; false when it is not running (any more).
    pub(super) fn finish(&self, id: &str, outcome: Outcome) -> bool {
        let mut state = self.state();
        let Some(running) = state.running.remove(id) else { return false };
        running.timer.abort();
        if let Some(process) = state.processes.get_mut(&running.process) {
            process.running -= 1;
        }
        // The client may have gone, which is no concern of the function.
        let _ = running.reply.send(outcome);
        true
    }

    /// Ends all processes at once; the returned future completes when they are gone.
    pub(super) fn close(&self) -> impl Future<Output = ()> + use<> {
        let mut state = self.state();
        state.closed = true;
        state.waiting.clear();
        state.idle.clear();
        state.running.clear();
        state.processes.clear();
        let mut watchers = std::mem::take(&mut state.watchers);
        async move { while watchers.join_next().await.is_some() {} }
    }

    /// Assigns the longest waiting request to a process.
    fn take(self: &Arc<Self>, state: &mut State, process: ProcessId) -> Option<Invocation> {
        let request = loop {
            let request = state.waiting.pop_front()?;
            if !request.reply.is_closed() {
                break request;
            }
        };
        let id = Uuid::now_v7().to_string();
        let timer = tokio::spawn(self.clone().time_out(id.clone(), process)).abort_handle();
        state.running.insert(id.clone(), Running { process, reply: request.reply, timer });
        if let Some(process) = state.processes.get_mut(&process) {
            process.running += 1;
        }
        let deadline = SystemTime::now() + self.function.timeout;
        let deadline_ms = deadline.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Some(Invocation { id, event: request.event, deadline_ms })
    }

    async fn time_out(self: Arc<Self>, id: String, process: ProcessId) {
        let limit = self.function.timeout;
        sleep(limit).await;
        let text = format!("RequestId: {id} Error: Task timed out after {:.2} seconds", limit.as_secs_f64());
        self.log(&text);
        if self.finish(&id, Err(failure("Sandbox.Timedout", &text))) {
            self.state().processes.remove(&process);
        }
    }

    /// Starts processes for the requests that those at hand, once idle again, cannot take.
    fn grow(self: &Arc<Self>, state: &mut State) {
        let free = |process: &Process| self.events_per_process.saturating_sub(process.running);
        let mut coming: usize = state.processes.values().map(free).sum();
        while state.waiting.len() > coming && state.processes.len() < self.concurrency && !state.closed {
            if !self.spawn(state) {
                break;
            }
            coming += self.events_per_process;
        }
    }

    fn spawn(self: &Arc<Self>, state: &mut State) -> bool {
        state.last_process += 1;
        let id = state.last_process;
        let mut command = Command::new(&self.binary);
        command
            .env_clear()
            .envs(["PATH", "HOME"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .env("AWS_LAMBDA_FUNCTION_NAME", self.name())
            .envs(LAMBDA_ENV)
            .env("AWS_LAMBDA_RUNTIME_API", format!("http://{}/{}/{id}", self.runtime_api, self.name()))
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A Ctrl-C in the terminal is for us; the processes are ended in order.
            .process_group(0)
            .kill_on_drop(true);
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                self.log(&format!("cannot start {}: {error}", self.binary.display()));
                for request in state.waiting.drain(..) {
                    let _ = request.reply.send(Err(failure("Runtime.InvalidEntrypoint", &error.to_string())));
                }
                return false;
            }
        };
        let (life, end) = oneshot::channel();
        state.processes.insert(id, Process { pid: child.id(), running: 0, has_asked: false, _life: life });
        while state.watchers.try_join_next().is_some() {}
        state.watchers.spawn(self.clone().watch(id, child, end));
        true
    }

    /// Passes on the process's output and sees to what its end leaves behind.
    async fn watch(self: Arc<Self>, id: ProcessId, mut child: Child, mut end: oneshot::Receiver<()>) {
        let mut output = JoinSet::new();
        if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
            output.spawn(log_lines(self.clone(), stdout));
            output.spawn(log_lines(self.clone(), stderr));
        }
        let init_limit = async {
            sleep(INIT_LIMIT).await;
            if self.state().processes.get(&id).is_some_and(|process| process.has_asked) {
                std::future::pending::<()>().await;
            }
        };
        let status = tokio::select! {
            status = child.wait() => status.ok(),
            _ = &mut end => kill(child).await,
            () = init_limit => kill(child).await,
        };
        let _ = timeout(LAST_WORDS, async { while output.join_next().await.is_some() {} }).await;
        self.bury(id, status);
    }

    fn bury(self: &Arc<Self>, id: ProcessId, status: Option<ExitStatus>) {
        let mut state = self.state();
        let ended = state.processes.remove(&id);
        state.idle.retain(|(process, _)| *process != id);
        let error = status.map_or("unknown".to_owned(), |status| status.to_string());
        let lost: Vec<_> = state.running.extract_if(|_, running| running.process == id).collect();
        for (id, running) in lost {
            running.timer.abort();
            let text = format!("RequestId: {id} Error: Runtime exited with error: {error}");
            let _ = running.reply.send(Err(failure("Runtime.ExitError", &text)));
        }
        // A process that never asked for an event fails the request that it was started for.
        if ended.is_some_and(|process| !process.has_asked)
            && let Some(request) = state.waiting.pop_front()
        {
            let text = format!("Error: Runtime exited during initialisation: {error}");
            let _ = request.reply.send(Err(failure("Runtime.ExitError", &text)));
        }
        self.grow(&mut state);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is in order between statements, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn kill(mut child: Child) -> Option<ExitStatus> {
    // Fails only if the process has ended already.
    let _ = child.start_kill();
    child.wait().await.ok()
}

async fn log_lines(pool: Arc<Pool>, output: impl AsyncRead + Unpin) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line).await.is_ok_and(|count| count > 0) {
        pool.log(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']));
        line.clear();
    }
}

fn failure(kind: &str, text: &str) -> Value {
    json!({ "errorType": kind, "errorMessage": text })
}

/// A trace id in X-Ray's format, not sampled.
pub(super) fn trace_id() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let id = Uuid::now_v7().simple().to_string();
    format!("Root=1-{seconds:08x}-{};Parent={};Sampled=0", &id[8..], &id[16..])
}
