//! A model of a POP3 server, whose connections break where they are told to.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::model_imap::Lie;

#[derive(Debug, Default)]
pub struct Mailbox {
    /// Numbers, which are unique ids as well, and sizes.
    pub messages: Vec<u32>,
    /// It has other messages under the same ids: so much longer ones.
    pub longer: u32,
    /// Those at which it hangs up, each time.
    pub poison: BTreeSet<u32>,
    /// Those that it refuses to give out.
    pub refused: BTreeSet<u32>,
    /// Messages are given out whole alone.
    pub lacks_top: bool,
    /// How long it looks for a message that is to be given out whole.
    pub pause: Duration,
    /// The next connection breaks after so many bytes.
    pub drop_after: Option<usize>,
    pub lies: Vec<Lie>,
    pub commands: Vec<String>,
}

/// The running server, which ends with this value.
pub struct ModelPop3 {
    pub mailbox: Arc<Mutex<Mailbox>>,
    pub port: u16,
    task: JoinHandle<()>,
}

impl ModelPop3 {
    pub async fn start(mailbox: Mailbox) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, mailbox) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(mailbox)));
        let shared = mailbox.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Self { mailbox, port, task }
    }
}

impl Drop for ModelPop3 {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, mailbox: Arc<Mutex<Mailbox>>) {
    let mut io = BufReader::new(stream);
    let mut answer = "+OK ready\r\n".to_owned();
    let mut line = String::new();
    // A session sees the mailbox as it was when it began (RFC 1939).
    let (messages, mut drop_after) = {
        let mut mailbox = mailbox.lock().unwrap();
        (mailbox.messages.clone(), mailbox.drop_after.take())
    };
    loop {
        if let Some(left) = &mut drop_after {
            if answer.len() >= *left {
                let _ = io.write_all(&answer.as_bytes()[..*left]).await;
                return;
            }
            *left -= answer.len();
        }
        if io.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        line.clear();
        if io.read_line(&mut line).await.unwrap_or_default() == 0 {
            return;
        }
        let lie = mailbox.lock().unwrap().lies.iter().find(|lie| line.starts_with(lie.on)).cloned();
        if let Some(lie) = lie {
            match lie.tell(&mut io, "").await {
                Some(true) => {}
                Some(false) => {
                    answer.clear();
                    continue;
                }
                None => return,
            }
        }
        if line.starts_with("RETR") {
            let pause = mailbox.lock().unwrap().pause;
            sleep(pause).await;
        }
        let mut mailbox = mailbox.lock().unwrap();
        mailbox.commands.push(line.trim_end().to_owned());
        let words: Vec<&str> = line.split_whitespace().collect();
        answer = "+OK\r\n".to_owned();
        match words[0] {
            "CAPA" if mailbox.lacks_top => answer += "PIPELINING\r\nUIDL\r\nUSER\r\n.\r\n",
            "CAPA" => answer += "PIPELINING\r\nUIDL\r\nTOP\r\nUSER\r\n.\r\n",
            "UIDL" | "LIST" => {
                let more = if words[0] == "LIST" { mailbox.longer } else { 0 };
                for (index, message) in messages.iter().enumerate() {
                    write!(answer, "{} {}\r\n", index + 1, message + more).unwrap();
                }
                answer += ".\r\n";
            }
            "TOP" if mailbox.lacks_top => answer = "-ERR unknown command\r\n".to_owned(),
            "TOP" | "RETR" => {
                let message = messages[words[1].parse::<usize>().unwrap() - 1];
                if mailbox.poison.contains(&message) {
                    return;
                }
                if mailbox.refused.contains(&message) {
                    answer = "-ERR internal error\r\n".to_owned();
                    continue;
                }
                let message = message + mailbox.longer;
                write!(answer, "Subject: {message}\r\nMessage-ID: <{message}@example.com>\r\n\r\n.\r\n").unwrap();
            }
            _ => {}
        }
    }
}
