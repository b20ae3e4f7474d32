//! A model of an IMAP server: mailboxes in memory, extensions that can be switched on and off, and faults on command. What a
//! synchronisation must end with is what is in here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::alphabet::IMAP_MUTF7;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// What the server offers beside IMAP4rev1.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extensions {
    pub condstore: bool,
    /// Only with `condstore`.
    pub qresync: bool,
    pub list_status: bool,
    pub esearch: bool,
    pub object_id: bool,
    pub special_use: bool,
    pub uidplus: bool,
    /// MOVE.
    pub moves: bool,
    /// UTF8=ACCEPT: who enables it says and hears names of folders in UTF-8, all others in modified UTF-7.
    pub utf8_accept: bool,
    /// Gmail's. With a folder [`ALL_MAIL`], folders but that, [`SPAM`] and [`BIN`] are labels of its messages.
    pub gmail: bool,
}

impl Extensions {
    fn capabilities(self) -> String {
        let mut all = String::from("IMAP4rev1 ENABLE LITERAL+");
        for (is_on, name) in [
            (self.condstore, " CONDSTORE"),
            (self.condstore && self.qresync, " QRESYNC"),
            (self.list_status, " LIST-STATUS LIST-EXTENDED"),
            (self.esearch, " ESEARCH"),
            (self.object_id, " OBJECTID"),
            (self.special_use, " SPECIAL-USE"),
            (self.uidplus, " UIDPLUS"),
            (self.moves, " MOVE"),
            (self.utf8_accept, " UTF8=ACCEPT"),
            (self.gmail, " X-GM-EXT-1"),
        ] {
            if is_on {
                all += name;
            }
        }
        all
    }
}

/// What goes wrong once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The n-th command from now is answered with NO, after half of its data.
    No(usize),
    /// The connection breaks after so many bytes.
    Drop(usize),
    /// For one session, folders seem to be empty.
    Empty,
    /// For one session, the headers of some messages cannot be decoded: of each third one, by its key.
    Garbled,
}

/// What a server does each time it comes to a certain message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poison {
    /// It hangs up.
    HangUp,
    /// So it does, and what it said before in this answer has not left its buffers.
    HangUpAtOnce,
    /// It answers what cannot be read.
    Nonsense,
    /// It says goodbye.
    Bye,
    /// It refuses the command, and gives out none of what would have come after it.
    No,
}

/// What a server says to a command that begins so, each time, whatever is true.
#[derive(Debug, Clone)]
pub struct Lie {
    pub on: &'static str,
    /// `{tag}` stands for the command's.
    say: Arc<[u8]>,
    then: Then,
}

/// How it goes on after a lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The true answer comes behind it.
    Truth,
    /// That was the answer.
    GoOn,
    HangUp,
    /// It says nothing more.
    Silence,
    /// It says the same for ever.
    Again,
    /// It has said nothing yet, and says it now, a byte a second.
    Drip,
}

impl Lie {
    pub fn new(on: &'static str, say: impl AsRef<[u8]>, then: Then) -> Self {
        Self { on, say: say.as_ref().into(), then }
    }

    /// Tells it. Whether the true answer is to follow; `None` when the connection has ended.
    pub async fn tell(&self, io: &mut (impl AsyncRead + AsyncWrite + Unpin), tag: &str) -> Option<bool> {
        let said: Arc<[u8]> = match self.say.len() {
            ..4096 => String::from_utf8_lossy(&self.say).replace("{tag}", tag).into_bytes().into(),
            _ => self.say.clone(),
        };
        if self.then == Then::Drip {
            for byte in said.iter() {
                io.write_all(&[*byte]).await.ok()?;
                sleep(Duration::from_secs(1)).await;
            }
            return None;
        }
        io.write_all(&said).await.ok()?;
        match self.then {
            Then::Truth => return Some(true),
            Then::GoOn => return Some(false),
            Then::Again => while io.write_all(&said).await.is_ok() {},
            Then::Silence => drop(tokio::io::copy(io, &mut tokio::io::sink()).await),
            Then::HangUp | Then::Drip => {}
        }
        None
    }
}

pub const ALL_MAIL: &str = "[Gmail]/All Mail";
pub const SPAM: &str = "[Gmail]/Spam";
pub const BIN: &str = "[Gmail]/Bin";
/// Where messages lie at Gmail.
pub const STORES: [&str; 3] = [ALL_MAIL, SPAM, BIN];

