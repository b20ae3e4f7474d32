//! A model of an SMTP server that takes submissions: what it took is kept, and what goes wrong is said before.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::model_imap::Connections;
use crate::support::lasting;

/// Where something goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Greeting,
    Hello,
    Auth,
    Mail,
    Rcpt,
    Data,
    /// The last dot has come.
    Dot,
    /// The message is answered, and nothing hangs on the goodbye.
    Quit,
}

impl At {
    /// Where something hangs on it.
    pub const ALL: [Self; 7] = [Self::Greeting, Self::Hello, Self::Auth, Self::Mail, Self::Rcpt, Self::Data, Self::Dot];
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It answers this, and does nothing.
    Say(&'static str),
    /// It hangs up, and does nothing.
    Cut,
    /// It does what was asked, and hangs up without an answer.
    CutAfter,
}

/// A message that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub sender: String,
    pub recipients: Vec<String>,
    pub message: Vec<u8>,
}

impl Taken {
    pub fn message_id(&self) -> String {
        message_id(&self.message)
    }
}

/// How it ended that a message was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With the last dot.
    Dot,
    /// The client was gone before that.
    ClientLeft,
    /// The server was.
    ServerDied,
}

/// What a server has heard of a message that it had asked for (354).
#[derive(Debug, Clone)]
pub struct Heard {
    pub recipients: Vec<String>,
    /// Whole lines.
    pub message: Vec<u8>,
    pub end: End,
}

/// Tells what was heard, however the connection ends.
struct Hearing {
    heard: Heard,
    world: Arc<Mutex<World>>,
}

impl Drop for Hearing {
    fn drop(&mut self) {
        self.world.lock().unwrap().heard.push(self.heard.clone());
    }
}

/// Without its brackets.
pub fn message_id(message: &[u8]) -> String {
    header(message, "Message-ID: <")
}

fn header(message: &[u8], name: &str) -> String {
    let text = String::from_utf8_lossy(message);
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim_end_matches('>').to_owned()
}

#[derive(Debug, Default)]
pub struct World {
    pub extensions: Vec<&'static str>,
    /// Each strikes once, in their order.
    pub faults: VecDeque<(At, Fault)>,
    /// What each recipient is answered, one after the other; the last answer stays.
    pub answers: BTreeMap<String, VecDeque<&'static str>>,
    pub taken: Vec<Taken>,
    /// Each time that a message was asked for.
    pub heard: Vec<Heard>,
    pub connections: Connections,
    /// Whether it lets everybody wait before it says a word.
    pub is_busy: bool,
    pub commands: Vec<String>,
    pub sign_ins: usize,
    /// Who is given each message that was taken, to file it, before it is said to be.
    pub filer: Option<mpsc::UnboundedSender<(Vec<u8>, oneshot::Sender<()>)>>,
}

