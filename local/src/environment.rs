//! One Lambda execution environment, for measuring: a function's process that gets one event at a time over the
//! runtime API, by the plainest means, so that little but the process is measured.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::LAMBDA_ENV;

const PATIENCE: Duration = Duration::from_secs(60);

/// A running process, which ends with this value.
#[derive(Debug)]
pub struct Environment {
    process: Process,
    listener: TcpListener,
    link: Option<Link>,
    started: Instant,
    /// From the process's start until it asked for its first event.
    pub ready_after: Duration,
}

/// What came of an event.
#[derive(Debug)]
pub struct Answer {
    /// What the function answered.
    pub body: Vec<u8>,
    /// From the event's sending until the whole answer was there.
    pub took: Duration,
    /// From the process's start until the whole answer was there.
    pub since_start: Duration,
}

impl Answer {
    /// The answer as JSON.
    ///
    /// # Errors
    /// It is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).context("the function answered with no JSON")
    }
}

impl Environment {
    /// Starts a program and waits until it asks for an event.
    ///
    /// # Errors
    /// The program ends, or asks for nothing.
    pub fn start(binary: &Path, env: &[(String, String)]) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let started = Instant::now();
        let process = Process::start(binary, env, listener.local_addr()?.port())?;
        let mut environment = Self { process, listener, link: None, started, ready_after: Duration::ZERO };
        environment.wait_for_question().with_context(|| format!("{} did not get ready", binary.display()))?;
        environment.ready_after = started.elapsed();
        Ok(environment)
    }

    /// Sends one event and waits for the answer, and until the process asks for the next event.
    ///
    /// # Errors
    /// The process fails to answer.
    pub fn invoke(&mut self, event: &[u8]) -> Result<Answer> {
        let link = self.link.as_mut().context("there is no connection")?;
        let message = invocation("00000000-0000-4000-8000-000000000000", event);
        let sent = Instant::now();
        link.send(&message)?;
        let request = link.receive()?.context("the process hung up")?;
        let answered = link.heard;
        ensure!(request.path.ends_with("/response"), "{}: {}", request.path, String::from_utf8_lossy(&request.body));
        link.send(ACCEPTED)?;
        self.wait_for_question()?;
        Ok(Answer { body: request.body, took: answered - sent, since_start: answered - self.started })
    }

    /// Asks the process to end, and waits for it. Returns what it wrote to standard error.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn end(mut self) -> Result<String> {
        let mut words = String::new();
        Command::new("kill").arg(self.process.id().to_string()).status()?;
        if let Some(mut errors) = self.process.0.stderr.take() {
            errors.read_to_string(&mut words)?;
        }
        self.process.0.wait()?;
        Ok(words)
    }

    /// The processor time that the process has used, user and system.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn cpu_time(&self) -> Result<Duration> {
        processor_time(self.process.id())
    }

    /// The most memory that the process ever had, in bytes.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn peak_memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    fn wait_for_question(&mut self) -> Result<()> {
        loop {
            if self.link.is_none() {
                self.link = Some(self.accept()?);
            }
            match self.link.as_mut().map(Link::receive).transpose()?.flatten() {
                Some(request) if request.path.ends_with("/next") => return Ok(()),
                Some(request) => bail!("{}: {}", request.path, String::from_utf8_lossy(&request.body)),
                // A new connection replaces one that was closed.
                None => self.link = None,
            }
        }
    }

    fn accept(&mut self) -> Result<Link> {
        self.listener.set_nonblocking(true)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => return Link::new(stream),
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return Err(error.into()),
                Err(_) => {}
            }
            if let Some(status) = self.process.0.try_wait()? {
                let mut words = String::new();
                if let Some(mut errors) = self.process.0.stderr.take() {
                    errors.read_to_string(&mut words)?;
                }
                bail!("the process ended, {status}: {words}");
            }
            ensure!(Instant::now() < deadline, "the process asks for no event");
            // A millisecond would be seen in the time of a cold start.
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