const OVERTAKEN: &str = "NO [EXPUNGEISSUED] some of them are no more";

pub const FLAGS: [&str; 4] = ["\\Seen", "\\Flagged", "\\Answered", "\\Draft"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Unlike a UID it stays, wherever the message goes.
    pub key: u64,
    /// Bits, in the order of [`FLAGS`].
    pub flags: u8,
    /// Names of folders.
    pub labels: BTreeSet<String>,
    /// Marked as deleted.
    pub is_deleted: bool,
    modseq: u64,
    /// Its world's.
    mark: &'static str,
}

impl Message {
    pub fn header(&self) -> String {
        // The date differs from message to message.
        let (minute, second) = (self.key / 60 % 60, self.key % 60);
        let Self { key, mark, .. } = self;
        format!(
            "Date: Mon, 2 Nov 2026 10:{minute:02}:{second:02} +0000\r\nFrom: Sender{mark} <sender{mark}@example.com>\r\n\
             To: receiver{mark}@example.com\r\nSubject: Message {key}{mark}\r\n\
             Message-ID: <{key}@example.com{mark}>\r\n\r\n"
        )
    }

    pub fn text(&self) -> String {
        format!("Hello {}{}\r\n", self.key, self.mark)
    }

    fn size(&self) -> u64 {
        self.key + 1000
    }
}

#[derive(Debug, Clone, Default)]
pub struct Folder {
    pub validity: u32,
    next: u32,
    modseq: u64,
    pub messages: BTreeMap<u32, Message>,
    expunged: Vec<(u64, u32)>,
}

#[derive(Debug, Clone, Default)]
pub struct World {
    pub extensions: Extensions,
    /// What all texts of its messages have that another world's have not.
    pub mark: &'static str,
    pub folders: BTreeMap<String, Folder>,
    pub fault: Option<Fault>,
    pub lies: Vec<Lie>,
    /// By the keys of messages.
    pub poison: BTreeMap<u64, Poison>,
    /// Round trips: how often a client waited for us before it said more.
    pub turns: usize,
    pub commands: Vec<String>,
    pub connections: Connections,
    /// Whether it lets everybody wait before it says a word.
    pub is_busy: bool,
    /// Whether it answers those commands together that have come together and do not touch each other, and ends the last of
    /// them first. Dovecot does so, but for the order of their ends, which is free (RFC 9051 section 5.5).
    pub ends_late: bool,
    /// Whether somebody may open a label, who has not to find messages there.
    pub opens_labels: bool,
    /// After how many messages a MOVE stops with a NO.
    pub moves_at_most: Option<usize>,
    /// What a STORE, MOVE or COPY has in it, and how often: another client then removes the first of its messages just before it
    /// is done, and nothing is. A FETCH, where it is that word alone.
    pub overtakes: (&'static str, usize),
    /// Whole messages that are none of the usual ones, by their keys.
    pub wholes: BTreeMap<u64, String>,
    /// The sizes of messages that have not each their own, likewise.
    pub sizes: BTreeMap<u64, u64>,
    next_key: u64,
    next_validity: u32,
}

impl World {
    pub fn new(extensions: Extensions) -> Self {
        let mut world = Self { extensions, next_key: 1, next_validity: 1000, ..Self::default() };
        world.create("INBOX");
        world
    }

    /// Gmail's folders as a new user has them, without QRESYNC.
    pub fn gmail() -> Self {
        let mut world = Self::new(Extensions {
            gmail: true,
            condstore: true,
            list_status: true,
            esearch: true,
            special_use: true,
            uidplus: true,
            moves: true,
            utf8_accept: true,
            ..Extensions::default()
        });
        STORES.iter().chain(&["[Gmail]/Sent Mail", "[Gmail]/Starred"]).for_each(|name| world.create(name));
        world
    }

    /// See [`Self::overtakes`]. `first`: of the messages of the folder that the command is about.
    fn is_overtaken(&mut self, name: &str, command: &str, first: Option<&u32>) -> bool {
        if self.overtakes.1 == 0 || !command.contains(self.overtakes.0) {
            return false;
        }
        self.overtakes.1 -= 1;
        let nth = first.and_then(|first| self.folders[name].messages.keys().position(|known| known == first));
        nth.is_some_and(|nth| self.expunge(name, nth).is_some())
    }