pub struct SmtpModel {
    pub port: u16,
    pub world: Arc<Mutex<World>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl SmtpModel {
    pub async fn start(extensions: &[&'static str]) -> Self {
        let world = Arc::new(Mutex::new(World { extensions: extensions.to_vec(), ..World::default() }));
        let served = world.clone();
        let (port, task) = open(0, served).await;
        Self { port, world, task: Mutex::new(Some(task)) }
    }

    /// Ends it as a crash does: connections are cut wherever they are, and no others are taken.
    pub async fn kill(&self) {
        let task = self.task.lock().unwrap().take().expect("it runs");
        task.abort();
        let _ = task.await;
    }

    /// Starts it again, on the same port. What it has taken is still there.
    pub async fn start_again(&self) {
        let (_, task) = open(self.port, self.world.clone()).await;
        *self.task.lock().unwrap() = Some(task);
    }

    pub fn fail(&self, faults: impl IntoIterator<Item = (At, Fault)>) {
        self.world.lock().unwrap().faults.extend(faults);
    }

    pub fn answer(&self, recipient: &str, answers: &[&'static str]) {
        self.world.lock().unwrap().answers.insert(recipient.to_owned(), answers.iter().copied().collect());
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.world.lock().unwrap().taken.clone()
    }
}

/// Listens on a port, 0 for any.
async fn open(port: u16, world: Arc<Mutex<World>>) -> (u16, JoinHandle<()>) {
    lasting(async move {
        let listener = loop {
            match TcpListener::bind(("127.0.0.1", port)).await {
                Ok(listener) => break listener,
                // Somebody's connection has the port for a moment.
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        };
        (listener.local_addr().unwrap().port(), tokio::spawn(listen(listener, world)))
    })
    .await
}

async fn listen(listener: TcpListener, world: Arc<Mutex<World>>) {
    // They end with it.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        // A client that is killed has nobody to be told.
        connections.spawn(serve(stream, world.clone()));
    }
}

async fn serve(stream: TcpStream, world: Arc<Mutex<World>>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut counted = Some(world.lock().unwrap().connections.count());
    while world.lock().unwrap().is_busy {
        sleep(Duration::from_millis(10)).await;
    }
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let (mut sender, mut recipients) = (None::<String>, Vec::<String>::new());
    let fault = |at: At| {
        let mut world = world.lock().unwrap();
        let is_due = world.faults.front().is_some_and(|(place, _)| *place == at);
        is_due.then(|| world.faults.pop_front().unwrap().1)
    };
    match fault(At::Greeting) {
        None => writer.write_all(b"220 model\r\n").await?,
        Some(Fault::Say(words)) => {
            writer.write_all(format!("{words}\r\n").as_bytes()).await?;
            return Ok(());
        }
        Some(_) => return Ok(()),
    }
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let command = line.trim_end().to_owned();
        world.lock().unwrap().commands.push(command.clone());
        let at = match command.split([' ', ':']).next().unwrap_or_default() {
            "EHLO" => At::Hello,
            "AUTH" => At::Auth,
            "MAIL" => At::Mail,
            "RCPT" => At::Rcpt,
            "DATA" => At::Data,
            "QUIT" => At::Quit,
            _ => {
                writer.write_all(b"502 5.5.2 What?\r\n").await?;
                continue;
            }
        };
        let fault_here = fault(at);
        match &fault_here {
            Some(Fault::Say(words)) => {
                writer.write_all(format!("{words}\r\n").as_bytes()).await?;
                if words.starts_with("421") {
                    return Ok(());
                }
                continue;
            }
            Some(Fault::Cut) => return Ok(()),
            _ => {}
        }
        if at == At::Quit {
            // Who reads the answer may let another one in.
            counted.take();
            if fault_here.is_none() {
                writer.write_all(b"221 2.0.0 Bye\r\n").await?;
            }
            return Ok(());
        }
        let address = || {
            command.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(address, _)| address.to_owned())
        };
        let reply = match at {
            At::Hello => {
                let world = world.lock().unwrap();
                let lines: Vec<_> = world.extensions.iter().map(|name| format!("250-{name}\r\n")).collect();
                format!("250-model\r\n{}250 AUTH PLAIN", lines.concat())
            }
            At::Auth => {
                world.lock().unwrap().sign_ins += 1;
                "235 2.7.0 In".to_owned()
            }
            At::Mail => {
                (sender, recipients) = (address(), Vec::new());
                "250 2.1.0 OK".to_owned()
            }
            At::Rcpt if sender.is_none() => "503 5.5.1 MAIL first".to_owned(),
            At::Rcpt => {
                let recipient = address().unwrap_or_default();
                let mut world = world.lock().unwrap();
                let said = world
                    .answers
                    .get_mut(&recipient)
                    .and_then(|answers| if answers.len() > 1 { answers.pop_front() } else { answers.front().copied() });
                let reply = said.unwrap_or("250 2.1.5 OK");
                if reply.starts_with('2') {
                    recipients.push(recipient);
                }
                reply.to_owned()
            }
            At::Data if recipients.is_empty() => "554 5.5.1 No valid recipients".to_owned(),
            _ => "354 Go ahead".to_owned(),
        };
        let is_data = reply.starts_with("354");
        if fault_here == Some(Fault::CutAfter) {
            return Ok(());
        }
        if !is_data {
            writer.write_all(format!("{reply}\r\n").as_bytes()).await?;
            continue;
        }
        let heard = Heard { recipients: recipients.clone(), message: Vec::new(), end: End::ServerDied };
        let mut hearing = Hearing { heard, world: world.clone() };
        writer.write_all(format!("{reply}\r\n").as_bytes()).await?;
        loop {
            let mut line = Vec::new();
            let read = reader.read_until(b'\n', &mut line).await;
            if line == b".\r\n" {
                break;
            }
            if read.is_err() || line.last() != Some(&b'\n') {
                hearing.heard.end = End::ClientLeft;
                return Ok(());
            }
            hearing.heard.message.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
        hearing.heard.end = End::Dot;
        let message = hearing.heard.message.clone();
        drop(hearing);
        let fault_here = fault(At::Dot);
        if let Some(Fault::Cut) = fault_here {
            return Ok(());
        }
        if let Some(Fault::Say(words)) = fault_here {
            writer.write_all(format!("{words}\r\n").as_bytes()).await?;
            continue;
        }
        let taken =
            Taken { sender: sender.take().unwrap_or_default(), recipients: std::mem::take(&mut recipients), message };
        let filed = {
            let mut world = world.lock().unwrap();
            let (done, filed) = oneshot::channel();
            let given = world.filer.as_ref().map(|filer| filer.send((taken.message.clone(), done)));
            world.taken.push(taken);
            given.map(|_| filed)
        };
        if let Some(filed) = filed {
            let _ = filed.await;
        }
        if fault_here.is_some() {
            return Ok(());
        }
        writer.write_all(b"250 2.0.0 Taken\r\n").await?;
    }
}