/// A function's process, which ends with this value.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts a program as Lambda does; the runtime API is at `port`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(binary: &Path, env: &[(String, String)], port: u16) -> Result<Self> {
        let child = Command::new(binary)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("AWS_LAMBDA_RUNTIME_API", format!("127.0.0.1:{port}"))
            .env("AWS_LAMBDA_FUNCTION_NAME", "measured")
            .envs(LAMBDA_ENV)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        Ok(Self(child))
    }

    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if the process has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What acknowledges an answer.
pub const ACCEPTED: &[u8] = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";

/// The answer to a process that asks for an event.
pub fn invocation(id: &str, event: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nlambda-runtime-aws-request-id: {id}\r\n\
         lambda-runtime-deadline-ms: 4102444800000\r\n\
         lambda-runtime-invoked-function-arn: arn:aws:lambda:us-east-1:123456789012:function:measured\r\n\
         lambda-runtime-trace-id: Root=1-00000000-000000000000000000000000;Sampled=0\r\ncontent-length: {}\r\n\r\n",
        event.len()
    );
    [head.as_bytes(), event].concat()
}

/// A process's connection to the runtime API.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// When the last bytes came. What becomes of them here is not the process's time.
    heard: Instant,
}

/// A process's request.
#[derive(Debug)]
pub struct Request {
    /// The path.
    pub path: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Link {
    /// Over an accepted connection.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, buffer: Vec::new(), heard: Instant::now() })
    }

    /// Sends an HTTP response.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send(&mut self, response: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(response)?)
    }

    /// The next request; nothing when the process hangs up instead.
    ///
    /// # Errors
    /// It is no HTTP, or takes too long.
    pub fn receive(&mut self) -> Result<Option<Request>> {
        loop {
            if let Some((request, length)) = parse(&self.buffer)? {
                self.buffer.drain(..length);
                return Ok(Some(request));
            }
            let mut chunk = [0; 64 * 1024];
            let read = self.stream.read(&mut chunk);
            self.heard = Instant::now();
            match read {
                Ok(0) => return Ok(None),
                Ok(length) => self.buffer.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error).context("the process is silent"),
            }
        }
    }
}

/// The first request in the buffer, once it is complete, and its length.
fn parse(buffer: &[u8]) -> Result<Option<(Request, usize)>> {
    let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&buffer[..end])?;
    let mut lines = head.split("\r\n");
    let path = lines.next().and_then(|line| line.split(' ').nth(1)).context("no HTTP")?.to_owned();
    let header = |name: &str| {
        let mut pairs = head.split("\r\n").filter_map(|line| line.split_once(':'));
        pairs.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let start = end + 4;
    if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return Ok(unchunk(&buffer[start..])?.map(|(body, length)| (Request { path, body }, start + length)));
    }
    let end = start + header("content-length").map_or(Ok(0), str::parse)?;
    Ok(buffer.get(start..end).map(|body| (Request { path, body: body.to_vec() }, end)))
}

/// A complete chunked body, and the length of its encoding.
fn unchunk(buffer: &[u8]) -> Result<Option<(Vec<u8>, usize)>> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(line) = buffer[at..].windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let size = usize::from_str_radix(std::str::from_utf8(&buffer[at..at + line])?, 16).context("no chunk")?;
        at += line + 2;
        let Some(chunk) = buffer.get(at..at + size + 2) else { return Ok(None) };
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

/// What a process has had of processors, in user and system.
///
/// # Errors
/// The system does not tell, or the process has ended.
pub fn processor_time(process: u32) -> Result<Duration> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let times = fs::read_to_string(thread?.path().join("schedstat"))?;
        nanos += times.split(' ').next().context("an empty schedstat")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_when_it_is_complete() -> Result<()> {
        for whole in [
            &b"POST /x/response HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"[..],
            b"POST /x/response HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n",
        ] {
            for length in 0..whole.len() {
                assert!(parse(&whole[..length])?.is_none(), "{length}");
            }
            let (request, length) = parse(whole)?.context("incomplete")?;
            assert_eq!((request.path.as_str(), request.body.as_slice()), ("/x/response", &b"hello"[..]));
            assert_eq!(length, whole.len());
        }
        Ok(())
    }
}
