//! The only place that opens a connection to a mail host.
//!
//! Whoever types a host name decides where this service connects, so every connection is led through [`Connector`]:
//! the name is resolved, addresses that are not public are refused, the connection goes to an address that was
//! checked and to no other, and the [`Stream`] is bounded in time and bytes whatever the other side does.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fmt, io};

use memchr::memchr;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use crate::dns::{Resolver, ascii_name};
use crate::error::{Code, Error};

mod network;

pub use network::{Network, is_public};

/// Name resolution and TCP together. Who needs longer is overloaded or drops what we send.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One answer, or one TLS handshake, from its first wait to its last byte: a byte a second buys no time.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// For a goodbye. It is polite, and unlocks a POP3 mailbox at once, but nobody waits for it any longer.
pub(crate) const SIGN_OUT_TIMEOUT: Duration = Duration::from_secs(2);

/// Failures to connect are reported on the full second only. A refusal of ours costs nothing and a closed port a
/// round trip; without this the clock would tell them apart.
const FAILURE_PACE: Duration = Duration::from_secs(1);

/// Of a name's addresses. More than that share the time so thinly that none gets a fair try.
const MAX_ADDRESSES: usize = 4;

/// Of what was read and not yet taken; with [`RECEIVED_BYTES`] the most that the other side can make us hold beside a line.
const BUFFER_BYTES: usize = 8 * 1024;

/// Of what the system has received that is taken from it at once: TLS alone would ask for a quarter of a record each time.
const RECEIVED_BYTES: usize = 32 * 1024;

/// What must come in the time of an answer of that which is long.
const STEP_BYTES: u64 = 1024 * 1024;

/// Of mail over IMAP, POP3 and SMTP, by its two encryptions and none, and the customary stand-in for port 25.
const MAIL_PORTS: [u16; 7] = [110, 143, 465, 587, 993, 995, 2525];

/// Where a [`Connector`] may connect to.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Networks of the operator's own that are open although they are not public.
    pub private_networks: Vec<Network>,
    /// The ports of mail hosts.
    pub ports: Ports,
    /// Whether [`Security::Plain`] is allowed.
    pub allow_plaintext: bool,
    /// The port of [`Connector::connect_https`]: 443, but for tests.
    pub https_port: u16,
}

impl Default for Policy {
    fn default() -> Self {
        Self { private_networks: Vec::new(), ports: Ports::default(), allow_plaintext: false, https_port: 443 }
    }
}

impl Policy {
    /// Whether a connection to this address is allowed. What an IPv6 address carries inside must be allowed as well.
    pub fn allows(&self, address: IpAddr) -> bool {
        is_public(address)
            || self.private_networks.iter().any(|network| network.contains(address))
                && network::embedded_ipv4(address).is_none_or(|inner| self.allows(inner.into()))
    }
}

/// Which TCP ports may be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// `*`
    Any,
    /// These.
    List(Vec<u16>),
}

impl Default for Ports {
    fn default() -> Self {
        Self::List(MAIL_PORTS.into())
    }
}

impl Ports {
    pub(crate) fn allows(&self, port: u16) -> bool {
        match self {
            Self::Any => true,
            Self::List(ports) => ports.contains(&port),
        }
    }
}

impl FromStr for Ports {
    type Err = &'static str;

    /// `*`, or numbers with commas between them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim() == "*" {
            return Ok(Self::Any);
        }
        let ports = text.split(',').map(|port| port.trim().parse::<u16>().ok().filter(|port| *port > 0));
        ports.collect::<Option<Vec<_>>>().map(Self::List).ok_or("must be * or ports with commas between them")
    }
}

/// How a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// From the first byte.
    Tls,
    /// By a command of the protocol, before anything else is said. The [`Stream`] comes plain; the protocol calls
    /// [`Stream::start_tls`].
    StartTls,
    /// Not at all.
    Plain,
}

/// The bounds of one connection, from resolving to closing.
#[derive(Debug, Clone, Copy)]
pub struct Session {
    /// When everything fails.
    pub deadline: Instant,
    /// How many bytes may be read of what comes, those of TLS included. Some 32 KiB more may have been received.
    pub bytes: u64,
}

impl Session {
    /// Bounds that begin now.
    pub fn new(time: Duration, bytes: u64) -> Self {
        Self { deadline: Instant::now() + time, bytes }
    }
}

/// Opens connections. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    resolver: Resolver,
    policy: Arc<Policy>,
    tls: Arc<ClientConfig>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("policy", &self.policy).finish_non_exhaustive()
    }
}