    /// Whether a folder has no messages of its own.
    pub fn is_label(&self, name: &str) -> bool {
        self.extensions.gmail && self.folders.contains_key(ALL_MAIL) && !STORES.contains(&name)
    }

    /// The messages that a folder shows.
    pub fn shown(&self, name: &str) -> Vec<&Message> {
        match self.is_label(name) {
            true => self.folders[ALL_MAIL].messages.values().filter(|message| message.labels.contains(name)).collect(),
            false => self.folders[name].messages.values().collect(),
        }
    }

    /// A message arrives at Gmail.
    pub fn deliver(&mut self, labels: &[&str], flags: u8) {
        self.append(ALL_MAIL, flags);
        let last = self.folders[ALL_MAIL].messages.len() - 1;
        self.label(last, labels);
    }

    /// Gives a message of all mail other labels.
    pub fn label(&mut self, nth: usize, labels: &[&str]) {
        let Some(folder) = self.folders.get_mut(ALL_MAIL) else { return };
        folder.modseq += 1;
        let modseq = folder.modseq;
        if let Some(message) = folder.nth(nth).and_then(|uid| folder.messages.get_mut(&uid)) {
            message.labels = labels.iter().map(|label| (*label).to_owned()).collect();
            message.modseq = modseq;
        }
    }

    pub fn create(&mut self, name: &str) {
        self.next_validity += 1;
        let folder = Folder { validity: self.next_validity, next: 1, modseq: 1, ..Folder::default() };
        self.folders.entry(name.to_owned()).or_insert(folder);
    }

    pub fn delete(&mut self, name: &str) {
        if name != "INBOX" && self.folders.remove(name).is_some() {
            self.each_label(|labels| {
                labels.remove(name);
            });
        }
    }

    pub fn rename(&mut self, name: &str, to: &str) {
        if name == "INBOX" || self.folders.contains_key(to) {
            return;
        }
        if let Some(folder) = self.folders.remove(name) {
            self.folders.insert(to.to_owned(), folder);
            self.each_label(|labels| {
                if labels.remove(name) {
                    labels.insert(to.to_owned());
                }
            });
        }
    }

    /// Changes labels, and tells nobody that messages have changed.
    fn each_label(&mut self, change: impl Fn(&mut BTreeSet<String>)) {
        let messages = self.folders.values_mut().flat_map(|folder| folder.messages.values_mut());
        messages.for_each(|message| change(&mut message.labels));
    }

    pub fn append(&mut self, name: &str, flags: u8) {
        let key = self.next_key;
        self.next_key += 1;
        self.put(name, Message { key, flags, labels: BTreeSet::new(), is_deleted: false, modseq: 0, mark: self.mark });
    }

    fn put(&mut self, name: &str, message: Message) {
        if let Some(folder) = self.folders.get_mut(name) {
            folder.modseq += 1;
            folder.messages.insert(folder.next, Message { modseq: folder.modseq, ..message });
            folder.next += 1;
        }
    }

    pub fn flag(&mut self, name: &str, nth: usize, flags: u8) {
        if let Some(folder) = self.folders.get_mut(name) {
            folder.modseq += 1;
            let modseq = folder.modseq;
            if let Some(message) = folder.nth(nth).and_then(|uid| folder.messages.get_mut(&uid)) {
                (message.flags, message.modseq) = (flags, modseq);
            }
        }
    }

    pub fn expunge(&mut self, name: &str, nth: usize) -> Option<Message> {
        let folder = self.folders.get_mut(name)?;
        let uid = folder.nth(nth)?;
        folder.modseq += 1;
        folder.expunged.push((folder.modseq, uid));
        folder.messages.remove(&uid)
    }

    pub fn shift(&mut self, name: &str, nth: usize, to: &str) {
        if !self.folders.contains_key(to) {
            return;
        }
        if let Some(message) = self.expunge(name, nth) {
            self.put(to, message);
        }
    }

