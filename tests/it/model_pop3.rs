//! A model of a POP3 server that hangs up each time it comes to certain messages.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::model_imap::Lie;

#[derive(Debug, Default)]
pub struct Mailbox {
    /// Numbers, which are unique ids as well.
    pub messages: Vec<u32>,
    pub poison: BTreeSet<u32>,
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
    loop {
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
        let mut mailbox = mailbox.lock().unwrap();
        mailbox.commands.push(line.trim_end().to_owned());
        let words: Vec<&str> = line.split_whitespace().collect();
        answer = "+OK\r\n".to_owned();
        match words[0] {
            "CAPA" => answer += "PIPELINING\r\nUIDL\r\nTOP\r\nUSER\r\n.\r\n",
            "UIDL" | "LIST" => {
                for (index, message) in mailbox.messages.iter().enumerate() {
                    write!(answer, "{} {message}\r\n", index + 1).unwrap();
                }
                answer += ".\r\n";
            }
            "TOP" => {
                let message = mailbox.messages[words[1].parse::<usize>().unwrap() - 1];
                if mailbox.poison.contains(&message) {
                    return;
                }
                write!(answer, "Subject: {message}\r\nMessage-ID: <{message}@example.com>\r\n\r\n.\r\n").unwrap();
            }
            _ => {}
        }
    }
}
