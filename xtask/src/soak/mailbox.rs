//! A mailbox at the mail server, what is known of it, and another client that works in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::time::sleep;
use uuid::Uuid;

use super::{
    caller::Caller,
    imap::{FLAGS, OtherClient},
    lock,
};

/// In each body, so that a log line with one in it is found.
pub(super) const SECRET: &str = "only for whom it was written";
/// The folders that the other client works in; those that it does not name are Dovecot's own.
const FOLDERS: [&str; 4] = ["INBOX", "Archive", "Trash", "Sent"];
/// Beyond it, a folder's oldest are destroyed.
const MANY: usize = 40;

/// A message that was put into the outbox.
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) to: String,
}

pub(super) struct Mailbox {
    pub(super) caller: Caller,
    pub(super) address: String,
    /// In the subject of each message that its user may see, and of no other.
    pub(super) marker: String,
    pub(super) account: String,
    /// Messages on their way here.
    pub(super) arriving: Mutex<Vec<String>>,
    /// Subjects of messages that the server has taken and that nobody was about to destroy.
    pub(super) kept: Mutex<BTreeSet<String>>,
    /// What was put into the outbox, by subject.
    pub(super) sent: Mutex<BTreeMap<String, Entry>>,
    numbers: AtomicU32,
}

impl Mailbox {
    pub(super) fn new(caller: Caller, address: String, account: String) -> Self {
        let marker = address.split('@').next().unwrap_or_default().to_owned();
        let (arriving, kept, sent) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { caller, address, marker, account, arriving, kept, sent, numbers: AtomicU32::new(0) }
    }

    pub(super) fn next_number(&self) -> u32 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Works in the mailbox past the service. What goes wrong meanwhile is the server's fault, and begun anew.
    pub(super) async fn work_as_another(&self, port: u16) {
        let mut client = None;
        while !self.caller.run.is_over() {
            sleep(Duration::from_millis(rand::random_range(100..700))).await;
            if client.is_none() {
                client = OtherClient::sign_in(port, &self.address).await.ok();
            }
            let Some(open) = &mut client else { continue };
            let began = Instant::now();
            if let Err(error) = self.step(open).await {
                if !self.caller.run.excuses(began) {
                    eprintln!("another client at {}: {error:#}", self.address);
                }
                client = None;
            }
        }
    }

    async fn step(&self, client: &mut OtherClient) -> Result<()> {
        let arriving = lock(&self.arriving).pop();
        if arriving.is_some() || rand::random_range(0..3) == 0 {
            let message = arriving.unwrap_or_else(|| self.letter());
            client.append(&message).await?;
            lock(&self.kept).extend(subject_of(&message));
            self.caller.run.did("delivered");
            return Ok(());
        }
        let folder = FOLDERS[rand::random_range(0..FOLDERS.len())];
        let places = client.open(folder).await?;
        let Some(place) = places.get(rand::random_range(0..places.len().max(1))) else { return Ok(()) };
        let uid = place.uid;
        match rand::random_range(0..6) {
            _ if places.len() > MANY => {
                for place in places.iter().take(places.len() - MANY / 2) {
                    self.destroy(client, place.uid, &place.subject).await?;
                }
            }
            0..=2 => {
                let (sign, flag) = (["+", "-"][rand::random_range(0..2)], FLAGS[rand::random_range(0..3)]);
                client.say(&format!("UID STORE {uid} {sign}FLAGS.SILENT ({flag})")).await?;
                self.caller.run.did("marked by another client");
            }
            3..=4 => {
                let to = FOLDERS[rand::random_range(0..3)];
                client.say(&format!("UID MOVE {uid} {to}")).await?;
                self.caller.run.did("moved by another client");
            }
            _ => self.destroy(client, uid, &place.subject).await?,
        }
        Ok(())
    }

    async fn destroy(&self, client: &mut OtherClient, uid: i64, subject: &str) -> Result<()> {
        lock(&self.kept).remove(subject);
        client.say(&format!("UID STORE {uid} +FLAGS.SILENT (\\Deleted)")).await?;
        client.say(&format!("UID EXPUNGE {uid}")).await?;
        self.caller.run.did("destroyed by another client");
        Ok(())
    }

    /// A message from outside.
    fn letter(&self) -> String {
        let subject = format!("{} letter {}", self.marker, self.next_number());
        format!(
            "From: Joe <joe@outside.example>\r\nTo: {}\r\nSubject: {subject}\r\nMessage-ID: <{}@outside.example>\r\n\
             MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{}\r\n",
            self.address,
            Uuid::now_v7(),
            body(&subject).replace('\n', "\r\n")
        )
    }
}

/// What a message says, which its subject tells: so whoever reads it knows what must stand there.
pub(super) fn body(subject: &str) -> String {
    let lines = 1 + subject.bytes().map(usize::from).sum::<usize>() % 50;
    (0..lines).map(|line| format!("{SECRET}: {subject}, line {line}")).collect::<Vec<_>>().join("\n")
}

pub(super) fn subject_of(message: &str) -> Option<String> {
    message.lines().find_map(|line| line.strip_prefix("Subject: ")).map(|subject| subject.trim_end().to_owned())
}