    /// The folder's index was lost: its messages get other UIDs.
    pub fn renumber(&mut self, name: &str) {
        self.next_validity += 1;
        if let Some(folder) = self.folders.get_mut(name) {
            let old = std::mem::take(folder);
            *folder = Folder { validity: self.next_validity, next: 1, modseq: 1, ..Folder::default() };
            for message in old.messages.into_values() {
                folder.messages.insert(folder.next, Message { modseq: 1, ..message });
                folder.next += 1;
            }
        }
    }

    fn is_selectable(&self, name: &str) -> bool {
        self.folders.contains_key(name)
    }

    fn status(&self, name: &str, wire: &str, is_empty: bool) -> String {
        let folder = &self.folders[name];
        let (messages, unseen) = match is_empty {
            true => (0, 0),
            false => {
                let shown = self.shown(name);
                (shown.len(), shown.iter().filter(|message| message.flags & 1 == 0).count())
            }
        };
        let modseq =
            if self.extensions.condstore { format!(" HIGHESTMODSEQ {}", folder.modseq) } else { String::new() };
        format!(
            "* STATUS \"{wire}\" (MESSAGES {messages} UIDNEXT {} UIDVALIDITY {} UNSEEN {unseen}{modseq})\r\n",
            folder.next, folder.validity
        )
    }
}

impl Folder {
    fn nth(&self, nth: usize) -> Option<u32> {
        self.messages.keys().nth(nth % self.messages.len().max(1)).copied()
    }
}

/// In modified UTF-7 (RFC 3501 section 5.1.3).
fn in_utf7(name: &str) -> String {
    const BASE64: GeneralPurpose = GeneralPurpose::new(&IMAP_MUTF7, NO_PAD);
    let chars: Vec<char> = name.chars().collect();
    let runs = chars.chunk_by(|one, other| one.is_ascii() == other.is_ascii()).map(String::from_iter);
    let written = runs.map(|run| match run.is_ascii() {
        true => run.replace('&', "&-"),
        false => format!("&{}-", BASE64.encode(run.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>())),
    });
    written.collect()
}

/// As Gmail writes it among those of a message; `wire`: as it writes it elsewhere.
fn label(folder: &str, wire: &str) -> String {
    match folder {
        "INBOX" => "\"\\\\Inbox\"".to_owned(),
        "[Gmail]/Sent Mail" => "\"\\\\Sent\"".to_owned(),
        "[Gmail]/Starred" => "\"\\\\Starred\"".to_owned(),
        _ => format!("\"{wire}\""),
    }
}

/// How many connections a server has, and the most that it has had at once.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<Mutex<(usize, usize)>>);

impl Connections {
    pub fn now(&self) -> usize {
        self.0.lock().unwrap().0
    }

    pub fn most(&self) -> usize {
        self.0.lock().unwrap().1
    }

    /// One more, until this value is dropped.
    pub fn count(&self) -> Counted {
        let mut counts = self.0.lock().unwrap();
        counts.0 += 1;
        counts.1 = counts.1.max(counts.0);
        Counted(self.clone())
    }
}

pub struct Counted(Connections);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().0 -= 1;
    }
}

/// The running server, which ends with this value.
pub struct ModelServer {
    pub world: Arc<Mutex<World>>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl ModelServer {
    pub async fn start(world: World) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, world) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(world)));
        let shared = world.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Self { world, address, task }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection's own state.
struct Session {
    selected: Option<String>,
    /// Its validity when it was opened: after another one, UIDs of this session name nothing.
    validity: u32,
    is_empty: bool,
    is_garbled: bool,
    /// UTF8=ACCEPT is enabled.
    is_utf8: bool,
    poisoned: Option<Poison>,
}

