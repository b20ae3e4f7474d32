//! A name server of a test's own, on loopback: answers from a table, and may answer otherwise the next time.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, MX, SRV, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// What a [`NameServer`] answers. What is in none of its records does not exist.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    /// By name, in lower case and without the last dot.
    names: HashMap<String, Answers>,
    /// Which round the records go to that are added now.
    round: usize,
}

/// What is said about a name: records by the round in which they are told.
#[derive(Debug, Clone, Default)]
struct Answers {
    rounds: Vec<Vec<RData>>,
    /// Types that are never answered.
    silent: Vec<String>,
    fails: bool,
}

/// A running name server; it ends when this is dropped.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct State {
    zone: Zone,
    /// `example.com MX`, in the order of asking.
    questions: Vec<String>,
}

impl Zone {
    /// Nothing exists.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is added from here on replaces, for its name, what was told before: once a name and type was asked for,
    /// the next question gets the next round; the last round stays.
    #[must_use]
    pub fn then(mut self) -> Self {
        self.round += 1;
        self
    }

    /// An IPv4 address.
    ///
    /// # Panics
    /// `address` is none.
    #[must_use]
    pub fn a(self, name: &str, address: &str) -> Self {
        self.with(name, RData::A(A(address.parse().expect("an IPv4 address"))))
    }

    /// An IPv6 address.
    ///
    /// # Panics
    /// `address` is none.
    #[must_use]
    pub fn aaaa(self, name: &str, address: &str) -> Self {
        self.with(name, RData::AAAA(AAAA(address.parse().expect("an IPv6 address"))))
    }

    /// An alias.
    #[must_use]
    pub fn cname(self, name: &str, target: &str) -> Self {
        self.with(name, RData::CNAME(CNAME(absolute(target))))
    }

    /// A mail exchange; `.` as host says that the domain accepts no mail.
    #[must_use]
    pub fn mx(self, name: &str, preference: u16, host: &str) -> Self {
        self.with(name, RData::MX(MX::new(preference, absolute(host))))
    }

    /// A service; `.` as target says that it is not offered.
    #[must_use]
    pub fn srv(self, name: &str, priority: u16, weight: u16, port: u16, target: &str) -> Self {
        self.with(name, RData::SRV(SRV::new(priority, weight, port, absolute(target))))
    }

    /// A text.
    #[must_use]
    pub fn txt(self, name: &str, text: &str) -> Self {
        self.with(name, RData::TXT(TXT::new(vec![text.to_owned()])))
    }

    /// Questions for this name and type (`"AAAA"`) get no answer at all.
    #[must_use]
    pub fn silent(mut self, name: &str, kind: &str) -> Self {
        self.answers(name).silent.push(kind.to_owned());
        self
    }

    /// Questions for this name are answered by SERVFAIL.
    #[must_use]
    pub fn failing(mut self, name: &str) -> Self {
        self.answers(name).fails = true;
        self
    }

    fn with(mut self, name: &str, data: RData) -> Self {
        let round = self.round;
        let rounds = &mut self.answers(name).rounds;
        if rounds.len() <= round {
            rounds.resize(round + 1, Vec::new());
        }
        rounds[round].push(data);
        self
    }

    fn answers(&mut self, name: &str) -> &mut Answers {
        self.names.entry(name.trim_end_matches('.').to_ascii_lowercase()).or_default()
    }
}

impl NameServer {
    /// Starts on a free port of loopback, UDP and TCP.
    ///
    /// # Panics
    /// There is no free port.
    pub async fn start(zone: Zone) -> Self {
        let (udp, tcp) = bind().await;
        let address = udp.local_addr().expect("a bound socket has an address");
        let state = Arc::new(Mutex::new(State { zone, questions: Vec::new() }));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, state.clone()));
        tasks.spawn(serve_tcp(tcp, state.clone()));
        Self { address, state, _tasks: tasks }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was asked so far, as in `example.com MX`.
    pub fn questions(&self) -> Vec<String> {
        self.state.lock().expect("no holder panics").questions.clone()
    }
}

impl State {
    /// `None` when there is to be silence.
    fn answer(&mut self, question: &[u8], max: usize) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).ok()?;
        let query = question.queries.first()?.clone();
        let (name, kind) = (query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase(), query.query_type());
        self.questions.push(format!("{name} {kind}"));
        let asked = self.questions.iter().filter(|question| **question == format!("{name} {kind}")).count();

        let mut answer = Message::new(question.metadata.id, MessageType::Response, question.metadata.op_code);
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        match self.zone.names.get(&name) {
            None => answer.metadata.response_code = ResponseCode::NXDomain,
            Some(answers) if answers.silent.contains(&kind.to_string()) => return None,
            Some(answers) if answers.fails => answer.metadata.response_code = ResponseCode::ServFail,
            Some(answers) => {
                let round = asked.min(answers.rounds.len()).saturating_sub(1);
                let records = answers.rounds.get(round).into_iter().flatten();
                let fitting = records.filter(|data| [kind, RecordType::CNAME].contains(&data.record_type()));
                // Nothing is to be kept: the next question may get another answer.
                answer.add_answers(fitting.map(|data| Record::from_rdata(query.name().clone(), 0, data.clone())));
            }
        }
        let bytes = answer.to_vec().expect("the records of a test can be written");
        Some(if bytes.len() <= max { bytes } else { answer.truncate().to_vec().expect("a header can be written") })
    }
}

/// The same port for both: a client that gets a truncated answer asks again over TCP.
async fn bind() -> (UdpSocket, TcpListener) {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = tcp.local_addr().expect("a bound socket has an address");
        // Taken by another: the next round has another port.
        if let Ok(udp) = UdpSocket::bind(address).await {
            return (udp, tcp);
        }
    }
}

async fn serve_udp(socket: UdpSocket, state: Arc<Mutex<State>>) {
    /// What a client takes that does not say otherwise (RFC 1035).
    const MAX_DATAGRAM: usize = 512;
    let mut buffer = [0; 4096];
    while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
        let answer = state.lock().expect("no holder panics").answer(&buffer[..length], MAX_DATAGRAM);
        if let Some(answer) = answer {
            let _ = socket.send_to(&answer, client).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        let state = state.clone();
        connections.spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut question = vec![0; usize::from(length)];
                if stream.read_exact(&mut question).await.is_err() {
                    return;
                }
                let answer = state.lock().expect("no holder panics").answer(&question, usize::from(u16::MAX));
                let Some(answer) = answer else { continue };
                let length = u16::try_from(answer.len()).expect("bounded above");
                if stream.write_u16(length).await.is_err() || stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
        });
    }
}

fn absolute(name: &str) -> Name {
    let mut name = Name::from_ascii(name).expect("a name");
    name.set_fqdn(true);
    name
}