impl Connector {
    /// Over a configuration that verifies certificates. rustls knows nothing older than TLS 1.2.
    pub fn new(resolver: Resolver, policy: Policy, tls: Arc<ClientConfig>) -> Self {
        Self { resolver, policy: Arc::new(policy), tls }
    }

    /// Where it may connect to.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Connects to a mail host: a name in its ASCII form, or an IP address.
    ///
    /// # Errors
    /// [`Code::Unreachable`] for what is refused, closed or silent, in the same words, and for the first two after the
    /// same time. [`Code::Tls`] where the handshake fails, and for [`Security::Plain`] where the policy has none.
    pub async fn connect(&self, host: &str, port: u16, security: Security, session: Session) -> Result<Stream, Error> {
        if security == Security::Plain && !self.policy.allow_plaintext {
            let mut error = Error::new(Code::Tls, "a connection without encryption is not allowed here");
            error.message = "Signing in without encryption is not allowed. Choose tls or starttls.".into();
            return Err(error);
        }
        self.open(host, port, self.policy.ports.allows(port), session).await?.secured(security).await
    }

    /// Connects to a web server by TLS. Another port than the one that these have is for servers that the operator names.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_https(&self, host: &str, port: Option<u16>, session: Session) -> Result<Stream, Error> {
        self.open(host, port.unwrap_or(self.policy.https_port), true, session).await?.start_tls().await
    }

    /// Connects, without TLS yet.
    async fn open(&self, host: &str, port: u16, port_allowed: bool, session: Session) -> Result<Stream, Error> {
        let started = Instant::now();
        let limit = session.deadline.min(started + CONNECT_TIMEOUT);
        let detail = match timeout_at(limit, self.reach(host, port, port_allowed, limit)).await {
            Ok(Ok(tcp)) => {
                let tls = TlsConnector::from(self.tls.clone());
                let received = BufReader::with_capacity(RECEIVED_BYTES, tcp);
                return Ok(Stream::new(Box::new(received), host, tls, session));
            }
            Ok(Err(detail)) => detail,
            Err(_) => "no connection in time".into(),
        };
        let paces = started.elapsed().div_duration_f64(FAILURE_PACE).ceil().max(1.0);
        sleep_until(limit.min(started + FAILURE_PACE.mul_f64(paces))).await;
        Err(Error::new(Code::Unreachable, format!("{host}:{port}: {detail}")))
    }

    /// Resolves and connects to the first checked address that answers. What is refused is refused after resolving,
    /// so that it takes as long as what is not.
    async fn reach(&self, host: &str, port: u16, port_allowed: bool, limit: Instant) -> Result<TcpStream, String> {
        let found = self.resolver.addresses(host).await.map_err(|error| error.to_string())?;
        if !port_allowed {
            return Err("this port is not allowed".into());
        }
        // A name may have other addresses beside public ones, be it by a resolver that translates (DNS64). They are
        // left out and harm nobody, since the connection goes to an address that was checked.
        let mut addresses: Vec<IpAddr> = found.iter().copied().filter(|address| self.policy.allows(*address)).collect();
        addresses.truncate(MAX_ADDRESSES);
        let mut failure = match found.first() {
            Some(refused) => format!("{refused} is refused: {}", network::purpose(*refused)),
            None => "no address".into(),
        };
        for (tried, address) in addresses.iter().enumerate() {
            // The last one may take all the time that is left, the others their share of it.
            let share = limit.duration_since(Instant::now()) / (addresses.len() - tried) as u32;
            failure = match timeout(share, TcpStream::connect(SocketAddr::new(*address, port))).await {
                Ok(Ok(tcp)) => match tcp.set_nodelay(true) {
                    Ok(()) => return Ok(tcp),
                    Err(error) => error.to_string(),
                },
                Ok(Err(error)) => format!("{address}: {error}"),
                Err(_) => format!("{address}: silent"),
            };
        }
        Err(failure)
    }
}

/// Any connection, encrypted or not.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection that was checked and is bounded. What is read of it goes through one buffer; as [`AsyncRead`] and
/// [`AsyncWrite`] it keeps the session's deadline and bytes, and leaves the time of an answer to its user.
pub struct Stream {
    io: BufReader<Box<dyn Io>>,
    host: String,
    tls: TlsConnector,
    encrypted: bool,
    /// Whether it may stay without encryption.
    plain: bool,
    /// How long an answer may take.
    patience: Duration,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("host", &self.host).field("encrypted", &self.encrypted).finish_non_exhaustive()
    }
}