async fn serve(stream: TcpStream, world: Arc<Mutex<World>>) {
    let mut io = BufReader::new(stream);
    let mut counted = Some(world.lock().unwrap().connections.count());
    while world.lock().unwrap().is_busy {
        sleep(Duration::from_millis(10)).await;
    }
    let (mut no, mut drop_after) = (None, None);
    let mut session =
        Session { selected: None, validity: 0, is_empty: false, is_garbled: false, is_utf8: false, poisoned: None };
    match world.lock().unwrap().fault.take() {
        Some(Fault::No(nth)) => no = Some(nth),
        Some(Fault::Drop(bytes)) => drop_after = Some(bytes),
        Some(Fault::Empty) => session.is_empty = true,
        Some(Fault::Garbled) => session.is_garbled = true,
        None => {}
    }
    let greeting = format!("* OK [CAPABILITY {}] ready\r\n", world.lock().unwrap().extensions.capabilities());
    if io.write_all(greeting.as_bytes()).await.is_err() {
        return;
    }
    let (mut line, mut ends) = (Vec::new(), String::new());
    loop {
        line.clear();
        if io.buffer().is_empty() {
            world.lock().unwrap().turns += 1;
        }
        if io.read_until(b'\n', &mut line).await.unwrap_or_default() == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        let (tag, command) = text.split_once(' ').unwrap_or((&text, ""));
        let (lie, mut answer) = {
            let mut world = world.lock().unwrap();
            world.commands.push(command.to_owned());
            let lie = world.lies.iter().find(|lie| command.starts_with(lie.on)).cloned();
            (lie, session.answer(&mut world, command))
        };
        if let Some(lie) = lie {
            match lie.tell(&mut io, tag).await {
                Some(true) => {}
                Some(false) => continue,
                None => return,
            }
        }
        if let Some(poison) = session.poisoned {
            let end = match poison {
                Poison::HangUp | Poison::HangUpAtOnce => "",
                Poison::Nonsense => "what is this\r\n",
                Poison::Bye => "* BYE Internal error\r\n",
                Poison::No => &format!("{tag} NO Some messages could not be FETCHed (Failure)\r\n"),
            };
            answer.pop();
            let end = end.to_owned() + &std::mem::take(&mut ends);
            let said = if poison == Poison::HangUpAtOnce { String::new() } else { answer.concat() + &end };
            if io.write_all(said.as_bytes()).await.is_err() || poison != Poison::No {
                return;
            }
            session.poisoned = None;
            continue;
        }
        let mut end = answer.pop().unwrap_or_else(|| "BAD what".to_owned());
        if let Some(left) = &mut no {
            if *left == 0 {
                answer.truncate(answer.len() / 2);
                end = "NO [SERVERBUG] not now".to_owned();
                if command.starts_with("EXAMINE") {
                    session.selected = None;
                }
                no = None;
            } else {
                *left -= 1;
            }
        }
        ends = format!("{tag} {end}\r\n{ends}");
        let is_free = |command: &str| ["UID FETCH", "UID SEARCH"].iter().any(|free| command.starts_with(free));
        let next = String::from_utf8_lossy(io.buffer()).into_owned();
        let next = next.split_once('\n').and_then(|(line, _)| Some(line.split_once(' ')?.1));
        let is_held = world.lock().unwrap().ends_late && is_free(command) && next.is_some_and(is_free);
        let mut bytes: String = answer.concat();
        if !is_held {
            bytes += &std::mem::take(&mut ends);
        }
        if let Some(left) = &mut drop_after {
            if bytes.len() >= *left {
                let _ = io.write_all(&bytes.as_bytes()[..*left]).await;
                return;
            }
            *left -= bytes.len();
        }
        if command == "LOGOUT" {
            // Who reads the answer may let another one in.
            counted.take();
        }
        if io.write_all(bytes.as_bytes()).await.is_err() || command == "LOGOUT" {
            return;
        }
    }
}

impl Session {
    fn wire(&self, name: &str) -> String {
        if self.is_utf8 { name.to_owned() } else { in_utf7(name) }
    }

    /// The name that a client says so; what is none names nothing.
    fn named(&self, world: &World, wire: &str) -> String {
        world.folders.keys().find(|name| self.wire(name) == wire).cloned().unwrap_or_default()
    }

