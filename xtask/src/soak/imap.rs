//! Another client at a mailbox, past the service.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

use super::caller::PASSWORD;

/// A server that is paused is given up on.
const PATIENCE: Duration = Duration::from_secs(10);
/// The flags that the service knows, in the order in which it names them.
pub(super) const FLAGS: [&str; 4] = ["\\Seen", "\\Flagged", "\\Answered", "\\Draft"];

/// Where a message is, and what is seen of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) folder: String,
    pub(super) uid: i64,
    pub(super) flags: [bool; 4],
    pub(super) subject: String,
}

pub(super) struct OtherClient {
    stream: BufReader<TcpStream>,
    commands: u32,
}

impl OtherClient {
    pub(super) async fn sign_in(port: u16, name: &str) -> Result<Self> {
        let stream = BufReader::new(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?);
        let mut client = Self { stream, commands: 0 };
        client.line().await?;
        client.say(&format!("LOGIN {name} \"{PASSWORD}\"")).await?;
        Ok(client)
    }

    /// Sends a command, and returns the lines of its answer; it must be accepted.
    pub(super) async fn say(&mut self, command: &str) -> Result<Vec<String>> {
        self.commands += 1;
        let tag = format!("t{}", self.commands);
        timeout(PATIENCE, self.stream.write_all(format!("{tag} {command}\r\n").as_bytes())).await??;
        let mut lines = Vec::new();
        loop {
            let line = self.line().await?;
            if let Some(end) = line.strip_prefix(&format!("{tag} ")) {
                ensure!(end.starts_with("OK"), "{command}: {end}");
                return Ok(lines);
            }
            lines.push(line);
        }
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        if timeout(PATIENCE, self.stream.read_until(b'\n', &mut line)).await?? == 0 {
            bail!("the server hung up");
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    pub(super) async fn append(&mut self, message: &str) -> Result<()> {
        self.say(&format!("APPEND INBOX {{{}+}}\r\n{message}", message.len())).await.map(drop)
    }

    /// Opens a folder, and returns what is in it.
    pub(super) async fn open(&mut self, folder: &str) -> Result<Vec<Place>> {
        self.say(&format!("SELECT \"{folder}\"")).await?;
        let mut places: Vec<Place> = Vec::new();
        for line in self.say("UID FETCH 1:* (UID FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])").await? {
            // What another session has marked meanwhile comes as well, by itself.
            if let Some((_, items)) = line.split_once(" FETCH (").filter(|(_, items)| items.contains("BODY[")) {
                let uid = items.split("UID ").nth(1).and_then(|rest| rest.split([' ', ')']).next());
                let Some(uid) = uid.and_then(|uid| uid.parse().ok()) else { continue };
                let flags = FLAGS.map(|flag| items.contains(flag));
                places.push(Place { folder: folder.to_owned(), uid, flags, subject: String::new() });
            } else if let Some(subject) = line.strip_prefix("Subject: ") {
                places.last_mut().context("a subject of nothing")?.subject = subject.to_owned();
            }
        }
        Ok(places)
    }

    /// All that is in the mailbox.
    pub(super) async fn all(&mut self) -> Result<Vec<Place>> {
        let mut all = Vec::new();
        for line in self.say("LIST \"\" \"*\"").await? {
            let Some((_, name)) = line.rsplit_once(" \"/\" ") else { continue };
            all.extend(self.open(name.trim_matches('"')).await?);
        }
        all.sort();
        Ok(all)
    }
}