impl Stream {
    pub(crate) fn new(io: Box<dyn Io>, host: &str, tls: TlsConnector, session: Session) -> Self {
        let bounded = Bounded { io, deadline: Box::pin(sleep_until(session.deadline)), bytes: session.bytes };
        let io = BufReader::with_capacity(BUFFER_BYTES, Box::new(bounded) as Box<dyn Io>);
        Self { io, host: host.to_owned(), tls, encrypted: false, plain: false, patience: ANSWER_TIMEOUT }
    }

    /// As it is to begin.
    pub(crate) async fn secured(self, security: Security) -> Result<Self, Error> {
        match security {
            Security::Tls => self.start_tls().await,
            Security::StartTls => Ok(self),
            Security::Plain => Ok(self.unencrypted()),
        }
    }

    /// As it is, for good.
    pub(crate) fn unencrypted(self) -> Self {
        Self { plain: true, ..self }
    }

    /// The host as it was asked for.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether what is written can be read by the host alone.
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// From now on each answer, and each write, may take so long: [`ANSWER_TIMEOUT`] until then.
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// To be asked before a secret is sent, whatever was said until then.
    ///
    /// # Errors
    /// [`Code::Tls`] where others could read it.
    pub(crate) fn check_secrecy(&self) -> Result<(), Error> {
        if self.encrypted || self.plain {
            return Ok(());
        }
        Err(Error::new(Code::Tls, "the connection is not encrypted"))
    }

    /// Encrypts from here on, verified by the name that was asked for.
    ///
    /// # Errors
    /// [`Code::Tls`] when the handshake fails or something was sent ahead of it: that is not from the host for sure,
    /// and who believed it would believe whoever sits between (RFC 9051 section 11.1 and CVE-2011-0411).
    /// [`Code::Unreachable`] when the other side is silent.
    pub async fn start_tls(self) -> Result<Self, Error> {
        let Self { io, host, tls, plain, patience, .. } = self;
        if !io.buffer().is_empty() {
            return Err(Error::new(Code::Tls, format!("{} bytes ahead of the TLS handshake", io.buffer().len())));
        }
        let name = match host.parse::<IpAddr>() {
            Ok(address) => Ok(ServerName::from(address)),
            Err(_) => ServerName::try_from(ascii_name(&host).unwrap_or_default()),
        };
        let name = name.map_err(|error| Error::new(Code::Tls, format!("{host}: {error}")))?;
        let encrypted = match timeout(ANSWER_TIMEOUT, tls.connect(name, io.into_inner())).await {
            Ok(Ok(encrypted)) => encrypted,
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => return Err(failed(&error)),
            Ok(Err(error)) => return Err(Error::new(Code::Tls, error.to_string())),
            Err(_) => return Err(silent()),
        };
        let io = BufReader::with_capacity(BUFFER_BYTES, Box::new(encrypted) as Box<dyn Io>);
        Ok(Self { io, host, tls, encrypted: true, plain, patience })
    }

    /// Appends a line with its end, CR LF or LF, of at most `max` bytes.
    ///
    /// # Errors
    /// [`Code::Protocol`] when the line is longer or the session has read its bytes, [`Code::Unreachable`] when it
    /// does not come in time or the connection ends.
    pub async fn read_line(&mut self, into: &mut Vec<u8>, max: usize) -> Result<(), Error> {
        match self.read_line_start(into, max).await? {
            true => Ok(()),
            false => Err(Error::new(Code::Protocol, format!("a line of more than {max} bytes"))),
        }
    }

    /// The same for a line that may be longer; whether all of it was read.
    ///
    /// # Errors
    /// As [`Self::read_line`], but for the longer line.
    pub async fn read_line_start(&mut self, into: &mut Vec<u8>, max: usize) -> Result<bool, Error> {
        let end = into.len().saturating_add(max);
        // What is here already needs no clock.
        if let Some(is_whole) = self.take_line(into, end) {
            return Ok(is_whole);
        }
        answered(self.patience, async {
            loop {
                filled(&mut self.io).await?;
                if let Some(is_whole) = self.take_line(into, end) {
                    return Ok(is_whole);
                }
            }
        })
        .await
    }

    /// Takes what is here of a line, to its end or `end` bytes; whether that is all of it, once it is known.
    fn take_line(&mut self, into: &mut Vec<u8>, end: usize) -> Option<bool> {
        let buffered = self.io.buffer();
        let line_end = memchr(b'\n', buffered);
        let length = line_end.map_or(buffered.len(), |at| at + 1);
        let taken = length.min(end.saturating_sub(into.len()));
        into.extend_from_slice(&buffered[..taken]);
        self.io.consume(taken);
        (taken < length || line_end.is_some()).then_some(taken == length)
    }