    /// The responses to a command, and its end.
    fn answer(&mut self, world: &mut World, command: &str) -> Vec<String> {
        let upper = command.to_ascii_uppercase();
        let word = |n: usize| upper.split(' ').nth(n).unwrap_or_default();
        let end = |mut responses: Vec<String>, end: &str| {
            responses.push(end.to_owned());
            responses
        };
        let quoted = |text: &str| text.split('"').nth(1).map(str::to_owned).unwrap_or_else(|| word(1).to_owned());
        match word(0) {
            "CAPABILITY" => end(vec![format!("* CAPABILITY {}\r\n", world.extensions.capabilities())], "OK done"),
            "LOGIN" => end(vec![], &format!("OK [CAPABILITY {}] in", world.extensions.capabilities())),
            "ENABLE" => {
                self.is_utf8 |= world.extensions.utf8_accept && upper.contains(" UTF8=ACCEPT");
                end(vec![format!("* ENABLED {}\r\n", &upper[7..])], "OK done")
            }
            "NOOP" => end(vec![], "OK done"),
            "LOGOUT" => end(vec!["* BYE bye\r\n".into()], "OK done"),
            "LIST" => {
                let mut responses = Vec::new();
                for name in world.folders.keys() {
                    let role = match (world.extensions.special_use, name.as_str()) {
                        (true, "Sent") => "\\Sent",
                        (true, "Trash" | BIN) => "\\Trash",
                        (true, ALL_MAIL) => "\\All",
                        (true, SPAM) => "\\Junk",
                        (true, "[Gmail]/Sent Mail") => "\\Sent",
                        (true, "[Gmail]/Starred") => "\\Flagged",
                        _ => "\\HasNoChildren",
                    };
                    let wire = self.wire(name);
                    responses.push(format!("* LIST ({role}) \"/\" \"{wire}\"\r\n"));
                    if upper.contains("STATUS") {
                        responses.push(world.status(name, &wire, self.is_empty));
                    }
                }
                end(responses, "OK done")
            }
            "STATUS" => {
                let wire = quoted(command);
                let name = self.named(world, &wire);
                match world.is_selectable(&name) {
                    true => end(vec![world.status(&name, &wire, self.is_empty)], "OK done"),
                    false => end(vec![], "NO no such folder"),
                }
            }
            "EXAMINE" | "SELECT" => {
                let name = self.named(world, &quoted(command));
                self.selected = None;
                assert!(world.opens_labels || !world.is_label(&name), "a label was opened");
                let Some(folder) = world.folders.get(&name) else { return end(vec![], "NO no such folder") };
                let count = if self.is_empty { 0 } else { folder.messages.len() };
                let mut responses = vec![format!(
                    "* {count} EXISTS\r\n* OK [UIDVALIDITY {}] x\r\n* OK [UIDNEXT {}] x\r\n",
                    folder.validity, folder.next
                )];
                responses.push(match world.extensions.condstore {
                    true => format!("* OK [HIGHESTMODSEQ {}] x\r\n", folder.modseq),
                    false => "* OK [NOMODSEQ] x\r\n".to_owned(),
                });
                if let Some(at) = upper.find("QRESYNC (") {
                    let mut numbers = upper[at + 9..].split([' ', ')']).map(|number| number.parse::<u64>().unwrap());
                    let (validity, modseq) = (numbers.next().unwrap(), numbers.next().unwrap());
                    if validity == u64::from(folder.validity) && !self.is_empty {
                        let gone: BTreeSet<u32> =
                            folder.expunged.iter().filter(|(at, _)| *at > modseq).map(|(_, uid)| *uid).collect();
                        if !gone.is_empty() {
                            let gone: Vec<_> = gone.iter().map(u32::to_string).collect();
                            responses.push(format!("* VANISHED (EARLIER) {}\r\n", gone.join(",")));
                        }
                        let is_new = |_, message: &Message| message.modseq > modseq;
                        responses.extend(self.fetch(world, folder, &is_new, "FLAGS MODSEQ"));
                    }
                }
                (self.selected, self.validity) = (Some(name), folder.validity);
                end(responses, "OK [READ-ONLY] done")
            }
            "UID" if matches!(word(1), "STORE" | "MOVE" | "COPY" | "EXPUNGE") => self.change(world, command),
            "UID" => {
                let folder = self.selected.as_ref().and_then(|name| world.folders.get(name));
                let Some(folder) = folder.filter(|folder| folder.validity == self.validity) else {
                    return end(vec![], "BAD no folder is open");
                };
                match word(1) {
                    "FETCH" => {
                        let uids: mail::imap::UidSet = word(2).parse().unwrap();
                        let first = folder.messages.keys().find(|uid| uids.contains(**uid)).copied();
                        let name = self.selected.clone().unwrap();
                        if world.overtakes.0 == "FETCH" && world.is_overtaken(&name, command, first.as_ref()) {
                            return end(vec![], OVERTAKEN);
                        }
                        let folder = &world.folders[&name];
                        let since = upper
                            .find("CHANGEDSINCE ")
                            .map_or(0, |at| upper[at + 13..].split([' ', ')']).next().unwrap().parse::<u64>().unwrap());
                        let wanted = |uid: u32, message: &Message| uids.contains(uid) && message.modseq > since;
                        end(self.fetch(world, folder, &wanted, &upper), "OK done")
                    }
                    "SEARCH" => {
                        let uids: Vec<_> = match self.is_empty {
                            true => Vec::new(),
                            false => folder.messages.keys().map(u32::to_string).collect(),
                        };
                        let response = match upper.contains("RETURN") {
                            true if uids.is_empty() => "* ESEARCH (TAG \"x\") UID\r\n".to_owned(),
                            true => format!("* ESEARCH (TAG \"x\") UID ALL {}\r\n", uids.join(",")),
                            false => {
                                format!("* SEARCH{}\r\n", uids.iter().map(|uid| format!(" {uid}")).collect::<String>())
                            }
                        };
                        end(vec![response], "OK done")
                    }
                    _ => end(vec![], "BAD unknown"),
                }
            }
            _ => end(vec![], "BAD unknown"),
        }
    }

    /// Changes messages of the folder that is open.
    fn change(&self, world: &mut World, command: &str) -> Vec<String> {
        let Some(name) = self
            .selected
            .clone()
            .filter(|name| world.folders.get(name).is_some_and(|folder| folder.validity == self.validity))
        else {
            return vec!["BAD no folder is open".to_owned()];
        };
        let words: Vec<&str> = command.split(' ').collect();
        let uids: mail::imap::UidSet = words[2].parse().unwrap();
        let uids: Vec<u32> = world.folders[&name].messages.keys().filter(|uid| uids.contains(**uid)).copied().collect();
        let given = command.split(['(', ')', '"']).nth(1).unwrap_or_default().to_owned();
        if words[1] != "EXPUNGE" && world.is_overtaken(&name, command, uids.first()) {
            return vec![OVERTAKEN.to_owned()];
        }
        let done = || vec!["OK done".to_owned()];
        match words[1] {
            "STORE" => {
                let is_set = words[3].starts_with('+');
                let label = match given.as_str() {
                    "\\Inbox" => "INBOX".to_owned(),
                    "\\Starred" => "[Gmail]/Starred".to_owned(),
                    "" => self.named(world, command.split('"').nth(1).unwrap_or_default()),
                    other => other.to_owned(),
                };
                for uid in uids {
                    let folder = world.folders.get_mut(&name).unwrap();
                    folder.modseq += 1;
                    let message = folder.messages.get_mut(&uid).unwrap();
                    message.modseq = folder.modseq;
                    if words[3].contains("LABELS") {
                        match is_set {
                            true => drop(message.labels.insert(label.clone())),
                            false => drop(message.labels.remove(&label)),
                        }
                    } else if given == "\\Deleted" {
                        message.is_deleted = is_set;
                    } else {
                        let bit = 1 << FLAGS.iter().position(|flag| *flag == given).unwrap();
                        message.flags = if is_set { message.flags | bit } else { message.flags & !bit };
                    }
                }
                done()
            }
            "EXPUNGE" => {
                let marked = |uid: &u32| world.folders[&name].messages[uid].is_deleted;
                let marked: Vec<u32> = uids.into_iter().filter(marked).collect();
                for uid in marked {
                    let nth = world.folders[&name].messages.keys().position(|known| *known == uid).unwrap();
                    world.expunge(&name, nth);
                }
                done()
            }
            verb => {
                let given = self.named(world, &given);
                let Some(to) = world.folders.get(&given) else {
                    return vec!["NO [TRYCREATE] no such folder".to_owned()];
                };
                let (validity, mut pairs) = (to.validity, Vec::new());
                let most = world.moves_at_most.filter(|_| verb == "MOVE").unwrap_or(uids.len());
                let end = if most < uids.len() { "NO stopped" } else { "OK done" };
                for uid in uids.into_iter().take(most) {
                    let nth = world.folders[&name].messages.keys().position(|known| *known == uid).unwrap();
                    let mut message = match verb {
                        "MOVE" => world.expunge(&name, nth).unwrap(),
                        _ => world.folders[&name].messages[&uid].clone(),
                    };
                    // Whoever has a label lies in all mail; the label's own UIDs mean nothing to anybody.
                    let home = if world.is_label(&given) { ALL_MAIL } else { given.as_str() };
                    if home != given {
                        message.labels.insert(given.clone());
                        world.folders.get_mut(&given).unwrap().next += 1;
                    }
                    pairs.push((uid, world.folders[&given].next - u32::from(home != given)));
                    world.put(home, message);
                }
                let set =
                    |side: fn(&(u32, u32)) -> u32| pairs.iter().map(|pair| side(pair).to_string()).collect::<Vec<_>>();
                let code = match world.extensions.uidplus && !pairs.is_empty() {
                    true => {
                        let (from, to) = (set(|pair| pair.0).join(","), set(|pair| pair.1).join(","));
                        format!("[COPYUID {validity} {from} {to}] ")
                    }
                    false => String::new(),
                };
                match verb {
                    "MOVE" => vec![format!("* OK {code}moved\r\n"), end.to_owned()],
                    _ => vec![format!("OK {code}done")],
                }
            }
        }
    }