    /// What has come and was not read yet, without waiting for more.
    ///
    /// # Errors
    /// [`Code::Unreachable`] where the other side has closed the connection, or it is lost.
    pub(crate) async fn heard(&mut self) -> Result<&[u8], Error> {
        // Polled before and after the runtime has looked at the socket, and without a timer, whose next tick is a
        // millisecond away. What comes to be read stays in the buffer.
        tokio::select! {
            biased;
            heard = filled(&mut self.io) => drop(heard?),
            () = tokio::task::yield_now() => {}
        }
        Ok(self.io.buffer())
    }

    /// Appends that many bytes. No more is reserved ahead than has come: who announces much must also send it. What is
    /// long may take longer than one answer, as long as it goes on.
    ///
    /// # Errors
    /// As [`Self::read_line`].
    pub async fn read_exact(&mut self, into: &mut Vec<u8>, length: usize) -> Result<(), Error> {
        // What is large doubles its memory no further than it needs, and the line that follows.
        let end = into.len().saturating_add(length).saturating_add(BUFFER_BYTES);
        let is_large = length as u64 > STEP_BYTES;
        self.steps(length as u64, |bytes| {
            if is_large && into.capacity() - into.len() < bytes.len() {
                into.reserve_exact((end - into.len()).min(into.len().max(BUFFER_BYTES)));
            }
            into.extend_from_slice(bytes);
        })
        .await
    }

    /// Passes over that many bytes, in the same time.
    ///
    /// # Errors
    /// As [`Self::read_line`].
    pub async fn skip(&mut self, length: u64) -> Result<(), Error> {
        self.steps(length, |_| ()).await
    }

    async fn steps(&mut self, length: u64, mut take: impl FnMut(&[u8])) -> Result<(), Error> {
        // What is here already needs no clock.
        let mut left = length - self.take(length, &mut take);
        while left > 0 {
            let step = left.min(STEP_BYTES);
            answered(self.patience, self.pass(step, &mut take)).await?;
            left -= step;
        }
        Ok(())
    }

    async fn pass(&mut self, length: u64, mut take: impl FnMut(&[u8])) -> Result<(), Error> {
        let mut left = length;
        while left > 0 {
            filled(&mut self.io).await?;
            left -= self.take(left, &mut take);
        }
        Ok(())
    }

    /// Takes what is here of that many bytes, and says how much it was.
    fn take(&mut self, length: u64, take: &mut impl FnMut(&[u8])) -> u64 {
        let buffered = self.io.buffer();
        let taken = buffered.len().min(usize::try_from(length).unwrap_or(usize::MAX));
        take(&buffered[..taken]);
        self.io.consume(taken);
        taken as u64
    }

    /// Sends all of it.
    ///
    /// # Errors
    /// [`Code::Unreachable`] when the other side does not take it.
    pub async fn write_all(&mut self, bytes: &[u8]) -> Result<(), Error> {
        answered(self.patience, async {
            self.io.write_all(bytes).await.map_err(|error| failed(&error))?;
            self.io.flush().await.map_err(|error| failed(&error))
        })
        .await
    }
}

/// What was read and not yet taken, some of it.
async fn filled(io: &mut BufReader<Box<dyn Io>>) -> Result<&[u8], Error> {
    match io.fill_buf().await {
        Ok([]) => Err(Error::new(Code::Unreachable, "the server closed the connection")),
        Ok(buffered) => Ok(buffered),
        Err(error) => Err(failed(&error)),
    }
}

async fn answered<T>(patience: Duration, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(patience, work).await.unwrap_or_else(|_| Err(silent()))
}

fn silent() -> Error {
    Error::new(Code::Unreachable, "no answer in time")
}

/// What an error of an open connection says to a user.
fn failed(error: &io::Error) -> Error {
    let code = match error.kind() {
        io::ErrorKind::QuotaExceeded => Code::Protocol,
        // rustls hands its own errors on by this kind: a broken record, an alert.
        io::ErrorKind::InvalidData => Code::Tls,
        _ => Code::Unreachable,
    };
    Error::new(code, error.to_string())
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The session's bounds, below TLS, so that handshakes keep them as well.
struct Bounded {
    io: Box<dyn Io>,
    deadline: Pin<Box<Sleep>>,
    bytes: u64,
}

impl Bounded {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::TimedOut, "the session's time is up")),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Bounded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let read = (buf.filled().len() - before) as u64;
        match self.bytes.checked_sub(read) {
            Some(left) => self.bytes = left,
            None => {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::QuotaExceeded, "too many bytes in a session")));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    // Else each record of TLS would be a write of its own, and a packet.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