    fn fetch(
        &mut self,
        world: &World,
        folder: &Folder,
        wanted: &dyn Fn(u32, &Message) -> bool,
        items: &str,
    ) -> Vec<String> {
        let mut responses = Vec::new();
        if self.is_empty {
            return responses;
        }
        for (index, (uid, message)) in folder.messages.iter().enumerate().filter(|(_, (uid, m))| wanted(**uid, m)) {
            let mut flags: Vec<_> = (0..4).filter(|bit| message.flags & 1 << bit != 0).map(|bit| FLAGS[bit]).collect();
            if message.is_deleted {
                flags.push("\\Deleted");
            }
            let mut line = format!("* {} FETCH (UID {uid} FLAGS ({})", index + 1, flags.join(" "));
            if items.contains("MODSEQ") || items.contains("CHANGEDSINCE") {
                write!(line, " MODSEQ ({})", message.modseq).unwrap();
            }
            if items.contains("EMAILID") {
                write!(line, " EMAILID (M{})", message.key).unwrap();
            }
            if items.contains("X-GM-LABELS") {
                let labels: Vec<_> = message.labels.iter().map(|name| label(name, &self.wire(name))).collect();
                write!(line, " X-GM-LABELS ({})", labels.join(" ")).unwrap();
            }
            if items.contains("X-GM-MSGID") {
                write!(line, " X-GM-MSGID {} X-GM-THRID {}", message.key, message.key).unwrap();
            }
            if items.contains("THREADID") {
                write!(line, " THREADID NIL").unwrap();
            }
            let header = items.find("HEADER.FIELDS");
            if header.is_some() {
                self.poisoned = world.poison.get(&message.key).copied();
                if self.poisoned.is_some() {
                    return responses;
                }
                if self.is_garbled && message.key % 3 == 0 {
                    responses.push(format!("* {} FETCH (UID {uid} BODY[HEADER.FIELDS (DATE)] nonsense\r\n", index + 1));
                    continue;
                }
            }
            if items.contains("INTERNALDATE") {
                let size = world.sizes.get(&message.key).copied().unwrap_or_else(|| message.size());
                write!(line, " INTERNALDATE \" 2-Nov-2026 10:00:00 +0000\" RFC822.SIZE {size}").unwrap();
            }
            if let Some(at) = header {
                let fields = items[at..].split(']').next().unwrap();
                let header = message.header();
                write!(line, " BODY[{fields}] {{{}}}\r\n{header}", header.len()).unwrap();
                if items.contains("BODY.PEEK[TEXT]") {
                    let text = message.text();
                    write!(line, " BODY[TEXT]<0> {{{}}}\r\n{text}", text.len()).unwrap();
                }
            }
            if items.contains("BODY.PEEK[]") {
                let all = world.wholes.get(&message.key).cloned();
                let mut all = all.unwrap_or_else(|| message.header() + &message.text());
                let most = items.split("BODY.PEEK[]<0.").nth(1).and_then(|rest| rest.split('>').next()?.parse().ok());
                all.truncate(most.unwrap_or(usize::MAX));
                write!(line, " BODY[]<0> {{{}}}\r\n{all}", all.len()).unwrap();
            }
            line += ")\r\n";
            responses.push(line);
        }
        responses
    }
}
